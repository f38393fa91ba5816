"""Tests of the migrations: up, down, concurrently, by the wrong role, and against the dump in schema.sql."""
