"""control: breakers, shares, rates and load shedding, as the workers share them through the database."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from app.db import Database
from app.domain.models import Outcome, OutcomeKind
from app.flows.control import Control
from app.providers.accounts import ProviderSet
from app.providers.base import SENDER_REFUSED
from app.settings import Breakers, Settings, Shedding
from app.store import control as store
from app.store import upkeep
from app.store.control import PublishedLane, PublishedProvider, Tally
from tests.factories import make_delivery, make_notification, make_tenant
from tests.looking import rows

K = OutcomeKind
LIMITS = {
    "window": 30.0,
    "failures_min": 5,
    "failure_rate": 0.5,
    "cool_off": 10.0,
    "calls_min": 20,
    "degraded_rate": 0.2,
    "slow_rate": 0.5,
    "share_min": 0.1,
    "shift_seconds": 15.0,
}
LANE = "email.transactional.default"


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A session whose every statement commits."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await store.publish(
            connection,
            [PublishedLane(LANE, "email", "transactional", [{"provider": "a", "order": 1, "weight": 1}])],
            [PublishedProvider(name, "email", None, True) for name in ("a", "b")],
        )
        yield connection


async def provider(conn: psycopg.AsyncConnection, name: str = "a") -> dict[str, Any]:
    [row] = await rows(conn, "SELECT * FROM store.provider_states WHERE provider = %s", name)
    return row


async def steps(conn: psycopg.AsyncConnection) -> list[str]:
    return [row["event"] for row in await rows(conn, "SELECT event FROM store.control_events ORDER BY id")]


async def judged(conn: psycopg.AsyncConnection, *tallies: Tally, **limits: float) -> list[str]:
    """The steps that these outcomes lead to."""
    if tallies:
        await store.report_outcomes(conn, tallies)
    events = await store.judge_providers(conn, ["a", "b"], ["a", "b"], LIMITS | limits)
    return [f"{event.name} {event.event}" for event in events]


async def opened(conn: psycopg.AsyncConnection, *, cool_off: float = 10.0, over: bool = True) -> None:
    """Provider a, its breaker open. over: its cool-off has passed."""
    await store.trip(conn, "a", detail="refused", cool_off=cool_off)
    if over:
        await conn.execute("UPDATE store.provider_states SET retry_at = now() WHERE provider = 'a'")


# -- breakers --------------------------------------------------------------------------------------------------


async def test_a_breaker_opens_when_half_of_enough_calls_fail(conn):
    assert await judged(conn, Tally("a", calls=10, failures=5), Tally("b", calls=10, failures=4)) == ["a opened"]
    a = await provider(conn)
    assert (a["breaker"], a["reason"], a["detail"]) == ("open", "failing", "5 of 10 calls failed in 30 seconds")
    assert a["retry_at"] - a["since"] == timedelta(seconds=10)
    assert await judged(conn) == [], "it is open already"


@pytest.mark.parametrize(("calls", "failures"), [(4, 4), (11, 5), (1000, 499)])
async def test_a_breaker_stays_closed_for_few_failures_or_for_a_small_part(conn, calls, failures):
    assert await judged(conn, Tally("a", calls=calls, failures=failures), degraded_rate=1.0) == []


async def test_reports_of_several_workers_add_up(conn):
    for _ in range(4):
        assert await judged(conn, Tally("a", calls=1, failures=1)) == []
    assert await judged(conn, Tally("a", calls=1, failures=1)) == ["a opened"]


async def test_what_failed_before_the_window_is_forgotten(conn):
    await store.report_outcomes(conn, [Tally("a", calls=9, failures=9)])
    await conn.execute("UPDATE store.provider_outcomes SET at = at - interval '60 seconds'")
    assert await judged(conn, Tally("a", calls=1, failures=1)) == []


async def test_an_open_breaker_is_tried_by_one_worker_of_eight(dsn, conn):
    await opened(conn)

    async def take() -> str | None:
        async with await psycopg.AsyncConnection.connect(dsn) as own:
            taken = await store.take_probe(own, ["a", "b"], worker_id=uuid4(), probe_seconds=20)
            await asyncio.sleep(0)
            await own.commit()
            return taken

    assert sorted(await asyncio.gather(*(take() for _ in range(8))), key=str) == [None] * 7 + ["a"]
    assert await take() is None, "nor by another one while that call may be under way"


async def test_an_open_breaker_is_not_tried_before_its_cool_off(conn):
    await opened(conn, over=False)
    assert await store.take_probe(conn, ["a"], worker_id=uuid4(), probe_seconds=20) is None
    [state] = await store.read_states(conn, ["a"], klass="transactional")
    assert (state.ready, state.probe_due) == (False, False)
    assert state.ready_at == (await provider(conn))["retry_at"]


async def test_a_probe_whose_worker_died_is_sent_by_another(conn):
    await opened(conn)
    assert await store.take_probe(conn, ["a"], worker_id=uuid4(), probe_seconds=20) == "a"
    await conn.execute("UPDATE store.provider_states SET probe_until = now() WHERE provider = 'a'")
    assert await store.take_probe(conn, ["a"], worker_id=uuid4(), probe_seconds=20) == "a"


async def test_a_probe_that_gets_through_closes_the_breaker_and_load_comes_back_in_steps(conn):
    await judged(conn, Tally("a", calls=50, failures=50))
    await conn.execute("UPDATE store.provider_states SET retry_at = now() WHERE provider = 'a'")
    me = uuid4()
    await store.take_probe(conn, ["a"], worker_id=me, probe_seconds=20)
    assert await store.close_breaker(conn, "a", worker_id=uuid4(), share_min=0.1, detail="not mine") == []
    assert await store.close_breaker(conn, "a", worker_id=me, share_min=0.1, detail="accepted")
    a = await provider(conn)
    assert (a["breaker"], a["share"], a["recovering"], a["probe_owner"]) == ("closed", 0.1, True, None)
    assert await judged(conn) == [], "what failed before is forgiven"
    shares = []
    while (await provider(conn))["recovering"]:
        await conn.execute("UPDATE store.provider_states SET share_changed_at = now() - interval '15 seconds'")
        assert await judged(conn) == ["a share_raised"]
        shares.append((await provider(conn))["share"])
        assert await judged(conn) == [], "a step at a time"
    assert shares == [0.2, 0.4, 0.8, 1]


async def test_a_probe_that_fails_doubles_the_cool_off_up_to_its_most(conn):
    await opened(conn, cool_off=10)
    waits = []
    for _ in range(3):
        me = uuid4()
        await conn.execute("UPDATE store.provider_states SET retry_at = now() WHERE provider = 'a'")
        await store.take_probe(conn, ["a"], worker_id=me, probe_seconds=20)
        await store.keep_open(conn, "a", worker_id=me, reason="failing", detail="503", cool_off_max=35)
        waits.append((await provider(conn))["cool_off_seconds"])
    assert waits == [20, 35, 35]
    assert await steps(conn) == ["opened"] + ["probe_failed"] * 3


async def test_only_what_speaks_against_the_account_trips_its_breaker(dsn, conn):
    async with Database(dsn, name="landed tests") as db:
        control = make_control(db)
        async with db.transaction() as own:
            refused = Outcome(K.UNAUTHORIZED, "the sender is not verified", 403, reason=SENDER_REFUSED)
            await control.mind(own, "a", [refused], probe=None, pause=None)
        assert (await provider(conn))["breaker"] == "closed"
        async with db.transaction() as own:
            await control.mind(own, "a", [Outcome(K.UNAUTHORIZED, "bad key", 401)], probe=None, pause=None)
    a = await provider(conn)
    assert (a["breaker"], a["reason"], a["detail"]) == ("open", "unauthorized", "bad key")


class Rotating:
    """Account a, with a secret in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_text("t" * 32)
        smtp = {"adapter": "smtp", "host": "127.0.0.1", "security": "none", "bounce_domain": "bounces.example.com"}
        self.settings = Settings(providers={"a": smtp | {"webhook_token_file": str(file)}}, routes={"email": ("a",)})
        self.providers = ProviderSet(self.settings.providers)

    def rotate(self) -> None:
        """Another secret, to be seen at the next look."""
        self._file.write_text("u" * 32)
        os.utime(self._file, ns=(1, 1))  # a clock may be too coarse to tell
        self.providers._looked_at -= 60


