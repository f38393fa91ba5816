"""Processes beside the one that measures, so that none of them costs another its time.

Each receives its commands on standard input, answers with JSON lines, and ends when its input ends (see
`control_channel.py`).
"""
