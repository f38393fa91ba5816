"""Tests of credentials, of the stores that hold them, and of the authenticator."""
