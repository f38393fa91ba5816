"""`examples/tape.js` against a server that errs: what it gives its page is the log, in order, once."""

import json
from typing import Any

import pytest

from tests.harness.browser import CHROMIUM, NO_CHROMIUM, browsing
from tests.test_unicode_safety_hidden import all_hidden

RIG = """
async () => {
    window.sockets = [];
    window.WebSocket = class {
        static OPEN = 1;
        constructor(address) { this.address = address; this.readyState = 1; this.sent = []; sockets.push(this); }
        send(text) { this.sent.push(JSON.parse(text)); }
        close() { this.readyState = 3; }
        say(...frames) { for (const frame of frames) this.onmessage({ data: JSON.stringify(frame) }); }
        tell(...positions) { this.say(...positions.map((position) => ({ kind: 'event', event: { position } }))); }
    };
    const { Tape } = await import('/tape.js');
    window.got = []; window.states = []; window.answers = [];
    const on = { event: (event) => got.push(event.position), state: (name) => states.push(name) };
    window.tape = new Tape('http://127.0.0.1:1', 'conv_x', on, 'Ada & Co');
}
"""
SCRIPT = """
async () => {
    const [first] = sockets;
    first.say({ kind: 'hello' });
    first.tell(1, 2, 2, 1, 3);
    first.tell(6, 7);                                  // a hole
    const resync = first.sent.at(-1);
    first.tell(8);                                     // was on its way
    first.say({ kind: 'reply', id: 'resync', status: 200, body: { after: 3 } });
    first.tell(4, 5, 6, 7, 8);
    tape.send('cancel', { generation: 'gen_x' }).then((body) => answers.push(body));
    const failing = tape.send('steer', { name: 'x' }).catch((error) => answers.push([error.code, error.message]));
    first.onclose({ code: 1006 });
    first.tell(9);                                     // had arrived before
    while (sockets.length < 2) await new Promise((done) => setTimeout(done, 10));
    const [, second] = sockets;
    first.tell(10);                                    // of a socket that was given up
    second.say({ kind: 'hello' });
    second.say({ kind: 'reply', id: 'c1', status: 200, body: 'done' });
    second.say({ kind: 'error', id: 'c2', code: 'not_steerable', detail: 'No.' }, { kind: 'caught_up' });
    await failing;
    second.onclose({ code: 4404, reason: 'not_found' });
    return { got, states, answers, resync, first: first.sent, second: second.sent, address: second.address };
}
"""


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
async def test_repeats_holes_and_cuts(pages: str) -> None:
    """A repeat is passed over, a hole is read again, a cut resumed; commands go again under their own keys."""
    async with browsing() as browser:
        await browser.desktop.do("goto", f"{pages}/service_bot/page.html")
        await browser.desktop.do("evaluate", RIG)
        seen: dict[str, Any] = await browser.desktop.do("evaluate", SCRIPT)
        assert await browser.complaints() == []
    assert seen["got"] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert seen["resync"] == {"id": "resync", "do": "resync", "after": 3}
    assert seen["address"] == "ws://127.0.0.1:1/v1/conversations/conv_x/ws?after=9&author=Ada+%26+Co"
    assert seen["states"] == ["connecting", "reading", "away", "connecting", "reading", "live", "over"]
    assert seen["answers"] == ["done", ["not_steerable", "No."]]
    assert [command["do"] for command in seen["first"]] == ["resync", "cancel", "steer"]
    assert seen["second"] == seen["first"][1:]
    keys = [command["key"] for command in seen["second"]]
    assert all(len(key) == 32 for key in keys)
    assert keys[0] != keys[1]


CLOSING = """
async () => {
    const { Tape } = await import('/tape.js');
    const made = () => {
        const states = [], events = [], errors = [];
        const on = { event: ({ position }) => events.push(position), state: (...state) => states.push(state) };
        const from = sockets.length;
        const tape = new Tape('http://127.0.0.1:1', 'conv_x', on);
        const mine = () => sockets.slice(from).filter((one) => !one.address.includes('author'));
        return { tape, states, events, errors, mine };
    };
    const report = async ({ states, events, errors, mine, tape }) => {
        const count = mine().length;
        dispatchEvent(new Event('online'));
        await new Promise((done) => setTimeout(done, 600));
        await tape.send('cancel', {}).catch((error) => errors.push(error.message));
        return { states, events, errors, again: mine().length - count, sent: mine().flatMap((one) => one.sent) };
    };
    const seen = {};
    const refused = made();
    refused.mine()[0].say({ kind: 'hello' });
    refused.mine()[0].tell(1, 3);
    refused.mine()[0].say({ kind: 'error', id: 'resync', code: 'cursor_expired', detail: 'Gone.' });
    refused.mine()[0].tell(4, 5, 6);
    seen.refused = await report(refused);

    const closed = made();
    closed.mine()[0].say({ kind: 'hello' });
    closed.mine()[0].tell(1);
    const waiting = closed.tape.send('steer', {}).catch((error) => closed.errors.push(error.message));
    closed.tape.close();
    closed.tape.close();
    closed.mine()[0].tell(2);
    await waiting;
    seen.closed = await report(closed);

    const away = made();                                // closed while its timer runs
    away.mine()[0].onclose({ code: 1006 });
    away.tape.close();
    seen.away = await report(away);
    return seen;
}
"""


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
async def test_an_end_is_one(pages: str) -> None:
    """A refused rewind, a page that closes it: no further connection, no event, no command left waiting."""
    async with browsing() as browser:
        await browser.desktop.do("goto", f"{pages}/service_bot/page.html")
        await browser.desktop.do("evaluate", RIG)
        seen: dict[str, Any] = await browser.desktop.do("evaluate", CLOSING)
        assert await browser.complaints() == []
    assert seen["refused"]["events"] == [1]
    assert [one["do"] for one in seen["refused"]["sent"]] == ["resync"], "refused once, it is not asked for again"
    assert seen["refused"]["states"][-1] == ["over", "cursor_expired"]
    assert seen["closed"]["events"] == [1]
    assert seen["closed"]["errors"] == ["Not answered: closed.", "The conversation is closed."]
    assert [name for name, *_ in seen["closed"]["states"]] == ["connecting", "reading", "over"]
    assert [name for name, *_ in seen["away"]["states"]] == ["connecting", "away", "over"]
    assert all(one["again"] == 0 for one in seen.values())


