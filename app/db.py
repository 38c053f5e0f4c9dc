"""The way to Postgres: the pool, the transaction, the durable commit, LISTEN. Nothing else opens a connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.sql import SQL
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from app.errors import NotDurable, Unavailable

log = structlog.get_logger()

# Statements of the hot path join small batches to large tables: always by index. Said outright, so that a plan made
# while the tables were empty cannot outlive its moment, and made once, because planning over many partitions costs
# more than running. (So those statements join no two batches: RETURNING carries what the next step needs.)
HOT_PATH_OPTIONS = (
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off "
    "-c plan_cache_mode=force_generic_plan"
)

WAKE = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"
CONNECT_SECONDS_MAX = 5
RECONNECT_SECONDS = 1.0
COMMIT_SECONDS_MAX = 10.0

Connection = AsyncConnection[Any]
T = TypeVar("T")


async def durable_commit(conn: Connection, budget_seconds: float = COMMIT_SECONDS_MAX) -> None:
    """Commits, and returns only if the commit is known to be durable wherever it must be (I1, I13).

    A commit that waits for a synchronous standby reports *success* when the wait is cancelled, with only a warning
    (SQLSTATE 01000), and psycopg cancels whenever its task is. So the commit runs shielded, and such a warning is a
    failure. On NotDurable or cancellation the commit may still be under way: ``_settling`` holds it, and the connection
    must not be used again before it is over.
    """
    await _durably(conn, conn.commit(), budget_seconds)


async def _durably(conn: Connection, committing: Coroutine[Any, Any, T], budget_seconds: float) -> T:
    """What ``committing`` returns, under the terms of ``durable_commit``."""
    warnings: list[str] = []

    def notice(diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.sqlstate == "01000":
            warnings.append(diagnostic.message_primary or "warning during commit")

    conn.add_notice_handler(notice)
    commit = asyncio.ensure_future(committing)
    try:
        async with asyncio.timeout(budget_seconds):
            result = await asyncio.shield(commit)
    except TimeoutError:
        raise NotDurable("the commit was not acknowledged in time") from None
    finally:
        if commit.done():
            conn.remove_notice_handler(notice)
        else:
            _settling[conn] = commit
    if warnings:
        raise NotDurable(warnings[0])
    return result


_settling: dict[Connection, asyncio.Future[Any]] = {}


async def _rows(conn: Connection, query: SQL, parameters: Mapping[str, Any]) -> list[TupleRow]:
    cursor = await conn.execute(query, parameters)
    return await cursor.fetchall()


class Database:
    """A pool of connections to one server, with one way to open a transaction."""

    def __init__(self, dsn: str, *, name: str, size_max: int = 10, options: str = "", check: bool = True) -> None:
        """check: try a connection before handing it out, for callers who would have to answer for a dead one."""
        self.dsn = dsn
        self._reaping: set[asyncio.Task[None]] = set()
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            kwargs={
                "application_name": name,
                "options": f"-c timezone=UTC -c idle_in_transaction_session_timeout=60s {options}",
                "connect_timeout": CONNECT_SECONDS_MAX,
                "prepare_threshold": 2,
            },
            min_size=1,
            max_size=size_max,
            timeout=CONNECT_SECONDS_MAX,
            reconnect_timeout=CONNECT_SECONDS_MAX,
            open=False,
            name=name,
            check=AsyncConnectionPool.check_connection if check else None,
        )

    async def open(self) -> None:
        await self._pool.open(wait=True, timeout=30)

    async def close(self) -> None:
        if self._reaping:
            await asyncio.wait(self._reaping, timeout=COMMIT_SECONDS_MAX)
        await self._pool.close()

    async def __aenter__(self) -> Database:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @contextlib.asynccontextmanager
    async def transaction(self, *, durable: bool = False) -> AsyncIterator[Connection]:
        """One transaction: committed on leaving, rolled back on an error.

        durable: the commit guards a send or a 2xx; it goes through ``durable_commit``.
        Raises Unavailable when no connection can be had, NotDurable when a durable commit cannot be shown.
        """
        async with self._connection() as conn:
            try:
                yield conn
            except BaseException:
                with contextlib.suppress(psycopg.OperationalError):
                    await conn.rollback()
                raise
            if conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
                # Somebody swallowed an error: the server would answer the commit with a rollback, and call that a
                # success.
                await conn.rollback()
                raise NotDurable("a statement had failed: the transaction was rolled back")
            if durable:
                await durable_commit(conn)
            else:
                await conn.commit()

    async def durable_rows(self, query: SQL, parameters: Mapping[str, Any]) -> list[TupleRow]:
        """The rows of one statement that is a whole transaction, once it is as durable as ``durable_commit`` asks.

        One round trip, where a transaction has three: on a busy loop each of them waits a turn.
        Raises what ``transaction(durable=True)`` does.
        """
        async with self._connection() as conn:
            await conn.set_autocommit(True)
            try:
                return await _durably(conn, _rows(conn, query, parameters), COMMIT_SECONDS_MAX)
            finally:
                if conn not in _settling and not conn.closed:
                    await conn.set_autocommit(False)

    @contextlib.asynccontextmanager
    async def autocommit(self) -> AsyncIterator[Connection]:
        """A connection outside of any transaction, for what PostgreSQL does only there."""
        async with self._connection() as conn:
            await conn.set_autocommit(True)
            try:
                yield conn
            finally:
                if not conn.closed:
                    await conn.set_autocommit(False)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool. If it fails, that is Unavailable; while a commit goes on, it is not reused."""
        try:
            conn = await self._pool.getconn()
        except PoolTimeout as error:
            raise Unavailable("the database cannot be reached", retry_after_seconds=1) from error
        try:
            yield conn
        except psycopg.OperationalError as error:
            if isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected):
                raise
            raise Unavailable("the database went away", retry_after_seconds=1) from error
        finally:
            commit = _settling.pop(conn, None)
            if commit is None:
                await self._pool.putconn(conn)
            else:
                self._reap(conn, commit)

    def _reap(self, conn: Connection, commit: asyncio.Future[Any]) -> None:
        """A commit still under way keeps its connection until it is over; then the connection is thrown away."""

        async def settle() -> None:
            with contextlib.suppress(Exception):
                await commit
            await conn.close()
            await self._pool.putconn(conn)

        task = asyncio.create_task(settle())
        self._reaping.add(task)
        task.add_done_callback(self._reaping.discard)

    async def wake(self, channel: str, payload: str = "") -> None:
        """Sends a hint. In its own transaction that waits for no disk and no standby, because a NOTIFY holds a
        database-wide lock while its transaction commits; in one statement, because a hint should be quick. A hint
        that cannot be sent is lost, and that is fine."""
        try:
            async with self.autocommit() as conn:
                await conn.execute(WAKE, (channel, payload))
        except (Unavailable, psycopg.Error):
            log.debug("wake_lost", channel=channel)


async def listen(
    dsn: str, channels: Iterable[str], heard: Callable[[str, str], None], *, name: str = "landed listen"
) -> None:
    """Calls ``heard(channel, payload)`` for each notification, for ever, reconnecting as needed.

    After every (re)connection it calls ``heard(channel, "")`` once per channel: hints may have been missed.
    """
    channels = tuple(channels)
    while True:
        try:
            conn = await AsyncConnection.connect(
                dsn, autocommit=True, application_name=name, connect_timeout=CONNECT_SECONDS_MAX
            )
            async with conn:
                for channel in channels:
                    await conn.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
                    heard(channel, "")
                async for notification in conn.notifies():
                    heard(notification.channel, notification.payload)
        except (OSError, psycopg.Error) as error:
            log.info("listen_reconnecting", error=type(error).__name__)
        await asyncio.sleep(RECONNECT_SECONDS)
