"""How soon an open app shows what has come into its inbox: over a stream, and by asking every second.

The API and a worker run as they ship. So many recipients listen, each on a connection of its own, while somebody sends
to one after the other, at a steady pace. Latencies end when the client has read the item. They begin twice: where the
send was accepted, and where the transaction began that put the item into the inbox. That is before its commit, by what
recording the outcome takes.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast
from uuid import uuid4

import httpx
import msgspec

from app.bench import stage, trickle
from app.db import Database

EVERY_SECONDS = 0.02
ASK_SECONDS = 1.0  # what apps that poll settle for: less is felt by the server, more by people
READY_SECONDS = 30.0
LOST_SECONDS = 15.0
ITEM: Final = re.compile(rb'event: item\ndata: \{"id":"([0-9a-f-]{36})"')
FIRST: Final = b"event: counts"


@dataclass(frozen=True, slots=True)
class Latencies:
    """In milliseconds, of messages that reached their app. accepted: from there on; stored: from there on."""

    messages: int
    stored_p50_ms: float
    stored_p99_ms: float
    accepted_p50_ms: float
    accepted_p99_ms: float


@dataclass(frozen=True, slots=True)
class Live:
    """streamed: nothing else going on. polled: the same, each app asking every second. campaign: streamed, while one
    puts items into every recipient's inbox."""

    streamed: Latencies
    polled: Latencies
    campaign: Latencies
    campaign_left: int
    api_memory_mb: float


async def measure(dsn: str, *, streams: int, sends: int, campaign: int) -> Live:
    port = stage.free_port()
    env = stage.environment(dsn, {}) | {"LANDED_API__PORT": str(port)}
    async with Database(dsn, name="landed bench") as db:
        tenant_id = await stage.populate(db)
        key = await trickle.key(db, tenant_id)
        async with stage.running("app.api.server", env=env, port=port) as api, stage.running("jobs.worker", env=env):
            scene = _Scene(db, port, key, streams, sends)
            await scene.send(warming=True)
            streamed = await scene.latencies(_Stream)
            polled = await scene.latencies(_Poller)
            await stage.accept(db, tenant_id, count=campaign, klass="promotional", channel="in_app")
            await stage.until_sent(db, 1, klass="promotional")
            beside = await scene.latencies(_Stream)
            left = campaign - scene.promotional_sent
            return Live(streamed, polled, beside, left, api.peak_memory_mb())


class _Client(asyncio.Protocol):
    """One app's connection. ready: set once it would hear of what comes; seen: when each item was read here."""

    def __init__(self, recipient: str, key: str, seen: dict[str, float]) -> None:
        self.ready = asyncio.Event()
        self._recipient, self._key, self._seen = recipient, key, seen
        self._buffer = b""

    async def open(self, port: int) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, stage.HOST, port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def close(self) -> None:
        self._transport.close()

    def _get(self, path: str, query: str) -> None:
        self._transport.write(
            f"GET /api/v1/inbox/{path}?recipient_id={self._recipient}{query} HTTP/1.1\r\n"
            f"Host: {stage.HOST}\r\nAuthorization: Bearer {self._key}\r\n\r\n".encode()
        )

    def _saw(self, ids: Sequence[str]) -> None:
        now = time.time()
        for id_ in ids:
            self._seen.setdefault(id_, now)
        self.ready.set()


class _Stream(_Client):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._get("stream", "")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        whole, blank, self._buffer = self._buffer.rpartition(b"\n\n")
        if blank and (self.ready.is_set() or FIRST in whole):
            self._saw([id_.decode() for id_ in ITEM.findall(whole)])


class _Answer(msgspec.Struct):
    class Item(msgspec.Struct):
        id: str

    items: list[Item]
    version: int


class _Poller(_Client):
    """Asks every ASK_SECONDS, not all at the same moment."""

    def __init__(self, recipient: str, key: str, seen: dict[str, float]) -> None:
        super().__init__(recipient, key, seen)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._version = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._ask()

    def close(self) -> None:
        super().close()
        if self._timer is not None:
            self._timer.cancel()

    def _ask(self) -> None:
        self._asked_at = self._loop.time()
        self._get("changes", f"&after={self._version}")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank or len(body) < _content_length(head):
            return
        self._buffer = b""
        answer = msgspec.json.decode(body, type=_Answer)
        self._version = answer.version
        self._saw([item.id for item in answer.items])
        self._timer = self._loop.call_at(self._asked_at + ASK_SECONDS, self._ask)


