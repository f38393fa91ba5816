"""`tokentape serve`: the command around the server, and what it says to the person who starts it."""

import ipaddress
import os
from typing import Any

import click
import trio

from server import logs
from server.cli.main import read_settings, settings_options
from server.config import OWN
from server.http import Listener
from server.serve import serve


@click.command("serve")
@settings_options(*OWN)
def command(**flags: Any) -> None:
    """Serve the API until SIGTERM or Ctrl-C.

    Without --database-url the server brings its own PostgreSQL, in --data-dir, and migrates it. With one,
    run `tokentape migrate` first, or give --migrate: one of all that start at once migrates, and all serve.

    With --tls it speaks HTTPS and HTTP/2, with a certificate that it makes for this machine; with --certfile
    and --keyfile, with yours.

    Models: `demo` needs nothing. `openai/<name>` speaks to OPENAI_BASE_URL (OpenAI, vLLM, Ollama, llama.cpp)
    with OPENAI_API_KEY, `anthropic/<name>` to ANTHROPIC_BASE_URL with ANTHROPIC_API_KEY; both through
    HTTPS_PROXY, where that is set and NO_PROXY does not have them.
    """
    settings = read_settings(flags)
    logs.configure(settings.log_format)
    if os.geteuid() == 0 and not is_loopback(settings.bind):
        logs.get("serve").warning(
            "running as root with a port on the network",
            bind=settings.bind,
            next_step="start it as a user of its own: it needs none of root's rights, and workflows have them",
        )

    def tell(listener: Listener) -> None:
        click.echo(f"tokentape: serving on {listener.url}  (stop with Ctrl-C)")
        if listener.tls is not None and listener.tls.authority is not None:
            click.echo(f"  clients trust {listener.tls.authority}: curl --cacert, tokentape chat --cacert")

    trio.run(serve, settings, tell)


def is_loopback(bind: str) -> bool:
    """Whether only this machine reaches an address to listen on, as `TOKENTAPE_BIND` has it."""
    host = bind.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