TAKEN = ["http://127.0.0.1:8000", "http://127.0.0.1:8001/x?y", "https://tape.example/", "HTTPS://Tape.Example:443"]
REFUSED = [
    *(
        "https://evil.example",
        "http://tape.example",
        "https://tape.example:8443",
        "https://tape.example.evil.example",
    ),
    *("https://tape.example@evil.example", "//evil.example", "", "nonsense", "javascript:1", "data:,x", "null"),
    *("http://127.0.0.1:8002", "http://localhost:8000", "blob:https://tape.example.evil/x", "http://127.1"),
]
HASHES = ["", "conv_01JC", "conv_x/../../x", "conv_%2e%2e", "gen_01JC", "conv_", "conv_a?b", "conv_a#b", "../x"]
ADDRESSES = """
async () => {
    const { serverOf, conversationOf } = await import('/tape.js');
    const got = (call) => { try { return call(); } catch (error) { return 'refused'; } };
    const page = 'http://127.0.0.1:8001/service_bot/page.html';
    const asked = (server) => new URL(`${page}?server=${encodeURIComponent(server)}`);
    const named = (server) => got(() => serverOf(asked(server), ['https://tape.example']));
    const behind = (hash) => got(() => conversationOf(new URL(`${page}#${hash}`)));
    return {
        none: serverOf(new URL(page)),
        taken: TAKEN.map(named),
        refused: REFUSED.map(named),
        conversations: HASHES.map(behind),
    };
}
"""


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
async def test_a_link_does_not_choose_whom_the_page_talks_to(pages: str) -> None:
    """Only itself, port 8000 of its host, and its list; and only a conversation's id gets into a path."""
    async with browsing() as browser:
        page = browser.desktop
        await page.do("goto", f"{pages}/service_bot/page.html?server=https://evil.example")
        await page.see("#trouble")
        assert "https://evil.example" in await page.text("#trouble")
        await page.do("goto", f"{pages}/smart_exam/grading.html#conv_x/../../../v1/x")
        await page.do("reload")
        await page.see("#trouble")
        script = ADDRESSES
        for name, values in (("TAKEN", TAKEN), ("REFUSED", REFUSED), ("HASHES", [*HASHES, f"conv_{'a' * 65}"])):
            script = script.replace(name, json.dumps(values))
        seen: dict[str, Any] = await page.do("evaluate", script)
        assert await browser.hosts() == ["127.0.0.1"]
        assert await browser.complaints() == []
    assert seen["none"] == "http://127.0.0.1:8000"
    assert seen["taken"] == [
        "http://127.0.0.1:8000",
        "http://127.0.0.1:8001",
        "https://tape.example",
        "https://tape.example",
    ]
    assert seen["refused"] == ["refused"] * len(REFUSED)
    assert seen["conversations"] == [None, "conv_01JC"] + ["refused"] * 8


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
async def test_what_nobody_would_see_is_shown(pages: str) -> None:
    """As in the terminal: every control, format and bidirectional character as an escape that JSON reads back."""
    script = r"""
    async () => {
        const { visible, hasUnseen } = await import('/visible.js');
        const codes = CODES.filter((code) => code !== 9 && code !== 10);
        const texts = codes.map((code) => String.fromCodePoint(code));
        const seen = 'é ש ع हि 日本 \u00a0\u3000 “…” → 😀 \n\t\\\\';
        return {
            left: codes.filter((_, at) => !hasUnseen(texts[at]) || visible(texts[at]).includes(texts[at])),
            differ: codes.filter((code, place) => JSON.parse(`"${visible(texts[place])}"`) !== texts[place]),
            kept: visible(seen) === seen && !hasUnseen(seen),
        };
    }
    """
    async with browsing() as browser:
        await browser.desktop.do("goto", f"{pages}/service_bot/page.html")
        seen: dict[str, Any] = await browser.desktop.do(
            "evaluate", script.replace("CODES", json.dumps(all_hidden()))
        )
    assert seen == {"left": [], "differ": [], "kept": True}
