"""Endpoints: merchants' webhooks and chat rooms, and the status events that fan out to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from app.db import Connection
from app.store._queries import columns, load

_q = load("endpoints")
INSERT, COUNT, GET, LOCK, LIST_NEWEST = _q["insert"], _q["count"], _q["get"], _q["lock"], _q["list_newest"]
UPDATE, ROTATE, ENABLE, DISABLE, DELETE = _q["update"], _q["rotate"], _q["enable"], _q["disable"], _q["delete"]
AUDIT, TELL, DELIVERIES = _q["audit"], _q["tell"], _q["deliveries"]
ACT_FOR, REPLAY = _q["act_for"], _q["replay"]
TARGETS, NOTE_OUTCOMES = _q["targets"], _q["note_outcomes"]
FAN_OUT, PREPARE_OWNER_MAIL, ACCEPT = _q["fan_out"], _q["prepare_owner_mail"], _q["accept"]


# -- what tenants register -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Endpoint:
    """All of an endpoint, secrets included: what is shown of it is the API's to say."""

    id: UUID
    name: str
    url: str = field(repr=False)
    format: str
    events: list[str]
    secret: str | None = field(repr=False)
    previous_secret: str | None = field(repr=False)
    previous_secret_until: datetime | None
    owner_email: str | None
    status: str
    disabled_reason: str | None
    disabled_at: datetime | None
    failing_since: datetime | None
    last_success_at: datetime | None
    last_failure: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    name: str
    url: str = field(repr=False)
    format: str
    events: Sequence[str]
    secret: str | None = field(repr=False)
    owner_email: str | None


async def insert(conn: Connection, tenant_id: int, new: NewEndpoint) -> Endpoint:
    endpoint = await _one(conn, INSERT, {"tenant_id": tenant_id, **asdict(new), "events": list(new.events)})
    assert endpoint is not None
    return endpoint


async def count(conn: Connection, tenant_id: int) -> int:
    cursor = await conn.execute(COUNT, {"tenant_id": tenant_id})
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def get(conn: Connection, tenant_id: int, id: UUID, *, lock: bool = False) -> Endpoint | None:
    """lock: nobody else changes it before this transaction ends."""
    return await _one(conn, LOCK if lock else GET, {"tenant_id": tenant_id, "id": id})


