"""`tokentape chat` with real servers: questions, conversations, Ctrl-C, and answers with escape sequences."""

import json
import re
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

from tests.cli.command_runner import tokentape
from tests.cli.fake_endpoints import listening, saying
from tests.cli.virtual_terminal import Terminal, on_terminal
from tests.faults.readers import ask, read_log, wait_closed
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import Server, running

RUDE = ["plain \x1b]0;owned\x07", "\x1b[2J\x1b[31mred\x9b1A", "\r\nnext\ttab\x08\x7f"]
MARKED = "thinking: plain ␛]0;owned␇␛[2J␛[31mred\ufffd1A\nthinking: next\ttab␈␡"
HARMLESS = "plain ␛]0;owned␇␛[2J␛[31mred\ufffd1A\nnext\ttab␈␡"


def _chatting(server: Server, *words: str) -> AbstractAsyncContextManager[Terminal]:
    return on_terminal("chat", "--url", server.url, *words)


async def _newest(server: Server) -> str:
    async with http_client(server.url) as client:
        found: str = (await client.get("/v1/conversations")).json()["conversations"][0]["id"]
        return found


async def test_question_on_a_pipe_prints_only_the_answer(database: TestDatabase) -> None:
    """Remarks go to standard error."""
    async with running(database.app_url) as server:
        done = await tokentape(
            "chat", "why?", "-p", "tokens=30", "-p", "rate=0", env={"TOKENTAPE_URL": server.url}
        )
        assert done.status == 0, done.err
        log = await read_log(f"{server.url}/v1/conversations/{await _newest(server)}/events")
        assert done.out == "".join(event["delta"] for event in log if event["type"] == "token") + "\n"
        assert "30 out" in done.err
        assert "first after" in done.err
        assert f"--conversation {await _newest(server)}" in done.err
        assert "\x1b" not in done.out + done.err


async def test_json_prints_the_log_and_conversation_is_continued(database: TestDatabase) -> None:
    """The system message is posted once, and the model of the conversation is used again."""
    async with running(database.app_url) as server:
        words = ("--url", server.url, "-p", "tokens=5")
        first = await tokentape("chat", "--system", "Be brief.", "--json", *words, stdin="two\nlines\n")
        assert first.status == 0, first.err
        assert first.err == ""
        name = await _newest(server)
        second = await tokentape("chat", "more", "--conversation", name, *words)
        assert second.status == 0, second.err
        log = await read_log(f"{server.url}/v1/conversations/{name}/events")
        said = [(event["role"], event["content"]) for event in log if event["type"] == "message.posted"]
        assert said == [("system", "Be brief."), ("user", "two\nlines\n"), ("user", "more")]
        events = [json.loads(line) for line in first.out.splitlines()]
        assert events == [event for event in log if event.get("generation") == events[0]["generation"]]
        assert [event["model"] for event in log if event["type"] == "generation.requested"] == ["demo", "demo"]


