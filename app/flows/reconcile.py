"""reconcile: whatever is past its time is asked about at the provider, never waited for (R-106, R-107).

It closes webhook gaps and resolves ambiguous attempts. What no evidence can settle ends as ``unconfirmed``, a named
end that is counted and that late evidence may still correct. No transaction is open while a provider is asked (I14).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import httpx
import psycopg
import structlog

from app.db import Database
from app.domain.backoff import next_lookup
from app.domain.models import DeliveryState, Evidence, EvidenceKind
from app.errors import NotFound, TemplateRenderError
from app.flows.reproduce import reproduce
from app.providers.accounts import ProviderSet
from app.providers.base import (
    AnyProvider,
    AttemptRef,
    Lookup,
    LookupVerdict,
    ProviderRequest,
    ProviderResponse,
)
from app.rendering.pool import RenderPool
from app.settings import Settings
from app.store import inbound
from app.store import reconcile as store
from app.store.reconcile import Resolution, Unproven

log = structlog.get_logger()

LOOKUPS_AT_ONCE = 10  # providers limit their query APIs far more tightly than sending
LOOKUP_TIMEOUT_SECONDS = 10.0
ROUND_SECONDS_MAX = 20.0  # two calls that hang, one after the other; what was not asked by then is asked later
CLAIM_SECONDS = 30.0  # nobody else asks meanwhile; what a round that died with its worker had taken waits so long
PAGES_MAX = 10
RESPONSE_BYTES_MAX = 4 * 1024 * 1024
AMBIGUOUS = DeliveryState.AMBIGUOUS.value
UNASKABLE = frozenset({LookupVerdict.UNANSWERABLE, LookupVerdict.REPEATABLE, LookupVerdict.NEVER_LEFT})
SETTLING = frozenset({EvidenceKind.DELIVERED, EvidenceKind.BOUNCED, EvidenceKind.FAILED})


@dataclass(frozen=True, slots=True)
class Reconciled:
    leases_expired: int
    asked: int
    evidence: int


class Clock:
    """The database's time, by which attempts were opened: how old one is must not depend on a worker's wall clock, for
    absence proves only with age that nothing was sent (I5)."""

    def __init__(self, at: datetime) -> None:
        self._at, self._read = at, time.monotonic()

    def now(self) -> datetime:
        return self._at + timedelta(seconds=time.monotonic() - self._read)


async def reconcile(
    db: Database, providers: ProviderSet, settings: Settings, *, limit: int, renderer: RenderPool | None = None
) -> Reconciled:
    """One round: lapsed leases become ambiguous, then up to ``limit`` overdue deliveries are asked about.

    renderer: makes the words again of an attempt that was never recorded, for providers that find by content.
    """
    async with db.transaction() as conn:
        expired = await store.expire_leases(
            conn, limit=limit, first_lookup_seconds=settings.follow.ambiguous_first_lookup_seconds
        )
    async with db.transaction() as conn:
        unproven = await store.claim_unproven(conn, limit=limit, lease_seconds=CLAIM_SECONDS)
    if not unproven:
        return Reconciled(expired, 0, 0)
    clock = Clock(unproven[0].claimed_at)
    if renderer is not None:
        unproven = [await _worded(db, renderer, providers, item) for item in unproven]
    answers = await _ask_all(providers, unproven, clock)
    answers = await _less_what_is_anothers(db, answers)
    evidence = 0
    for item, lookup in answers:
        evidence += await _store_evidence(db, item, lookup, settings, clock.now())
    await _decide_all(db, settings, answers, clock.now())
    return Reconciled(expired, len(unproven), evidence)


# Asking -----------------------------------------------------------------------------------------------------------


async def _ask_all(providers: ProviderSet, unproven: Sequence[Unproven], clock: Clock) -> list[tuple[Unproven, Lookup]]:
    """Each account has room and connections of its own: one that hangs keeps nobody else from being asked."""
    deadline = asyncio.get_running_loop().time() + ROUND_SECONDS_MAX
    by_account: defaultdict[str, list[Unproven]] = defaultdict(list)
    for item in unproven:
        by_account[item.provider].append(item)

    async def ask_one_account(items: Sequence[Unproven]) -> list[tuple[Unproven, Lookup]]:
        room = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        async with httpx.AsyncClient(timeout=LOOKUP_TIMEOUT_SECONDS, follow_redirects=False, trust_env=False) as client:

            async def ask(item: Unproven) -> tuple[Unproven, Lookup]:
                try:
                    async with asyncio.timeout_at(deadline):
                        await room.acquire()
                except TimeoutError:
                    return item, Lookup(LookupVerdict.UNAVAILABLE, detail="no answer in time")
                try:
                    return item, await _ask(client, providers, item, deadline, clock)
                finally:
                    room.release()

            return await asyncio.gather(*map(ask, items))

    answers = await asyncio.gather(*map(ask_one_account, by_account.values()))
    return [answer for part in answers for answer in part]


async def _ask(
    client: httpx.AsyncClient, providers: ProviderSet, item: Unproven, deadline: float, clock: Clock
) -> Lookup:
    try:
        provider = providers.get(item.provider)
    except KeyError:
        return Lookup(LookupVerdict.UNAVAILABLE, detail=f"provider {item.provider} is not configured")
    if not provider.capabilities.can_look_up:
        return _without_asking(provider)
    attempt = AttemptRef(
        item.id, item.attempt_no, item.opened_at, item.address, item.provider_message_id, item.content_hash
    )
    try:
        return await _read_pages(client, provider, attempt, deadline, clock)
    except TimeoutError:
        return Lookup(LookupVerdict.UNAVAILABLE, detail="no answer in time")
    except httpx.HTTPError as error:
        return Lookup(LookupVerdict.UNAVAILABLE, detail=type(error).__name__)
    except Exception as error:  # one answer that trips us up must not keep the others from being asked about
        log.exception("lookup_failed", delivery_id=str(item.id), error=type(error).__name__)
        return Lookup(LookupVerdict.UNAVAILABLE, detail=type(error).__name__)


async def _worded(db: Database, renderer: RenderPool, providers: ProviderSet, item: Unproven) -> Unproven:
    """With the hash of what it says, where that is what its provider would find it by: templates and variables are
    kept, so the same words come out again."""
    if item.content_hash is not None or not _finds_by_content(providers, item.provider):
        return item
    try:
        async with db.transaction() as conn:
            made_again = await reproduce(conn, renderer, item.id)
    except (NotFound, TemplateRenderError, psycopg.errors.NoDataFound):
        return item
    return replace(item, content_hash=made_again.content.content_hash)


def _finds_by_content(providers: ProviderSet, account: str) -> bool:
    try:
        return providers.get(account).capabilities.finds_by_content
    except KeyError:
        return False


def _without_asking(provider: AnyProvider) -> Lookup:
    """What can be said of an attempt at a provider that cannot be asked."""
    if provider.capabilities.transport == "local":
        return Lookup(LookupVerdict.NEVER_LEFT, detail="what was not recorded was not kept")
    if provider.capabilities.resend_is_safe:
        return Lookup(LookupVerdict.REPEATABLE, detail="the receiver drops copies by their id")
    return Lookup(LookupVerdict.UNANSWERABLE, detail="this provider cannot be asked")


async def _read_pages(
    client: httpx.AsyncClient, provider: AnyProvider, attempt: AttemptRef, deadline: float, clock: Clock
) -> Lookup:
    """Asks, page after page, until the provider has said all it knows. What one page showed stands, whatever becomes of
    the next."""

    async def read(request: ProviderRequest) -> Lookup:
        async with asyncio.timeout_at(deadline):
            return await _read_page(client, provider, attempt, request, clock)

    lookup = await read(provider.build_lookup(attempt, clock.now()))
    evidence = [*lookup.evidence]
    try:
        for _ in range(PAGES_MAX - 1):
            if lookup.next_request is None:
                break
            lookup = await read(lookup.next_request)
            evidence += lookup.evidence
    except Exception as error:
        if not evidence:
            raise
        log.warning("lookup_cut_short", delivery_id=str(attempt.delivery_id), error=type(error).__name__)
    return Lookup(LookupVerdict.FOUND, evidence) if evidence else lookup


async def _read_page(
    client: httpx.AsyncClient, provider: AnyProvider, attempt: AttemptRef, request: ProviderRequest, clock: Clock
) -> Lookup:
    response = await client.request(
        request.method, request.url, headers=dict(request.headers), content=request.body or None
    )
    return provider.interpret_lookup(
        attempt,
        ProviderResponse(
            response.status_code,
            {key.lower(): value for key, value in response.headers.items()},
            response.content[:RESPONSE_BYTES_MAX],
        ),
        clock.now(),
    )


async def _less_what_is_anothers(
    db: Database, answers: Sequence[tuple[Unproven, Lookup]]
) -> list[tuple[Unproven, Lookup]]:
    """A provider that keeps no id of ours finds a message by what it says: the same words to the same number may be
    another delivery's, and then its message id is known to us already."""
    ids = {
        (i.provider, e.provider_message_id) for i, lookup in answers for e in lookup.evidence if e.provider_message_id
    }
    if not ids:
        return list(answers)
    async with db.transaction() as conn:
        owners = await inbound.match_message_ids(conn, [(p, m) for p, m in ids if m is not None])

    def is_its_own(item: Unproven, evidence: Evidence) -> bool:
        owner = owners.get((item.provider, evidence.provider_message_id or ""))
        return owner is None or owner == (item.id, item.attempt_no)

    kept = []
    for item, lookup in answers:
        own = [evidence for evidence in lookup.evidence if is_its_own(item, evidence)]
        if lookup.evidence and not own:
            lookup = Lookup(LookupVerdict.UNANSWERABLE, detail="what was found is another delivery's")
        kept.append((item, replace(lookup, evidence=own)))
    return kept


