"""mitmproxy-x402: an addon that pays x402 challenges for clients which cannot."""

__version__ = "0.1.0"
