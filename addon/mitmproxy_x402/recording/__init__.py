"""Records flows (option `x402_dump`) as plain folders, HAR or mitmproxy's flow files, and reads recordings.

Uses `views`, `llm`, `proxy`, `settings`, `protocol` and `machine`. `recorder` runs on the event loop and copies
references only; `outbox` hands them over a moment later, without the secrets that `redact` removes, to a process or
threads (`writing`).
"""
