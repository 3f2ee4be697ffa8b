"""Keeps one peer from holding the others up: how much is read at once, whose turn it is, what HTTP/2 peers may send.

`reader` bounds what is read and processed at once, `turns` deals out the turns of all connections whose data takes
long, `http2` processes HTTP/2 in such turns and closes connections that flood.
"""
