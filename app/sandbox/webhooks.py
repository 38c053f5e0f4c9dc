"""Posts events to the receiver the way Mailgun does: signed, a few at a time, and again when refused."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import aiohttp
import msgspec

from app.sandbox.config import SandboxConfig
from app.sandbox.ledger import About, Kind, Ledger
from app.sandbox.world import WebhookData

#: Mailgun waits 5, 10 and 15 minutes, then 1, 2 and 4 hours between tries of one webhook.
RETRY_SECONDS: Final = (300, 600, 900, 3600, 7200, 14400)
#: Mailgun does not try this one again: a receiver that misses it must ask the Events API.
NEVER_RETRIED: Final = frozenset({"delivered"})
#: Mailgun gives a receiver this long to answer.
TIMEOUT_SECONDS: Final = 15.0
#: Older than any retry Mailgun could make (8 hours), so no receiver should believe it.
STALE_SECONDS: Final = 2 * 86_400


class Signature(msgspec.Struct, frozen=True):
    """The ``signature`` object of a webhook; ``timestamp`` is Unix seconds as a string."""

    timestamp: str
    token: str
    signature: str


class Forgery(StrEnum):
    """Ways in which a post is not what it claims to be."""

    REPLAYED = "replayed"
    BAD_SIGNATURE = "bad_signature"
    STALE = "stale"


@dataclass(slots=True)
class Posting:
    """One event to be posted once, with as many tries as that takes.

    replays: the genuine posting whose signature a replayed forgery steals.
    """

    event_id: str
    event: str
    message: str
    about: About
    payload: msgspec.Raw
    forgery: Forgery | None = None
    replays: Posting | None = None
    tries: int = 0
    signature: Signature | None = None


def sign(key: str, *, timestamp: int, token: str) -> Signature:
    """HMAC-SHA256 over timestamp and token, as Mailgun's "Securing webhooks" prescribes."""
    digest = hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()
    return Signature(str(timestamp), token, digest)


class WebhookSender:
    """A queue of postings and a few workers.

    A posting leaves only when it is settled: taken, dropped at the receiver's word, or given up on.
    """

    def __init__(self, config: SandboxConfig, ledger: Ledger) -> None:
        self._config = config
        self._url = config.webhook_url or ""
        self._ledger = ledger
        self._queue: asyncio.Queue[Sequence[Posting]] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_on(self) -> bool:
        """Whether there is anywhere to post to."""
        return bool(self._url)

    def post(self, *postings: Posting) -> None:
        """Post these one after the other, each when the one before is settled."""
        self._queue.put_nowait(postings)

    async def start(self) -> None:
        self._client = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            headers={"User-Agent": "mailgun/treq-22.4.0", "Content-Type": "application/json"},
            auto_decompress=False,
        )
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._config.webhooks_in_flight)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._client.close()

    async def _work(self) -> None:
        while True:
            await self._try_first(await self._queue.get())

    async def _try_first(self, postings: Sequence[Posting]) -> None:
        posting, *rest = postings
        posting.signature = self._sign(posting)
        status, note = await self._send(posting)
        wait = self._wait_before_retry(posting, status)
        posting.tries += 1
        self._record(posting, status, note, settled=wait is None)
        if wait is not None:
            asyncio.get_running_loop().call_later(wait, self._queue.put_nowait, postings)
        elif rest:
            self._queue.put_nowait(rest)

    async def _send(self, posting: Posting) -> tuple[int | None, str | None]:
        body = msgspec.json.encode({"signature": posting.signature, "event-data": posting.payload})
        try:
            async with self._client.post(self._url, data=body, allow_redirects=False) as response:
                await response.read()
                return response.status, None
        except (aiohttp.ClientError, TimeoutError) as exc:
            return None, type(exc).__name__

    def _wait_before_retry(self, posting: Posting, status: int | None) -> float | None:
        """Seconds until the next try, or None when there is none: 200 is done, 406 says not to come back."""
        if status in (200, 406) or posting.forgery or posting.event in NEVER_RETRIED:
            return None
        if posting.tries >= len(RETRY_SECONDS):
            return None
        return self._config.scaled(RETRY_SECONDS[posting.tries])

    def _record(self, posting: Posting, status: int | None, note: str | None, *, settled: bool) -> None:
        self._ledger.append(
            Kind.WEBHOOK,
            about=posting.about,
            status=status,
            note=note,
            data=WebhookData(
                event_id=posting.event_id,
                message=posting.message,
                event=posting.event,
                attempt=posting.tries,
                settled=settled,
                forgery=posting.forgery,
            ),
        )

    def _sign(self, posting: Posting) -> Signature:
        if posting.replays and posting.replays.signature:
            return posting.replays.signature
        key, now, token = self._config.signing_key, int(time.time()), secrets.token_hex(25)
        match posting.forgery:
            case Forgery.BAD_SIGNATURE:
                return sign("not the signing key", timestamp=now, token=token)
            case Forgery.STALE:
                return sign(key, timestamp=now - STALE_SECONDS, token=token)
            case _:
                return sign(key, timestamp=now, token=token)
