"""How many calls a provider that is down must bear from several workers: one for each cool-off.

The workers share a lane with a backlog, and one account whose breaker is open; its vendor fails every call. All of them
wake at the moment the cool-off ends. The baseline is arithmetic: breakers of their own would let each worker try.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.bench import stage
from app.db import Database
from app.store import control

LONG_SECONDS: Final = 3600.0
BACKLOG: Final = 500


@dataclass(frozen=True, slots=True)
class Probed:
    """calls: in each cool-off, from the end of one until the end of the next. before: while all of them waited."""

    workers: int
    cool_off_seconds: float
    calls: tuple[int, ...]
    before: int


async def measure(dsn: str, *, workers: int, cool_offs: int, cool_off_seconds: float) -> Probed:
    async with contextlib.AsyncExitStack() as stack:
        db = await stack.enter_async_context(Database(dsn, name="landed bench"))
        vendor = await stack.enter_async_context(stage.vendor())
        await vendor.becomes("failing")
        await stage.accept(db, await stage.populate(db), count=BACKLOG, klass="transactional")
        async with db.transaction() as conn:
            await control.trip(conn, "mailgun", detail="until everybody is there", cool_off=LONG_SECONDS)
        env = stage.configuration(
            dsn,
            {"mailgun": stage.mailgun_account(vendor.port)},
            {"email": ["mailgun"]},
            breakers={"cool_off_seconds": cool_off_seconds, "cool_off_max_seconds": cool_off_seconds},
        )
        await stack.enter_async_context(stage.workers(*[env] * workers))
        await stage.until_manned(db, workers)
        async with db.transaction() as conn:
            await conn.execute(
                "UPDATE store.provider_states SET retry_at = now() + make_interval(secs => %s), cool_off_seconds = %s"
                " WHERE provider = 'mailgun'",
                (cool_off_seconds, cool_off_seconds),
            )
        ends = await _ends(db, cool_offs + 1)
        times = [call.at for call in await vendor.calls()]
    places = [bisect_left(times, end) for end in ends]
    counts = [after - before for before, after in zip(places, places[1:], strict=False)]
    return Probed(workers, cool_off_seconds, tuple(counts[:cool_offs]), places[0])


async def _ends(db: Database, count: int) -> Sequence[float]:
    """When each cool-off ended, as soon as so many have: Unix seconds."""
    async with db.transaction() as conn:
        cursor = await conn.execute(
            "SELECT extract(epoch FROM retry_at)::float8 FROM store.provider_states WHERE provider = 'mailgun'"
        )
        [first] = await cursor.fetchone() or [0.0]
    async with asyncio.timeout(stage.STANDSTILL_SECONDS):
        while True:
            async with db.transaction() as conn:
                cursor = await conn.execute(
                    "SELECT extract(epoch FROM (data ->> 'retry_at')::timestamptz)::float8 FROM store.control_events"
                    " WHERE event = 'probe_failed' ORDER BY id"
                )
                ends = [first, *(end for (end,) in await cursor.fetchall())]
            if len(ends) > count:
                return ends
            await asyncio.sleep(stage.POLL_SECONDS)
