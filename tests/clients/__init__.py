"""Clients that share no code with the server: what a stranger would write from the contract and the RFCs."""
