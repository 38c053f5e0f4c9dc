"""dispatch: from claim to record, against a real database, a real renderer and a real HTTP provider."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pytest_httpserver import HTTPServer

from app.db import Database
from app.domain.models import Evidence, EvidenceKind, NotificationClass, Outcome, OutcomeKind
from app.flows.apply import apply
from app.flows.dispatch import CROWDED_SECONDS, Dispatcher, Finished, Lane, _recorded
from app.providers.base import RECIPIENT_LIMITED
from app.providers.transport import Transport
from app.rendering.pool import RenderPool
from app.settings import Settings
from app.store import control, inbound
from app.store import dispatch as store
from app.store.dispatch import Claimed
from tests import lanes, looking
from tests.factories import make_delivery, make_notification, make_template, make_tenant
from tests.lanes import make_dispatcher
from tests.looking import row, rows, waiting_for_a_lock
from tests.sandbox_process import SandboxProcess

K = OutcomeKind
LANE = "email.transactional.default"
PATIENCE_SECONDS = 30

until = partial(looking.until, seconds=PATIENCE_SECONDS)


# -- one session and one statement at a time -----------------------------------------------------------------


async def connect(dsn: str, **options: Any) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(dsn, application_name="landed tests", **options)


@pytest.fixture
async def worker(dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A session that claims and records."""
    async with await connect(dsn) as connection:
        yield connection


async def delivery_row(conn: psycopg.AsyncConnection, delivery: Any) -> dict[str, Any]:
    return await row(conn, "SELECT * FROM store.deliveries WHERE id = %s", delivery.id)


async def kinds(conn: psycopg.AsyncConnection, delivery: Any) -> list[str]:
    found = await rows(conn, "SELECT kind FROM store.events WHERE delivery_id = %s ORDER BY id", delivery.id)
    return [event["kind"] for event in found]


async def attempt_states(conn: psycopg.AsyncConnection, delivery: Any) -> list[str]:
    found = await rows(conn, "SELECT state FROM store.attempts WHERE delivery_id = %s ORDER BY no", delivery.id)
    return [attempt["state"] for attempt in found]


async def claim(conn: psycopg.AsyncConnection, **how: Any) -> tuple[int, list[Claimed]]:
    return await lanes.claim(conn, **{"lane": LANE, "provider": "mailgun"} | how)


async def claimed(conn: psycopg.AsyncConnection) -> Claimed:
    _, [only] = await claim(conn)
    await conn.commit()
    return only


async def record(conn: psycopg.AsyncConnection, dispatcher: Dispatcher, *ends: tuple[Claimed, Outcome]) -> None:
    now = datetime.now(UTC)
    finished = [Finished(one, outcome, b"hash") for one, outcome in ends]
    await store.record_outcomes(conn, [_recorded(f, dispatcher._decide(f, now)) for f in finished])
    await conn.commit()


ACCEPTED = Outcome(K.ACCEPTED, "queued", 200, provider_message_id="m-1@example.com")
REFUSED_CONNECTION = Outcome(K.TRANSIENT, "connection refused")


def recorder(db: Database) -> Dispatcher:
    """Only what turns outcomes into decisions and records them; it is never run."""
    settings = mail_settings("http://127.0.0.1:9")
    return make_dispatcher(email_lane(settings), db=db, settings=settings, transport=None, renderer=None)


@pytest.fixture
def decider(dsn: str) -> Dispatcher:
    return recorder(Database(dsn, name="unused"))


# -- claiming ------------------------------------------------------------------------------------------------


async def test_a_claim_writes_the_intent_before_anything_is_sent(seed, worker):
    delivery = await make_delivery(seed)
    one = await claimed(worker)
    assert (one.id, one.attempt_no, one.variables) == (delivery.id, 1, {"order_id": "A-1"})
    attempt = await row(seed, "SELECT state, epoch, region, provider FROM store.attempts")
    assert attempt == {"state": "open", "epoch": 1, "region": "local", "provider": "mailgun"}
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["attempt_no"]) == ("sending", 1)
    assert after["due_at"] > datetime.now(UTC) + timedelta(seconds=50)


async def test_two_workers_never_claim_one_delivery(dsn, seed, worker):
    await make_delivery(seed)
    await claim(worker)
    async with await connect(dsn) as other:
        assert await claim(other) == (0, [])
    await worker.commit()
    assert await claim(worker) == (0, [])


async def test_an_attempt_opens_only_in_the_active_region_and_under_its_epoch(seed, worker):
    await make_delivery(seed)
    await seed.execute("INSERT INTO store.regions (name) VALUES ('eu-west')")
    assert await claim(worker, region="eu-west") == (0, [])
    assert await store.next_due(worker, lane=LANE, region="eu-west") is None
    await seed.execute("UPDATE store.regions SET active = false WHERE name = 'local'")
    await seed.execute("UPDATE store.regions SET active = true, epoch = 2 WHERE name = 'eu-west'")
    assert await claim(worker) == (0, [])
    await claim(worker, region="eu-west")
    await worker.commit()
    assert await row(seed, "SELECT epoch, region FROM store.attempts") == {"epoch": 2, "region": "eu-west"}


