"""apply: stored provider events become evidence, evidence becomes state, in whatever order it arrives (I16).

One batch, one transaction. The order of locks is the order of the steps: deliveries, attempts, then addresses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import psycopg
import structlog

from app.db import Connection, Database
from app.domain.lifecycle import Standing, join_all
from app.domain.models import BounceClass, Channel, DeliveryState, Evidence, EvidenceKind
from app.settings import Settings
from app.store import inbound as store

log = structlog.get_logger()

_json = msgspec.json.Encoder()

DEVICE = "device"  # the source of what a device says with the token its message carried
CONSENTS = frozenset({EvidenceKind.OPTED_OUT, EvidenceKind.OPTED_IN})
CONSENT_CHANNEL = Channel.SMS  # the only channel on which people answer with keywords


@dataclass(frozen=True, slots=True)
class Fact:
    """A pending event with the delivery and attempt it speaks of."""

    pending: store.Pending
    evidence: Evidence
    delivery_id: UUID
    attempt_no: int


async def apply(db: Database, settings: Settings, *, limit: int) -> int:
    """Applies up to ``limit`` pending events. Answers how many were taken up.

    One that the database refuses stops none of the others, opt-outs least of all: fewer are tried until it is alone,
    and then it is kept by name.
    """
    try:
        async with db.transaction() as conn:
            pending = await store.claim_pending(conn, limit=limit)
            if len(pending) == 1:
                await _apply_alone(conn, pending[0], settings)
            elif pending:
                await _apply_all(conn, pending, settings)
    except (psycopg.DataError, psycopg.IntegrityError):
        if limit == 1:
            raise
        return await apply(db, settings, limit=limit // 2)
    return len(pending)


async def _apply_alone(conn: Connection, pending: store.Pending, settings: Settings) -> None:
    try:
        async with conn.transaction():
            await _apply_all(conn, [pending], settings)
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        name = type(error).__name__
        log.error("event_not_applicable", provider=pending.provider, event_key=pending.event_key, error=name)
        await _settle_as(conn, [(pending, "unmatched", f"cannot be applied: {name}", None)], settings)


async def _apply_all(conn: Connection, pending: Sequence[store.Pending], settings: Settings) -> None:
    everything = [(p, store.decode(p.evidence)) for p in pending]
    consents = [(p, e) for p, e in everything if e.kind in CONSENTS]
    asides = [p for p, e in everything if e.kind not in CONSENTS and _is_aside(e)]
    decoded = [(p, e) for p, e in everything if e.kind not in CONSENTS and not _is_aside(e)]
    named = await _identify(conn, decoded)
    deliveries = sorted({delivery for delivery, _ in named.values()})
    rows = await store.load_standings(conn, deliveries)
    attempts = await store.attempt_providers(conn, deliveries)
    facts, unmatched = _match(decoded, named, attempts)
    if facts:
        await _apply(conn, facts, rows, settings)
    await _mind_addresses(conn, facts, rows, consents, settings)
    await _settle(conn, facts, unmatched, [p for p, _ in consents] + asides, settings)


def _is_aside(evidence: Evidence) -> bool:
    """Genuine, and about no delivery of ours: somebody's answer to a text message, say."""
    return evidence.delivery_id is None and evidence.provider_message_id is None and evidence.kind == EvidenceKind.OTHER


async def _identify(
    conn: Connection, decoded: Sequence[tuple[store.Pending, Evidence]]
) -> dict[tuple[str, str], tuple[UUID, int]]:
    """Which delivery and attempt each event speaks of: by our own ids if it carried them, else by message id."""
    named: dict[tuple[str, str], tuple[UUID, int]] = {}
    strangers: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for pending, evidence in decoded:
        key = (pending.provider, pending.event_key)
        if evidence.delivery_id is not None and evidence.attempt_no is not None:
            named[key] = (evidence.delivery_id, evidence.attempt_no)
        elif evidence.provider_message_id:
            strangers[(pending.provider, evidence.provider_message_id)].append(key)
    if strangers:
        for message, (delivery, no) in (await store.match_message_ids(conn, list(strangers))).items():
            for key in strangers[message]:
                named[key] = (delivery, no)
    return named


