"""`tokentape webhooks new-key`: what it prints is what the setting takes, and the help says what to do with it."""

import json

from server.config.webhook_signing_keys import parse_signing_keys
from tests.cli.command_runner import tokentape


async def test_a_new_key_is_printed_for_the_setting_and_for_receivers() -> None:
    made = await tokentape("webhooks", "new-key")
    assert made.status == 0
    private, public = made.out.splitlines()
    (key,) = parse_signing_keys(private)
    assert key.public_text == public
    assert "TOKENTAPE_WEBHOOK_SIGNING_KEY" in made.err
    assert private not in made.err
    again = await tokentape("webhooks", "new-key", "--json")
    found = json.loads(again.out)
    assert parse_signing_keys(found["private"])[0].public_text == found["public"] != public


async def test_help_teaches_the_setting_and_the_change_of_keys() -> None:
    group = (await tokentape("webhooks", "--help")).out
    for word in ("tokentape webhooks new-key", "export TOKENTAPE_WEBHOOK_SIGNING_KEY", "/v1/webhooks/public-key"):
        assert word in group
    command = (await tokentape("webhooks", "new-key", "--help")).out
    for word in ("To change the key", "old first", "whsk_old…,whsk_new…"):
        assert word in command


async def test_a_setting_that_is_no_key_is_refused_without_showing_it() -> None:
    private = (await tokentape("webhooks", "new-key")).out.splitlines()[0]
    wrong = private[:-8] + "AAAAAA=="
    shown = await tokentape("config", env={"TOKENTAPE_WEBHOOK_SIGNING_KEY": f"{private},{wrong}"})
    assert shown.status == 2
    assert "TOKENTAPE_WEBHOOK_SIGNING_KEY = (not shown): key 2 is damaged" in " ".join(shown.err.split())
    good = await tokentape("config", env={"TOKENTAPE_WEBHOOK_SIGNING_KEY": private})
    assert good.status == 0
    for text in (shown.out, shown.err, good.out, good.err):
        assert private[5:] not in text
        assert wrong[5:] not in text
