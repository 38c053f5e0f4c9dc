"""A vendor goes down under a steady load, and comes back: what those who wait for their messages notice.

Two vendors, one after the other on a route. The first is well, then down, then well again; breakers work with the
settings below, which are shorter than the shipped ones so that all of it fits into half a minute.

    dead      its connections are cut and refused. What was refused was surely not sent, so the second vendor gets it
    failing   it answers 503, behind which mail may have been taken: such messages are in doubt until somebody knows
              better, and are never just sent again. Until its breaker opens, each call to it makes one of those
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.bench import stage
from app.bench.vendor import Mood
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
OPENED: Final = (
    "SELECT extract(epoch FROM at)::float8 FROM store.control_events"
    " WHERE subject = 'provider' AND name = 'first' AND event = 'opened' AND at > to_timestamp(%s)"
)
FULL_SHARE: Final = (
    "SELECT extract(epoch FROM share_changed_at)::float8 FROM store.provider_states"
    " WHERE provider = 'first' AND breaker = 'closed' AND share = 1 AND NOT recovering"
    " AND share_changed_at > to_timestamp(%s)"
)
TICK_SECONDS: Final = 0.05
STANDSTILL_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class FailedOver:
    """Counts are of messages.

    lost: nobody took them, and nobody will look after them. sent_twice: more than one call was accepted. in_doubt: a
    call had no outcome, and waits to be looked up. failed_over: one vendor refused them and the other took them.
    Latencies in milliseconds from a send's acceptance to its arrival at the vendor that took it: steady before the
    first went down, down while it was. full_share: from when it was well again until it had all of its share.
    """

    messages: int
    lost: int
    sent_twice: int
    in_doubt: int
    failed_over: int
    opened_after_seconds: float
    steady_p50_ms: float
    steady_p99_ms: float
    down_p50_ms: float
    down_p99_ms: float
    full_share_after_seconds: float


async def measure(dsn: str, mood: Mood, *, per_second: int, steady_seconds: float, down_seconds: float) -> FailedOver:
    """mood: of the first vendor while it is down."""
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
                fell = await first.becomes(mood)
                opened = await stage.until_found(db, OPENED, fell)
                await asyncio.sleep(max(0.0, down_seconds - (time.time() - fell)))
                back = await first.becomes("well")
                full = await stage.until_found(db, FULL_SHARE, back)
            await _settled(db)
        taken = [call for vendor in (first, second) for call in await vendor.calls() if call.accepted]
        times = Counter(call.delivery for call in taken)
        arrivals = {call.delivery: call.at for call in reversed(taken)}
        accepted = await _accepted(db)
        steady = _latencies(accepted, arrivals, began, fell - TICK_SECONDS)
        down = _latencies(accepted, arrivals, fell, back)
        return FailedOver(
            messages=len(accepted),
            lost=sum(d.id not in arrivals and d.state != "ambiguous" for d in accepted),
            sent_twice=sum(count > 1 for count in times.values()),
            in_doubt=sum(d.state == "ambiguous" for d in accepted),
            failed_over=await _failed_over(db),
            opened_after_seconds=opened - fell,
            steady_p50_ms=steady[49],
            steady_p99_ms=steady[98],
            down_p50_ms=down[49],
            down_p99_ms=down[98],
            full_share_after_seconds=full - back,
        )


async def _settled(db: Database) -> None:
    """Until everything was sent, or for a while nothing more is: what is missing then counts as lost."""
    left, since = -1, time.monotonic()
    while time.monotonic() - since < STANDSTILL_SECONDS:
        async with db.transaction() as conn:
            cursor = await conn.execute(
                "SELECT (SELECT count(*) FROM store.notifications WHERE state = 'accepted')"
                " + (SELECT count(*) FROM store.deliveries WHERE sent_at IS NULL AND state <> 'ambiguous')"
            )
            [now] = await cursor.fetchone() or [0]
        if now == 0:
            return
        if now != left:
            left, since = now, time.monotonic()
        await asyncio.sleep(stage.POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A notification with its delivery, if it has one. at: Unix seconds of its acceptance."""

    id: str | None
    at: float
    state: str | None


async def _accepted(db: Database) -> list[_Accepted]:
    async with db.transaction() as conn:
        cursor = await conn.execute(
            "SELECT d.id::text, extract(epoch FROM n.accepted_at)::float8, d.state FROM store.notifications n"
            " LEFT JOIN store.deliveries d ON d.shard = n.shard AND d.notification_id = n.id"
        )
        return [_Accepted(*row) for row in await cursor.fetchall()]


def _latencies(
    accepted: Sequence[_Accepted], arrivals: Mapping[str | None, float], since: float, until: float
) -> list[float]:
    """The percentiles of what was accepted in this time, in milliseconds."""
    waited = [(arrivals[d.id] - d.at) * 1000 for d in accepted if d.id in arrivals and since <= d.at < until]
    return statistics.quantiles(waited, n=100)


async def _failed_over(db: Database) -> int:
    async with db.transaction() as conn:
        cursor = await conn.execute(
            "SELECT count(DISTINCT a.delivery_id) FROM store.attempts a"
            " JOIN store.attempts b ON b.shard = a.shard AND b.delivery_id = a.delivery_id"
            " WHERE a.state IN ('not_sent', 'refused') AND b.state = 'accepted' AND a.provider <> b.provider"
        )
        [count] = await cursor.fetchone() or [0]
    return int(count)
