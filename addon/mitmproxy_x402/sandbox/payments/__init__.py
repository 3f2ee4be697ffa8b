"""Sets the sandbox's prices and writes its challenges (`pricing`); checks payments and settles them (`till`)."""
