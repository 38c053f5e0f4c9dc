"""Lanes as a worker sets them up; and their claims a step at a time, for tests that look between the steps."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection

from app.db import Database
from app.flows.control import Control
from app.flows.dispatch import Dispatcher, Lane
from app.providers.access import AccessTokens
from app.providers.accounts import ProviderSet
from app.settings import Settings
from app.store import dispatch as store
from app.store.dispatch import Claimed


def make_dispatcher(
    lane: Lane,
    *,
    db: Database,
    settings: Settings,
    transport: Any,
    renderer: Any,
    tokens_by: Any = None,
    worker_id: UUID | None = None,
    signing_key: bytes = b"key",
) -> Dispatcher:
    """A lane of a worker of its own. transport: to all its providers. tokens_by: the transport that fetches access
    tokens, when another one does."""
    providers, worker_id = ProviderSet(settings.providers), worker_id or uuid4()
    return Dispatcher(
        lane,
        db=db,
        providers=providers,
        transports={choice.provider: transport for choice in lane.choices},
        access=AccessTokens(tokens_by or transport),
        renderer=renderer,
        control=Control(db, providers, settings, worker_id),
        settings=settings,
        worker_id=worker_id,
        signing_key=signing_key,
    )


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