async def test_retries_never_starve_first_attempts_and_fill_what_they_leave(seed, worker):
    tenant = await make_tenant(seed)
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    for _ in range(12):
        await make_delivery(seed, tenant_id=tenant.id, failures=1, reason="retry", due_at=long_ago)
        await make_delivery(seed, tenant_id=tenant.id)
    _, taken = await claim(worker, limit=8)
    assert [one.failures for one in taken].count(0) == 6
    assert len(taken) == 8
    _, taken = await claim(worker, limit=8)
    assert [one.failures for one in taken].count(0) == 6
    _, taken = await claim(worker, limit=8)
    assert [one.failures for one in taken] == [1] * 8


async def claimed_singly(worker: psycopg.AsyncConnection, claims: int) -> set[int]:
    """The failures of what claims of one row took; each is undone."""
    taken = set()
    for _ in range(claims):
        _, [one] = await claim(worker, limit=1)
        taken.add(one.failures)
        await worker.rollback()
    return taken


async def test_small_claims_starve_neither_retries_nor_first_attempts(seed, worker):
    tenant = await make_tenant(seed)
    first = await make_delivery(seed, tenant_id=tenant.id)
    retry = await make_delivery(seed, tenant_id=tenant.id, failures=1, reason="retry")
    assert await claimed_singly(worker, 80) == {0, 1}, "a quarter of them; all alike once in a thousand million times"
    await seed.execute("UPDATE store.deliveries SET due_at = now() + interval '1 hour' WHERE id = %s", (retry.id,))
    assert await claimed_singly(worker, 20) == {0}, "none comes back empty"
    await seed.execute("UPDATE store.deliveries SET due_at = now() WHERE id = %s", (retry.id,))
    await seed.execute("UPDATE store.deliveries SET due_at = now() + interval '1 hour' WHERE id = %s", (first.id,))
    assert await claimed_singly(worker, 20) == {1}


async def test_what_was_taken_up_too_often_to_count_ends_and_holds_up_nobody(seed, worker):
    tenant = await make_tenant(seed)
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    poison = await make_delivery(seed, tenant_id=tenant.id, attempt_no=32767, reason="released", due_at=long_ago)
    neighbour = await make_delivery(seed, tenant_id=tenant.id)
    taken, [one] = await claim(worker)
    await worker.commit()
    assert (taken, one.id) == (2, neighbour.id)
    after = await delivery_row(seed, poison)
    assert (after["state"], after["reason"], after["due_at"]) == ("dead", "retries_exhausted", None)
    assert await kinds(seed, poison) == ["dead"]


async def test_what_expired_while_it_waited_ends_by_name_and_is_not_sent(seed, worker):
    past = datetime.now(UTC) - timedelta(seconds=1)
    delivery = await make_delivery(seed, expires_at=past)
    assert await claim(worker) == (1, [])
    await worker.commit()
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"]) == ("expired", "expired")
    assert await kinds(seed, delivery) == ["expired"]
    assert await attempt_states(seed, delivery) == []


async def test_a_paused_provider_is_left_alone_while_what_expires_still_ends(seed, worker):
    tenant = await make_tenant(seed)
    waiting = await make_delivery(seed, tenant_id=tenant.id)
    over = await make_delivery(
        seed, tenant_id=tenant.id, expires_at=datetime.now(UTC) - timedelta(seconds=1), reason="unauthorized"
    )
    await control.limit(worker, "mailgun", detail="slow down", seconds=60, hits=1, factor_min=0.1)
    assert await claim(worker) == (1, [])
    [state] = await control.read_states(worker, ["mailgun"], klass="transactional")
    await worker.commit()
    assert state.ready_at > datetime.now(UTC) + timedelta(seconds=50), "nothing goes out before the pause is over"
    assert (await delivery_row(seed, over))["state"] == "expired"
    assert (await delivery_row(seed, waiting))["state"] == "queued"


# -- suppression against the claim (I11): named steps on two connections -------------------------------------


