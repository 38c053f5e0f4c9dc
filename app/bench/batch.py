"""How fast notifications are taken in when they come many to a request: POST send-batch."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import httpx
import msgspec

from app.bench import stage, trickle
from app.db import Database


@dataclass(frozen=True, slots=True)
class Batched:
    notifications: int
    seconds: float
    peak_memory_mb: float

    @property
    def per_second(self) -> float:
        return self.notifications / self.seconds


async def measure(dsn: str, *, requests: int, items: int, connections: int) -> Batched:
    port = stage.free_port()
    async with Database(dsn, name="landed bench") as db, stage.sink() as sink:
        tenant_id = await stage.populate(db)
        api_key = await trickle.key(db, tenant_id)
        env = stage.environment(dsn, stage.mailgun(sink.port)) | {"LANDED_API__PORT": str(port)}
        async with stage.running("app.api.server", env=env, port=port) as api:
            began = time.perf_counter()
            await _drive(port, api_key, requests=requests, items=items, connections=connections)
            seconds = time.perf_counter() - began
            memory = api.peak_memory_mb()
    return Batched(requests * items, seconds, memory)


async def _drive(port: int, key: str, *, requests: int, items: int, connections: int) -> None:
    left = iter(range(requests))

    async def client() -> None:
        async with httpx.AsyncClient(base_url=f"http://{stage.HOST}:{port}", timeout=60) as http:
            for number in left:
                response = await http.post(
                    "/api/v1/notifications/send-batch",
                    headers={
                        "Authorization": f"Bearer {key}",
                        "Idempotency-Key": f"batch-{number}",
                        "Content-Type": "application/json",
                    },
                    content=_body(items),
                )
                refused = [i for i in response.raise_for_status().json()["items"] if i["status"] != 202]
                if refused:
                    raise RuntimeError(f"{len(refused)} items were refused: {refused[0]}")

    await asyncio.gather(*(client() for _ in range(connections)))


def _body(items: int) -> bytes:
    return msgspec.json.encode(
        {
            "items": [
                {
                    "recipient_id": f"r{n}",
                    "category": "promotional",
                    "template_id": "order",
                    "variables": {"name": "Ann", "order": str(n)},
                }
                for n in range(items)
            ]
        }
    )
