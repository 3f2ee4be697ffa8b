"""Payments, good and spoilt in every field: one table for the sandbox and for the reference facilitator.

Each spoil takes a good payment (JSON before base64) and the payer, and gives another. `good` says what both judges are
expected to answer. STRICTER_...: where the sandbox is stricter than the Python reference.
"""