def _match(
    decoded: Sequence[tuple[store.Pending, Evidence]],
    named: dict[tuple[str, str], tuple[UUID, int]],
    attempts: dict[tuple[UUID, int], str],
) -> tuple[list[Fact], list[store.Pending]]:
    """A fact speaks of an attempt that was made through the very provider that tells of it (I10), or of the one that is
    named by the token its device was given."""
    facts: list[Fact] = []
    unmatched: list[store.Pending] = []
    for pending, evidence in decoded:
        attempt = named.get((pending.provider, pending.event_key))
        made_through = attempts.get(attempt) if attempt is not None else None
        if attempt is not None and _may_tell(pending, made_through):
            facts.append(Fact(pending, evidence, *attempt))
        else:
            unmatched.append(pending)
    return facts, unmatched


def _may_tell(pending: store.Pending, made_through: str | None) -> bool:
    return made_through is not None and (pending.source == DEVICE or made_through == pending.provider)


async def _apply(
    conn: Connection, facts: Sequence[Fact], rows: dict[UUID, store.DeliveryRow], settings: Settings
) -> None:
    proofs = await _append(conn, facts, rows)
    await store.accept_attempts(
        conn,
        [f.delivery_id for f in facts],
        nos=[f.attempt_no for f in facts],
        message_ids=[f.evidence.provider_message_id for f in facts],
        sources=[f.pending.source for f in facts],
    )
    await _move(conn, facts, rows, proofs, settings)


async def _append(
    conn: Connection, facts: Sequence[Fact], rows: dict[UUID, store.DeliveryRow]
) -> dict[tuple[UUID, str], UUID]:
    """Writes the events; answers which event proves what: (delivery, kind) -> event."""
    of = [rows[f.delivery_id] for f in facts]
    appended = await store.append_events(
        conn,
        shards=[r.shard for r in of],
        tenant_ids=[r.tenant_id for r in of],
        notification_ids=[r.notification_id for r in of],
        delivery_ids=[r.id for r in of],
        attempt_nos=[f.attempt_no for f in facts],
        kinds=[f"provider_{f.evidence.kind}" for f in facts],
        sources=[f.pending.source for f in facts],
        occurred_ats=[f.evidence.occurred_at for f in facts],
        datas=[_json.encode(dict(f.evidence.data)).decode() for f in facts],
    )
    earliest = sorted(appended, key=lambda e: (e.occurred_at, e.id), reverse=True)
    return {(event.delivery_id, event.kind): event.id for event in earliest}


async def _move(
    conn: Connection,
    facts: Sequence[Fact],
    rows: dict[UUID, store.DeliveryRow],
    proofs: dict[tuple[UUID, str], UUID],
    settings: Settings,
) -> None:
    evidence: dict[UUID, list[Evidence]] = defaultdict(list)
    for fact in facts:
        evidence[fact.delivery_id].append(fact.evidence)
    moved: list[tuple[UUID, Standing]] = []
    noted: list[tuple[UUID, Standing]] = []
    for delivery_id, its_evidence in sorted(evidence.items()):
        before = _standing(rows[delivery_id])
        after = join_all(before, its_evidence)
        if (after.state, after.reason) != (before.state, before.reason):
            moved.append((delivery_id, after))
        elif after != before:
            noted.append((delivery_id, after))
    if moved:
        confirm_at = datetime.now(UTC) + timedelta(seconds=settings.follow.confirm_after_seconds)
        await store.move_deliveries(
            conn,
            [i for i, _ in moved],
            states=[s.state for _, s in moved],
            reasons=[s.reason for _, s in moved],
            due_ats=[confirm_at if s.state == DeliveryState.SENT else None for _, s in moved],
            evidence_ids=[
                proofs.get((i, "provider_delivered")) if s.state == DeliveryState.DELIVERED else None for i, s in moved
            ],
            occurred_ats=[min(e.occurred_at for e in evidence[i]) for i, _ in moved],
            message_ids=[
                next((e.provider_message_id for e in evidence[i] if e.provider_message_id), None) for i, _ in moved
            ],
            **_moments(moved),
        )
    if noted:
        await store.note_evidence(conn, [i for i, _ in noted], **_moments(noted))


