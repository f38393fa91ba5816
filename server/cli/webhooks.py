"""`tokentape webhooks new-key`: makes the key pair that signs webhooks.

Owns the command and what it prints. It needs no server and no database: the private key goes into a setting, the
public key to receivers. The form of keys is in `server/config/webhook_signing_keys`.
"""

import json

import click

from server.cli.exit_codes import STATUSES
from server.config.webhook_signing_keys import new_signing_key


@click.group("webhooks", epilog=STATUSES, short_help="Make the key pair that signs webhooks.")
def command() -> None:
    """Make the key pair that signs webhooks, so that receivers need no secret to check them.

    \b
      tokentape webhooks new-key                                  a private key and its public key
      export TOKENTAPE_WEBHOOK_SIGNING_KEY=whsk_…                 the private one, for the servers alone
      tokentape serve
      curl http://127.0.0.1:8000/v1/webhooks/public-key           what receivers check with

    A webhook is a POST to an address that a request names (`"webhook": "https://…"`): when the generation ends,
    and with `"events": ["waiting", "ended"]` also whenever it waits for somebody.
    """


@command.command("new-key", epilog=STATUSES)
@click.option("--json", "as_json", is_flag=True, help='one object: {"private": "whsk_…", "public": "whpk_…"}')
def new_key(as_json: bool) -> None:
    """Make an Ed25519 key pair. It is stored nowhere: keep what is printed.

    The first line is the private key, for TOKENTAPE_WEBHOOK_SIGNING_KEY; whoever has it can sign in your name. The
    second is the public key, for receivers; it is no secret.

    \b
    To change the key, without a message that a receiver cannot check:
      1. set both, old first:  TOKENTAPE_WEBHOOK_SIGNING_KEY=whsk_old…,whsk_new…  (messages have both signatures)
      2. give receivers the new public key, beside the old one
      3. set the new key alone, then take the old public key from the receivers

    The servers' `v1` signature, with TOKENTAPE_WEBHOOK_SECRET, is sent beside it as long as that is set.
    """
    key = new_signing_key()
    if as_json:
        click.echo(json.dumps({"private": key.private_text, "public": key.public_text}))
        return
    click.echo(key.private_text)
    click.echo(key.public_text)
    click.echo("  The first is for TOKENTAPE_WEBHOOK_SIGNING_KEY, the second for receivers.", err=True)
