"""Statements of flows.reconcile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from app.db import Connection
from app.store._queries import columns, load

_q = load("reconcile")
EXPIRE_LEASES = _q["expire_leases"]
CLAIM_UNPROVEN = _q["claim_unproven"]
LOCK = _q["lock"]
ASK_AGAIN = _q["ask_again"]
CLOSE_ATTEMPTS = _q["close_attempts"]
GIVE_UP = _q["give_up"]


@dataclass(frozen=True, slots=True)
class Unproven:
    """A delivery past its time, to be asked about at its provider. claimed_at: the database's time."""

    shard: int
    id: UUID
    notification_id: UUID
    tenant_id: int
    category: str
    klass: str
    channel: str
    address: str
    state: str
    attempt_no: int
    lookups: int
    failures: int
    expires_at: datetime
    provider: str
    opened_at: datetime
    provider_message_id: str | None
    content_hash: bytes | None
    claimed_at: datetime
    ambiguity_policy: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """What becomes of one: its next state, why, and when it is next due (None: it ends here).

    unanswered: nobody could tell whether the attempt was accepted, and another is allowed all the same. Otherwise it
    was shown never to have been.
    """

    unproven: Unproven
    state: str
    reason: str
    due_at: datetime | None
    detail: str
    unanswered: bool = False


async def expire_leases(conn: Connection, *, limit: int, first_lookup_seconds: float) -> int:
    cursor = await conn.execute(EXPIRE_LEASES, {"limit": limit, "first_lookup_seconds": first_lookup_seconds})
    return cursor.rowcount


async def claim_unproven(conn: Connection, *, limit: int, lease_seconds: float) -> list[Unproven]:
    async with conn.cursor(row_factory=class_row(Unproven)) as cursor:
        await cursor.execute(CLAIM_UNPROVEN, {"limit": limit, "lease_seconds": lease_seconds})
        return await cursor.fetchall()


async def lock(conn: Connection, unproven: Sequence[Unproven]) -> None:
    """All that the transaction is going to decide about, before any of it."""
    await conn.execute(LOCK, columns(unproven, shards="shard", ids="id"))


async def ask_again(
    conn: Connection, unproven: Sequence[Unproven], due_ats: Sequence[datetime], counts: Sequence[bool]
) -> None:
    """counts: whether the question counts as answered, and so lengthens the wait before the next."""
    await conn.execute(
        ASK_AGAIN,
        columns(unproven, shards="shard", ids="id", states="state")
        | {"due_ats": list(due_ats), "counts": list(counts)},
    )


async def close_attempts(conn: Connection, resolutions: Sequence[Resolution]) -> None:
    """The attempts that were looked for are over, and their deliveries may go on to another."""
    await conn.execute(CLOSE_ATTEMPTS, _resolution_columns(resolutions, "due_at", "unanswered"))


async def give_up(conn: Connection, resolutions: Sequence[Resolution]) -> None:
    """Ends them as unconfirmed, if they still stand where they were when we asked."""
    keys = _resolution_columns(resolutions)
    keys["states"] = [r.unproven.state for r in resolutions]
    await conn.execute(GIVE_UP, keys)


def _resolution_columns(resolutions: Sequence[Resolution], *more: str) -> dict[str, list[object]]:
    return (
        columns(
            [r.unproven for r in resolutions],
            shards="shard",
            ids="id",
            nos="attempt_no",
            tenant_ids="tenant_id",
            notification_ids="notification_id",
        )
        | columns(resolutions, states="state", reasons="reason", details="detail")
        | columns(resolutions, **{f"{name}s": name for name in more})
    )
