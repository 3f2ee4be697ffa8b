"""Makes signatures, and decides before that whether a payment over Permit2 is possible. Nothing else signs payments."""
