"""The words of the domain as types. Pure values: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class Channel(StrEnum):
    EMAIL = "email"
    PUSH = "push"
    SMS = "sms"
    IN_APP = "in_app"
    WEBHOOK = "webhook"
    CHAT = "chat"


class Platform(StrEnum):
    """What kind of device a push goes to; each has its own route, and so its own lanes."""

    IOS = "ios"
    ANDROID = "android"
    WEB = "web"


class NotificationClass(StrEnum):
    """How urgent a category is; each class has its own lanes and retry ladder."""

    TRANSACTIONAL = "transactional"
    PROMOTIONAL = "promotional"
    ALERT = "alert"


class DeliveryState(StrEnum):
    """Where a delivery stands. DESIGN, section 4; the legal moves are in ``lifecycle``."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    AMBIGUOUS = "ambiguous"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    FAILED = "failed"
    UNCONFIRMED = "unconfirmed"
    SUPPRESSED = "suppressed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DEAD = "dead"


class OutcomeKind(StrEnum):
    """What one provider call came to, as its adapter classified it (R-088, R-092)."""

    ACCEPTED = "accepted"
    TRANSIENT = "transient"  # definitely not accepted; try again
    RATE_LIMITED = "rate_limited"  # definitely not accepted; try again later, at no cost to the budget
    RECIPIENT_INVALID = "recipient_invalid"  # suppress the address, stop
    REJECTED = "rejected"  # content or configuration: dead letter at once
    UNAUTHORIZED = "unauthorized"  # credential or sender: wait, and say why, at no cost to the budget
    UNKNOWN = "unknown"  # may have been accepted: resolve before anything is resent (I5)
    RELEASED = "released"  # never called: gate passed (I6) or the worker is shutting down; costs nothing


@dataclass(frozen=True, slots=True)
class Outcome:
    """The classified result of one provider call. ``detail`` is for operators and never holds an address or body.

    reason: a named end of its own (``render_failed``) where the kind alone would not tell.
    invalid_since: with RECIPIENT_INVALID, since when the provider knows: an address registered later is not meant.
    doubtful: with RECIPIENT_INVALID, that our own configuration may be to blame as well (APNs ``BadDeviceToken``).
    unanswered: with TRANSIENT, that it may have been accepted after all, and that a copy does no harm (decision 13).
    evidence: what the answer itself proves, as a merchant's 2xx to a webhook does.
    """

    kind: OutcomeKind
    detail: str
    status_code: int | None = None
    provider_message_id: str | None = None
    retry_after_seconds: float | None = None
    reason: str | None = None
    invalid_since: datetime | None = None
    doubtful: bool = False
    unanswered: bool = False
    evidence: Sequence[Evidence] = ()


class EvidenceKind(StrEnum):
    """What a provider (or a device, or a lookup) says about one delivery."""

    ACCEPTED = "accepted"  # the provider has it: settles an ambiguous attempt
    DELIVERED = "delivered"  # the receiving server took it
    DEFERRED = "deferred"  # a temporary failure the provider itself retries; state unchanged
    BOUNCED = "bounced"  # terminal at the receiving side; see BounceClass
    FAILED = "failed"  # terminal for another reason (provider refused or gave up)
    COMPLAINED = "complained"
    UNSUBSCRIBED = "unsubscribed"
    OPENED = "opened"
    CLICKED = "clicked"
    DISMISSED = "dismissed"  # swept off the screen unread: it had arrived
    OPTED_OUT = "opted_out"  # the owner of an address said STOP; speaks of an address, not of a delivery
    OPTED_IN = "opted_in"  # the owner said START
    OTHER = "other"  # genuine but of no consequence; kept for the timeline


class BounceClass(StrEnum):
    """Why a bounce or failure happened; decides what becomes of the address (R-111 to R-114)."""

    HARD = "hard"  # the address is bad: suppress at once
    SOFT = "soft"  # this message is over; counts towards suppression
    REPUTATION = "reputation"  # we were refused, not the address: never suppresses
    CONTENT = "content"  # this message was refused: never suppresses
    PROVIDER_SUPPRESSED = "provider_suppressed"  # on the provider's own list: mirrored into ours


@dataclass(frozen=True, slots=True)
class Evidence:
    """One fact from outside, in our words.

    event_key: the provider's natural key of this fact; the same fact told twice has the same key (I16).
    occurred_at: when the provider says it happened (UTC).
    delivery_id, attempt_no: our own ids, if the provider carried them back.
    provider_message_id: normalised as ``Outcome.provider_message_id`` is.
    suppress_reason: set when the address must be suppressed: ``hard_bounce``, ``complaint``, ``unsubscribe``,
        ``provider_suppressed``.
    data: what the timeline shows (codes, server's words); bounded, no message body.
    """

    kind: EvidenceKind
    event_key: str
    occurred_at: datetime
    delivery_id: UUID | None = None
    attempt_no: int | None = None
    provider_message_id: str | None = None
    address: str | None = None
    bounce_class: BounceClass | None = None
    suppress_reason: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
