"""The inbox as server-sent events (WHATWG HTML, 9.2), told to one client for as long as its token is good."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import msgspec
import structlog
from litestar import Request
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from app.api.recipient_auth import RecipientCaller, recipient_of
from app.api.state import ApiState
from app.errors import Forbidden, Unauthenticated, Unavailable
from app.flows.inbox import Follower, News
from app.store.inbox import Inbox

log = structlog.get_logger()

STALLED_SECONDS = 30.0  # a client that takes nothing for so long is let go: it comes back and reads on
ASK_AGAIN_SECONDS = 1.0  # while the database cannot be asked
RETRY_MS = (1000, 5000)  # how long a client waits before it comes back: spread, so that not all do at once
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}  # nginx would hold events back
HEARTBEAT = b":\n\n"

_json = msgspec.json.Encoder()


class EventStream(ASGIResponse):
    """The answer of the handler. after: the version the client is at; None: wherever the inbox is now."""

    _should_set_content_length = False

    def __init__(self, api: ApiState, request: Request[Any, Any, Any], after: int | None) -> None:
        super().__init__(media_type="text/event-stream", headers=HEADERS)
        self._api, self._request, self._after = api, request, after
        self._recipient: RecipientCaller = request.user
        self._checked_at = monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Unavailable or TooManyRequests, before anything is sent, when there is no place to listen from."""
        inbox = Inbox(self._recipient.tenant_id, self._recipient.recipient_id)
        with self._api.inbox.following(inbox, self._after) as follower:
            await self.start_response(send)
            async with asyncio.TaskGroup() as tasks:
                gone = tasks.create_task(_until_gone(receive))
                telling = tasks.create_task(self._tell(follower, send))
                gone.add_done_callback(lambda _: telling.cancel())
                telling.add_done_callback(lambda _: gone.cancel())

    async def _tell(self, follower: Follower, send: Send) -> None:
        """Whatever is new, as soon as it is, page by page; a heartbeat where nothing is; at the end, why it ends."""
        told = -1
        try:
            await _write(send, b"retry: %d\n\n" % random.randint(*RETRY_MS))  # noqa: S311 - no secret
            while (why := await self._why_end()) is None:
                if not await follower.stirring(self._seconds_to_wait()):
                    await _write(send, HEARTBEAT)
                    continue
                try:
                    news = await follower.news()
                except Unavailable:
                    await asyncio.sleep(ASK_AGAIN_SECONDS)
                    follower.stir()
                    continue
                if news.version != told:
                    await _write(send, b"".join(_events(news)))
                    told = news.version
                if news.more:
                    follower.stir()
            await _write(send, _event("end", {"reason": why}), more=False)
        except TimeoutError:
            log.info("inbox_stream_stalled", tenant_id=self._recipient.tenant_id)

    async def _why_end(self) -> str | None:
        """Why nothing more is told. What let the client in is asked for again now and then: a secret may have been
        replaced, a key revoked."""
        if self._api.inbox.closing:
            return "closing"
        expires_at = self._recipient.expires_at
        if expires_at is not None and expires_at <= datetime.now(UTC):
            return "token_expired"
        if monotonic() - self._checked_at >= self._api.settings.inbox.heartbeat_seconds:
            try:
                await recipient_of(self._request, self._api, or_key="read", in_query=True)
            except (Unauthenticated, Forbidden):
                return "token_refused"
            except Unavailable:
                return None
            self._checked_at = monotonic()
        return None

    def _seconds_to_wait(self) -> float:
        heartbeat, expires_at = self._api.settings.inbox.heartbeat_seconds, self._recipient.expires_at
        if expires_at is None:
            return heartbeat
        return max(0.0, min(heartbeat, (expires_at - datetime.now(UTC)).total_seconds()))


def _events(news: News) -> Iterator[bytes]:
    """An id is the version that the client is at once it has the event, so it is set only by what completes one."""
    if news.reset:
        yield _event("reset", {"version": news.version}, news.version)
    for item in news.items:
        yield _event("item", item, item.version)
    if not news.more:
        yield _event("counts", news.counts, news.version)


def _event(name: str, data: object, id: int | None = None) -> bytes:
    place = b"" if id is None else b"id: %d\n" % id
    return b"%sevent: %s\ndata: %s\n\n" % (place, name.encode(), _json.encode(data))


async def _write(send: Send, body: bytes, *, more: bool = True) -> None:
    """Waits until the client has taken what came before: nothing piles up here. Raises TimeoutError."""
    async with asyncio.timeout(STALLED_SECONDS):
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
