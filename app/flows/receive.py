"""receive: a provider's webhook, verified on its raw bytes and stored once. Applying it is the worker's work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
import structlog

from app.crash import Step, crash_point
from app.db import Connection, Database
from app.domain.models import Evidence
from app.errors import NotFound, Unavailable, WebhookRefused
from app.providers.accounts import ProviderSet
from app.store import inbound as store

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ReceiveResult:
    """status: what the provider is answered. 2xx only once the event is durably stored."""

    status: int
    detail: str
    stored: int = 0


async def receive(
    db: Database,
    providers: ProviderSet,
    *,
    provider: str,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
    evidence_window_seconds: float,
) -> ReceiveResult:
    """Verifies, stores, answers. A refusal changes nothing but its counter.

    Raises NotFound for a provider that is not configured, Unavailable when nothing could be stored (the provider
    will come again).
    """
    try:
        adapter = providers.get(provider)
    except KeyError:
        raise NotFound(f"no provider {provider!r} is configured") from None
    try:
        adapter.verify(headers, body, now)
        evidence = adapter.parse(body)
        _refuse_implausible(evidence, now, evidence_window_seconds)
        async with db.transaction(durable=True) as conn:
            if token := adapter.replay_token(body):
                await _refuse_replay(conn, provider, token, evidence)
            stored = await store.store_events(conn, provider=provider, source="provider", evidence=evidence, raw=body)
        crash_point(Step.AFTER_WEBHOOK_STORED)
    except WebhookRefused as refused:
        await _count(db, provider, refused)
        return ReceiveResult(refused.http_status, refused.detail)
    return ReceiveResult(200, "stored" if stored else "known", stored)


def _refuse_implausible(evidence: Sequence[Evidence], now: datetime, window_seconds: float) -> None:
    """Events have partitions for the window in which they still mean something; the rest is refused for good."""
    for item in evidence:
        age = (now - item.occurred_at).total_seconds()
        if age > window_seconds or age < -86400:
            raise WebhookRefused("the event's own time is too far away", reason="stale", status=406)


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
