"""The door: `mitmdump -s addon/x402.py --mode reverse:https://sol.blockrun.ai`. No logic lives here."""

from mitmproxy_x402.addon import X402Addon

addons = [X402Addon()]
