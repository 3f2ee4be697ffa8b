"""How much may be spent: budgets over a rolling period, limits for some models or paths, and the model of a request.

Types and arithmetic, without clock or I/O. Uses `protocol`. Amounts are millionths of a dollar, as `int`.
"""
