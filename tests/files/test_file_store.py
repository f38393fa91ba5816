"""What every store of files does: in memory and in Postgres, as the role that serves."""

import random

import pytest

from server.files.file_store import (
    BEGIN_SECONDS,
    CHUNK_BYTES,
    UPLOAD_SECONDS,
    FileUnknown,
    UploadLost,
)
from tests.files.conftest import DAY, TENANT, Files, digest_of

SIZES = (1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES)
A, B = b"the letter A", b"the letter B"
UNKNOWN = digest_of(b"never uploaded")


async def test_an_empty_store(files: Files) -> None:
    assert await files.store.describe(TENANT, [UNKNOWN]) == {}
    assert await files.store.describe(TENANT, []) == {}
    with pytest.raises(FileUnknown, match=UNKNOWN):
        await files.store.read(TENANT, UNKNOWN)
    await files.store.use(TENANT, "conv_1", [])
    await files.store.drop_upload("nothing")
    assert await files.store.list_users("", 10) == []
    assert await files.store.release(["conv_1"]) == 0
    assert await files.store.sweep(10) == 0


@pytest.mark.parametrize("size", SIZES)
async def test_the_bytes_come_back_whole_and_in_part(files: Files, size: int) -> None:
    data = random.Random(size).randbytes(size)
    made = await files.upload(data, media_type="image/png")
    file = made.file
    assert (made.created, file.digest, file.media_type, file.size) == (True, digest_of(data), "image/png", size)
    assert abs((made.expires_at - file.created_at).total_seconds() - DAY) < 60
    assert await files.store.describe(TENANT, [file.digest, UNKNOWN]) == {file.digest: file}
    assert await files.store.read(TENANT, file.digest) == data
    edges = sorted({0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, size - 1, size, size + 1})
    for start in edges:
        for stop in (None, *edges):
            parts = [part async for part in files.store.stream(TENANT, file.digest, start, stop)]
            assert b"".join(parts) == data[start:stop], (start, stop)
            assert all(0 < len(part) <= CHUNK_BYTES for part in parts), (start, stop)


async def test_an_upload_is_no_file_before_its_end(files: Files) -> None:
    await files.store.add_chunk("u", 0, A)
    assert not await files.has(A)
    assert files.count() == (0, 1, 1, 0)
    await files.store.finish_upload("u", TENANT, digest_of(A), "text/plain", len(A), DAY)
    assert await files.has(A)
    assert files.count() == (1, 0, 1, 0)


async def test_every_call_of_an_upload_may_come_twice(files: Files) -> None:
    """As after a lost answer."""
    for _ in range(2):
        await files.store.add_chunk("u", 0, A)
    ends = [await files.store.finish_upload("u", TENANT, digest_of(A), "text/plain", len(A), DAY) for _ in "12"]
    assert ends[0] == ends[1]
    assert ends[0].created
    await files.store.drop_upload("u")  # it is a file by now
    assert await files.has(A)
    assert files.count() == (1, 0, 1, 0)


async def test_the_same_bytes_again_are_the_same_file(files: Files) -> None:
    first = await files.upload(A, media_type="text/plain")
    files.age(100)
    again = await files.upload(A, media_type="text/plain")
    assert (again.created, again.file) == (False, first.file)
    assert (again.expires_at - first.expires_at).total_seconds() > -5  # PostgreSQL's clock did not go on
    assert files.count() == (1, 0, 1, 0)


async def test_a_dropped_upload_leaves_nothing(files: Files) -> None:
    await files.store.add_chunk("u", 0, A)
    for _ in range(2):
        await files.store.drop_upload("u")
    assert files.count() == (0, 0, 0, 0)
    with pytest.raises(UploadLost):
        await files.store.finish_upload("u", TENANT, digest_of(A), "text/plain", len(A), DAY)


async def test_chunks_that_are_gone_make_no_file(files: Files) -> None:
    await files.store.add_chunk("u", 1, A)
    with pytest.raises(UploadLost):
        await files.store.finish_upload("u", TENANT, digest_of(A + A), "text/plain", 2 * len(A), DAY)
    assert files.count() == (0, 0, 0, 0)


async def test_a_tenant_has_its_own_files_alone(files: Files) -> None:
    await files.upload(A)
    digest = digest_of(A)
    assert await files.store.describe("rival", [digest]) == {}
    for call in (files.store.read("rival", digest), files.store.use("rival", "conv_1", [digest])):
        with pytest.raises(FileUnknown):
            await call
    with pytest.raises(FileUnknown):
        [part async for part in files.store.stream("rival", digest)]
    theirs = await files.upload(A, "rival")
    assert theirs.created
    assert files.count() == (2, 0, 2, 0)
    files.age(DAY + 1)
    await files.used("conv_1", [digest])
    assert await files.store.sweep(10) == 1
    assert await files.has(A)
    assert not await files.has(A, "rival")


async def test_files_of_certain_conversations(files: Files) -> None:
    await files.upload(A)
    await files.upload(B)
    await files.used("conv_1", [digest_of(A)])
    await files.used("conv_2", [digest_of(B)])
    both = [digest_of(A), digest_of(B)]
    for conversations, seen in (
        (None, {*both}),
        ([], set()),
        (["conv_1"], {both[0]}),
        (["conv_2", "conv_3"], {both[1]}),
        (["conv_1", "conv_2"], {*both}),
    ):
        assert set(await files.store.describe(TENANT, both, conversations)) == seen
    assert await files.store.describe("rival", both, ["conv_1"]) == {}


# -- how long a file is kept


async def test_an_unused_file_goes_after_its_time(files: Files) -> None:
    await files.upload(A, seconds=100)
    files.age(90)
    assert await files.store.sweep(10) == 0
    files.age(11)
    assert await files.store.sweep(10) == 1
    assert files.count() == (0, 0, 0, 0)


