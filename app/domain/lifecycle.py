"""What a delivery is, given everything that was said about it.

The state is a join over evidence: each kind of evidence has a rank, the highest wins, ties go to the graver reason and
times to the earliest. A join does not care in which order, or how often, its arguments arrive (I16).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from typing import Any, Final

from app.domain.models import BounceClass, DeliveryState, Evidence, EvidenceKind

S = DeliveryState

LIVE: Final = frozenset({S.QUEUED, S.SENDING, S.SENT, S.AMBIGUOUS})
TERMINAL: Final = frozenset(S) - LIVE

# The moves that evidence, a worker, a clock or an operator may make (DESIGN, section 4). Late evidence wins, so every
# state that a provider could still speak about can move to what the evidence says.
PROVEN: Final = frozenset({S.SENT, S.DELIVERED, S.BOUNCED, S.FAILED})
MOVES: Final[dict[DeliveryState, frozenset[DeliveryState]]] = {
    S.QUEUED: frozenset({S.SENDING, S.SUPPRESSED, S.CANCELLED, S.EXPIRED}) | PROVEN,
    S.SENDING: frozenset({S.QUEUED, S.AMBIGUOUS, S.DEAD}) | PROVEN,
    S.AMBIGUOUS: frozenset({S.QUEUED, S.UNCONFIRMED, S.EXPIRED, S.DEAD}) | PROVEN,
    S.SENT: frozenset({S.UNCONFIRMED}) | PROVEN - {S.SENT},
    S.UNCONFIRMED: PROVEN,
    S.FAILED: frozenset({S.DELIVERED, S.BOUNCED}),
    S.DELIVERED: frozenset({S.BOUNCED}),
    S.BOUNCED: frozenset(),
    S.SUPPRESSED: PROVEN,
    S.CANCELLED: PROVEN,
    S.EXPIRED: PROVEN | {S.QUEUED},
    S.DEAD: PROVEN | {S.QUEUED},
}

# Anything a provider says about a message shows that it took it: rank 1 settles an ambiguous attempt.
_RANK: Final[dict[DeliveryState, int]] = {S.SENT: 1, S.FAILED: 2, S.DELIVERED: 3, S.BOUNCED: 4}
_CLAIM: Final[dict[EvidenceKind, DeliveryState]] = {
    EvidenceKind.DELIVERED: S.DELIVERED,
    EvidenceKind.BOUNCED: S.BOUNCED,
    EvidenceKind.FAILED: S.FAILED,
}
_REASON: Final[dict[BounceClass | None, str]] = {
    BounceClass.HARD: "hard_bounce",
    BounceClass.SOFT: "soft_bounce",
    BounceClass.REPUTATION: "reputation",
    BounceClass.CONTENT: "content",
    BounceClass.PROVIDER_SUPPRESSED: "provider_suppressed",
    None: "provider_gave_up",
}
# Between two reasons of one state the graver stands: that, too, must not depend on which came first.
_GRAVITY: Final = {
    reason: gravity
    for gravity, reason in enumerate(
        ("provider_gave_up", "content", "reputation", "soft_bounce", "provider_suppressed", "hard_bounce")
    )
}

_TIMES: Final[dict[EvidenceKind, str]] = {
    EvidenceKind.DELIVERED: "delivered_at",
    EvidenceKind.BOUNCED: "bounced_at",
    EvidenceKind.OPENED: "opened_at",
    EvidenceKind.CLICKED: "clicked_at",
    EvidenceKind.COMPLAINED: "complained_at",
    EvidenceKind.UNSUBSCRIBED: "unsubscribed_at",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a delivery stands: its state, why, and the moments that evidence named (UTC)."""

    state: DeliveryState
    reason: str | None = None
    delivered_at: datetime | None = None
    bounced_at: datetime | None = None
    opened_at: datetime | None = None
    clicked_at: datetime | None = None
    complained_at: datetime | None = None
    unsubscribed_at: datetime | None = None


def join(standing: Standing, evidence: Evidence) -> Standing:
    """The standing after one more piece of evidence. Commutative, associative and idempotent over evidence."""
    timed = _earliest(standing, evidence)
    claim = _CLAIM.get(evidence.kind, S.SENT)
    reason = _reason(evidence)
    ours, theirs = _RANK.get(standing.state, 0), _RANK[claim]
    if theirs > ours:
        return replace(timed, state=claim, reason=reason)
    if theirs == ours and _GRAVITY.get(reason or "", -1) > _GRAVITY.get(standing.reason or "", -1):
        return replace(timed, reason=reason)
    return timed


def join_all(standing: Standing, evidence: Iterable[Evidence]) -> Standing:
    return reduce(join, evidence, standing)


def may_move(before: DeliveryState, after: DeliveryState) -> bool:
    return before == after or after in MOVES[before]


def _reason(evidence: Evidence) -> str | None:
    match evidence.kind:
        case EvidenceKind.DELIVERED:
            return "confirmed"
        case EvidenceKind.BOUNCED:
            return _REASON[evidence.bounce_class or BounceClass.SOFT]
        case EvidenceKind.FAILED:
            return _REASON[evidence.bounce_class]
        case _:
            return None


def _earliest(standing: Standing, evidence: Evidence) -> Standing:
    column = _TIMES.get(evidence.kind)
    if column is None:
        return standing
    known: datetime | None = getattr(standing, column)
    if known is not None and known <= evidence.occurred_at:
        return standing
    moment: dict[str, Any] = {column: evidence.occurred_at}
    return replace(standing, **moment)
