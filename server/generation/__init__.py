"""A generation's life: the table of its states, the fold of its events, the decisions on commands (all pure),
the runner that drives one, and the supervisor that owns all runners of this process."""
