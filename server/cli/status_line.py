"""What an answer is about just now, from its events: for the line under it. Pure.

An answer may wait for its turn, for a person's decision or for a client's tool, and may begin anew.
"""

from dataclasses import dataclass, field

from server.cli.event_format import Event, progress


@dataclass(slots=True)
class Doing:
    """One answer. `tokens` are those of the present attempt."""

    tokens: int = 0
    _started: bool = False
    _besides: str = ""
    _progress: str = ""
    # By call: its name, in the order in which they came.
    _undecided: dict[str, str] = field(default_factory=dict)
    _by_client: dict[str, str] = field(default_factory=dict)
    _running: dict[str, str] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """One more event of it."""
        match event:
            case {"type": "token"}:
                self.tokens += 1
                self._besides = ""
            case {"type": "reasoning"}:
                self._besides = "thinks · "
            case {"type": "tool.arguments"}:
                self._besides = "writes a call · "
            case {"type": "generation.started"}:
                self._started, self.tokens, self._progress, self._besides = True, 0, "", ""
            case {"type": "generation.interrupted"}:
                self._started = False
            case {"type": "progress"}:
                self._progress = progress(event)
            case {"type": "tool.proposed", "call": str() as call, "name": name}:
                self._besides = ""
                if event.get("needs_approval"):
                    self._undecided[call] = str(name)
                if event.get("client"):
                    self._by_client[call] = str(name)
            case {"type": "tool.decided", "call": str() as call}:
                self._undecided.pop(call, None)
            case {"type": "tool.started", "call": str() as call} if call in self._by_client:
                self._running[call] = self._by_client[call]
            case {"type": "tool.finished", "call": str() as call}:
                self._undecided.pop(call, None)
                self._running.pop(call, None)

    def words(self, seconds: float) -> str:
        """In a few words."""
        if not self._started:
            return f"waits for its turn · {seconds:.0f} s"
        if self._undecided:
            return f"waits for a decision on {', '.join(self._undecided.values())}"
        if self._running:
            return f"waits for a client's {', '.join(self._running.values())}"
        progress = f"{self._progress} · " if self._progress else ""
        return f"{self._besides}{progress}{self.tokens} tokens · {seconds:.1f} s"
