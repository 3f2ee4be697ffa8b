"""What the sandbox asks, which payments it admits, and when their money moves."""
