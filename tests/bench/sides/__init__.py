"""Both sides of the proxy, in processes of their own: the load, the gateway, the way between them."""
