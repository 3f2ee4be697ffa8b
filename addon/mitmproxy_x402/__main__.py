"""Runs a verb (`cli.main`): `python -m mitmproxy_x402 VERB`."""

import sys

if __name__ == "__main__":
    try:
        from .cli.main import main
    except KeyboardInterrupt:
        sys.exit(130)  # as `main` says of Ctrl-C later
    sys.exit(main())
