"""Sets prices, checks payments, and settles them."""
