"""A vendor dies under a steady load, and comes back: what those who wait for their messages notice.

Two vendors, one after the other on a route. The first answers as usual, then every call with a 503, then as usual
again. Breakers work with the settings below, which are shorter than the shipped ones so that all of it fits into half a
minute. Nobody who sent may notice more than a little time: each message was taken by one of the two, once.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.bench import stage
from app.bench.vendor import Call
from app.db import Database

BREAKERS: Final = {
    "window_seconds": 10.0,
    "failures_min": 5,
    "failure_rate": 0.5,
    "cool_off_seconds": 2.0,
    "cool_off_max_seconds": 4.0,
    "share_min": 0.1,
    "shift_seconds": 2.0,
}
TICK_SECONDS: Final = 0.05
RETURN_SECONDS_MAX: Final = 60.0
STANDSTILL_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class FailedOver:
    """failed_over: deliveries that one vendor refused and the other took. Latencies in milliseconds from a send's
    acceptance to its arrival at the vendor that took it: steady before the first died, down while it was. full_share: from
    when it was well again until it had all of its share."""

    messages: int
    lost: int
    sent_twice: int
    failed_over: int
    opened_after_seconds: float
    refused_calls: int
    steady_p50_ms: float
    steady_p99_ms: float
    down_p50_ms: float
    down_p99_ms: float
    full_share_after_seconds: float


async def measure(dsn: str, *, per_second: int, steady_seconds: float, down_seconds: float) -> FailedOver:
    async with Database(dsn, name="landed bench") as db, stage.vendor() as first, stage.vendor() as second:
        tenant_id = await stage.populate(db)
        accounts = {"first": stage.mailgun_account(first.port), "second": stage.mailgun_account(second.port)}
        env = stage.configuration(dsn, accounts, {"email": ["first", "second"]}, breakers=BREAKERS)
        async with stage.running("jobs.worker", env=env):
            await stage.until_manned(db, 1)
            async with stage.load(db, tenant_id, per_second=per_second):
                await stage.until_sent(db, per_second, klass="transactional")  # what comes first meets cold caches
                began = time.time()
                await asyncio.sleep(steady_seconds)
                died = await first.becomes("failing")
                opened = await _event(db, "opened", died)
                await asyncio.sleep(max(0.0, down_seconds - (time.time() - died)))
                back = await first.becomes("well")
                full = await _full_share(db, back)
            await _settled(db)
        return await _figures(
            db,
            await first.calls(),
            await second.calls(),
            began=began,
            died=died,
            opened=opened,
            back=back,
            full=full,
        )


async def _event(db: Database, event: str, since: float) -> float:
    """When it happened to the first vendor."""
    async with asyncio.timeout(RETURN_SECONDS_MAX):
        while True:
            async with db.transaction() as conn:
                cursor = await conn.execute(
                    "SELECT extract(epoch FROM at)::float8 FROM store.control_events"
                    " WHERE subject = 'provider' AND name = 'first' AND event = %s AND at > to_timestamp(%s)",
                    (event, since),
                )
                if found := await cursor.fetchone():
                    return float(found[0])
            await asyncio.sleep(TICK_SECONDS)


async def _full_share(db: Database, since: float) -> float:
    async with asyncio.timeout(RETURN_SECONDS_MAX):
        while True:
            async with db.transaction() as conn:
                cursor = await conn.execute(
                    "SELECT extract(epoch FROM share_changed_at)::float8 FROM store.provider_states"
                    " WHERE provider = 'first' AND breaker = 'closed' AND share = 1 AND NOT recovering"
                    " AND share_changed_at > to_timestamp(%s)",
                    (since,),
                )
                if found := await cursor.fetchone():
                    return float(found[0])
            await asyncio.sleep(TICK_SECONDS)


async def _settled(db: Database) -> None:
    """Until everything was sent, or for a while nothing more is: what is missing then counts as lost."""
    left, since = -1, time.monotonic()
    while time.monotonic() - since < STANDSTILL_SECONDS:
        async with db.transaction() as conn:
            cursor = await conn.execute(
                "SELECT (SELECT count(*) FROM store.notifications WHERE state = 'accepted')"
                " + (SELECT count(*) FROM store.deliveries WHERE sent_at IS NULL)"
            )
            [now] = await cursor.fetchone() or [0]
        if now == 0:
            return
        if now != left:
            left, since = now, time.monotonic()
        await asyncio.sleep(stage.POLL_SECONDS)


async def _figures(
    db: Database,
    first: Sequence[Call],
    second: Sequence[Call],
    *,
    began: float,
    died: float,
    opened: float,
    back: float,
    full: float,
) -> FailedOver:
    taken = [(call.delivery, call.at) for call in (*first, *second) if call.accepted and call.delivery is not None]
    times = Counter(delivery for delivery, _ in taken)
    arrivals = {delivery: at for delivery, at in reversed(taken)}
    async with db.transaction() as conn:
        cursor = await conn.execute(
            "SELECT d.id::text, extract(epoch FROM n.accepted_at)::float8 FROM store.notifications n"
            " LEFT JOIN store.deliveries d ON d.shard = n.shard AND d.notification_id = n.id"
        )
        accepted = await cursor.fetchall()
    late = [(at, (arrivals[delivery] - at) * 1000) for delivery, at in accepted if delivery in arrivals]
    steady = statistics.quantiles([ms for at, ms in late if began <= at < died - 1], n=100)
    down = statistics.quantiles([ms for at, ms in late if died <= at < back], n=100)
    refused = {call.delivery for call in first if not call.accepted}
    return FailedOver(
        messages=len(accepted),
        lost=sum(delivery not in arrivals for delivery, _ in accepted),
        sent_twice=sum(count > 1 for count in times.values()),
        failed_over=len(refused & {call.delivery for call in second}),
        opened_after_seconds=opened - died,
        refused_calls=sum(not call.accepted for call in first),
        steady_p50_ms=steady[49],
        steady_p99_ms=steady[98],
        down_p50_ms=down[49],
        down_p99_ms=down[98],
        full_share_after_seconds=full - back,
    )
