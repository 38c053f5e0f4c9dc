"""What lanes whose vendors are well notice of others whose vendors are not: how long a send takes to be handed over.

Four lanes, one worker. Email goes to a vendor that takes connections and never answers, text messages to one that
fails every call, and both under a steady load. Beside them, one send after the other goes to another route of email,
with a vendor that is well, and into an inbox. Hand-off is from a send's 202 to its call at the vendor, or its record in
the inbox.

    quiet     nothing but those sends
    busy      the load on the other lanes, with their vendors well: what the load costs by itself
    ill       the same load with their vendors ill, and breakers as shipped
    unbroken  the same with breakers that never open: every call meets the vendor as it is, and only lanes stand between
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import httpx

from app.bench import lines, stage, trickle
from app.db import Database

EVERY_SECONDS: Final = 0.05
LOAD_PER_SECOND: Final = 50  # on each of the two
ONSET_SECONDS: Final = 1.0
WARMING: Final = 30  # sends that are not counted
RECIPIENTS: Final = 1000  # of the calm; those of the crowd are many, so that limits keep none of it back
NEVER: Final = {"failures_min": 1_000_000_000}
CHANNELS: Final = ("email", "in_app")


@dataclass(frozen=True, slots=True)
class Handed:
    """Milliseconds from the 202 to the hand-off."""

    sends: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Bulkhead:
    """hung, failed: calls that the two ill vendors had meanwhile; that both were called is what makes it a test."""

    quiet: Handed
    busy: Handed
    ill: Handed
    unbroken: Handed
    hung: int
    failed: int


async def measure(dsn: str, *, sends: int) -> Bulkhead:
    async with (
        Database(dsn, name="landed bench") as db,
        stage.vendor() as email,
        stage.vendor() as sms,
        stage.vendor() as calm,
    ):
        scene = _Scene(db, email, sms, calm, sends)
        await scene.prepare()
        async with scene.serving(dsn):
            await scene.warm_up()
            quiet = await scene.send()
            async with scene.load():
                busy = await scene.send()
            await email.becomes("hanging")
            await sms.becomes("failing")
            async with scene.load():
                ill = await scene.send()
        async with scene.serving(dsn, breakers=NEVER):
            await scene.warm_up()
            async with scene.load():
                unbroken = await scene.send()
        hung = sum(not call.accepted for call in await email.calls())
        failed = sum(not call.accepted for call in await sms.calls())
        return Bulkhead(quiet, busy, ill, unbroken, hung, failed)


class _Scene:
    def __init__(self, db: Database, email: stage.Vendor, sms: stage.Vendor, calm: stage.Vendor, sends: int) -> None:
        self._db, self._email, self._sms, self._calm, self._sends = db, email, sms, calm, sends
        self._port = stage.free_port()

    async def prepare(self) -> None:
        self._crowd = await stage.populate(self._db)
        self._key = await trickle.key(self._db, await stage.populate(self._db, "calm", recipients=RECIPIENTS))

    @contextlib.asynccontextmanager
    async def serving(self, dsn: str, **sections: Any) -> AsyncIterator[None]:
        """The API and a worker, that has just started."""
        accounts = {
            "hanging": stage.mailgun_account(self._email.port),
            "failing": lines.Sms(stage.FarSide(f"http://{stage.HOST}:{self._sms.port}", "")).account(),
            "well": stage.mailgun_account(self._calm.port),
        }
        routes = {"email": ["hanging"], "sms": ["failing"], "email@calm": ["well"]}
        env = stage.configuration(dsn, accounts, routes, **sections) | {"LANDED_API__PORT": str(self._port)}
        async with self._db.transaction() as conn:
            await conn.execute("DELETE FROM store.provider_states")
            await conn.execute("DELETE FROM store.workers")
        async with stage.running("app.api.server", env=env, port=self._port), stage.running("jobs.worker", env=env):
            await stage.until_manned(self._db, 1)
            yield

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """A steady load on the two lanes, for some time before the block begins until it ends."""
        async with (
            stage.load(self._db, self._crowd, per_second=LOAD_PER_SECOND, channel="email"),
            stage.load(self._db, self._crowd, per_second=LOAD_PER_SECOND, channel="sms"),
        ):
            await asyncio.sleep(ONSET_SECONDS)
            yield

    async def warm_up(self) -> None:
        """Connections, caches, statements, templates."""
        await self._send(WARMING)

    async def send(self) -> Handed:
        """So many sends, one after the other, to each of the lanes that are well in turn."""
        answered = await self._send(self._sends)
        handed = await self._handed(list(answered))
        cuts = statistics.quantiles([(handed[id_] - at) * 1000 for id_, at in answered.items()], n=100)
        return Handed(len(answered), cuts[49], cuts[98])

    async def _send(self, sends: int) -> dict[str, float]:
        """When each notification was answered 202."""
        answered: dict[str, float] = {}
        async with httpx.AsyncClient(
            base_url=f"http://{stage.HOST}:{self._port}", headers={"Authorization": f"Bearer {self._key}"}, timeout=60
        ) as client:
            began = time.monotonic()
            for n in range(sends):
                response = await client.post(
                    "/api/v1/notifications/send",
                    headers={"Idempotency-Key": str(uuid4())},
                    json={
                        "recipient_id": f"r{n % RECIPIENTS}",
                        "category": "transactional",
                        "template_id": "order",
                        "channel": CHANNELS[n % len(CHANNELS)],
                        "variables": {"name": "Ann", "order": str(n)},
                    },
                )
                answered[response.raise_for_status().json()["id"]] = time.time()
                await asyncio.sleep(max(0.0, began + (n + 1) * EVERY_SECONDS - time.monotonic()))
        return answered

    async def _handed(self, notifications: Sequence[str]) -> dict[str, float]:
        """When each was handed over. Raises TimeoutError when one never is."""
        async with asyncio.timeout(stage.STANDSTILL_SECONDS):
            while True:
                async with self._db.transaction() as conn:
                    cursor = await conn.execute(
                        "SELECT d.notification_id::text, d.id::text, d.channel, extract(epoch FROM d.sent_at)::float8"
                        " FROM store.deliveries d WHERE d.notification_id = ANY(%s::uuid[]) AND d.sent_at IS NOT NULL",
                        (list(notifications),),
                    )
                    rows = await cursor.fetchall()
                if len(rows) == len(notifications):
                    break
                await asyncio.sleep(stage.POLL_SECONDS)
        arrivals = {call.delivery: call.at for call in await self._calm.calls()}
        return {
            notification: arrivals[delivery] if channel == "email" else sent_at
            for notification, delivery, channel, sent_at in rows
        }
