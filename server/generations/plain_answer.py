"""A model's answer without tools: one request to the provider, and one more for each time that messages are put
into it.

The answer's text goes on in the same generation. When a message comes, the connection is closed, the round ends
with a `step.finished`, and the provider is asked again with what was said so far and with the message. So a later
attempt, which finds the rounds and the messages in the log, asks with the same prompts.

Almost no answer gets a message. So the first attempt at an answer without a budget reads nothing of its own
events: `AnswerLog` looks at the positions that its appends take, and reads only what stands between them. Must not
know tools or workflows.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial

import msgspec

from eventstore import Appended, Event, NewEvent
from eventstore.db_retry import retry_until_available
from server import event_types
from server.conversations.prompt import FirstPrompt
from server.event_types import EventType
from server.generations.run.message_inbox import MessageInbox
from server.generations.run.rounds import CUT, Round, rewritten, round_step
from server.generations.run.run_budget import RunBudget
from server.generations.run.run_log import PAGE, FencedWriter, RunLog
from server.generations.run.run_stats import RunStats
from server.generations.token_pump import AdaptiveBatching, pump_answer
from server.providers import Finish, Message, Prompt, Provider


class _Delta(msgspec.Struct):
    delta: str


_decode_delta = msgspec.json.Decoder(_Delta).decode


class AnswerLog:
    """The log as a plain answer writes and reads it. `budget`, with its run log, waits in the answer's stream."""

    def __init__(
        self, writer: FencedWriter, inbox: MessageInbox, run_log: RunLog | None, budget: RunBudget | None
    ) -> None:
        self.inbox = inbox
        self.budget = budget
        self._writer = writer
        self._run_log = run_log if budget is not None else None

    def listen(self) -> AbstractContextManager[None]:
        """Listens for messages while the context is open. The inbox knows the log up to its `position`."""
        read = self._read_on if self._run_log is None else self._run_log.read_on
        return self.inbox.listen(self._writer.store, self._writer.conversation, read)

    async def catch_up(self) -> None:
        """Reads what others wrote in front of the attempt's last event, which is its `generation.started`."""
        await self._read_gap(self._writer.position - 1)
        self.inbox.position = self._writer.position

    async def write(self, new: Sequence[NewEvent]) -> None:
        """Appends pieces of the answer, and returns when more of it may be read."""
        if self._run_log is not None and self.budget is not None:
            await self._run_log.write(new)
            await self.budget.wait_in_stream()
            return
        appended = await self._writer.write(new)
        if appended.first > self.inbox.position + 1:
            await self._read_gap(appended.first - 1)
        self.inbox.position = appended.last

    async def record(self, new: Sequence[NewEvent]) -> None:
        """Appends events that the inbox has to know, too."""
        if self._run_log is not None:
            await self._run_log.write(new)
            return
        appended: Appended = await self._writer.write(new)
        await self._read_gap(appended.first - 1)
        for position, event in enumerate(new, appended.first):
            self._note(position, event.type, event.tag, event.data)

    @property
    def position(self) -> int:
        """Of the attempt's last event."""
        return self._writer.position

    async def said_since(self, position: int) -> tuple[str, str]:
        """The text and the reasoning that the attempt has written behind a position."""
        text: list[str] = []
        reasoning: list[str] = []
        while position < self._writer.position:
            for event in await self._read(position, self._writer.position):
                position = event.position
                if event.tag == self._writer.generation and event.type == EventType.TOKEN:
                    text.append(_decode_delta(event.data).delta)
                elif event.tag == self._writer.generation and event.type == EventType.REASONING:
                    reasoning.append(_decode_delta(event.data).delta)
        return "".join(text), "".join(reasoning)

    async def _read_on(self) -> None:
        """Reads up to the log's head what others wrote, also while the answer writes."""
        store, conversation = self._writer.store, self._writer.conversation
        while True:
            known = self.inbox.position
            found = await store.read(conversation, known, PAGE, seen=known)
            self._note_all(found.events)
            if not found.events or found.events[-1].position >= found.head:
                return

    async def _read_gap(self, last: int) -> None:
        while self.inbox.position < last:
            self._note_all(await self._read(self.inbox.position, last))

    async def _read(self, after: int, last: int) -> Sequence[Event]:
        """Some events behind a position, up to `last`, which is in the log. Waits out an outage of the log."""
        store, conversation = self._writer.store, self._writer.conversation
        most = min(PAGE, last - after)
        found = await retry_until_available(partial(store.read, conversation, after, most, seen=last))
        if not found.events:
            raise RuntimeError(f"{conversation}: no event behind {after} of {found.head}")
        return found.events

    def _note_all(self, events: Sequence[Event]) -> None:
        for event in events:
            self._note(event.position, event.type, event.tag, event.data)

    def _note(self, position: int, kind: str, tag: str | None, data: str) -> None:
        if position > self.inbox.position:  # else another task has read it
            self.inbox.note(kind, tag, data)
            self.inbox.position = position


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """One attempt at an answer without tools. `model`: as clients name it."""

    log: AnswerLog
    generation: str
    provider: Provider
    model: str
    stats: RunStats
    batching: AdaptiveBatching

    async def answer(self, first: FirstPrompt, earlier: Sequence[Round]) -> Finish:
        """Asks the provider until it has answered to the end and no message waits.

        `earlier`: the rounds that earlier attempts have finished. Returns how the last round ended, with the usage
        of all. Raises `UpstreamError`, `RunFailed`, `Fenced`, `StoreUnavailable`.
        """
        inbox, budget = self.log.inbox, self.log.budget
        prompt, usage = first.prompt, dict[str, int]()
        for number, round_ in enumerate(earlier):
            prompt = _with(prompt, *self._taken(number), *_said(round_.text))
            _add(usage, round_.usage)
            self.stats.add_usage(round_.usage)
            if again := rewritten(self.generation, round_):
                await self.log.record(again)
        number = len(earlier)
        while True:
            if budget is not None:
                await budget.wait()
            if inbox.waiting:
                await self.log.record(inbox.applied_events())
                continue
            prompt = _with(prompt, *self._taken(number))
            start = self.log.position
            finish = await pump_answer(
                self.log.write,
                self.generation,
                self.provider,
                prompt,
                self.stats,
                self.batching,
                model=self.model,
                inbox=inbox,
            )
            _add(usage, finish.usage)
            if finish.reason != CUT and not (finish.ended_well and inbox.waiting):
                return replace(finish, usage=usage or finish.usage)
            number += 1
            text, reasoning = await self.log.said_since(start)
            counts = dict(finish.usage) if finish.usage is not None else None
            round_ = Round(text, finish.reason, counts, reasoning=reasoning, prompt=first.position)
            step = event_types.step_finished(self.generation, round_step(number), asdict(round_))
            await self.log.record([step, *inbox.applied_events()])
            prompt = _with(prompt, *_said(text))

    def _taken(self, rounds: int) -> list[Message]:
        """The messages that were taken when so many rounds were over."""
        return [Message("user", one.content) for one in self.log.inbox.applied_after(rounds)]


def finished_rounds(run_log: RunLog) -> list[Round]:
    """The rounds of a plain answer that are in the log."""
    found: list[Round] = []
    while (step := round_step(len(found) + 1)) in run_log.steps:
        found.append(msgspec.convert(run_log.steps[step], Round))
    return found


def _with(prompt: Prompt, *messages: Message) -> Prompt:
    return replace(prompt, messages=(*prompt.messages, *messages)) if messages else prompt


def _said(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),) if text else ()


def _add(usage: dict[str, int], more: Mapping[str, int] | None) -> None:
    for name, count in (more or {}).items():
        usage[name] = usage.get(name, 0) + count