async def test_conversation_on_a_terminal(database: TestDatabase) -> None:
    """Two questions, and the id at the end; Ctrl-C at the prompt leaves."""
    async with (
        running(database.app_url) as server,
        on_terminal("chat", "--url", server.url, "-p", "tokens=80") as it,
    ):
        await it.until("›")
        it.type("first\n")
        await it.until("80 out")
        it.type("second\n")
        name = await _newest(server)
        log = await read_log(f"{server.url}/v1/conversations/{name}/events")
        while len([event for event in log if event["type"] == "generation.completed"]) < 2:
            await it.read()
            log = await read_log(f"{server.url}/v1/conversations/{name}/events")
        await it.prompted()
        it.type("\x03")
        await it.until("Ctrl-C again leaves")
        it.type("\x03")
        await it.until(f"go on later with: tokentape chat --conversation {name}")
        assert await it.end() == 0
        text = "".join(event["delta"] for event in log if event["type"] == "token")
        shown = "".join(it.screen.text.split())
        half = "".join(text[: len(text) // 2].split())
        assert shown.count(half) == 2
        assert "Ctrl-Ccancels" not in shown  # the footer is gone


async def test_question_with_files(database: TestDatabase, tmp_path: Path) -> None:
    """They are uploaded, named by their content and not by the option, and shown by `tail` and when continued."""
    image, notes = tmp_path / "photo.txt", tmp_path / "notes.md"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + b"." * 11_992)
    notes.write_bytes(b"to do")
    async with running(database.app_url) as server:
        words = ("--url", server.url, "-p", "tokens=20", "-p", "rate=0")
        done = await tokentape("chat", "see", "--image", str(image), "--file", str(notes), *words)
        assert done.status == 0, done.err
        assert done.out.startswith("You sent a PNG of 12 KB and a text “notes.md” of 5 bytes.\n\n")
        name = await _newest(server)
        shown = "see [image image/png 12 KB] [file notes.md text/plain 5 bytes]"
        followed = await tokentape("tail", name, "--until-end", "--url", server.url)
        replayed = await tokentape("replay", name, "--instant", "--url", server.url)
        assert f"user: {shown}" in followed.out
        assert f"user: {shown}" in replayed.out
        async with on_terminal("chat", "--conversation", name, "--url", server.url) as it:
            await it.until(shown)
            it.type("/quit\n")
            assert await it.end() == 0
        for wrong in (("--image", str(tmp_path / "nothing.png")), ("--image", str(tmp_path))):
            refused = await tokentape("chat", "see", *wrong, *words)
            assert (refused.status, refused.out) == (2, "")
            assert "--image" in refused.err


async def test_image_command_on_a_terminal(database: TestDatabase, tmp_path: Path) -> None:
    image = tmp_path / "photo.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n...")
    async with (
        running(database.app_url) as server,
        on_terminal("chat", "--url", server.url, "-p", "tokens=20", "-p", "rate=0") as it,
    ):
        await it.until("›")
        it.type(f"/image {tmp_path}/nothing.png\n")
        await it.until("No such file")
        it.type(f"/image {image}\n")
        await it.until("[image image/png 11 bytes]")
        it.type("what is it?\n")
        await it.until("You sent a PNG of 11 bytes.")
        await it.until("20 out")
        it.type("and now?\n")
        await it.until("20 out")
        it.type("/quit\n")
        assert await it.end() == 0
        log = await read_log(f"{server.url}/v1/conversations/{await _newest(server)}/events")
        said = [event["content"] for event in log if event["type"] == "message.posted"]
        assert said[0][0] == {"type": "text", "text": "what is it?"}
        assert (said[0][1]["type"], said[0][1]["size"]) == ("image", 11)
        assert said[1:] == ["and now?"]


async def test_no_color_turns_off_all_styles(database: TestDatabase) -> None:
    """On a terminal with `NO_COLOR` nothing is coloured, bold or dim; without it, remarks are."""
    async with running(database.app_url) as server:
        words = ("chat", "hi", "--url", server.url, "-p", "tokens=5")
        async with on_terminal(*words, env={"NO_COLOR": "1"}) as plain:
            assert await plain.end() == 0
        async with on_terminal(*words) as coloured:
            assert await coloured.end() == 0
        styles = re.compile(rb"\x1b\[[0-9;]*m")
        assert not styles.findall(plain.raw)
        assert styles.findall(coloured.raw)


async def test_ctrl_c_cancels_the_run(database: TestDatabase) -> None:
    """The command says so only when the terminal event is in the log; exit status 130."""
    async with running(database.app_url) as server:
        words = ("chat", "long", "--url", server.url, "-p", "tokens=5000", "-p", "rate=20")
        async with on_terminal(*words) as it:
            await it.until("Nobody")
            it.type("\x03")
            await it.until("recorded at position")
            assert await it.end() == 130
        log = await read_log(f"{server.url}/v1/conversations/{await _newest(server)}/events")
        assert log[-1]["type"] == "generation.cancelled"
        assert f"recorded at position {log[-1]['position']}" in it.screen.text
        assert "".join(it.screen.text.split()).startswith(
            "".join("".join(event["delta"] for event in log if event["type"] == "token").split())
        )


async def test_second_ctrl_c_leaves_without_the_server(database: TestDatabase) -> None:
    """The server was killed and does not come back."""
    async with running(database.app_url) as server:
        words = ("chat", "long", "--url", server.url, "-p", "tokens=5000", "-p", "rate=20")
        async with on_terminal(*words) as it:
            await it.until("Nobody")
            await server.kill()
            await it.until("reconnecting…")
            it.type("\x03")
            await trio.sleep(0.1)  # two keys of one hand; were they one signal, there would be no second
            it.type("\x03")
            await it.until("left")
            assert await it.end() == 130


