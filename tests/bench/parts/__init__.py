"""Parts that are measured alone: signing, the ledger, reading, machine instructions."""
