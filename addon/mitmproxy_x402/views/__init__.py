"""Shows payments and answers in mitmweb and mitmproxy: content views, comment, mark, commands, summary.

Uses `payment`, `proxy`, `llm`, `report`, `ledger`, `forecast`, `settings`, `protocol` and `machine`. `flow_metadata`
has the keys that a flow carries.
"""
