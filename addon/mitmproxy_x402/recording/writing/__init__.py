"""Writes recordings to the disk, away from the event loop.

`parts` defines what is handed over: the new data of some recordings, without secrets. `process` passes it to a process
of its own (`writer_process`), which shares no lock with the proxy; `thread` writes in threads, where there is no
process and for formats that need mitmproxy. Both leave the work to `store`, and that to `files`. Nothing here
imports mitmproxy, so the process takes little memory.
"""
