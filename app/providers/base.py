"""What an adapter is: pure functions between our words and a provider's bytes.

No client, no clock, no retry, no database inside: values in, values out (the sans-I/O way of h11 and
wsproto). Credentials are handed in with the account. ``transport`` alone touches a socket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Protocol
from uuid import UUID

from app.domain.models import Channel, Evidence, Outcome


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can prove and take.

    confirms_delivery: tells us when the receiving side took the message.
    can_look_up: can be asked about one message afterwards.
    lookup_settle_seconds: an absent answer younger than this proves nothing (None: absence never proves).
    lookup_retention_seconds: how long after the send it can still be asked.
    batch_size: messages per call. rate_per_second: documented ceiling, None where it is plan specific.
    """

    channel: Channel
    confirms_delivery: bool
    can_look_up: bool
    accepts_client_id: bool
    lookup_settle_seconds: float | None
    lookup_retention_seconds: float
    batch_size: int = 1
    rate_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class EmailMessage:
    """One rendered email, to be built into a request. Addresses are validated, headers without CR/LF."""

    delivery_id: UUID
    attempt_no: int
    tenant: str
    category: str
    to: str
    sender: str
    subject: str
    html: str | None
    text: str
    reply_to: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    tags: Sequence[str] = ()
    test_mode: bool = False
    track_opens: bool = False
    track_clicks: bool = False

    @property
    def reference(self) -> str:
        """Our correlation id, derivable from the attempt alone (RELIABILITY B.2)."""
        return reference(self.delivery_id, self.attempt_no)


def reference(delivery_id: UUID, attempt_no: int) -> str:
    return f"{delivery_id}.{attempt_no}"


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""
    timeout_seconds: float = 10.0  # 10 s for email


@dataclass(frozen=True, slots=True)
class ProviderResponse:
    status: int
    headers: Mapping[str, str]  # keys lower-case
    body: bytes


@dataclass(frozen=True, slots=True)
class AttemptRef:
    """The attempt a lookup asks about."""

    delivery_id: UUID
    attempt_no: int
    opened_at: datetime
    address: str
    provider_message_id: str | None


class LookupVerdict(StrEnum):
    FOUND = "found"  # evidence follows
    NOT_SENT = "not_sent"  # proven absent: asked after the settle time and inside retention
    TOO_EARLY = "too_early"  # absent, but absence proves nothing yet
    UNANSWERABLE = "unanswerable"  # cannot be settled here: out of retention, or the provider cannot say
    UNAVAILABLE = "unavailable"  # the question failed (network, 5xx, auth): ask again later


@dataclass(frozen=True, slots=True)
class Lookup:
    """What one page of an answer says. Evidence of earlier pages stands, whatever the last page says."""

    verdict: LookupVerdict
    evidence: Sequence[Evidence] = ()
    detail: str = ""
    next_request: ProviderRequest | None = None  # another page to read before this verdict counts


class Provider(Protocol):
    """One provider account behind its adapter. Stateless: every method is a function of its arguments."""

    name: ClassVar[str]

    @property
    def capabilities(self) -> Capabilities: ...
    def build(self, message: EmailMessage) -> ProviderRequest: ...
    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome: ...
    def verify(self, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        """Raise ``WebhookRefused`` unless the raw body was signed by the provider."""
        ...

    def replay_token(self, body: bytes) -> str | None:
        """What the signature covers where it does not cover the body: it may only ever carry one event."""
        ...

    def parse(self, body: bytes) -> Sequence[Evidence]:
        """The facts in one verified webhook. Raises ``WebhookRefused(reason="malformed")`` on nonsense."""
        ...

    def build_lookup(self, attempt: AttemptRef, now: datetime) -> ProviderRequest: ...
    def interpret_lookup(self, attempt: AttemptRef, response: ProviderResponse, now: datetime) -> Lookup: ...
