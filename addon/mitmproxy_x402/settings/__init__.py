"""Reads options, environment and `x402.toml` into one frozen `Settings`.

Uses `protocol`, `limits`, `gateways` and `machine`. A value is text or a TOML value; it becomes one typed value, or a
SettingsError that names the place, the value and what is allowed.
"""
