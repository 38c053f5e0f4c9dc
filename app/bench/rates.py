"""What a provider counts of several workers that share its rate, and of as many that each believe it is theirs alone.

Both send from a backlog that outlasts the measurement, over one provider account with a rate. Shared: one database, one
row of slots. Unshared: a database for each worker, so that each keeps a bucket of its own, as rate limiters inside a
process do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.bench import stage
from app.db import Database
from app.flows.line import SLOTS_AHEAD_SECONDS

WINDOWS: Final = (1.0, 10.0, 60.0)  # seconds that a provider might count over
UNSHARED_SECONDS_MAX: Final = 10.0  # enough to see what its rate is


@dataclass(frozen=True, slots=True)
class Window:
    """The fullest of all stretches of so many seconds. allowed: the rate, and one batch that was leased ahead."""

    seconds: float
    calls: int
    allowed: float


@dataclass(frozen=True, slots=True)
class Rates:
    """utilisation: the calls of the whole measurement over what the rate would allow. unshared_overshoot: what buckets
    of their own made of the rate."""

    workers: int
    rate: float
    seconds: float
    calls: int
    windows: tuple[Window, ...]
    unshared_overshoot: float

    @property
    def utilisation(self) -> float:
        return self.calls / (self.rate * self.seconds)

    @property
    def worst(self) -> Window:
        return max(self.windows, key=lambda window: window.calls / window.allowed)

    @property
    def overshoot(self) -> float:
        """What the fullest of the longest stretches made of the rate."""
        longest = self.windows[-1]
        return longest.calls / (self.rate * longest.seconds)


async def measure(dsns: Sequence[str], *, rate: float, seconds: float) -> Rates:
    """dsns: a database for each worker; the first is the one they share."""
    workers = len(dsns)
    shared = await _calls([dsns[0]] * workers, rate=rate, seconds=seconds)
    apart_seconds = min(seconds, UNSHARED_SECONDS_MAX)
    apart = await _calls(dsns, rate=rate, seconds=apart_seconds)
    return Rates(
        workers,
        rate,
        seconds,
        len(shared),
        tuple(fullest(shared, length, rate) for length in WINDOWS if length <= seconds),
        len(apart) / (rate * apart_seconds),
    )


async def _calls(dsns: Sequence[str], *, rate: float, seconds: float) -> list[float]:
    """When the provider was called, from when all workers were there, for so long."""
    databases = list(dict.fromkeys(dsns))
    async with contextlib.AsyncExitStack() as stack:
        vendor = await stack.enter_async_context(stage.vendor())
        for dsn in databases:
            await _fill(dsn, int(2 * rate * (seconds + stage.STANDSTILL_SECONDS) / len(databases)))
        accounts = {"mailgun": stage.mailgun_account(vendor.port, rate_per_second=rate)}
        environments = [stage.configuration(dsn, accounts, {"email": ["mailgun"]}) for dsn in dsns]
        await stack.enter_async_context(stage.workers(*environments))
        for dsn in databases:
            async with Database(dsn, name="landed bench") as db:
                await stage.until_manned(db, dsns.count(dsn))
        began = len(await vendor.calls())
        await asyncio.sleep(seconds + 0.5)  # calls are counted from the first that comes now
        times = [call.at for call in (await vendor.calls())[began:]]
    return [at for at in times if at < times[0] + seconds] if times else []


async def _fill(dsn: str, count: int) -> None:
    """More than the workers can send meanwhile; the first database is used twice."""
    async with Database(dsn, name="landed bench") as db:
        async with db.transaction() as conn:
            known = await (await conn.execute("SELECT id FROM store.tenants WHERE name = 'bench'")).fetchone()
        tenant_id = known[0] if known else await stage.populate(db)
        await stage.accept(db, tenant_id, count=count, klass="transactional")


def fullest(times: Sequence[float], seconds: float, rate: float) -> Window:
    """Of all stretches of so many seconds the one with most calls. times: in order."""
    most, first = 0, 0
    for last, at in enumerate(times):
        while at - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return Window(seconds, most, rate * seconds + rate * SLOTS_AHEAD_SECONDS)
