"""Runs a verb (`cli.main`): `python -m mitmproxy_x402 VERB`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
