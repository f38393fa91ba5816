"""The bytes clients see: one event object, framed for each transport. Pure; no I/O, no web framework."""
