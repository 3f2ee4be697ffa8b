"""Simulates the networks on which the sandbox takes payment: balances, rules of facilitators and contracts, RPCs."""
