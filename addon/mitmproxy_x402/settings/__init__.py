"""Options, `x402.toml` and environment become one frozen `Settings`.

Uses `protocol` and `limits`. A value comes as text or as TOML typed it; it becomes one typed value, or a
SettingsError that names the place, the value and what is allowed.
"""