async def blocked(conn: psycopg.AsyncConnection, pid: int) -> None:
    """Waits until the session of that pid waits for a lock."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await rows(conn, "SELECT FROM pg_locks WHERE pid = %s AND NOT granted", pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_an_opt_out_that_came_first_stops_a_claim_that_had_to_wait_for_it(dsn, seed, worker):
    delivery = await make_delivery(seed, address="Ann@example.com")
    tenant = await row(seed, "SELECT name FROM store.tenants")
    async with await connect(dsn) as recipient:
        await recipient.execute("SELECT landed.suppress(%s, 'email', 'ann@EXAMPLE.com', 'asked')", (tenant["name"],))
        claiming = asyncio.create_task(claim(worker))
        await blocked(seed, worker.info.backend_pid)
        await recipient.commit()
    assert await claiming == (1, [])
    await worker.commit()
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"]) == ("suppressed", "suppressed:manual")
    assert await attempt_states(seed, delivery) == []
    assert await kinds(seed, delivery) == ["suppressed"]


async def test_an_opt_out_waits_for_the_claim_that_came_first_and_stops_every_later_one(dsn, seed, worker, decider):
    delivery = await make_delivery(seed)
    tenant = await row(seed, "SELECT name FROM store.tenants")
    _, [one] = await claim(worker)
    async with await connect(dsn) as recipient:
        opting_out = asyncio.create_task(
            recipient.execute("SELECT landed.suppress(%s, 'email', %s, 'asked')", (tenant["name"], delivery.address))
        )
        await blocked(seed, recipient.info.backend_pid)
        await worker.commit()
        await opting_out
        await recipient.commit()
    await record(worker, decider, (one, Outcome(K.RELEASED, "shutting down")))
    assert await claim(worker) == (1, [])
    await worker.commit()
    assert (await delivery_row(seed, delivery))["state"] == "suppressed"
    assert await attempt_states(seed, delivery) == ["not_sent"]


@pytest.mark.parametrize(("scope", "stopped"), [("same", True), ("all", True), ("another", False)])
async def test_an_opt_out_covers_its_category_or_all(seed, worker, scope, stopped):
    delivery = await make_delivery(seed)
    await seed.execute(
        "INSERT INTO store.suppressions (tenant_id, channel, address, scope, reason, source) "
        "VALUES (%s, 'email', %s, %s, 'unsubscribe', 'recipient')",
        (delivery.tenant_id, delivery.address, {"same": delivery.category}.get(scope, scope)),
    )
    _, taken = await claim(worker)
    assert bool(taken) is not stopped


# -- recording -----------------------------------------------------------------------------------------------


async def test_an_outcome_recorded_twice_counts_once(seed, worker, decider):
    delivery = await make_delivery(seed)
    one = await claimed(worker)
    for outcome in (Outcome(K.UNKNOWN, "timeout"), Outcome(K.UNKNOWN, "timeout")):
        await record(worker, decider, (one, outcome))
    assert await kinds(seed, delivery) == ["attempt_unknown"]
    assert (await delivery_row(seed, delivery))["state"] == "ambiguous"


async def test_a_spent_budget_ends_in_the_dead_letters(seed, worker, decider):
    delivery = await make_delivery(seed, failures=4, reason="retry")
    await record(worker, decider, (await claimed(worker), REFUSED_CONNECTION))
    letter = await row(seed, "SELECT delivery_id, reason, last_outcome FROM reporting.dead_letters")
    assert letter == {"delivery_id": delivery.id, "reason": "retries_exhausted", "last_outcome": "transient"}
    assert await kinds(seed, delivery) == ["attempt_transient", "dead"]


@pytest.mark.parametrize("kind", [K.RATE_LIMITED, K.UNAUTHORIZED, K.RELEASED])
async def test_what_is_not_the_messages_fault_burns_no_budget(seed, worker, decider, kind):
    delivery = await make_delivery(seed, failures=4, reason="retry")
    await record(worker, decider, (await claimed(worker), Outcome(kind, "not now")))
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"], after["failures"]) == ("queued", str(kind), 4)


@pytest.mark.parametrize(("kind", "tried"), [(K.RELEASED, ["first"]), (K.RATE_LIMITED, None)])
async def test_what_is_given_back_uncalled_does_not_forget_who_refused_it(seed, worker, decider, kind, tried):
    delivery = await make_delivery(seed, tried=["first"], reason="failover")
    await record(worker, decider, (await claimed(worker), Outcome(kind, "not now")))
    assert (await delivery_row(seed, delivery))["tried"] == tried


# A worker that was away for longer than its lease, and what it knows when it comes back.
MEANWHILE = {
    "looked up and queued again": ("queued", "not_sent"),
    "left without an answer and queued again": ("queued", "unanswered"),
    "expired": ("expired", "not_sent"),
    "cancelled": ("cancelled", "not_sent"),
    "dead": ("dead", "not_sent"),
    "given up": ("unconfirmed", "ambiguous"),
    "its lease ran out": ("ambiguous", "ambiguous"),
}


@pytest.mark.parametrize("meanwhile", MEANWHILE)
async def test_an_acceptance_that_is_recorded_late_is_believed(seed, worker, decider, meanwhile):
    state, attempt_state = MEANWHILE[meanwhile]
    delivery = await make_delivery(seed)
    one = await claimed(worker)
    live = state in ("queued", "ambiguous")
    await seed.execute(
        "UPDATE store.deliveries SET state = %s, reason = 'meanwhile', lease_owner = NULL, "
        "due_at = CASE WHEN %s THEN now() END, ended_at = CASE WHEN NOT %s THEN now() END",
        (state, live, live),
    )
    await seed.execute(
        "UPDATE store.attempts SET state = %s, outcome = 'unknown', "
        "closed_at = CASE WHEN %s <> 'ambiguous' THEN now() END",
        (attempt_state, attempt_state),
    )
    await record(worker, decider, (one, ACCEPTED))
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["ended_at"], after["reason"]) == ("sent", None, None)
    assert await attempt_states(seed, delivery) == ["accepted"]
    assert await claim(worker) == (0, []), "what was accepted is never sent again"


async def reopened(seed: psycopg.AsyncConnection, worker: psycopg.AsyncConnection) -> tuple[Claimed, Claimed]:
    """Two attempts of one delivery: the first was taken for not sent, the second is under way."""
    await make_delivery(seed)
    first = await claimed(worker)
    await seed.execute("UPDATE store.attempts SET state = 'not_sent', outcome = 'unknown', closed_at = now()")
    await seed.execute("UPDATE store.deliveries SET state = 'queued', lease_owner = NULL, due_at = now()")
    return first, await claimed(worker)


@pytest.mark.parametrize("second_ends", [REFUSED_CONNECTION, Outcome(K.UNKNOWN, "timeout"), ACCEPTED])
async def test_an_acceptance_beside_another_attempt_stops_further_ones_and_shows(seed, worker, decider, second_ends):
    first, second = await reopened(seed, worker)
    await record(worker, decider, (first, ACCEPTED))
    assert (await delivery_row(seed, first))["state"] == "sent"
    await record(worker, decider, (second, second_ends))
    assert (await delivery_row(seed, first))["state"] == "sent"
    assert await claim(worker) == (0, [])
    if second_ends.kind == K.ACCEPTED:
        assert await attempt_states(seed, first) == ["accepted", "duplicate"]
        shown = await rows(seed, "SELECT attempt_no FROM reporting.timeline WHERE (data ->> 'duplicate')::boolean")
        assert [event["attempt_no"] for event in shown] == [2]


async def test_what_we_saw_ourselves_is_kept_beside_evidence_that_was_quicker(seed, worker, decider):
    delivery = await make_delivery(seed)
    one = await claimed(worker)
    await seed.execute(
        "UPDATE store.attempts SET state = 'accepted', outcome = 'unknown', closed_at = now(), "
        "detail = 'settled by evidence'"
    )
    await seed.execute(
        "UPDATE store.deliveries SET state = 'sent', lease_owner = NULL, sent_at = now(), due_at = now()"
    )
    for _ in range(2):
        await record(worker, decider, (one, Outcome(K.UNKNOWN, "no answer within 10 s")))
    attempt = await row(seed, "SELECT state, outcome, detail, closed_at IS NOT NULL AS closed FROM store.attempts")
    assert attempt == {
        "state": "accepted",
        "outcome": "unknown",
        "detail": "no answer within 10 s",
        "closed": True,
    }
    assert await kinds(seed, delivery) == ["attempt_unknown"]
    assert (await delivery_row(seed, delivery))["state"] == "sent"


async def test_evidence_that_came_before_its_send_was_recorded_is_matched_once_it_is(dsn, seed, worker, decider):
    delivery = await make_delivery(seed)
    one = await claimed(worker)
    early = Evidence(EvidenceKind.DELIVERED, "key", datetime.now(UTC), provider_message_id=ACCEPTED.provider_message_id)
    async with Database(dsn, name="landed tests") as db:
        async with db.transaction() as conn:
            await inbound.store_events(conn, provider="mailgun", source="provider", evidence=[early], raw=b"{}")
        assert await apply(db, Settings(), limit=10) == 1
        assert (await row(seed, "SELECT state FROM store.inbound_events"))["state"] == "parked"
        assert await apply(db, Settings(), limit=10) == 0, "it waits, for minutes"
        await record(worker, decider, (one, ACCEPTED))
        assert await apply(db, Settings(), limit=10) == 1, "and no longer, now that its message is known"
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["delivered_at"]) == ("delivered", early.occurred_at)


# -- a lane at work ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("sandbox") / "ledger.jsonl", hold_seconds=5) as process:
        yield process


def mail_settings(url: str, **changes: Any) -> Settings:
    account = {
        "adapter": "mailgun",
        "domain": SandboxProcess.domain,
        "api_key": SandboxProcess.api_key,
        "webhook_signing_key": SandboxProcess.signing_key,
        "base_url": url,
    }
    return Settings(providers={"mailgun": account}, routes={"email": ("mailgun",)}, **changes)


def email_lane(settings: Settings, klass: NotificationClass = NotificationClass.TRANSACTIONAL) -> Lane:
    return Lane(f"email.{klass}.default", "email", klass, settings.routes["email"])


@contextlib.asynccontextmanager
async def working(
    dsn: str, settings: Settings, klass: NotificationClass = NotificationClass.TRANSACTIONAL
) -> AsyncIterator[tuple[Dispatcher, asyncio.Task[None]]]:
    """A lane at work; stopped, and waited for, at the end."""
    renderer = RenderPool()
    await renderer.start()
    try:
        async with Database(dsn, name="landed tests") as db, Transport() as transport:
            dispatcher = make_dispatcher(
                email_lane(settings, klass), db=db, settings=settings, transport=transport, renderer=renderer
            )
            running = asyncio.create_task(dispatcher.run())
            try:
                yield dispatcher, running
            finally:
                dispatcher.stop()
                await running
    finally:
        await renderer.stop()


async def ended(conn: psycopg.AsyncConnection, delivery: Any, state: str) -> Any:
    async def found() -> Any:
        after = await delivery_row(conn, delivery)
        return after if after["state"] == state else None

    return await until(found)


def calls(sandbox: SandboxProcess, delivery: Any) -> int:
    return len(sandbox.ledger(kind="accepted", landed_delivery=str(delivery.id)))


async def test_a_lane_sends_what_is_due_and_records_what_came_of_it(dsn, seed, sandbox):
    delivery = await make_delivery(seed, sender="Shop <shop@example.com>")
    async with working(dsn, mail_settings(sandbox.url)):
        after = await ended(seed, delivery, "sent")
    attempt = await row(seed, "SELECT state, outcome, status_code, content_hash FROM store.attempts")
    assert (attempt["state"], attempt["outcome"], attempt["status_code"]) == ("accepted", "accepted", 200)
    assert attempt["content_hash"]
    assert after["provider_message_id"] == f"{delivery.id}.1@{sandbox.domain}"
    assert calls(sandbox, delivery) == 1


async def test_what_had_not_begun_when_the_worker_was_told_to_stop_is_given_back(dsn, seed, sandbox):
    delivery = await make_delivery(seed, sender="Shop <shop@example.com>")
    async with (
        await connect(dsn) as migration,
        working(dsn, mail_settings(sandbox.url)) as (dispatcher, running),
    ):
        await migration.execute("LOCK TABLE store.templates")  # rendering waits, so nothing can be called yet
        await ended(seed, delivery, "sending")
        dispatcher.stop()
        await migration.rollback()
        await running
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"], after["failures"]) == ("queued", "released", 0)
    assert await kinds(seed, delivery) == ["attempt_released"]
    assert calls(sandbox, delivery) == 0


async def test_what_was_claimed_before_its_provider_broke_down_is_given_back(dsn, seed, sandbox):
    delivery = await make_delivery(seed, sender="Shop <shop@example.com>")
    async with await connect(dsn) as migration, working(dsn, mail_settings(sandbox.url)) as (dispatcher, _):
        await migration.execute("LOCK TABLE store.templates")  # rendering waits, so nothing can be called yet
        await ended(seed, delivery, "sending")
        await control.trip(seed, "mailgun", detail="down", cool_off=600)

        async def known() -> bool:
            return not dispatcher._control.is_ready("mailgun")

        await until(known)
        await migration.rollback()
        after = await ended(seed, delivery, "queued")
    assert (after["reason"], after["failures"]) == ("released", 0)
    assert await kinds(seed, delivery) == ["attempt_released"]
    assert calls(sandbox, delivery) == 0


async def test_a_call_that_comes_too_late_after_its_intent_is_not_made(dsn, seed, sandbox):
    delivery = await make_delivery(seed, sender="Shop <shop@example.com>")
    async with working(dsn, mail_settings(sandbox.url, times={"gate_seconds": 1e-6})):
        await until(lambda: kinds(seed, delivery))
    assert set(await kinds(seed, delivery)) == {"attempt_released"}
    assert calls(sandbox, delivery) == 0


async def test_a_call_under_way_is_finished_before_the_worker_stops(dsn, seed, sandbox):
    delivery = await make_delivery(seed, sender="Shop <shop@example.com>", address="timeout-after-accept@example.com")
    times = {"send_seconds": 1.0}
    async with working(dsn, mail_settings(sandbox.url, times=times)) as (dispatcher, running):
        await until(lambda: asyncio.to_thread(calls, sandbox, delivery))
        dispatcher.stop()
        await running
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"]) == ("ambiguous", "outcome_unknown")


async def test_a_claim_under_way_when_the_last_call_is_over_is_given_back_too(dsn, seed, sandbox):
    tenant = await make_tenant(seed)
    given = {"tenant_id": tenant.id, "sender": "Shop <shop@example.com>"}
    calling = await make_delivery(seed, address="timeout-after-accept@example.com", **given)
    times = {"send_seconds": 1.0}
    async with (
        await connect(dsn) as recipient,
        working(dsn, mail_settings(sandbox.url, times=times)) as (dispatcher, running),
    ):
        await until(lambda: asyncio.to_thread(calls, sandbox, calling))
        lock = "SELECT pg_advisory_xact_lock(11, store.address_bucket(%s, 'email', 'slow@example.com'))"
        await recipient.execute(lock, (tenant.id,))  # as an opt-out holds it: the claim waits
        claimed = await make_delivery(seed, address="slow@example.com", **given)
        dispatcher.woken.set()
        await until(lambda: waiting_for_a_lock(seed))
        dispatcher.stop()
        await ended(seed, calling, "ambiguous")
        await recipient.rollback()
        await running
    after = await delivery_row(seed, claimed)
    assert (after["state"], after["reason"], after["failures"]) == ("queued", "released", 0)


async def test_unauthorized_pauses_the_provider_and_burns_nothing(dsn, seed, sandbox):
    tenant = await make_tenant(seed)
    address = f"unauthorized+{uuid4().hex}@example.com"
    refused = await make_delivery(seed, tenant_id=tenant.id, sender="Shop <shop@example.com>", address=address)
    async with working(dsn, mail_settings(sandbox.url)):
        await until(lambda: kinds(seed, refused))
        later = await make_delivery(seed, tenant_id=tenant.id, sender="Shop <shop@example.com>")
        shown = await row(seed, "SELECT status, reason, ready FROM reporting.providers")
    after = await delivery_row(seed, refused)
    assert (after["state"], after["reason"], after["failures"]) == ("queued", "unauthorized", 0)
    assert shown == {"status": "open", "reason": "unauthorized", "ready": False}
    assert (await delivery_row(seed, later))["attempt_no"] == 0


async def test_a_campaign_waits_while_urgent_work_is_late_and_what_expires_still_ends(dsn, seed, sandbox):
    await seed.execute("UPDATE store.load_shedding SET active = true")
    tenant = await make_tenant(seed)
    given = {"tenant_id": tenant.id, "lane": "email.promotional.default", "class": "promotional"}
    waiting = await make_delivery(seed, sender="Shop <shop@example.com>", **given)
    over = await make_delivery(seed, expires_at=datetime.now(UTC) - timedelta(seconds=1), **given)
    urgent = await make_delivery(seed, tenant_id=tenant.id, sender="Shop <shop@example.com>")
    settings = mail_settings(sandbox.url)
    async with working(dsn, settings, NotificationClass.PROMOTIONAL), working(dsn, settings):
        await ended(seed, over, "expired")
        await ended(seed, urgent, "sent")
        assert (await delivery_row(seed, waiting))["attempt_no"] == 0
        await seed.execute("UPDATE store.load_shedding SET active = false")
        assert (await ended(seed, waiting, "sent"))["failures"] == 0


async def test_a_rung_is_spent_when_every_provider_of_the_route_has_refused(dsn, seed):
    await make_delivery(seed, sender="Shop <shop@example.com>")
    account = mail_settings("http://127.0.0.1:9").providers["mailgun"]
    both = Settings(providers={"first": account, "second": account}, routes={"email": ("first", "second")})
    began = datetime.now(UTC)
    async with working(dsn, both):
        [after] = await until(lambda: rows(seed, "SELECT * FROM store.deliveries WHERE failures = 1"))
    assert (after["state"], after["reason"], after["tried"]) == ("queued", "retry", None)
    assert after["due_at"] >= began + timedelta(seconds=both.ladder("email", "transactional")[0]), "a rung later"
    asked = await rows(seed, "SELECT provider, state FROM store.attempts ORDER BY no")
    assert asked == [{"provider": "first", "state": "not_sent"}, {"provider": "second", "state": "not_sent"}]
    refused = "SELECT data ->> 'reason' AS reason FROM store.events WHERE kind = 'attempt_transient' ORDER BY id"
    assert [event["reason"] for event in await rows(seed, refused)] == ["failover", "retry"]


async def test_calls_keep_to_the_rate_of_their_provider(dsn, seed, sandbox):
    rate, deliveries = 20, 50
    tenant = await make_tenant(seed)
    await control.publish(seed, [], [control.PublishedProvider("mailgun", "email", rate, True)])
    for _ in range(deliveries):
        await make_delivery(seed, tenant_id=tenant.id, sender="Shop <shop@example.com>")

    async def all_sent() -> bool:
        [count] = await rows(seed, "SELECT count(*) FROM store.deliveries WHERE state = 'sent'")
        return count["count"] == deliveries

    async with working(dsn, mail_settings(sandbox.url)), working(dsn, mail_settings(sandbox.url)):
        await until(all_sent)
    began = [one["opened_at"] for one in await rows(seed, "SELECT opened_at FROM store.attempts ORDER BY opened_at")]
    ended_at = await row(seed, "SELECT max(closed_at) AS last FROM store.attempts")
    # All of them took the slots they needed; a slow machine takes longer.
    assert (ended_at["last"] - began[0]).total_seconds() >= (deliveries - 1) / rate - 0.5


async def test_a_limit_between_claim_and_lease_gives_the_claimed_back_and_moves_no_slot(dsn, seed, sandbox):
    await control.publish(seed, [], [control.PublishedProvider("mailgun", "email", 20, True)])
    delivery = await make_delivery(seed, sender="Shop <shop@example.com>")
    async with await connect(dsn) as migration, working(dsn, mail_settings(sandbox.url)):
        await migration.execute("LOCK TABLE store.templates")  # rendering waits, so no slot is leased yet
        await ended(seed, delivery, "sending")
        await control.limit(seed, "mailgun", detail="slow down", seconds=3600, hits=1, factor_min=0.1)
        limited = await row(seed, "SELECT next_at FROM store.provider_rates")
        await migration.rollback()
        after = await ended(seed, delivery, "queued")
    assert (after["reason"], after["failures"]) == ("released", 0)
    assert await row(seed, "SELECT next_at FROM store.provider_rates") == limited
    assert calls(sandbox, delivery) == 0


async def test_who_cannot_lease_a_slot_in_time_is_given_back_and_sent_later(dsn, seed, sandbox):
    await control.publish(seed, [], [control.PublishedProvider("mailgun", "email", 20, True)])
    delivery = await make_delivery(seed, sender="Shop <shop@example.com>")
    async with await connect(dsn) as stuck, working(dsn, mail_settings(sandbox.url)):
        await stuck.execute("SELECT FROM store.provider_rates FOR UPDATE")
        await until(lambda: kinds(seed, delivery))
        assert set(await kinds(seed, delivery)) == {"attempt_released"}
        await stuck.rollback()
        assert (await ended(seed, delivery, "sent"))["failures"] == 0
    assert calls(sandbox, delivery) == 1


async def test_what_waits_for_a_crowded_provider_holds_up_nobody_and_is_sent_when_there_is_room(dsn, seed, sandbox):
    """As many as a claim takes were refused by the first provider, and the second has no slot for an hour."""
    account = mail_settings(sandbox.url).providers["mailgun"]
    both = Settings(
        providers={"first": account, "second": account}, routes={"email": ("first", "second")}, worker={"claim_max": 5}
    )
    await control.publish(seed, [], [control.PublishedProvider("second", "email", 10, True)])
    await seed.execute("UPDATE store.provider_rates SET next_at = now() + interval '1 hour'")
    tenant = await make_tenant(seed)
    given = {"tenant_id": tenant.id, "sender": "Shop <shop@example.com>"}
    long_ago = datetime.now(UTC) - timedelta(minutes=1)
    refused = [
        await make_delivery(seed, tried=["first"], reason="failover", due_at=long_ago, **given) for _ in range(5)
    ]
    behind = await make_delivery(seed, **given)
    async with working(dsn, both):
        assert (await ended(seed, behind, "sent"))["provider"] == "first"
        for delivery in refused:
            after = await delivery_row(seed, delivery)
            assert (after["state"], after["reason"], after["attempt_no"]) == ("queued", "failover", 0)
        await seed.execute("UPDATE store.provider_rates SET next_at = now()")
        for delivery in refused:
            assert (await ended(seed, delivery, "sent"))["provider"] == "second"


# -- clocks --------------------------------------------------------------------------------------------------


def worker_clock(monkeypatch: pytest.MonkeyPatch, ahead: timedelta) -> None:
    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + ahead

    monkeypatch.setattr("app.flows.dispatch.datetime", Shifted)


async def test_who_finds_what_is_due_locked_looks_again_after_a_while(dsn, seed):
    await make_delivery(seed)
    async with await connect(dsn) as other, Database(dsn, name="landed tests") as db:
        await other.execute("SELECT FROM store.deliveries FOR UPDATE")
        dispatcher = recorder(db)
        assert await dispatcher._claim_and_start() == 0
        assert await dispatcher._idle_seconds() == CROWDED_SECONDS


@pytest.mark.parametrize("ahead", [timedelta(hours=-2), timedelta(0), timedelta(hours=2)])
async def test_how_long_a_lane_rests_is_measured_by_the_databases_clock(dsn, seed, monkeypatch, ahead):
    worker_clock(monkeypatch, ahead)
    await make_delivery(seed, due_at=datetime.now(UTC) + timedelta(minutes=10))
    async with Database(dsn, name="landed tests") as db:
        dispatcher = recorder(db)
        assert await dispatcher._claim_and_start() == 0
        assert await dispatcher._idle_seconds() == dispatcher._sizes.poll_seconds
        await seed.execute("UPDATE store.deliveries SET due_at = now()")
        assert await dispatcher._idle_seconds() == CROWDED_SECONDS


@pytest.mark.parametrize("ahead", [timedelta(hours=-2), timedelta(0), timedelta(hours=2)])
async def test_a_retry_waits_for_its_rung_whatever_the_workers_clock_says(dsn, seed, worker, monkeypatch, ahead):
    worker_clock(monkeypatch, ahead)
    delivery = await make_delivery(seed, expires_at=datetime.now(UTC) + timedelta(hours=12))
    one = await claimed(worker)
    async with Database(dsn, name="landed tests") as db:
        dispatcher = recorder(db)
        await dispatcher._record([Finished(one, REFUSED_CONNECTION, b"hash")])
        policy = dispatcher._lines["mailgun"].policy
    after = await delivery_row(seed, delivery)
    rung = timedelta(seconds=policy.ladder[0])
    assert rung <= after["due_at"] - after["updated_at"] <= rung * (1 + policy.jitter)
    told = await row(seed, "SELECT (data ->> 'due_at')::timestamptz AS due_at FROM store.events")
    assert told == {"due_at": after["due_at"]}


async def test_a_recipient_who_has_had_enough_keeps_nobody_else_waiting(dsn, seed, worker):
    """As one of APNs's devices does: counted as a limit, at no cost to the delivery or to the account (R-092)."""
    delivery = await make_delivery(seed)
    one = await claimed(worker)
    enough = Outcome(K.RATE_LIMITED, "TooManyRequests", 429, retry_after_seconds=600, reason=RECIPIENT_LIMITED)
    async with Database(dsn, name="landed tests") as db:
        await recorder(db)._record([Finished(one, enough, b"hash")])
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"], after["failures"]) == ("queued", "rate_limited", 0)
    assert after["due_at"] > after["updated_at"] + timedelta(seconds=500)
    told = await row(seed, "SELECT paused_until > now() AS is_paused, hits FROM store.provider_states")
    assert told == {"is_paused": False, "hits": 1}


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [("7", 7), ("a date", 90), ("99999999999", 3600), ("-5", 1), ("0", 1), ("soon", 30), ("nan", 30)],
)
async def test_a_lane_rests_as_long_as_its_provider_asks_between_a_second_and_an_hour(dsn, seed, asked, seconds):
    tenant = await make_tenant(seed)
    refused = await make_delivery(seed, tenant_id=tenant.id, sender="Shop <shop@example.com>")
    date = datetime.now(UTC) + timedelta(seconds=90)
    retry_after = format_datetime(date, usegmt=True) if asked == "a date" else asked
    with HTTPServer(host="127.0.0.1") as provider:
        provider.expect_request(re.compile(".*")).respond_with_data("slow down", 429, {"Retry-After": retry_after})
        async with working(dsn, mail_settings(provider.url_for("").rstrip("/"))):
            await until(lambda: kinds(seed, refused))
            later = await make_delivery(seed, tenant_id=tenant.id, sender="Shop <shop@example.com>")
            state = await row(
                seed, "SELECT paused_until, paused_until - limited_at AS pause, hits FROM store.provider_states"
            )
        assert len(provider.log) == 1 or seconds == 1
    if asked == "a date":  # it has no fractions of a second, and some of its seconds were over before it was read
        assert state["paused_until"] >= date - timedelta(seconds=1)
        assert state["pause"] <= timedelta(seconds=seconds)
    else:
        assert state["pause"] == timedelta(seconds=seconds)
    after = await delivery_row(seed, refused)
    assert (after["state"], after["reason"], after["failures"]) == ("queued", "rate_limited", 0)
    assert seconds == 1 or (await delivery_row(seed, later))["attempt_no"] == 0
    assert [e["event"] for e in await rows(seed, "SELECT event FROM store.control_events")][:1] == ["limited"]