# Deciding ---------------------------------------------------------------------------------------------------------


async def _store_evidence(db: Database, item: Unproven, lookup: Lookup, settings: Settings, now: datetime) -> int:
    """What the provider told us when asked takes the same way as what it told us unasked, and counts once (I16)."""
    if not lookup.evidence:
        return 0
    evidence = _dated(lookup.evidence, now, settings.times.evidence_window_seconds)
    async with db.transaction() as conn:
        return await inbound.store_events(conn, provider=item.provider, source="lookup", evidence=evidence, raw=b"")


def _dated(evidence: Sequence[Evidence], now: datetime, window_seconds: float) -> list[Evidence]:
    """Events have partitions for the window in which they mean something. What was told of our own attempt is true
    whenever the provider says it was: a time outside becomes the nearest one inside."""
    oldest = now - timedelta(seconds=window_seconds)
    return [replace(item, occurred_at=max(oldest, min(item.occurred_at, now))) for item in evidence]


async def _decide_all(
    db: Database, settings: Settings, answers: Sequence[tuple[Unproven, Lookup]], now: datetime
) -> None:
    later: list[tuple[Unproven, datetime, bool]] = []
    over: list[Resolution] = []
    given_up: list[Resolution] = []
    for item, lookup in answers:
        match _decide(item, lookup, settings, now):
            case Resolution(state=DeliveryState.UNCONFIRMED) as end:
                given_up.append(end)
            case Resolution() as resolution:
                over.append(resolution)
            case None:
                answered = lookup.verdict != LookupVerdict.UNAVAILABLE
                later.append((item, _ask_next(item, lookup, settings, now), answered))
    if not answers:
        return
    async with db.transaction() as conn:
        await store.lock(conn, [item for item, _ in answers])
        if later:
            await store.ask_again(conn, [i for i, _, _ in later], [d for _, d, _ in later], [c for *_, c in later])
        if over:
            await store.close_attempts(conn, over)
        if given_up:
            await store.give_up(conn, given_up)
    for resolution in given_up:
        log.warning("unconfirmed", delivery_id=str(resolution.unproven.id), reason=resolution.reason)


