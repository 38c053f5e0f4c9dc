"""The API as a client sees it: the real application over a database of the test's own, and keys for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from psycopg import AsyncConnection

from app.api.auth import mint_api_key
from app.main import create_app
from app.settings import Settings
from app.store import api_keys
from tests.factories import make_tenant

ALL_SCOPES = ("send", "read", "admin")


@dataclass
class Rest:
    """app: the running application. conn: another session, whose every statement commits."""

    app: Any
    conn: AsyncConnection
    stack: contextlib.AsyncExitStack

    async def tenant(self, **overrides: Any) -> tuple[Any, httpx.AsyncClient]:
        """A new tenant, and a client that may do everything in it."""
        tenant = await make_tenant(self.conn, **overrides)
        return tenant, await self.client(tenant.id)

    async def client(self, tenant_id: int, *scopes: str) -> httpx.AsyncClient:
        """A client with a new key of that tenant; without scopes named, it has all of them."""
        plain, prefix, digest = mint_api_key()
        await api_keys.insert(
            self.conn,
            tenant_id=tenant_id,
            name="test",
            prefix=prefix,
            digest=digest,
            scopes=scopes or ALL_SCOPES,
        )
        return await self.anyone({"Authorization": f"Bearer {plain}"})

    async def anyone(self, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
        """A client without a key."""
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://landed.test", headers=headers
        )
        return await self.stack.enter_async_context(client)

    async def rows(self, statement: str, *parameters: Any) -> list[Any]:
        cursor = await self.conn.execute(statement, parameters)  # type: ignore[arg-type]
        return await cursor.fetchall()


@contextlib.asynccontextmanager
async def running_api(dsn: str, data_dir: Path, **settings: Any) -> AsyncIterator[Rest]:
    """The application between start-up and shutdown."""
    app = create_app(Settings(database_url=dsn, data_dir=data_dir, **settings))
    async with (
        contextlib.AsyncExitStack() as stack,
        _alive(app),
        await AsyncConnection.connect(dsn, autocommit=True, application_name="landed tests") as conn,
    ):
        yield Rest(app, conn, stack)


@contextlib.asynccontextmanager
async def _alive(app: Any) -> AsyncIterator[None]:
    """Start-up and shutdown in one task, as a server runs them; a fixture begins and ends in two."""
    started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def live() -> None:
        try:
            async with app.lifespan():
                started.set_result(None)
                await over.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    task = asyncio.create_task(live())
    await started
    try:
        yield
    finally:
        over.set()
        await task


def wrong_fields(response: httpx.Response) -> dict[str, str]:
    """The fields that a 422 names, and what it says of each."""
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return {error["field"]: error["message"] for error in response.json()["errors"]}
