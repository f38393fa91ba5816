"""Generations as they run: one attempt with its log, executors, tool calls; and the supervisor of all attempts.

What a generation is (its states, the fold of its events, the decisions on commands) is in `server.conversations`.
"""