def _decide(item: Unproven, lookup: Lookup, settings: Settings, now: datetime) -> Resolution | None:
    """None: ask again later (evidence that was found is applied by then, and the row has moved)."""
    age = now - item.opened_at
    if item.state == AMBIGUOUS:
        return _decide_ambiguous(item, lookup, settings, now, age)
    if any(evidence.kind in SETTLING for evidence in lookup.evidence):
        return None
    # A question that failed is no answer: it is put again, for as long as we ask about anything.
    answered = lookup.verdict != LookupVerdict.UNAVAILABLE
    patience = settings.follow.confirm_give_up_seconds if answered else settings.times.ambiguous_max_seconds
    if age < timedelta(seconds=patience):
        return None
    # Of a route that cannot be asked, a device's word is all there is: its silence is a named end of its own, no alarm.
    reason = "not_acknowledged" if lookup.verdict in UNASKABLE else "no_evidence"
    return Resolution(item, DeliveryState.UNCONFIRMED, reason, None, lookup.detail or lookup.verdict)


def _decide_ambiguous(
    item: Unproven, lookup: Lookup, settings: Settings, now: datetime, age: timedelta
) -> Resolution | None:
    undecidable = lookup.verdict == LookupVerdict.UNANSWERABLE or age >= timedelta(
        seconds=settings.times.ambiguous_max_seconds
    )
    match lookup.verdict, item.ambiguity_policy:
        case LookupVerdict.FOUND, _:
            return None
        case LookupVerdict.NEVER_LEFT, _:
            return _retry(item, settings, now, lookup.detail)
        case LookupVerdict.REPEATABLE, _:
            return _retry(item, settings, now, lookup.detail, unanswered=True)
        case LookupVerdict.NOT_SENT, "resend_if_absent" | "at_least_once":
            return _retry(item, settings, now, lookup.detail or "the provider has no trace of it")
        case _, "at_least_once" if undecidable:
            return _retry(item, settings, now, "undecidable; the category is sent at least once", unanswered=True)
        case _ if undecidable:
            return Resolution(
                item, DeliveryState.UNCONFIRMED, "ambiguous_unresolved", None, lookup.detail or lookup.verdict
            )
        case _:
            return None


