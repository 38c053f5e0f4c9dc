"""intake: accepted notifications become deliveries, or recorded refusals, with the trace of why.

One batch, one transaction: no outside call is made, so nothing needs a lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from app.db import Database
from app.domain.plan import Plan, Subject, plan
from app.store import intake as store

_json = msgspec.json.Encoder()


async def intake(db: Database, *, klass: str, limit: int) -> tuple[int, frozenset[str]]:
    """Plans up to ``limit`` due notifications of one class.

    Answers how many there were and the lanes that got work, so that the caller can wake them.
    """
    async with db.transaction() as conn:
        accepted = await store.claim_accepted(conn, klass=klass, limit=limit)
        if not accepted:
            return 0, frozenset()
        now = datetime.now(UTC)
        plans = [plan(_subject(notification), now) for notification in accepted]
        deliveries = _deliveries(accepted, plans)
        await store.insert_deliveries(conn, deliveries)
        await store.mark_planned(conn, accepted, [_json.encode(p.trace).decode() for p in plans])
    return len(accepted), frozenset(d.lane for d in deliveries if d.state == "queued")


def _subject(notification: store.Accepted) -> Subject:
    return Subject(
        category=notification.category,
        category_class=notification.klass,
        channels=tuple(notification.channels),
        recipient_active=notification.recipient_active,
        addresses={"email": notification.email, "sms": notification.phone},
        suppressed=notification.suppressed or {},
        expires_at=notification.expires_at,
    )


def _deliveries(accepted: Sequence[store.Accepted], plans: Sequence[Plan]) -> list[store.NewDelivery]:
    return [
        store.NewDelivery(notification, d.channel, d.lane, d.address, d.state, d.reason)
        for notification, its_plan in zip(accepted, plans, strict=True)
        for d in its_plan.deliveries
    ]
