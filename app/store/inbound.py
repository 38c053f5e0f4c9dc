"""Statements of flows.receive and flows.apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg.rows import class_row

from app.db import Connection
from app.domain.models import Evidence, EvidenceKind
from app.store._queries import columns, load

_q = load("inbound")
SEEN_TOKEN = _q["seen_token"]
STORE_EVENTS = _q["store_events"]
COUNT_REFUSAL = _q["count_refusal"]
CLAIM_PENDING = _q["claim_pending"]
MATCH_MESSAGE_IDS = _q["match_message_ids"]
LOAD_STANDINGS = _q["load_standings"]
ATTEMPT_PROVIDERS = _q["attempt_providers"]
APPEND_EVENTS = _q["append_events"]
ACCEPT_ATTEMPTS = _q["accept_attempts"]
MOVE_DELIVERIES = _q["move_deliveries"]
NOTE_EVIDENCE = _q["note_evidence"]
SHARE_TENANTS = _q["share_tenants"]
LOCK_ADDRESSES = _q["lock_addresses"]
SUPPRESS = _q["suppress"]
LOCK_SOFT_BOUNCES = _q["lock_soft_bounces"]
COUNT_SOFT_BOUNCES = _q["count_soft_bounces"]
FORGET_SOFT_BOUNCES = _q["forget_soft_bounces"]
SETTLE = _q["settle"]
RECORD_CONSENTS = _q["record_consents"]
LAST_SAID = _q["last_said"]
OPT_OUT = _q["opt_out"]
OPT_IN = _q["opt_in"]


@dataclass(frozen=True, slots=True)
class Pending:
    """A stored provider event waiting to be applied. ``evidence`` is the document ``store_events`` wrote."""

    occurred_on: date
    provider: str
    event_key: str
    source: str
    evidence: Mapping[str, Any]
    received_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery as evidence finds it; locked."""

    shard: int
    id: UUID
    notification_id: UUID
    tenant_id: int
    channel: str
    address: str
    category: str
    state: str
    reason: str | None
    attempt_no: int
    provider: str | None
    evidence_id: UUID | None
    delivered_at: datetime | None
    bounced_at: datetime | None
    opened_at: datetime | None
    clicked_at: datetime | None
    complained_at: datetime | None
    unsubscribed_at: datetime | None
    due_at: datetime | None


@dataclass(frozen=True, slots=True)
class AppendedEvent:
    id: UUID
    delivery_id: UUID
    kind: str
    occurred_at: datetime


def decode(evidence: Mapping[str, Any]) -> Evidence:
    return msgspec.convert(evidence, Evidence)


async def seen_token(conn: Connection, *, provider: str, token: str, event_key: str) -> str:
    """Remembers a signature's token; answers the event it first came with."""
    cursor = await conn.execute(SEEN_TOKEN, {"provider": provider, "token": token, "event_key": event_key})
    row = await cursor.fetchone()
    assert row is not None
    return str(row[0])


async def store_events(
    conn: Connection, *, provider: str, source: str, evidence: Sequence[Evidence], raw: bytes
) -> int:
    """Stores what is new among these facts; a fact told before is known by its key (I16). Answers how many were new."""
    cursor = await conn.execute(
        STORE_EVENTS,
        {
            "provider": provider,
            "source": source,
            "raw": raw,
            "days": [e.occurred_at.date() for e in evidence],
            "evidences": [msgspec.json.encode(e).decode() for e in evidence],
        }
        | columns(evidence, keys="event_key", kinds="kind", message_ids="provider_message_id"),
    )
    return cursor.rowcount


async def count_refusal(conn: Connection, *, provider: str, reason: str, detail: str) -> None:
    await conn.execute(COUNT_REFUSAL, {"provider": provider, "reason": reason, "detail": detail})


async def claim_pending(conn: Connection, *, limit: int) -> list[Pending]:
    async with conn.cursor(row_factory=class_row(Pending)) as cursor:
        await cursor.execute(CLAIM_PENDING, {"limit": limit})
        return await cursor.fetchall()


async def match_message_ids(
    conn: Connection, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[UUID, int]]:
    """(provider, message id) -> (delivery, attempt), for evidence that did not carry our ids."""
    cursor = await conn.execute(
        MATCH_MESSAGE_IDS, {"providers": [p for p, _ in wanted], "message_ids": [m for _, m in wanted]}
    )
    return {(provider, message_id): (delivery, no) for message_id, provider, delivery, no in await cursor.fetchall()}


def _keys(ids: Sequence[UUID]) -> dict[str, list[Any]]:
    return {"shards": [i.bytes[15] for i in ids], "ids": list(ids)}


async def load_standings(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, DeliveryRow]:
    async with conn.cursor(row_factory=class_row(DeliveryRow)) as cursor:
        await cursor.execute(LOAD_STANDINGS, _keys(ids))
        return {row.id: row for row in await cursor.fetchall()}


async def attempt_providers(conn: Connection, ids: Sequence[UUID]) -> dict[tuple[UUID, int], str]:
    """(delivery, attempt) -> the provider it was made through."""
    cursor = await conn.execute(ATTEMPT_PROVIDERS, _keys(ids))
    return {(delivery, no): provider for delivery, no, provider in await cursor.fetchall()}


async def append_events(conn: Connection, **arrays: Sequence[Any]) -> list[AppendedEvent]:
    async with conn.cursor(row_factory=class_row(AppendedEvent)) as cursor:
        await cursor.execute(APPEND_EVENTS, arrays)
        return await cursor.fetchall()


