"""How fast accepted notifications come to lie in inboxes, and what one writes first for the same.

Landed: intake, intent, render, inbox item, badge and outcome; the worker as it ships. The naive way: no queue and no
record, each message written straight into a table, in a transaction of its own that counts the unread for the badge,
over a pool of connections. Both commit durably, and render the same words.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from app.bench.drain import Drained, work_off
from app.bench.lines import Words

INBOXES = 2000
NAIVE_CONNECTIONS = 10
NAIVE_TABLE = """
CREATE TABLE public.inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recipient_id text NOT NULL,
    title text NOT NULL,
    body text NOT NULL,
    url text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    read_at timestamptz
);
CREATE INDEX inbox_recipient ON public.inbox (recipient_id, id) WHERE read_at IS NULL
"""
NAIVE_INSERT = "INSERT INTO public.inbox (recipient_id, title, body, url) VALUES (%s, %s, %s, %s)"
NAIVE_BADGE = "SELECT count(*) FROM public.inbox WHERE recipient_id = %s AND read_at IS NULL"


@dataclass(frozen=True, slots=True)
class Written:
    """cpu_us: of this process, for one message."""

    messages: int
    seconds: float
    cpu_us: float

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds


async def landed(dsn: str, *, messages: int) -> Drained:
    return await work_off(dsn, "in_app", {}, messages=messages, recipients=INBOXES)


async def naive(dsn: str, *, messages: int) -> Written:
    words, left = Words("in_app"), iter(range(messages))
    async with await AsyncConnection.connect(dsn) as conn:
        await conn.execute(NAIVE_TABLE)

    async def writer() -> None:
        for n in left:
            recipient, said = f"r{n % INBOXES}", words.render(n)
            async with pool.connection() as conn:
                await conn.execute(NAIVE_INSERT, (recipient, said["subject"], said["text"], said["url"]))
                await conn.execute(NAIVE_BADGE, (recipient,))

    size = NAIVE_CONNECTIONS
    async with AsyncConnectionPool(dsn, min_size=size, max_size=size, open=False) as pool:
        await pool.wait()
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(writer() for _ in range(size)))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Written(messages, seconds, cpu / messages * 1e6)
