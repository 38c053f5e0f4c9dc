"""Inboxes for tests: tokens as a tenant's server signs them, and items as the dispatcher leaves them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from psycopg import AsyncConnection

from app.api import server as api_server
from app.domain import recipient_tokens
from app.flows.inbox import Hub
from app.settings import Settings
from app.store import inbox, recipient_secrets
from app.store.inbox import NewItem
from tests.factories import make_attempt, make_delivery
from tests.rest import Rest

SECRET = "lrs_the-signing-secret-of-a-tenant-in-the-tests"
INBOX = "/api/v1/inbox"


async def sign_for(conn: AsyncConnection, tenant: Any, recipient_id: str, *, ttl_seconds: int = 600) -> str:
    """A token that the tenant minted itself."""
    secret = await recipient_secrets.ensure(conn, tenant.id, f"{SECRET}-{tenant.id}")
    token, _ = recipient_tokens.mint(
        secret, tenant=tenant.name, recipient_id=recipient_id, now=datetime.now(UTC), ttl_seconds=ttl_seconds
    )
    return token


async def as_recipient(rest: Rest, tenant: Any, recipient_id: str, **token: Any) -> httpx.AsyncClient:
    """A client with the token of one recipient."""
    return await rest.anyone({"Authorization": f"Bearer {await sign_for(rest.conn, tenant, recipient_id, **token)}"})


async def deliver(conn: AsyncConnection, tenant: Any, recipient_id: str, title: str = "Hello", **item: Any) -> NewItem:
    """A delivery that was sent to an inbox, and its item there; the hint is left to the caller."""
    delivery = await make_delivery(
        conn,
        state="sent",
        attempt=False,
        tenant_id=tenant.id,
        recipient_id=recipient_id,
        channel="in_app",
        lane="in_app.transactional.default",
        address=recipient_id,
        provider="inbox",
    )
    await make_attempt(conn, delivery, state="accepted", outcome="accepted", provider="inbox")
    values = {
        "tenant_id": tenant.id,
        "recipient_id": recipient_id,
        "id": delivery.id,
        "attempt_no": 1,
        "notification_id": delivery.notification_id,
        "category": delivery.category,
        "title": title,
        "body": "It is on its way.",
        "data": {"url": "/orders/1"},
    }
    new = NewItem(**values | item)
    async with conn.transaction():
        await inbox.add_items(conn, [new])
    return new


async def hint(conn: AsyncConnection, *items: NewItem) -> None:
    """What the dispatcher sends after its commit."""
    for payload in inbox.hints(items):
        await conn.execute("SELECT pg_notify(%s, %s)", (inbox.CHANNEL, payload))


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 20) -> bool:
    """Waits for it to hold: other processes and the network have their own pace, and no test knows it."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if await holds if inspect.isawaitable(holds) else holds:
                return True
            await asyncio.sleep(0.01)


@dataclass
class Served:
    """A running server. url: where; rest: its application and another session."""

    url: str
    server: api_server.Server
    rest: Rest
    task: asyncio.Task[None]

    @property
    def hub(self) -> Hub:
        return self.rest.app.state.api.inbox

    async def stop(self) -> None:
        self.server.should_exit = True
        await self.task


@contextlib.asynccontextmanager
async def serving(dsn: str, data_dir: Path, *, port: int = 0, **inbox: Any) -> AsyncIterator[Served]:
    settings = Settings(database_url=dsn, data_dir=data_dir, api={"port": port}, inbox=inbox)
    server = api_server.server(settings)
    async with (
        contextlib.AsyncExitStack() as stack,
        await AsyncConnection.connect(dsn, autocommit=True, application_name="landed tests") as conn,
    ):
        task = asyncio.create_task(server.serve())
        await until(lambda: server.started or task.done())
        port = server.servers[0].sockets[0].getsockname()[1]
        served = Served(f"http://127.0.0.1:{port}", server, Rest(server.config.app, conn, stack), task)
        try:
            yield served
        finally:
            await served.stop()
