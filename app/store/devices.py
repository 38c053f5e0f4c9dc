"""Devices: where pushes go, what providers say of their tokens, and which push a device speaks of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from app.db import Connection
from app.store._queries import columns, load

_q = load("devices")
LOCK = _q["lock"]
RECIPIENT_EXISTS = _q["recipient_exists"]
LOCK_DEVICES = _q["lock_devices"]
FIND_OWN = _q["find_own"]
TAKE_OVER = _q["take_over"]
RENEW = _q["renew"]
ADD = _q["add"]
RETIRE_SURPLUS = _q["retire_surplus"]
LIST_LIVE = _q["list_live"]
REMOVE = _q["remove"]
TARGETS = _q["targets"]
RETIRE = _q["retire"]
NOTE_ACCEPTED = _q["note_accepted"]
TOLD = _q["told"]
FIND_PUSH = _q["find_push"]

DEVICES_MAX = 50  # live ones of one recipient: each is a delivery of every push, and no person carries more


@dataclass(frozen=True, slots=True)
class Registration:
    """What an app says of its device. ``token``: of APNs or FCM, or the endpoint of a Web Push subscription."""

    tenant_id: int
    recipient_id: str
    platform: str
    token: str = field(repr=False)
    environment: str = "production"
    p256dh: str | None = field(default=None, repr=False)
    auth: str | None = field(default=None, repr=False)
    device_key: str | None = None
    app_version: str | None = None


@dataclass(frozen=True, slots=True)
class RegisteredDevice:
    """A live device as its owner sees it. token_end: the last 6 characters, enough to compare, too few to send to."""

    id: UUID
    user_id: str
    platform: str
    environment: str
    token_end: str
    device_key: str | None
    app_version: str | None
    registered_at: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Target:
    """What a push to a live device needs to know of it."""

    id: UUID
    tenant_id: int
    platform: str
    token: str = field(repr=False)
    environment: str
    p256dh: str | None = field(repr=False)
    auth: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A provider's word that a token is dead.

    token_sent: the one that was refused, which need not be the device's any more.
    invalid_since: since when the provider knows (APNs 410); a token registered later is another life of it.
    doubtful: it may as well be our own configuration (APNs ``BadDeviceToken``).
    """

    provider: str
    tenant_id: int
    device_id: UUID
    token_sent: str = field(repr=False)
    reason: str
    invalid_since: datetime | None = None
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class SentPush:
    """The attempt by which a notification went to a device, and whose it is."""

    delivery_id: UUID
    attempt_no: int
    recipient_id: str


# Registration --------------------------------------------------------------------------------------------------------


async def register(conn: Connection, registration: Registration) -> tuple[RegisteredDevice, bool] | None:
    """The device, and whether it is new; None when there is no such recipient.

    One row for one device: a new token of the same ``device_key`` replaces the old one, the same token is registered
    anew, and a token that another device or recipient had is theirs no more.
    """
    values = asdict(registration)
    if (await conn.execute(RECIPIENT_EXISTS, values)).rowcount == 0:
        return None
    await conn.execute(LOCK, values)
    await conn.execute(LOCK_DEVICES, values)
    own = await (await conn.execute(FIND_OWN, values)).fetchone()
    values |= {"own": own[0] if own else None, "devices_max": DEVICES_MAX}
    await conn.execute(TAKE_OVER, values)
    async with conn.cursor(row_factory=class_row(RegisteredDevice)) as cursor:
        await cursor.execute(RENEW if own else ADD, values)
        device = await cursor.fetchone()
    assert device is not None
    if own is None:
        await conn.execute(RETIRE_SURPLUS, values)
    return device, own is None


async def list_live(conn: Connection, tenant_id: int, recipient_id: str) -> list[RegisteredDevice]:
    """At most DEVICES_MAX, those registered last first."""
    async with conn.cursor(row_factory=class_row(RegisteredDevice)) as cursor:
        await cursor.execute(LIST_LIVE, {"tenant_id": tenant_id, "recipient_id": recipient_id})
        return await cursor.fetchall()


async def remove(conn: Connection, tenant_id: int, device_id: UUID, *, recipient_id: str | None) -> bool:
    """No more pushes to it. Whether there is such a device, of this recipient where one is named."""
    values = {"tenant_id": tenant_id, "id": device_id, "recipient_id": recipient_id}
    return (await conn.execute(REMOVE, values)).rowcount == 1


# Sending -------------------------------------------------------------------------------------------------------------


async def targets(conn: Connection, tenant_ids: Sequence[int], device_ids: Sequence[UUID]) -> dict[UUID, Target]:
    """The live ones among these devices, by id; ``tenant_ids`` says whose each is."""
    async with conn.cursor(row_factory=class_row(Target)) as cursor:
        await cursor.execute(TARGETS, {"tenant_ids": list(tenant_ids), "device_ids": list(device_ids)})
        return {target.id: target for target in await cursor.fetchall()}


async def retire(conn: Connection, refusals: Sequence[Refusal]) -> set[UUID]:
    """No more pushes to the devices whose tokens these refusals prove dead (R-124); answers which those were.

    The others stay: a token that was exchanged or registered again meanwhile, or a doubtful refusal where nothing else
    got through in the two minutes before.
    """
    cursor = await conn.execute(
        RETIRE,
        columns(
            refusals,
            providers="provider",
            tenant_ids="tenant_id",
            device_ids="device_id",
            tokens="token_sent",
            reasons="reason",
            invalid_sinces="invalid_since",
            doubtfuls="doubtful",
        ),
    )
    return {device for (device,) in await cursor.fetchall()}


async def note_accepted(conn: Connection, provider: str, environments: Sequence[str]) -> None:
    """This provider took pushes for these environments just now; written at most once a minute for each."""
    await conn.execute(NOTE_ACCEPTED, {"provider": provider, "environments": list(environments)})


# What devices say ----------------------------------------------------------------------------------------------------


async def told(conn: Connection, *, provider: str, keys: Sequence[str], days: int) -> set[str]:
    """Which of these events were stored before, within so many days."""
    cursor = await conn.execute(TOLD, {"provider": provider, "keys": list(keys), "days": days})
    return {key for (key,) in await cursor.fetchall()}


async def find_push(conn: Connection, tenant_id: int, *, notification_id: UUID, device_id: UUID) -> SentPush | None:
    """None when the tenant has no such notification, or it cannot have reached that device."""
    values = {"tenant_id": tenant_id, "notification_id": notification_id, "device_id": device_id}
    row = await (await conn.execute(FIND_PUSH, values)).fetchone()
    return None if row is None else SentPush(*row)
