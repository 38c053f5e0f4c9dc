"""plan(): from an accepted notification to its deliveries, and the trace of why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.domain.models import DeliveryState

ROUTE_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Subject:
    """Everything the rules look at for one notification, read in one sweep for the whole batch (R-067, R-068)."""

    category: str
    category_class: str
    channels: tuple[str, ...]
    recipient_active: bool | None  # None: the recipient is gone
    addresses: Mapping[str, str | None]  # channel -> address
    suppressed: Mapping[str, str]  # channel -> why its address must not be sent to
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Planned:
    """One delivery to be. A state other than queued is an end that is recorded, never a silent drop (R-131)."""

    channel: str
    lane: str
    address: str
    state: DeliveryState
    reason: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    deliveries: tuple[Planned, ...]
    trace: tuple[dict[str, Any], ...]


def lane_of(channel: str, category_class: str, route: str = ROUTE_DEFAULT) -> str:
    return f"{channel}.{category_class}.{route}"


def plan(subject: Subject, now: datetime) -> Plan:
    """The deliveries of one notification and the decision trace: each rule, its input, its verdict (R-069, R-070).

    Every requested channel yields exactly one delivery, so whatever the rules refuse is still there to be seen.
    """
    trace: list[dict[str, Any]] = [_rule("recipient", subject.recipient_active, _recipient_verdict(subject))]
    if subject.expires_at <= now:
        trace.append(_rule("validity", subject.expires_at.isoformat(), "expired"))
    deliveries = tuple(_deliver(subject, channel, now, trace) for channel in subject.channels)
    return Plan(deliveries, tuple(trace))


def _deliver(subject: Subject, channel: str, now: datetime, trace: list[dict[str, Any]]) -> Planned:
    address = subject.addresses.get(channel)
    lane = lane_of(channel, subject.category_class)

    def end(rule: str, given: Any, state: DeliveryState, reason: str) -> Planned:
        trace.append(_rule(f"{channel}.{rule}", given, reason))
        return Planned(channel, lane, address or "", state, reason)

    if not subject.recipient_active:
        return end("recipient", subject.recipient_active, DeliveryState.FAILED, "recipient_inactive")
    if not address:
        return end("address", None, DeliveryState.FAILED, "no_address")
    if why := subject.suppressed.get(channel):
        return end("suppression", why, DeliveryState.SUPPRESSED, f"suppressed:{why}")
    if subject.expires_at <= now:
        return end("validity", subject.expires_at.isoformat(), DeliveryState.EXPIRED, "expired")
    trace.append(_rule(f"{channel}.address", "known", "ok"))
    trace.append(_rule(f"{channel}.suppression", "none", "ok"))
    trace.append(_rule(f"{channel}.lane", lane, "send"))
    return Planned(channel, lane, address, DeliveryState.QUEUED, None)


def _recipient_verdict(subject: Subject) -> str:
    match subject.recipient_active:
        case None:
            return "unknown"
        case True:
            return "ok"
        case False:
            return "inactive"


def _rule(rule: str, given: Any, verdict: str) -> dict[str, Any]:
    return {"rule": rule, "input": given, "verdict": verdict}
