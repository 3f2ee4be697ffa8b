"""Keeps one peer from holding the others up: how much is read at once, whose turn it is, what HTTP/2 peers may send.

`reader` bounds what is read and processed at once, and says for whom reading waits; `turns` deals out the turns of all
connections whose data takes long, in which `chunks` reads bodies of chunks, `upgraded` WebSocket frames, and `http2`
processes HTTP/2 and closes connections that flood.
"""
