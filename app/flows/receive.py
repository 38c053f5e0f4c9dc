"""receive: a provider's webhook, verified on its raw bytes and stored once. Applying it is the worker's work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import httpx
import psycopg
import structlog

from app.crash import Step, crash_point
from app.db import Connection, Database
from app.domain.models import Evidence
from app.errors import NotFound, Unavailable, WebhookRefused
from app.providers.accounts import ProviderSet
from app.providers.base import AnyProvider, ProviderRequest, WebhookAnswer, WebhookRequest
from app.store import inbound as store

log = structlog.get_logger()


KEY_SECONDS_MAX = 5.0  # a provider waits about 15 s for our answer
KEY_BYTES_MAX = 64 * 1024
KEYS_KEPT_MAX = 100
CONFIRM_SECONDS_MAX = 10.0
DAY_SECONDS = 86_400.0  # how far ahead of ours a provider's clock may run, time zones mistaken for UTC included


@dataclass(frozen=True, slots=True)
class ReceiveResult:
    """status: what the provider is answered. 2xx only once the event is durably stored."""

    status: int
    detail: str
    stored: int = 0
    answer: WebhookAnswer | None = None


class Receiver:
    """Takes in webhooks. A key that had to be fetched is kept by its address: what is there never changes."""

    def __init__(self, db: Database, providers: ProviderSet, *, evidence_window_seconds: float) -> None:
        self._db = db
        self._providers = providers
        self._window_seconds = evidence_window_seconds
        self._keys: dict[str, bytes] = {}

    async def receive(self, provider: str, request: WebhookRequest) -> ReceiveResult:
        """Verifies, stores, answers. A refusal changes nothing but its counter.

        Raises NotFound for a provider that is not configured, Unavailable when nothing could be stored (the provider
        will come again).
        """
        try:
            adapter = self._providers.get(provider)
        except KeyError:
            raise NotFound(f"no provider {provider!r} is configured") from None
        now = request.received_at
        try:
            await self._verify(adapter, request)
            evidence = _plausible(adapter.parse(request), now, self._window_seconds)
            confirmation = adapter.confirmation(request)
            if confirmation is not None:
                await _confirm(confirmation, provider)
            async with self._db.transaction(durable=True) as conn:
                if token := adapter.replay_token(request):
                    await _refuse_replay(conn, provider, token, evidence)
                stored = await store.store_events(
                    conn, provider=provider, source="provider", evidence=evidence, raw=request.body
                )
            crash_point(Step.AFTER_WEBHOOK_STORED)
        except WebhookRefused as refused:
            await _count(self._db, provider, refused)
            return ReceiveResult(refused.http_status, refused.detail)
        return ReceiveResult(200, "stored" if stored else "known", stored, adapter.webhook_answer)

    async def _verify(self, adapter: AnyProvider, request: WebhookRequest) -> None:
        """With the key that signs this webhook, where it has to be fetched; the adapter vouches for its address.

        Kept is only what a genuine webhook has shown to be a key, and no error page.
        """
        url = adapter.key_url(request)
        if url is None:
            return adapter.verify(request, request.received_at)
        key = self._keys.get(url) or await _fetch(url)
        adapter.verify(request, request.received_at, key)
        if len(self._keys) >= KEYS_KEPT_MAX:
            self._keys.clear()
        self._keys[url] = key


async def _fetch(url: str) -> bytes:
    """Raises Unavailable: without the key nobody can say whose webhook it is, and the provider comes again."""
    try:
        async with httpx.AsyncClient(timeout=KEY_SECONDS_MAX, follow_redirects=False, trust_env=False) as client:
            response = await client.get(url)
            response.raise_for_status()
    except httpx.HTTPError as error:
        raise Unavailable(f"the key that signs this webhook could not be fetched: {type(error).__name__}") from error
    return response.content[:KEY_BYTES_MAX]


async def _confirm(request: ProviderRequest, provider: str) -> None:
    """Does what a verified webhook asks for, such as confirming a subscription. Raises Unavailable: it asks again."""
    try:
        async with httpx.AsyncClient(timeout=CONFIRM_SECONDS_MAX, follow_redirects=False, trust_env=False) as client:
            response = await client.request(request.method, request.url, headers=dict(request.headers))
            response.raise_for_status()
    except httpx.HTTPError as error:
        raise Unavailable(f"the confirmation was not taken: {type(error).__name__}") from error
    log.info("subscription_confirmed", provider=provider)


def _plausible(evidence: Sequence[Evidence], now: datetime, window_seconds: float) -> list[Evidence]:
    """Events have partitions for the window in which they still mean something. One outside of it is left out where a
    webhook tells many; a webhook with nothing else is refused for good."""
    near = [item for item in evidence if -DAY_SECONDS <= (now - item.occurred_at).total_seconds() <= window_seconds]
    if evidence and not near:
        raise WebhookRefused("the event's own time is too far away", reason="stale", status=406)
    if len(near) < len(evidence):
        log.warning("events_too_far_away", left_out=len(evidence) - len(near))
    return near


async def _refuse_replay(conn: Connection, provider: str, token: str, evidence: Sequence[Evidence]) -> None:
    key = ",".join(item.event_key for item in evidence)
    if await store.seen_token(conn, provider=provider, token=token, event_key=key) != key:
        raise WebhookRefused("this signature was used for another event", reason="replayed", status=406)


async def _count(db: Database, provider: str, refused: WebhookRefused) -> None:
    log.warning("webhook_refused", provider=provider, reason=refused.reason)
    try:
        async with db.transaction() as conn:
            await store.count_refusal(conn, provider=provider, reason=refused.reason, detail=refused.detail)
    except (psycopg.Error, Unavailable):
        log.warning("refusal_not_counted", provider=provider)
