"""How fast requests are taken in: the real API with durable commits, against a bare route that only
validates.

The bare route is what one writes first: the same framework on the same server, the same model as the
handler's argument, and an answer at once. Both run as processes of their own and
are driven by the same client, one request in flight a connection, every request with a key of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import cast

import uvicorn
from litestar import Litestar, post

from app.api.auth import mint_api_key
from app.api.schemas import SendRequest
from app.bench import stage
from app.db import Database
from app.store import api_keys

TENANT = "bench"
SEND_PATH = "/api/v1/notifications/send"
UNLIMITED = 10_000_000  # requests a second: the rate limit is asked, and never says no

NO_PROVIDER = 9  # the discard port: nothing is sent while requests are only taken in


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of the client. Latencies are of single requests, in milliseconds."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int  # answers other than 202
    peak_memory_mb: float  # of the server process

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Ingest:
    api: Measured
    bare: Measured

    @property
    def ratio(self) -> float:
        return self.api.per_second / self.bare.per_second


async def measure(dsn: str, *, requests: int, connections: int, rounds: int = 3) -> Ingest:
    """Both servers over the migrated database at ``dsn``: the median round of each, by requests a second.

    Rounds alternate, so that what else the machine does meets both.
    """
    key = await prepare(dsn)
    async with serving("api", dsn) as api, serving("bare", dsn) as bare:
        runs: dict[str, list[Measured]] = {"api": [], "bare": []}
        for number in range(rounds):
            for name, server in (("api", api), ("bare", bare)):
                bodies = request_bytes(key, f"{name}.{time.time_ns()}.{number}")
                runs[name].append(await drive(server, bodies, requests=requests, connections=connections))
    return Ingest(api=_median(runs["api"]), bare=_median(runs["bare"]))


def _median(runs: list[Measured]) -> Measured:
    return sorted(runs, key=lambda run: run.per_second)[len(runs) // 2]


async def prepare(dsn: str) -> str:
    """The bench's tenant, ready to send to ``user-0``, and a new API key for it."""
    plain, prefix, digest = mint_api_key()
    async with Database(dsn, name="landed bench") as db, db.transaction() as conn:
        cursor = await conn.execute(
            "INSERT INTO store.tenants (name, sender) VALUES (%s, 'Bench <bench@example.com>') "
            "ON CONFLICT (name) DO UPDATE SET sender = excluded.sender RETURNING id",
            (TENANT,),
        )
        [tenant_id] = await cursor.fetchone() or [0]
        await conn.execute(
            "INSERT INTO store.categories (tenant_id, name, class) VALUES (%s, 'orders', 'transactional') "
            "ON CONFLICT DO NOTHING",
            (tenant_id,),
        )
        await conn.execute(
            "INSERT INTO store.templates (tenant_id, template_id, version, subject, text, variables, status, "
            "published_at) VALUES (%s, 'order', 1, 'Order {{ order_id }}', 'Order {{ order_id }}', "
            """'{"order_id": {"required": true}, "items": {"required": true}}', 'published', now()) """
            "ON CONFLICT DO NOTHING",
            (tenant_id,),
        )
        await conn.execute(
            "INSERT INTO store.recipients (tenant_id, id, email) VALUES (%s, 'user-0', 'user@example.com') "
            "ON CONFLICT DO NOTHING",
            (tenant_id,),
        )
        await api_keys.insert(
            conn,
            tenant_id=tenant_id,
            name="bench",
            prefix=prefix,
            digest=digest,
            scopes=("send",),
            rate_per_second=UNLIMITED,
            burst=UNLIMITED,
        )
    return plain


def request_bytes(key: str, run: str) -> Iterator[bytes]:
    """Whole HTTP requests, as many as asked for, each with an idempotency key of its own."""
    body = json.dumps(
        {
            "recipient_id": "user-0",
            "category": "orders",
            "template_id": "order",
            "variables": {
                "order_id": "A-1001",
                "items": [{"name": f"Thing {n}", "price": 19.99, "count": n} for n in range(5)],
            },
        }
    ).encode()
    head = (
        f"POST {SEND_PATH} HTTP/1.1\r\nHost: {stage.HOST}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nIdempotency-Key: "
    )
    number = 0
    while True:
        yield f"{head}{run}.{number}\r\n\r\n".encode() + body
        number += 1


# -- the client ---------------------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """Sends one request after another for as long as there are any; reads of an answer what it must."""

    def __init__(self, take: Callable[[], bytes | None], latencies: list[float], refused: list[int]) -> None:
        self._take = take
        self._latencies = latencies
        self._refused = refused
        self._received = b""
        self._sent_at = 0.0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._send_next()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank or len(body) < _content_length(head):
            return
        self._received = b""
        self._latencies.append(time.perf_counter() - self._sent_at)
        status = int(head[9:12])
        if status != 202:
            self._refused.append(status)
        self._send_next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(error or ConnectionError("the server closed the connection"))

    def _send_next(self) -> None:
        request = self._take()
        if request is None:
            self.over.set_result(None)
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0])


async def drive(server: stage.Process, requests_bytes: Iterator[bytes], *, requests: int, connections: int) -> Measured:
    """Sends ``requests`` over ``connections``, each waiting for its answer before it sends the next."""
    left = iter(range(requests))
    latencies: list[float] = []
    refused: list[int] = []

    def take() -> bytes | None:
        return next(requests_bytes) if next(left, None) is not None else None

    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    made = [
        await loop.create_connection(lambda: _Connection(take, latencies, refused), stage.HOST, server.port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.over for _, connection in made))
    cuts = statistics.quantiles(latencies, n=100)
    return Measured(
        requests=len(latencies),
        seconds=time.perf_counter() - began,
        p50_ms=cuts[49] * 1000,
        p99_ms=cuts[98] * 1000,
        refused=len(refused),
        peak_memory_mb=server.peak_memory_mb(),
    )


# -- the servers --------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(which: str, dsn: str) -> AsyncIterator[stage.Process]:
    """``api`` or ``bare`` as a process of its own, until the block ends."""
    port = stage.free_port()
    module = {"api": ("app.api.server",), "bare": ("app.bench.ingest", str(port))}[which]
    environment = stage.environment(dsn, stage.mailgun(NO_PROVIDER)) | {"LANDED_API__PORT": str(port)}
    async with stage.running(*module, env=environment, port=port) as process:
        yield process


@post(SEND_PATH, status_code=202)
async def bare_send(data: SendRequest) -> dict[str, str]:
    return {"id": "01890000-0000-7000-8000-000000000000", "status": "queued"}


def serve_bare(port: int) -> None:
    """The ceiling: validates and answers, and does nothing else."""
    app = Litestar([bare_send], openapi_config=None, logging_config=None)
    uvicorn.run(
        app,
        host=stage.HOST,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
    )


if __name__ == "__main__":
    serve_bare(int(sys.argv[1]))
