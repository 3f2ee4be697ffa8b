"""What mitmweb and mitmproxy show: content views, comment, mark, commands, the lines at the end of a run.

Uses `payment`, `proxy`, `llm` and `report`. `flow_metadata` has the keys that a flow carries.
"""
