"""Compares the ledger with the chain: what became of each sent payment, by the chain's word alone.

    open        sent, and the chain cannot say yet whether it was taken
    confirmed   the chain has the transaction: `moved`
    not taken   the chain has none, and by its own clock or height never will: `dead`, which frees the budget
    finding     the gateway said one thing, and the chain another

Uses `ledger`, `chain`, `settings` and `protocol`. `resolver` asks RPCs about rows of the ledger, `findings` compares
the answers with what gateways said, `rpcs` chooses the RPCs. The callers write the results: the verb `reconcile`, and
the proxy in the background.
"""
