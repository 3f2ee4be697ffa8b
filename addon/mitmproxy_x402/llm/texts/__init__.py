"""Says in words for people what a Reading holds, what a request asks, and how two answers differ."""
