"""A food scanner for the phone: a label becomes a nutrition table, over a network that drops requests."""
