"""The provider sandbox as a real process on a free port, for any test that needs an outside world."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import httpx

START_SECONDS = 30
STOP_SECONDS = 15


# Below what outgoing connections take and what the demo chooses from, above those that Chromium calls unsafe. Each
# process of the tests has a part of its own, and gives no port twice while there are others: between the choice of one
# and its use lies a process's start.
PORTS_EACH = 600
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_first_port = 10_100 + _worker * PORTS_EACH
_places = itertools.count(random.randrange(PORTS_EACH))


def free_port() -> int:
    while True:
        port = _first_port + next(_places) % PORTS_EACH
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], Any], *, seconds: float = 30, what: str = "the condition") -> Any:
    """The condition's first true value; ``seconds`` only bounds a run that is broken."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {seconds} s")
        time.sleep(0.01)
    return value


@dataclass(frozen=True, slots=True)
class Post:
    """A webhook as it came. ``headers`` have lower-case names."""

    path: str
    headers: dict[str, str]
    body: bytes


class Hub(ThreadingHTTPServer):
    """Takes the webhooks of every provider at ``base_url/<provider>``, and keeps them as they came.

    It confirms what SNS asks it to confirm, unless ``confirms`` says otherwise. ``statuses`` are answered first, in
    turn, to whatever is no such question.
    """

    daemon_threads: ClassVar[bool] = True

    def __init__(self, *, confirms: bool = True) -> None:
        self.confirms = confirms
        self.posts: list[Post] = []
        self.statuses: list[int] = []
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.base_url = f"http://127.0.0.1:{self.server_port}/hooks"
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    def of(self, provider: str, *about: str) -> list[Post]:
        """What one provider posted that has these words in it."""
        words = [word.encode() for word in about]
        posts = list(self.posts)
        return [
            post for post in posts if post.path == f"/hooks/{provider}" and all(word in post.body for word in words)
        ]

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asks = headers.get("x-amz-sns-message-type") == "SubscriptionConfirmation"
        if asks and self.server.confirms:
            httpx.get(json.loads(body)["SubscribeURL"]).raise_for_status()
        self.server.posts.append(Post(self.path, headers, body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses and not asks else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _option(name: str, value: object) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag}={value}"


class SandboxProcess:
    """``python -m app.sandbox``, started by ``with`` (or ``async with``) and stopped at its end.

    It can be killed and started again over the same ledger and port. ``speed`` divides every scripted delay.
    """

    domain = "sandbox.landed.test"
    api_key = "key-of-the-sandbox-under-test"
    signing_key = "signing-key-of-the-sandbox-under-test"

    def __init__(
        self,
        ledger_path: Path,
        *,
        webhook_url: str | None = None,
        speed: float = 200,
        port: int | None = None,
        **options: object,
    ) -> None:
        """``options`` are further command line options, such as ``hold_seconds=1``."""
        self.ledger_path = ledger_path
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = httpx.Client(base_url=f"{self.url}/v3/{self.domain}", auth=("api", self.api_key), timeout=30)
        self._control = httpx.Client(base_url=f"{self.url}/sandbox", timeout=30)
        self._settings = {
            "port": self.port,
            "domain": self.domain,
            "api_key": self.api_key,
            "signing_key": self.signing_key,
            "ledger": ledger_path,
            "speed": speed,
            **({"webhook_url": webhook_url} if webhook_url else {}),
            **options,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def ca_path(self) -> Path:
        """The bundle to trust for what the sandbox serves over TLS."""
        return self.ledger_path.with_suffix(".tls") / "ca.pem"

    @property
    def output_path(self) -> Path:
        """Everything the process printed."""
        return self.ledger_path.with_suffix(".out")

    def start(self) -> Self:
        arguments = [_option(name, value) for name, value in self._settings.items()]
        self.ledger_path.parent.mkdir(parents=True, exist_ok=True)
        with self.output_path.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.sandbox", *arguments],
                cwd=Path(__file__).parent.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._is_up, seconds=START_SECONDS, what="the sandbox's start")
        return self

    def stop(self) -> None:
        """Stop it the polite way. Does nothing when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop it as a crash would."""
        self._end(signal.SIGKILL)

    def ledger(self, **filters: object) -> list[dict[str, Any]]:
        """Every entry that fits: kind, recipient, message_id, landed_delivery, since."""
        entries: list[dict[str, Any]] = []
        since = filters.pop("since", 0)
        while since is not None:
            page = self._control.get("/ledger", params={**filters, "since": since, "limit": 10_000})  # type: ignore[dict-item]
            page.raise_for_status()
            entries += page.json()["entries"]
            since = page.json()["next_since"]
        return entries

    def summary(self) -> dict[str, Any]:
        """How often each delivery was accepted (``deliveries``, ``duplicates``), and what is under way."""
        answer = self._control.get("/ledger/summary")
        answer.raise_for_status()
        summary: dict[str, Any] = answer.json()
        return summary

    def set_fault(self, mode: str, **order: object) -> None:
        """Put a fault in force: see POST /sandbox/faults in docs/sandbox.md."""
        self._control.post("/faults", json={"mode": mode, **order}).raise_for_status()

    def release(self) -> None:
        """Let the calls go that are kept waiting."""
        self._control.post("/release").raise_for_status()

    def clear_mailbox(self) -> None:
        self._control.delete("/mailbox").raise_for_status()

    def wait_until_settled(self, seconds: float = 30) -> dict[str, Any]:
        """Wait for every script to end and every webhook to be settled; the summary of that moment."""

        def settled() -> dict[str, Any] | None:
            summary = self.summary()
            return None if summary["messages_under_way"] or summary["webhooks_owed"] else summary

        summary: dict[str, Any] = wait_until(settled, seconds=seconds, what="the end of every script")
        return summary

    async def settled(self, seconds: float = 30) -> dict[str, Any]:
        """``wait_until_settled`` for a test whose own loop answers the webhooks."""
        return await asyncio.to_thread(self.wait_until_settled, seconds)

    def _is_up(self) -> bool:
        assert self._process is not None
        if (status := self._process.poll()) is not None:
            raise RuntimeError(f"the sandbox ended with {status}: {self.output_path.read_text()}")
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self.api.close()
            self._control.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, exc, trace)
