"""Statements of flows.control, and of the claims and records that mind providers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg.rows import args_row

from app.db import Connection
from app.store._queries import load

_q = load("control")
PUBLISH_LANES, PUBLISH_PROVIDERS = _q["publish_lanes"], _q["publish_providers"]
PUBLISH_RATES, DROP_RATES, PUBLISH_CAPABILITIES = _q["publish_rates"], _q["drop_rates"], _q["publish_capabilities"]
READY = _q["ready"]
TAKE_PROBE, CLOSE_BREAKER, KEEP_OPEN, FREE_PROBE = (
    _q["take_probe"],
    _q["close_breaker"],
    _q["keep_open"],
    _q["free_probe"],
)
TRY_AT_ONCE = _q["try_at_once"]
TRIP, LIMIT, SLOW_DOWN = _q["trip"], _q["limit"], _q["slow_down"]
WAIT_FOR_NO_STANDBY, LEASE_SLOTS = _q["wait_for_no_standby"], _q["lease_slots"]
REPORT_OUTCOMES, OPEN_FAILING, SHIFT_SHARES = _q["report_outcomes"], _q["open_failing"], _q["shift_shares"]
SPEED_UP = _q["speed_up"]
JUDGE_LOAD_TURN, JUDGE_LOAD = _q["judge_load_turn"], _q["judge_load"]
PURGE, PURGE_LANES = _q["purge"], _q["purge_lanes"]
PURGE_EVENTS, PURGE_KEY_LIMITS = _q["purge_events"], _q["purge_key_limits"]

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class PublishedLane:
    """providers: each with its order and weight."""

    name: str
    channel: str
    klass: str
    providers: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class PublishedProvider:
    """rate: calls a second the configuration allows it, None for any. provable: somebody tells what was delivered."""

    provider: str
    channel: str
    rate: float | None
    provable: bool


@dataclass(frozen=True, slots=True)
class ProviderState:
    """What a lane may do with one provider now. Fields in the order of the statement's columns.

    probe_due: its breaker is open, and one delivery may try it. ready_at: when it may be ready, None for not by itself.
    rate: calls a second, None for any. backlog_seconds: how far ahead its slots are leased.
    shed: claims of the lane's class pause.
    """

    provider: str
    ready: bool
    probe_due: bool
    ready_at: datetime | None
    share: float
    recovering: bool
    rate: float | None
    backlog_seconds: float
    shed: bool


@dataclass(frozen=True, slots=True)
class Slots:
    """When leased calls may begin: the first in so many seconds, each other a step later. n: how many there are."""

    first_in_seconds: float
    step_seconds: float
    n: int


@dataclass(frozen=True, slots=True)
class ControlEvent:
    """A step that was taken just now."""

    name: str
    event: str
    detail: str


@dataclass(slots=True)
class Tally:
    """What the calls to one provider came to since it was last reported."""

    provider: str
    calls: int = 0
    failures: int = 0
    slow: int = 0
    accepted: int = 0
    limited: int = 0
    client_errors: int = 0
    server_errors: int = 0
    unknown: int = 0


async def publish(conn: Connection, lanes: Sequence[PublishedLane], providers: Sequence[PublishedProvider]) -> None:
    """What the configuration says, for people and views to see beside what happens."""
    names = [p.provider for p in providers]
    documents = [{"name": x.name, "channel": x.channel, "class": x.klass, "providers": x.providers} for x in lanes]
    async with conn.pipeline():
        await conn.execute(PUBLISH_LANES, {"lanes": _json.encode(documents).decode()})
        await conn.execute(PUBLISH_PROVIDERS, {"providers": names})
        await conn.execute(PUBLISH_RATES, {"providers": names, "rates": [p.rate for p in providers]})
        with_rate = [p.provider for p in providers if p.rate is not None]
        await conn.execute(DROP_RATES, {"providers": names, "with_rate": with_rate})
        await conn.execute(
            PUBLISH_CAPABILITIES,
            {
                "providers": names,
                "channels": [p.channel for p in providers],
                "provable": [p.provable for p in providers],
            },
        )


async def read_states(conn: Connection, providers: Sequence[str], *, klass: str) -> list[ProviderState]:
    async with conn.cursor(row_factory=args_row(ProviderState)) as cursor:
        await cursor.execute(READY, {"providers": list(providers), "class": klass})
        return await cursor.fetchall()


async def take_probe(
    conn: Connection, providers: Sequence[str], *, worker_id: UUID, probe_seconds: float
) -> str | None:
    """The provider that this worker, and it alone, is to try with one delivery."""
    cursor = await conn.execute(
        TAKE_PROBE, {"providers": list(providers), "worker_id": worker_id, "probe_seconds": probe_seconds}
    )
    row = await cursor.fetchone()
    return None if row is None else str(row[0])


async def close_breaker(
    conn: Connection, provider: str, *, worker_id: UUID, share_min: float, detail: str
) -> list[ControlEvent]:
    return await _events(
        conn,
        CLOSE_BREAKER,
        {"provider": provider, "worker_id": worker_id, "share_min": share_min, "detail": detail},
    )


async def keep_open(
    conn: Connection, provider: str, *, worker_id: UUID, reason: str, detail: str, cool_off_max: float
) -> list[ControlEvent]:
    return await _events(
        conn,
        KEEP_OPEN,
        {
            "provider": provider,
            "worker_id": worker_id,
            "reason": reason,
            "detail": detail,
            "cool_off_max": cool_off_max,
        },
    )


async def free_probe(conn: Connection, provider: str, *, worker_id: UUID) -> None:
    await conn.execute(FREE_PROBE, {"provider": provider, "worker_id": worker_id})


async def try_at_once(conn: Connection, providers: Sequence[str]) -> None:
    """Those that refused our account may be probed now."""
    await conn.execute(TRY_AT_ONCE, {"providers": list(providers)})


async def trip(conn: Connection, provider: str, *, detail: str, cool_off: float) -> list[ControlEvent]:
    return await _events(conn, TRIP, {"provider": provider, "detail": detail, "cool_off": cool_off})


async def limit(
    conn: Connection, provider: str, *, detail: str, seconds: float, hits: int, factor_min: float | None
) -> None:
    """Notes that it said to slow down. factor_min: what is left of its rate at least; None leaves the rate as it is."""
    async with conn.pipeline():
        await conn.execute(LIMIT, {"provider": provider, "detail": detail, "seconds": seconds, "hits": hits})
        if factor_min is not None:
            await conn.execute(SLOW_DOWN, {"provider": provider, "seconds": seconds, "factor_min": factor_min})


async def lease_slots(conn: Connection, provider: str, n: int, *, within_seconds: float = math.inf) -> Slots | None:
    """The next ``n`` slots of a provider, or as many of them as come in time; None for one without a rate.

    All workers want the one row, so its transaction waits for no standby. What is lost in a crash are slots, which are
    let through twice, and no deliveries."""
    async with conn.pipeline(), conn.cursor(row_factory=args_row(Slots)) as cursor:
        await conn.execute(WAIT_FOR_NO_STANDBY)
        await cursor.execute(LEASE_SLOTS, {"provider": provider, "n": n, "within": within_seconds})
        return await cursor.fetchone()


async def report_outcomes(conn: Connection, tallies: Iterable[Tally]) -> None:
    await conn.execute(REPORT_OUTCOMES, {"tallies": _json.encode(list(tallies)).decode()})


async def judge_providers(
    conn: Connection, providers: Sequence[str], breakable: Sequence[str], limits: Mapping[str, float]
) -> list[ControlEvent]:
    """Opens breakers and shifts shares by what was reported. Answers the steps taken."""
    opened = await _events(conn, OPEN_FAILING, {"breakable": list(breakable), **limits})
    shifted = await _events(conn, SHIFT_SHARES, {"providers": list(providers), "breakable": list(breakable), **limits})
    return opened + shifted


async def speed_up(conn: Connection, providers: Sequence[str]) -> None:
    """Gives back some of its rate to who was quiet for a while. In a transaction that locks nothing else."""
    await conn.execute(SPEED_UP, {"providers": list(providers)})


async def judge_load(
    conn: Connection,
    *,
    region: str,
    every_seconds: float,
    transactional_seconds: float,
    alert_seconds: float,
    apart: Sequence[str],
) -> list[ControlEvent]:
    """Pauses promotional claims, or lets them go on, if it is this worker's turn to judge.

    apart: the channels whose lateness is not ours.
    """
    cursor = await conn.execute(JUDGE_LOAD_TURN, {"region": region, "every_seconds": every_seconds})
    if await cursor.fetchone() is None:
        return []
    return await _events(
        conn,
        JUDGE_LOAD,
        {"transactional_seconds": transactional_seconds, "alert_seconds": alert_seconds, "apart": list(apart)},
    )


async def purge(conn: Connection, *, keep_seconds: float) -> None:
    await conn.execute(PURGE)
    await conn.execute(PURGE_LANES)
    await conn.execute(PURGE_EVENTS, {"keep_seconds": keep_seconds})
    await conn.execute(PURGE_KEY_LIMITS, {"keep_seconds": keep_seconds})


async def _events(conn: Connection, statement: Any, parameters: Mapping[str, Any]) -> list[ControlEvent]:
    async with conn.cursor(row_factory=args_row(ControlEvent)) as cursor:
        await cursor.execute(statement, parameters)
        return await cursor.fetchall()