async def test_who_refused_our_credentials_is_tried_as_soon_as_they_are_changed(db, conn, tmp_path):
    account = Rotating(tmp_path / "token")
    await opened(conn, cool_off=1000, over=False)
    control = Control(db, account.providers, account.settings, uuid4())
    await control.report()
    assert (await provider(conn))["retry_at"] > datetime.now(UTC)
    account.rotate()
    await control.report()
    assert (await provider(conn))["retry_at"] <= datetime.now(UTC)


async def test_new_credentials_are_not_forgotten_while_the_database_is_away(db, conn, tmp_path):
    account = Rotating(tmp_path / "token")
    await opened(conn, cool_off=1000, over=False)
    control = Control(db, account.providers, account.settings, uuid4())
    account.rotate()
    await conn.execute("ALTER TABLE store.provider_states RENAME TO away")
    with pytest.raises(psycopg.Error):
        await control.report()
    await conn.execute("ALTER TABLE store.away RENAME TO provider_states")
    await control.report()
    assert (await provider(conn))["retry_at"] <= datetime.now(UTC)


# -- shares ----------------------------------------------------------------------------------------------------


async def aged(conn: psycopg.AsyncConnection) -> None:
    """So that the last change of a share is long enough ago for the next one, and its calls count."""
    await conn.execute("UPDATE store.provider_states SET share_changed_at = now() - interval '20 seconds'")


