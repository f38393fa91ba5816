"""Apps as people write them, for servers that tests start, by `TOKENTAPE_WORKFLOWS`."""
