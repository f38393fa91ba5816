"""The agent loop: ask the model, run the tools it calls, ask again with their results, until it calls none.

Owns the rounds of one answer. Each round's end is appended together with the tool calls it proposes, so a later
attempt takes the rounds that were paid for from the log, writes their text again (a reader drops the text of an
interrupted attempt), and goes on with the calls as they stand. No connection is held between rounds: a call may
wait for a person for hours.

Calls of an answer that was cut (`length`, `content_filter`, a refusal …) never run. Each is finished at once with
`answer_truncated`, and the run ends with the provider's reason: asked again, the model would meet the same limit,
and the answer be paid for twice. Where the provider says that the answer ended well but one call is incomplete,
the others run, and the next round tells the model of that one.

Must not know workflows, the supervisor or the web.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import msgspec
import trio

from eventstore import NewEvent
from server import event_types
from server.generations.run.rounds import CUT, Round, model_of_step, rewritten
from server.generations.run.run_budget import RunBudget
from server.generations.run.run_errors import RunFailed
from server.generations.run.run_log import RunLog
from server.generations.token_pump import AdaptiveBatching, Transcript, pump_answer
from server.generations.tool_execution import REJECTED_BEFORE, Outcome, RunInCall, execute_call, propose_call
from server.providers import Finish, Message, Prompt, Provider, ToolCall
from server.workflows import AnyTool

MAX_ROUNDS = 50
"""Rounds of one answer: a model that goes round in circles is ended."""
MAX_CALLS = 64
"""Tool calls in one round."""
MAX_REPEATS = 3
"""How often a model may propose a call again that a person has rejected."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model said, all rounds together. `usage` is summed; `tool_calls` are the ids of the calls it made.

    `refusal`: the words with which it refused to answer, if it did.
    """

    text: str
    finish_reason: str
    usage: Mapping[str, int]
    tool_calls: tuple[str, ...] = ()
    refusal: str = ""


@dataclass(slots=True)
class _Carry:
    """What the provider wants back of a round: with the answer, and with each call by its id. For no client."""

    answer: Any = None
    calls: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgentLoop:
    """The loop of one answer.

    `step` names the answer within its run: its rounds are the steps `step/1`, `step/2` … in the log. `run_in_call`
    makes the `Run` that a tool is handed. `budget`: no round is asked for while it waits. `takes_messages`: people
    may put messages into the answer (`RunLog.inbox`); not into one that a workflow asks for.
    """

    run_log: RunLog
    step: str
    provider: Provider
    tools: Mapping[str, AnyTool]
    run_in_call: RunInCall
    batching: AdaptiveBatching
    budget: RunBudget
    takes_messages: bool = False

    async def generate(self, prompt: Prompt, position: int = 0) -> Generated:
        """Asks the model, again and again, until it calls no tool and no message waits for it.

        `position`: of the state of which the prompt was made, as `Round.prompt`.

        Raises `UpstreamError`, `RunFailed` (`too_many_turns`, `too_many_calls`, `rejected_call_repeated`),
        `Fenced`, `StoreUnavailable`.
        """
        text: list[str] = []
        usage: dict[str, int] = {}
        calls: list[str] = []
        number = turns = 0
        while True:
            number += 1
            step = f"{self.step}/{number}"
            prompt = replace(prompt, messages=(*prompt.messages, *await self._take_messages(step, number - 1)))
            round_, carry = await self._round(step, prompt, position)
            text.append(round_.text)
            for name, count in (round_.usage or {}).items():
                usage[name] = usage.get(name, 0) + count
            calls += round_.calls
            ended_well = Finish(round_.reason, None).ended_well
            if round_.calls and ended_well:
                self._check_repeats()
                outcomes = await self._execute_calls(round_.calls)
                prompt = replace(prompt, messages=(*prompt.messages, *self._messages(round_, carry, outcomes)))
                turns += 1
                if turns >= MAX_ROUNDS:
                    break
            elif round_.reason == CUT or (ended_well and self._has_messages(number)):
                said = (Message("assistant", round_.text),) if round_.text else ()
                prompt = replace(prompt, messages=(*prompt.messages, *said))
            else:
                return Generated("".join(text), round_.reason, usage, tuple(calls), round_.refusal)
        raise RunFailed("too_many_turns", f"The model called tools in {MAX_ROUNDS} turns, which is the most.")

    def _has_messages(self, rounds: int) -> bool:
        """Whether the answer goes on after so many rounds because of messages: some wait, or were taken then."""
        inbox = self.run_log.inbox
        return self.takes_messages and bool(inbox.waiting or inbox.applied_after(rounds))

    async def _take_messages(self, step: str, rounds: int) -> list[Message]:
        """The messages that the answer takes in front of this round, when so many others are over.

        Those that an earlier attempt has taken there are in the log. Others are taken only where the round is
        still to be asked for, once the budget allows that: a round in the log was asked without them.
        """
        inbox, run_log = self.run_log.inbox, self.run_log
        if step not in run_log.steps:
            await self.budget.wait()
            while self.takes_messages and inbox.waiting:
                await run_log.write(inbox.applied_events())
                await self.budget.wait()
        return [Message("user", one.content) for one in inbox.applied_after(rounds)] if self.takes_messages else []

    async def _round(self, step: str, prompt: Prompt, position: int) -> tuple[Round, _Carry]:
        """One round: taken from the log where an earlier attempt has finished it, else asked of the provider."""
        run_log = self.run_log
        if step in run_log.steps:
            round_ = msgspec.convert(run_log.steps[step], Round)
            run_log.stats.add_usage(round_.usage)
            again = rewritten(run_log.generation, round_)
            if again:
                await run_log.write(again)
            return round_, msgspec.convert(run_log.carried.get(step, {}), _Carry)
        transcript = Transcript()
        with run_log.stats.working():
            finish = await pump_answer(
                run_log.write,
                run_log.generation,
                self.provider,
                prompt,
                run_log.stats,
                self.batching,
                transcript,
                model=model_of_step(step, run_log.model),
                inbox=run_log.inbox if self.takes_messages else None,
            )
        wanted = finish.tool_calls
        if len(wanted) > MAX_CALLS:
            raise RunFailed(
                "too_many_calls", f"The model wants {len(wanted)} calls at once; the most is {MAX_CALLS}."
            )
        round_ = Round(
            "".join(transcript.text),
            finish.reason,
            dict(finish.usage) if finish.usage is not None else None,
            reasoning="".join(transcript.reasoning),
            refusal=finish.refusal,
            prompt=position,
        )
        carry = _Carry(finish.carry)
        proposed: list[NewEvent] = []
        if wanted:
            now = await run_log.clock()
            cut = None if finish.ended_well else finish.reason
            for place, one in enumerate(wanted):
                call, new = propose_call(
                    run_log, step, one, self.tools, now, call=transcript.calls.get(place), cut=cut
                )
                round_.calls.append(call)
                proposed += new
                if one.carry is not None:
                    carry.calls[call] = one.carry
        carried = asdict(carry) if carry != _Carry() else None
        finished = event_types.step_finished(run_log.generation, step, asdict(round_), carried)
        await run_log.write([finished, *proposed])
        return round_, carry

    def _check_repeats(self) -> None:
        """Raises `RunFailed` where the model does nothing but ask for what a person has rejected."""
        repeated = sum(
            1 for call in self.run_log.calls if call.error is not None and call.error["code"] == REJECTED_BEFORE
        )
        if repeated > MAX_REPEATS:
            raise RunFailed(
                "rejected_call_repeated",
                f"The model proposed calls again that a person had rejected, {repeated} times; the most is "
                f"{MAX_REPEATS}.",
            )

    async def _execute_calls(self, calls: list[str]) -> dict[str, Outcome]:
        """The outcomes by call. Side by side: a person may decide on the last call first."""
        outcomes: dict[str, Outcome] = {}

        async def execute(call: str) -> None:
            outcomes[call] = await execute_call(self.run_log, call, self.tools, self.run_in_call)

        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(execute, call)
        return outcomes

    def _messages(self, round_: Round, carry: _Carry, outcomes: Mapping[str, Outcome]) -> list[Message]:
        """The round and its outcomes as messages to the model.

        A person may have modified a call's arguments: the message shows those that ran.
        """
        found = [self.run_log.call(call) for call in round_.calls]
        calls = tuple(
            ToolCall(one.call, one.name, _as_text(one.arguments), carry.calls.get(one.call)) for one in found
        )
        results = [Message("tool", _as_text(_result_or_error(outcomes[one.call])), call=one.call) for one in found]
        return [Message("assistant", round_.text, calls=calls, carry=carry.answer), *results]


def _result_or_error(outcome: Outcome) -> Any:
    return outcome.get("result", outcome)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
