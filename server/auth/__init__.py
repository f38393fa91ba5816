"""Who calls, and what they may do: keys, tokens of embedding apps, sessions, tickets; and their ends."""
