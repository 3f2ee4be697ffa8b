"""Header fields: where each is, and what may stand in them."""
