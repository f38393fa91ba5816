"""`Run`, the API of a workflow: what it can say, ask, wait for and look up while it runs.

Owns the methods that an app calls and the names under which they stand in the log. Each method returns when what
it did is in the log. Another process may take the run up again, from the beginning of the workflow's function:
finished steps, model answers and people's decisions are then taken from the log, in the order in which the
workflow names them; everything else happens anew. So what has an effect or costs money belongs into `step`, a tool
or `generate`. An app may catch `UpstreamError`; an exception that it lets through ends the run.

Must not know the web, the supervisor or how a run is started.
"""

import hashlib
import inspect
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

import trio

from server import event_types
from server.config.price_table import PriceTable
from server.conversations.conversation_state import APPROVAL_STEP_PREFIX, Conversation, Generation
from server.conversations.prompt import TranscriptMessage, transcript
from server.event_types import DEFAULT_TENANT
from server.files.memory_file_store import MemoryFileStore
from server.generations.agent_loop import AgentLoop, Generated
from server.generations.run.run_budget import RunBudget
from server.generations.run.run_files import RunFiles
from server.generations.run.run_log import RunLog
from server.generations.token_pump import AdaptiveBatching
from server.generations.tool_execution import expiry, wait_for_decision
from server.ids import new_id
from server.message_parts import Content, FilePart, TextPart, part_from_json
from server.providers import Message, Prompt, ProviderRegistry
from server.unicode_safety import find_hidden_characters, repair_text
from server.workflows import AnyTool, InjectedRun, Tool, Workflow, check_approvers, digest, to_jsonable

MAX_NAME = 100
"""Characters of a step's name."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided on `Run.approve`.

    `decision` is `approved`, `rejected` or `modified`. `arguments` are those to act on: as proposed, or as the
    person modified them. `by` is who decided.
    """

    decision: str
    arguments: Mapping[str, Any]
    reason: str | None
    by: str

    @property
    def approved(self) -> bool:
        """Whether to go on with `arguments`: they were approved or modified."""
        return self.decision != "rejected"


