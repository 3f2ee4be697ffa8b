"""Keeps one peer from holding the others up: bounds what is read at once and what is kept, and deals out turns.

`reader` bounds what is read and processed at once, and says for whom reading waits. `turns` schedules the connections
whose data takes long: `chunks` reads chunked bodies in turns, `upgraded` WebSocket frames, and `http2` HTTP/2. `http2`
also closes connections that flood; it and `http3` bound what is kept for a client that does not read.
"""
