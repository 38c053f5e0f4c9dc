"""Statements of flows.dispatch."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg.rows import args_row, class_row

from app.db import Connection
from app.store import control, inbound
from app.store._queries import columns, load
from app.store.control import ProviderState

_q = load("dispatch")
SHARE_FENCE = _q["share_fence"]
LOCK_DUE = _q["lock_due"]
PUT_OFF_FAILING, PUT_OFF_CROWDED = _q["put_off_failing"], _q["put_off_crowded"]
SHARE_ADDRESSES = _q["share_addresses"]
OPEN_ATTEMPTS = _q["open_attempts"]
LOCK_DELIVERIES = _q["lock_deliveries"]
RECORD_OUTCOMES = _q["record_outcomes"]
UNPARK = _q["unpark"]
NEXT_DUE = _q["next_due"]
LOAD_TEMPLATES = _q["load_templates"]

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
    provider: str
    tried: list[str] | None


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery whose turn it is, locked. tried: the providers that refused it since it last waited."""

    shard: int
    id: UUID
    bucket: int
    expired: bool
    tried: list[str] | None


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
    failed_over: str | None = None


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


async def lock_due(
    conn: Connection,
    *,
    lane: str,
    klass: str,
    providers: Sequence[str],
    region: str,
    limit: int,
    retry_share: float,
) -> tuple[list[Due], list[ProviderState]]:
    """Locks deliveries whose turn it is, and tells which of the lane's providers take calls.

    retry_share: of the claim, at most while first attempts wait; of a claim of one row, so often."""
    for_retries = int(limit * retry_share + random.random())  # noqa: S311 - rounds to whole rows, fair in the long run
    # Statements that need no answer from each other share a round trip: on a busy loop each trip costs a turn of it.
    async with (
        conn.pipeline(),
        conn.cursor(row_factory=args_row(ProviderState)) as states,
        conn.cursor(row_factory=args_row(Due)) as due,
    ):
        await conn.execute(SHARE_FENCE)
        await states.execute(control.READY, {"providers": list(providers), "class": klass})
        await due.execute(
            LOCK_DUE,
            {
                "lane": lane,
                "region": region,
                "claim_max": limit,
                "first_max": limit - for_retries,
            },
        )
        return await due.fetchall(), await states.fetchall()


async def share_addresses(conn: Connection, due: Sequence[Due]) -> None:
    """Keeps opt-outs of these addresses waiting until the transaction ends (I11)."""
    await conn.execute(SHARE_ADDRESSES, {"buckets": [d.bucket for d in due]})


async def open_attempts(
    conn: Connection,
    chosen: Sequence[tuple[Due, str | None]],
    *,
    region: str,
    worker_id: UUID,
    lease_seconds: float,
) -> list[Claimed]:
    """Writes the intents: each delivery with the provider it goes to, None for one that expired.

    Nothing may be sent before the transaction is durably committed. Answers those to send; others have ended.
    """
    due = [d for d, _ in chosen]
    ids = [d.id for d in due]
    async with conn.pipeline(), conn.cursor(row_factory=args_row(Claimed)) as rows:
        await share_addresses(conn, due)
        await rows.execute(
            OPEN_ATTEMPTS,
            {
                "shards": [d.shard for d in due],
                "ids": ids,
                "providers": [provider for _, provider in chosen],
                "first": min(ids),
                "last": max(ids),
                "region": region,
                "worker_id": worker_id,
                "lease_seconds": lease_seconds,
            },
        )
        return await rows.fetchall()


async def put_off_failing(conn: Connection, due: Sequence[Due]) -> set[UUID]:
    """Of these locked rows, those whose endpoint fails just now: they wait, and nothing of them is spent."""
    ids = [d.id for d in due]
    cursor = await conn.execute(
        PUT_OFF_FAILING,
        {"shards": [d.shard for d in due], "ids": ids, "first": min(ids), "last": max(ids)},
    )
    return {id_ for (id_,) in await cursor.fetchall()}


async def put_off_crowded(conn: Connection, due: Sequence[Due], *, over_seconds: float) -> None:
    """These locked rows come back one after the other over so many seconds; nothing of them is spent."""
    ids = [d.id for d in due]
    await conn.execute(
        PUT_OFF_CROWDED,
        {
            "shards": [d.shard for d in due],
            "ids": ids,
            "first": min(ids),
            "last": max(ids),
            "over_seconds": over_seconds,
        },
    )


async def record_outcomes(conn: Connection, records: Sequence[Recorded], *, decided_at: datetime | None = None) -> None:
    """decided_at: the moment, by this worker's clock, from which ``due_at`` counts: the database counts as long from
    its own, by which claims go. Without it ``due_at`` stands as it is."""
    message_ids = [r.message_id for r in records if r.message_id]
    bounds = {"first": min(r.id for r in records), "last": max(r.id for r in records)}
    async with conn.pipeline():
        await conn.execute(LOCK_DELIVERIES, columns(records, shards="shard", ids="id") | bounds)
        await conn.execute(
            RECORD_OUTCOMES, {"outcomes": _json.encode(records).decode(), "decided_at": decided_at} | bounds
        )
        if message_ids:
            await conn.execute(UNPARK, {"message_ids": message_ids})


async def suppress_refused(conn: Connection, refused: Sequence[RefusedAddress]) -> None:
    """For everything, whatever category was refused. The caller holds the addresses' locks."""
    await inbound.suppress(
        conn,
        scopes=["all"] * len(refused),
        **columns(
            refused,
            tenant_ids="tenant_id",
            channels="channel",
            addresses="address",
            reasons="reason",
            details="detail",
            ids="id",
        ),
    )


async def next_due(conn: Connection, *, lane: str, region: str) -> float | None:
    """In how many seconds this lane has something to do, by the database's clock; None when nothing waits."""
    cursor = await conn.execute(NEXT_DUE, {"lane": lane, "region": region})
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
