"""limits: what is over one is due later, and nothing is dropped (R-152 to R-154, R-157 to R-159).

A part of intake, in its transaction. A template has slots that come evenly, a recipient a sliding window of an hour on
each channel. Both say from when on a delivery may be due, so what waits is a queued row with a due time and a reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

from app.db import Connection
from app.domain.models import DeliveryState
from app.domain.plan import Plan, rule
from app.settings import Limits
from app.store import limits as store
from app.store.intake import Accepted
from app.store.limits import RecipientLimit, Slot, TemplateLimit

Limit = RecipientLimit | TemplateLimit
L = TypeVar("L", RecipientLimit, TemplateLimit)

AT_ONCE: Final = datetime.min.replace(tzinfo=UTC)  # of what waits for nothing yet


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
    of_recipients, of_templates = _counted(notifications, plans, limits)
    # Templates first: an hour of a recipient counts what is due in it, so that must be known.
    waits = await _wait_for_templates(conn, of_templates)
    hits = Counter(_hit(wait) for wait in waits.values())
    later = await _wait_for_recipients(conn, of_recipients, waits)
    hits.update(_hit(wait) for wait in later.values())
    waits |= later
    if not waits:
        return plans
    await store.count_hits(conn, hits)
    spread_plans = list(plans)
    for use, wait in waits.items():
        spread_plans[use.place] = _later(spread_plans[use.place], use.channel, wait)
    return spread_plans


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


async def _wait_for_templates(conn: Connection, counted: Mapping[TemplateLimit, Sequence[_Use]]) -> dict[_Use, _Wait]:
    """What must wait for a slot of its template."""
    slots = await store.take_template_slots(conn, [(limit, len(uses)) for limit, uses in counted.items()])
    return dict(_matched(counted, slots))


async def _wait_for_recipients(
    conn: Connection, counted: Mapping[RecipientLimit, Sequence[_Use]], earlier: Mapping[_Use, _Wait]
) -> dict[_Use, _Wait]:
    """What must wait for its recipient, and longer than it waits already."""
    moments = {use: wait.until for use, wait in earlier.items()}
    # What may be due sooner takes its slot sooner, and among equals what was accepted first.
    in_order = {limit: sorted(uses, key=lambda use: moments.get(use, AT_ONCE)) for limit, uses in counted.items()}
    wanted = [(limit, [moments.get(use) for use in uses]) for limit, uses in in_order.items()]
    slots = await store.take_recipient_slots(conn, wanted)
    return {use: wait for use, wait in _matched(in_order, slots) if wait.until > moments.get(use, AT_ONCE)}


def _matched(counted: Mapping[L, Sequence[_Use]], slots: Sequence[Slot]) -> Iterator[tuple[_Use, _Wait]]:
    limits = list(counted)
    for slot in slots:
        limit = limits[slot.k]
        yield counted[limit][slot.i], _Wait(slot.until, limit)


def _hit(wait: _Wait) -> tuple[int, str, str]:
    return wait.limit.tenant_id, wait.limit.level, wait.limit.name


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
