"""limits: what is too much for one recipient, or of one template, waits; nothing is dropped, and nobody else waits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from app.db import Database
from app.flows.intake import intake
from app.flows.upkeep import upkeep
from app.settings import Settings
from app.store import limits as store
from app.store.limits import RecipientLimit
from tests.factories import make_category, make_notification, make_recipient, make_template, make_tenant
from tests.looking import row, rows, view
from tests.shop import MAIL_SETTINGS

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
# Summed, for the view has a row an hour, and a test may run over the end of one.
HITS = """
    SELECT tenant, name, sum(hits)::int AS hits FROM reporting.rate_limit_hits WHERE level = %s GROUP BY tenant, name
"""


def settings(per_hour: int = 3, **per_minute: int) -> Settings:
    limits = {"recipient_per_hour": {"email": per_hour}, "template_per_minute": per_minute}
    return Settings(**MAIL_SETTINGS, limits=limits)


class Person:
    """Somebody who is sent to, and what is told of it."""

    def __init__(self, seed: psycopg.AsyncConnection, tenant_id: int, name: str, **given: Any) -> None:
        self._seed, self._given = seed, {"tenant_id": tenant_id, "recipient_id": name, **given}

    async def is_sent(self, count: int, **given: Any) -> list[Any]:
        return [await make_notification(self._seed, **self._given | given) for _ in range(count)]

    async def deliveries(self) -> list[dict[str, Any]]:
        """In the order in which they are due."""
        return await rows(
            self._seed,
            "SELECT * FROM store.deliveries WHERE tenant_id = %s AND recipient_id = %s ORDER BY due_at",
            self._given["tenant_id"],
            self._given["recipient_id"],
        )

    async def due(self) -> list[datetime]:
        return [delivery["due_at"] for delivery in await self.deliveries()]


@pytest.fixture
async def ann(seed: psycopg.AsyncConnection) -> Person:
    tenant = await make_tenant(seed, name="shop")
    await make_category(seed, tenant_id=tenant.id, name="orders")
    await make_template(seed, tenant_id=tenant.id, template_id="order")
    return await somebody(seed, tenant.id, "ann")


async def somebody(seed: psycopg.AsyncConnection, tenant_id: int, name: str) -> Person:
    await make_recipient(seed, tenant_id=tenant_id, id=name)
    return Person(seed, tenant_id, name, category="orders", template_id="order")


async def plan_all(db: Database, given: Settings, *, limit: int = 100) -> None:
    for klass in ("alert", "transactional", "promotional"):
        while (await intake(db, given, klass=klass, limit=limit))[0]:
            pass


# Recipients -----------------------------------------------------------------------------------------------------------


async def test_what_is_too_much_for_an_hour_waits_for_the_next_and_says_so(db, seed, ann):
    *_, fifth = await ann.is_sent(5)
    await plan_all(db, settings(per_hour=3))
    deliveries = await ann.deliveries()
    assert [d["state"] for d in deliveries] == ["queued"] * 5
    assert [d["reason"] for d in deliveries] == [None] * 3 + ["recipient_limit"] * 2
    now = datetime.now(UTC)
    assert all(d["due_at"] <= now for d in deliveries[:3])
    assert [d["due_at"] - deliveries[0]["due_at"] for d in deliveries[3:]] == [HOUR, HOUR]
    assert deliveries[4]["notification_id"] == fifth.id
    told = await rows(seed, "SELECT rule, input, verdict, explanation FROM landed.explain(%s)", fifth.id)
    [rule] = [step for step in told if step["rule"] == "email.recipient_limit"]
    assert rule["input"] == {"per_hour": 3}
    assert rule["verdict"].startswith("waits until ")
    assert "enough for an hour" in told[-1]["explanation"]
    [waiting] = await view(seed, "waiting", reason="recipient_limit")
    assert (waiting["rows"], waiting["overdue"]) == (2, 0)
    assert await view(seed, "stuck") == []
    [hit] = await rows(seed, HITS, "recipient")
    assert (hit["name"], hit["tenant"], hit["hits"]) == ("email", "shop", 2)


async def test_no_hour_holds_more_than_the_limit_wherever_it_begins(db, seed, ann):
    chance = random.Random(7)
    for _ in range(25):
        await ann.is_sent(chance.randint(1, 4), expires_at=datetime.now(UTC) + timedelta(days=90))
        await plan_all(db, settings(per_hour=3), limit=chance.randint(1, 4))
        passed = timedelta(minutes=chance.randint(0, 90))
        await seed.execute("UPDATE store.deliveries SET due_at = due_at - %s", (passed,))
        await seed.execute(
            "UPDATE store.recipient_windows SET slots = ARRAY(SELECT s - %s FROM unnest(slots) AS s)", (passed,)
        )
    due = await ann.due()
    assert all(later - sooner >= HOUR for sooner, later in zip(due, due[3:], strict=False))
    assert any(later - sooner < HOUR for sooner, later in zip(due, due[2:], strict=False))


class Moments:
    """The moments of one person's deliveries, as they are taken while time goes by."""

    def __init__(self, db: Database, seed: psycopg.AsyncConnection, tenant_id: int, *, per_hour: int) -> None:
        self._db, self._seed, self._per_hour = db, seed, per_hour
        self._limit = RecipientLimit(0, tenant_id, "ann", "email", "", per_hour)
        self.taken: list[datetime] = []

    async def take(self, *minutes: int) -> tuple[list[datetime], list[datetime]]:
        """What was got for deliveries that may be due in so many minutes, and what each should get."""
        async with self._db.transaction() as conn:
            now = (await row(conn, "SELECT now() AS at"))["at"]
            moments = [now + timedelta(minutes=m) if m else None for m in sorted(minutes)]
            waits = {s.i: s.until for s in await store.take_recipient_slots(conn, [(self._limit, moments)])}
        got, expected = [], []
        for i, moment in enumerate(moments):
            got.append(waits.get(i, now))
            expected.append(self._first_free(moment or now))
            self.taken.append(got[-1])
        return got, expected

    def _first_free(self, start: datetime) -> datetime:
        ends = sorted(at + HOUR for at in self.taken)
        return next(
            at for at in (start, *ends) if at >= start and no_hour_holds_more([*self.taken, at], self._per_hour)
        )

    async def pass_by(self, minutes: int) -> None:
        passed = timedelta(minutes=minutes)
        await self._seed.execute(
            "UPDATE store.recipient_windows SET slots = ARRAY(SELECT s - %s FROM unnest(slots) AS s)", (passed,)
        )
        self.taken = [at - passed for at in self.taken]


