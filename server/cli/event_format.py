"""Events in words: a line for each that is not text, made harmless for a terminal. Pure.

What a person has to decide on is shown whole, as it would run; ids stand where they are needed to answer.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from rich.text import Text

from server.cli.terminal_escape import clean, clean_line, has_unseen

Event = Mapping[str, Any]

COMMON = frozenset({"position", "type", "at", "generation"})
ENDS = frozenset({"generation.completed", "generation.failed", "generation.cancelled"})
_STYLES = {
    "generation.completed": "green",
    "generation.failed": "bold red",
    "generation.cancelled": "yellow",
    "generation.interrupted": "yellow",
    "tool.proposed": "magenta",
    "tool.decided": "magenta",
}


def line_for(event: Event) -> Text:
    """An event that is not text, with its position."""
    kind = clean_line(str(event["type"]))
    line = Text(f"{event['position']:>6}  ", "dim")
    line.append(f"{kind}  ", _STYLES.get(kind, "cyan dim" if kind.startswith("generation.") else "dim"))
    match kind:
        case "message.posted":
            line.append(f"{clean_line(str(event.get('author') or event.get('role')))}: ", "bold")
            line.append(clean(str(event.get("content", ""))), "default")
        case "generation.requested":
            line.append(clean_line(str(event.get("model") or event.get("workflow"))), "bold")
            line.append("".join(f"  {name}={value}" for name, value in _flat(event.get("parameters"))), "dim")
            line.append(_asked(event), "dim")
        case "generation.completed" | "generation.failed" | "generation.cancelled":
            line.append(summary(event))
        case "tool.proposed" | "tool.decided":
            line.append(told(event) or "", "bold")
            line.append(f"  {clean_line(str(event.get('call')))}", "dim")
        case _:
            fields = "  ".join(f"{name}={value}" for name, value in _flat(event, COMMON))
            line.append(told(event) or fields, "dim")
    return line


class Asides:
    """What a model says besides its answer, in running text: what it thinks, and the calls that it writes.

    For one log: a call's name comes with its first piece alone.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def of(self, event: Event) -> tuple[str, str] | None:
        """A label and more text under it; None for any other event."""
        match event:
            case {"type": "reasoning", "delta": str() as delta}:
                return "thinking", delta
            case {"type": "tool.arguments", "call": str() as call, "delta": str() as delta}:
                name = self._names.setdefault(call, str(event.get("name") or call))
                return clean_line(f"arguments of {name}"), delta
            case _:
                return None


def told(event: Event) -> str | None:
    """What an event of a run's work says, in words; None where its fields say it best."""
    match event:
        case {"type": "generation.started", "attempt": int() as attempt} if attempt > 1:
            return f"attempt {attempt}: the answer begins anew; what was decided and done stays"
        case {"type": "generation.interrupted", "reason": reason}:
            return clean_line(f"{reason}; it is taken up again")
        case {"type": "tool.proposed", "name": name, "arguments": arguments}:
            waits = " waits for a decision" if event.get("needs_approval") else ""
            until = f" until {event['expires_at']}" if waits and event.get("expires_at") else ""
            return clean_line(f"{name} {_json(arguments)}{waits}{until}") + _warning(name, arguments)
        case {"type": "tool.decided", "decision": decision, "by": by}:
            instead = f" to {_json(event.get('arguments'))}" if decision == "modified" else ""
            why = f": {event['reason']}" if event.get("reason") else ""
            return clean_line(f"{decision}{instead} by {by}{why}") + _warning(event.get("arguments"))
        case {"type": "tool.started"}:
            return clean_line(f"{event.get('call')} runs")
        case {"type": "tool.finished", "error": {"code": code, "message": message}}:
            return clean_line(f"{event.get('call')} failed: {code}: {message}")
        case {"type": "tool.finished"}:
            return clean_line(f"{event.get('call')} → {_json(event.get('result'))}")
        case {"type": "steering.changed", "name": name, "by": by}:
            return clean_line(f"{name} = {_json(event.get('value'))} by {by}")
        case {"type": "progress"}:
            return progress(event)
        case {"type": "result"}:
            return clean_line(_json(event.get("value")))
        case {"type": "step.finished", "step": step}:
            return clean_line(str(step))  # its result may be long, and is for the run
        case _:
            return None


def progress(event: Event) -> str:
    """How far the work is: 12 of 47 pages."""
    done, total, unit = event.get("done"), event.get("total"), event.get("unit")
    stage = f" · {event['stage']}" if event.get("stage") else ""
    return clean_line(f"{_json(done)} of {_json(total)} {unit}{stage}")


def summary(end: Event) -> str:
    """How a generation ended, from its terminal event."""
    if end["type"] == "generation.failed":
        error = end.get("error") or {}
        return clean_line(f"{error.get('code')}: {error.get('message')}")
    if end["type"] == "generation.cancelled":
        return clean_line(f"by {end.get('by')}" + (f": {end['reason']}" if end.get("reason") else ""))
    parts = []
    if end.get("finish_reason") not in (None, "stop"):
        parts.append(str(end["finish_reason"]))
    if end.get("refusal"):
        parts.append(str(end["refusal"]))
    usage = end.get("usage") or {}
    if "input_tokens" in usage:
        parts.append(f"{usage['input_tokens']} tokens in")
    if "output_tokens" in usage:
        parts.append(f"{usage['output_tokens']} out")
    if end.get("ttft_ms") is not None:
        parts.append(f"first after {end['ttft_ms']} ms")
    return clean_line(" · ".join(parts))


def _asked(event: Event) -> str:
    """What else was asked for: a workflow's input, tools, a place in the queue."""
    names = [one if isinstance(one, str) else one.get("name") for one in event.get("tools") or ()]
    parts = [f"  input={_json(event['input'])}"] if "input" in event else []
    parts += [f"  tools={', '.join(map(str, names))}"] if names else []
    parts += [f"  {name}={event[name]}" for name in ("if_running", "on_crash") if name in event]
    return clean_line("".join(parts)) + ("  ephemeral" if event.get("ephemeral") else "")


def _flat(fields: Any, but: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    if not isinstance(fields, Mapping):
        return []
    return [
        (clean_line(str(name)), clean_line(value if isinstance(value, str) else _json(value)))
        for name, value in fields.items()
        if name not in but
    ]


def _warning(*values: Any) -> str:
    """A mark for a call that holds what nobody would see: it may be meant to be read as another one."""
    return "  ! HIDDEN CHARACTERS, shown as \\u…" if any(has_unseen(_json(value)) for value in values) else ""


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
