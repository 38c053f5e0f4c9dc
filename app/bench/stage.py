"""What every measurement needs: a database of its own, a tenant with people to write to, and processes beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import psutil
import psycopg
import trustme

from app.bench.vendor import Call, Mood
from app.db import Connection, Database
from app.migrate import migrate

HOST = "127.0.0.1"
RECIPIENTS = 20_000
ACCEPT_GROUP = 1000
POLL_SECONDS = 0.2
GLANCE_SECONDS = 0.02
LOAD_TICK_SECONDS = 0.05
STANDSTILL_SECONDS = 60.0  # longer than any lease or timeout on the way
HTML = (
    "<p>Hello {{ name }}, your order <b>{{ order }}</b> is on its way.</p>" + "<p>Thank you for your custom.</p>" * 20
)
SHORT = "Hello {{ name }}, order {{ order }} is on its way."
TEXT = SHORT + "\nThank you for your custom." * 20
LINK = {"url": "https://example.com/orders/{{ order }}", "data.order": "{{ order }}"}
# The same message on every channel, as long as people make it there: subject, html, text and further parts.
VARIABLES = {"name": {"required": True}, "order": {"required": True}}
TEMPLATES: Mapping[str, tuple[str | None, str | None, str, Mapping[str, str]]] = {
    "email": ("Order {{ order }}", HTML, TEXT, {}),
    "sms": (None, None, SHORT, {}),
    "push": ("Order {{ order }}", None, SHORT, LINK),
    "in_app": ("Order {{ order }}", None, SHORT, LINK),
}


@contextlib.contextmanager
def database(server_dsn: str) -> Iterator[str]:
    """A migrated database on the server at ``server_dsn``, dropped afterwards."""
    name = f"landed_bench_{uuid4().hex[:8]}"
    with psycopg.connect(server_dsn, autocommit=True) as conn:
        conn.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    dsn = psycopg.conninfo.make_conninfo(server_dsn, dbname=name)
    try:
        migrate(dsn)
        yield dsn
    finally:
        with psycopg.connect(server_dsn, autocommit=True) as conn:
            conn.execute(psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(name)))


async def populate(db: Database, name: str = "bench", *, recipients: int = RECIPIENTS) -> int:
    """A tenant with a category in each class, a template published for every channel, and recipients ``r0`` ... who
    have an address, a number and an iPhone each. Answers the tenant's id."""
    async with db.transaction() as conn:
        tenant_id = await _one(
            conn,
            "INSERT INTO store.tenants (name, sender) VALUES (%s, 'Bench <bench@sandbox.landed.test>') RETURNING id",
            name,
        )
        for klass in ("transactional", "promotional", "alert"):
            await conn.execute(
                "INSERT INTO store.categories (tenant_id, name, class) VALUES (%s, %s, %s)", (tenant_id, klass, klass)
            )
        for channel, (subject, html, text, extras) in TEMPLATES.items():
            await conn.execute(
                "INSERT INTO store.templates (tenant_id, template_id, version, channel, subject, html, text, extras,"
                " variables, status, published_at) VALUES (%s, 'order', 1, %s, %s, %s, %s, %s, %s, 'published', now())",
                (tenant_id, channel, subject, html, text, json.dumps(extras), json.dumps(VARIABLES)),
            )
        await conn.execute(
            "INSERT INTO store.recipients (tenant_id, id, email, phone)"
            " SELECT %s, 'r' || n, 'r' || n || '@example.com', '+4915' || 112000000 + n"
            " FROM generate_series(0, %s) AS n",
            (tenant_id, recipients - 1),
        )
        await conn.execute(
            "INSERT INTO store.devices (tenant_id, recipient_id, platform, token)"
            " SELECT tenant_id, id, 'ios', encode(sha256(id::bytea), 'hex') FROM store.recipients WHERE tenant_id = %s",
            (tenant_id,),
        )
    async with db.transaction() as conn:
        await conn.execute("ANALYZE store.recipients, store.devices")
    return tenant_id


