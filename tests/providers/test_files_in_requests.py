"""Files in requests: each provider with each kind of part and type of file, the exact bodies, and refusals."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.message_parts import Content, FilePart, ImagePart, Part, TextPart
from server.providers import BadParameters, Message, Prompt, anthropic, chat_completions
from server.providers.openai_compatible_servers import DIALECTS

from .answer_reader import provider_on, read_answer
from .fake_provider import FakeProvider
from .request_validation import reason_to_refuse

BYTES = {
    "image/png": b"\x89PNG\r\n\x1a\n...",
    "image/jpeg": b"\xff\xd8\xff\xe0...",
    "image/gif": b"GIF89a...",
    "image/webp": b"RIFF....WEBPVP8 ",
    "application/pdf": b"%PDF-1.7...",
    "text/plain": "naïve 😀\n".encode(),
    "application/octet-stream": b"\x00\x01",
}
IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
B64 = {media_type: base64.b64encode(data).decode() for media_type, data in BYTES.items()}


def part(media_type: str, kind: type[FilePart] = FilePart, name: str | None = None) -> FilePart:
    data = BYTES[media_type]
    return kind(hashlib.sha256(data).hexdigest(), media_type, len(data), name, data)


def replace_type(given: FilePart, media_type: str) -> FilePart:
    return msgspec.structs.replace(given, media_type=media_type)


def asking(*parts: Part, model: str = "m") -> Prompt:
    return Prompt(model, (Message("user", parts),), {})


def openai_content(*parts: Part, dialect: str = "openai") -> Any:
    body = json.loads(chat_completions.encode_body(asking(*parts), DIALECTS[dialect]))
    return body["messages"][0]["content"]


def anthropic_content(*parts: Part) -> Any:
    return json.loads(anthropic.encode_body(asking(*parts), 1))["messages"][0]["content"]


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def openai_image(media_type: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{B64[media_type]}"}}


def openai_pdf(name: str) -> dict[str, Any]:
    url = f"data:application/pdf;base64,{B64['application/pdf']}"
    return {"type": "file", "file": {"filename": name, "file_data": url}}


def source(media_type: str) -> dict[str, Any]:
    return {"type": "base64", "media_type": media_type, "data": B64[media_type]}


def anthropic_document(media_type: str, **title: str) -> dict[str, Any]:
    said = BYTES["text/plain"].decode()
    found = {"type": "text", "media_type": "text/plain", "data": said}
    return {"type": "document", "source": found if media_type == "text/plain" else source(media_type), **title}


SHORT = part("text/plain").digest[:12]
EXPECTED = [
    *(
        (part(media_type, kind), openai_image(media_type), {"type": "image", "source": source(media_type)})
        for media_type in IMAGES
        for kind in (ImagePart, FilePart)
    ),
    (part("image/png", name="x.png"), openai_image("image/png"), {"type": "image", "source": source("image/png")}),
    (part("application/pdf"), openai_pdf("file.pdf"), anthropic_document("application/pdf")),
    (
        part("application/pdf", name="Report.PDF"),
        openai_pdf("Report.PDF"),
        anthropic_document("application/pdf", title="Report.PDF"),
    ),
    (
        part("application/pdf", name="report"),
        openai_pdf("report.pdf"),
        anthropic_document("application/pdf", title="report"),
    ),
    (part("text/plain"), text(f"{SHORT}…:\n\nnaïve 😀\n"), anthropic_document("text/plain")),
    (
        part("text/plain", name="notes.md"),
        text("notes.md:\n\nnaïve 😀\n"),
        anthropic_document("text/plain", title="notes.md"),
    ),
]


@pytest.mark.parametrize(("sent", "openai", "messages"), EXPECTED, ids=repr)
def test_each_file_in_both_formats(sent: FilePart, openai: Any, messages: Any) -> None:
    assert openai_content(TextPart("see"), sent) == [text("see"), openai]
    assert anthropic_content(sent, TextPart("see")) == [messages, text("see")]
    assert openai_content(sent, sent) == [openai, openai]
    assert anthropic_content(sent) == [messages]


@pytest.mark.parametrize(("sent", "openai", "messages"), EXPECTED, ids=repr)
async def test_each_file_over_http(
    fake: FakeProvider, provider: str, sent: FilePart, openai: Any, messages: Any
) -> None:
    """What arrives is what the API documents, as a strict server reads it."""
    asked = asking(TextPart("see"), sent, model="ok-2-0")
    answer = await read_answer(provider_on(fake, provider), asked)
    assert answer.error is None
    body = fake.log[-1].body
    assert reason_to_refuse(body) is None
    assert body["messages"] == [
        {"role": "user", "content": [text("see"), openai if provider == "openai" else messages]}
    ]


async def test_fake_refuses_files_as_a_strict_provider_does(fake: FakeProvider, provider: str) -> None:
    """Else the tests above would prove nothing: bytes of another type than the part says."""
    wrong = replace_type(part("image/png"), "image/jpeg")
    answer = await read_answer(provider_on(fake, provider), asking(wrong, model="ok-2-0"))
    assert answer.error is not None
    assert answer.error.code == "upstream_bad_request"
    assert "bytes of another type" in answer.error.message


TAKES = {
    **dict.fromkeys(DIALECTS, (*IMAGES, "text/plain")),
    **dict.fromkeys(("generic", "openai", "openrouter", "litellm"), (*IMAGES, "application/pdf", "text/plain")),
    "gemini": ("image/png", "image/jpeg", "image/webp", "text/plain"),
    "llamacpp": ("image/png", "image/jpeg", "image/gif", "text/plain"),
    "deepseek": ("text/plain",),
}


@pytest.mark.parametrize("media_type", BYTES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_takes_what_it_documents(dialect: str, media_type: str) -> None:
    """And refuses everything else by naming the part; it needs no bytes for that."""
    sent = msgspec.structs.replace(part(media_type, name="x"), data=None)
    if media_type in TAKES[dialect]:
        assert openai_content(TextPart("see"), sent, dialect=dialect)
        return
    with pytest.raises(BadParameters) as refused:
        openai_content(TextPart("see"), sent, dialect=dialect)
    assert (refused.value.field, refused.value.part) == ("messages.0.content.1", (0, 1))
    assert media_type in refused.value.message
    assert all(taken in refused.value.message for taken in TAKES[dialect] if taken != "text/plain")


def test_anthropic_refuses_what_it_does_not_take() -> None:
    with pytest.raises(BadParameters, match=r"messages\.0\.content\.0: x is application/octet-stream"):
        anthropic_content(part("application/octet-stream", name="x"))


@pytest.mark.parametrize("role", ["assistant", "system", "tool"])
def test_files_belong_to_users(provider: str, role: str) -> None:
    asked = Prompt("m", (Message("user", "u"), Message(role, (part("image/png"),))), {})
    encode = chat_completions.encode_body if provider == "openai" else lambda one: anthropic.encode_body(one, 1)
    with pytest.raises(BadParameters, match=r"messages\.1\.content\.0: .* role user, not "):
        encode(asked)


def test_files_stand_behind_the_results_of_calls_and_beside_other_messages() -> None:
    """Anthropic's turns alternate, so two messages become one turn: each keeps its parts in order."""
    asked = Prompt("m", (Message("user", "one"), Message("user", (part("image/png"), TextPart("two")))), {})
    assert json.loads(anthropic.encode_body(asked, 1))["messages"] == [
        {"role": "user", "content": [text("one"), {"type": "image", "source": source("image/png")}, text("two")]}
    ]


