"""The search of logs for credentials finds every credential and nothing else, and fails the test that
writes one.
"""

from typing import Literal

import pytest

from server.auth.credentials import KINDS, Kind, generate
from tests import conftest
from tests.harness.credentials_in_logs import check, lines_with_credentials

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ0ZW5hbnQiOiJhY21lIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "line", ["{}", '{{"event": "x", "url": "/v1/x?ticket={}&a=1"}}', "b'Bearer {}'", "cookie=tokentape={};"]
)
def test_credential_is_found(kind: Kind, line: str) -> None:
    """Wherever it stands in a line."""
    for text in (generate(kind).text, JWT):
        assert lines_with_credentials(f"before\n{line.format(text)}\nafter") == [line.format(text)]
        with pytest.raises(AssertionError, match="1 lines of a log hold a credential"):
            check(line.format(text), "a log")


def test_other_texts_are_not_found() -> None:
    """Public ids, prefixes in documentation, digests, and other words with dots."""
    public = generate("key").id
    for text in (public, f"tt_{public}_…", "tt_key_…", "eyJ….eyJ….…", "a" * 64, "www.eyJournal.example"):
        check(text, "a log")


@pytest.mark.parametrize(
    ("when", "section", "outcome"),
    [("teardown", JWT, "failed"), ("teardown", "tt_key_…", "passed"), ("call", JWT, "passed")],
)
def test_test_that_writes_a_credential_fails(
    when: Literal["call", "teardown"], section: str, outcome: str
) -> None:
    """At its end, when everything that it has written is there."""
    report = pytest.TestReport(
        "test_x", ("test_x.py", 1, "test_x"), {}, "passed", None, when, [("Captured stderr call", section)]
    )
    hook = conftest.pytest_runtest_makereport(None, None)  # type: ignore[arg-type]  # it looks at the report alone
    next(hook)
    with pytest.raises(StopIteration) as stopped:
        hook.send(report)
    assert stopped.value.value is report
    assert report.outcome == outcome
