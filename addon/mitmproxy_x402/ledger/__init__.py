"""Records every payment before it is sent, in SQLite or PostgreSQL, and reads the records.

Uses `protocol`, `limits`, `gateways`, `settings` and `machine`. `interface` has the states of a payment and the table
of their transitions; a store changes a state only along that table. Amounts are atomic units of an asset and
millionths of a dollar, as `int`.
"""
