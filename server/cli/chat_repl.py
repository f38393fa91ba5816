"""The course of a conversation at the terminal: questions in, answers shown, the conversation's id kept."""

import os
import sys
from functools import partial
from typing import Any

import click
import trio

from server.cli.answer_view import Answering, Ended
from server.cli.exit_codes import FAILED, INTERRUPTED, Failed
from server.cli.terminal_escape import clean, clean_line
from server.client.address import Address
from server.client.api import Body, open_api
from server.client.patience import Patience

HELP = "/again asks the last question again   /quit leaves, as Ctrl-D does   Ctrl-C cancels an answer"
SHOWN = 2_000
"""Characters of the last answer shown when an old conversation is taken up."""


class Conversing:
    """One conversation. `conversation` is None until the first question is asked."""

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
        self._patience = Patience(patience)
        self.conversation = conversation
        self._model = model
        self._system = system
        self._parameters = parameters
        self._as_json = as_json
        self._markdown = markdown

    def ask_once(self, question: str | None) -> None:
        """One answer; None asks the last question again. Raises `Failed` when there was none."""
        if self.conversation is not None and self._model is None:
            self._take_up()
        ended = self._ask(question)
        while ended.lost and sys.stdin.isatty() and sys.stdout.isatty() and not self._as_json:
            if not click.confirm("Ask again?", default=True, err=True):
                break
            ended = self._ask(None)
        if self.conversation is not None:
            self._remark(f"go on with: tokentape chat --conversation {self.conversation}")
        self._judge(ended)

    def talk(self) -> None:
        """Until Ctrl-D, `/quit`, or a Ctrl-C with nothing to cancel, given twice."""
        if self.conversation is not None:
            self._show(self._take_up())
        else:
            self._fetch("/readyz")  # else the first question would be typed for nobody
        self._remark(f"{self._model or 'demo'} at {self._address.base}   /help")
        lost = warned = False
        while True:
            try:
                line = _read_line("again? › " if lost else "› ").strip()
            except KeyboardInterrupt:
                if warned:
                    self._remark("")
                    break
                warned = True
                self._remark("\nCtrl-C again leaves, as Ctrl-D does")
                continue
            except EOFError:
                self._remark("")
                break
            warned = False
            if line == "/quit":
                break
            if line == "/help" or (line.startswith("/") and line != "/again"):
                self._remark(HELP)
            elif line in ("", "/again"):
                if lost or (line and self.conversation is not None):
                    lost = self._ask_in_talk(None)
            else:
                lost = self._ask_in_talk(line)
        if self.conversation is not None:
            self._remark(f"go on later with: tokentape chat --conversation {self.conversation}")

    def _ask_in_talk(self, question: str | None) -> bool:
        """Whether the answer was lost, so that Enter asks again."""
        ended = self._ask(question)
        if ended.error is not None:
            self._remark(f"{ended.error.message}\n  {ended.error.next_step}".rstrip())
        if ended.signal is not None:
            self._judge(ended)
        if ended.lost:
            self._remark("Enter asks again; or say something else")
        return ended.lost is not None

    def _ask(self, question: str | None) -> Ended:
        body: Body = {"model": self._model or "demo", "parameters": self._parameters}
        if question is not None and self._system is not None:
            body["input"] = [{"role": "system", "content": self._system}, {"role": "user", "content": question}]
        elif question is not None:
            body["input"] = question
        own = f"/v1/conversations/{self.conversation}/generations"
        ended = self._answer(own if self.conversation else "/v1/generations", body)
        if ended.conversation is not None:
            self.conversation = ended.conversation
            self._system = None  # said once; it stands in the conversation now
        return ended

    def _answer(self, path: str, body: Body | None) -> Ended:
        answering = Answering(self._address, self._patience, as_json=self._as_json, markdown=self._markdown)
        self._patience.begin()
        return trio.run(partial(answering.run, path, body))

    def _take_up(self) -> Body:
        """The conversation's snapshot; its last model is gone on with, unless another one was named."""

        found = self._fetch(f"/v1/conversations/{self.conversation}")
        models = [one["model"] for one in found["generations"] if one["model"]]
        if self._model is None and models:
            self._model = models[-1]
        return found

    def _fetch(self, path: str) -> Body:
        async def fetch() -> Body:
            async with open_api(self._address, self._patience) as api:
                return await api.get(path)

        self._patience.begin()
        return trio.run(fetch)

    def _show(self, found: Body) -> None:
        """Where the conversation stands; an answer that is being written is shown to its end."""
        title = f" · {clean_line(found['title'])}" if found["title"] else ""
        self._remark(f"{self.conversation}{title} · {len(found['messages'])} messages")
        if found["messages"]:
            last = found["messages"][-1]
            self._remark(f"{clean_line(last.get('author') or last['role'])}: {clean(last['content'])[:SHOWN]}")
        if not found["generations"]:
            return
        newest = found["generations"][-1]
        if newest["status"] in ("queued", "running", "waiting"):
            ended = self._answer(f"/v1/generations/{newest['id']}", None)
            if ended.error is not None:
                raise ended.error
            if ended.signal is not None:
                self._judge(ended)
        elif said := newest["text"] or newest.get("refusal"):
            text = clean(said)
            self._remark("…" * (len(text) > SHOWN) + text[-SHOWN:])

    def _judge(self, ended: Ended) -> None:
        if ended.error is not None:
            raise ended.error
        if ended.signal is not None:
            raise Failed(128 + ended.signal)
        end = ended.end or {}
        if end.get("type") == "generation.cancelled":
            raise Failed(INTERRUPTED)
        if end.get("type") == "generation.failed":
            error = end["error"]
            again = f"tokentape chat --conversation {self.conversation} --again" if end["retryable"] else ""
            # Said already, but to people; a program gets it as an object.
            message = error["message"] if self._as_json else ""
            raise Failed(FAILED, error["code"], message, f"Ask again with: {again}" if again else "")

    def _remark(self, text: str) -> None:
        if not self._as_json:
            # Not even the reset that click puts behind a text without a style.
            click.echo(text if os.environ.get("NO_COLOR") else click.style(text, dim=True), err=True)


def _read_line(prompt: str) -> str:
    import readline  # noqa: F401  # editing and history for input()

    if sys.stdout.isatty():
        return input(prompt)
    click.echo(prompt, nl=False, err=True)
    return input()
