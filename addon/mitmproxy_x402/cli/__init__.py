"""The verbs of `./run.sh` and `mitmproxy-x402`: serve, web, tui, sandbox, report, check, fixtures.

Uses everything; nothing uses it. A verb imports what it needs when it runs, so that help and version need no package.
"""
