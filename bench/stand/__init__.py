"""What a benchmark stands on: a database, server processes, helpers, and a look at what each costs."""
