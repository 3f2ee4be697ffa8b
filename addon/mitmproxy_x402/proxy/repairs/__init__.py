"""Repairs of mitmproxy's upstream side: answers over HTTP/3 that it would lose, and layers of it that fail."""
