"""Shows payments and answers in mitmweb and mitmproxy: content views, comment, mark, commands, summary.

Uses `payment`, `proxy`, `llm` and `report`. `flow_metadata` has the keys that a flow carries.
"""
