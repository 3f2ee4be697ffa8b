"""What the hooks of the addon use and nobody else: who may use the port, answers of our own, start and stop.

Uses everything below it; `addon` wires it to mitmproxy.
"""
