"""Extends mitmproxy's internals: makes the 402 round trip inside its HTTP stream. Knows nothing of money.

The only package that imports `mitmproxy.proxy` or changes a class of mitmproxy's. Uses `settings`, `protocol` and
`machine`. `internals` imports everything of mitmproxy's inside; `startup.self_check` refuses a mitmproxy in which one
of those names has moved.

Words: an Exchange is what stream and addon tell each other about one client request; a leg is one request sent upstream
for it.
"""
