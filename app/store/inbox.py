"""The inboxes of recipients: what is in them, what changed since a version, and the changes themselves (R-022).

One row of store.inboxes a recipient holds its version and its counters. Every change takes the next version under that
row's lock, so whoever has seen version n has seen everything up to n.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import msgspec

from app.db import Connection
from app.store._queries import columns, load

_q = load("inbox")
LOCK_INBOXES = _q["lock_inboxes"]
ADD_ITEMS = _q["add_items"]

CHANNEL = "landed_inbox"  # of the hints below
ANYONE = ""  # the hint that any inbox may have changed
HINT_BYTES_MAX = 7900  # NOTIFY takes payloads shorter than 8000 bytes
# Each hint is a transaction that holds a database-wide lock while it commits; beyond so many, looking at the versions
# of all that listen costs less.
HINTS_MAX = 4

_json = msgspec.json.Encoder()


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


def hinted(payload: str) -> list[tuple[int, str]] | None:
    """The (tenant, recipient) that a hint names; None when it means anyone, or was not made by ``hints``."""
    if payload == ANYONE:
        return None
    try:
        return msgspec.json.decode(payload, type=list[tuple[int, str]])
    except msgspec.DecodeError:
        return None
