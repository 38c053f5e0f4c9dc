"""Posts events to their receivers the way each vendor does: signed, a few at a time, and again when refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from app.sandbox.config import SandboxConfig
from app.sandbox.ledger import Kind, Ledger
from app.sandbox.protocol import Outgoing, Posting, Protocol
from app.sandbox.world import WebhookData

#: Most events in one post of a vendor that gathers them.
MAX_BATCH: Final = 500


@dataclass(slots=True)
class Parcel:
    """What goes out in one post: a single event, or the events a vendor gathered.

    later: what follows when this is settled.
    """

    postings: Sequence[Posting]
    later: Sequence[Posting] = ()


class WebhookSender:
    """A queue of parcels and a few workers.

    A posting leaves only when it is settled: taken, dropped at the receiver's word, or given up on.
    """

    def __init__(self, config: SandboxConfig, ledger: Ledger, protocols: Mapping[str, Protocol]) -> None:
        self._config = config
        self._ledger = ledger
        self._protocols = protocols
        self._queue: asyncio.Queue[Parcel] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._gathering: dict[tuple[str, str], list[Posting]] = {}
        self._waiting: dict[str, list[Parcel]] = {}

    def post(self, *postings: Posting) -> None:
        """Post these one after the other, each when the one before is settled."""
        first, *later = postings
        if later or not self._protocols[first.provider].batch_seconds:
            self._queue.put_nowait(Parcel([first], later))
        else:
            self._gather(first)

    def resume(self, provider: str) -> None:
        """Let go what was kept waiting until this provider may post."""
        for parcel in self._waiting.pop(provider, ()):
            self._queue.put_nowait(parcel)

    async def send(self, url: str, outgoing: Outgoing, timeout_seconds: float) -> tuple[int | None, str | None]:
        """One request to a receiver: the status it answered, or why there was none."""
        try:
            async with self._client.request(
                outgoing.method,
                outgoing.url or url,
                data=outgoing.body or None,
                headers=outgoing.headers,
                timeout=aiohttp.ClientTimeout(total=timeout_seconds),
                allow_redirects=False,
            ) as response:
                await response.read()
                return response.status, None
        except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
            return None, type(exc).__name__

    async def start(self) -> None:
        self._client = aiohttp.ClientSession(auto_decompress=False)
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._config.webhooks_in_flight)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._client.close()

    def _gather(self, posting: Posting) -> None:
        key = (posting.provider, posting.url)
        gathered = self._gathering.setdefault(key, [])
        gathered.append(posting)
        if len(gathered) == 1:
            wait = self._config.scaled(self._protocols[posting.provider].batch_seconds)
            asyncio.get_running_loop().call_later(wait, self._flush, key)
        elif len(gathered) == MAX_BATCH:
            self._flush(key)

    def _flush(self, key: tuple[str, str]) -> None:
        if gathered := self._gathering.pop(key, None):
            self._queue.put_nowait(Parcel(gathered))

    async def _work(self) -> None:
        while True:
            await self._try(await self._queue.get())

    async def _try(self, parcel: Parcel) -> None:
        first = parcel.postings[0]
        protocol = self._protocols[first.provider]
        if not protocol.may_post(first):
            self._waiting.setdefault(first.provider, []).append(parcel)
            return
        outgoing = protocol.outgoing(parcel.postings)
        status, note = await self.send(first.url, outgoing, protocol.webhook_timeout_seconds)
        wait = self._wait_before_retry(protocol, first, status)
        for posting in parcel.postings:
            posting.tries += 1
            self._record(posting, status, note, settled=wait is None)
        if wait is not None:
            asyncio.get_running_loop().call_later(wait, self._queue.put_nowait, parcel)
        elif parcel.later:
            self._queue.put_nowait(Parcel(parcel.later[:1], parcel.later[1:]))

    def _wait_before_retry(self, protocol: Protocol, posting: Posting, status: int | None) -> float | None:
        """Seconds until the next try, or None when there is none."""
        waits = protocol.waits(posting)
        if protocol.settles(posting, status) or posting.forgery or posting.tries >= len(waits):
            return None
        return self._config.scaled(waits[posting.tries])

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
