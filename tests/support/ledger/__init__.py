"""Ledgers of both kinds, their clocks, and payments in them."""
