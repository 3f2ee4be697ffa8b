"""Prepares mitmproxy as the addon is loaded: defaults, self-check, authorities, fast path. Parses its command line."""
