"""Tests of server/config: the settings, their sources and their errors."""
