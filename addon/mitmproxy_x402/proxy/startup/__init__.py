"""Runs once, when the addon is loaded: mitmproxy's defaults, the self-check, trusted authorities, the fast path."""
