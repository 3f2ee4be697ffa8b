"""The books against the chain: what became of each payment that left, by the word of the chain alone.

    open        sent, and the chain cannot say yet whether it was taken
    confirmed   the chain has the transaction: `moved`
    not taken   the chain has none, and by its own clock or height never will: `dead`, which frees the budget
    finding     the gateway said one thing, and the chain another

`resolver` asks RPCs about rows of the ledger, `findings` compares the answers with what gateways said, `rpcs` says who
is asked. Writing it down is the caller's: the verb `reconcile`, or the proxy in the background.
"""
