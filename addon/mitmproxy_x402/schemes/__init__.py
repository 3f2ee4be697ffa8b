"""How a chosen requirement becomes a signed payload: one module a scheme and chain family. Pure functions."""
