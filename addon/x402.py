"""Loads the addon: `mitmdump -s addon/x402.py --mode reverse:https://sol.blockrun.ai`; or says what is missing."""

import asyncio
import sys

addons: list[object] = []
try:
    from mitmproxy_x402.errors import X402Error
    from mitmproxy_x402.machine import installation
except ModuleNotFoundError:
    # In the next turn of the loop: mitmproxy 11 swallows what is raised here.
    asyncio.get_running_loop().call_soon(
        sys.exit,
        f"mitmproxy-x402: {__file__} stands alone: load it where the folder mitmproxy_x402 is beside it, as in a clone "
        "(mitmdump -s CLONE/addon/x402.py), or as `mitmproxy-x402 path` names it.",
    )
else:
    wrong = installation.what_is_wrong()
    if wrong is None:
        try:
            from mitmproxy_x402.addon import X402Addon

            addons = [X402Addon()]
        except ImportError as error:
            wrong = installation.cannot_be_imported(error)
        except X402Error as error:
            wrong = str(error)
    if wrong is not None:
        installation.refuse_to_load(wrong)
