"""The food scanner on a network that drops 17 % of all requests, and what it makes of labels."""

import hashlib
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from PIL import ExifTags, Image, ImageChops

from examples.diabe_check.app import STAGES
from examples.diabe_check.label import draw_label
from examples.diabe_check.nutrition import make_table
from examples.diabe_check.text_recognition import UnreadablePicture, read_text
from tests.clients.api import Api, new_key
from tests.examples.conftest import ALLOWED
from tests.examples.dropping_proxy import dropping
from tests.examples.page_checks import check_page, needs_pages
from tests.harness.browser import browsing
from tests.harness.databases import TestDatabase
from tests.harness.fake_upstream import fake_upstream
from tests.harness.servers import ROOT, Server, running

DROPPED = 0.17
PHONES, EVERY = 12, 0.3
ON_THE_LABEL = {
    "Energy": 454,
    "Fat": 18.2,
    "of which saturates": 8.1,
    "Carbohydrate": 63.5,
    "of which sugars": 21.4,
    "Fibre": 5.6,
    "Protein": 6.8,
    "Salt": 0.73,
}
HELD_UPRIGHT = Image.Exif()
HELD_UPRIGHT[ExifTags.Base.Orientation] = 6  # the camera turned the pixels by a quarter, and says so
needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="tesseract is not installed (tools/test-needs installs it as root)"
)


async def until_answered(http: httpx2.AsyncClient, method: str, path: str, **request: Any) -> httpx2.Response:
    """Sends a request until it is answered, as the page does."""
    while True:
        try:
            return await http.request(method, path, **request)
        except httpx2.TransportError:
            await trio.sleep(0.02)


async def watch(http: httpx2.AsyncClient, path: str, seen: list[dict[str, Any]]) -> None:
    """A phone: polls until the scan has ended, and keeps nothing but the ETag."""
    tag = ""
    while not seen or seen[-1]["status"] not in ("completed", "failed"):
        answer = await until_answered(http, "GET", path, headers={"If-None-Match": tag} if tag else {})
        if answer.status_code == 200:
            tag = answer.headers["ETag"]
            seen.append(answer.json())
        await trio.sleep(EVERY)


@needs_tesseract
async def test_a_scan_over_a_network_that_drops_requests(database: TestDatabase) -> None:
    """Requested once, read once and asked of the model once, whatever gets lost; phones see what the log says."""
    seen: list[list[dict[str, Any]]] = [[] for _ in range(PHONES)]
    async with fake_upstream() as upstream:
        env = {
            "TOKENTAPE_WORKFLOWS": "examples.diabe_check.app",
            "OPENAI_BASE_URL": upstream.base_url,
            "OPENAI_API_KEY": "test-key",
        }
        async with running(database.app_url, env) as server, dropping(server.port, DROPPED, seed=3) as proxy:
            async with Api.open(proxy.port) as api:
                body = {"workflow": "diabe_check", "input": {"portion_grams": 30, "model": "openai/echo"}}
                headers = {"Idempotency-Key": new_key()}
                answers = [
                    await until_answered(api.http, "POST", "/v1/generations", json=body, headers=headers)
                    for _ in range(8)
                ]
                (run,) = {answer.headers["Location"] for answer in answers}
                async with trio.open_nursery() as nursery:
                    for phone in seen:
                        nursery.start_soon(watch, api.http, run, phone)
            async with Api.open(server.port) as api:
                log = await api.finished(run)
                for snapshot in {one["position"]: one for phone in seen for one in phone}.values():
                    assert await api.get(run, at=snapshot["position"]) == snapshot
            assert len(await upstream.log()) == 1
    assert DROPPED / 2 < proxy.dropped / proxy.requests < DROPPED * 2
    assert [event["stage"] for event in log if event["type"] == "progress"] == [*STAGES, "done"]
    assert [event["step"] for event in log if event["type"] == "step.finished"] == [
        "step read 1",
        "generate openai/echo 1/1",
    ]
    result = seen[0][-1]["result"]
    assert {row["name"]: row["per_100"] for row in result["rows"]} == ON_THE_LABEL
    assert (result["exchanges"], result["doubts"]) == (1.9, [])


@needs_tesseract
@needs_pages
async def test_its_page_on_a_phone_shows_the_log(server: Server, pages: str, tmp_path: Path) -> None:
    """A picture is sent; three stages, then the table; the address finds the scan again."""
    photo = tmp_path / "photo.jpg"
    sideways = Image.open(BytesIO(draw_label())).convert("RGB").rotate(90, expand=True)
    sideways.save(photo, exif=HELD_UPRIGHT)
    async with (
        dropping(server.port, DROPPED, seed=5) as proxy,
        browsing() as browser,
        Api.open(server.port) as api,
    ):
        ALLOWED.append(proxy.url)
        phone = browser.phone
        await phone.do("goto", f"{pages}/diabe_check/page.html?server={proxy.url}")
        await check_page(phone)
        await phone.do("set_input_files", "#start [name=picture]", str(photo))
        await phone.do("fill", "#start [name=portion]", "30")
        await phone.do("click", "#start button")
        await phone.see("#stages .works")
        await phone.see("#table")
        run = str(await phone.do("evaluate", "location.hash.slice(1)"))
        found = await api.get(f"/v1/generations/{run}")
        result = found["result"]
        assert found["input"]["picture"] == hashlib.sha256(photo.read_bytes()).hexdigest()
        assert await phone.do("evaluate", ROWS) == [
            [row["name"], f"{row['per_100']:g} {row['unit']}", f"{row['portion']:g} {row['unit']}"]
            for row in result["rows"]
        ]
        assert await phone.text("#exchanges") == "1.9 carbohydrate exchanges of 10 g"
        assert await phone.do("evaluate", "document.querySelectorAll('#stages .done').length") == len(STAGES)
        await check_page(phone)
        before = await phone.text("main")
        await phone.do("reload")
        await phone.see("#table")
        assert await phone.text("main") == before
        assert proxy.dropped > 0
        assert await browser.hosts() == ["", "127.0.0.1"], "and the blob: of the picture, which the page shows"
        assert await browser.complaints() == []