@pytest.mark.parametrize(
    ("tally", "expected"),
    [
        (Tally("a", calls=100, failures=20), ["a share_lowered"]),
        (Tally("a", calls=100, slow=50), ["a share_lowered"]),
        (Tally("a", calls=19, slow=19), []),
        (Tally("a", calls=100, failures=10, slow=30), []),
        (Tally("a", calls=100), []),
    ],
    ids=["fails often", "slow", "too few calls", "between", "well"],
)
async def test_a_provider_that_fails_often_or_is_slow_loses_half_its_share(conn, tally, expected):
    await aged(conn)
    assert await judged(conn, tally) == expected
    assert (await provider(conn))["share"] == (0.5 if expected else 1)


async def test_a_share_that_was_lowered_is_raised_only_well_below_what_lowered_it(conn):
    await aged(conn)
    await judged(conn, Tally("a", calls=100, slow=60))
    for slow, expected in ((40, []), (20, ["a share_raised"])):
        await conn.execute("DELETE FROM store.provider_outcomes")
        await aged(conn)
        assert await judged(conn, Tally("a", calls=100, slow=slow)) == expected


async def test_a_share_changes_once_in_its_time(conn):
    await aged(conn)
    assert await judged(conn, Tally("a", calls=100, slow=60)) == ["a share_lowered"]
    assert await judged(conn, Tally("a", calls=100, slow=100)) == []
    assert (await provider(conn))["share"] == 0.5


async def test_nobody_loses_all_of_a_share(conn):
    for _ in range(6):
        await aged(conn)
        await judged(conn, Tally("a", calls=100, slow=100))
    assert (await provider(conn))["share"] == 0.1


# -- rates -----------------------------------------------------------------------------------------------------


async def limited(conn: psycopg.AsyncConnection, rate: float | None) -> None:
    await store.publish(conn, [], [PublishedProvider("a", "email", rate, True)])


async def test_slots_are_leased_one_after_the_other_whoever_asks(dsn, conn):
    await limited(conn, 10)
    # They begin in an hour, so that none is over before the next is leased.
    [before] = await rows(conn, "UPDATE store.provider_rates SET next_at = now() + interval '1 hour' RETURNING next_at")

    async def lease() -> float:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as own:
            slots = await store.lease_slots(own, "a", 5)
            assert slots is not None
            return slots.step_seconds

    assert await asyncio.gather(*(lease() for _ in range(6))) == [pytest.approx(0.1)] * 6
    [after] = await rows(conn, "SELECT next_at FROM store.provider_rates")
    assert after["next_at"] - before["next_at"] == timedelta(seconds=3), "thirty slots, and nobody shares one"


async def test_what_was_not_leased_in_time_is_not_saved_up(conn):
    await limited(conn, 10)
    [before] = await rows(
        conn, "UPDATE store.provider_rates SET next_at = now() - interval '1 hour' RETURNING clock_timestamp() AS now"
    )
    slots = await store.lease_slots(conn, "a", 10)
    assert slots is not None
    assert slots.first_in_seconds == 0
    [after] = await rows(
        conn, "SELECT next_at - interval '1 second' AS began, clock_timestamp() AS now FROM store.provider_rates"
    )
    assert before["now"] <= after["began"] <= after["now"], "ten slots from the moment of the lease on"