def test_blank_texts_beside_files_are_left_out() -> None:
    """Strict providers refuse them, and with them every later request of the conversation."""
    sent = (TextPart(" \n"), part("image/png"), TextPart(""))
    assert openai_content(*sent) == [openai_image("image/png")]
    assert [block["type"] for block in anthropic_content(*sent)] == ["image"]


def test_text_file_without_a_word_says_so() -> None:
    sent = FilePart("0" * 64, "text/plain", 2, "x", b" \n")
    assert openai_content(sent) == [text("x:\n\n(This file holds no text.)")]
    assert anthropic_content(sent)[0]["source"]["data"] == "(This file holds no text.)"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ROLES = st.sampled_from(["user", "assistant", "system", "developer", "tool"])


def reference_body(messages: list[tuple[str, str]]) -> bytes:
    """OpenAI's body of messages that are texts, written out."""
    told = [{"role": "user" if role == "tool" else role, "content": said} for role, said in messages]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode({"model": "m", "messages": told, **options})


@given(st.lists(st.tuples(ROLES, TEXTS), min_size=1))
def test_messages_of_texts_have_the_bytes_that_they_had_before_there_were_parts(
    said: list[tuple[str, str]],
) -> None:
    messages = tuple(Message(role, words) for role, words in said)
    encoded = chat_completions.encode_body(Prompt("m", messages, {}), DIALECTS["openai"])
    assert encoded == reference_body(said)


@given(st.lists(st.tuples(ROLES, TEXTS), min_size=1), st.data())
def test_a_list_of_one_text_is_sent_as_the_text(said: list[tuple[str, str]], data: st.DataObject) -> None:
    plain = Prompt("m", (Message("user", "u"), *(Message(role, words) for role, words in said)), {})

    def as_parts(message: Message) -> Message:
        content: Content = (TextPart(message.text),) if data.draw(st.booleans()) else message.content
        return replace(message, content=content)

    listed = replace(plain, messages=tuple(map(as_parts, plain.messages)))
    assert anthropic.encode_body(listed, 1) == anthropic.encode_body(plain, 1)
    for quirks in DIALECTS.values():
        assert chat_completions.encode_body(listed, quirks) == chat_completions.encode_body(plain, quirks)
