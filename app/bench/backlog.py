"""What a backlog costs those who do not stand in it: the claim of one lane, alone and beside a multitude.

Two databases. In one, the lane has what it claims and nothing else. In the other as much, and so many deliveries due in
another lane, and as many in the same lane that are scheduled for tomorrow. Claims take turns between the two, so that
what else the machine does meets both; each locks what is due and writes its intents, as the worker does. What is timed
are the statements and not the commit, which waits for the disk and not for the size of a table.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import psycopg

from app.bench import stage
from app.db import HOT_PATH_OPTIONS, Connection, Database
from app.domain.models import NotificationClass
from app.store import dispatch

LANE: Final = "email.transactional.default"
NEIGHBOUR: Final = "email.promotional.default"
CLAIM: Final = 100  # rows, a quarter of them retries
WARMING: Final = 10  # claims that are not counted: statements are planned, pages read
CHUNK: Final = 50_000
RETRY_SHARE: Final = 0.25
LEASE_SECONDS: Final = 60.0
INDEXES: Final = frozenset({"store.deliveries_due_first", "store.deliveries_due_retry"})
BUFFERS_MAX: Final = 500  # of a claim's lock_due: a few for each of its rows and for each day's partition
PARAMETER: Final = re.compile(r"%\((\w+)\)s")
# One delivery of a notification each, the way intake leaves them.
INSERT: Final = b"""
WITH drawn AS MATERIALIZED (
    SELECT g.n, 'r' || g.n %% %(recipients)s AS recipient,
           store.new_id(store.shard_for(%(tenant_id)s, 'r' || g.n %% %(recipients)s)) AS id
    FROM generate_series(1, %(count)s) AS g(n)
), planned AS (
    INSERT INTO store.notifications
        (shard, id, tenant_id, recipient_id, category, class, channels, template_id, template_version, request, source,
         state, planned_at, trace, expires_at)
    SELECT store.shard_of(d.id), d.id, %(tenant_id)s, d.recipient, %(class)s, %(class)s, '{email}', 'order', 1,
           '{"variables": {"name": "Ann", "order": "1"}}', 'api', 'planned', now(), '[]', now() + interval '2 days'
    FROM drawn d
)
INSERT INTO store.deliveries
    (shard, id, notification_id, tenant_id, recipient_id, category, class, channel, lane, address, template_id,
     template_version, state, failures, reason, due_at, expires_at)
SELECT store.shard_of(d.id), store.new_child_id(d.id), d.id, %(tenant_id)s, d.recipient, %(class)s, %(class)s, 'email',
       %(lane)s, d.recipient || '@example.com', 'order', 1, 'queued', (d.n %% 4 = 0)::int,
       CASE WHEN d.n %% 4 = 0 THEN 'retry' END, now() + %(due_in)s, now() + interval '2 days'
