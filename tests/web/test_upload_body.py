"""Forms whose bytes come in any parts: the file's bytes are the same."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.problem import Problem
from server.web.upload_body import _Form
from tests.files.sample_files import BOUNDARY, cut, form

HARD = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"-", b"--", f"--{BOUNDARY}".encode(), f"\r\n--{BOUNDARY}"[:-1].encode(), b"x"]
)


def file_of(parts: list[bytes]) -> bytes:
    """The file in a form."""
    found = _Form(BOUNDARY.encode())
    data = b"".join(b"".join(found.feed(part)) for part in parts)
    return data + b"".join(found.end())


@given(st.lists(HARD | st.binary(max_size=9), max_size=20).map(b"".join), st.integers(1, 300))
@example(b"x", 1)
@example(b"\r\n", 1)
@example(b"", 2)
def test_parts_change_nothing(data: bytes, size: int) -> None:
    if f"\n--{BOUNDARY}" in f"\n{data.decode('latin-1')}".replace("\r", "\n"):
        return  # the form would end there
    assert file_of(cut(form(data), size)) == data


@given(st.integers(0, 250))
def test_a_form_that_is_cut_is_no_form(end: int) -> None:
    whole = form(b"some text")
    parts = [whole[:end]]
    if end >= len(whole) - 2:  # the line end behind the last boundary is no part of it
        assert file_of(parts) == b"some text"
        return
    with pytest.raises(Problem):
        file_of(parts)
