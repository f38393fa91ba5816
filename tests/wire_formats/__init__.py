"""Tests of server/wire_formats.py: the bytes that clients see, read by independent parsers."""
