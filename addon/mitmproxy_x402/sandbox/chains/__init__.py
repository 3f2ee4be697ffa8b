"""Play chains: balances, rules and RPCs of the networks that the sandbox takes payment on."""
