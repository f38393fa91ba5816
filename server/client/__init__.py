"""A client of the public API on trio: asks, follows logs through restarts, reads pages. It knows the server
only by what the API says, like any other client, and prints nothing."""
