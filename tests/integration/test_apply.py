"""apply: what providers tell becomes state, in whatever order and however often it is told (I16)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from app.db import Database
from app.domain.lifecycle import Standing, join_all
from app.domain.models import BounceClass, DeliveryState, Evidence, EvidenceKind
from app.flows.apply import CONSENTS, apply
from app.settings import Settings
from app.store import inbound
from tests.factories import (
    PROVIDER,
    make_attempt,
    make_category,
    make_delivery,
    make_recipient,
    make_suppression,
    make_tenant,
)

K, B = EvidenceKind, BounceClass
NOW = datetime.now(UTC).replace(microsecond=0)
TIMES = ("delivered_at", "bounced_at", "opened_at", "clicked_at", "complained_at", "unsubscribed_at")


def about(delivery: Any, kind: EvidenceKind, *, attempt_no: int = 1, **details: Any) -> Evidence:
    values = {
        "event_key": str(uuid4()),
        "occurred_at": NOW,
        "delivery_id": delivery.id,
        "attempt_no": attempt_no,
    }
    return Evidence(kind, **values | details)


def soft_bounce(delivery: Any, *, at: datetime = NOW) -> Evidence:
    return about(delivery, K.BOUNCED, bounce_class=B.SOFT, occurred_at=at)


async def tell(db: Database, *facts: Evidence, provider: str = PROVIDER) -> int:
    async with db.transaction() as conn:
        return await inbound.store_events(conn, provider=provider, source="provider", evidence=facts, raw=b"{}")


async def apply_all(db: Database, settings: Settings | None = None, *, limit: int = 500) -> None:
    while await apply(db, settings or Settings(), limit=limit):
        pass


async def rows(db: Database, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    async with db.transaction() as conn, conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, parameters)
        return await cursor.fetchall()


async def delivery_row(db: Database, delivery_id: UUID) -> dict[str, Any]:
    [row] = await rows(db, "SELECT * FROM store.deliveries WHERE id = %s", delivery_id)
    return row


async def suppressions(db: Database) -> list[tuple[str, str, str]]:
    found = await rows(
        db, "SELECT address, reason, scope FROM store.suppressions WHERE lifted_at IS NULL ORDER BY 1, 2"
    )
    return [(row["address"], row["reason"], row["scope"]) for row in found]


# -- the join, at the level of the database ------------------------------------------------------------------


def invented_facts(chance: random.Random, delivery: Any) -> list[Evidence]:
    return [
        about(
            delivery,
            chance.choice([kind for kind in K if kind not in CONSENTS]),
            occurred_at=NOW - timedelta(minutes=chance.randrange(30)),
            bounce_class=chance.choice([None, *B]),
        )
        for _ in range(chance.randint(1, 6))
    ]


@pytest.mark.parametrize("number", range(6))
async def test_any_order_and_repetition_in_any_batches_ends_in_the_same_row(
    db: Database, seed: psycopg.AsyncConnection, number: int
) -> None:
    chance = random.Random(number)
    state = chance.choice(["sent", "ambiguous", "sending", "unconfirmed"])
    tenant = await make_tenant(seed)
    copies = [await make_delivery(seed, state=state, tenant_id=tenant.id) for _ in range(8)]
    facts = invented_facts(chance, copies[0])
    story: list[Evidence] = []
    for copy in copies:
        told = [replace(fact, delivery_id=copy.id, event_key=f"{copy.id}/{n}") for n, fact in enumerate(facts)]
        story += told + chance.choices(told, k=len(told))
    chance.shuffle(story)

    while story:
        size = chance.randint(1, 12)
        batch, story = story[:size], story[size:]
        await tell(db, *{fact.event_key: fact for fact in batch}.values())
        if chance.random() < 0.7:
            await apply(db, Settings(), limit=chance.randint(1, 20))
    await apply_all(db)

    expected = join_all(Standing(DeliveryState(state), copies[0].reason), facts)
    for copy in copies:
        row = await delivery_row(db, copy.id)
        found = Standing(DeliveryState(row["state"]), row["reason"], **{name: row[name] for name in TIMES})
        assert found == expected
    told_of = await rows(
        db, "SELECT delivery_id, count(*) AS n FROM store.events WHERE kind LIKE 'provider_%%' GROUP BY 1"
    )
    assert {row["delivery_id"]: row["n"] for row in told_of} == {c.id: len(facts) for c in copies}


async def test_a_fact_told_again_is_not_stored_again(db: Database, seed: psycopg.AsyncConnection) -> None:
    delivery = await make_delivery(seed, state="sent")
    fact = about(delivery, K.DELIVERED)
    assert await tell(db, fact) == 1
    await apply_all(db)
    assert await tell(db, fact) == 0


# -- matching ------------------------------------------------------------------------------------------------


async def test_another_providers_word_about_an_attempt_counts_for_nothing(
    db: Database, seed: psycopg.AsyncConnection
) -> None:
    delivery = await make_delivery(seed, state="sent")
    await tell(db, about(delivery, K.DELIVERED), provider="somebody-else")
    await apply_all(db)
    assert (await delivery_row(db, delivery.id))["state"] == "sent"
    [kept] = await rows(db, "SELECT state, reason, due_at > now() AS later FROM store.inbound_events")
    assert kept == {"state": "parked", "reason": "no such delivery", "later": True}


async def test_evidence_without_our_ids_is_matched_by_message_id(db: Database, seed: psycopg.AsyncConnection) -> None:
    delivery = await make_delivery(seed, state="sent")
    message_id = f"{delivery.id}.1@example.com"
    await tell(db, Evidence(K.DELIVERED, "key", NOW, provider_message_id=message_id))
    await apply_all(db)
    assert (await delivery_row(db, delivery.id))["state"] == "delivered"


async def test_evidence_nobody_claims_is_kept_by_name_when_its_time_is_over(
    db: Database, seed: psycopg.AsyncConnection
) -> None:
    await tell(db, Evidence(K.DELIVERED, "key", NOW, provider_message_id="a stranger"))
    await apply_all(db)
    await seed.execute("UPDATE store.inbound_events SET received_at = now() - interval '8 days', due_at = now()")
    await apply_all(db)
    [kept] = await rows(db, "SELECT state, reason FROM store.inbound_events")
    assert kept == {"state": "unmatched", "reason": "no such delivery"}


@pytest.mark.parametrize("state", ["unconfirmed", "dead", "cancelled", "expired", "suppressed", "queued"])
async def test_late_evidence_wins_over_whatever_we_had_concluded(
    db: Database, seed: psycopg.AsyncConnection, state: str
) -> None:
    delivery = await make_delivery(seed, state=state, attempt=False, attempt_no=1, provider=PROVIDER)
    await make_attempt(seed, delivery, state="not_sent", outcome="unknown")
    await tell(db, about(delivery, K.DELIVERED))
    await apply_all(db)
    row = await delivery_row(db, delivery.id)
    assert (row["state"], row["reason"], row["delivered_at"]) == ("delivered", "confirmed", NOW)
    [attempt] = await rows(db, "SELECT state FROM store.attempts WHERE delivery_id = %s", delivery.id)
    assert attempt["state"] == "accepted"


@pytest.mark.parametrize("refused_as", ["not_sent", "refused"])
async def test_two_acceptances_of_one_delivery_are_shown_and_stop_nobody_else(
    db: Database, seed: psycopg.AsyncConnection, refused_as: str
) -> None:
    twice = await make_delivery(seed, state="sending", attempt=False, attempt_no=2)
    await make_attempt(seed, twice, no=1, state=refused_as, outcome="unknown")
    await make_attempt(seed, twice, no=2)
    neighbour = await make_delivery(seed, state="sent")
    await tell(db, about(twice, K.ACCEPTED, attempt_no=1), about(twice, K.ACCEPTED, attempt_no=2))
    await tell(db, about(neighbour, K.DELIVERED))
    await apply_all(db)
    attempts = await rows(db, "SELECT no, state FROM store.attempts WHERE delivery_id = %s ORDER BY no", twice.id)
    assert sorted(row["state"] for row in attempts) == ["accepted", "duplicate"]
    assert (await delivery_row(db, twice.id))["state"] == "sent"
    assert (await delivery_row(db, neighbour.id))["state"] == "delivered"


async def test_an_ambiguous_attempt_settled_by_a_lookup_says_so(db: Database, seed: psycopg.AsyncConnection) -> None:
    delivery = await make_delivery(seed, state="ambiguous")
    facts = [about(delivery, K.ACCEPTED), about(delivery, K.DELIVERED)]
    async with db.transaction() as conn:
        await inbound.store_events(conn, provider=PROVIDER, source="lookup", evidence=facts, raw=b"")
    await apply_all(db)
    told = await rows(db, "SELECT kind, source, attempt_no FROM store.events WHERE kind = 'resolved_found'")
    assert told == [{"kind": "resolved_found", "source": "lookup", "attempt_no": 1}]


# -- what it means for the address ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "bounce_class", "reason", "scope"),
    [
        (K.BOUNCED, B.HARD, "hard_bounce", "all"),
        (K.COMPLAINED, None, "complaint", "all"),
        (K.UNSUBSCRIBED, None, "unsubscribe", "newsletter"),
        (K.FAILED, B.PROVIDER_SUPPRESSED, "provider_suppressed", "all"),
    ],
)
async def test_what_ends_an_address_suppresses_it_at_once(
    db: Database,
    seed: psycopg.AsyncConnection,
    kind: EvidenceKind,
    bounce_class: BounceClass,
    reason: str,
    scope: str,
) -> None:
    tenant = await make_tenant(seed)
    await make_category(seed, tenant_id=tenant.id, name="newsletter")
    delivery = await make_delivery(
        seed, state="sent", tenant_id=tenant.id, category="newsletter", address="Ann@Example.com"
    )
    await tell(db, about(delivery, kind, bounce_class=bounce_class, suppress_reason=reason))
    await apply_all(db)
    assert await suppressions(db) == [("ann@example.com", reason, scope)]


@pytest.mark.parametrize("said_start", ["-1 hour", "1 minute"])
async def test_a_refusal_of_who_said_stop_does_not_outweigh_a_later_start(
    db: Database, seed: psycopg.AsyncConnection, said_start: str
) -> None:
    phone = "+14155550101"
    delivery = await make_delivery(seed, state="sent", channel="sms", address=phone)
    await seed.execute(
        "INSERT INTO store.consents (channel, address, action, source, occurred_at) "
        "VALUES ('sms', %s, 'opt_in', 'recipient', now() + %s::interval)",
        (phone, said_start),
    )
    await tell(db, about(delivery, K.FAILED, bounce_class=B.PROVIDER_SUPPRESSED, suppress_reason="opted_out"))
    await apply_all(db)
    assert await suppressions(db) == [(phone, "opted_out", "all")] * (said_start == "-1 hour")


@pytest.mark.parametrize("bounce_class", [B.REPUTATION, B.CONTENT, None])
async def test_a_refusal_that_is_not_the_addresss_fault_never_suppresses_it(
    db: Database, seed: psycopg.AsyncConnection, bounce_class: BounceClass
) -> None:
    tenant = await make_tenant(seed)
    recipient = await make_recipient(seed, tenant_id=tenant.id)
    for day in range(6):
        delivery = await make_delivery(seed, state="sent", tenant_id=tenant.id, recipient_id=recipient.id)
        at = NOW - timedelta(days=6 - day)
        await tell(db, about(delivery, K.BOUNCED, bounce_class=bounce_class, occurred_at=at))
        await apply_all(db)
        assert (await delivery_row(db, delivery.id))["state"] == "bounced"
    assert await suppressions(db) == []


class Bouncing:
    """One address, and deliveries to it that meet one fate each."""

    def __init__(self, db: Database, seed: psycopg.AsyncConnection) -> None:
        self._db, self._seed = db, seed
        self.tenant: Any = None

    async def ready(self) -> Bouncing:
        self.tenant = await make_tenant(self._seed)
        await make_recipient(self._seed, tenant_id=self.tenant.id, id="ann", email="ann@example.com")
        return self

    async def meets(self, *fates: tuple[EvidenceKind, float]) -> None:
        """Each fate with the number of days since it happened, one batch each."""
        for kind, days_ago in fates:
            delivery = await make_delivery(
                self._seed,
                state="sent",
                tenant_id=self.tenant.id,
                recipient_id="ann",
                address="ann@example.com",
            )
            at = NOW - timedelta(days=days_ago)
            bounce_class = B.SOFT if kind in (K.BOUNCED, K.FAILED) else None
            await tell(self._db, about(delivery, kind, bounce_class=bounce_class, occurred_at=at))
            await apply_all(self._db, Settings(bounces={"soft_bounces_max": 3, "soft_bounce_days_min": 2}))


@pytest.fixture
async def ann(db: Database, seed: psycopg.AsyncConnection) -> Bouncing:
    return await Bouncing(db, seed).ready()


async def test_soft_bounces_in_a_row_over_days_suppress(db: Database, ann: Bouncing) -> None:
    await ann.meets((K.BOUNCED, 5), (K.BOUNCED, 4))
    assert await suppressions(db) == []
    await ann.meets((K.BOUNCED, 2))
    assert await suppressions(db) == [("ann@example.com", "soft_bounces", "all")]


async def test_a_provider_that_gave_up_on_a_full_mailbox_counts_like_one_that_was_told_at_once(
    db: Database, ann: Bouncing
) -> None:
    await ann.meets((K.FAILED, 5), (K.BOUNCED, 4), (K.FAILED, 2))
    assert await suppressions(db) == [("ann@example.com", "soft_bounces", "all")]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("kind", [K.BOUNCED, K.FAILED])
async def test_a_bounce_that_is_told_for_each_segment_or_on_each_day_is_one(
    db: Database, seed: psycopg.AsyncConnection, kind: EvidenceKind, at_once: bool
) -> None:
    """Vonage tells of each segment; what Twilio once signed can be posted again on another day."""
    tenant = await make_tenant(seed)
    delivery = await make_delivery(seed, state="sent", tenant_id=tenant.id, address="ann@example.com")
    told = [
        Evidence(kind, f"k{day}", NOW - timedelta(days=day), delivery.id, 1, bounce_class=B.SOFT) for day in range(6)
    ]
    for batch in [told] if at_once else [[fact] for fact in told]:
        await tell(db, *batch)
        await apply_all(db, Settings(bounces={"soft_bounces_max": 3, "soft_bounce_days_min": 2}))
    assert await suppressions(db) == []
    async with db.transaction() as conn:
        rows = await (await conn.execute("SELECT bounces FROM store.soft_bounces")).fetchall()
    assert rows == [(1,)]


async def test_many_soft_bounces_in_one_day_are_one_bad_day(db: Database, ann: Bouncing) -> None:
    await ann.meets(*[(K.BOUNCED, 1 - n / 10) for n in range(6)])
    assert await suppressions(db) == []


async def test_one_delivery_in_between_starts_the_count_again(db: Database, ann: Bouncing) -> None:
    await ann.meets((K.BOUNCED, 6), (K.BOUNCED, 5), (K.DELIVERED, 4), (K.BOUNCED, 3), (K.BOUNCED, 0))
    assert await suppressions(db) == []
    await ann.meets((K.BOUNCED, 0))
    assert await suppressions(db) == [("ann@example.com", "soft_bounces", "all")]


async def test_soft_bounces_of_one_batch_are_counted_each(db: Database, seed: psycopg.AsyncConnection) -> None:
    tenant = await make_tenant(seed)
    deliveries: Sequence[Any] = [
        await make_delivery(seed, state="sent", tenant_id=tenant.id, address="ann@example.com") for _ in range(3)
    ]
    await tell(db, *(soft_bounce(d, at=NOW - timedelta(days=2 * n)) for n, d in enumerate(deliveries)))
    await apply_all(db, Settings(bounces={"soft_bounces_max": 3, "soft_bounce_days_min": 2}))
    assert await suppressions(db) == [("ann@example.com", "soft_bounces", "all")]


# -- STOP and START ------------------------------------------------------------------------------------------

PHONE = "+14155550101"


def said(kind: EvidenceKind, key: str, *, at: datetime = NOW, address: str = PHONE) -> Evidence:
    return Evidence(kind, key, at, address=address, data={"keyword": "STOP" if kind == K.OPTED_OUT else "START"})


async def opted_out(db: Database) -> list[int]:
    found = await rows(
        db,
        "SELECT tenant_id FROM store.suppressions WHERE channel = 'sms' AND address = %s AND reason = 'opted_out' "
        "AND lifted_at IS NULL ORDER BY 1",
        PHONE,
    )
    return [row["tenant_id"] for row in found]


async def test_stop_binds_every_tenant_that_shares_the_number_and_start_frees_them(db, seed):
    tenants = sorted([(await make_tenant(seed)).id, (await make_tenant(seed)).id])
    await tell(db, said(K.OPTED_OUT, "SM1"), provider="twilio")
    await apply_all(db)
    assert await opted_out(db) == tenants
    await tell(db, said(K.OPTED_OUT, "SM1"), provider="twilio")  # told again: the same fact
    await tell(db, said(K.OPTED_IN, "SM2", at=NOW + timedelta(minutes=1)), provider="twilio")
    await apply_all(db)
    assert await opted_out(db) == []
    record = await rows(db, "SELECT action, provider, event_key, address FROM store.consents ORDER BY occurred_at")
    assert [tuple(row.values()) for row in record] == [
        ("opt_out", "twilio", "SM1", PHONE),
        ("opt_in", "twilio", "SM2", PHONE),
    ]


async def test_what_was_said_last_holds_in_one_batch_too(db, seed):
    tenant = await make_tenant(seed)
    later = NOW + timedelta(minutes=1)
    await tell(db, said(K.OPTED_OUT, "SM2", at=later), said(K.OPTED_IN, "SM1"), provider="twilio")
    await apply_all(db)
    assert await opted_out(db) == [tenant.id]


async def test_start_lifts_no_block_but_the_owners_own(db, seed):
    tenant = await make_tenant(seed)
    await make_suppression(seed, tenant_id=tenant.id, channel="sms", address=PHONE)
    await tell(db, said(K.OPTED_IN, "SM1"), provider="twilio")
    await apply_all(db)
    assert await suppressions(db) == [(PHONE, "manual", "all")]


async def test_a_tenant_that_comes_later_is_bound_as_well(db, seed):
    await make_tenant(seed)
    await tell(db, said(K.OPTED_OUT, "SM1"), provider="twilio")
    await apply_all(db)
    newcomer = await make_tenant(seed)
    assert newcomer.id in await opted_out(db)


async def test_an_answer_that_is_no_keyword_waits_for_no_delivery(db, seed):
    await tell(db, Evidence(K.OTHER, "SM9", NOW, address=PHONE, data={"inbound": True}), provider="twilio")
    await apply_all(db)
    [row] = await rows(db, "SELECT state, reason FROM store.inbound_events")
    assert (row["state"], row["reason"]) == ("applied", None)


async def test_a_device_may_speak_of_any_providers_attempt_and_a_stranger_may_not(db, seed):
    delivery = await make_delivery(seed, state="sent")
    await tell(db, about(delivery, K.DELIVERED), provider="sendgrid")
    await apply_all(db)
    assert (await delivery_row(db, delivery.id))["state"] == "sent"
    async with db.transaction() as conn:
        await inbound.store_events(
            conn, provider="device", source="device", evidence=[about(delivery, K.DELIVERED)], raw=b""
        )
    await apply_all(db)
    row = await delivery_row(db, delivery.id)
    assert (row["state"], row["reason"]) == ("delivered", "confirmed")