async def accept_attempts(conn: Connection, ids: Sequence[UUID], **arrays: Sequence[Any]) -> None:
    """One entry for each fact: the delivery and attempt it speaks of, the message id it named, who told it."""
    await conn.execute(ACCEPT_ATTEMPTS, _keys(ids) | arrays)


async def move_deliveries(conn: Connection, ids: Sequence[UUID], **arrays: Sequence[Any]) -> None:
    await conn.execute(MOVE_DELIVERIES, _keys(ids) | arrays)


async def note_evidence(conn: Connection, ids: Sequence[UUID], **arrays: Sequence[Any]) -> None:
    await conn.execute(NOTE_EVIDENCE, _keys(ids) | arrays)


async def share_tenants(conn: Connection) -> None:
    """Before ``lock_addresses`` with ``everywhere``: no tenant comes unseen from here to the commit."""
    await conn.execute(SHARE_TENANTS)


async def lock_addresses(
    conn: Connection,
    addresses: Sequence[tuple[int, str, str]],
    *,
    everywhere: Sequence[tuple[str, str]] = (),
) -> None:
    """Exclusively, for an opt-out: no claim of these addresses is under way from here to the commit (I11).

    everywhere: (channel, address) pairs to be locked for every tenant there is. Once in a transaction, with all it
    needs: the order of the locks holds within one call. Take row locks before these, never after.
    """
    shared = {"shared_channels": [c for c, _ in everywhere], "shared_addresses": [a for _, a in everywhere]}
    await conn.execute(LOCK_ADDRESSES, _addresses(addresses) | shared)


async def suppress(conn: Connection, **arrays: Sequence[Any]) -> None:
    await conn.execute(SUPPRESS, arrays)


async def lock_soft_bounces(conn: Connection, addresses: Sequence[tuple[int, str, str]]) -> None:
    """Before they are counted or forgotten: all that the transaction will touch."""
    await conn.execute(LOCK_SOFT_BOUNCES, _addresses(addresses))


async def count_soft_bounces(
    conn: Connection,
    bounced: Sequence[tuple[int, str, str, datetime]],
    *,
    bounces_max: int,
    days_min: float,
) -> list[tuple[int, str, str, int]]:
    """Counts one more for each (tenant, channel, address, when); answers the addresses that have had enough."""
    cursor = await conn.execute(
        COUNT_SOFT_BOUNCES,
        _addresses([b[:3] for b in bounced])
        | {"ats": [b[3] for b in bounced], "bounces_max": bounces_max, "days_min": days_min},
    )
    return [(tenant, channel, address, n) for tenant, channel, address, n in await cursor.fetchall()]


async def forget_soft_bounces(conn: Connection, delivered: Sequence[tuple[int, str, str, datetime]]) -> None:
    await conn.execute(FORGET_SOFT_BOUNCES, _addresses([d[:3] for d in delivered]) | {"ats": [d[3] for d in delivered]})


async def settle(conn: Connection, *, park_seconds: float, **arrays: Sequence[Any]) -> None:
    await conn.execute(SETTLE, {"park_seconds": park_seconds} | arrays)


def _addresses(addresses: Sequence[tuple[int, str, str]]) -> dict[str, list[Any]]:
    return {
        "tenant_ids": [a[0] for a in addresses],
        "channels": [a[1] for a in addresses],
        "addresses": [a[2] for a in addresses],
    }


async def record_consents(
    conn: Connection, told: Sequence[tuple[Pending, Evidence]], *, channel: str
) -> set[tuple[str, str]]:
    """Appends who said what, and through whom it was heard; answers the (provider, event key) of what was news."""
    cursor = await conn.execute(
        RECORD_CONSENTS,
        {
            "channel": channel,
            "addresses": [e.address for _, e in told],
            "actions": ["opt_out" if e.kind == EvidenceKind.OPTED_OUT else "opt_in" for _, e in told],
            "providers": [p.provider for p, _ in told],
            "keys": [p.event_key for p, _ in told],
            "datas": [msgspec.json.encode(dict(e.data)).decode() for _, e in told],
            "occurred_ats": [e.occurred_at for _, e in told],
        },
    )
    return {(provider, event_key) for provider, event_key in await cursor.fetchall()}


@dataclass(frozen=True, slots=True)
class Said:
    """The last word of an address's owner, and the event that brought it."""

    address: str
    action: str
    provider: str
    event_key: str


async def last_said(conn: Connection, *, channel: str, addresses: Sequence[str]) -> list[Said]:
    """Of the owners of these addresses, as far as anything was ever heard; the addresses in their one spelling."""
    async with conn.cursor(row_factory=class_row(Said)) as cursor:
        await cursor.execute(LAST_SAID, {"channel": channel, "addresses": list(addresses)})
        return await cursor.fetchall()


async def opt_out(conn: Connection, *, channel: str, addresses: Sequence[str]) -> None:
    """Suppresses them for every tenant; the caller holds their locks."""
    await conn.execute(OPT_OUT, {"channel": channel, "addresses": list(addresses)})


async def opt_in(conn: Connection, *, channel: str, addresses: Sequence[str]) -> None:
    """Lifts what their owners' STOP had suppressed."""
    await conn.execute(OPT_IN, {"channel": channel, "addresses": list(addresses)})