async def test_a_provider_without_a_rate_has_no_slots(conn):
    await limited(conn, 10)
    await limited(conn, None)
    assert await store.lease_slots(conn, "a", 10) is None
    [state] = await store.read_states(conn, ["a"], klass="transactional")
    assert state.rate is None


async def test_a_limit_that_a_provider_reports_pauses_it_and_slows_it_down_for_a_while(conn):
    await limited(conn, 100)
    await conn.execute("UPDATE store.provider_rates SET factor_changed_at = now() - interval '1 minute'")
    await store.limit(conn, "a", detail="slow down", seconds=7, hits=3, factor_min=0.1)
    await store.limit(conn, "a", detail="slow down", seconds=2, hits=1, factor_min=0.1)
    [state] = await store.read_states(conn, ["a"], klass="transactional")
    assert (state.ready, state.rate) == (False, pytest.approx(80))
    a = await provider(conn)
    assert a["paused_until"] > datetime.now(UTC) + timedelta(seconds=5), "the longer pause stands"
    assert a["hits"] == 4
    assert await steps(conn) == ["limited", "limited"]
    await conn.execute("UPDATE store.provider_rates SET factor_changed_at = now() - interval '1 minute'")
    await store.speed_up(conn, ["a", "b"])
    [state] = await store.read_states(conn, ["a"], klass="transactional")
    assert state.rate == pytest.approx(100)


async def test_who_judges_waits_for_no_rate_that_a_record_holds(dsn, conn):
    """The record may wait for what was judged just now: each would wait for the other."""
    for name in ("a", "b"):
        await store.publish(conn, [], [PublishedProvider(name, "email", 100, True)])
    await conn.execute("UPDATE store.provider_rates SET factor = 0.5, factor_changed_at = now() - interval '1 minute'")
    await store.report_outcomes(conn, [Tally("b", calls=10, failures=10)])
    async with Database(dsn, name="landed tests") as db, await psycopg.AsyncConnection.connect(dsn) as record:
        control = make_control(db)
        await store.limit(record, "a", detail="slow down", seconds=1, hits=1, factor_min=0.1)
        async with asyncio.timeout(10):
            await control.report()
        assert (await provider(conn, "b"))["breaker"] == "open"
        await store.limit(record, "b", detail="slow down", seconds=1, hits=1, factor_min=0.1)
    factors = await rows(conn, "SELECT provider, factor FROM store.provider_rates ORDER BY provider")
    assert [row["factor"] for row in factors] == [pytest.approx(0.4), pytest.approx(0.625)]


async def test_one_of_many_receivers_slows_down_nobody_else(dsn, conn):
    async with Database(dsn, name="landed tests") as db:
        control = make_control(db)
        await store.publish(conn, [], [PublishedProvider(name, "email", 100, True) for name in ("a", "chat")])
        await conn.execute("UPDATE store.provider_rates SET factor_changed_at = now() - interval '1 minute'")
        for account in ("a", "chat"):
            async with db.transaction() as own:
                await control.mind(own, account, [Outcome(K.RATE_LIMITED, "429")], probe=None, pause=5.0)
    known = await rows(
        conn, "SELECT provider, factor, next_at > now() AS later FROM store.provider_rates ORDER BY provider"
    )
    assert [(row["provider"], row["factor"], row["later"]) for row in known] == [
        ("a", pytest.approx(0.8), True),
        ("chat", 1, False),
    ]
    assert (await provider(conn, "chat"))["hits"] == 1


# -- load shedding ---------------------------------------------------------------------------------------------


async def load(conn: psycopg.AsyncConnection, **changes: Any) -> list[str]:
    given = {
        "region": "local",
        "every_seconds": 0,
        "transactional_seconds": 30,
        "alert_seconds": 10,
        "apart": ["chat", "webhook"],
    }
    return [event.event for event in await store.judge_load(conn, **given | changes)]


async def served(conn: psycopg.AsyncConnection, *lanes: str) -> None:
    await upkeep.beat(conn, worker_id=uuid4(), region="local", host="here", pid=1, lanes=lanes)