def no_hour_holds_more(due: Sequence[datetime], per_hour: int) -> bool:
    due = sorted(due)
    return all(later - sooner >= HOUR for sooner, later in zip(due, due[per_hour:], strict=False))


@pytest.mark.parametrize("per_hour", [1, 3, 20])
async def test_each_gets_the_first_moment_that_it_may_have_even_before_others_that_lie_ahead(
    db, seed, ann, per_hour: int
):
    chance = random.Random(per_hour)
    moments = Moments(db, seed, ann._given["tenant_id"], per_hour=per_hour)
    for _ in range(40):
        count = chance.randint(1, 2 * per_hour)
        got, expected = await moments.take(*(chance.choice([0, 0, 10, 45, 100, 170, 300]) for _ in range(count)))
        assert got == expected
        await moments.pass_by(chance.randint(0, 100))
    assert no_hour_holds_more(moments.taken, per_hour)
    assert (await row(seed, "SELECT cardinality(slots) AS kept FROM store.recipient_windows"))["kept"] < 200


async def test_a_loop_that_runs_away_fills_hours_and_no_disk(db, seed, ann):
    moments = Moments(db, seed, ann._given["tenant_id"], per_hour=3)
    for count in (150, 150, 1):
        await moments.take(*[0] * count)
    assert no_hour_holds_more(moments.taken, 3)
    assert max(moments.taken) - min(moments.taken) == 100 * HOUR, "and none of them for nothing"
    assert (await row(seed, "SELECT cardinality(slots) AS kept FROM store.recipient_windows"))["kept"] == 104


