"""With what tenants sign their recipients' tokens. Kept as it is: whoever verifies an HMAC needs the secret itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from psycopg.rows import class_row

from app.db import Connection
from app.store._queries import load

_q = load("recipient_secrets")
FIND, ENSURE, CURRENT, ROTATE, AUDIT = _q["find"], _q["ensure"], _q["current"], _q["rotate"], _q["audit"]


@dataclass(frozen=True, slots=True)
class SigningSecrets:
    """A tenant's secret, and the one before it with the end of its time."""

    tenant_id: int
    secret: str = field(repr=False)
    previous_secret: str | None = field(repr=False)
    previous_secret_until: datetime | None

    def good_at(self, now: datetime) -> tuple[str, ...]:
        if self.previous_secret is None or self.previous_secret_until is None or self.previous_secret_until <= now:
            return (self.secret,)
        return (self.secret, self.previous_secret)


async def find(conn: Connection, tenant: str) -> SigningSecrets | None:
    """By the tenant's name; None also when it has no secret yet, because then it cannot have signed."""
    async with conn.cursor(row_factory=class_row(SigningSecrets)) as cursor:
        await cursor.execute(FIND, {"tenant": tenant})
        return await cursor.fetchone()


async def current(conn: Connection, tenant_id: int) -> str | None:
    """The secret that signs now; None before the first."""
    cursor = await conn.execute(CURRENT, {"tenant_id": tenant_id})
    row = await cursor.fetchone()
    return None if row is None else str(row[0])


async def ensure(conn: Connection, tenant_id: int, fresh: str) -> str:
    """The secret that signs now: ``fresh``, if there was none."""
    await conn.execute(ENSURE, {"tenant_id": tenant_id, "fresh": fresh})
    secret = await current(conn, tenant_id)
    assert secret is not None
    return secret


async def rotate(conn: Connection, tenant_id: int, fresh: str, *, overlap_seconds: float) -> datetime | None:
    """``fresh`` signs from now on. Answers until when the one before it is still good; None if there was none."""
    cursor = await conn.execute(ROTATE, {"tenant_id": tenant_id, "fresh": fresh, "overlap_seconds": overlap_seconds})
    row = await cursor.fetchone()
    assert row is not None
    until: datetime | None = row[0]
    return until


async def audit(conn: Connection, tenant_id: int, *, actor: str, action: str, reason: str) -> None:
    await conn.execute(AUDIT, {"tenant_id": tenant_id, "actor": actor, "action": action, "reason": reason})
