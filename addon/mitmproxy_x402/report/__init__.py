"""Reports what was spent: sums of the ledger as text, HTML, JSON and CSV, with a chart.

Uses `ledger`, `settings`, `protocol` and `machine`.
"""
