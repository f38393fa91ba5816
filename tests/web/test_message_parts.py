"""Parts of messages: what a request may hold, and that every list of parts is the same wherever it is read."""

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.conversations.command_types import NewMessage, PostMessage, RequestGeneration, StartConversation
from server.conversations.conversation_state import Conversation
from server.conversations.decide import decide_message, decide_request, decide_start
from server.conversations.fold import fold
from server.conversations.prompt import transcript
from server.conversations.stored_state import from_stored, to_stored
from server.message_parts import Content, FilePart, TextPart, text_of
from server.problem import Problem
from server.web.commands.request_models import CreateMessage, ModelInput, check, message_content
from server.web.snapshots import snapshot_json
from server.wire_formats import encode_event
from tests.conversations.event_builders import STORABLE_TEXT, no_deadline, rows

START = StartConversation(None, None)
TYPES = {"a" * 64: ("image/png", 12_345), "b" * 64: ("application/pdf", 1), "c" * 64: ("image/webp", 20)}
DIGESTS = st.sampled_from(sorted(TYPES))
TEXT_PART = st.fixed_dictionaries({"type": st.just("text"), "text": STORABLE_TEXT})
IMAGE_PART = st.fixed_dictionaries({"type": st.just("image"), "file": DIGESTS})
FILE_PART = st.fixed_dictionaries(
    {"type": st.just("file"), "file": DIGESTS},
    optional={"name": STORABLE_TEXT.filter(bool)},
)
PARTS = st.lists(TEXT_PART | IMAGE_PART | FILE_PART, min_size=1, max_size=8)
CONTENTS: st.SearchStrategy[Any] = STORABLE_TEXT | PARTS


def looked_up(content: Content) -> Content:
    """The content with the types and sizes that the store of files would tell."""
    if isinstance(content, str):
        return content
    return tuple(
        msgspec.structs.replace(part, media_type=TYPES[part.digest][0], size=TYPES[part.digest][1])
        if isinstance(part, FilePart)
        else part
        for part in content
    )


def as_shown(content: Any) -> Any:
    """What a client is shown of the content that was posted."""
    if isinstance(content, str):
        return content
    shown = copy.deepcopy(content)
    for part in shown:
        if part["type"] != "text":
            part["media_type"], part["size"] = TYPES[part["file"]]
    return shown


def posted(content: Any) -> Content:
    """The content as the request's check lets it through."""
    return looked_up(message_content(check(CreateMessage, {"role": "user", "content": content}), "content"))


@no_deadline
@given(contents=st.lists(CONTENTS, min_size=1, max_size=4))
def test_any_parts_survive_from_the_request_to_the_snapshot(contents: list[Any]) -> None:
    """Request → log → fold → stored state → snapshot: the parts in order, each with what it came with."""
    news = [*decide_start(START)]
    for number, content in enumerate(contents):
        command = PostMessage(f"msg_{number}", "user", posted(content), None, "anonymous")
        news += decide_message(command)
    log = rows(news)
    state = fold(Conversation("conv_1"), log)
    shown = [as_shown(content) for content in contents]
    assert [json.loads(encode_event(event))["content"] for event in log[1:]] == shown
    restored = from_stored(to_stored(state))
    assert restored == state
    assert abs(restored.size - state.size) <= 64 + state.size // 4
    for one in (state, restored):
        assert [message.content for message in one.messages] == [posted(content) for content in contents]
        assert [message["content"] for message in json.loads(snapshot_json.conversation(one))["messages"]] == shown
        assert [said.content for said in transcript(one)] == [posted(content) for content in contents]


@no_deadline
@given(contents=st.lists(CONTENTS, min_size=1, max_size=4))
def test_input_of_a_request_is_the_same_messages(contents: list[Any]) -> None:
    asked = check(ModelInput, {"input": [{"role": "user", "content": content} for content in contents]}).input
    assert isinstance(asked, list)
    messages = tuple(
        NewMessage(one.role, looked_up(message_content(one, f"input.{number}.content")))
        for number, one in enumerate(asked)
    )
    command = RequestGeneration("gen_1", {}, "anonymous", model="demo", input=messages)
    log = rows([*decide_start(START), *decide_request(Conversation("conv_1"), command)])
    state = fold(Conversation("conv_1"), log)
    assert [message.content for message in state.messages] == [posted(content) for content in contents]


