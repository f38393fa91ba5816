"""Appends encoded as parameters of the SQL function: decoding gives the same appends, and the columns line
up.
"""

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import Append, Key, NewEvent, Writer
from eventstore.postgres.postgres_backend import NULL, SEPARATOR, append_columns, as_texts, has_during

OWNER = 2**62 + 1
text = st.text(max_size=4)
writers = st.builds(Writer, text, st.integers(0, 9), st.integers(1, 9))
clean = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=4)
keys = st.builds(Key, clean, clean, st.none() | st.binary(max_size=3), st.none() | st.floats(0, 9))
events = st.builds(NewEvent, text, text, st.none() | text)


@st.composite
def appends(draw: st.DrawFn) -> Append:
    writer = draw(st.none() | writers)
    closes = draw(st.none() | (text if writer is None else st.just(writer.name)))
    return Append(
        draw(text),
        tuple(draw(st.lists(events, min_size=1, max_size=3))),
        draw(st.integers(-1, 9)),
        writer,
        closes,
        tuple(draw(st.lists(keys, max_size=3))),
        draw(text),
        draw(st.none() | text) if writer is None and closes is None else None,
    )


def decode_columns(columns: Sequence[Any]) -> list[Append]:
    """The appends, as the SQL function reads them from the columns."""
    stream, category, expected, counts, writer, epoch, seq, closes = columns[:8]
    key_rows = list(zip(*columns[9:14], strict=True))
    event_rows = list(zip(*columns[14:19], strict=True))
    made = []
    for n in range(len(stream)):
        mine = sorted(row[1:] for row in event_rows if row[0] == n + 1) if counts[n] else []
        assert [row[0] for row in mine] == list(range(1, counts[n] + 1))
        made.append(
            Append(
                stream[n],
                tuple(NewEvent(type_, data, tag) for _, type_, tag, data in mine),
                expected[n],
                Writer(writer[n], epoch[n], seq[n]) if seq[n] else None,
                writer[n] if closes[n] else None,
                tuple(Key(*row[1:]) for row in key_rows if row[0] == n + 1),
                category[n],
                writer[n] if seq[n] == 0 else None,
            )
        )
    return made


# The first draw on a fresh machine makes Hypothesis' table of characters, which takes seconds.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(appends(), max_size=4))
def test_columns_decode_to_the_same_appends(batch: list[Append]) -> None:
    columns = append_columns(batch, OWNER)
    assert len(columns) == 19
    assert columns[8] == OWNER
    for first, last in ((0, 8), (9, 14), (14, 19)):
        assert len({len(column) for column in columns[first:last]}) == 1
    assert decode_columns(columns) == batch
    assert has_during(columns) is any(append.during is not None for append in batch)


def test_no_appends_are_empty_columns() -> None:
    columns = append_columns([], OWNER)
    assert columns[:8] + columns[9:] == [[]] * 18


def split_texts(columns: Sequence[Any], texts: Sequence[Any]) -> list[Any]:
    """What `string_to_array` and the casts make of the texts."""
    kinds: list[type] = [str, str, int, int, str, int, int, bool, *[list] * 6, int, int, str, str, str]
    read: dict[type, Callable[[str], Any]] = {bool: lambda part: part == "True", int: int, str: str}
    return [
        text if kind is list else [None if part == NULL else read[kind](part) for part in text.split(SEPARATOR)]
        for kind, text in zip(kinds, texts, strict=True)
    ]


@given(st.lists(appends(), min_size=2, max_size=4))
def test_texts_decode_to_the_same_appends(batch: list[Append]) -> None:
    columns = append_columns(batch, OWNER)
    texts = as_texts(columns)
    if texts is not None:
        assert decode_columns(split_texts(columns, texts)) == batch


@given(appends(), st.sampled_from([SEPARATOR, NULL]), st.sampled_from(["stream", "category", "closes", "event"]))
def test_values_with_the_separator_are_sent_as_arrays(append: Append, mark: str, place: str) -> None:
    odd = {
        "stream": Append(mark, (NewEvent("t", "{}"),)),
        "category": Append("s", (NewEvent("t", "{}"),), category=mark),
        "closes": Append("s", (NewEvent("t", "{}"),), closes=mark),
        "event": Append("s", (NewEvent("t", "{}", mark),)),
    }[place]
    for batch in ([append, odd], [odd, append]):
        assert as_texts(append_columns(batch, OWNER)) is None
