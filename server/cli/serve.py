"""`tokentape serve`."""

from typing import Any

import click
import trio

from server import logs
from server.cli.main import read_settings, settings_options
from server.config import Settings
from server.serve import serve

NAMES = tuple(name for name in Settings.model_fields if not name.startswith("openai_"))


@click.command("serve")
@settings_options(*NAMES)
def command(**flags: Any) -> None:
    """Serve the API until SIGTERM or Ctrl-C.

    Without --database-url the server brings its own PostgreSQL, in --data-dir, and migrates it. With one,
    run `tokentape migrate` first.

    Models: `demo` needs nothing. `openai/<name>` speaks to OPENAI_BASE_URL (OpenAI, vLLM, Ollama, llama.cpp)
    with OPENAI_API_KEY.
    """
    settings = read_settings(flags)
    logs.configure(settings.log_format)

    def tell(url: str) -> None:
        click.echo(f"tokentape: serving on {url}  (stop with Ctrl-C)")

    trio.run(serve, settings, tell)
