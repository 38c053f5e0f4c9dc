"""Statements of flows.dispatch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg.rows import args_row, class_row

from app.db import Connection
from app.store._queries import columns, load

_q = load("dispatch")
SHARE_FENCE = _q["share_fence"]
LOCK_DUE = _q["lock_due"]
PUT_OFF_FAILING = _q["put_off_failing"]
SHARE_ADDRESSES = _q["share_addresses"]
OPEN_ATTEMPTS = _q["open_attempts"]
LOCK_DELIVERIES = _q["lock_deliveries"]
RECORD_OUTCOMES = _q["record_outcomes"]
UNPARK = _q["unpark"]
PAUSE_PROVIDER = _q["pause_provider"]
PROVIDER_OK = _q["provider_ok"]
NEXT_DUE = _q["next_due"]
LOAD_TEMPLATES = _q["load_templates"]
SUPPRESS_REFUSED = _q["suppress_refused"]

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery whose intent is written, and what is needed to send it. Fields in the order of the columns.

    event_id: the delivery's own id, or that of the delivery it replays. template_version: 0 for one without a template.
    """

    shard: int
    id: UUID
    notification_id: UUID
    tenant_id: int
    recipient_id: str
    category: str
    klass: str
    channel: str
    address: str
    sender: str
    reply_to: str | None
    template_id: str
    template_version: int
    attempt_no: int
    failures: int
    expires_at: datetime
    event_id: UUID
    tenant: str
    variables: dict[str, Any]
    accepted_at: datetime
    test_mode: bool
    track_opens: bool
    track_clicks: bool


@dataclass(frozen=True, slots=True)
class Recorded:
    """The end of one attempt: a row of the document ``record_outcomes`` reads."""

    shard: int
    id: UUID
    no: int
    tenant_id: int
    notification_id: UUID
    attempt_state: str
    outcome: str
    status_code: int | None
    detail: str
    message_id: str | None
    hash: str | None
    state: str
    reason: str | None
    due_at: datetime | None
    burns: bool
    facts: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TemplateRow:
    tenant_id: int
    template_id: str
    version: int
    channel: str
    subject: str | None
    html: str | None
    text: str | None
    extras: dict[str, str]


@dataclass(frozen=True, slots=True)
class RefusedAddress:
    """An address that its provider refused outright: suppressed for this reason, with these words."""

    tenant_id: int
    channel: str
    address: str
    reason: str
    detail: str
    id: UUID | None


async def claim(
    conn: Connection,
    *,
    lane: str,
    provider: str,
    region: str,
    worker_id: UUID,
    limit: int,
    retry_share: float,
    lease_seconds: float,
    to_endpoints: bool = False,
) -> tuple[int, list[Claimed]]:
    """Locks due deliveries and writes their intents. Nothing may be sent before the transaction is durably committed.

    to_endpoints: the lane leads to many receivers, of which one that fails must not hold up the rest.
    Answers how many rows were taken up (some may have ended as expired or suppressed) and those to send.
    """
    # Statements that need no answer from each other share a round trip: on a busy loop each trip costs a turn of it.
    async with conn.pipeline():
        await conn.execute(SHARE_FENCE)
        cursor = await conn.execute(
            LOCK_DUE,
            {
                "lane": lane,
                "provider": provider,
                "region": region,
                "claim_max": limit,
                "first_max": max(1, limit - int(limit * retry_share)),
            },
        )
        due = await cursor.fetchall()
    taken = len(due)
    if due and to_endpoints:
        put_off = await _put_off_failing(conn, due)
        due = [row for row in due if row[1] not in put_off]
    if not due:
        return taken, []
    async with conn.pipeline(), conn.cursor(row_factory=args_row(Claimed)) as rows:
        await conn.execute(SHARE_ADDRESSES, {"buckets": [bucket for _, _, bucket in due]})
        await rows.execute(
            OPEN_ATTEMPTS,
            {
                "shards": [shard for shard, _, _ in due],
                "ids": [id_ for _, id_, _ in due],
                "first": min(id_ for _, id_, _ in due),
                "last": max(id_ for _, id_, _ in due),
                "region": region,
                "provider": provider,
                "worker_id": worker_id,
                "lease_seconds": lease_seconds,
            },
        )
        return taken, await rows.fetchall()


async def _put_off_failing(conn: Connection, due: Sequence[tuple[int, UUID, int]]) -> set[UUID]:
    """Of these locked rows, those whose endpoint fails just now: they wait, and nothing of them is spent."""
    ids = [id_ for _, id_, _ in due]
    cursor = await conn.execute(
        PUT_OFF_FAILING,
        {"shards": [shard for shard, _, _ in due], "ids": ids, "first": min(ids), "last": max(ids)},
    )
    return {id_ for (id_,) in await cursor.fetchall()}


async def record_outcomes(conn: Connection, records: Sequence[Recorded]) -> None:
    message_ids = [r.message_id for r in records if r.message_id]
    bounds = {"first": min(r.id for r in records), "last": max(r.id for r in records)}
    async with conn.pipeline():
        await conn.execute(LOCK_DELIVERIES, columns(records, shards="shard", ids="id") | bounds)
        await conn.execute(RECORD_OUTCOMES, {"outcomes": _json.encode(records).decode()} | bounds)
        if message_ids:
            await conn.execute(UNPARK, {"message_ids": message_ids})


async def suppress_refused(conn: Connection, refused: Sequence[RefusedAddress]) -> None:
    """The caller holds the addresses' locks."""
    await conn.execute(
        SUPPRESS_REFUSED,
        columns(
            refused,
            tenant_ids="tenant_id",
            channels="channel",
            addresses="address",
            reasons="reason",
            details="detail",
            ids="id",
        ),
    )


async def pause_provider(
    conn: Connection, *, provider: str, status: str, detail: str, seconds: float, hits: int
) -> None:
    await conn.execute(
        PAUSE_PROVIDER,
        {"provider": provider, "status": status, "detail": detail, "seconds": seconds, "hits": hits},
    )


async def provider_ok(conn: Connection, *, provider: str) -> None:
    await conn.execute(PROVIDER_OK, {"provider": provider})


async def next_due(conn: Connection, *, lane: str, provider: str, region: str) -> datetime | None:
    cursor = await conn.execute(NEXT_DUE, {"lane": lane, "provider": provider, "region": region})
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def load_templates(conn: Connection, keys: Iterable[tuple[int, str, int]], *, channel: str) -> list[TemplateRow]:
    wanted = list(keys)
    async with conn.cursor(row_factory=class_row(TemplateRow)) as cursor:
        await cursor.execute(
            LOAD_TEMPLATES,
            {
                "tenant_ids": [k[0] for k in wanted],
                "template_ids": [k[1] for k in wanted],
                "versions": [k[2] for k in wanted],
                "channel": channel,
            },
        )
        return await cursor.fetchall()
