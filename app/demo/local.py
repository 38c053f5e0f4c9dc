"""A whole service on this machine: how its processes are configured, started in order, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.commands.database import connected
from app.commands.endings import Refused
from app.demo import ports
from app.demo.supervisor import Program, Supervised
from app.settings import Settings
from app.store import operate

READY_SECONDS_MAX = 60.0
LOOK_SECONDS = 0.1
DEATHS_MAX = 3  # dying so often before it ever served, it will not do better
GRACE_BEYOND_SECONDS = 5.0  # what a process has, on top of its own grace, before it is killed
SANDBOX_GRACE_SECONDS = 5.0
SANDBOX_SPEED = 3
ROUTES = {
    "email": ["mailgun"],
    "sms": ["twilio"],
    "sms.GB": ["down", "sinch"],  # so that the demo shows what becomes of a text whose provider is down
    "push.ios": ["apns"],
    "push.android": ["fcm"],
    "push.web": ["web_push"],
}
# The sandbox's own defaults: nothing here is a secret.
MAILGUN_KEYS = {
    "DOMAIN": "sandbox.landed.test",
    "API_KEY": "sandbox-api-key",
    "SIGNING_KEY": "sandbox-signing-key",
}
TWILIO = {"account_sid": "AC" + "5a" * 16, "auth_token": "sandbox-auth-token", "sender": "+15005550006"}
SINCH = {
    "service_plan_id": "sandbox-service-plan",
    "api_token": "sandbox-api-token",
    "webhook_secret": "sandbox-webhook-secret",
    "sender": "+447700900100",
}
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there
APNS = {"key_id": "SANDBOXKEY", "team_id": "SANDBOXTEM", "topic": "test.landed.app"}

# A demo is watched, so what takes minutes in production takes seconds here. The inequalities between times
# still hold: the processes check them at their start, as always.
FASTER = {
    "LANDED_TIMES__SEND_SECONDS": "2",
    "LANDED_RETRY__LADDERS": json.dumps({klass: [1, 2, 4, 8] for klass in ("transactional", "promotional", "alert")}),
    "LANDED_RETRY__RETRY_AFTER_MAX_SECONDS": "2",
    "LANDED_RETRY__UNAUTHORIZED_PAUSE_SECONDS": "2",
    "LANDED_FOLLOW__CONFIRM_AFTER_SECONDS": "4",
    "LANDED_FOLLOW__AMBIGUOUS_FIRST_LOOKUP_SECONDS": "1",
    "LANDED_FOLLOW__LOOKUP_BACKOFF": "1",
    "LANDED_FOLLOW__RECONCILE_EVERY_SECONDS": "1",
    # Longer than any device of the demo takes that says anything at all.
    "LANDED_FOLLOW__CONFIRM_GIVE_UP_SECONDS": "20",
    "LANDED_ENDPOINTS__LADDER": "[1, 2, 4]",
}
# Longer than a call of the demo may take: an absent answer then means that nothing was sent.
FASTER_SETTLE_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where things listen; chosen anew when the usual port is busy."""

    host: str
    api_port: int
    sandbox_port: int
    apns_port: int

    @classmethod
    def choose(cls, settings: Settings, sandbox_port: int) -> Addresses:
        host = settings.api.host
        api_port = ports.available(host, settings.api.port)
        sandbox = ports.available("127.0.0.1", sandbox_port)
        return cls(host, api_port, sandbox, ports.available("127.0.0.1", sandbox + 1))

    @property
    def api(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - compared, not bound
        return f"http://{host}:{self.api_port}"

    @property
    def sandbox(self) -> str:
        return f"http://127.0.0.1:{self.sandbox_port}"


class Service:
    """API, worker and, when no provider is configured, the sandbox: supervised child processes."""

    def __init__(
        self, settings: Settings, dsn: str, at: Addresses, *, faster: bool, died: Callable[[str, int], None]
    ) -> None:
        self.dsn = dsn
        self.at = at
        self.with_sandbox = not settings.vendors
        self._grace = settings.times.shutdown_grace_seconds + GRACE_BEYOND_SECONDS
        self._logs = settings.data_dir.absolute() / "log"
        environment = _environment(settings, dsn, at, faster=faster)
        self._sandbox = [self._child("sandbox", environment, died)] if self.with_sandbox else []
        self._api = self._child("api", environment, died)
        self._worker = self._child("worker", environment, died)

    def _child(self, name: str, environment: dict[str, str], died: Callable[[str, int], None]) -> Supervised:
        arguments = [sys.executable, "-m", "app.cli", name]
        grace = SANDBOX_GRACE_SECONDS if name == "sandbox" else self._grace
        return Supervised(Program(name, arguments, environment, self._logs / f"{name}.log", grace), died)

    async def start(self) -> None:
        """Returns when all of them serve. Raises Refused with the end of the log of the one that does not.

        The sandbox first: it makes the keys that the others read.
        """
        async with httpx.AsyncClient(trust_env=False) as http:
            for child in self._sandbox:
                await child.start()
                await _ready(child, lambda: _answers(http, f"{self.at.sandbox}/health"))
            await self._api.start()
            await self._worker.start()
            await _ready(self._api, lambda: _answers(http, f"{self.at.api}/health/ready"))
        await _ready(self._worker, self._worker_is_alive)

    async def stop(self) -> None:
        """The worker first, so that what it still sends is answered, and its webhooks find an API."""
        for child in (self._worker, self._api, *self._sandbox):
            await child.stop()

    def kill(self) -> None:
        for child in (self._worker, self._api, *self._sandbox):
            child.kill()

    async def _worker_is_alive(self) -> bool:
        process = self._worker.process
        async with connected(self.dsn) as conn:
            return any(row["alive"] and process and row["pid"] == process.pid for row in await operate.workers(conn))


async def _ready(child: Supervised, is_ready: Callable[[], Awaitable[bool]]) -> None:
    give_up_at = time.monotonic() + READY_SECONDS_MAX
    while not await is_ready():
        if child.deaths >= DEATHS_MAX or time.monotonic() > give_up_at:
            program = child.program
            raise Refused(f"{program.name} does not come up; {program.log} ends with:\n{program.tail()}")
        await asyncio.sleep(LOOK_SECONDS)


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _environment(settings: Settings, dsn: str, at: Addresses, *, faster: bool) -> dict[str, str]:
    """What the child processes are told: our own environment, and over it what was decided here."""
    given = {
        "LANDED_DATABASE_URL": dsn,
        "LANDED_DATA_DIR": str(settings.data_dir.absolute()),
        "LANDED_API__PORT": str(at.api_port),
        "LANDED_API__PUBLIC_URL": settings.api.public_url or at.api,
    }
    if not settings.vendors:
        given |= _sandbox_environment(settings, at, faster=faster)
    return {**(FASTER if faster else {}), **os.environ, **given}


def _sandbox_environment(settings: Settings, at: Addresses, *, faster: bool) -> dict[str, str]:
    """The sandbox, and an account of ours for each channel of it."""
    ledger = settings.data_dir.absolute() / "sandbox-ledger.jsonl"
    return {
        "LANDED_PROVIDERS": json.dumps(_accounts(at, ledger, faster=faster)),
        "LANDED_ROUTES": json.dumps(ROUTES),
        "LANDED_ENDPOINTS__ALLOW_LOOPBACK": "true",
        "LANDED_SANDBOX_PORT": str(at.sandbox_port),
        "LANDED_SANDBOX_APNS_PORT": str(at.apns_port),
        "LANDED_SANDBOX_WEBHOOK_BASE_URL": f"{at.api}/api/v1/webhooks",
        "LANDED_SANDBOX_LEDGER": str(ledger),
        "LANDED_SANDBOX_SPEED": str(SANDBOX_SPEED if faster else 1),
        **{f"LANDED_SANDBOX_{name}": value for name, value in MAILGUN_KEYS.items()},
    }


def _accounts(at: Addresses, ledger: Path, *, faster: bool) -> dict[str, dict[str, object]]:
    keys = ledger.with_suffix(".keys")
    settle = {"lookup_settle_seconds": FASTER_SETTLE_SECONDS} if faster else {}
    return {
        "mailgun": {
            "adapter": "mailgun",
            "domain": MAILGUN_KEYS["DOMAIN"],
            "api_key": MAILGUN_KEYS["API_KEY"],
            "webhook_signing_key": MAILGUN_KEYS["SIGNING_KEY"],
            "base_url": at.sandbox,
            **settle,
        },
        "twilio": {"adapter": "twilio", **TWILIO, "base_url": at.sandbox, **settle},
        "down": {"adapter": "twilio", **TWILIO, "base_url": NOBODY, **settle},
        "sinch": {"adapter": "sinch", **SINCH, "base_url": at.sandbox, **settle},
        "apns": {
            "adapter": "apns",
            **APNS,
            "key_file": str(keys / "apns.p8"),
            "base_url": f"https://127.0.0.1:{at.apns_port}",
            "trust": str(ledger.with_suffix(".tls") / "ca.pem"),
        },
        "fcm": {
            "adapter": "fcm",
            "service_account_file": str(keys / "fcm-service-account.json"),
            "base_url": at.sandbox,
        },
        "web_push": {
            "adapter": "web-push",
            "private_key_file": str(keys / "vapid.pem"),
            "subject": "mailto:ops@sandbox.landed.test",
            "allow_loopback": True,
        },
    }


@contextlib.contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """One service on a data directory: two would share its ledger and its logs. The lock dies with us."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"a service runs on {data_dir.absolute()} already; LANDED_DATA_DIR chooses another") from None
        yield


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """Whatever happens inside, nothing of it is left running."""
    try:
        yield
    finally:
        await service.stop()