def _content_length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


class _Scene:
    """A running service, a sender, and those who listen."""

    def __init__(self, db: Database, port: int, key: str, streams: int, sends: int) -> None:
        self._db, self._port, self._key, self._streams, self._sends = db, port, key, streams, sends
        self.promotional_sent = 0

    async def latencies(self, kind: type[_Client]) -> Latencies:
        """Opens the apps, sends, and waits until each message was read. Raises RuntimeError when one never is."""
        seen: dict[str, float] = {}
        async with asyncio.timeout(READY_SECONDS):
            clients = await self._open(kind, seen)
        try:
            notifications = await self.send()
            self.promotional_sent = await stage.sent(self._db, "promotional")
            return await self._until_seen(notifications, seen)
        finally:
            for client in clients:
                client.close()

    async def _open(self, kind: type[_Client], seen: dict[str, float]) -> list[_Client]:
        clients = [kind(f"r{n}", self._key, seen) for n in range(self._streams)]
        for client in clients:
            await client.open(self._port)
            await asyncio.sleep(ASK_SECONDS / self._streams)
        for client in clients:
            await client.ready.wait()
        return clients

    async def send(self, *, warming: bool = False) -> list[str]:
        """A message to one recipient after the other. Answers the notifications' ids."""
        pending, ids = set(), []
        async with httpx.AsyncClient(base_url=f"http://{stage.HOST}:{self._port}", timeout=60) as http:

            async def one(n: int) -> None:
                headers = {"Authorization": f"Bearer {self._key}", "Idempotency-Key": str(uuid4())}
                response = await http.post("/api/v1/notifications/send", headers=headers, json=self._body(n))
                ids.append(response.raise_for_status().json()["id"])

            began = time.monotonic()
            for n in range(1 if warming else self._sends):
                pending.add(asyncio.create_task(one(n)))
                await asyncio.sleep(max(0.0, began + (n + 1) * EVERY_SECONDS - time.monotonic()))
            await asyncio.gather(*pending)
        return ids

    def _body(self, n: int) -> dict[str, object]:
        return {
            "recipient_id": f"r{n % self._streams}",
            "category": "transactional",
            "channel": "in_app",
            "template_id": "order",
            "variables": {"name": "Ann", "order": str(n)},
        }

    async def _until_seen(self, notifications: Sequence[str], seen: dict[str, float]) -> Latencies:
        deadline = time.monotonic() + LOST_SECONDS
        while True:
            moments = await self._moments(notifications)
            if len(moments) == len(notifications) and moments.keys() <= seen.keys():
                break
            if time.monotonic() > deadline:
                missing = len(notifications) - len(moments.keys() & seen.keys())
                raise RuntimeError(f"{missing} of {len(notifications)} messages were not read in time")
            await asyncio.sleep(stage.POLL_SECONDS)
        accepted = [(seen[id_] - moments[id_][0]) * 1000 for id_ in moments]
        stored = [(seen[id_] - moments[id_][1]) * 1000 for id_ in moments]
        return Latencies(len(moments), *_p50_p99(stored), *_p50_p99(accepted))

    async def _moments(self, notifications: Sequence[str]) -> dict[str, tuple[float, float]]:
        """When each message was accepted, and when its item was put there, by the item's id."""
        async with self._db.transaction() as conn:
            cursor = await conn.execute(
                "SELECT i.id::text, extract(epoch FROM n.accepted_at), extract(epoch FROM i.created_at)"
                " FROM store.notifications n JOIN store.inbox_items i"
                " ON i.tenant_id = n.tenant_id AND i.recipient_id = n.recipient_id AND i.notification_id = n.id"
                " WHERE n.id = ANY (%s)",
                (list(notifications),),
            )
            return {id_: (float(accepted), float(stored)) for id_, accepted, stored in await cursor.fetchall()}


def _p50_p99(latencies: Sequence[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(latencies, n=100)
    return cuts[49], cuts[98]