FROM drawn d
"""
# An index of a partition by the name of the one it is part of.
ROOTS: Final = """
SELECT i.name, pg_partition_root(format('store.%%I', i.name)::regclass)::regclass::text
FROM unnest(%s::text[]) AS i(name)
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one execution of ``lock_due`` read. indexes: through which it reached deliveries, None for a scan of all."""

    milliseconds: float
    buffers: int
    indexes: frozenset[str | None]

    @property
    def sound(self) -> bool:
        return self.indexes == INDEXES and self.buffers <= BUFFERS_MAX


@dataclass(frozen=True, slots=True)
class Backlog:
    """Milliseconds of a claim. alone: with no neighbours. beside: with all of them."""

    due_beside: int
    scheduled: int
    claims: int
    alone_p50_ms: float
    alone_p99_ms: float
    beside_p50_ms: float
    beside_p99_ms: float
    plan: Plan


async def measure(alone_dsn: str, beside_dsn: str, *, deliveries: int, claims: int) -> Backlog:
    """deliveries: how many are due in the other lane, and how many are scheduled in the same."""
    alone_ms, beside_ms = [], []
    async with _database(alone_dsn) as alone, _database(beside_dsn) as beside:
        for db, neighbours in (alone, 0), (beside, deliveries):
            tenant_id = await stage.populate(db)
            stock = (claims + WARMING + 1) * CLAIM
            await _insert(db, tenant_id, stock, lane=LANE)
            await _insert(db, tenant_id, neighbours, lane=NEIGHBOUR, klass="promotional")
            await _insert(db, tenant_id, neighbours, lane=LANE, due_in=timedelta(days=1))
            await _settle(db.dsn)
        for _ in range(claims + WARMING):
            alone_ms.append(await _claim(alone))
            beside_ms.append(await _claim(beside))
        plan = await _explain(beside)
    ours, theirs = statistics.quantiles(alone_ms[WARMING:], n=100), statistics.quantiles(beside_ms[WARMING:], n=100)
    return Backlog(deliveries, deliveries, claims, ours[49], ours[98], theirs[49], theirs[98], plan)


def _database(dsn: str) -> Database:
    """As a worker has it."""
    return Database(dsn, name="landed bench", options=HOT_PATH_OPTIONS, check=False)


async def _insert(
    db: Database,
    tenant_id: int,
    count: int,
    *,
    lane: str,
    klass: str = "transactional",
    due_in: timedelta = timedelta(0),
) -> None:
    for start in range(0, count, CHUNK):
        async with db.transaction() as conn:
            await conn.execute(
                INSERT,
                {
                    "tenant_id": tenant_id,
                    "recipients": stage.RECIPIENTS,
                    "count": min(CHUNK, count - start),
                    "class": klass,
                    "lane": lane,
                    "due_in": due_in,
                },
            )


async def _settle(dsn: str) -> None:
    """What autovacuum and the checkpointer would do in their own time, and in the middle of the measurement."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("VACUUM (ANALYZE) store.notifications, store.deliveries")
        await conn.execute("CHECKPOINT")


async def _lock(conn: Connection) -> Sequence[dispatch.Due]:
    due, _ = await dispatch.lock_due(
        conn,
        lane=LANE,
        klass=NotificationClass.TRANSACTIONAL,
        providers=["mailgun"],
        region="local",
        limit=CLAIM,
        retry_share=RETRY_SHARE,
    )
    return due


async def _claim(db: Database) -> float:
    async with db.transaction(durable=True) as conn:
        began = time.perf_counter()
        chosen = [(due, "mailgun") for due in await _lock(conn)]
        claimed = await dispatch.open_attempts(
            conn, chosen, region="local", worker_id=uuid4(), lease_seconds=LEASE_SECONDS
        )
        milliseconds = (time.perf_counter() - began) * 1000
    if len(claimed) != CLAIM:
        raise RuntimeError(f"{len(claimed)} of {CLAIM} deliveries were claimed")
    return milliseconds


async def _explain(db: Database) -> Plan:
    """One execution of the generic plan that workers use, rolled back."""
    parameters = {"lane": LANE, "region": "local", "claim_max": CLAIM, "first_max": int(CLAIM * (1 - RETRY_SHARE))}
    text = dispatch.LOCK_DUE.as_string()
    names = list(dict.fromkeys(PARAMETER.findall(text)))
    statement = PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", text).replace("%%", "%")
    types = ", ".join("text" if isinstance(parameters[name], str) else "int" for name in names)
    values = ", ".join(psycopg.sql.Literal(parameters[name]).as_string() for name in names)
    async with db.transaction() as conn:
        await conn.execute(f"PREPARE claim ({types}) AS {statement}".encode())
        execute = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE claim ({values})"
        cursor = await conn.execute(execute.encode())
        [document] = await cursor.fetchone() or [None]
        await conn.execute("DEALLOCATE claim")
        root = document[0]["Plan"]
        used = {
            node.get("Index Name") for node in _nodes(root) if node.get("Relation Name", "").startswith("deliveries")
        }
        cursor = await conn.execute(ROOTS.encode(), ([name for name in used if name is not None],))
        roots = dict(await cursor.fetchall())
        await conn.rollback()
    if root["Actual Rows"] != CLAIM:
        raise RuntimeError(f"{root['Actual Rows']} of {CLAIM} deliveries were locked")
    buffers = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
    return Plan(root["Actual Total Time"], buffers, frozenset(roots.get(name) for name in used))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)