async def late(conn: psycopg.AsyncConnection, seconds: float, **columns: Any) -> Any:
    due = datetime.now(UTC) - timedelta(seconds=seconds)
    return await make_delivery(conn, due_at=due, **columns)


async def test_promotional_claims_pause_while_urgent_work_is_late_and_go_on_at_half_the_limit(conn):
    await served(conn, LANE)
    delivery = await late(conn, 40)
    assert await load(conn) == ["shedding_began"]
    assert await load(conn) == [], "it is known"
    [state] = await store.read_states(conn, ["a"], klass="promotional")
    assert state.shed
    [state] = await store.read_states(conn, ["a"], klass="transactional")
    assert not state.shed
    for seconds, expected in ((20, []), (10, ["shedding_ended"])):
        await conn.execute(
            "UPDATE store.deliveries SET due_at = now() - make_interval(secs => %s) WHERE id = %s",
            (seconds, delivery.id),
        )
        assert await load(conn) == expected


async def test_what_is_accepted_and_not_planned_is_late_too(conn):
    await make_notification(conn, due_at=datetime.now(UTC) - timedelta(seconds=40))
    assert await load(conn) == ["shedding_began"]
    [row] = await rows(conn, "SELECT detail FROM store.control_events")
    assert row["detail"].startswith("intake.transactional is 40")


async def test_what_waits_for_a_provider_or_for_a_worker_is_no_reason_to_shed(conn):
    await late(conn, 40)
    assert await load(conn) == [], "no worker serves the lane"
    await served(conn, LANE)
    await opened(conn)
    assert await load(conn) == [], "no provider takes calls"
    await conn.execute(
        "UPDATE store.provider_states SET breaker = 'closed', reason = NULL, retry_at = NULL, cool_off_seconds = NULL"
    )
    assert await load(conn, apart=["email"]) == [], "it waits for somebody else"
    assert await load(conn) == ["shedding_began"]


async def test_one_worker_judges_for_all(conn):
    await served(conn, LANE)
    await late(conn, 40)
    assert await load(conn, every_seconds=60) == ["shedding_began"]
    await conn.execute("DELETE FROM store.deliveries")
    assert await load(conn, every_seconds=60) == []
    assert await load(conn, region="elsewhere") == []
    assert await load(conn) == ["shedding_ended"]


# -- a worker's rounds -----------------------------------------------------------------------------------------


def make_control(db: Database) -> Control:
    smtp = {
        "adapter": "smtp",
        "host": "127.0.0.1",
        "security": "none",
        "bounce_domain": "bounces.example.com",
        "webhook_token": "t" * 32,
    }
    settings = Settings(
        providers={"a": smtp, "b": smtp, "chat": {"adapter": "chat"}},
        routes={"email": ("a", "b"), "chat": ("chat",)},
        breakers=Breakers(failures_min=3),
        shedding=Shedding(),
    )
    return Control(db, ProviderSet(settings.providers), settings, uuid4())


async def test_what_calls_came_to_is_counted_and_reported_once(dsn, conn):
    async with Database(dsn, name="landed tests") as db:
        control = make_control(db)
        for outcome, seconds in (
            (Outcome(K.ACCEPTED, "", 250), 0.1),
            (Outcome(K.TRANSIENT, "", 503), 0.1),
            (Outcome(K.TRANSIENT, "this mailbox is busy", 450), 0.1),
            (Outcome(K.UNKNOWN, ""), 10.0),
            (Outcome(K.RATE_LIMITED, "", 429), 0.1),
        ):
            control.count("a", outcome, seconds)
        await control.report()
        await control.report()
    [counted] = await rows(conn, "SELECT * FROM store.provider_outcomes")
    assert {name: counted[name] for name in Tally.__slots__} == {
        "provider": "a",
        "calls": 5,
        "failures": 2,
        "slow": 1,
        "accepted": 1,
        "limited": 1,
        "client_errors": 2,  # the limit and the mailbox
        "server_errors": 1,
        "unknown": 1,
    }