async def test_sigterm_leaves_without_cancelling(database: TestDatabase) -> None:
    """A person who returns sees the answer from its beginning."""
    async with running(database.app_url) as server:
        words = ("chat", "long", "--url", server.url, "-p", "tokens=60", "-p", "rate=20")
        async with on_terminal(*words) as it:
            await it.until("Nobody")
            it.send_signal(signal.SIGTERM)
            assert await it.end() == 128 + signal.SIGTERM
        name = await _newest(server)
        async with on_terminal("chat", "--conversation", name, "--url", server.url) as back:
            await back.until("60 out")
            log = await read_log(f"{server.url}/v1/conversations/{name}/events")
            text = "".join(event["delta"] for event in log if event["type"] == "token")
            assert "".join(text.split()) in "".join(back.screen.text.split())
            await back.prompted()
            back.type("\x04")
            assert await back.end() == 0


async def test_escape_sequences_of_an_answer_are_shown_not_executed(database: TestDatabase) -> None:
    """By chat, tail and replay, also with `--json`."""
    async with listening(saying(RUDE, RUDE)) as port:
        env = {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "sk-test"}
        async with running(database.app_url, env) as server:
            words = ("chat", "hi", "--model", "openai/rude", "--url", server.url)
            piped = await tokentape(*words)
            assert piped.status == 0, piped.err
            assert piped.out == HARMLESS + "\n", "what the model thinks is no part of the answer"
            assert piped.err.startswith(MARKED + "\n")
            name = await _newest(server)
            tailed = await tokentape("tail", name, "--url", server.url, "--until-end")
            assert f"{MARKED}\n{HARMLESS}\n" in tailed.out
            replayed = await tokentape("replay", name, "--url", server.url, "--instant")
            assert f"{MARKED}\n{HARMLESS}\n" in replayed.out
            as_json = await tokentape("replay", name, "--url", server.url, "--instant", "--json")
            assert not any((ord(c) < 0x20 and c != "\n") or 0x7F <= ord(c) < 0xA0 for c in as_json.out)
            events = [json.loads(line) for line in as_json.out.splitlines()]
            for kind in ("token", "reasoning"):
                assert "".join(event["delta"] for event in events if event["type"] == kind) == "".join(RUDE)
            for command in (words, ("replay", name, "--url", server.url, "--instant"), (*words, "--markdown")):
                async with on_terminal(*command) as it:  # fails on any sequence that is not known to be ours
                    assert await it.end() == 0
                    assert it.screen.text.count("␛]0;owned␇␛[2J␛[31mred") == 2
                    assert it.screen.text.count("thinking: ") == 2


async def test_refused_question_gives_status_1_and_a_reason(database: TestDatabase) -> None:
    """Unknown model, wrong parameter, a run in progress; no traceback."""
    async with running(database.app_url) as server:
        url = ("--url", server.url)
        unknown = await tokentape("chat", "hi", "--model", "nope", *url)
        assert unknown.status == 1
        assert "unknown model 'nope'" in unknown.err
        wrong = await tokentape("chat", "hi", "-p", "rate=quick", *url, "--json")
        assert wrong.status == 1
        assert json.loads(wrong.err)["error"]["message"].startswith("parameters.rate")
        run = await ask(server.url, {"model": "demo", "parameters": {"tokens": 5000, "rate": 1}})
        busy = await tokentape("chat", "hi", "--conversation", run["conversation"], *url)
        assert busy.status == 1
        assert "still running" in busy.err
        async with http_client(server.url) as client:
            await client.post(f"/v1/generations/{run['id']}/cancel")
        await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
        assert "Traceback" not in unknown.err + wrong.err + busy.err


async def test_wrong_usage_gives_status_2() -> None:
    """Before any request is sent."""
    for words, said in (
        (("chat", "--again"), "--conversation"),
        (("chat", "hi", "-p", "rate"), "rate=20"),
        (("chat", "hi", "--conversation", "conv_x"), "conv_01JC"),
        (("chat", "hi", "--conversation", "gen_01M823R91SXRYD5PQFF3W82N5A"), "id of a generation"),
        (("chat",), "holds no question"),
    ):
        done = await tokentape(*words)
        assert done.status == 2, done
        assert said in done.err
