"""Repairs what mitmproxy would lose or leave hanging: layers that fail, answers over HTTP/3, dead TLS sessions."""
