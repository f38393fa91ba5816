"""Tests of server/observability: metrics and log lines."""
