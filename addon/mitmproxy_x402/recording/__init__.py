"""Records flows (option `x402_dump`) as plain folders, HAR or mitmproxy's flow files, and reads recordings.

Uses `views`, `llm`, `proxy`, `settings`, `protocol` and `machine`. `recorder` runs on the event loop and
copies references only; `thread` and what it uses write in threads of their own. `redact` removes secrets before
anything is written.
"""
