"""The verbs of `./run.sh` and `mitmproxy-x402`.

Uses everything; nothing uses it. A verb imports what it needs when it runs, so help and version work before any
package is installed.
"""
