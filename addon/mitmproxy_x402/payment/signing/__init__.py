"""The only rooms that make signatures, and what has to hold before one over Permit2 is made."""
