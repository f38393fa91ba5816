"""What a workflow is handed: one run, with everything it can say, ask, wait for and look up.

Each method returns when what it did is in the log. A run may be taken up again by another process, from its
beginning: steps, models' answers and people's approvals are then taken from the log, in the order in which the
workflow names them, and everything else happens anew. So what has an effect, or costs, belongs into `step`, a tool
or `generate`. An app catches what it can mend (`UpstreamError`); what it lets through ends the run.
"""

import hashlib
import inspect
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import trio

from server import events
from server.generation.desk import Desk
from server.generation.figures import Figures
from server.generation.pace import Pace
from server.generation.prompt import Turn, turns_of
from server.generation.state import QUESTION, Conversation, Generation
from server.generation.toolwork import decided, expiry
from server.generation.turns import Asking, Generated, generate
from server.hidden_characters import hidden_characters
from server.ids import new as new_id
from server.upstream import Message, Prompt, Upstreams
from server.workflows import AnyTool, RunHandle, Tool, Workflow, clean, digest, to_jsonable

MOST_NAME = 100
"""Characters of a step's name."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided. `arguments` are those to act on: as proposed, or as the person modified them."""

    decision: str
    arguments: Mapping[str, Any]
    reason: str | None
    by: str

    @property
    def approved(self) -> bool:
        """Whether to go on, with `arguments`."""
        return self.decision != "rejected"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run has around it, in its process."""

    upstreams: Upstreams
    tools: Mapping[str, Tool]
    figures: Figures
    pace: Pace
    look: Callable[[], Awaitable[Conversation]]


class Run(RunHandle):
    """One run of a workflow. `input` is what was asked for, checked; `attempt` counts from 1."""

    def __init__(
        self, desk: Desk, found: Generation, attempt: int, workflow: Workflow | None, around: Surroundings
    ) -> None:
        self.id = found.id
        self.conversation = found.conversation
        self.attempt = attempt
        self.input: Any = workflow.read_input(found.input) if workflow is not None else None
        self._desk = desk
        self._workflow = workflow
        self._around = around
        self._parameters = found.parameters
        self._named: Counter[str] = Counter()
        self._where = ""

    def inside(self, call: str) -> "Run":
        """The run as a tool is given it: what it names counts within its call. Else, in a later attempt that
        does not run the call again, others would take its steps, and its approvals, for their own."""
        run = copy(self)
        run._named, run._where = Counter(), f" in {call}"
        return run

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The `parameters` of the request, as they came."""
        return self._parameters

    @property
    def steering(self) -> Any:
        """The parameters that people steer, as the workflow's model: as of the last event this run wrote."""
        if self._workflow is None:
            return None
        return self._workflow.steering_model(self._desk.steering)

    async def token(self, text: str) -> None:
        """Says something: one `token` event, seen by readers once it is durable. `EventTooLarge`: above 1 MiB."""
        event = events.bounded(events.token(self.id, clean(text)), "the text of run.token")
        self._around.figures.arrived(trio.current_time())
        await self._desk.write([event])
        self._around.figures.appended(1)

    async def progress(self, done: float, total: float, unit: str, *, stage: str | None = None) -> None:
        """Tells how far the work is: "12 of 47 pages". Raises `ValueError` for what is no number ≥ 0."""
        for given in (done, total):
            if not (math.isfinite(given) and given >= 0):  # JSON has no infinity: readers would get a null
                raise ValueError(f"progress counts with numbers from 0 on, not with {given!r}")
        event = events.progress(self.id, done, total, clean(unit), stage and clean(stage))
        await self._desk.write([events.bounded(event, "run.progress")])

    async def step(self, name: str, do: Callable[..., Any]) -> Any:
        """Does something at least once: its result (JSON) is in the log before this returns.

        An attempt that finds the result in the log takes it from there, and does not call `do`. Between the end
        of `do` and the record of its result the process may die, or the database go away: then the next attempt
        calls `do` again. So what must not happen twice (a payment, a mail) has to know its repetition: `do` is
        called with an idempotency key if it takes one argument, else with nothing. The key is a text of ASCII
        characters, the same in every attempt, and no other step's: `lambda key: pay(amount,
        idempotency_key=key)`.

        `do` is async, or plain and then run in a thread. What it raises comes through, and nothing is recorded.
        Steps of one name are told apart by their order, so those that are done side by side need names of their
        own. `EventTooLarge`: the result is more than 1 MiB as JSON, and was not recorded.
        """
        step = self._name("step", name)
        if step not in self._desk.steps:
            call = with_key(do, idempotency_key(self.id, step))
            with self._desk.figures.at_work():
                if inspect.iscoroutinefunction(do):
                    value = await call()
                else:
                    # In a tuple: trio takes a coroutine that comes out of a thread for a mistake.
                    (value,) = await trio.to_thread.run_sync(lambda: (call(),), abandon_on_cancel=True)
                    if inspect.isawaitable(value):
                        value = await value
            event = events.step_finished(self.id, step, to_jsonable(value))
            await self._desk.write([events.bounded(event, f"the result of step {name!r}")])
        return self._desk.steps[step]

    async def generate(
        self,
        model: str,
        messages: Sequence[Message | Mapping[str, Any] | Turn] | str | None = None,
        *,
        tools: Iterable[Tool | str] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> Generated:
        """Asks a model; what it says are tokens of this run, the tools it calls are carried out.

        `messages`: a text, or `{"role", "content"}` each; without, the conversation. Raises `UpstreamError`,
        and `ValueError` for a model, parameters or tools there are not.
        """
        upstream, name = self._around.upstreams.resolve(model)
        if messages is None:
            messages = await self.context()
        elif isinstance(messages, str):
            messages = [Message("user", messages)]
        found = self._found(tools)
        specs = tuple(one.spec() for one in found.values())
        prompt = Prompt(name, tuple(_message(one) for one in messages), dict(parameters or {}), tools=specs)
        upstream.check(prompt)
        step = self._name("generate", model)
        asking = Asking(self._desk, step, upstream, found, self.inside, self._around.figures, self._around.pace)
        return await generate(asking, prompt)

    async def approve(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, expires: float | None = 3600.0
    ) -> Decision:
        """Asks people: waits (`status: waiting`) until one approves, rejects or modifies the arguments.

        `expires`: seconds, after which it counts as rejected, with the reason "expired". None: never.
        """
        given = to_jsonable(dict(arguments or {}))
        asked = digest(given)
        # Named by what it asks, too: an approval of other arguments is none.
        step = self._name(QUESTION.strip(), name, f" {asked[:16]}")
        call = next((one.call for one in self._desk.calls if one.step == step), None)
        if call is None:
            call = new_id("call")
            now = await self._desk.clock() if expires is not None else None
            proposed = events.tool_proposed(
                self.id,
                call,
                name=clean(name),
                arguments=given,
                arguments_digest=asked,
                needs_approval=True,
                step=step,
                expires_at=expiry(now, expires) if now is not None else None,
                hidden_characters=hidden_characters(name, given),
            )
            await self._desk.write([events.bounded(proposed, "what run.approve asks")])
        await decided(self._desk, call)
        found = self._desk.call(call)
        assert found.decision is not None
        assert found.by is not None
        return Decision(found.decision, found.arguments, found.reason, found.by)

    async def context(self) -> tuple[Turn, ...]:
        """All that was said in the conversation up to now, in its order, what came while this runs too."""
        return turns_of(await self._around.look(), but=self.id)

    def _name(self, kind: str, name: str, about: str = "") -> str:
        if not 0 < len(name) <= MOST_NAME:
            raise ValueError(f"a step's name has 1 to {MOST_NAME} characters")
        key = f"{kind} {clean(name)}{about}"
        self._named[key] += 1
        return f"{key} {self._named[key]}{self._where}"

    def _found(self, tools: Iterable[Tool | str]) -> dict[str, AnyTool]:
        found: dict[str, AnyTool] = {}
        for one in tools:
            if isinstance(one, str) and one not in self._around.tools:
                known = ", ".join(self._around.tools) or "none"
                raise ValueError(f"there is no tool {one!r}; loaded: {known}")
            tool = self._around.tools[one] if isinstance(one, str) else one
            if found.setdefault(tool.name, tool) is not tool:
                raise ValueError(f"two tools are called {tool.name}")
        return found


def idempotency_key(generation: str, step: str) -> str:
    """By which whoever is asked to do something by a step knows that it was asked before.

    ASCII without spaces, and at most 150 characters, so that it may stand in a header: a step whose name is not of
    that kind is named by a hash.
    """
    plain = step.isascii() and len(step) <= MOST_NAME and all(one.isalnum() or one in " ._-" for one in step)
    named = quote(step) if plain else hashlib.sha256(step.encode()).hexdigest()
    return f"{generation}/{named}"


def with_key(do: Callable[..., Any], key: str) -> Callable[[], Any]:
    """The call of a step's function: with the key, if there is one argument that it cannot be called without."""
    try:
        parameters = inspect.signature(do).parameters.values()
    except (TypeError, ValueError):  # of a builtin, some of which have none
        return do
    given = [
        one
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if len(given) != 1:
        return do
    return partial(do, **{given[0].name: key}) if given[0].kind is given[0].KEYWORD_ONLY else partial(do, key)


def _message(given: Message | Mapping[str, Any] | Turn) -> Message:
    if isinstance(given, Message):
        return given
    if isinstance(given, Turn):
        return Message(given.role, given.content)
    return Message(clean(str(given["role"])), clean(str(given["content"])))
