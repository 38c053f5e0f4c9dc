"""line: slots of a provider's rate, from their lease to the call in each of them or the reason for none."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from app.db import Database
from app.domain.models import NotificationClass, OutcomeKind
from app.flows.compose import NOWHERE
from app.flows.dispatch import Dispatcher, Lane
from app.flows.line import NO_SLOT, NOT_NOW, STOPPING, TOO_LATE, Finished, Job, Line
from app.providers.base import ProviderResponse
from app.rendering.types import Rendered
from app.settings import Settings
from app.store import control
from app.store.control import ProviderState, PublishedProvider, Slots
from app.store.dispatch import Claimed
from tests.lanes import make_dispatcher
from tests.looking import row, until

NOW = datetime.now(UTC)
READY = ProviderState("mailgun", True, False, None, 1.0, False, 20.0, 0.0, False)
AN_HOUR = 3600.0
# The gate is far longer than a test waits: whoever sleeps until such a slot is seen to.
GATE_SECONDS = 600.0
IN_THE_GATE = Slots(first_in_seconds=300.0, step_seconds=0.0, n=1)
PATIENCE_SECONDS = 20


class Vendor:
    """The way to a provider that takes everything at once."""

    def __init__(self) -> None:
        self.calls = 0

    async def send(self, request: Any, deadline: float) -> ProviderResponse:
        self.calls += 1
        return ProviderResponse(200, {}, b'{"id":"<m@example.com>","message":"Queued"}')


def lane_of_one(vendor: Vendor, klass: NotificationClass = NotificationClass.TRANSACTIONAL) -> Dispatcher:
    """It is never run: a test hands its line the jobs, and looks at what was finished."""
    account = {"adapter": "mailgun", "domain": "mg.example.com", "api_key": "k", "webhook_signing_key": "s"}
    times = {"gate_seconds": GATE_SECONDS, "lease_seconds": 2 * GATE_SECONDS}
    settings = Settings(providers={"mailgun": account}, routes={"email": ("mailgun",)}, times=times)
    lane = Lane(f"email.{klass}.default", "email", klass, settings.routes["email"])
    database = Database("postgresql://nowhere", name="unused")
    return make_dispatcher(lane, db=database, settings=settings, transport=vendor, renderer=None)


def job(*, probe: bool = False) -> Job:
    claimed = Claimed(
        shard=0,
        id=uuid4(),
        notification_id=uuid4(),
        tenant_id=1,
        recipient_id="ann",
        category="orders",
        klass="transactional",
        channel="email",
        address="ann@example.com",
        sender="Shop <shop@example.com>",
        reply_to=None,
        template_id="order",
        template_version=1,
        attempt_no=1,
        failures=0,
        expires_at=NOW + timedelta(hours=1),
        event_id=uuid4(),
        tenant="shop",
        variables={},
        accepted_at=NOW,
        test_mode=False,
        track_opens=False,
        track_clicks=False,
        provider="mailgun",
        tried=None,
    )
    return Job(claimed, Rendered("Hello", None, "Hello", b"hash"), NOWHERE, time.monotonic(), probe=probe)


def sent(dispatcher: Dispatcher, jobs: list[Job], slots: Slots | None) -> Line:
    [line] = dispatcher._lines.values()
    line.hold(len(jobs))
    line.send(jobs, slots)
    return line


async def finished(dispatcher: Dispatcher, n: int = 1) -> list[Finished]:
    async def all_of_them() -> bool:
        return len(dispatcher._finished) == n

    await until(all_of_them, seconds=PATIENCE_SECONDS)
    return dispatcher._finished


# -- a call in its slot ----------------------------------------------------------------------------------------


async def test_a_slot_beyond_the_gate_is_not_waited_for():
    dispatcher = lane_of_one(vendor := Vendor())
    line = sent(dispatcher, [job()], Slots(AN_HOUR, 1.0, 1))
    [end] = await finished(dispatcher)
    assert (end.outcome, end.seconds, vendor.calls) == (TOO_LATE, None, 0)
    assert line.room() > 0
    assert line._in_hand == 0


async def test_who_waits_for_a_slot_is_told_to_stop():
    dispatcher = lane_of_one(vendor := Vendor())
    line = sent(dispatcher, [job()], IN_THE_GATE)
    await asyncio.sleep(0)  # it waits
    assert dispatcher._finished == []
    line.stop()
    [end] = await finished(dispatcher)
    assert (end.outcome, vendor.calls) == (STOPPING, 0)


@pytest.mark.parametrize(("probe", "released"), [(False, True), (True, False)])
async def test_a_slot_of_a_provider_that_takes_no_calls_is_not_waited_for_but_by_its_probe(probe, released):
    dispatcher = lane_of_one(vendor := Vendor())
    dispatcher._control.saw([ProviderState("mailgun", False, True, None, 1.0, False, 20.0, 0.0, False)])
    sent(dispatcher, [job(probe=probe)], IN_THE_GATE if released else Slots(0.0, 0.05, 1))
    [end] = await finished(dispatcher)
    assert (end.outcome == NOT_NOW, vendor.calls) == (released, 0 if released else 1)


async def test_who_got_no_slot_is_given_back_and_the_others_are_called():
    dispatcher = lane_of_one(vendor := Vendor())
    jobs = [job() for _ in range(5)]
    sent(dispatcher, jobs, Slots(0.0, 0.01, 3))
    ends = {end.claimed.id: end.outcome for end in await finished(dispatcher, 5)}
    assert [ends[one.claimed.id].kind for one in jobs[:3]] == [OutcomeKind.ACCEPTED] * 3
    assert [ends[one.claimed.id] for one in jobs[3:]] == [NO_SLOT] * 2
    assert vendor.calls == 3


# -- how many deliveries to hold -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("klass", "call_seconds", "hands"),
    [
        # rate x (how far ahead it leases + how long a call is under way)
        (NotificationClass.TRANSACTIONAL, 0.0, 20),
        (NotificationClass.TRANSACTIONAL, 2.0, 60),
        (NotificationClass.PROMOTIONAL, 0.5, 12),
        (NotificationClass.PROMOTIONAL, 1.0, 22),
    ],
)
async def test_calls_under_way_take_nothing_from_the_rate(klass, call_seconds, hands):
    [line] = lane_of_one(Vendor(), klass)._lines.values()
    line._call_seconds = call_seconds or 1e-6
    line.saw(READY)
    assert line.hands() == hands
    line.hold(int(20 * call_seconds))  # as many as are under way at its rate
    assert line.room() >= line.claim_min(), "and the next are claimed"


async def test_its_pace_is_its_rate_or_what_it_can_call_at_once():
    [line] = lane_of_one(Vendor())._lines.values()
    line._call_seconds = 0.5
    assert line.pace() == 400
    line.saw(READY)
    assert line.pace() == 20


# -- leases ----------------------------------------------------------------------------------------------------


async def rated(conn: psycopg.AsyncConnection, next_in: float) -> datetime:
    """A provider with ten slots a second, the next of them in so many seconds."""
    await control.publish(conn, [], [PublishedProvider("a", "email", 10.0, True)])
    moved = "UPDATE store.provider_rates SET next_at = clock_timestamp() + make_interval(secs => %s) RETURNING next_at"
    next_at: datetime = (await row(conn, moved, next_in))["next_at"]
    return next_at


async def next_at(conn: psycopg.AsyncConnection) -> datetime:
    at: datetime = (await row(conn, "SELECT next_at FROM store.provider_rates"))["next_at"]
    return at


async def test_slots_that_come_too_late_are_left_to_others(seed):
    before = await rated(seed, AN_HOUR)
    slots = await control.lease_slots(seed, "a", 5, within_seconds=5)
    assert slots is not None, "which it would be for a provider without a rate"
    assert slots.n == 0
    assert await next_at(seed) == before


async def test_of_the_slots_asked_for_those_are_leased_that_come_in_time(seed):
    before = await rated(seed, AN_HOUR)
    # A second's worth, and the one that it begins with; a slow machine comes closer to the hour.
    slots = await control.lease_slots(seed, "a", 1000, within_seconds=AN_HOUR + 1)
    assert slots is not None
    assert 11 <= slots.n <= 11 + 10 * PATIENCE_SECONDS
    assert await next_at(seed) == before + slots.n * timedelta(seconds=0.1)


async def test_a_lease_waits_for_no_standby(db, seed):
    await rated(seed, 0)
    async with db.transaction() as conn:
        await control.lease_slots(conn, "a", 1)
        assert await row(conn, "SHOW synchronous_commit") == {"synchronous_commit": "off"}
    async with db.transaction() as conn:
        assert await row(conn, "SHOW synchronous_commit") == {"synchronous_commit": "on"}