def _retry(item: Unproven, settings: Settings, now: datetime, detail: str, *, unanswered: bool = False) -> Resolution:
    """It never went out, or may go out again: on to the next rung of the ladder, or to the end of it."""
    ladder = settings.ladder(item.channel, item.klass)
    if item.expires_at <= now:
        return Resolution(item, DeliveryState.EXPIRED, "expired", None, detail, unanswered)
    if item.failures >= len(ladder):
        return Resolution(item, DeliveryState.DEAD, "retries_exhausted", None, detail, unanswered)
    # The look-up took at least as long as the first rungs of the ladder: the wait is over already.
    jitter = ladder[0] * settings.retry.jitter * random.random()  # noqa: S311 - spreads retries, guards nothing
    return Resolution(item, DeliveryState.QUEUED, "retry", now + timedelta(seconds=jitter), detail, unanswered)


def _ask_next(item: Unproven, lookup: Lookup, settings: Settings, now: datetime) -> datetime:
    follow = settings.follow
    if item.state != AMBIGUOUS and lookup.verdict in UNASKABLE:
        # Nothing would be different before we give up.
        return max(now, item.opened_at + timedelta(seconds=follow.confirm_give_up_seconds))
    first = follow.ambiguous_first_lookup_seconds if item.state == AMBIGUOUS else follow.confirm_after_seconds
    return next_lookup(
        lookups=item.lookups,
        first_seconds=first,
        backoff=follow.lookup_backoff,
        interval_max_seconds=follow.lookup_interval_max_seconds,
        now=now,
    )
