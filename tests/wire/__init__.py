"""Tests of the bytes that clients see, with parsers of their own."""
