"""Payers, gateways and clients that tests play, and what they pay for."""
