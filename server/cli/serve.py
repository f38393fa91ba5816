"""`tokentape serve`: the command around the server, and what it prints when the server has started.

The server itself is in `server/process/lifecycle.py`.
"""

import os
from typing import Any

import click
import trio

from server.cli.main import read_settings, settings_options
from server.config import OWN
from server.config.web_addresses import is_loopback
from server.http import Listener
from server.observability import logs
from server.process.lifecycle import serve


@click.command("serve")
@settings_options(*OWN)
def command(**flags: Any) -> None:
    """Serve the API until SIGTERM or Ctrl-C.

    Without --database-url the server runs its own PostgreSQL, in --data-dir, and migrates it. With
    --database-url, run `tokentape migrate` first, or give --migrate: of several servers that start at once,
    one migrates, and then all serve.

    With --tls it serves HTTPS and HTTP/2, with a certificate that it makes for this machine; with --certfile
    and --keyfile it uses yours.

    Models: `demo` needs nothing. `openai/<name>` is requested from OPENAI_BASE_URL (OpenAI, vLLM, Ollama,
    llama.cpp) with OPENAI_API_KEY, `anthropic/<name>` from ANTHROPIC_BASE_URL with ANTHROPIC_API_KEY; both
    through HTTPS_PROXY, where that is set and NO_PROXY does not name the host.
    """
    settings = read_settings(flags)
    logs.configure(settings.log_format)
    if os.geteuid() == 0 and not is_loopback(settings.bind):
        logs.get("serve").warning(
            "running as root with a port on the network",
            bind=settings.bind,
            next_step="start it as a user of its own: it needs none of root's rights, and workflows have them",
        )

    def print_address(listener: Listener) -> None:
        click.echo(f"tokentape: serving on {listener.url}  (stop with Ctrl-C)")
        if listener.tls is not None and listener.tls.authority is not None:
            click.echo(f"  clients trust {listener.tls.authority}: curl --cacert, tokentape chat --cacert")

    trio.run(serve, settings, print_address)
