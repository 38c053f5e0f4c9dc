"""intake: every accepted notification becomes deliveries, or refusals that are recorded and explained."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from app.db import Database
from app.flows.intake import intake
from app.store import intake as store
from tests.factories import make_category, make_notification, make_recipient, make_suppression, make_tenant

LANE = "email.transactional.default"


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    async with Database(dsn, name="landed tests") as database:
        yield database


@pytest.fixture
async def seed(dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A session whose every statement commits."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        yield connection


async def rows(conn: psycopg.AsyncConnection, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, parameters)
        return await cursor.fetchall()


async def test_an_accepted_notification_becomes_a_delivery_that_is_due(db, seed):
    tenant = await make_tenant(seed, sender="Shop <shop@example.com>", reply_to="help@example.com")
    await make_category(seed, tenant_id=tenant.id, name="orders", sender="Orders <orders@example.com>")
    await make_recipient(seed, tenant_id=tenant.id, id="ann", email="ann@example.com")
    accepted = await make_notification(seed, tenant_id=tenant.id, recipient_id="ann", category="orders")
    assert await intake(db, klass="transactional", limit=10) == (1, frozenset({LANE}))
    [delivery] = await rows(seed, "SELECT * FROM store.deliveries")
    assert delivery["notification_id"] == accepted.id
    assert (delivery["state"], delivery["lane"], delivery["address"]) == ("queued", LANE, "ann@example.com")
    assert (delivery["sender"], delivery["reply_to"]) == ("Orders <orders@example.com>", "help@example.com")
    assert delivery["due_at"] <= datetime.now(UTC)
    assert delivery["expires_at"] == accepted.expires_at
    [planned] = await rows(seed, "SELECT state, due_at, planned_at, trace FROM store.notifications")
    assert (planned["state"], planned["due_at"]) == ("planned", None)
    assert {"rule": "email.lane", "input": LANE, "verdict": "send"} in planned["trace"]
    assert await intake(db, klass="transactional", limit=10) == (0, frozenset())


@pytest.mark.parametrize(
    ("recipient", "notification", "state", "reason"),
    [
        ({"active": False}, {}, "failed", "recipient_inactive"),
        ({"email": None}, {}, "failed", "no_address"),
        ({"email": "Gone@example.com"}, {}, "suppressed", "suppressed:manual"),
        ({}, {"expires_at": datetime(2026, 1, 1, tzinfo=UTC)}, "expired", "expired"),
    ],
)
async def test_what_the_rules_refuse_ends_at_once_by_name_and_is_told(db, seed, recipient, notification, state, reason):
    tenant = await make_tenant(seed)
    await make_suppression(seed, tenant_id=tenant.id, address="gone@example.com")
    await make_recipient(seed, tenant_id=tenant.id, id="ann", **recipient)
    accepted = await make_notification(seed, tenant_id=tenant.id, recipient_id="ann", **notification)
    assert await intake(db, klass="transactional", limit=10) == (1, frozenset())
    [delivery] = await rows(seed, "SELECT state, reason, ended_at, attempt_no FROM store.deliveries")
    assert (delivery["state"], delivery["reason"], delivery["attempt_no"]) == (state, reason, 0)
    assert delivery["ended_at"]
    told = await rows(
        seed,
        "SELECT kind, data FROM reporting.timeline WHERE notification_id = %s AND event_id IS NOT NULL",
        accepted.id,
    )
    assert told == [{"kind": state, "data": {"reason": reason}}]


async def test_a_recipient_removed_after_accepting_is_a_recorded_end(db, seed):
    tenant = await make_tenant(seed)
    await make_notification(seed, tenant_id=tenant.id, recipient_id="nobody")
    await intake(db, klass="transactional", limit=10)
    [delivery] = await rows(seed, "SELECT state, reason FROM store.deliveries")
    assert delivery == {"state": "failed", "reason": "recipient_inactive"}


async def test_what_is_scheduled_waits_for_its_time(db, seed):
    scheduled = await make_notification(seed, due_at=datetime.now(UTC) + timedelta(hours=1))
    assert await intake(db, klass="transactional", limit=10) == (0, frozenset())
    await seed.execute("UPDATE store.notifications SET due_at = now() WHERE id = %s", (scheduled.id,))
    assert (await intake(db, klass="transactional", limit=10))[0] == 1


async def test_each_class_is_taken_in_by_itself(db, seed):
    tenant = await make_tenant(seed)
    for klass in ("promotional", "promotional", "alert"):
        await make_notification(seed, tenant_id=tenant.id, **{"class": klass})
    assert await intake(db, klass="alert", limit=10) == (1, frozenset({"email.alert.default"}))
    assert (await intake(db, klass="promotional", limit=1))[0] == 1
    assert (await intake(db, klass="promotional", limit=10))[0] == 1


async def test_two_workers_never_plan_one_notification(db, seed):
    await make_notification(seed)
    async with db.transaction() as first, db.transaction() as second:
        assert len(await store.claim_accepted(first, klass="transactional", limit=10)) == 1
        assert await store.claim_accepted(second, klass="transactional", limit=10) == []


async def test_one_recipients_suppression_does_not_touch_another_tenants(db, seed):
    other = await make_tenant(seed)
    tenant = await make_tenant(seed)
    await make_suppression(seed, tenant_id=other.id, address="ann@example.com")
    await make_recipient(seed, tenant_id=tenant.id, id="ann", email="ann@example.com")
    await make_notification(seed, tenant_id=tenant.id, recipient_id="ann")
    assert await intake(db, klass="transactional", limit=10) == (1, frozenset({LANE}))
