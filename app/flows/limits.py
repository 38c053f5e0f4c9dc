"""limits: what is over one is due later, and nothing is dropped (R-152 to R-154, R-157 to R-159).

A part of intake, in its transaction. A recipient has a sliding window of an hour on each channel, a template slots that
come evenly. Both say from when on a delivery may be due, so what waits is a queued row with a due time and a reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple, TypeVar

from app.db import Connection
from app.domain.models import DeliveryState
from app.domain.plan import Plan, rule
from app.settings import Limits
from app.store import limits as store
from app.store.intake import Accepted
from app.store.limits import RecipientLimit, Slot, TemplateLimit

Limit = RecipientLimit | TemplateLimit
L = TypeVar("L", RecipientLimit, TemplateLimit)


class _Use(NamedTuple):
    """What counts once: a channel of the notification at this place in the batch. All devices get a push together."""

    place: int
    channel: str


class _Wait(NamedTuple):
    until: datetime
    limit: Limit


async def spread(
    conn: Connection, notifications: Sequence[Accepted], plans: Sequence[Plan], limits: Limits
) -> Sequence[Plan]:
    """The same plans; what is too much for its recipient or of its template is due later, and its trace says why."""
    waits: dict[_Use, _Wait] = {}
    hits: Counter[tuple[int, str, str]] = Counter()
    of_recipients, of_templates = _counted(notifications, plans, limits)
    for use, wait in [
        *_matched(of_recipients, await store.take_recipient_slots(conn, _sizes(of_recipients))),
        *_matched(of_templates, await store.take_template_slots(conn, _sizes(of_templates))),
    ]:
        hits[wait.limit.tenant_id, wait.limit.level, wait.limit.name] += 1
        if use not in waits or wait.until > waits[use].until:
            waits[use] = wait
    if not waits:
        return plans
    await store.count_hits(conn, hits)
    later = list(plans)
    for use, wait in waits.items():
        later[use.place] = _later(later[use.place], use.channel, wait)
    return later


def _counted(
    notifications: Sequence[Accepted], plans: Sequence[Plan], limits: Limits
) -> tuple[dict[RecipientLimit, list[_Use]], dict[TemplateLimit, list[_Use]]]:
    """What counts against which limit, in the order in which it was accepted."""
    of_recipients: defaultdict[RecipientLimit, list[_Use]] = defaultdict(list)
    of_templates: defaultdict[TemplateLimit, list[_Use]] = defaultdict(list)
    for place, (n, plan) in enumerate(zip(notifications, plans, strict=True)):
        per_minute = limits.template_per_minute.of(n.klass)
        for channel in dict.fromkeys(d.channel for d in plan.deliveries if d.state == DeliveryState.QUEUED):
            use = _Use(place, channel)
            if n.recipient_per_hour is None:
                per_hour, category = limits.recipient_per_hour.of(channel), ""
            else:
                per_hour, category = n.recipient_per_hour, n.category
            if per_hour:
                of_recipients[RecipientLimit(n.shard, n.tenant_id, n.recipient_id, channel, category, per_hour)].append(
                    use
                )
            if per_minute:
                of_templates[TemplateLimit(n.tenant_id, n.template_id, n.klass, per_minute)].append(use)
    return of_recipients, of_templates


def _sizes(counted: Mapping[L, Sequence[_Use]]) -> list[tuple[L, int]]:
    return [(limit, len(uses)) for limit, uses in counted.items()]


def _matched(counted: Mapping[L, Sequence[_Use]], slots: Sequence[Slot]) -> Iterator[tuple[_Use, _Wait]]:
    limits = list(counted)
    for slot in slots:
        limit = limits[slot.k]
        yield counted[limit][slot.i], _Wait(slot.until, limit)


def _later(plan: Plan, channel: str, wait: _Wait) -> Plan:
    reason = f"{wait.limit.level}_limit"
    deliveries = tuple(
        replace(delivery, due_at=wait.until, reason=reason)
        if delivery.channel == channel and delivery.state == DeliveryState.QUEUED
        else delivery
        for delivery in plan.deliveries
    )
    verdict = f"waits until {wait.until.isoformat(timespec='seconds')}"
    return Plan(deliveries, (*plan.trace, rule(f"{channel}.{reason}", wait.limit.given, verdict)))