async def test_what_waits_for_its_template_counts_in_the_hour_in_which_it_is_due(db, seed, ann):
    tenant_id = ann._given["tenant_id"]
    await make_template(seed, tenant_id=tenant_id, template_id="campaign")
    await seed.execute(
        "INSERT INTO store.template_rates VALUES (%s, 'campaign', 'promotional', now() + interval '150 minutes')",
        (tenant_id,),
    )
    far = datetime.now(UTC) + timedelta(days=2)
    await ann.is_sent(3, template_id="campaign", expires_at=far, **{"class": "promotional"})
    await ann.is_sent(1)
    await plan_all(db, settings(per_hour=3, promotional=1))
    assert [d["reason"] for d in await ann.deliveries()] == [None] + ["template_limit"] * 3, "the urgent one at once"
    assert {hit["level"] for hit in await view(seed, "rate_limit_hits")} == {"template"}
    passed = timedelta(minutes=149)
    await seed.execute("UPDATE store.deliveries SET due_at = due_at - %s", (passed,))
    await seed.execute(
        "UPDATE store.recipient_windows SET slots = ARRAY(SELECT s - %s FROM unnest(slots) AS s)", (passed,)
    )
    await ann.is_sent(3, expires_at=far)
    await plan_all(db, settings(per_hour=3, promotional=1))
    assert [d["reason"] for d in await ann.deliveries()] == [None] + ["template_limit"] * 3 + ["recipient_limit"] * 3
    assert no_hour_holds_more(await ann.due(), 3)


async def test_nothing_new_comes_within_an_hour_of_what_is_no_longer_known(db, seed, ann):
    """The previous release kept as many slots as its limit was about: before the first there were others."""
    tenant_id = ann._given["tenant_id"]
    await seed.execute(
        "INSERT INTO store.recipient_windows VALUES (0, %s, 'ann', 'email', '', 3,"
        " ARRAY[now() + interval '10 minutes', now() + interval '50 minutes', now() + interval '55 minutes'])",
        (tenant_id,),
    )
    first = (await row(seed, "SELECT slots[1] AS at FROM store.recipient_windows"))["at"]
    [got], _ = await Moments(db, seed, tenant_id, per_hour=3).take(0)
    assert got == first + HOUR


async def test_workers_that_plan_for_one_person_at_the_same_time_keep_to_one_limit(db, seed, ann):
    await ann.is_sent(24)
    await asyncio.gather(*(plan_all(db, settings(per_hour=6), limit=5) for _ in range(4)))
    due = await ann.due()
    assert len(due) == 24
    assert all(later - sooner >= HOUR for sooner, later in zip(due, due[6:], strict=False))


async def test_nobody_else_waits(db, seed, ann):
    bob = await somebody(seed, ann._given["tenant_id"], "bob")
    other = await make_tenant(seed)
    namesake = Person(seed, other.id, "ann")
    await make_recipient(seed, tenant_id=other.id, id="ann")
    await ann.is_sent(9)
    await bob.is_sent(3)
    await namesake.is_sent(3)
    await plan_all(db, settings(per_hour=3))
    now = datetime.now(UTC)
    assert sum(due > now for due in await ann.due()) == 6
    assert all(due <= now for due in [*await bob.due(), *await namesake.due()])


@pytest.mark.parametrize(("limit", "waiting"), [(2, 3), (0, 0), (None, 4)])
async def test_a_category_with_a_limit_of_its_own_is_counted_by_itself(db, seed, ann, limit, waiting):
    tenant_id = ann._given["tenant_id"]
    await make_category(seed, tenant_id=tenant_id, name="codes", recipient_per_hour=limit)
    await ann.is_sent(2)
    await ann.is_sent(5, category="codes")
    await plan_all(db, settings(per_hour=3))
    now = datetime.now(UTC)
    codes = [d["due_at"] > now for d in await ann.deliveries() if d["category"] == "codes"]
    assert sum(codes) == waiting
    orders = [d["due_at"] > now for d in await ann.deliveries() if d["category"] == "orders"]
    assert not any(orders)


async def test_a_limit_of_nothing_is_none_and_keeps_no_window(db, seed, ann):
    await ann.is_sent(30)
    await plan_all(db, settings(per_hour=0))
    now = datetime.now(UTC)
    assert all(due <= now for due in await ann.due())
    assert await rows(seed, "SELECT FROM store.recipient_windows") == []


