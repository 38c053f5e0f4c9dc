"""What a password reset waits behind a campaign: from its 202 to its arrival at the provider."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass

import httpx

from app.api.auth import mint_api_key
from app.bench import stage
from app.db import Database
from app.store import api_keys

EVERY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Trickled:
    """Latencies in milliseconds.

    promotional_left: what was still queued of the campaign when the last one was sent. With none left, the end of the
    trickle ran beside nothing.
    """

    sends: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    promotional_left: int


async def measure(dsn: str, *, campaign: int, sends: int) -> Trickled:
    port = stage.free_port()
    async with Database(dsn, name="landed bench") as db, stage.sink(track=True) as sink:
        tenant_id = await stage.populate(db)
        api_key = await key(db, tenant_id)
        await stage.accept(db, tenant_id, count=campaign, klass="promotional")
        env = stage.environment(dsn, stage.mailgun(sink.port)) | {"LANDED_API__PORT": str(port)}
        async with stage.running("app.api.server", env=env, port=port), stage.running("jobs.worker", env=env):
            await stage.until_sent(db, 1, klass="promotional")
            answered = await _send(port, api_key, sends)
            left = campaign - await stage.sent(db, "promotional")
            await stage.until_sent(db, sends, klass="transactional")
            arrivals = await _arrivals(db, sink.port)
    latencies = [(arrivals[notification] - at) * 1000 for notification, at in answered.items()]
    cuts = statistics.quantiles(latencies, n=100)
    return Trickled(len(latencies), cuts[49], cuts[98], max(latencies), left)


async def key(db: Database, tenant_id: int) -> str:
    """A new API key of the tenant that no rate limit will hold back."""
    plain, prefix, digest = mint_api_key()
    async with db.transaction() as conn:
        await api_keys.insert(
            conn,
            tenant_id=tenant_id,
            name="bench",
            prefix=prefix,
            digest=digest,
            scopes=("send", "read"),
            rate_per_second=10_000_000,
            burst=10_000_000,
        )
    return plain


async def _send(port: int, key: str, sends: int) -> dict[str, float]:
    """One send after another, ``EVERY_SECONDS`` apart. Answers when each was answered 202, by notification."""
    answered: dict[str, float] = {}
    async with httpx.AsyncClient(
        base_url=f"http://{stage.HOST}:{port}", headers={"Authorization": f"Bearer {key}"}
    ) as client:
        for n in range(sends):
            response = await client.post(
                "/api/v1/notifications/send",
                headers={"Idempotency-Key": f"trickle-{n}"},
                json={
                    "recipient_id": f"r{n}",
                    "category": "transactional",
                    "template_id": "order",
                    "variables": {"name": "Ann", "order": str(n)},
                },
            )
            answered[response.raise_for_status().json()["id"]] = time.time()
            await asyncio.sleep(EVERY_SECONDS)
    return answered


async def _arrivals(db: Database, sink_port: int) -> dict[str, float]:
    async with httpx.AsyncClient() as client:
        counted = (await client.get(f"http://{stage.HOST}:{sink_port}/")).json()["arrivals"]
    async with db.transaction() as conn:
        cursor = await conn.execute(
            "SELECT id::text, notification_id::text FROM store.deliveries WHERE class = 'transactional'"
        )
        return {notification: counted[delivery] for delivery, notification in await cursor.fetchall()}
