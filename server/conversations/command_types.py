"""The commands: what a client can ask of a conversation, as values whose fields were checked already.

POST and WebSocket make these values, and `decide` makes events of them. `by` is who acts, as the server knows it:
a client cannot choose it. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from server.conversations.budget import Budget
from server.event_types import ANONYMOUS, DEFAULT_TENANT
from server.message_parts import Content

ROLES_SCOPE: Final = "roles"
"""The scope that a caller needs to post messages in other roles than `user`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who gives a command, as the server has found out: a subject of a tenant, with the scopes that it has.

    `subject` becomes the `by` of events. A conversation that the caller starts belongs to `tenant`.
    """

    subject: str
    tenant: str
    scopes: frozenset[str]

    @property
    def key_scope(self) -> str:
        """The name under which the caller's idempotency keys are kept: no other caller's keys are found there."""
        if (self.tenant, self.subject) == (DEFAULT_TENANT, ANONYMOUS):
            return ANONYMOUS
        return f"{self.tenant}/{self.subject}"  # no tenant's name has a slash


ANONYMOUS_CALLER: Final = Caller(
    ANONYMOUS, DEFAULT_TENANT, frozenset({"read", "write", "decide", "audit", "admin", ROLES_SCOPE})
)
"""The caller of every command while the server has no keys: everybody may do everything."""


@dataclass(frozen=True, slots=True)
class StartConversation:
    """Start a conversation, which `tenant` will own."""

    title: str | None
    metadata: Mapping[str, Any] | None
    tenant: str = DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message that is posted together with a request for a generation. `content` as in `PostMessage`."""

    role: str
    content: Content


@dataclass(frozen=True, slots=True)
class PostMessage:
    """Post a message. `message` is its id; `author` is a name to show. `tenant`: owns the conversation.

    The parts of `content` that are files lack their media types and sizes until they are looked up. `deliver`:
    `now` puts the message into the answer that is running, None leaves it to the next one.
    """

    message: str
    role: str
    content: Content
    author: str | None
    by: str
    tenant: str = DEFAULT_TENANT
    deliver: Literal["now"] | None = None


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """Who is told of a generation. `events`: of what; its end, and each of its waits."""

    url: str = field(repr=False)  # it may hold a secret
    events: tuple[Literal["ended", "waiting"], ...] = ("ended",)


@dataclass(frozen=True, slots=True)
class RequestGeneration:
    """Run a model or a workflow. `generation` is the id of the new generation.

    `input`: messages to post before it. `value`: the input of a workflow; `files`: the digests of the files that
    it names; `steering`: the first values of its parameters. `tools`: names of the server's tools, and
    declarations of the client's. `on_crash` None: as the workflow declares. `webhook`: who is told of it.
    `tenant`: owns the conversation. `budget`: the bounds at which the generation waits until somebody raises them.
    """

    generation: str
    parameters: Mapping[str, Any]
    by: str
    model: str | None = None
    input: tuple[NewMessage, ...] = ()
    workflow: str | None = None
    value: Any = None
    files: tuple[str, ...] = ()
    steering: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[str | Mapping[str, Any], ...] = ()
    if_running: Literal["reject", "queue", "interrupt"] = "reject"
    on_crash: Literal["fail", "restart"] | None = None
    ephemeral: bool = False
    tenant: str = DEFAULT_TENANT
    budget: Budget | None = None
    webhook: WebhookTarget | None = None


@dataclass(frozen=True, slots=True)
class CancelGeneration:
    """End a generation. `reason`: text for people."""

    generation: str
    reason: str | None
    by: str


@dataclass(frozen=True, slots=True)
class SteerGeneration:
    """Give a parameter of a running workflow another value."""

    generation: str
    name: str
    value: Any
    by: str


@dataclass(frozen=True, slots=True)
class RaiseBudget:
    """Let a generation use more: so many tokens, or so much cost, all together. None: that bound stays."""

    generation: str
    tokens: int | None
    cost: float | None
    by: str


@dataclass(frozen=True, slots=True)
class DecideCall:
    """Approve, reject or modify a tool call.

    `proposed_digest` names the arguments that the person saw. `arguments`: those to run instead, where modified.
    """

    generation: str
    call: str
    decision: Literal["approved", "rejected", "modified"]
    proposed_digest: str
    arguments: Mapping[str, Any] | None
    reason: str | None
    by: str


@dataclass(frozen=True, slots=True)
class FinishCall:
    """Report what a client's tool returned: `{"result": …}` or `{"error": {"code", "message"}}`."""

    generation: str
    call: str
    outcome: Mapping[str, Any]
    by: str