@no_deadline
@given(parts=st.lists(TEXT_PART, min_size=1, max_size=4))
def test_list_of_texts_stays_a_list(parts: list[Any]) -> None:
    content = posted(parts)
    assert content == tuple(TextPart(part["text"]) for part in parts)
    assert text_of(content) == "\n\n".join(part["text"] for part in parts)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (None, "content"),
        (3, "content"),
        ({"type": "text", "text": "x"}, "content"),
        ([], "content"),
        ([{"type": "text", "text": ""}] * 101, "content"),
        (["x"], "content.0"),
        ([{}], "content.0"),
        ([{"type": "audio", "file": "a" * 64}], "content.0"),
        ([{"type": ["text"], "text": "x"}], "content.0"),
        ([{"type": "text"}], "content.0.text"),
        ([{"type": "text", "text": None}], "content.0.text"),
        ([{"type": "text", "text": "x" * 1_000_001}], "content.0.text"),
        ([{"type": "text", "text": "x", "file": "a" * 64}], "content.0.file"),
        ([{"type": "image"}], "content.0.file"),
        ([{"type": "text", "text": ""}, {"type": "image", "file": "A" * 64}], "content.1.file"),
        ([{"type": "image", "file": "a" * 63}], "content.0.file"),
        ([{"type": "image", "file": "a" * 64, "name": "x"}], "content.0.name"),
        ([{"type": "image", "file": "a" * 64, "media_type": "image/png"}], "content.0.media_type"),
        ([{"type": "file", "file": "a" * 64, "size": 3}], "content.0.size"),
        ([{"type": "file", "file": "a" * 64, "name": ""}], "content.0.name"),
        ([{"type": "file", "file": "a" * 64, "name": "x" * 256}], "content.0.name"),
        ([{"type": "file", "file": "a" * 64, "data": "AAAA"}], "content.0.data"),
    ],
)
def test_wrong_content_is_refused_by_the_name_of_its_field(content: Any, field: str) -> None:
    with pytest.raises(Problem) as posting:
        check(CreateMessage, {"role": "user", "content": content})
    assert [one["field"] for one in posting.value.extra["errors"]] == [field]
    with pytest.raises(Problem) as asking:
        check(ModelInput, {"input": [{"role": "user", "content": content}]})
    assert [one["field"] for one in asking.value.extra["errors"]] == [f"input.0.{field}"]


@pytest.mark.parametrize("role", ["assistant", "system", "tool"])
def test_files_belong_to_users(role: str) -> None:
    for kind in ("image", "file"):
        parts = [{"type": "text", "text": "see"}, {"type": kind, "file": "a" * 64}]
        with pytest.raises(Problem, match=r"content\.1: images and files belong to messages of the role user"):
            message_content(check(CreateMessage, {"role": role, "content": parts}), "content")
    assert message_content(check(CreateMessage, {"role": role, "content": parts[:1]}), "content") == (
        TextPart("see"),
    )


def test_texts_of_a_message_are_bounded_together() -> None:
    half = {"type": "text", "text": "x" * 500_000}
    assert posted([half, half])
    with pytest.raises(Problem, match=r"content: its texts together have more than 1,000,000 characters"):
        posted([half, half, {"type": "text", "text": "x"}])


def test_part_of_a_newer_server_does_not_stop_the_fold() -> None:
    (event,) = rows(decide_message(PostMessage("msg_1", "user", (TextPart("see"),), None, "anonymous")))
    data = json.loads(event.data)
    data["content"].append({"type": "hologram", "file": "a" * 64})
    newer = msgspec.structs.replace(event, data=json.dumps(data))
    (message,) = fold(Conversation("conv_1"), [newer]).messages
    seen, unknown = tuple(message.content)
    assert seen == TextPart("see")
    assert isinstance(unknown, TextPart)
    assert "cannot read" in unknown.text


def test_long_texts_of_parts_are_left_out_of_a_conversations_snapshot() -> None:
    sent = posted([{"type": "text", "text": "x" * 40_000}, {"type": "text", "text": "é" * 20_000}])
    news = [*decide_start(START), *decide_message(PostMessage("msg_1", "user", sent, None, "anonymous"))]
    (message,) = json.loads(snapshot_json.conversation(fold(Conversation("conv_1"), rows(news))))["messages"]
    assert message["content"] is None
    assert message["content_bytes"] == 80_002
    assert message["content_events"] == "/v1/conversations/conv_1/events?after=1&limit=1"
