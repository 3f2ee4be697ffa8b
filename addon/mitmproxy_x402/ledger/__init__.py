"""Every payment, written down before it leaves: the interface, SQLite, PostgreSQL, and how it is read.

Uses `protocol`, `limits` and `settings`. `interface` has the states of a payment and the table of their transitions;
a store changes a state only along that table. Amounts are atomic units of an asset and millionths of a dollar, as
`int`.
"""
