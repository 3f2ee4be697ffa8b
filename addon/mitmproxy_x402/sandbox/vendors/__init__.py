"""The dialects: each module turns one Meaning into the bytes that its vendor would send.

`answer(request, meaning, now)` is the JSON of an answer that is not streamed; `stream(...)` yields one event at a
time; `failure(n)` is the n-th event of a stream that fails in its middle.
"""
