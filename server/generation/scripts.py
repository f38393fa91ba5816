"""What an attempt does between its first event and its last: a model's answer, one with tools, or a workflow.

Each returns the events with which the generation ends well; what it raises says how it ends badly. A script can be
played more than once: by an attempt that follows one whose process is gone.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from eventstore import NewEvent, StoreError
from server import events
from server.events import EventTooLarge
from server.generation.answering import answer
from server.generation.desk import Desk
from server.generation.failing import RunFailed, fault_in, is_fault, refer, see, told
from server.generation.figures import Figures
from server.generation.pen import Pen
from server.generation.run import Run, Surroundings
from server.generation.state import Generation
from server.generation.turns import Asking, generate
from server.store_retry import insist
from server.upstream import Prompt, Upstream, UpstreamError
from server.workflows import AnyTool, BadInput, BadResult, Workflow


class Script(Protocol):
    """`provider` is one of few, for whoever counts; `label` is what log lines call it."""

    @property
    def provider(self) -> str: ...

    @property
    def label(self) -> str: ...

    async def play(self, pen: Pen, attempt: int, around: Surroundings) -> Sequence[NewEvent]:
        """Raises `UpstreamError`, `RunFailed`, `Fenced`, `StoreUnavailable`."""


@dataclass(frozen=True, slots=True)
class _OfModel:
    """What a model says. `prompt` is made when its turn has come: what was said until then belongs to it."""

    model: str
    upstream: Upstream
    prompt: Callable[[], Awaitable[Prompt]]

    @property
    def provider(self) -> str:
        """Whose model it is."""
        return self.model.partition("/")[0]

    @property
    def label(self) -> str:
        """As the client asked for it."""
        return self.model


class Answer(_OfModel):
    """A model's answer."""

    __slots__ = ()

    async def play(self, pen: Pen, attempt: int, around: Surroundings) -> Sequence[NewEvent]:
        """Asks once."""
        prompt = await insist(self.prompt)
        finish = await answer(pen.write, pen.generation, self.upstream, prompt, around.figures, around.pace)
        return [_completed(pen.generation, finish.reason, finish.usage, around.figures, finish.refusal)]


@dataclass(frozen=True, slots=True)
class Agent(_OfModel):
    """A model's answer that may call tools."""

    found: Generation
    tools: Mapping[str, AnyTool]

    async def play(self, pen: Pen, attempt: int, around: Surroundings) -> Sequence[NewEvent]:
        """Asks as often as the model calls tools."""
        desk = await _sit_down(pen, self.found, around)
        run = Run(desk, self.found, attempt, None, around)
        asking = Asking(desk, "answer", self.upstream, self.tools, run.inside, around.figures, around.pace)
        try:
            said = await generate(asking, await insist(self.prompt))
        except BaseExceptionGroup as group:
            if not is_fault(group):
                raise
            raise fault_in(group) from group
        return [_completed(pen.generation, said.finish_reason, said.usage, around.figures, said.refusal)]


@dataclass(frozen=True, slots=True)
class Play:
    """A workflow."""

    found: Generation
    workflow: Workflow

    provider = "workflow"

    @property
    def label(self) -> str:
        """Its name."""
        return f"workflow {self.workflow.name}"

    async def play(self, pen: Pen, attempt: int, around: Surroundings) -> Sequence[NewEvent]:
        """Calls the app's function; what that returns is the result."""
        desk = await _sit_down(pen, self.found, around)
        try:
            run = Run(desk, self.found, attempt, self.workflow, around)
        except BadInput as error:  # the code has changed since it was asked for
            raise RunFailed("invalid_input", f"The workflow does not take its input any more: {error}") from None
        try:
            value = await self.workflow.function(run)
        except (Exception, SystemExit, BaseExceptionGroup) as error:
            if not is_fault(error):
                raise
            fault = fault_in(error)
            if isinstance(fault, StoreError | UpstreamError | RunFailed):
                raise fault from error
            failure = told("workflow_failed", "The workflow failed.", fault, error, workflow=self.workflow.name)
            raise RunFailed(failure["code"], failure["message"], failure.get("reference")) from error
        try:
            result = self.workflow.make_result(value)
        except BadResult as error:
            reference = refer("result does not fit", error, workflow=self.workflow.name)
            raise RunFailed("invalid_result", f"{error} {see(reference)}", reference) from None
        usage = around.figures.usage
        try:
            event = events.bounded(events.result(pen.generation, result), "the workflow's result")
        except EventTooLarge as error:
            raise RunFailed("invalid_result", str(error)) from None
        return [event, _completed(pen.generation, "stop", usage, around.figures)]


async def _sit_down(pen: Pen, found: Generation, around: Surroundings) -> Desk:
    desk = Desk(pen, found, around.figures)
    await desk.take_up(pen.position)
    return desk


def _completed(
    generation: str, reason: str, usage: Mapping[str, int] | None, figures: Figures, refusal: str = ""
) -> NewEvent:
    return events.generation_completed(generation, reason, usage, figures.ttft_ms, refusal or None)
