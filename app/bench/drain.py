"""How fast accepted notifications reach the provider, and what the obvious design makes of the same work.

Landed: intake, intent, render, call, record; the worker as it ships, one process. The obvious design: one procrastinate
job per notification that renders with jinja2 and posts with httpx, in one process, 50 jobs at once. Both send the same
message to the same far side, on each of the ``lines``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import procrastinate
import uvloop
from procrastinate.types import JSONValue

from app.bench import stage
from app.bench.lines import LINES, Line
from app.db import Database
from app.queue import make_queue

OBVIOUS_CONCURRENCY = 50
LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Drained:
    """messages: sent, from the first intake to the last record.

    cpu_us: what one message took of the CPU, in the worker and its children. peak_memory_mb: of the same.
    """

    messages: int
    seconds: float
    cpu_us: float
    peak_memory_mb: float

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds


async def landed(dsn: str, *, line: str, messages: int) -> Drained:
    kind = LINES[line]
    async with kind.far_side() as far:
        return await work_off(dsn, kind.channel, {kind.route: kind(far).account()}, messages=messages)


async def work_off(
    dsn: str,
    channel: str,
    routes: Mapping[str, Mapping[str, Any]],
    *,
    messages: int,
    recipients: int = stage.RECIPIENTS,
) -> Drained:
    """Accepts so many notifications, starts a worker, and waits until it has sent them all."""
    async with Database(dsn, name="landed bench") as db:
        tenant_id = await stage.populate(db)
        await stage.accept(db, tenant_id, count=messages, klass="transactional", channel=channel, recipients=recipients)
        async with stage.running("jobs.worker", env=stage.environment(dsn, routes)) as worker:
            await stage.until_begun(db)  # to start is not to send
            cpu = worker.cpu_seconds()
            await stage.until_sent(db, messages, klass="transactional")
            cpu, memory = worker.cpu_seconds() - cpu, worker.peak_memory_mb()
        async with db.transaction() as conn:
            cursor = await conn.execute(
                "SELECT extract(epoch FROM (SELECT max(closed_at) FROM store.attempts)"
                " - (SELECT min(planned_at) FROM store.notifications))"
            )
            [seconds] = await cursor.fetchone() or [0]
    return Drained(messages, float(seconds), cpu / messages * 1e6, memory)


async def obvious(dsn: str, *, line: str, messages: int) -> Drained:
    """The baseline: nothing is tracked, nothing is proven, a crash sends twice."""
    async with (
        LINES[line].far_side() as far,
        _obviously(dsn, line, far, messages) as process,
        httpx.AsyncClient() as client,
        asyncio.timeout(600),
    ):
        first = await _until_taken(client, far, 1)
        began, cpu = time.perf_counter(), process.cpu_seconds()
        await _until_taken(client, far, messages)
        seconds, cpu = time.perf_counter() - began, process.cpu_seconds() - cpu
        counted = messages - first
        return Drained(counted, seconds, cpu / counted * 1e6, process.peak_memory_mb())


async def _until_taken(client: httpx.AsyncClient, far: stage.FarSide, count: int) -> int:
    """Until the far side has taken so many; answers how many it has by then."""
    while True:
        taken = int((await client.get(far.count_url)).json()["accepted"])
        if taken >= count:
            return taken
        await asyncio.sleep(LOOK_SECONDS)


@contextlib.asynccontextmanager
async def _obviously(dsn: str, line: str, far: stage.FarSide, messages: int) -> AsyncIterator[stage.Process]:
    told = {"dsn": dsn, "line": line, "far": asdict(far), "messages": messages}
    async with stage.running("app.bench.drain", env={"BENCH": json.dumps(told)}) as process:
        yield process


def _obvious_queue(dsn: str, line: Line, client: httpx.AsyncClient) -> procrastinate.App:
    queue = make_queue(dsn)

    @queue.task(name="send", queue="send")
    async def send(n: int) -> None:
        (await line.send(client, n)).raise_for_status()

    return queue


def _arguments(messages: int) -> Iterator[dict[str, JSONValue]]:
    return ({"n": n} for n in range(messages))


async def _run_obvious(dsn: str, line: str, far: Mapping[str, Any], messages: int) -> None:
    sends = LINES[line](stage.FarSide(**far))
    async with sends.client() as client:
        queue = _obvious_queue(dsn, sends, client)
        async with queue.open_async():
            await queue.tasks["send"].batch_defer_async(*_arguments(messages))
            await queue.run_worker_async(
                queues=["send"], concurrency=OBVIOUS_CONCURRENCY, install_signal_handlers=False, delete_jobs="always"
            )


if __name__ == "__main__":
    uvloop.run(_run_obvious(**json.loads(os.environ["BENCH"])))
