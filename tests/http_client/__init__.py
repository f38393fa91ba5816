"""Tests of server/http_client."""
