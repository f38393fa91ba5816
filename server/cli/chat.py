"""`tokentape chat`: a conversation at the terminal, or one question on the command line or from a pipe."""

import sys
from typing import Any

import click
import msgspec

from server.cli.chat_repl import Conversing
from server.cli.connection_options import connecting, patience_option, read_id
from server.cli.exit_codes import STATUSES
from server.client.address import Address


@click.command("chat", epilog=STATUSES, short_help="Ask a model and read the answer as it is written.")
@click.argument("question", required=False)
@click.option("--conversation", metavar="ID", help="go on with this conversation")
@click.option("--again", is_flag=True, help="ask the conversation's last question again, after a lost answer")
@click.option("--model", help="demo, openai/…, anthropic/…  [default: the conversation's last, else demo]")
@click.option("--system", metavar="TEXT", help="what the model is told before the question")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="a parameter of the model")
@click.option("--markdown", is_flag=True, help="render the answer as Markdown, where a person watches")
@click.option("--json", "as_json", is_flag=True, help="the answer as one event object a line")
@patience_option(60)
@connecting
def command(
    question: str | None,
    conversation: str | None,
    again: bool,
    model: str | None,
    system: str | None,
    params: tuple[str, ...],
    markdown: bool,
    as_json: bool,
    patience: float,
    address: Address,
) -> None:
    """Ask a model, and read the answer as it is written. Without QUESTION: a conversation.

    \b
      tokentape chat                                        talk; Ctrl-D leaves
      tokentape chat "Why tapes?" -p tokens=100 -p rate=20  one answer
      git diff | tokentape chat --model openai/gpt-5 --system "Review this."
      tokentape chat --conversation conv_…                  go on where you left
      tokentape chat --conversation conv_… --again          the last question once more

    Kill the server in the middle of a sentence and start it again: the answer goes on, or it says how it
    ended; nothing is shown twice and nothing is missing. Ctrl-C cancels the answer, which is recorded; once
    more leaves. Control characters in an answer are shown as pictures; with --json they are escaped.

    What a model thinks, and a call's arguments while it writes them, are dimmed and marked "thinking:" and
    "arguments of …:"; where no terminal is, they go to standard error, and standard output is the answer.
    """
    if again and conversation is None:
        raise click.BadParameter("in which conversation? name it with --conversation", param_hint="--again")
    if again and question is not None:
        raise click.BadParameter("the question is there already; leave one of both out", param_hint="--again")
    if conversation is not None:
        read_id(conversation, "conv")
    if question is None and not again and not sys.stdin.isatty():
        question = _read_question()
    talk = Conversing(
        address,
        patience=patience,
        conversation=conversation,
        model=model,
        system=system,
        parameters=dict(_parameter(text) for text in params),
        as_json=as_json,
        markdown=markdown,
    )
    if question is None and not again:
        talk.talk()
    else:
        talk.ask_once(question)


def _read_question() -> str:
    try:
        question = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"standard input is not {error.encoding} text") from None
    if not question.strip():
        raise click.UsageError("standard input holds no question")
    return question


def _parameter(text: str) -> tuple[str, Any]:
    """`rate=20` is a number, `stop=END` a text: what is JSON is read as JSON."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"{text!r} has to look like rate=20", param_hint="--param")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value
