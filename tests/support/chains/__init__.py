"""Chains and their RPCs, as tests play them, and the reference payer."""
