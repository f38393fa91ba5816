"""The conversation service: what a process does between its transports (`web`) and the log.

Write side: `command_handlers` and the files of `commands` decide and append, `run_scheduling` makes the attempt
that the supervisor starts. Read side: `state_cache` (with `past_states` and `keyed_locks`) and `generation_index`
answer from memory what has been read before. Housekeeping: `orphan_recovery` for runs that nobody drives,
`retention` for what has had its time, `stream_drain` for the client streams when the process stops. Must not know
HTTP or frames.
"""
