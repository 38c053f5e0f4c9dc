"""Claims as a lane with one provider makes them, a step at a time, for tests that look between the steps."""

from __future__ import annotations

from uuid import uuid4

from psycopg import AsyncConnection

from app.store import dispatch as store
from app.store.dispatch import Claimed


async def claim(
    conn: AsyncConnection,
    *,
    lane: str,
    provider: str,
    region: str = "local",
    limit: int = 10,
    to_endpoints: bool = False,
) -> tuple[int, list[Claimed]]:
    """Answers how many rows were taken up (some may have ended), and those to send, in an open transaction."""
    due, [state] = await store.lock_due(
        conn,
        lane=lane,
        klass=lane.split(".")[1],
        providers=[provider],
        region=region,
        limit=limit,
        retry_share=0.25,
    )
    taken = len(due)
    if due and to_endpoints:
        put_off = await store.put_off_failing(conn, due)
        due = [d for d in due if d.id not in put_off]
    chosen = [(d, None if d.expired else provider) for d in due if state.ready or d.expired]
    if not chosen:
        return taken - len(due), []
    claimed = await store.open_attempts(conn, chosen, region=region, worker_id=uuid4(), lease_seconds=60.0)
    return taken - len(due) + len(chosen), claimed
