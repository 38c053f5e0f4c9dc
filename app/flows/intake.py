"""intake: accepted notifications become deliveries, or recorded refusals, with the trace of why.

One batch, one transaction: no outside call is made, so nothing needs a lease.
"""

from __future__ import annotations

from app.db import Database
from app.domain import addresses
from app.domain.models import Channel, DeliveryState
from app.domain.plan import Subject, plan
from app.flows.limits import spread
from app.settings import Settings
from app.store import intake as store


async def intake(db: Database, settings: Settings, *, klass: str, limit: int) -> tuple[int, frozenset[str]]:
    """Plans up to ``limit`` due notifications of one class.

    Answers how many there were and the lanes that got work, so that the caller can wake them.
    """
    async with db.transaction() as conn:
        async with conn.pipeline():  # the transaction's beginning and its first statement in one round trip
            accepted = await store.claim_accepted(conn, klass=klass, limit=limit)
        if not accepted:
            return 0, frozenset()
        now = accepted[0].claimed_at
        routes = settings.routing()
        allowed = [plan(_subject(notification), now, routes) for notification in accepted]
        plans = await spread(conn, accepted, allowed, settings.limits)
        await store.write_plans(
            conn,
            [
                store.PlannedNotification(n.shard, n.id, p.trace, p.deliveries)
                for n, p in zip(accepted, plans, strict=True)
            ],
            endpoint_seconds=settings.endpoints.span_seconds,
        )
    lanes = frozenset(d.lane for p in plans for d in p.deliveries if d.state == DeliveryState.QUEUED)
    return len(accepted), lanes


def _subject(notification: store.Accepted) -> Subject:
    phone = notification.phone
    return Subject(
        category=notification.category,
        category_class=notification.klass,
        channels=tuple(notification.channels),
        recipient_active=notification.recipient_active,
        addresses={
            **(notification.addresses or {}),
            Channel.EMAIL: notification.email,
            Channel.SMS: phone,
            Channel.IN_APP: notification.recipient_id,
        },
        suppressed=notification.suppressed or {},
        expires_at=notification.expires_at,
        devices=notification.devices or {},
        preferred=notification.preferred or (),
        channels_named=notification.channels_named,
        tenant=notification.tenant,
        country=addresses.country(phone) if phone and Channel.SMS in notification.channels else None,
    )
