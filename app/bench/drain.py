"""How fast accepted notifications reach the provider, and what the obvious design makes of the same work.

Landed: intake, intent, render, HTTP call, record; the worker as it ships, one process. The obvious design: one
procrastinate job per notification that renders with jinja2 and posts with httpx, in one process, 50 jobs at once.
Both send the same mail to the same sink.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

import httpx
import jinja2
import procrastinate
import uvloop
from procrastinate.types import JSONValue

from app.bench import stage
from app.db import Database
from app.queue import make_queue

OBVIOUS_CONCURRENCY = 50


@dataclass(frozen=True, slots=True)
class Drained:
    """messages: sent, from the first intake to the last record. peak_memory_mb: of the worker with its children."""

    messages: int
    seconds: float
    peak_memory_mb: float

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds


async def landed(dsn: str, *, messages: int) -> Drained:
    async with Database(dsn, name="landed bench") as db, stage.sink() as sink:
        tenant_id = await stage.populate(db)
        await stage.accept(db, tenant_id, count=messages, klass="transactional")
        async with stage.running("jobs.worker", env=stage.environment(dsn, sink.port)) as worker:
            await stage.until_sent(db, messages, klass="transactional")
            memory = worker.peak_memory_mb()
        async with db.transaction() as conn:
            cursor = await conn.execute(
                "SELECT extract(epoch FROM (SELECT max(closed_at) FROM store.attempts)"
                " - (SELECT min(planned_at) FROM store.notifications))"
            )
            [seconds] = await cursor.fetchone() or [0]
    return Drained(messages, float(seconds), memory)


async def obvious(dsn: str, *, messages: int) -> Drained:
    """The baseline: nothing is tracked, nothing is proven, a crash sends twice."""
    async with (
        stage.sink() as sink,
        stage.running(
            "app.bench.drain", env={"BENCH_DSN": dsn, "BENCH_SINK": str(sink.port), "BENCH_MESSAGES": str(messages)}
        ) as process,
    ):
        began = 0.0
        memory = 0.0
        async with httpx.AsyncClient() as client, asyncio.timeout(600):
            accepted = 0
            while accepted < messages:
                answer = await client.get(f"http://{stage.HOST}:{sink.port}/")
                accepted = answer.json()["accepted"]
                if accepted and not began:
                    began, first = time.perf_counter(), accepted
                memory = max(memory, process.peak_memory_mb()) if accepted < messages else memory
                await asyncio.sleep(0.05)
        return Drained(messages - first, time.perf_counter() - began, memory)


def _obvious_queue(dsn: str, sink_port: int, client: httpx.AsyncClient) -> procrastinate.App:
    queue = make_queue(dsn)
    subject, html, text = (jinja2.Template(part) for part in ("Order {{ order }}", stage.HTML, stage.TEXT))

    @queue.task(name="send", queue="send")
    async def send(to: str, name: str, order: str) -> None:
        response = await client.post(
            f"http://{stage.HOST}:{sink_port}/v3/sandbox.landed.test/messages",
            auth=("api", "bench"),
            data={
                "from": "Bench <bench@sandbox.landed.test>",
                "to": to,
                "subject": subject.render(order=order),
                "html": html.render(name=name, order=order),
                "text": text.render(name=name, order=order),
            },
        )
        response.raise_for_status()

    return queue


def _arguments(n: int) -> dict[str, JSONValue]:
    return {"to": f"r{n}@example.com", "name": "Ann", "order": str(n)}


async def _run_obvious(dsn: str, sink_port: int, messages: int) -> None:
    async with httpx.AsyncClient() as client:
        queue = _obvious_queue(dsn, sink_port, client)
        async with queue.open_async():
            await queue.tasks["send"].batch_defer_async(*(_arguments(n) for n in range(messages)))
            await queue.run_worker_async(
                queues=["send"], concurrency=OBVIOUS_CONCURRENCY, install_signal_handlers=False, delete_jobs="always"
            )


if __name__ == "__main__":
    uvloop.run(_run_obvious(os.environ["BENCH_DSN"], int(os.environ["BENCH_SINK"]), int(os.environ["BENCH_MESSAGES"])))
