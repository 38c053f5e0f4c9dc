"""How many calls a provider that is down must bear from several workers: one for each cool-off.

The workers share a lane with a backlog, and one account whose breaker is open; its vendor fails every call. All of them
wake at the moment the cool-off ends. Unshared: a database for each worker, so that each has a breaker of its own, as
breakers inside a process are.
"""

from __future__ import annotations

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
BEGIN: Final = (
    "UPDATE store.provider_states SET retry_at = now() + make_interval(secs => %s), cool_off_seconds = %s"
    " WHERE provider = 'mailgun' RETURNING extract(epoch FROM retry_at)::float8"
)
ENDS: Final = (
    "SELECT extract(epoch FROM (data ->> 'retry_at')::timestamptz)::float8 FROM store.control_events"
    " WHERE event = 'probe_failed' ORDER BY id"
)


@dataclass(frozen=True, slots=True)
class Probed:
    """calls: in each cool-off, from the end of one until the end of the next. before: while all of them waited."""

    calls: tuple[int, ...]
    before: int


async def measure(dsn: str, apart: Sequence[str], *, cool_offs: int, cool_off_seconds: float) -> tuple[Probed, Probed]:
    """dsn: the database that as many workers share as have one of their own in ``apart``. Answers shared, unshared."""
    shared = await _probed([dsn] * len(apart), cool_offs, cool_off_seconds)
    return shared, await _probed(apart, cool_offs, cool_off_seconds)


async def _probed(dsns: Sequence[str], cool_offs: int, cool_off_seconds: float) -> Probed:
    """dsns: of each worker. Cool-offs are those of the first."""
    async with contextlib.AsyncExitStack() as stack:
        vendor = await stack.enter_async_context(stage.vendor())
        await vendor.becomes("failing")
        accounts = {"mailgun": stage.mailgun_account(vendor.port)}
        breakers = {"cool_off_seconds": cool_off_seconds, "cool_off_max_seconds": cool_off_seconds}
        databases = {
            dsn: await stack.enter_async_context(Database(dsn, name="landed bench")) for dsn in dict.fromkeys(dsns)
        }
        for db in databases.values():
            await stage.accept(db, await stage.populate(db), count=BACKLOG, klass="transactional")
            async with db.transaction() as conn:
                await control.trip(conn, "mailgun", detail="until everybody is there", cool_off=LONG_SECONDS)
        environments = [stage.configuration(dsn, accounts, {"email": ["mailgun"]}, breakers=breakers) for dsn in dsns]
        await stack.enter_async_context(stage.workers(*environments))
        for dsn, db in databases.items():
            await stage.until_manned(db, dsns.count(dsn))
        first, *_ = [
            await stage.until_found(db, BEGIN, cool_off_seconds, cool_off_seconds) for db in databases.values()
        ]
        ends = [first, *await _ends(databases[dsns[0]], cool_offs)]
        times = [call.at for call in await vendor.calls()]
    places = [bisect_left(times, end) for end in ends]
    counts = [after - before for before, after in zip(places, places[1:], strict=False)]
    return Probed(tuple(counts), places[0])


async def _ends(db: Database, cool_offs: int) -> list[float]:
    """When each cool-off but the first ended, once the call that follows the last of them was told of: Unix seconds."""
    told = "SELECT 1 FROM store.control_events WHERE event = 'probe_failed' HAVING count(*) > %s"
    await stage.until_found(db, told, cool_offs)
    async with db.transaction() as conn:
        cursor = await conn.execute(ENDS.encode())
        return [end for (end,) in await cursor.fetchall()][:cool_offs]