async def test_a_connection_refused_is_retried_and_certainly_not_sent(dsn, seed):
    delivery = await make_delivery(seed, sender="Shop <shop@example.com>")
    async with working(dsn, mail_settings("http://127.0.0.1:9")):
        await until(lambda: kinds(seed, delivery))
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"], after["failures"]) == ("queued", "retry", 1)
    assert await attempt_states(seed, delivery) == ["not_sent"]


async def test_an_address_the_provider_refuses_outright_is_suppressed(dsn, seed, sandbox):
    delivery = await make_delivery(seed, sender="Shop <shop@example.com>", address="invalid-address@example.com")
    async with working(dsn, mail_settings(sandbox.url)):
        after = await ended(seed, delivery, "failed")
    assert after["reason"] == "recipient_invalid"
    found = await row(seed, "SELECT address, reason, delivery_id FROM store.suppressions")
    assert found == {
        "address": "invalid-address@example.com",
        "reason": "hard_bounce",
        "delivery_id": delivery.id,
    }


POISONS = {
    "raises": "{{ 1 // 0 }}",
    "asks for a file named NUL": "{% include '\\x00' %}",
    "names a lone surrogate": "{% include '\\ud800' %}",
    "reaches for what it may not": "{{ ''.__class__.__mro__ }}",
}


