"""Whose a conversation or a generation is: the check in front of every endpoint that takes an id.

What is unknown and what is somebody else's are answered alike: the same problem, after the same reads of the
store, whether this process knows the conversation or not. Owns a bounded memory of conversations and their
tenants, which never change. What is the caller's own is mostly found there or among the states in memory, without
a read. Must not know how a caller was recognised.
"""

from collections import OrderedDict

import msgspec

from eventstore import Erased, Rewound, StreamUnknown, Trimmed
from server.auth.principal import DEFAULT_TENANT, NO_CREDENTIAL, Principal
from server.conversations import idempotency_keys
from server.ids import is_valid_id
from server.problem import not_found
from server.runtime.conversation_service import ConversationService

MAX_TENANTS = 20_000
"""Conversations whose tenant is kept in memory."""


class _Started(msgspec.Struct):
    """The first event of a conversation, as far as it matters here."""

    tenant: str = DEFAULT_TENANT


class Ownership:
    """The checks of one process."""

    def __init__(self, runtime: ConversationService) -> None:
        self._runtime = runtime
        self._tenants: OrderedDict[str, str] = OrderedDict()

    async def check_conversation(self, principal: Principal, name: str) -> None:
        """Raises `Problem` 404 for a conversation that is unknown, or that the principal may not touch."""
        if not is_valid_id(name, "conv"):
            raise not_found("conversation")
        if self._is_known_as_own(principal, name):
            return
        if not await self._is_own(principal, name) or not _may_touch(principal, name):
            raise not_found("conversation")

    async def check_generation(self, principal: Principal, name: str) -> str:
        """As `check_conversation`, for a generation; returns its conversation."""
        if not is_valid_id(name, "gen"):
            raise not_found("generation")
        known = self._runtime.generations.known(name)
        if known is not None and self._is_known_as_own(principal, known.stream, name):
            return known.stream
        place = await self._runtime.store.find_key(idempotency_keys.GENERATION, name)
        # For an unknown generation a conversation is read that does not exist, as one is for somebody else's.
        stream = name.replace("gen_", "conv_") if place is None else place.stream
        own = await self._is_own(principal, stream)
        if place is None or not own or not _may_touch(principal, stream, name):
            raise not_found("generation")
        self._runtime.remember(name, place)
        return stream

    def _is_known_as_own(self, principal: Principal, stream: str, generation: str | None = None) -> bool:
        tenant = self._tenants.get(stream)
        if tenant is None:
            state = self._runtime.states.known(stream)
            if state is None:
                return False
            tenant = state.tenant
        return tenant == principal.tenant and _may_touch(principal, stream, generation)

    async def _is_own(self, principal: Principal, stream: str) -> bool:
        """Whether the conversation is of the principal's tenant: asks the store, whatever is known."""
        try:
            tenant = await self._read_tenant(stream)
        except StreamUnknown:
            return False
        except (Erased, Trimmed):
            # Nothing is left that says whose it was. Without keys all are everybody's, and the endpoint says that
            # it is gone.
            return principal.credential == NO_CREDENTIAL
        self._remember(stream, tenant)
        return tenant == principal.tenant

    async def _read_tenant(self, stream: str) -> str:
        """The tenant of a conversation. Raises `StreamUnknown`, `Erased`, `Trimmed`, `StoreUnavailable`."""
        try:
            found = await self._runtime.store.read(stream, 0, 1)
        except Rewound:
            # The log went back behind what this process had read. The store has forgotten that by now: ask again.
            return await self._read_tenant(stream)
        except Trimmed:
            known = self._tenants.get(stream)
            return known if known is not None else (await self._runtime.states.latest(stream)).tenant
        if not found.events:
            raise StreamUnknown(stream)
        return msgspec.json.decode(found.events[0].data, type=_Started).tenant

    def _remember(self, stream: str, tenant: str) -> None:
        self._tenants[stream] = tenant
        self._tenants.move_to_end(stream)
        if len(self._tenants) > MAX_TENANTS:
            self._tenants.popitem(last=False)


def _may_touch(principal: Principal, conversation: str, generation: str | None = None) -> bool:
    """Whether the principal's own limits, of its token or its ticket, allow this one."""
    if principal.conversations is not None and conversation not in principal.conversations:
        return False
    return principal.stream is None or principal.stream in (conversation, generation)