ROWS = "[...document.querySelectorAll('#table tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"


async def test_a_server_without_tesseract_says_how_to_install_it(database: TestDatabase) -> None:
    """To whoever sent the picture, in the answer's error."""
    env = {"TOKENTAPE_WORKFLOWS": "examples.diabe_check.app", "PATH": "/nonexistent"}
    async with running(database.app_url, env) as server, Api.open(server.port) as api:
        run = (await api.post("/v1/generations", {"workflow": "diabe_check", "input": {}})).headers["Location"]
        error = (await api.finished(run))[-1]["error"]
    assert "apt-get install tesseract-ocr" in error["message"]


@needs_tesseract
async def test_what_is_no_picture_with_text_is_refused() -> None:
    """Junk, a picture cut in the middle, one that is too large when unpacked, and one without text."""
    huge, white = BytesIO(), BytesIO()
    Image.new("1", (8_000, 8_000)).save(huge, "PNG")
    Image.new("L", (200, 200), 255).save(white, "PNG")
    for picture, why in (
        (b"junk", "no picture"),
        (draw_label()[:2_000], "no picture"),
        (huge.getvalue(), "8000 by 8000"),
        (white.getvalue(), "no text"),
    ):
        with pytest.raises(UnreadablePicture, match=why):
            await read_text(picture)


def test_the_pages_label_is_the_one_that_is_read() -> None:
    """`label.png`, beside the page, is what `label.py` draws."""
    drawn = Image.open(BytesIO(draw_label())).convert("L")
    shown = Image.open(ROOT / "examples" / "diabe_check" / "label.png").convert("L")
    # Another version of the font may smooth an edge in another way; no more than that.
    histogram = ImageChops.difference(drawn, shown).histogram()
    assert sum(histogram[64:]) == 0, "make it anew: python -m diabe_check.label label.png, in examples/"


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ("Energy 454 kcal\nFat 182 g\nCarbohydrate 63.5 g\nProtein 6.8 g", "more than 100 g"),
        (
            "Energy 454 kcal\nFat 18.2 g\nCarbohydrate 6.35 g\nof which sugars 21.4 g\nProtein 6.8 g",
            "more than the whole",
        ),
        ("Energy 454 kcal\nFat 1.8 g\nCarbohydrate 63.5 g\nProtein 6.8 g", "a number is misread"),
        ("Fat 18.2 g", "Carbohydrate was not found"),
    ],
)
def test_what_does_not_fit_is_in_doubt(text: str, doubt: str) -> None:
    assert doubt in " ".join(make_table(text, 100).doubts)


@pytest.mark.parametrize(
    "text",
    [
        "Energy 1902 kJ / 454 kcal\nFat 18.2 g 2.3 g\nof which saturates 8.1g\nCarbohydrate: 63.5 g\n"
        "of which sugars: 21.4 g\nFibre 5.6\nProtein 6.8\nSalt 0.73",
        "Energie 1902 kJ (454 kcal)\nFett 18,2 g\ndavon gesättigte Fettsäuren 8,1 g\nKohlenhydrate 63,5 g\n"
        "davon Zucker 21,4 g\nBallaststoffe 5,6 g\nEiweiß 6,8 g\nSalz 0,73 g",
        "Énergie 454 kcal\nMatières grasses 18,2 g\ndont acides gras saturés 8,1 g\nGlucides 63,5 g\n"
        "dont sucres 21,4 g\nFibres 5,6 g\nProtéines 6,8 g\nSel 0,73 g",
        "Energy 454 kcal\nFat 18.29 2.39\nof which saturates 8.19\nCarbohydrate 63.5g\nof which sugars 21.49\n"
        "Fibre 5.6g\nProtein 6.8g\nSalt 0.73g",
    ],
    ids=["English", "German", "French", "a g read as 9"],
)
def test_labels_are_understood(text: str) -> None:
    """In three languages, and with the mistake that Tesseract makes most."""
    table = make_table(text, 50)
    assert {row.name: row.per_100 for row in table.rows} == ON_THE_LABEL
    assert (table.exchanges, table.doubts) == (3.2, [])


def test_a_text_without_nutrients_has_no_table() -> None:
    with pytest.raises(ValueError, match="No nutrient"):
        make_table("Oat Biscuits\nBest before: see lid", 50)
