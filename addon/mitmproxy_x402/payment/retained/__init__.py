"""Retained payments: those whose attempt ended badly, ready to be sent again with the next equal request.

`identity` says what makes two requests the same one, `store` keeps payments in this process, `postgres` where every
proxy of a ledger finds them.
"""