async def list_newest(
    conn: Connection,
    tenant_id: int,
    *,
    status: str | None = None,
    format: str | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[Endpoint]:
    parameters = {"tenant_id": tenant_id, "status": status, "format": format, "after": after, "limit": limit}
    async with conn.cursor(row_factory=class_row(Endpoint)) as cursor:
        await cursor.execute(LIST_NEWEST, parameters)
        return await cursor.fetchall()


async def update(
    conn: Connection, tenant_id: int, id: UUID, *, name: str, url: str, events: Sequence[str], owner_email: str | None
) -> Endpoint | None:
    parameters = {"name": name, "url": url, "events": list(events), "owner_email": owner_email}
    return await _one(conn, UPDATE, {"tenant_id": tenant_id, "id": id, **parameters})


async def rotate(conn: Connection, tenant_id: int, id: UUID, *, secret: str, overlap_seconds: float) -> Endpoint | None:
    """The secret so far goes on signing for ``overlap_seconds``; 0 ends it at once."""
    parameters = {"tenant_id": tenant_id, "id": id, "secret": secret, "overlap_seconds": overlap_seconds}
    return await _one(conn, ROTATE, parameters)


async def enable(conn: Connection, tenant_id: int, id: UUID) -> Endpoint | None:
    return await _one(conn, ENABLE, {"tenant_id": tenant_id, "id": id})


async def disable(conn: Connection, tenant_id: int, id: UUID, *, reason: str) -> Endpoint | None:
    return await _one(conn, DISABLE, {"tenant_id": tenant_id, "id": id, "reason": reason})


async def delete(conn: Connection, tenant_id: int, id: UUID) -> bool:
    """Whether it was there."""
    cursor = await conn.execute(DELETE, {"tenant_id": tenant_id, "id": id})
    return cursor.rowcount > 0


async def audit(
    conn: Connection,
    tenant_id: int,
    id: UUID,
    *,
    action: str,
    actor: str,
    reason: str,
    data: Mapping[str, Any] | None = None,
) -> None:
    parameters = {"tenant_id": tenant_id, "id": id, "action": action, "actor": actor, "reason": reason}
    await conn.execute(AUDIT, {**parameters, "data": Jsonb(dict(data or {}))})


async def _one(conn: Connection, query: Any, parameters: Mapping[str, Any]) -> Endpoint | None:
    async with conn.cursor(row_factory=class_row(Endpoint)) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchone()


# -- what was sent to them -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EndpointDelivery:
    """One event to one endpoint. event_id: what the receiver knows it by, the same on a replay."""

    delivery_id: UUID
    event_id: UUID
    notification_id: UUID
    event_type: str
    state: str
    reason: str | None
    due_at: datetime | None
    created_at: datetime
    delivered_at: datetime | None
    ended_at: datetime | None
    attempts: list[dict[str, Any]]


async def deliveries(
    conn: Connection,
    tenant_id: int,
    id: UUID,
    *,
    since: datetime,
    state: str | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[EndpointDelivery]:
    """The newest events first, with their attempts; of notifications accepted ``since`` then."""
    parameters = {"tenant_id": tenant_id, "id": id, "since": since, "state": state, "after": after, "limit": limit}
    async with conn.cursor(row_factory=class_row(EndpointDelivery)) as cursor:
        await cursor.execute(DELIVERIES, parameters)
        return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class EndpointReplay:
    """What to send again: one delivery, or what is ``since`` then. See ``landed.replay_endpoint``."""

    endpoint_id: UUID
    delivery_id: UUID | None
    since: datetime | None
    until: datetime | None
    arrived: bool
    after: UUID | None
    max_rows: int
    commit: bool
    reason: str
    valid_for_seconds: float


@dataclass(frozen=True, slots=True)
class EndpointReplayVerdict:
    """What was, or would be, done about one delivery; ``sql/functions/replay.sql`` lists the verdicts."""

    delivery_id: UUID
    notification_id: UUID | None
    event_type: str | None
    standing: str | None
    verdict: str
    explanation: str
    replayed_as: UUID | None


async def replay(conn: Connection, tenant: str, wanted: EndpointReplay, *, actor: str) -> list[EndpointReplayVerdict]:
    """In the order of the events. Raises psycopg.errors.InvalidParameterValue, whose column is the field."""
    await conn.execute(ACT_FOR, {"actor": actor})
    async with conn.cursor(row_factory=class_row(EndpointReplayVerdict)) as cursor:
        await cursor.execute(REPLAY, {"tenant": tenant, **asdict(wanted)})
        return await cursor.fetchall()


# -- for the dispatcher --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where an event goes. secrets: the present one first, then one that is being rotated out."""

    url: str = field(repr=False)
    format: str
    secrets: tuple[str, ...] = field(repr=False)
    status: str


async def targets(conn: Connection, tenant_ids: Sequence[int], endpoint_ids: Sequence[UUID]) -> dict[UUID, Target]:
    """What is behind these endpoints, pairwise with their tenants; what is gone or another tenant's is missing."""
    cursor = await conn.execute(TARGETS, {"tenant_ids": list(tenant_ids), "ids": list(endpoint_ids)})
    return {
        id: Target(url, format, tuple(secret for secret in secrets if secret is not None), status)
        for id, url, format, status, *secrets in await cursor.fetchall()
    }


@dataclass(frozen=True, slots=True)
class EndpointResult:
    """What one call came to for the endpoint.

    url: where the call went; it tells nothing of an endpoint that has moved. gone: it asked not to be called again.
    wait_seconds: how long it asked to be left alone.
    """

    tenant_id: int
    endpoint_id: UUID
    url: str
    ok: bool
    gone: bool
    detail: str
    wait_seconds: float | None = None


async def note_outcomes(
    conn: Connection, results: Sequence[EndpointResult], *, disable_after_seconds: float
) -> list[UUID]:
    """Keeps how the endpoints fare. Answers those that are disabled by it: gone, or nothing but failures for too long.

    That is told by a status event, which the fan-out brings to the tenant's other endpoints and to the owner.
    """
    arrays = columns(
        results,
        tenant_ids="tenant_id",
        ids="endpoint_id",
        urls="url",
        oks="ok",
        gones="gone",
        details="detail",
        waits="wait_seconds",
    )
    cursor = await conn.execute(NOTE_OUTCOMES, {**arrays, "disable_after_seconds": disable_after_seconds})
    return [id for (id,) in await cursor.fetchall()]


# -- for the fan-out -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FannedOut:
    """events: status events taken up. lanes: where deliveries came from them. owners: who is to be told of a disabled
    endpoint by mail, a row each."""

    events: int
    lanes: list[str]
    owners: list[dict[str, Any]]


async def tell(conn: Connection, tenant_id: int, *, type: str, data: Mapping[str, Any]) -> UUID:
    """Writes a status event; answers its id."""
    cursor = await conn.execute(TELL, {"tenant_id": tenant_id, "type": type, "data": Jsonb(dict(data))})
    row = await cursor.fetchone()
    assert row is not None
    id: UUID = row[0]
    return id


async def fan_out(conn: Connection, *, limit: int, span_seconds: float) -> FannedOut:
    """Takes up to ``limit`` due status events; what they lead to is worth sending for ``span_seconds``."""
    async with conn.cursor(row_factory=class_row(FannedOut)) as cursor:
        await cursor.execute(FAN_OUT, {"limit": limit, "span_seconds": span_seconds})
        fanned = await cursor.fetchone()
    assert fanned is not None
    return fanned


@dataclass(frozen=True, slots=True)
class OwnerMail:
    """The built-in content of a mail to owners."""

    category: str
    template_id: str
    template_version: int
    subject: str
    text: str
    variables: Mapping[str, Any]


async def prepare_owner_mail(conn: Connection, mail: OwnerMail, owners: Sequence[Mapping[str, Any]]) -> None:
    """owners: ``tenant_id``, ``recipient_id``, ``email`` each, no recipient twice."""
    parameters = asdict(mail) | {"variables": Jsonb(dict(mail.variables))}
    await conn.execute(PREPARE_OWNER_MAIL, {**parameters, "owners": Jsonb([dict(owner) for owner in owners])})


async def accept(conn: Connection, items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Accepts notifications, as ``landed.accept`` describes them, inside this transaction; the verdicts."""
    cursor = await conn.execute(ACCEPT, {"items": Jsonb([dict(item) for item in items])})
    return [verdict for (verdict,) in await cursor.fetchall()]