def _standing(row: store.DeliveryRow) -> Standing:
    return Standing(
        state=DeliveryState(row.state),
        reason=row.reason,
        delivered_at=row.delivered_at,
        bounced_at=row.bounced_at,
        opened_at=row.opened_at,
        clicked_at=row.clicked_at,
        complained_at=row.complained_at,
        unsubscribed_at=row.unsubscribed_at,
    )


def _moments(standings: Sequence[tuple[UUID, Standing]]) -> dict[str, list[datetime | None]]:
    return {
        "delivered_ats": [s.delivered_at for _, s in standings],
        "bounced_ats": [s.bounced_at for _, s in standings],
        "opened_ats": [s.opened_at for _, s in standings],
        "clicked_ats": [s.clicked_at for _, s in standings],
        "complained_ats": [s.complained_at for _, s in standings],
        "unsubscribed_ats": [s.unsubscribed_at for _, s in standings],
    }


async def _mind_addresses(
    conn: Connection,
    facts: Sequence[Fact],
    rows: dict[UUID, store.DeliveryRow],
    consents: Sequence[tuple[store.Pending, Evidence]],
    settings: Settings,
) -> None:
    """What was told means for addresses: suppressed at once, counted, or cleared (R-111 to R-115); STOP and START.

    The rows of soft bounces come first; then the locks of all addresses, once, because only within one call are they
    taken in order.
    """
    entries = await _suppressed(conn, facts, rows, settings)
    told = [(p, e) for p, e in consents if e.address]
    if told:
        await store.share_tenants(conn)
    if entries or told:
        everywhere = [(CONSENT_CHANNEL, e.address or "") for _, e in told]
        await store.lock_addresses(conn, [entry.address for entry in entries], everywhere=everywhere)
    if entries:
        await store.suppress(
            conn,
            tenant_ids=[entry.address[0] for entry in entries],
            channels=[entry.address[1] for entry in entries],
            addresses=[entry.address[2] for entry in entries],
            scopes=[entry.scope for entry in entries],
            reasons=[entry.reason for entry in entries],
            details=[entry.detail for entry in entries],
            ids=[entry.delivery_id for entry in entries],
        )
    if told:
        await _mind_consents(conn, told)


@dataclass(frozen=True, slots=True)
class Entry:
    """A suppression to be: (tenant, channel, address), and why."""

    address: tuple[int, str, str]
    scope: str
    reason: str
    detail: str = ""
    delivery_id: UUID | None = None


async def _suppressed(
    conn: Connection, facts: Sequence[Fact], rows: dict[UUID, store.DeliveryRow], settings: Settings
) -> list[Entry]:
    """The addresses that these facts end, at once or because it was one soft bounce too many."""
    soft = _first_of_each(f for f in facts if _is_soft(f.evidence) and not _has_come_back(rows[f.delivery_id]))
    fine = [f for f in facts if f.evidence.kind == EvidenceKind.DELIVERED and rows[f.delivery_id].delivered_at is None]
    entries = [
        Entry(_address(rows[f.delivery_id]), _scope(f.evidence, rows[f.delivery_id]), reason, delivery_id=f.delivery_id)
        for f in facts
        if (reason := f.evidence.suppress_reason)
    ]
    if soft or fine:
        await store.lock_soft_bounces(conn, [_address(rows[f.delivery_id]) for f in (*soft, *fine)])
    if fine:
        await store.forget_soft_bounces(conn, _seen(fine, rows))
    if soft:
        worn_out = await store.count_soft_bounces(
            conn,
            _seen(soft, rows),
            bounces_max=settings.bounces.soft_bounces_max,
            days_min=settings.bounces.soft_bounce_days_min,
        )
        entries += [
            Entry((tenant, channel, address), "all", "soft_bounces", f"{bounces} soft bounces in a row")
            for tenant, channel, address, bounces in worn_out
        ]
    return entries