async def accept(
    db: Database,
    tenant_id: int,
    *,
    count: int,
    klass: str,
    channel: str = "email",
    recipients: int = RECIPIENTS,
    first: int = 0,
) -> None:
    """Puts ``count`` accepted notifications before the worker, as the API would have.

    first: the recipient to begin with, so that nobody gets more than people may."""
    for start in range(first, first + count, ACCEPT_GROUP):
        items = [
            {
                "ordinal": n,
                "tenant_id": tenant_id,
                "recipient_id": f"r{n % recipients}",
                "category": klass,
                "class": klass,
                "channels": [channel],
                "template_id": "order",
                "template_version": 1,
                "request": {"recipient_id": f"r{n % recipients}", "variables": {"name": "Ann", "order": str(n)}},
                "source": "api",
                "expires_at": "9999-12-31T00:00:00Z",
            }
            for n in range(start, min(start + ACCEPT_GROUP, first + count))
        ]
        async with db.transaction() as conn:
            await conn.execute("SELECT count(*) FROM landed.accept(%s::jsonb)", (msgspec.json.encode(items).decode(),))


@contextlib.asynccontextmanager
async def load(db: Database, tenant_id: int, *, per_second: int, channel: str = "email") -> AsyncIterator[None]:
    """A steady stream of transactional notifications, accepted until the block ends."""

    async def stream() -> None:
        began, accepted = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began) * per_second) - accepted
            if due > 0:
                await accept(db, tenant_id, count=due, klass="transactional", channel=channel, first=accepted)
                await db.wake("landed_wake", "intake")
                accepted += due
            await asyncio.sleep(LOAD_TICK_SECONDS)

    streaming = asyncio.create_task(stream())
    try:
        yield
    finally:
        streaming.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await streaming


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    port: int

    def peak_memory_mb(self) -> float:
        """Highest resident memory of the process, in MB, with its children's as it is now."""
        me = psutil.Process(self.pid)
        peak = sum(getattr(p.memory_info(), "rss", 0) for p in me.children(recursive=True))
        with open(f"/proc/{self.pid}/status") as status:  # VmHWM: what the kernel saw, not what we happened to sample
            peak += next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
        return peak / 2**20

    def cpu_seconds(self) -> float:
        """Of the process and its children so far. Of all figures the one that busy neighbours disturb least."""
        me = psutil.Process(self.pid)
        times = [p.cpu_times() for p in (me, *me.children(recursive=True))]
        return float(sum(t.user + t.system for t in times))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def running(*command: str, env: Mapping[str, str] | None = None, port: int = 0) -> AsyncIterator[Process]:
    """``python -m <command>`` until the block ends; it must be listening on ``port`` (if any) when the block begins."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, env={**os.environ, **(env or {})}, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        if port:
            await _listening(port, process)
        yield Process(process.pid, port)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def workers(*environments: Mapping[str, str]) -> AsyncIterator[None]:
    """A worker in each environment until the block ends; they stop at the same time, as each takes its own."""
    over = asyncio.Event()

    async def work(env: Mapping[str, str]) -> None:
        async with running("jobs.worker", env=env):
            await over.wait()

    working = [asyncio.create_task(work(env)) for env in environments]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*working)


async def _listening(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(60):
        while process.returncode is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, port)
                writer.close()
                return
            await asyncio.sleep(0.05)
    raise ConnectionError(f"the process ended with {process.returncode}")


@contextlib.asynccontextmanager
async def sink(*, track: bool = False) -> AsyncIterator[Process]:
    port = free_port()
    options = ["--track"] if track else []
    async with running("app.bench.sink", "--port", str(port), *options, port=port) as process:
        yield process


@dataclass(frozen=True, slots=True)
class FarSide:
    """A provider's stand-in.

    origin: where it takes messages. count_url: where it says how many came. trust: the CA bundle that vouches for it.
    """

    origin: str
    count_url: str
    trust: str | None = None


@contextlib.asynccontextmanager
async def http1() -> AsyncIterator[FarSide]:
    """One that takes messages as Mailgun and Twilio do."""
    async with sink() as process:
        origin = f"http://{HOST}:{process.port}"
        yield FarSide(origin, f"{origin}/")


@contextlib.asynccontextmanager
async def http2() -> AsyncIterator[FarSide]:
    """One that takes pushes as APNs does, with a certificate of its own CA."""
    port, count_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="landed-bench-") as directory:
        authority, certificate = trustme.CA(), Path(directory) / "certificate.pem"
        authority.cert_pem.write_to_path(Path(directory) / "ca.pem")
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(certificate)
        command = ["app.bench.sink_h2", "--port", str(port), "--certificate", str(certificate)]
        async with running(*command, "--count-port", str(count_port), port=count_port):
            yield FarSide(f"https://{HOST}:{port}", f"http://{HOST}:{count_port}/", str(Path(directory) / "ca.pem"))


@dataclass(frozen=True, slots=True)
class Vendor:
    """The process of a vendor that has bad days."""

    port: int
    control_port: int

    async def becomes(self, mood: Mood) -> float:
        """Answers when (Unix seconds): every call after that is met in this mood."""
        async with httpx.AsyncClient() as client:
            (await client.put(f"http://{HOST}:{self.control_port}/{mood}")).raise_for_status()
        return time.time()

    async def calls(self) -> list[Call]:
        """Every call that came, in order."""
        async with httpx.AsyncClient(timeout=60) as client:
            return msgspec.json.decode(
                (await client.get(f"http://{HOST}:{self.control_port}/")).content, type=list[Call]
            )


@contextlib.asynccontextmanager
async def vendor() -> AsyncIterator[Vendor]:
    port, control_port = free_port(), free_port()
    command = ["app.bench.vendor", "--port", str(port), "--control-port", str(control_port)]
    async with running(*command, port=control_port):
        yield Vendor(port, control_port)


def environment(dsn: str, routes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Landed as it ships, but for the addresses of its providers. routes: each with the account that serves it."""
    accounts = {str(account["adapter"]): account for account in routes.values()}
    return configuration(dsn, accounts, {route: [str(account["adapter"])] for route, account in routes.items()})


