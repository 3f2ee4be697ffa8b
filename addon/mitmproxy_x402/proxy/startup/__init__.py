"""What is arranged once, when the addon is loaded: mitmproxy's defaults, what it must have, what is made faster."""
