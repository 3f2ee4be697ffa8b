"""Defines limits and budgets, and reads from a request the model and path that they depend on.

Types and arithmetic, without clock or I/O. Uses `protocol` and `gateways`. Amounts are millionths of a dollar, as
`int`.
"""
