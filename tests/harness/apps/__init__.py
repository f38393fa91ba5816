"""Apps as people write them, for servers that tests start: `TOKENTAPE_WORKFLOWS=tests.harness.apps.talking`."""