def configuration(
    dsn: str,
    accounts: Mapping[str, Mapping[str, Any]],
    routes: Mapping[str, Sequence[str]],
    **sections: Mapping[str, Any],
) -> dict[str, str]:
    """The environment of every process of Landed. routes: each with its accounts, in order. sections: what else is not
    as it ships."""
    return {
        "LANDED_DATABASE_URL": dsn,
        "LANDED_PROVIDERS": json.dumps(accounts),
        "LANDED_ROUTES": json.dumps(routes),
        "LANDED_API__PUBLIC_URL": "https://landed.example.com",
        "LANDED_SECRET": "bench",
        "LANDED_LOG_LEVEL": "ERROR",
        **{f"LANDED_{name.upper()}": json.dumps(section) for name, section in sections.items()},
    }


def mailgun(sink_port: int) -> dict[str, Mapping[str, Any]]:
    """Email by way of the sink at this port."""
    return {"email": mailgun_account(sink_port)}


def mailgun_account(sink_port: int, **more: Any) -> dict[str, Any]:
    return {
        "adapter": "mailgun",
        "domain": "sandbox.landed.test",
        "api_key": "bench",
        "webhook_signing_key": "bench",
        "base_url": f"http://{HOST}:{sink_port}",
        **more,
    }


async def until_manned(db: Database, workers: int) -> None:
    """Until so many workers are at work."""
    await until_found(db, "SELECT 1 FROM store.workers WHERE stopped_at IS NULL HAVING count(*) >= %s", workers)


async def until_begun(db: Database) -> None:
    """Until a worker has taken up the first notification."""
    await until_found(db, "SELECT 1 FROM store.notifications WHERE state <> 'accepted' LIMIT 1")


async def until_found(db: Database, sql: str, *params: object) -> float:
    """The number that this finds, as soon as it finds one. Raises TimeoutError at a standstill."""
    async with asyncio.timeout(STANDSTILL_SECONDS):
        while True:
            async with db.transaction() as conn:
                cursor = await conn.execute(sql.encode(), params)
                if found := await cursor.fetchone():
                    return float(found[0])
            await asyncio.sleep(GLANCE_SECONDS)


async def until_sent(db: Database, count: int, *, klass: str) -> None:
    """Until ``count`` deliveries of a class were taken by the provider. Raises RuntimeError at a standstill."""
    done, since = -1, time.monotonic()
    while (now := await sent(db, klass)) < count:
        if now != done:
            done, since = now, time.monotonic()
        elif time.monotonic() - since > STANDSTILL_SECONDS:
            raise RuntimeError(f"{now} of {count} were sent, and for {STANDSTILL_SECONDS:g} s no more: see the log")
        await asyncio.sleep(POLL_SECONDS)


async def sent(db: Database, klass: str) -> int:
    """How many deliveries of a class the provider has taken."""
    async with db.transaction() as conn:
        return await _one(conn, "SELECT count(*) FROM store.deliveries WHERE class = %s AND sent_at IS NOT NULL", klass)


async def _one(conn: Connection, sql: str, *params: object) -> int:
    cursor = await conn.execute(sql.encode(), params)
    row = await cursor.fetchone()
    return int(row[0]) if row else 0
