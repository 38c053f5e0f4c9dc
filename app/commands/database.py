"""The configuration and the database as a command finds them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from psycopg import AsyncConnection
from pydantic import SecretStr

from app.commands.endings import Unreachable
from app.db import CONNECT_SECONDS_MAX, Connection
from app.embedded import EmbeddedPostgres
from app.errors import ConfigurationError
from app.settings import Settings, load_settings

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def dsn_of(settings: Settings) -> str:
    """The database that is configured, else the embedded one if it runs. Raises Unreachable."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    data_dir = settings.data_dir / "postgres"
    if data_dir.exists():
        with contextlib.suppress(ConfigurationError):
            return EmbeddedPostgres(data_dir).find()
    raise Unreachable(
        f"no database: LANDED_DATABASE_URL is not set, and none runs on {data_dir} (`landed up` starts it)"
    )


def settings_with_database() -> Settings:
    """The configuration, naming the database that is there."""
    settings = load_settings()
    return settings.model_copy(update={"database_url": SecretStr(dsn_of(settings))})


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Connection]:
    """One transaction, committed at the end. No pool: that a database is away is said at once."""
    connection = await AsyncConnection.connect(
        dsn,
        application_name="landed cli",
        connect_timeout=CONNECT_SECONDS_MAX,
        options="-c timezone=UTC",
    )
    async with connection:
        yield connection
