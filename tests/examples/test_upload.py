"""`examples/upload.js` against a server that errs, in a real browser: a file arrives, or the page says why not."""

from typing import Any

import pytest

from tests.harness.browser import CHROMIUM, NO_CHROMIUM, browsing

SEND = """
async (answers) => {
    const asked = [];
    window.fetch = async (address, { method, headers, body }) => {
        asked.push([address, method, headers, await body.text()]);
        const [status, text] = answers.shift();
        if (status === 0) throw new TypeError('Failed to fetch');
        return new Response(text, { status });
    };
    const { upload } = await import('/upload.js');
    const session = { headers: { Authorization: 'Bearer k' } };
    const file = new File(['%PDF-1.4'], 'report.pdf', { type: 'application/pdf' });
    const sent = await upload('http://s', file, session).catch((error) => [error.code, error.message]);
    return { asked, sent };
}
"""
WHOLE = [201, '{"digest": "ab"}']
CUT, NO_NETWORK = [201, '{"dige'], [0, ""]
DRAINING = [503, '{"code": "draining", "detail": "Come back later."}']
LARGE = [413, '{"code": "file_too_large", "detail": "33 MB are more than 32 MB."}']


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
@pytest.mark.parametrize(
    ("answers", "sent"),
    [
        ([WHOLE], {"digest": "ab"}),
        ([NO_NETWORK, CUT, DRAINING, [200, WHOLE[1]]], {"digest": "ab"}),
        ([NO_NETWORK, LARGE], ["file_too_large", "33 MB are more than 32 MB."]),
    ],
    ids=["taken", "taken in the end", "refused"],
)
async def test_it_is_sent_until_there_is_an_answer(pages: str, answers: list[Any], sent: Any) -> None:
    """With its bytes and the caller's key, each time; a refusal is told in the server's words."""
    async with browsing() as browser:
        await browser.desktop.do("goto", f"{pages}/upload.js")  # any address of that origin
        seen: dict[str, Any] = await browser.desktop.do("evaluate", SEND, answers)
        assert await browser.complaints() == []
    headers = {"Content-Type": "application/octet-stream", "Authorization": "Bearer k"}
    assert seen["asked"] == [["http://s/v1/files", "POST", headers, "%PDF-1.4"]] * len(answers)
    assert seen["sent"] == sent
