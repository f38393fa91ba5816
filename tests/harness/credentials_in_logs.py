"""No log of a test may hold a credential: a key, a session's cookie, a ticket, or a signed token (JWT).

Every server process of the harness and every nginx is checked at its end, and every test for what it wrote to
standard output and standard error, where in-process servers log. So the whole suite is the scenario: a line that a
later test makes a server write is checked without a line in that test.
"""

import re

CREDENTIAL = re.compile(
    r"tt_(?:key|ses|tick)_[0-9A-Za-z]{20,}_[A-Za-z0-9_-]{20,}"
    # A JWT is base64url of JSON objects: header and claims begin with `{"`, which is `eyJ`.
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"
)
MAX_SHOWN = 300
"""Characters of a line that holds one, around it."""


def lines_with_credentials(text: str) -> list[str]:
    """The lines, shortened, that hold a credential."""
    return [
        line[max(0, found.start() - MAX_SHOWN) : found.end() + MAX_SHOWN]
        for line in text.splitlines()
        if (found := CREDENTIAL.search(line)) is not None
    ]


def check(text: str, what: str) -> None:
    """Raises AssertionError if a credential is in `text`. `what`: whose log it is."""
    found = lines_with_credentials(text)
    assert not found, f"{len(found)} lines of {what} hold a credential:\n" + "\n".join(found[:5])