async def test_uploading_again_begins_the_time_anew(files: Files) -> None:
    await files.upload(A, seconds=100)
    files.age(90)
    await files.upload(A, seconds=100)
    files.age(90)
    assert await files.store.sweep(10) == 0
    files.age(11)
    assert await files.store.sweep(10) == 1


async def test_a_used_file_stays_until_its_conversation_is_erased(files: Files) -> None:
    await files.upload(A)
    await files.used("conv_1", [digest_of(A)])
    files.age(10 * DAY)
    assert await files.store.sweep(10) == 0
    assert await files.store.release(["conv_1"]) == 0  # it is not erased
    assert await files.has(A)
    files.erase("conv_1")
    assert await files.store.release(["conv_1", "conv_2"]) == 1
    assert await files.store.sweep(10) == 1
    assert files.count() == (0, 0, 0, 0)


async def test_it_goes_with_its_conversation_although_its_upload_would_have_time(files: Files) -> None:
    await files.upload(A)
    await files.used("conv_1", [digest_of(A)])
    files.erase("conv_1")
    assert await files.store.release(["conv_1"]) == 1
    assert await files.store.sweep(10) == 1
    assert not await files.has(A)


async def test_the_last_of_several_conversations_takes_it_along(files: Files) -> None:
    await files.upload(A)
    for name in ("conv_1", "conv_2"):
        await files.used(name, [digest_of(A)])
    files.erase("conv_1")
    assert await files.store.release(["conv_1"]) == 1
    assert await files.store.sweep(10) == 0
    assert await files.has(A)
    files.erase("conv_2")
    assert await files.store.release(["conv_2"]) == 1
    assert await files.store.sweep(10) == 1
    assert files.count() == (0, 0, 0, 0)


async def test_an_upload_since_the_last_use_keeps_it(files: Files) -> None:
    """Its client was told until when, and may use it in another conversation."""
    await files.upload(A, seconds=100)
    await files.used("conv_1", [digest_of(A)])
    await files.upload(A, seconds=100)
    files.erase("conv_1")
    await files.store.release(["conv_1"])
    assert await files.store.sweep(10) == 0
    assert await files.has(A)
    files.age(101)
    assert await files.store.sweep(10) == 1


async def test_an_upload_of_a_used_file_does_not_end_its_use(files: Files) -> None:
    await files.upload(A)
    await files.used("conv_1", [digest_of(A)])
    await files.upload(A, seconds=100)
    for _ in range(2):
        files.age(101)
        assert await files.store.sweep(10) == 0
    assert await files.has(A)
    files.erase("conv_1")
    await files.store.release(["conv_1"])
    assert await files.store.sweep(10) == 1


async def test_a_conversation_that_never_began_keeps_it_for_a_while(files: Files) -> None:
    """The message that named the file was refused; its client may mend it and send it again."""
    await files.upload(A, seconds=3 * BEGIN_SECONDS)
    await files.store.use(TENANT, "conv_1", [digest_of(A)])
    assert await files.store.release(["conv_1"]) == 0
    files.age(BEGIN_SECONDS + 1)
    assert await files.store.release(["conv_1"]) == 1
    assert await files.store.sweep(10) == 0
    files.age(2 * BEGIN_SECONDS)
    assert await files.store.sweep(10) == 1


async def test_a_use_that_comes_again_counts_once_and_from_then(files: Files) -> None:
    await files.upload(A)
    await files.store.use(TENANT, "conv_1", [digest_of(A), digest_of(A)])
    files.age(BEGIN_SECONDS - 10)
    await files.store.use(TENANT, "conv_1", [digest_of(A)])
    assert files.count()[3] == 1
    files.age(20)
    assert await files.store.release(["conv_1"]) == 0


async def test_one_unknown_file_keeps_none(files: Files) -> None:
    await files.upload(A, seconds=100)
    with pytest.raises(FileUnknown) as refused:
        await files.store.use(TENANT, "conv_1", [digest_of(A), UNKNOWN])
    assert refused.value.digest == UNKNOWN
    assert files.count()[3] == 0
    files.age(101)
    assert await files.store.sweep(10) == 1


async def test_a_swept_file_cannot_be_used(files: Files) -> None:
    await files.upload(A, seconds=1)
    files.age(2)
    assert await files.store.sweep(10) == 1
    with pytest.raises(FileUnknown):
        await files.store.use(TENANT, "conv_1", [digest_of(A)])


async def test_an_upload_that_stands_still_goes(files: Files) -> None:
    await files.store.add_chunk("u", 0, b"x" * CHUNK_BYTES)
    files.age(UPLOAD_SECONDS - 10)
    await files.store.add_chunk("u", 1, A)
    files.age(20)
    assert await files.store.sweep(10) == 0
    files.age(UPLOAD_SECONDS)
    assert await files.store.sweep(10) == 1
    assert files.count() == (0, 0, 0, 0)


async def test_a_sweep_removes_no_more_than_it_was_told(files: Files) -> None:
    for number in range(5):
        await files.upload(b"%d" % number, seconds=1)
    files.age(2)
    assert [await files.store.sweep(2) for _ in range(4)] == [2, 2, 1, 0]


async def test_users_are_listed_in_pages(files: Files) -> None:
    await files.upload(A)
    await files.upload(B)
    names = [f"conv_{number}" for number in range(5)]
    for name in names:
        await files.store.use(TENANT, name, [digest_of(A), digest_of(B)])
    seen, after = list[str](), ""
    while page := await files.store.list_users(after, 2):
        assert len(page) <= 2
        seen += page
        after = page[-1]
    assert seen == names
