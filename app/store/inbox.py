"""The inboxes of recipients: what is in them, what changed since a version, and the changes themselves (R-022).

One row of store.inboxes a recipient holds its version and its counters. Every change takes the next version under that
row's lock, so whoever has seen version n has seen everything up to n.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

import msgspec
from psycopg.rows import args_row, class_row

from app.db import Connection
from app.store._queries import columns, load

_q = load("inbox")
LOCK_INBOXES = _q["lock_inboxes"]
ADD_ITEMS = _q["add_items"]
PICK_ITEMS = _q["pick_items"]
CHANGE_ITEMS = _q["change_items"]
ONE_SNAPSHOT = _q["one_snapshot"]
GET_COUNTS = _q["get_counts"]
LIST_ITEMS = _q["list_items"]
GET_ITEMS = _q["get_items"]
CHANGES = _q["changes"]
STALE = _q["stale"]

CHANNEL = "landed_inbox"  # of the hints below
ANYONE = ""  # the hint that any inbox may have changed
HINT_BYTES_MAX = 7900  # NOTIFY takes payloads shorter than 8000 bytes
# Each hint is a transaction that holds a database-wide lock while it commits; beyond so many, looking at the versions
# of all that listen costs less.
HINTS_MAX = 4

_json = msgspec.json.Encoder()


class Action(StrEnum):
    """What a recipient does to an item. Reading it is seeing it, and either is having got it."""

    ACK = "ack"
    SEEN = "seen"
    READ = "read"
    UNREAD = "unread"
    ARCHIVE = "archive"
    UNARCHIVE = "unarchive"


class InInbox(Protocol):
    """Whatever belongs to one recipient's inbox."""

    @property
    def tenant_id(self) -> int: ...
    @property
    def recipient_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class NewItem:
    """A message for an inbox. id: of its delivery; title and body: plain text."""

    tenant_id: int
    recipient_id: str
    id: UUID
    attempt_no: int
    notification_id: UUID
    category: str
    title: str
    body: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Inbox:
    """Whose it is."""

    tenant_id: int
    recipient_id: str


@dataclass(frozen=True, slots=True)
class Item:
    """A message as its recipient has it. Fields in the order of the columns.

    id: of its delivery. arrival: the version it came with; version: that of its last change.
    """

    id: UUID
    notification_id: UUID
    category: str
    title: str
    body: str
    data: dict[str, Any]
    arrival: int
    version: int
    created_at: datetime
    acknowledged_at: datetime | None
    seen_at: datetime | None
    read_at: datetime | None
    archived_at: datetime | None


@dataclass(frozen=True, slots=True)
class Counts:
    """unread: neither read nor archived. unseen: neither seen nor archived."""

    version: int = 0
    unread: int = 0
    unseen: int = 0


