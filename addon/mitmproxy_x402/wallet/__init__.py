"""Finds keys, makes new ones, and signs with them.

Uses `protocol` and `machine`. No key is reachable through an attribute, a repr, a pickle or an error.
"""
