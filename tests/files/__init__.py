"""Tests of `server/files`."""
