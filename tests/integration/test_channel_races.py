"""What every channel promises while several transactions are at work: opt-outs against claims, locks in one order.

A race is written as named steps on two connections: who is made to wait is waited for, never for a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection

from app.db import Database
from app.domain.models import BounceClass, Evidence, EvidenceKind
from app.flows.apply import apply
from app.settings import Settings
from app.store import dispatch, inbound, suppressions
from tests import lanes
from tests.factories import make_attempt, make_delivery, make_suppression, make_tenant
from tests.looking import rows

K = EvidenceKind
NOW = datetime.now(UTC).replace(microsecond=0)
PHONE = "+4915112345678"
LANE = "sms.transactional.default"
PATIENCE_SECONDS = 60


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    async with Database(dsn, name="landed tests", size_max=20) as database:
        yield database


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - the condition lies in the database
            await asyncio.sleep(0.005)


async def waits_for_a_lock(watcher: AsyncConnection, blocked: AsyncConnection) -> None:
    """Returns when it does."""
    await until(lambda: rows(watcher, f"{WAITING} AND pid = %s", blocked.info.backend_pid))


async def somebody_waits(watcher: AsyncConnection) -> None:
    await until(lambda: rows(watcher, WAITING))


WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def claim(conn: AsyncConnection, *, lane: str = LANE, provider: str = "twilio") -> list[dispatch.Claimed]:
    _, claimed = await lanes.claim(conn, lane=lane, provider=provider, limit=100)
    return claimed


async def waiting_text(seed: AsyncConnection, *, address: str = PHONE, tenant_id: int | None = None) -> Any:
    """A text message that is due."""
    tenant_id = tenant_id or (await make_tenant(seed)).id
    return await make_delivery(seed, tenant_id=tenant_id, channel="sms", lane=LANE, address=address)


async def the_row(seed: AsyncConnection, delivery: Any) -> tuple[str, str | None, int]:
    [row] = await rows(seed, "SELECT state, reason, attempt_no FROM store.deliveries WHERE id = %s", delivery.id)
    return row["state"], row["reason"], row["attempt_no"]


def said(kind: EvidenceKind, *, at: datetime = NOW, address: str | None = PHONE) -> Evidence:
    return Evidence(kind, f"inbound:{uuid4()}", at, address=address, data={"inbound": True})


async def tell(db: Database, *facts: Evidence, provider: str = "twilio", source: str = "provider") -> None:
    async with db.transaction() as conn:
        await inbound.store_events(conn, provider=provider, source=source, evidence=facts, raw=b"{}")


async def apply_all(db: Database, settings: Settings | None = None) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await apply(db, settings or Settings(), limit=500):
            pass


async def blocks(seed: AsyncConnection, *, address: str = PHONE) -> set[tuple[int, str]]:
    found = await rows(
        seed,
        "SELECT tenant_id, reason FROM store.suppressions WHERE channel = 'sms' AND address = %s AND lifted_at IS NULL",
        address,
    )
    return {(row["tenant_id"], row["reason"]) for row in found}


# -- STOP and a claim at the same moment (I11) -------------------------------------------------------------------


async def test_a_claim_that_looked_first_sends_and_the_stop_waits_for_its_commit(db, seed, dsn):
    delivery = await waiting_text(seed)
    await tell(db, said(K.OPTED_OUT))
    async with await AsyncConnection.connect(dsn) as claimer:
        assert [claimed.id for claimed in await claim(claimer)] == [delivery.id]
        stopping = asyncio.create_task(apply(db, Settings(), limit=10))
        await somebody_waits(seed)
        assert await blocks(seed) == set()
        await claimer.commit()
        await stopping
    assert await blocks(seed) == {(delivery.tenant_id, "opted_out")}
    assert (await the_row(seed, delivery))[0] == "sending"  # its intent was committed before the opt-out


async def test_a_stop_that_commits_first_leaves_the_claim_that_waited_no_attempt(db, seed, dsn):
    delivery = await waiting_text(seed)
    await tell(db, said(K.OPTED_OUT))
    async with (
        await AsyncConnection.connect(dsn) as claimer,
        await AsyncConnection.connect(dsn) as holder,
    ):
        # Whoever holds a consent's number back holds the opt-out back at its last step but one.
        await holder.execute("LOCK TABLE store.suppressions IN SHARE ROW EXCLUSIVE MODE")
        stopping = asyncio.create_task(apply(db, Settings(), limit=10))
        await somebody_waits(seed)
        claiming = asyncio.create_task(claim(claimer))
        await waits_for_a_lock(seed, claimer)
        await holder.commit()
        await stopping
        assert await claiming == []
        await claimer.commit()
    assert await the_row(seed, delivery) == ("suppressed", "suppressed:opted_out", 0)
    assert await rows(seed, "SELECT FROM store.attempts") == []


async def test_a_stop_waits_for_no_receipts(db, seed):
    delivery = await waiting_text(seed)
    await tell(db, *(Evidence(K.OTHER, f"receipt-{n}", NOW, provider_message_id="M1") for n in range(30)))
    await seed.execute("UPDATE store.inbound_events SET due_at = now() - interval '1 hour'")
    await tell(db, said(K.OPTED_OUT))
    assert await apply(db, Settings(), limit=3) == 3
    assert await blocks(seed) == {(delivery.tenant_id, "opted_out")}


SPELLINGS = [
    "+49 1511 2345678",
    "+49 (1511) 234-5678",
    "+49.1511.2345678",
    " +4915112345678 ",
    "+49\u00a01511\u2011234\u20115678",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_number_is_the_same_number_however_it_was_stored(db, seed, dsn, spelling):
    """Of a time before numbers were brought into one form, or of an import by SQL."""
    delivery = await waiting_text(seed, address=spelling)
    await tell(db, said(K.OPTED_OUT))
    await apply_all(db)
    async with db.transaction() as conn:
        assert await claim(conn) == []
    assert await the_row(seed, delivery) == ("suppressed", "suppressed:opted_out", 0)


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_an_operators_block_of_a_number_holds_however_they_spell_it(db, seed, spelling):
    delivery = await waiting_text(seed)
    [tenant] = await rows(seed, "SELECT name FROM store.tenants WHERE id = %s", delivery.tenant_id)
    await seed.execute("SELECT landed.suppress(%s, 'sms', %s, 'asked by telephone')", (tenant["name"], spelling))
    async with db.transaction() as conn:
        assert await claim(conn) == []
    assert await the_row(seed, delivery) == ("suppressed", "suppressed:manual", 0)
    cursor = await seed.execute("SELECT landed.unsuppress(%s, 'sms', %s, 'asked back')", (tenant["name"], spelling))
    assert await cursor.fetchone() == (True,)


async def test_what_is_no_number_is_not_taken_for_one(seed):
    tenant = await make_tenant(seed)
    for nothing in ("0151 12345678", "AMAZON", "()", "+49"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="address"):
            await seed.execute("SELECT landed.suppress(%s, 'sms', %s, 'why')", (tenant.name, nothing))


# -- STOP and START in the order they were said (I16) --------------------------------------------------------------


LATER = NOW + timedelta(minutes=5)


async def test_a_start_that_comes_late_does_not_undo_the_stop_after_it(db, seed):
    tenant = await make_tenant(seed)
    await tell(db, said(K.OPTED_OUT, at=LATER))
    await apply_all(db)
    await tell(db, said(K.OPTED_IN, at=NOW))
    await apply_all(db)
    assert await blocks(seed) == {(tenant.id, "opted_out")}


async def test_a_stop_that_comes_late_does_not_undo_the_start_after_it(db, seed):
    await make_tenant(seed)
    await tell(db, said(K.OPTED_IN, at=LATER))
    await apply_all(db)
    await tell(db, said(K.OPTED_OUT, at=NOW))
    await apply_all(db)
    assert await blocks(seed) == set()
    assert len(await rows(seed, "SELECT FROM store.consents")) == 2


async def test_what_was_said_once_is_not_said_again_when_it_is_told_again_the_next_day(db, seed):
    """Twilio names no time: a webhook that comes again after midnight seems to be of that moment."""
    tenant = await make_tenant(seed)
    yesterday = NOW - timedelta(hours=30)
    start, stop = said(K.OPTED_IN, at=yesterday), said(K.OPTED_OUT, at=yesterday + timedelta(minutes=5))
    for fact in (start, stop, replace(start, occurred_at=NOW)):
        await tell(db, fact)
        await apply_all(db)
    assert await blocks(seed) == {(tenant.id, "opted_out")}
    assert len(await rows(seed, "SELECT FROM store.consents")) == 2
    await seed.execute("SELECT landed.unsuppress(%s, 'sms', %s, 'they called us')", (tenant.name, PHONE))
    await tell(db, replace(stop, occurred_at=NOW + timedelta(minutes=1)))
    await apply_all(db)
    assert await blocks(seed) == set()


async def test_of_two_at_the_same_second_the_wish_to_be_left_alone_counts(db, seed):
    tenant = await make_tenant(seed)
    for first, second in ((K.OPTED_IN, K.OPTED_OUT), (K.OPTED_OUT, K.OPTED_IN)):
        address = f"+4915112345{first == K.OPTED_IN:d}00"
        await tell(db, said(first, address=address))
        await apply_all(db)
        await tell(db, said(second, address=address))
        await apply_all(db)
        assert await blocks(seed, address=address) == {(tenant.id, "opted_out")}


async def test_what_an_operator_lifted_stays_lifted_when_something_older_is_told(db, seed):
    tenant = await make_tenant(seed)
    await tell(db, said(K.OPTED_OUT, at=LATER))
    await apply_all(db)
    await seed.execute("SELECT landed.unsuppress(%s, 'sms', %s, 'they called us')", (tenant.name, PHONE))
    await tell(db, said(K.OPTED_IN, at=NOW), said(K.OPTED_OUT, at=NOW - timedelta(minutes=1)))
    await apply_all(db)
    assert await blocks(seed) == set()
    await tell(db, said(K.OPTED_OUT, at=LATER + timedelta(minutes=1)))
    await apply_all(db)
    assert await blocks(seed) == {(tenant.id, "opted_out")}


# -- STOP beside other reasons -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["manual", "hard_bounce", "provider_suppressed"])
async def test_start_frees_from_stop_and_from_nothing_else_whichever_came_first(db, seed, reason):
    tenant = await make_tenant(seed)
    await make_suppression(seed, tenant_id=tenant.id, channel="sms", address=PHONE, reason=reason)
    await tell(db, said(K.OPTED_OUT))
    await apply_all(db)
    await tell(db, said(K.OPTED_IN, at=LATER))
    await apply_all(db)
    assert await blocks(seed) == {(tenant.id, reason)}


async def test_a_block_by_hand_after_a_stop_outlives_the_start(db, seed):
    tenant = await make_tenant(seed)
    await tell(db, said(K.OPTED_OUT))
    await apply_all(db)
    await seed.execute("SELECT landed.suppress(%s, 'sms', %s, 'fraud')", (tenant.name, PHONE))
    await tell(db, said(K.OPTED_IN, at=LATER))
    await apply_all(db)
    assert await blocks(seed) == {(tenant.id, "manual")}


async def test_lifting_a_bounce_does_not_lift_the_stop_that_came_after_it(db, seed):
    """What people are shown, and lift, is the bounce."""
    tenant = await make_tenant(seed)
    bounce = await make_suppression(seed, tenant_id=tenant.id, channel="sms", address=PHONE, reason="hard_bounce")
    await tell(db, said(K.OPTED_OUT))
    await apply_all(db)
    async with db.transaction() as conn:
        found = await suppressions.get(conn, tenant.id, bounce.id)
        assert found is not None
        await suppressions.lift(conn, tenant.id, found, reason="number is back", actor="api key 1")
    assert await blocks(seed) == {(tenant.id, "opted_out")}


async def test_by_psql_everything_of_an_address_is_lifted_and_each_is_audited(db, seed):
    tenant = await make_tenant(seed)
    await make_suppression(seed, tenant_id=tenant.id, channel="sms", address=PHONE, reason="hard_bounce")
    await tell(db, said(K.OPTED_OUT))
    await apply_all(db)
    cursor = await seed.execute("SELECT landed.unsuppress(%s, 'sms', %s, 'they called us')", (tenant.name, PHONE))
    assert await cursor.fetchone() == (True,)
    assert await blocks(seed) == set()
    audited = await rows(
        seed, "SELECT data ->> 'suppressed_for' AS why FROM store.audit_log WHERE action = 'unsuppress'"
    )
    assert sorted(row["why"] for row in audited) == ["hard_bounce", "opted_out"]


async def test_a_providers_stop_is_kept_beside_a_bounce(db, seed):
    """Its code for a blocked number is an opt-out like any other, whatever we held against the number before."""
    delivery = await waiting_text(seed)
    await make_suppression(seed, tenant_id=delivery.tenant_id, channel="sms", address=PHONE, reason="soft_bounces")
    async with db.transaction() as conn:
        await inbound.lock_addresses(conn, [(delivery.tenant_id, "sms", PHONE)])
        refused = dispatch.RefusedAddress(delivery.tenant_id, "sms", PHONE, "opted_out", "21610", delivery.id)
        await dispatch.suppress_refused(conn, [refused])
    assert await blocks(seed) == {(delivery.tenant_id, "soft_bounces"), (delivery.tenant_id, "opted_out")}


# -- A tenant that comes while somebody says STOP ------------------------------------------------------------------


async def test_a_tenant_that_is_made_while_a_stop_is_written_is_bound_by_it(db, seed, dsn):
    await make_tenant(seed)
    await tell(db, said(K.OPTED_OUT))
    async with await AsyncConnection.connect(dsn) as founder, await AsyncConnection.connect(dsn) as holder:
        await holder.execute("LOCK TABLE store.inbound_events IN SHARE MODE")  # apply settles last
        stopping = asyncio.create_task(apply(db, Settings(), limit=10))
        await somebody_waits(seed)
        founding = asyncio.create_task(make_tenant(founder))
        await until(partial(done_or_waiting, seed, founding, 2))
        await holder.commit()
        await stopping
        newcomer = await founding
        await founder.commit()
    assert (newcomer.id, "opted_out") in await blocks(seed)


async def done_or_waiting(watcher: AsyncConnection, task: asyncio.Task[Any], waiting: int) -> bool:
    return task.done() or len(await rows(watcher, WAITING)) >= waiting


async def test_a_tenant_that_is_made_before_a_stop_commits_first_and_is_bound_by_it(db, seed, dsn):
    await make_tenant(seed)
    await tell(db, said(K.OPTED_OUT))
    async with await AsyncConnection.connect(dsn) as founder:
        newcomer = await make_tenant(founder)
        stopping = asyncio.create_task(apply(db, Settings(), limit=10))
        await until(partial(done_or_waiting, seed, stopping, 1))
        await founder.commit()
        await stopping
    assert (newcomer.id, "opted_out") in await blocks(seed)


async def test_a_number_that_was_heard_of_in_two_ways_keeps_no_tenant_from_coming(seed):
    for source in ("recipient", "provider"):
        tenant = await make_tenant(seed)
        values = {"tenant_id": tenant.id, "channel": "sms", "address": PHONE, "reason": "opted_out", "source": source}
        if (tenant.id, "opted_out") in await blocks(seed):
            await seed.execute("UPDATE store.suppressions SET source = %s WHERE tenant_id = %s", (source, tenant.id))
        else:
            await make_suppression(seed, **values)
    newcomer = await make_tenant(seed)
    assert (newcomer.id, "opted_out") in await blocks(seed)


# -- One fact must not hold up the others ----------------------------------------------------------------------------


async def test_a_fact_that_cannot_be_applied_is_kept_by_name_and_holds_up_no_stop(db, seed):
    delivery = await make_delivery(seed, state="sent", provider="twilio")
    await seed.execute("UPDATE store.attempts SET provider = 'twilio'")
    wrong = [
        Evidence(K.FAILED, f"wrong-{n}", NOW, delivery_id=delivery.id, attempt_no=1, suppress_reason="no such reason")
        for n in range(2)
    ]
    await tell(db, *wrong)
    await tell(db, said(K.OPTED_OUT), Evidence(K.DELIVERED, "right", NOW, delivery_id=delivery.id, attempt_no=1))
    await apply_all(db)
    assert (delivery.tenant_id, "opted_out") in await blocks(seed)
    assert (await the_row(seed, delivery))[0] == "delivered"
    told = await rows(
        seed, "SELECT event_key, state, reason FROM store.inbound_events WHERE state <> 'applied' ORDER BY 1"
    )
    assert [tuple(row.values()) for row in told] == [
        (f"wrong-{n}", "unmatched", "cannot be applied: CheckViolation") for n in range(2)
    ]


# -- One order of locks, where the crowd of test_channel_locks would seldom meet -------------------------------------


async def test_apply_takes_all_its_addresses_in_one_order(db, seed, dsn):
    """A bounce and a STOP in one batch; somebody who has the one address and wants the other next."""
    delivery = await make_delivery(seed, state="sent", provider="mailgun")
    buckets = "SELECT store.address_bucket(%s, 'email', %s) AS mail, store.address_bucket(%s, 'sms', %s) AS text"
    phone = PHONE
    for number in range(100, 1000):
        phone = f"+4915112345{number}"
        [found] = await rows(seed, buckets, delivery.tenant_id, delivery.address, delivery.tenant_id, phone)
        if found["text"] < found["mail"]:
            break
    bounce = Evidence(K.BOUNCED, "b", NOW, delivery_id=delivery.id, attempt_no=1, suppress_reason="hard_bounce")
    await tell(db, bounce, provider="mailgun")
    await tell(db, said(K.OPTED_OUT, address=phone))
    async with await AsyncConnection.connect(dsn) as other:
        await inbound.lock_addresses(other, [(delivery.tenant_id, "sms", phone)])
        applying = asyncio.create_task(apply(db, Settings(), limit=10))
        await somebody_waits(seed)
        await inbound.lock_addresses(other, [(delivery.tenant_id, "email", delivery.address)])
        await other.commit()
        assert await applying == 2


async def test_soft_bounces_are_forgotten_and_counted_in_one_order(db, seed, dsn):
    tenant = await make_tenant(seed)
    first, second = [
        await make_delivery(seed, state="sent", tenant_id=tenant.id, address=f"{name}@example.com")
        for name in ("ada", "bo")
    ]
    for delivery in (first, second):
        await seed.execute(
            "INSERT INTO store.soft_bounces VALUES (%s, 'email', %s, 1, %s, %s)",
            (tenant.id, delivery.address, NOW - timedelta(days=1), NOW - timedelta(days=1)),
        )
    fine = Evidence(K.DELIVERED, "fine", NOW, delivery_id=second.id, attempt_no=1)
    soft = Evidence(K.BOUNCED, "soft", NOW, delivery_id=first.id, attempt_no=1, bounce_class=BounceClass.SOFT)
    await tell(db, fine, soft, provider="mailgun")
    async with await AsyncConnection.connect(dsn) as other:
        await inbound.lock_soft_bounces(other, [(tenant.id, "email", first.address)])
        applying = asyncio.create_task(apply(db, Settings(), limit=10))
        await somebody_waits(seed)
        await inbound.lock_soft_bounces(other, [(tenant.id, "email", second.address)])
        await other.commit()
        assert await applying == 2
    counted = await rows(seed, "SELECT address, bounces FROM store.soft_bounces")
    assert [tuple(row.values()) for row in counted] == [(first.address, 2)]


async def test_two_webhooks_with_the_same_facts_in_another_order_are_both_stored(db, seed, dsn):
    facts = [Evidence(K.OTHER, key, NOW) for key in ("a", "b")]

    async def store(conn: AsyncConnection, told: list[Evidence]) -> int:
        return await inbound.store_events(conn, provider="sendgrid", source="provider", evidence=told, raw=b"{}")

    async with await AsyncConnection.connect(dsn) as other, await AsyncConnection.connect(dsn) as one:
        await store(other, facts[:1])
        storing = asyncio.create_task(store(one, facts[::-1]))
        await waits_for_a_lock(seed, one)
        await store(other, facts[1:])
        await other.commit()
        assert await storing == 0
        await one.commit()
    assert len(await rows(seed, "SELECT FROM store.inbound_events")) == 2


async def test_an_event_that_is_being_looked_at_holds_up_no_record_and_is_matched_soon(db, seed, dsn):
    """It came before its send was recorded, and is looked at in the very moment in which that is recorded."""
    delivery = await make_delivery(seed, state="sending", attempt_no=1, provider="twilio", attempt=False)
    await make_attempt(seed, delivery, provider="twilio")
    await tell(db, Evidence(K.DELIVERED, "early", NOW, provider_message_id="M1"))
    await apply_all(db)
    await seed.execute("UPDATE store.inbound_events SET due_at = now()")
    async with await AsyncConnection.connect(dsn) as looking, await AsyncConnection.connect(dsn) as recording:
        assert len(await inbound.claim_pending(looking, limit=10)) == 1
        await dispatch.record_outcomes(recording, [accepted(delivery, "M1")])
        await recording.commit()
        await looking.rollback()
    [event] = await rows(
        seed, "SELECT due_at - received_at AS wait, due_at < now() + interval '1 s' AS soon FROM store.inbound_events"
    )
    assert event["soon"]
    await apply_all(db)
    assert (await the_row(seed, delivery))[0] == "delivered"


async def test_what_cannot_be_matched_yet_is_looked_at_again_soon_and_then_less_and_less(db, seed):
    settings = Settings()
    await tell(db, Evidence(K.DELIVERED, "early", NOW, provider_message_id="M1"))
    waits = []
    for age in (0, 10, 100, 10_000):
        await seed.execute(
            "UPDATE store.inbound_events SET due_at = now(), received_at = now() - make_interval(secs => %s)", (age,)
        )
        assert await apply(db, settings, limit=10) == 1
        [event] = await rows(seed, "SELECT extract(epoch FROM due_at - now())::float AS wait FROM store.inbound_events")
        waits.append(event["wait"])
    assert [round(wait, -1) for wait in waits] == [0, 10, 100, settings.follow.park_retry_seconds]


def accepted(delivery: Any, message_id: str) -> dispatch.Recorded:
    return dispatch.Recorded(
        shard=delivery.shard,
        id=delivery.id,
        no=1,
        tenant_id=delivery.tenant_id,
        notification_id=delivery.notification_id,
        attempt_state="accepted",
        outcome="accepted",
        status_code=200,
        detail="ok",
        message_id=message_id,
        hash=None,
        state="sent",
        reason=None,
        due_at=NOW + timedelta(hours=1),
        burns=False,
    )
