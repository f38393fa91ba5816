"""A client of the public API on trio: it sends requests, follows logs through restarts, and reads pages.

It knows the server only by its documented API, like any other client, and prints nothing.
"""
