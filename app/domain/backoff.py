"""What to do after one provider call: pure, so that every row of the table can be read and tested."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from app.domain.models import DeliveryState, Outcome, OutcomeKind

RETRY_AFTER_DEFAULT_SECONDS = 30.0  # a provider that says "slow down" without saying for how long


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """ladder: seconds after the first, second, ... failure (R-089). jitter: the most that is added (R-090)."""

    ladder: Sequence[float]
    jitter: float
    retry_after_max_seconds: float
    unauthorized_pause_seconds: float
    confirm_after_seconds: float
    ambiguous_first_lookup_seconds: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The delivery's next state; ``due_at`` is None exactly when that state is terminal (I9).

    failed_over: another provider of its route is asked at once, before this one is asked again.
    """

    state: DeliveryState
    attempt_state: str
    reason: str | None
    due_at: datetime | None
    burns: bool = False
    pause_provider_seconds: float | None = None
    failed_over: bool = False


def decide(
    outcome: Outcome,
    *,
    failures: int,
    expires_at: datetime,
    now: datetime,
    jitter: float,
    policy: RetryPolicy,
    elsewhere: bool = False,
    probe: bool = False,
) -> Decision:
    """What one outcome means for its delivery.

    failures: budget spent before this call. jitter: a random number in [0, 1), handed in.
    elsewhere: another provider of its route takes calls and has not refused it. Only after a definite non-send does it
    go there (R-164, I5); a rung of the ladder is spent when all have refused.
    probe: the call tried whether a provider is back, so that its failure was none of the delivery's.
    """

    def over(pause: float | None = None) -> Decision:
        return replace(wait(0, "failover", pause=pause), failed_over=True)

    def wait(seconds: float, reason: str, *, burns: bool = False, pause: float | None = None) -> Decision:
        # Never past expiry: then the row is due when it expires, and its end is recorded in time.
        due = min(now + timedelta(seconds=seconds * (1 + policy.jitter * jitter)), max(expires_at, now))
        return Decision(DeliveryState.QUEUED, _closed_as(outcome), reason, due, burns, pause)

    match outcome.kind:
        case OutcomeKind.ACCEPTED:
            due = now + timedelta(seconds=policy.confirm_after_seconds)
            return Decision(DeliveryState.SENT, "accepted", None, due)
        case OutcomeKind.UNKNOWN:
            due = now + timedelta(seconds=policy.ambiguous_first_lookup_seconds)
            return Decision(DeliveryState.AMBIGUOUS, "ambiguous", "outcome_unknown", due)
        case OutcomeKind.RELEASED:
            due = min(now + timedelta(seconds=max(outcome.retry_after_seconds or 0.0, 0.0)), max(expires_at, now))
            return Decision(DeliveryState.QUEUED, "not_sent", "released", due)
        case OutcomeKind.TRANSIENT if elsewhere:
            return over()
        case OutcomeKind.TRANSIENT if probe:
            return wait(max(policy.ladder[0], _clamp(outcome.retry_after_seconds or 0.0, policy)), "probe_failed")
        case OutcomeKind.TRANSIENT if failures < len(policy.ladder):
            at_least = _clamp(outcome.retry_after_seconds or 0.0, policy)
            return wait(max(policy.ladder[failures], at_least), "retry", burns=True)
        case OutcomeKind.TRANSIENT:
            return Decision(DeliveryState.DEAD, _closed_as(outcome), "retries_exhausted", None, burns=True)
        case OutcomeKind.RATE_LIMITED:
            asked = outcome.retry_after_seconds
            seconds = _clamp(RETRY_AFTER_DEFAULT_SECONDS if asked is None else asked, policy)
            return over(seconds) if elsewhere else wait(seconds, "rate_limited", pause=seconds)
        case OutcomeKind.UNAUTHORIZED:
            return over() if elsewhere else wait(policy.unauthorized_pause_seconds, "unauthorized")
        case OutcomeKind.RECIPIENT_INVALID:
            return Decision(DeliveryState.FAILED, _closed_as(outcome), outcome.reason or "recipient_invalid", None)
        case OutcomeKind.REJECTED:
            return Decision(DeliveryState.DEAD, _closed_as(outcome), outcome.reason or "rejected", None)


def _closed_as(outcome: Outcome) -> str:
    """The state of an attempt after which another may follow, or none need: what is known of it, and no more."""
    if outcome.unanswered:
        return "unanswered"
    return "not_sent" if outcome.status_code is None and outcome.kind not in ANSWERED else "refused"


# Somebody refused, also where there is no status, as when a token is refused.
ANSWERED = frozenset({OutcomeKind.RATE_LIMITED, OutcomeKind.UNAUTHORIZED})


def _clamp(seconds: float, policy: RetryPolicy) -> float:
    """What is no number is as if nothing had been said."""
    given = RETRY_AFTER_DEFAULT_SECONDS if math.isnan(seconds) else seconds
    return min(max(given, 1.0), policy.retry_after_max_seconds)


def next_lookup(
    *, lookups: int, first_seconds: float, backoff: float, interval_max_seconds: float, now: datetime
) -> datetime:
    """When to ask again after ``lookups`` questions that settled nothing."""
    return now + timedelta(seconds=min(first_seconds * backoff**lookups, interval_max_seconds))
