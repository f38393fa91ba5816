"""One attempt at a generation, from its first event to its last, and the three executors that do its work.

Owns `Attempt` (one process's try at a generation), `run_attempt` (wait in the queue, write the start, execute,
write the end) and the executors: a model's answer, a model's answer with tools, a workflow. An executor returns
the events with which the generation ends well; what it raises says how the generation fails. It may be executed
again, by a later attempt whose predecessor's process is gone. An attempt that finds itself fenced writes nothing:
whoever fenced it has written the end, or goes on. Must not know clients or the web.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from eventstore import NewEvent, StoreError
from eventstore.db_retry import retry_until_available
from server import event_types
from server.conversations.conversation_state import Generation
from server.conversations.prompt import FirstPrompt
from server.event_types import EventTooLarge
from server.generations.agent_loop import AgentLoop
from server.generations.plain_answer import AnswerLog, PlainAnswer, finished_rounds
from server.generations.run.message_inbox import MessageInbox
from server.generations.run.rounds import Round
from server.generations.run.run_budget import RunBudget
from server.generations.run.run_errors import (
    RunFailed,
    failure_from,
    is_fault,
    log_with_reference,
    root_fault,
    see_log,
    terminal_failure,
)
from server.generations.run.run_log import FencedWriter, RunLog
from server.generations.run.run_stats import RunStats
from server.generations.run_context import Run, RunResources
from server.providers import BadParameters, Provider, UpstreamError
from server.workflows import AnyTool, BadInput, BadResult, Workflow

FIRST_EPOCH = 1
"""The epoch of a generation's request, which is also that of its first attempt."""


class Executor(Protocol):
    """Does the work of an attempt.

    `provider_name` is a label of the metrics, one of few values; `label` is what log lines call the work.
    """

    @property
    def provider_name(self) -> str: ...

    @property
    def label(self) -> str: ...

    async def execute(
        self, attempt: "Attempt", writer: FencedWriter, resources: RunResources
    ) -> Sequence[NewEvent]:
        """Does the work and returns the last events of the generation.

        Raises `UpstreamError`, `BadParameters`, `RunFailed`, `Fenced`, `StoreUnavailable`.
        """


async def no_queue() -> None:
    """The queue of an attempt that waits for no other generation."""
    await trio.lowlevel.checkpoint()


@dataclass(eq=False, slots=True)
class Attempt:
    """One process's attempt at a generation.

    `found` is the generation as it was requested or taken over; `number` counts its attempts from 1. `queue`
    returns when the attempt may start. `epoch` and `position` are those of the writer's last append: of the
    request, or of the takeover. `begun`: the attempt's `generation.started` is in the log. `queued`: it waits in
    its queue. `stopped_by`: the reason why this process stops it. `done` is set when nothing of it runs any more.
    `tenant`: of its conversation. `inbox`: the messages that people put into its answer.
    """

    found: Generation
    executor: Executor
    queue: Callable[[], Awaitable[None]] = no_queue
    number: int = 1
    epoch: int = FIRST_EPOCH
    position: int = 0
    begun: bool = False
    queued: bool = False
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    stats: RunStats = field(default_factory=RunStats)
    stopped_by: str | None = None
    tenant: str = event_types.DEFAULT_TENANT
    inbox: MessageInbox = field(default_factory=MessageInbox)

    @property
    def subject(self) -> str:
        """Who requested the generation."""
        return self.found.by

    @property
    def generation(self) -> str:
        """The generation's id."""
        return self.found.id

    @property
    def conversation(self) -> str:
        """The conversation's id, which is the name of its stream."""
        return self.found.conversation

    @property
    def waits(self) -> bool:
        """Whether the attempt does nothing just now: it waits in its queue, or for what people decide."""
        return self.queued or self.stats.only_waits

    @property
    def resumable(self) -> bool:
        """Whether another attempt may follow this one."""
        return self.found.may_follow(self.number if self.begun else self.number - 1)


async def run_attempt(attempt: Attempt, writer: FencedWriter, worker: str, resources: RunResources) -> None:
    """Runs an attempt to its end. A failure of the provider is an end too (`generation.failed`).

    Raises `Fenced` (the generation was ended, or taken over, by others) and `StoreUnavailable` (the log went away
    in the middle of the work). The start and the end wait for a log that is away: nothing is lost by that. The
    provider's connection is closed before the terminal event is appended; whoever reads that event may rely on it.
    """
    attempt.queued = attempt.queue is not no_queue
    await attempt.queue()
    attempt.queued = False
    if not attempt.begun:
        started = event_types.generation_started(attempt.generation, attempt.number, worker)
        await retry_until_available(partial(writer.write, [started]))
        attempt.begun = True
    attempt.stats.run_started(trio.current_time())
    try:
        events = await attempt.executor.execute(attempt, writer, resources)
    except (UpstreamError, BadParameters, RunFailed) as error:
        attempt.stats.failure, event = terminal_failure(attempt.generation, error)
        events = [event]
    await retry_until_available(partial(writer.write, events, last=True))
    attempt.stats.end_written()


@dataclass(frozen=True, slots=True)
class _ModelExecutor:
    """What both executors of a model's answer have in common.

    `prompt` is made when the attempt starts: everything said in the conversation until then belongs to it. Where
    an earlier attempt has finished rounds, it is made as of the position at which that one made it.
    """

    model: str
    provider: Provider
    prompt: Callable[[int | None], Awaitable[FirstPrompt]]

    @property
    def provider_name(self) -> str:
        """The provider's name: the model's, up to the first slash."""
        return self.model.partition("/")[0]

    @property
    def label(self) -> str:
        """The model as the client named it."""
        return self.model

    async def _first_prompt(self, earlier: Sequence[Round]) -> FirstPrompt:
        until = earlier[0].prompt if earlier else 0
        return await retry_until_available(partial(self.prompt, until or None))