@pytest.mark.parametrize(
    ("outcome", "failures"),
    [
        (Outcome(K.TRANSIENT, "connection refused"), 1),
        (Outcome(K.TRANSIENT, "busy", 503), 1),
        (Outcome(K.TRANSIENT, "the whole service closes", 421), 1),
        (Outcome(K.TRANSIENT, "this mailbox is busy", 450), 0),
        (Outcome(K.UNKNOWN, "no answer"), 1),
        (Outcome(K.UNAUTHORIZED, "bad key", 401), 0),
        (Outcome(K.RECIPIENT_INVALID, "no such user", 550), 0),
        (Outcome(K.REJECTED, "too long", 500), 0),
    ],
)
async def test_a_failure_is_what_speaks_against_the_provider(dsn, conn, outcome, failures):
    async with Database(dsn, name="landed tests") as db:
        control = make_control(db)
        control.count("a", outcome, 0.1)
        await control.report()
    [counted] = await rows(conn, "SELECT calls, failures FROM store.provider_outcomes")
    assert counted == {"calls": 1, "failures": failures}


async def test_what_could_not_be_reported_is_kept(dsn, conn):
    async with Database(dsn, name="landed tests") as db:
        control = make_control(db)
        control.count("a", Outcome(K.UNKNOWN, ""), 1.0)
        await conn.execute("ALTER TABLE store.provider_outcomes RENAME TO away")
        with pytest.raises(psycopg.Error):
            await control.report()
        await conn.execute("ALTER TABLE store.away RENAME TO provider_outcomes")
        control.count("a", Outcome(K.UNKNOWN, ""), 1.0)
        await control.report()
    [counted] = await rows(conn, "SELECT calls, unknown FROM store.provider_outcomes")
    assert counted == {"calls": 2, "unknown": 2}


async def test_one_of_many_receivers_opens_no_breaker(dsn, conn):
    async with Database(dsn, name="landed tests") as db:
        control = make_control(db)
        for account in ("a", "chat"):
            for _ in range(5):
                control.count(account, Outcome(K.TRANSIENT, "", 503), 0.1)
        await control.report()
    assert [e["name"] for e in await rows(conn, "SELECT name FROM store.control_events WHERE event = 'opened'")] == [
        "a"
    ]


async def test_who_has_many_receivers_comes_back_in_steps_whatever_becomes_of_their_calls(dsn, conn):
    async with Database(dsn, name="landed tests") as db:
        control = make_control(db)
        await control.publish([PublishedLane("chat.alert.default", "chat", "alert", [{"provider": "chat"}])])
        await conn.execute("SELECT landed.drain_provider('chat', 'ticket 4711')")
        await conn.execute("SELECT landed.restore_provider('chat', 'ticket 4711')")
        shares = []
        while (await provider(conn, "chat"))["recovering"] and len(shares) < 9:
            await aged(conn)
            for _ in range(50):
                control.count("chat", Outcome(K.TRANSIENT, "", 503), 60.0)
            await control.report()
            shares.append((await provider(conn, "chat"))["share"])
        assert shares == [0.2, 0.4, 0.8, 1]
        await aged(conn)
        control.count("chat", Outcome(K.TRANSIENT, "", 503), 60.0)
        await control.report()
    assert (await provider(conn, "chat"))["share"] == 1, "and loses nothing for them"


async def test_who_opens_a_breaker_knows_at_once(dsn, conn):
    async with Database(dsn, name="landed tests") as db:
        control = make_control(db)
        control.count("a", Outcome(K.TRANSIENT, "", 503), 0.1)
        await control.report()
        assert control.is_ready("a")
        for _ in range(5):
            control.count("a", Outcome(K.TRANSIENT, "", 503), 0.1)
        await control.report()
        assert (control.is_ready("a"), control.is_ready("b")) == (False, True)


async def test_a_configuration_is_published_and_an_operators_word_stands(dsn, conn):
    await conn.execute("UPDATE store.route_capabilities SET provable = false, source = 'operator' WHERE provider = 'b'")
    tenant = await make_tenant(conn)
    assert tenant
    async with Database(dsn, name="landed tests") as db:
        await make_control(db).publish([PublishedLane("email.alert.default", "email", "alert", [])])
    known = await rows(
        conn, "SELECT provider, provable, source FROM store.route_capabilities ORDER BY provider, channel"
    )
    assert {(row["provider"], row["source"]) for row in known} >= {("a", "adapter"), ("b", "operator")}
    assert not next(row for row in known if row["provider"] == "b")["provable"]
    assert {row["name"] for row in await rows(conn, "SELECT name FROM store.lanes")} == {LANE, "email.alert.default"}
