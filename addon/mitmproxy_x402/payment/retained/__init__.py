"""Keeps payments whose request failed, to be sent again with the next equal request.

`identity` says which requests are equal, `store` keeps payments in this process, `postgres` shares them between all
proxies of a ledger.
"""