@dataclass(frozen=True, slots=True)
class RunResources:
    """What all runs of one process share. `read_conversation` waits out an outage of the log."""

    providers: ProviderRegistry
    tools: Mapping[str, Tool]
    batching: AdaptiveBatching
    read_conversation: Callable[[str], Awaitable[Conversation]]
    prices: PriceTable = field(default_factory=PriceTable)
    files: RunFiles = field(default_factory=lambda: RunFiles(MemoryFileStore()))


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that is being done: its run, how often each name was given within it, and what follows the names."""

    run: "Run"
    naming: tuple[Counter[str], str]


_step: ContextVar[_Step | None] = ContextVar("step", default=None)
"""The innermost step that the present task does; tasks that it starts are within the step, too."""


class Run(InjectedRun):
    """One run of a workflow. `input` is the request's, checked; `attempt` counts from 1."""

    def __init__(
        self,
        run_log: RunLog,
        found: Generation,
        attempt: int,
        workflow: Workflow | None,
        resources: RunResources,
        tenant: str = DEFAULT_TENANT,
    ) -> None:
        self.id = found.id
        self.conversation = found.conversation
        self.attempt = attempt
        self.input: Any = workflow.read_input(found.input) if workflow is not None else None
        self._run_log = run_log
        self._workflow = workflow
        self._resources = resources
        self._tenant = tenant
        self.budget = RunBudget(run_log, resources.prices)
        self._parameters = found.parameters
        self._names: Counter[str] = Counter()
        self._suffix = ""

    def inside(self, call: str) -> "Run":
        """The run as a tool is handed it: the names of its steps and approvals count within the call.

        A later attempt that does not run the call again would otherwise count the names anew, and take the call's
        steps and approvals for those of the workflow.
        """
        run = copy(self)
        run._names, run._suffix = Counter(), f" in {call}"
        return run

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The `parameters` of the request, as they came."""
        return self._parameters

    @property
    def steering(self) -> Any:
        """The parameters that people steer, as the workflow's model, as of the last event that this run wrote."""
        if self._workflow is None:
            return None
        return self._workflow.steering_model(self._run_log.steering)

    async def token(self, text: str) -> None:
        """Writes one `token` event; readers see it once it is durable.

        Raises `EventTooLarge` for more than 1 MiB, `StoreUnavailable` while the database is away, and `Fenced`
        where another process goes on with the run. The last two are not the app's fault: it lets them through.
        So does every method below that writes.
        """
        token = event_types.token(self.id, to_jsonable(text))
        event = event_types.check_event_size(token, "the text of run.token")
        self._run_log.stats.tokens_arrived(trio.current_time())
        await self._run_log.write([event])
        self._run_log.stats.tokens_committed(1)

    async def progress(self, done: float, total: float, unit: str, *, stage: str | None = None) -> None:
        """Writes how far the work is, such as "12 of 47 pages", in the optional `stage`.

        Raises `ValueError` where `done` or `total` is not a finite number from 0 on.
        """
        for given in (done, total):
            if not (math.isfinite(given) and given >= 0):  # JSON has no infinity: readers would get a null
                raise ValueError(f"progress counts with numbers from 0 on, not with {given!r}")
        event = event_types.progress(self.id, done, total, to_jsonable(unit), stage and to_jsonable(stage))
        await self._run_log.write([event_types.check_event_size(event, "run.progress")])

    async def step(self, name: str, do: Callable[..., Any]) -> Any:
        """Calls `do` at least once and returns its result (JSON), which is then in the log.

        An attempt that finds the result in the log returns it and does not call `do`. Between the end of `do` and
        the record of its result the process may die, or the database go away: the next attempt calls `do` again.
        So a service that must not act twice (a payment, a mail) has to recognise the repetition: where `do` takes
        one argument, it is called with an idempotency key, a text of ASCII characters that is the same in every
        attempt and no other step's: `lambda key: pay(amount, idempotency_key=key)`.

        `do` is async, or a plain function that runs in a thread. It may itself call methods of the run: the names
        that it gives count within the step. Steps of one name are told apart by their order, so steps that run
        side by side need names of their own. An exception of `do` comes through, and nothing is
        recorded. Raises `EventTooLarge` where the result is more than 1 MiB as JSON; it is not recorded then.
        """
        step = self._name("step", name)
        if step not in self._run_log.steps:
            call = with_key(do, idempotency_key(self.id, step))
            with self._run_log.stats.working(), self._naming_within(step):
                if inspect.iscoroutinefunction(do):
                    value = await call()
                else:
                    # In a tuple: trio refuses a coroutine that a thread returns, taking it for a forgotten await.
                    (value,) = await trio.to_thread.run_sync(lambda: (call(),), abandon_on_cancel=True)
                    if inspect.isawaitable(value):
                        value = await value
            event = event_types.step_finished(self.id, step, to_jsonable(value))
            await self._run_log.write([event_types.check_event_size(event, f"the result of step {name!r}")])
        return self._run_log.steps[step]

    async def generate(
        self,
        model: str,
        messages: Sequence[Message | Mapping[str, Any] | TranscriptMessage] | str | None = None,
        *,
        tools: Iterable[Tool | str] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> Generated:
        """Asks a model. Its tokens are events of this run, and the tools that it calls are run.

        `messages` is a text, or a list of messages or of `{"role", "content"}`; without it, the conversation. A
        content is a text or a list of parts, as objects of the API (`{"type": "image", "file": digest}`) or as
        `TextPart`, `ImagePart` and `FilePart`.

        Before each request it waits where the generation has reached its budget, until somebody raises that.

        Raises `UpstreamError` where the provider, or the way to it, fails; `ValueError` for an unknown model or
        tool, or parameters or files that the provider would refuse. A run whose cost is bounded ends here, where
        the model has no price; and so does one that needs a file that is not there, or too many bytes of files.
        """
        provider, name = self._resources.providers.resolve(model)
        provider = self._resources.files.provider(provider, self._tenant)
        self.budget.check_model(model)
        if messages is None:
            messages = await self.context()
        elif isinstance(messages, str):
            messages = [Message("user", messages)]
        found = self._find_tools(tools)
        specs = tuple(one.spec() for one in found.values())
        asked = tuple([await self._message(one) for one in messages])
        prompt = Prompt(name, asked, dict(parameters or {}), tools=specs)
        provider.check(prompt)
        step = self._name("generate", model)
        loop = AgentLoop(self._run_log, step, provider, found, self.inside, self._resources.batching, self.budget)
        return await loop.generate(prompt)

    async def approve(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        expires: float | None = 3600.0,
        approvers: int = 1,
        another_person: bool = False,
    ) -> Decision:
        """Asks people, and waits (`status: waiting`) until one approves, rejects or modifies the arguments.

        After `expires` seconds the question counts as rejected, with the reason "expired"; None: never. A later
        attempt finds the decision in the log, if it asks with the same name, arguments and rule.

        `approvers`: so many different people have to approve, 1 to 5; one who rejects is enough. `another_person`:
        whoever asked for the generation may not approve. Raises `ValueError` for any other values of these.
        """
        wrong = check_approvers(approvers, another_person)
        if wrong is not None:
            raise ValueError(wrong)
        given = to_jsonable(dict(arguments or {}))
        asked = digest(given)
        # The name holds the arguments' digest and the rule: an earlier approval of other arguments, or by fewer
        # people than the app's code asks for now, does not count.
        rule = (f" of {approvers}" if approvers > 1 else "") + (" of another" if another_person else "")
        step = self._name(APPROVAL_STEP_PREFIX.strip(), name, f" {asked[:16]}{rule}")
        call = next((one.call for one in self._run_log.calls if one.step == step), None)
        if call is None:
            call = new_id("call")
            now = await self._run_log.clock() if expires is not None else None
            proposed = event_types.tool_proposed(
                self.id,
                call,
                name=to_jsonable(name),
                arguments=given,
                arguments_digest=asked,
                needs_approval=True,
                step=step,
                expires_at=expiry(now, expires) if now is not None else None,
                hidden_characters=find_hidden_characters(name, given),
                approvers=approvers,
                another_person=another_person,
            )
            await self._run_log.write([event_types.check_event_size(proposed, "what run.approve asks")])
        await wait_for_decision(self._run_log, call)
        found = self._run_log.call(call)
        assert found.decision is not None
        assert found.by is not None
        return Decision(found.decision, found.arguments, found.reason, found.by)

    async def context(self) -> tuple[TranscriptMessage, ...]:
        """Everything said in the conversation until now, in order, also what came while this run went on."""
        return transcript(await self._resources.read_conversation(self.conversation), without=self.id)

    async def file(self, digest: str) -> bytes:
        """The bytes of a file that the input names (`FileRef`), or that a message has (`FilePart.digest`).

        A run that needs a file which is not there ends here, with the code `file_unknown`.
        """
        return await self._resources.files.read(self._tenant, str(digest))

    async def _message(self, given: Message | Mapping[str, Any] | TranscriptMessage) -> Message:
        if isinstance(given, Message):
            return given
        if isinstance(given, TranscriptMessage):
            return Message(given.role, given.content)
        content = await self._resources.files.look_up(self._tenant, _content(given["content"]))
        return Message(repair_text(str(given["role"])), content)

    def _name(self, kind: str, name: str, about: str = "") -> str:
        if not 0 < len(name) <= MAX_NAME:
            raise ValueError(f"a step's name has 1 to {MAX_NAME} characters")
        step = _step.get()
        names, suffix = (self._names, self._suffix) if step is None or step.run is not self else step.naming
        key = f"{kind} {to_jsonable(name)}{about}"
        names[key] += 1
        return f"{key} {names[key]}{suffix}"

    @contextmanager
    def _naming_within(self, step: str) -> Iterator[None]:
        """While a step is being done, the names that its task gives count within it.

        1. The first attempt does the steps "page 1" and "page 2", each of which asks a model. 2. A later attempt
        finds "page 1" in the log and skips it. Counted in the whole run, the first question of "page 2" would
        then have the name of that of "page 1", and be given its answer. The same holds for approvals.
        """
        token = _step.set(_Step(self, (Counter(), f" in {step}")))
        try:
            yield
        finally:
            _step.reset(token)

    def _find_tools(self, tools: Iterable[Tool | str]) -> dict[str, AnyTool]:
        found: dict[str, AnyTool] = {}
        for one in tools:
            if isinstance(one, str) and one not in self._resources.tools:
                known = ", ".join(self._resources.tools) or "none"
                raise ValueError(f"there is no tool {one!r}; loaded: {known}")
            tool = self._resources.tools[one] if isinstance(one, str) else one
            if found.setdefault(tool.name, tool) is not tool:
                raise ValueError(f"two tools are called {tool.name}")
        return found


def idempotency_key(generation: str, step: str) -> str:
    """The key by which the service that a step calls recognises the same step of a later attempt.

    ASCII without spaces and at most 150 characters, so that it may stand in a header; a step whose name does not
    allow that is named by a hash.
    """
    plain = step.isascii() and len(step) <= MAX_NAME and all(one.isalnum() or one in " ._-" for one in step)
    name = quote(step) if plain else hashlib.sha256(step.encode()).hexdigest()
    return f"{generation}/{name}"


def with_key(do: Callable[..., Any], key: str) -> Callable[[], Any]:
    """`do` as a call without arguments: the key is passed where `do` has exactly one required argument."""
    try:
        parameters = inspect.signature(do).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return do
    required = [
        one
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if len(required) != 1:
        return do
    (argument,) = required
    return partial(do, **{argument.name: key}) if argument.kind is argument.KEYWORD_ONLY else partial(do, key)


def _content(given: Any) -> Content:
    """The content of a message that an app wrote. Raises `ValueError` where a part of it is none."""
    if not isinstance(given, list | tuple):
        return repair_text(str(given))
    return tuple(
        one if isinstance(one, TextPart | FilePart) else part_from_json(to_jsonable(one)) for one in given
    )
