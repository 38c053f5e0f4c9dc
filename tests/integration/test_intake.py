"""intake: every accepted notification becomes deliveries, or refusals that are recorded and explained."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from app.flows.intake import intake
from app.settings import Settings
from app.store import intake as store
from tests.factories import make_category, make_notification, make_recipient, make_suppression, make_tenant
from tests.looking import rows
from tests.shop import MAIL_SETTINGS

LANE = "email.transactional.default"
SETTINGS = Settings(**MAIL_SETTINGS)


async def test_an_accepted_notification_becomes_a_delivery_that_is_due(db, seed):
    tenant = await make_tenant(seed, sender="Shop <shop@example.com>", reply_to="help@example.com")
    await make_category(seed, tenant_id=tenant.id, name="orders", sender="Orders <orders@example.com>")
    await make_recipient(seed, tenant_id=tenant.id, id="ann", email="ann@example.com")
    accepted = await make_notification(seed, tenant_id=tenant.id, recipient_id="ann", category="orders")
    assert await intake(db, SETTINGS, klass="transactional", limit=10) == (1, frozenset({LANE}))
    [delivery] = await rows(seed, "SELECT * FROM store.deliveries")
    assert delivery["notification_id"] == accepted.id
    assert (delivery["state"], delivery["lane"], delivery["address"]) == ("queued", LANE, "ann@example.com")
    assert (delivery["sender"], delivery["reply_to"]) == ("Orders <orders@example.com>", "help@example.com")
    assert delivery["due_at"] <= datetime.now(UTC)
    assert delivery["expires_at"] == accepted.expires_at
    [planned] = await rows(seed, "SELECT state, due_at, planned_at, trace FROM store.notifications")
    assert (planned["state"], planned["due_at"]) == ("planned", None)
    assert {"rule": "email.lane", "input": LANE, "verdict": "send"} in planned["trace"]
    assert await intake(db, SETTINGS, klass="transactional", limit=10) == (0, frozenset())


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
    assert await intake(db, SETTINGS, klass="transactional", limit=10) == (1, frozenset())
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
    await intake(db, SETTINGS, klass="transactional", limit=10)
    [delivery] = await rows(seed, "SELECT state, reason FROM store.deliveries")
    assert delivery == {"state": "failed", "reason": "recipient_inactive"}


async def test_what_is_scheduled_waits_for_its_time(db, seed):
    scheduled = await make_notification(seed, due_at=datetime.now(UTC) + timedelta(hours=1))
    assert await intake(db, SETTINGS, klass="transactional", limit=10) == (0, frozenset())
    await seed.execute("UPDATE store.notifications SET due_at = now() WHERE id = %s", (scheduled.id,))
    assert (await intake(db, SETTINGS, klass="transactional", limit=10))[0] == 1


async def test_each_class_is_taken_in_by_itself(db, seed):
    tenant = await make_tenant(seed)
    for klass in ("promotional", "promotional", "alert"):
        await make_notification(seed, tenant_id=tenant.id, **{"class": klass})
    assert await intake(db, SETTINGS, klass="alert", limit=10) == (1, frozenset({"email.alert.default"}))
    assert (await intake(db, SETTINGS, klass="promotional", limit=1))[0] == 1
    assert (await intake(db, SETTINGS, klass="promotional", limit=10))[0] == 1


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
    assert await intake(db, SETTINGS, klass="transactional", limit=10) == (1, frozenset({LANE}))


# -- every channel -------------------------------------------------------------------------------------------

ALL = Settings(
    **MAIL_SETTINGS | {"routes": {"email": ("mail",), "sms": ("mail",), "push.ios": ("mail",), "push.web": ("mail",)}}
)


async def make_device(seed: psycopg.AsyncConnection, recipient: Any, **columns: Any) -> str:
    values = {"platform": "ios", "token": "a1" * 32} | columns
    names = ", ".join(values)
    [row] = await rows(
        seed,
        f"INSERT INTO store.devices (tenant_id, recipient_id, {names}) "
        f"VALUES (%s, %s, {', '.join(['%s'] * len(values))}) RETURNING id",
        recipient.tenant_id,
        recipient.id,
        *values.values(),
    )
    return str(row["id"])


async def test_a_push_becomes_one_delivery_for_each_live_device(db, seed):
    tenant = await make_tenant(seed)
    recipient = await make_recipient(seed, tenant_id=tenant.id)
    phone = await make_device(seed, recipient)
    browser = await make_device(
        seed, recipient, platform="web", token="https://push.example.com/1", p256dh="x", auth="y"
    )
    await make_device(seed, recipient, token="b2" * 32, retired_at=datetime.now(UTC), retired_reason="gone")
    await make_notification(seed, tenant_id=tenant.id, recipient_id=recipient.id, channels=["push"])
    _, lanes = await intake(db, ALL, klass="transactional", limit=10)
    assert lanes == {"push.transactional.ios", "push.transactional.web"}
    found = await rows(seed, "SELECT lane, address, state FROM store.deliveries ORDER BY lane")
    assert [tuple(row.values()) for row in found] == [
        ("push.transactional.ios", phone, "queued"),
        ("push.transactional.web", browser, "queued"),
    ]


async def test_no_device_and_an_unwanted_channel_are_recorded_outcomes(db, seed):
    tenant = await make_tenant(seed)
    recipient = await make_recipient(seed, tenant_id=tenant.id, phone="+14155550101", channels=["push", "sms"])
    await make_notification(seed, tenant_id=tenant.id, recipient_id=recipient.id, channels=["email", "push", "sms"])
    await intake(db, ALL, klass="transactional", limit=10)
    found = await rows(seed, "SELECT channel, state, reason FROM store.deliveries ORDER BY channel")
    assert [tuple(row.values()) for row in found] == [
        ("email", "suppressed", "channel_not_preferred"),
        ("push", "failed", "no_device"),
        ("sms", "queued", None),
    ]


async def test_campaigns_go_out_under_a_domain_of_their_own(db, seed):
    tenant = await make_tenant(seed, promotional_sender="News <news@mail.example.com>")
    for klass in ("transactional", "promotional"):
        await make_notification(seed, tenant_id=tenant.id, **{"class": klass})
        await intake(db, ALL, klass=klass, limit=10)
    found = await rows(seed, "SELECT class, sender FROM store.deliveries ORDER BY class")
    assert [tuple(row.values()) for row in found] == [
        ("promotional", "News <news@mail.example.com>"),
        ("transactional", "Shop <shop@example.com>"),
    ]


async def test_an_endpoint_is_tried_for_days_unless_the_request_says_how_long(db, seed):
    tenant = await make_tenant(seed)
    endpoint = "01920000-0000-7000-8000-000000000001"
    recipient = await make_recipient(seed, tenant_id=tenant.id, addresses={"webhook": endpoint})
    plain = await make_notification(seed, tenant_id=tenant.id, recipient_id=recipient.id, channels=["webhook"])
    given = await make_notification(
        seed,
        tenant_id=tenant.id,
        recipient_id=recipient.id,
        channels=["webhook"],
        request={"variables": {}, "expires_at": "2030-01-01T00:00:00Z"},
    )
    await intake(db, ALL, klass="transactional", limit=10)
    found = await rows(seed, "SELECT notification_id, address, expires_at - created_at AS span FROM store.deliveries")
    spans = {row["notification_id"]: row["span"].total_seconds() for row in found}
    assert {row["address"] for row in found} == {endpoint}
    assert spans[plain.id] == ALL.endpoints.span_seconds
    assert spans[given.id] < 2 * 86400


async def test_an_opted_out_number_is_refused_by_name(db, seed):
    tenant = await make_tenant(seed)
    recipient = await make_recipient(seed, tenant_id=tenant.id, phone="+14155550101")
    await make_suppression(seed, tenant_id=tenant.id, channel="sms", address="+14155550101", reason="opted_out")
    await make_notification(seed, tenant_id=tenant.id, recipient_id=recipient.id, channels=["sms"])
    await intake(db, ALL, klass="transactional", limit=10)
    [row] = await rows(seed, "SELECT state, reason FROM store.deliveries")
    assert (row["state"], row["reason"]) == ("suppressed", "suppressed:opted_out")