def _is_soft(evidence: Evidence) -> bool:
    """The mailbox was full or away, at once or until the provider gave up."""
    return evidence.bounce_class == BounceClass.SOFT and evidence.kind in (EvidenceKind.BOUNCED, EvidenceKind.FAILED)


def _has_come_back(row: store.DeliveryRow) -> bool:
    return row.bounced_at is not None or row.state == DeliveryState.FAILED


def _first_of_each(facts: Iterable[Fact]) -> list[Fact]:
    """One for each delivery: what is told of it again, or of each of its segments, is one bounce."""
    return list({f.delivery_id: f for f in sorted(facts, key=lambda f: f.evidence.occurred_at, reverse=True)}.values())


async def _mind_consents(conn: Connection, told: Sequence[tuple[store.Pending, Evidence]]) -> None:
    """STOP and START (R-135). They bind every tenant: the number that was answered is shared by all who send from it.

    What was said last holds, in whatever order and however often it is heard (I16). Something older than that changes
    nothing any more, nor what an operator made of it since.
    """
    heard = await store.record_consents(conn, told, channel=CONSENT_CHANNEL)
    last = await store.last_said(conn, channel=CONSENT_CHANNEL, addresses=[e.address or "" for _, e in told])
    news = [said for said in last if (said.provider, said.event_key) in heard]
    for action, change in (("opt_out", store.opt_out), ("opt_in", store.opt_in)):
        if addresses := [said.address for said in news if said.action == action]:
            await change(conn, channel=CONSENT_CHANNEL, addresses=addresses)


def _scope(evidence: Evidence, row: store.DeliveryRow) -> str:
    """An unsubscribe covers the category of the message it came from; everything else covers the address."""
    return row.category if evidence.suppress_reason == "unsubscribe" else "all"


def _address(row: store.DeliveryRow) -> tuple[int, str, str]:
    return row.tenant_id, row.channel, row.address


def _seen(facts: Iterable[Fact], rows: dict[UUID, store.DeliveryRow]) -> list[tuple[int, str, str, datetime]]:
    return [(*_address(rows[f.delivery_id]), f.evidence.occurred_at) for f in facts]


async def _settle(
    conn: Connection,
    facts: Sequence[Fact],
    unmatched: Sequence[store.Pending],
    minded: Sequence[store.Pending],
    settings: Settings,
) -> None:
    """What was matched is applied; what was not waits for its send to be recorded, and in the end is kept by name."""
    now = datetime.now(UTC)
    window = timedelta(seconds=settings.times.evidence_window_seconds)
    given_up = [now - p.received_at > window for p in unmatched]
    entries: list[tuple[store.Pending, str, str | None, UUID | None]] = (
        [(f.pending, "applied", None, f.delivery_id) for f in facts]
        + [(p, "applied", None, None) for p in minded]
        + [
            (p, "unmatched" if over else "parked", "no such delivery", None)
            for p, over in zip(unmatched, given_up, strict=True)
        ]
    )
    await _settle_as(conn, entries, settings)


async def _settle_as(
    conn: Connection, entries: Sequence[tuple[store.Pending, str, str | None, UUID | None]], settings: Settings
) -> None:
    """(event, its state, why, its delivery) each."""
    await store.settle(
        conn,
        park_seconds=settings.follow.park_retry_seconds,
        days=[p.occurred_on for p, *_ in entries],
        providers=[p.provider for p, *_ in entries],
        keys=[p.event_key for p, *_ in entries],
        states=[state for _, state, *_ in entries],
        reasons=[reason for _, _, reason, _ in entries],
        delivery_ids=[delivery for *_, delivery in entries],
    )
