"""The machine that the program runs on: who can touch its files, what is installed, its output, name and processes.

Imports nothing of ours, and outside of the standard library only mitmproxy, in the one function that mitmproxy calls.
`installation` also runs where dependencies are missing or Python is too old, to say so. Terms: an *objection* is a
sentence that says why a file cannot be trusted and what to do; an *exposure* says who else can read a secret; a
*remedy* is the command that installs what is missing in the environment at hand.
"""
