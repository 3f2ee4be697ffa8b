"""Records what passes (option `x402_dump`): plain folders, HAR, mitmproxy's flow files; and reads recordings.

Uses `views`, `llm` and `proxy`. `recorder` runs on the event loop and copies references only; `thread` and what is
below it write in threads of their own. Secrets are taken out by `redact` before anything is written.
"""
