"""A bounded cache of conversation states at past positions: a reader of one position soon asks for one near it.

States that were made of each other share memory. They form a group: its first state counts in full, every other
one by what it adds. The cache is bounded in bytes over all groups; the group that was not used for longest is
dropped first. Pure: must not know the log.
"""

from bisect import bisect_right, insort
from collections import OrderedDict

from server.conversations.conversation_state import INDEX_ENTRY_BYTES, Conversation

MAX_STATES = 256
"""States in one group: with one kept for every 500 events, they cover a log of 100,000."""
STATE_BYTES, GROUP_BYTES = 500, 1_000
"""What a state and a group take beside their contents."""


class _Group:
    """States of one conversation. `costs` are their bytes by position, in the order in which they were added."""

    __slots__ = ("conversation", "costs", "positions", "size", "states")

    def __init__(self, conversation: str) -> None:
        self.conversation = conversation
        self.states: dict[int, Conversation] = {}
        self.costs: dict[int, int] = {}
        self.positions: list[int] = []
        self.size = 0

    def add(self, state: Conversation, cost: int) -> None:
        self.states[state.position] = state
        self.costs[state.position] = cost
        insort(self.positions, state.position)
        self.size += cost

    def remove(self, position: int) -> None:
        del self.states[position]
        self.positions.remove(position)
        self.size -= self.costs.pop(position)

    def nearest(self, position: int) -> Conversation | None:
        place = bisect_right(self.positions, position)
        return self.states[self.positions[place - 1]] if place else None


class PastStates:
    """A cache of about `total_bytes` at most; `size` is what it takes now."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._groups: OrderedDict[int, _Group] = OrderedDict()
        self._of: dict[str, list[int]] = {}
        self._number = 0
        self.size = 0

    def nearest(self, conversation: str, position: int) -> Conversation | None:
        """The state at the position, or the nearest one in front of it."""
        best: Conversation | None = None
        used = 0
        for number in self._of.get(conversation, ()):
            found = self._groups[number].nearest(position)
            if found is not None and (best is None or found.position > best.position):
                best, used = found, number
        if best is not None:
            self._groups.move_to_end(used)
        return best

    def add(self, state: Conversation, base: Conversation | None = None, held: Conversation | None = None) -> None:
        """Keeps a state. `base` is the state that it was made of.

        `held` is a state that another cache keeps and counts: what the two share is not counted again.
        """
        number, near = self._find(state, base)
        if near is None:
            self._number = number = self._number + 1
            self._groups[number] = _Group(state.id)
            self._of.setdefault(state.id, []).append(number)
            shared = held is not None and held.history is state.history
            cost = GROUP_BYTES + (_added(state, state) if shared else STATE_BYTES + state.size)
        else:
            cost = _added(state, near)
        group = self._groups[number]
        self._groups.move_to_end(number)
        if state.position in group.states:
            return
        self.size -= group.size
        group.add(state, cost)
        if len(group.states) > MAX_STATES:
            # The second, not the first: the first one counts for what all others share with it.
            group.remove(next(position for count, position in enumerate(group.states) if count == 1))
        self.size += group.size
        while self.size > self._total_bytes and len(self._groups) > 1:
            self._drop(next(iter(self._groups)))

    def forget(self, conversation: str) -> None:
        """Drops all states of a conversation."""
        for number in list(self._of.get(conversation, ())):
            self._drop(number)

    def _find(self, state: Conversation, base: Conversation | None) -> tuple[int, Conversation | None]:
        """The group that the state belongs to, and the state in it with which it shares most."""
        for number in self._of.get(state.id, ()):
            group = self._groups[number]
            if base is not None and group.states.get(base.position) is base:
                return number, base
            near = group.nearest(state.position)
            if near is not None and near.history is state.history:
                return number, near
        return 0, None

    def _drop(self, number: int) -> None:
        group = self._groups.pop(number)
        self.size -= group.size
        numbers = self._of[group.conversation]
        numbers.remove(number)
        if not numbers:
            del self._of[group.conversation]


def _added(state: Conversation, base: Conversation) -> int:
    """The bytes that a state adds to those of the state that it was made of."""
    cost = STATE_BYTES + max(0, state.size - base.size)
    cost += sum(400 + found.growing_text.size + found.growing_reasoning.size for found in state.running.values())
    if state.history is not base.history:
        cost += 8 * state.message_count + INDEX_ENTRY_BYTES * state.generation_count
    return cost
