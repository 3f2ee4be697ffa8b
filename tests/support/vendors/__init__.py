"""What language models of all vendors send and are sent, and what may go wrong in it."""
