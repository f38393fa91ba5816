"""An agent whose tools an operator approves, rejects or modifies."""
