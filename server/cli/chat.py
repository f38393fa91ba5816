"""`tokentape chat`: a conversation at the terminal, or one question on the command line or from a pipe.

Owns the command, the loop of questions and answers, and the id of the conversation. How one answer is shown and
cancelled is `AnswerView`'s; it must not know how requests are sent or resumed.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
import trio

from server.cli.exit_codes import BAD_USAGE, FAILED, INTERRUPTED, STATUSES, Failed
from server.cli.main import connection_options, patience_option, read_id
from server.cli.terminal.answer_view import AnswerOutcome, AnswerView
from server.cli.terminal.event_format import content_text, counted
from server.client.api import Body, ReconnectPolicy, open_api
from server.client.errors import ClientError
from server.client.server_url import Address
from server.unicode_safety import escape_controls, escape_line

HELP = (
    "/image PATH sends a file with the next question   /again asks the last question again\n"
    "/quit leaves, as Ctrl-D does   Ctrl-C cancels an answer"
)
MAX_NAME = 255
"""Characters of a file's name that are sent: the last ones, which tell its type."""
MAX_SHOWN_CHARACTERS = 2_000
"""How much of the last message and the last answer is shown when a conversation is continued."""


@click.command("chat", epilog=STATUSES, short_help="Ask a model and read the answer as it is written.")
@click.argument("question", required=False)
@click.option("--conversation", metavar="ID", help="continue this conversation")
@click.option("--again", is_flag=True, help="ask the conversation's last question again, after a lost answer")
@click.option("--model", help="demo, openai/…, anthropic/…  [default: the conversation's last, else demo]")
@click.option("--system", metavar="TEXT", help="the system message, sent before the question")
@click.option(
    "--image",
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="an image, or another file, to send with the question",
)
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="a parameter of the model")
@click.option("--markdown", is_flag=True, help="render the answer as Markdown on a terminal")
@click.option("--json", "as_json", is_flag=True, help="the answer as one event object a line")
@patience_option(60)
@connection_options
def command(
    question: str | None,
    conversation: str | None,
    again: bool,
    model: str | None,
    system: str | None,
    files: tuple[Path, ...],
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
      tokentape chat "What is this?" --image photo.png      a question about an image
      tokentape chat --conversation conv_…                  continue a conversation
      tokentape chat --conversation conv_… --again          ask the last question again

    If the server is killed in the middle of a sentence and started again, the answer continues where it
    stopped, or the command says how it ended; nothing is shown twice and nothing is missing. Ctrl-C cancels
    the answer, and the log records that; a second Ctrl-C leaves. Control characters in an answer are shown as
    pictures; with --json they are escaped.

    The model's reasoning, and the arguments of a tool call while the model writes them, are dimmed and marked
    "thinking:" and "arguments of …:". Without a terminal they go to standard error, and standard output holds
    only the answer.
    """
    if again and conversation is None:
        raise click.BadParameter("it needs the conversation: name it with --conversation", param_hint="--again")
    if again and question is not None:
        raise click.BadParameter(
            "it asks the last question again; give either a question or --again", param_hint="--again"
        )
    if again and files:
        raise click.BadParameter("the last question has its own files", param_hint="--image")
    if conversation is not None:
        read_id(conversation, "conv")
    if question is None and not again and not sys.stdin.isatty():
        question = _read_question()
    session = ChatSession(
        address,
        patience=patience,
        conversation=conversation,
        model=model,
        system=system,
        parameters=dict(_parameter(text) for text in params),
        as_json=as_json,
        markdown=markdown,
    )
    for path in files:
        session.attach(path)
    if question is None and not again:
        session.talk()
    else:
        session.ask_once(question)


def _read_question() -> str:
    try:
        question = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"standard input is not {error.encoding} text") from None
    if not question.strip():
        raise click.UsageError("standard input holds no question")
    return question


def _parameter(text: str) -> tuple[str, Any]:
    """Parses NAME=VALUE. The value is read as JSON if it is JSON (`rate=20`), else as text (`stop=END`)."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"{text!r} has to look like rate=20", param_hint="--param")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value


class ChatSession:
    """One conversation. `conversation`: its id, None until the first question is sent.

    `attached`: the parts of files that were uploaded and go with the next question.
    """

    def __init__(
        self,
        address: Address,
        *,
        patience: float,
        conversation: str | None,
        model: str | None,
        system: str | None,
        parameters: dict[str, Any],
        as_json: bool,
        markdown: bool,
    ) -> None:
        self._address = address
        self._reconnect_policy = ReconnectPolicy(patience)
        self.conversation = conversation
        self._model = model
        self._system = system
        self._parameters = parameters
        self._as_json = as_json
        self._markdown = markdown
        self.attached: list[Body] = []

    def attach(self, path: Path) -> None:
        """Uploads a file, which goes with the next question. Raises `Failed`, `ClientError`."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Failed(BAD_USAGE, "unreadable_file", f"{path}: {error.strerror}") from None

        async def upload() -> Body:
            async with open_api(self._address, self._reconnect_policy) as api:
                return await api.upload(data)

        self._reconnect_policy.begin()
        found = trio.run(upload)
        image = found["media_type"].startswith("image/")
        named: Body = {"type": "image"} if image else {"type": "file", "name": path.name[-MAX_NAME:]}
        self.attached.append({**named, "file": found["digest"]})
        self._print_dimmed(content_text([{**found, **named}]))

    def ask_once(self, question: str | None) -> None:
        """Asks one question and shows the answer; None asks the last question again.

        Raises `Failed` when the answer was not completed.
        """
        if self.conversation is not None and self._model is None:
            self._fetch_conversation()
        outcome = self._ask(question)
        while outcome.lost and sys.stdin.isatty() and sys.stdout.isatty() and not self._as_json:
            if not click.confirm("Ask again?", default=True, err=True):
                break
            outcome = self._ask(None)
        if self.conversation is not None:
            self._print_dimmed(f"go on with: tokentape chat --conversation {self.conversation}")
        self._raise_failure(outcome)

    def talk(self) -> None:
        """Asks and answers until Ctrl-D, `/quit`, or two times Ctrl-C while there is no answer to cancel."""
        if self.conversation is not None:
            self._print_conversation(self._fetch_conversation())
        else:
            # Fails before the person types a question if no server answers, or if it wants another key.
            self._fetch("/v1/conversations", limit=1)
        self._print_dimmed(f"{self._model or 'demo'} at {self._address.base}   /help")
        lost = warned = False
        while True:
            try:
                line = _read_line("again? › " if lost else "› ").strip()
            except KeyboardInterrupt:
                if warned:
                    self._print_dimmed("")
                    break
                warned = True
                self._print_dimmed("\nCtrl-C again leaves, as Ctrl-D does")
                continue
            except EOFError:
                self._print_dimmed("")
                break
            warned = False
            if line == "/quit":
                break
            if line.startswith(("/image ", "/file ")):
                self._try_to_attach(line.partition(" ")[2].strip())
            elif line == "/help" or (line.startswith("/") and line != "/again"):
                self._print_dimmed(HELP)
            elif line in ("", "/again"):
                if lost or (line and self.conversation is not None):
                    lost = self._ask_and_report(None)
            else:
                lost = self._ask_and_report(line)
        if self.conversation is not None:
            self._print_dimmed(f"go on later with: tokentape chat --conversation {self.conversation}")

    def _try_to_attach(self, path: str) -> None:
        try:
            self.attach(Path(path).expanduser())
        except (ClientError, Failed) as error:
            self._print_dimmed(f"{error.message}\n  {error.next_step}".rstrip())

    def _ask_and_report(self, question: str | None) -> bool:
        """Asks, and prints what went wrong. Returns whether the answer was lost, so that Enter asks again."""
        outcome = self._ask(question)
        if outcome.error is not None:
            self._print_dimmed(f"{outcome.error.message}\n  {outcome.error.next_step}".rstrip())
        if outcome.signal is not None:
            self._raise_failure(outcome)
        if outcome.lost:
            self._print_dimmed("Enter asks again; or say something else")
        return outcome.lost is not None

    def _ask(self, question: str | None) -> AnswerOutcome:
        body: Body = {"model": self._model or "demo", "parameters": self._parameters}
        if question is not None:
            body["input"] = self._input(question, self.attached)
        own = f"/v1/conversations/{self.conversation}/generations"
        outcome = self._answer(own if self.conversation else "/v1/generations", body)
        if outcome.conversation is not None:
            self.conversation = outcome.conversation
            self._system = None  # sent once: it is part of the conversation from now on
            self.attached = []
        return outcome

    def _input(self, question: str, files: Sequence[Body]) -> str | list[Body]:
        if self._system is None and not files:
            return question
        content = [{"type": "text", "text": question}, *files] if files else question
        told = [{"role": "system", "content": self._system}] if self._system is not None else []
        return [*told, {"role": "user", "content": content}]

    def _answer(self, path: str, body: Body | None) -> AnswerOutcome:
        view = AnswerView(self._address, self._reconnect_policy, as_json=self._as_json, markdown=self._markdown)
        self._reconnect_policy.begin()
        return trio.run(partial(view.run, path, body))

    def _fetch_conversation(self) -> Body:
        """Fetches the conversation's snapshot, and takes its last model unless another one was named."""
        found = self._fetch(f"/v1/conversations/{self.conversation}")
        models = [one["model"] for one in found["generations"] if one["model"]]
        if self._model is None and models:
            self._model = models[-1]
        return found

    def _fetch(self, path: str, **params: int) -> Body:
        async def fetch() -> Body:
            async with open_api(self._address, self._reconnect_policy) as api:
                return await api.get(path, **params)

        self._reconnect_policy.begin()
        return trio.run(fetch)

    def _print_conversation(self, found: Body) -> None:
        """Prints the last message and answer; an answer that is still being written is shown to its end."""
        title = f" · {escape_line(found['title'])}" if found["title"] else ""
        self._print_dimmed(f"{self.conversation}{title} · {counted(len(found['messages']), 'message')}")
        if found["messages"]:
            last = found["messages"][-1]
            author = escape_line(last.get("author") or last["role"])
            self._print_dimmed(f"{author}: {content_text(last['content'])[:MAX_SHOWN_CHARACTERS]}")
        if not found["generations"]:
            return
        newest = found["generations"][-1]
        if newest["status"] in ("queued", "running", "waiting"):
            outcome = self._answer(f"/v1/generations/{newest['id']}", None)
            if outcome.error is not None:
                raise outcome.error
            if outcome.signal is not None:
                self._raise_failure(outcome)
        elif answer := newest["text"] or newest.get("refusal"):
            text = escape_controls(answer)
            self._print_dimmed("…" * (len(text) > MAX_SHOWN_CHARACTERS) + text[-MAX_SHOWN_CHARACTERS:])

    def _raise_failure(self, outcome: AnswerOutcome) -> None:
        """Raises what went wrong with an answer: it sets the exit status. Returns if it was completed."""
        if outcome.error is not None:
            raise outcome.error
        if outcome.signal is not None:
            raise Failed(128 + outcome.signal)
        end = outcome.end or {}
        if end.get("type") == "generation.cancelled":
            raise Failed(INTERRUPTED)
        if end.get("type") == "generation.failed":
            error = end["error"]
            again = f"tokentape chat --conversation {self.conversation} --again" if end["retryable"] else ""
            # People have read the message already; a program gets it as an object.
            message = error["message"] if self._as_json else ""
            raise Failed(FAILED, error["code"], message, f"Ask again with: {again}" if again else "")

    def _print_dimmed(self, text: str) -> None:
        if not self._as_json:
            # Plain text with NO_COLOR: click would add a reset sequence even to text without a style.
            click.echo(text if os.environ.get("NO_COLOR") else click.style(text, dim=True), err=True)


def _read_line(prompt: str) -> str:
    import readline  # noqa: F401  # editing and history for input()

    if sys.stdout.isatty():
        return input(prompt)
    click.echo(prompt, nl=False, err=True)
    return input()
