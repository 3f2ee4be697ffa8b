"""Addresses, signatures and Permit2 contracts of EVM chains."""