async def test_what_would_wait_until_it_is_worth_nothing_ends_no_later_than_that(db, seed, ann):
    soon = datetime.now(UTC) + timedelta(minutes=5)
    await ann.is_sent(4, expires_at=soon)
    await plan_all(db, settings(per_hour=3))
    assert (await ann.deliveries())[-1]["due_at"] == soon


async def test_all_devices_get_a_push_together_and_it_counts_once(db, seed, ann):
    tenant_id = ann._given["tenant_id"]
    for n in range(3):
        await seed.execute(
            "INSERT INTO store.devices (tenant_id, recipient_id, platform, token) VALUES (%s, 'ann', 'ios', %s)",
            (tenant_id, f"token-{n}"),
        )
    await ann.is_sent(3, channels=["push"])
    given = Settings(
        providers={"inbox": {"adapter": "inbox"}},
        routes={"push.ios": ("inbox",)},
        limits={"recipient_per_hour": {"push": 2}},
    )
    await plan_all(db, given)
    deliveries = await ann.deliveries()
    assert [d["reason"] for d in deliveries] == [None] * 6 + ["recipient_limit"] * 3
    assert len({d["due_at"] for d in deliveries[6:]}) == 1


async def test_an_operator_lets_one_go_at_once(db, seed, ann):
    *_, fourth = await ann.is_sent(4)
    await plan_all(db, settings(per_hour=3))
    released = await row(seed, "SELECT * FROM landed.release(%s, 'she waits on the phone')", fourth.id)
    assert released["released"]
    delivery = await row(
        seed, "SELECT due_at <= now() AS due, reason FROM store.deliveries WHERE notification_id = %s", fourth.id
    )
    assert delivery == {"due": True, "reason": None}


# Templates ------------------------------------------------------------------------------------------------------------


async def test_a_campaign_goes_out_evenly_and_what_is_urgent_of_the_same_template_at_once(db, seed, ann):
    tenant_id = ann._given["tenant_id"]
    people = [await somebody(seed, tenant_id, f"p-{n}") for n in range(6)]
    for person in people:
        await person.is_sent(1, **{"class": "promotional"})
    await ann.is_sent(2)
    await plan_all(db, settings(promotional=60), limit=4)
    due = sorted([(await person.due())[0] for person in people])
    assert all(later - sooner >= SECOND for sooner, later in zip(due, due[1:], strict=False))
    assert due[-1] - due[0] < 7 * SECOND
    reasons = [d["reason"] for person in people for d in await person.deliveries()]
    assert reasons.count("template_limit") == 5
    assert [d["reason"] for d in await ann.deliveries()] == [None, None]
    [hit] = await rows(seed, HITS, "template")
    assert (hit["name"], hit["hits"]) == ("order", 5)


async def test_the_later_of_two_limits_counts(db, seed, ann):
    await ann.is_sent(2, **{"class": "promotional"})
    await plan_all(db, settings(per_hour=1, promotional=60))
    assert [d["reason"] for d in await ann.deliveries()] == [None, "recipient_limit"]


# Upkeep ---------------------------------------------------------------------------------------------------------------


async def test_windows_that_hold_nobody_back_are_forgotten(db, seed, ann):
    tenant_id = ann._given["tenant_id"]
    await ann.is_sent(3)
    await (await somebody(seed, tenant_id, "bob")).is_sent(1, **{"class": "promotional"})
    await plan_all(db, settings(per_hour=3, promotional=60))
    await upkeep(db, settings())
    assert len(await rows(seed, "SELECT FROM store.recipient_windows")) == 2
    await seed.execute(
        "UPDATE store.recipient_windows SET slots = ARRAY(SELECT s - interval '61 minutes' FROM unnest(slots) AS s)"
        " WHERE recipient_id = 'ann'"
    )
    await seed.execute("UPDATE store.template_rates SET next_at = now() - interval '1 second'")
    await upkeep(db, settings())
    assert [w["recipient_id"] for w in await rows(seed, "SELECT recipient_id FROM store.recipient_windows")] == ["bob"]
    assert await rows(seed, "SELECT FROM store.template_rates") == []