@dataclass(frozen=True, slots=True)
class Changed:
    """An item that an action changed. The moments are those of facts that were new."""

    id: UUID
    attempt_no: int
    acknowledged_at: datetime | None
    opened_at: datetime | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What is new in an inbox since a version, oldest change first; ``more``: there is more of it than this page."""

    counts: Counts
    items: list[Item]
    more: bool


async def add_items(conn: Connection, items: Sequence[NewItem]) -> None:
    """Puts each item into its inbox, in the order given. What is there already is left alone, the counters included.

    The inboxes stay locked until the transaction ends: call it last. After the commit, send ``hints(items)``.
    """
    if not items:
        return
    parameters = columns(
        items,
        tenant_ids="tenant_id",
        recipient_ids="recipient_id",
        ids="id",
        attempt_nos="attempt_no",
        notification_ids="notification_id",
        categories="category",
        titles="title",
        bodies="body",
    )
    parameters["datas"] = [_json.encode(dict(item.data)).decode() for item in items]
    async with conn.pipeline():
        await conn.execute(LOCK_INBOXES, {key: parameters[key] for key in ("tenant_ids", "recipient_ids")})
        await conn.execute(ADD_ITEMS, parameters)


async def lock(conn: Connection, inbox: Inbox) -> None:
    """Until the transaction ends, nobody else changes this inbox; what comes next in it sees all of it."""
    # Made if it is not there yet: what is not there cannot be locked, and might be there in the next statement.
    await conn.execute(LOCK_INBOXES, {"tenant_ids": [inbox.tenant_id], "recipient_ids": [inbox.recipient_id]})


async def pick_items(conn: Connection, inbox: Inbox, action: Action, *, version: int, limit: int) -> list[UUID]:
    """What had arrived by ``version``, is not archived, and would be changed; the oldest ``limit`` of it."""
    cursor = await conn.execute(PICK_ITEMS, _key(inbox) | {"action": action, "version": version, "limit": limit})
    return [id for (id,) in await cursor.fetchall()]


async def change_items(conn: Connection, inbox: Inbox, action: Action, ids: Sequence[UUID]) -> list[Changed]:
    """Answers those that the action changed. The inbox must be locked."""
    async with conn.cursor(row_factory=args_row(Changed)) as cursor:
        await cursor.execute(CHANGE_ITEMS, _key(inbox) | {"action": action, "ids": list(ids)})
        return await cursor.fetchall()


async def get_counts(conn: Connection, inbox: Inbox) -> Counts:
    """Nothing at version 0, where nothing ever came."""
    async with conn.cursor(row_factory=class_row(Counts)) as cursor:
        await cursor.execute(GET_COUNTS, _key(inbox))
        return await cursor.fetchone() or Counts()


async def list_items(conn: Connection, inbox: Inbox, *, status: str, before: int, limit: int) -> list[Item]:
    """Those that arrived before the version ``before``, newest first. status: unread, all (but archived), archived."""
    async with conn.cursor(row_factory=args_row(Item)) as cursor:
        await cursor.execute(LIST_ITEMS, _key(inbox) | {"status": status, "before": before, "limit": limit})
        return await cursor.fetchall()


async def get_items(conn: Connection, inbox: Inbox, ids: Sequence[UUID]) -> list[Item]:
    """Those of them that there are, newest first."""
    async with conn.cursor(row_factory=args_row(Item)) as cursor:
        await cursor.execute(GET_ITEMS, _key(inbox) | {"ids": list(ids)})
        return await cursor.fetchall()


async def one_snapshot(conn: Connection) -> None:
    """The first statement of a transaction whose statements must all see the same."""
    await conn.execute(ONE_SNAPSHOT)


async def changes(conn: Connection, listening: Sequence[tuple[Inbox, int | None]], *, page: int) -> list[Changes]:
    """For each inbox and the version it is known at, what changed since; nothing but the counts since None."""
    cursor = await conn.execute(
        CHANGES,
        columns([inbox for inbox, _ in listening], tenant_ids="tenant_id", recipient_ids="recipient_id")
        | {"afters": [after for _, after in listening], "page": page + 1},
    )
    found = [Changes(Counts(), [], False)] * len(listening)
    for place, version, unread, unseen, *item in await cursor.fetchall():
        if version is None:
            continue
        if not found[place - 1].items:
            found[place - 1] = Changes(Counts(version, unread, unseen), [], False)
        if item[0] is not None:
            found[place - 1].items.append(Item(*item))
    return [Changes(c.counts, c.items[:page], more=len(c.items) > page) for c in found]


async def stale(conn: Connection, told: Sequence[tuple[Inbox, int]]) -> list[Inbox]:
    """Of the inboxes, each with the version its listener was told of, those that are at another one."""
    async with conn.cursor(row_factory=args_row(Inbox)) as cursor:
        await cursor.execute(
            STALE,
            columns([inbox for inbox, _ in told], tenant_ids="tenant_id", recipient_ids="recipient_id")
            | {"versions": [version for _, version in told]},
        )
        return await cursor.fetchall()


def _key(inbox: Inbox) -> dict[str, Any]:
    return {"tenant_id": inbox.tenant_id, "recipient_id": inbox.recipient_id}


def hints(changed: Iterable[InInbox]) -> list[str]:
    """What to send on CHANNEL after the commit that changed these inboxes, one ``Database.wake`` each.

    Many recipients share a hint; a great many come to the one hint ANYONE.
    """
    told: list[str] = []
    entries: list[bytes] = []
    size = 0
    for tenant_id, recipient_id in sorted({(one.tenant_id, one.recipient_id) for one in changed}):
        entry = _json.encode((tenant_id, recipient_id))
        if size + len(entry) + 2 > HINT_BYTES_MAX:
            told.append(_hint(entries))
            entries, size = [], 0
        entries.append(entry)
        size += len(entry) + 1
    if entries:
        told.append(_hint(entries))
    return told if len(told) <= HINTS_MAX else [ANYONE]


def _hint(entries: Sequence[bytes]) -> str:
    return f"[{b','.join(entries).decode()}]"


def hinted(payload: str) -> list[Inbox] | None:
    """The inboxes that a hint names; None when it means anyone, or was not made by ``hints``."""
    if payload == ANYONE:
        return None
    try:
        return [Inbox(*named) for named in msgspec.json.decode(payload, type=list[tuple[int, str]])]
    except msgspec.DecodeError:
        return None