class AnswerExecutor(_ModelExecutor):
    """A model's answer without tools."""

    __slots__ = ()

    async def execute(self, attempt: Attempt, writer: FencedWriter, resources: RunResources) -> Sequence[NewEvent]:
        """Asks the provider, and again where messages are put into the answer.

        The log is read where an earlier attempt may have left something there, and with a budget: somebody may
        raise it meanwhile.
        """
        run_log, budget = None, None
        if attempt.number > 1 or attempt.found.budget is not None:
            run_log = await _open_run_log(attempt, writer)
            if attempt.found.budget is not None:
                budget = RunBudget(run_log, resources.prices, self.model)
                budget.check_model(self.model)
                await budget.wait()
        earlier = finished_rounds(run_log) if run_log is not None else []
        first = await self._first_prompt(earlier)
        log = AnswerLog(writer, attempt.inbox, run_log, budget)
        if run_log is None:
            attempt.inbox.seed(first.waiting)
            attempt.inbox.position = first.position
        with log.listen():
            if run_log is None:
                await log.catch_up()
            answer = PlainAnswer(
                log, attempt.generation, self.provider, self.model, attempt.stats, resources.batching
            )
            finish = await answer.answer(first, earlier)
        cost = resources.prices.cost({self.model: finish.usage or {}})
        return [_completed(attempt, finish.reason, finish.usage, finish.refusal, cost=cost)]


@dataclass(frozen=True, slots=True)
class AgentExecutor(_ModelExecutor):
    """A model's answer that may call tools: the agent loop."""

    tools: Mapping[str, AnyTool]

    async def execute(self, attempt: Attempt, writer: FencedWriter, resources: RunResources) -> Sequence[NewEvent]:
        """Asks the provider until the model calls no tool."""
        run_log = await _open_run_log(attempt, writer)
        run = Run(run_log, attempt.found, attempt.number, None, resources, attempt.tenant)
        run.budget.check_model(self.model)
        loop = AgentLoop(
            run_log=run_log,
            step="answer",
            provider=self.provider,
            tools=self.tools,
            run_in_call=run.inside,
            batching=resources.batching,
            budget=run.budget,
            takes_messages=True,
        )
        try:
            first = await self._first_prompt(finished_rounds(run_log))
            with attempt.inbox.listen(writer.store, writer.conversation, run_log.read_on):
                said = await loop.generate(first.prompt, first.position)
        except BaseExceptionGroup as group:
            if not is_fault(group):
                raise
            raise root_fault(group) from group
        cost = resources.prices.cost({self.model: said.usage})
        return [_completed(attempt, said.finish_reason, said.usage, said.refusal, cost=cost)]


@dataclass(frozen=True, slots=True)
class WorkflowExecutor:
    """A workflow: the app's own function."""

    workflow: Workflow

    provider_name = "workflow"

    @property
    def label(self) -> str:
        """The workflow's name."""
        return f"workflow {self.workflow.name}"

    async def execute(self, attempt: Attempt, writer: FencedWriter, resources: RunResources) -> Sequence[NewEvent]:
        """Calls the app's function; what it returns is the generation's result."""
        run_log = await _open_run_log(attempt, writer)
        try:
            run = Run(run_log, attempt.found, attempt.number, self.workflow, resources, attempt.tenant)
        except BadInput as error:  # the app's code has changed since the request was checked
            raise RunFailed("invalid_input", f"The workflow does not take its input any more: {error}") from None
        try:
            value = await self.workflow.function(run)
        except (Exception, SystemExit, BaseExceptionGroup) as error:
            if not is_fault(error):
                raise
            fault = root_fault(error)
            if isinstance(fault, StoreError | UpstreamError | RunFailed):
                raise fault from error
            failure = failure_from(
                "workflow_failed", "The workflow failed.", fault, error, workflow=self.workflow.name
            )
            raise RunFailed(failure["code"], failure["message"], failure.get("reference")) from error
        try:
            result = self.workflow.make_result(value)
        except BadResult as error:
            reference = log_with_reference("result does not fit", error, workflow=self.workflow.name)
            raise RunFailed("invalid_result", f"{error} {see_log(reference)}", reference) from None
        try:
            event = event_types.check_event_size(
                event_types.result(attempt.generation, result), "the workflow's result"
            )
        except EventTooLarge as error:
            raise RunFailed("invalid_result", str(error)) from None
        return [event, _completed(attempt, "stop", attempt.stats.usage, cost=run.budget.cost)]


async def _open_run_log(attempt: Attempt, writer: FencedWriter) -> RunLog:
    run_log = RunLog(writer, attempt.found, attempt.stats, attempt.number, attempt.inbox)
    await run_log.catch_up(writer.position)
    return run_log


def _completed(
    attempt: Attempt, reason: str, usage: Mapping[str, int] | None, refusal: str = "", *, cost: float | None = None
) -> NewEvent:
    priced = usage if cost is None else {**(usage or {}), "cost": cost}
    return event_types.generation_completed(
        attempt.generation, reason, priced, attempt.stats.ttft_ms, refusal or None
    )
