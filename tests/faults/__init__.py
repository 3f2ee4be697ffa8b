"""What happens when anything fails at any point of a request's way: the fault matrix.

`plan` says which points and faults there are, and which of them meet; `scene` sets up the real proxy before scripted
gateways, one for each try; `tries` has the faults strike and writes down what the client saw, what the ledger says and
what was settled; `table` makes docs/faults.md of it.

    python -m tests.faults            the whole matrix, compared with the page
    python -m tests.faults --write    the same, into the page
"""