@pytest.mark.parametrize("poison", POISONS)
async def test_a_poison_template_ends_its_own_delivery_and_no_other(dsn, seed, sandbox, poison):
    tenant = await make_tenant(seed)
    await make_template(seed, tenant_id=tenant.id, template_id="poison", text=POISONS[poison])
    bad = await make_notification(seed, tenant_id=tenant.id, template_id="poison", state="planned")
    victim = await make_delivery(seed, notification=bad, sender="Shop <shop@example.com>")
    neighbour = await make_delivery(seed, tenant_id=tenant.id, sender="Shop <shop@example.com>")
    async with working(dsn, mail_settings(sandbox.url)):
        await ended(seed, neighbour, "sent")
        after = await ended(seed, victim, "dead")
    assert after["reason"] == "render_failed"
    assert calls(sandbox, victim) == 0


async def test_an_outcome_the_database_refuses_costs_its_neighbours_nothing(dsn, seed, worker):
    """No adapter makes such values; should one ever, the lane must go on."""
    tenant = await make_tenant(seed)
    for _ in range(3):
        await make_delivery(seed, tenant_id=tenant.id)
    _, batch = await claim(worker)
    await worker.commit()
    odd_words = Outcome(K.UNKNOWN, "said \0 and \ud800")
    odd_id = replace(ACCEPTED, provider_message_id="\0")
    async with Database(dsn, name="landed tests") as db:
        dispatcher = recorder(db)
        outcomes = zip(batch, [odd_words, odd_id, ACCEPTED], strict=True)
        await dispatcher._record([Finished(one, outcome, b"hash") for one, outcome in outcomes])
    states = [(await delivery_row(seed, one))["state"] for one in batch]
    assert states == ["ambiguous", "sending", "sent"], "the second waits for its lease to run out"
    assert (await row(seed, "SELECT detail FROM store.attempts WHERE state = 'ambiguous'"))["detail"] == "said  and ?"
