"""`examples/tape.js` against a server that errs: what it gives its page is the log, in order, once."""

from typing import Any

import pytest

from tests.examples.browsing import browsing
from tests.harness.browser import CHROMIUM, NO_CHROMIUM

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
