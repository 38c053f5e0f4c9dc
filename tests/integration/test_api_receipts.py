"""Receipts: a push is delivered when its device says so, once, whatever it says first."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from app.domain.tokens import SentAttempt, open_url, receipt_token
from app.flows.apply import apply
from app.flows.receipts import Receipts, of_push
from app.settings import Settings
from tests.factories import make_attempt, make_delivery, make_recipient
from tests.rest import running_api, wrong_fields

SECRET = "a secret of the test"
RECEIPTS = "/api/v1/receipts"
OPENED = "/api/v1/analytics/push-opened"
EVENTS = ("received", "opened", "dismissed")


@pytest.fixture
async def rest(dsn, tmp_path):
    async with running_api(dsn, tmp_path, secret=SECRET) as rest:
        yield rest


@pytest.fixture
async def shop(rest):
    """A tenant with a recipient who has a device, and the tenant's client."""
    tenant, client = await rest.tenant()
    await make_recipient(rest.conn, tenant_id=tenant.id, id="ada")
    body = {"user_id": "ada", "platform": "ios", "device_token": "ab" * 32}
    device = (await client.post("/api/v1/devices/register", json=body)).json()["id"]
    return tenant, client, device


async def push(rest, shop, **overrides):
    """A push to that device, sent through APNs."""
    tenant, _, device = shop
    values = {"state": "sent", "tenant_id": tenant.id, "recipient_id": "ada", "channel": "push", "address": device}
    delivery = await make_delivery(rest.conn, **values | overrides)
    await rest.conn.execute("UPDATE store.attempts SET provider = 'apns' WHERE delivery_id = %s", [delivery.id])
    return delivery


def token_of(delivery, attempt_no=1, secret=SECRET):
    return receipt_token(secret.encode(), delivery.id, attempt_no)


async def say(rest, delivery, event, **changes):
    anyone = await rest.anyone()
    return await anyone.post(RECEIPTS, json={"token": token_of(delivery), "event": event} | changes)


async def apply_all(db):
    while await apply(db, Settings(), limit=100):
        pass


async def standing(rest, delivery):
    [row] = await rest.rows(
        "SELECT state, reason, delivered_at IS NOT NULL, opened_at IS NOT NULL FROM store.deliveries WHERE id = %s",
        delivery.id,
    )
    return row


async def events(rest, delivery):
    return await rest.rows(
        "SELECT kind, source, attempt_no FROM store.events WHERE delivery_id = %s ORDER BY kind", delivery.id
    )


# -- what a receipt comes to ---------------------------------------------------------------------------------


async def test_a_push_is_delivered_when_its_device_says_so(rest, db, shop):
    delivery = await push(rest, shop)
    assert await standing(rest, delivery) == ("sent", None, False, False)
    answer = await say(rest, delivery, "received")
    assert (answer.status_code, answer.json()) == (202, {"status": "recorded"})
    await apply_all(db)
    assert await standing(rest, delivery) == ("delivered", "confirmed", True, False)
    assert await events(rest, delivery) == [("provider_delivered", "device", 1)]
    [(proof,)] = await rest.rows(
        "SELECT e.source FROM store.deliveries d JOIN store.events e ON e.id = d.evidence_id WHERE d.id = %s",
        delivery.id,
    )
    assert proof == "device"


@pytest.mark.parametrize("order", list(itertools.permutations(EVENTS)), ids=" ".join)
async def test_what_the_device_says_first_makes_no_difference(rest, db, shop, order):
    delivery = await push(rest, shop)
    for event in order:
        await say(rest, delivery, event)
        await apply_all(db)
        assert (await standing(rest, delivery))[0] == "delivered"
    assert await standing(rest, delivery) == ("delivered", "confirmed", True, True)
    assert await events(rest, delivery) == [
        ("provider_delivered", "device", 1),
        ("provider_dismissed", "device", 1),
        ("provider_opened", "device", 1),
    ]


async def test_an_open_alone_proves_that_it_came(rest, db, shop):
    delivery = await push(rest, shop)
    await say(rest, delivery, "opened")
    await apply_all(db)
    assert await standing(rest, delivery) == ("delivered", "confirmed", True, True)


@pytest.mark.parametrize("state", ["ambiguous", "unconfirmed", "sending"])
async def test_a_receipt_settles_what_nobody_else_could(rest, db, shop, state):
    delivery = await push(rest, shop, state=state)
    await say(rest, delivery, "received")
    await apply_all(db)
    assert (await standing(rest, delivery))[0] == "delivered"
    [(attempt,)] = await rest.rows("SELECT state FROM store.attempts WHERE delivery_id = %s", delivery.id)
    assert attempt == "accepted"


async def test_a_receipt_speaks_of_the_attempt_in_its_token(rest, db, shop):
    delivery = await push(rest, shop, state="unconfirmed", attempt_no=2)
    await make_attempt(rest.conn, delivery, no=1, provider="apns", state="not_sent", outcome="unknown")
    await say(rest, delivery, "received", token=token_of(delivery, 1))
    await apply_all(db)
    assert await events(rest, delivery) == [("provider_delivered", "device", 1)]


async def test_a_receipt_for_an_attempt_that_was_never_made_proves_nothing(rest, db, shop):
    delivery = await push(rest, shop)
    assert (await say(rest, delivery, "received", token=token_of(delivery, 7))).status_code == 202
    await apply_all(db)
    assert (await standing(rest, delivery))[0] == "sent"
    assert await rest.rows("SELECT state FROM store.inbound_events") == [("parked",)]


# -- once ----------------------------------------------------------------------------------------------------


async def test_a_receipt_shown_again_counts_once(rest, db, shop):
    delivery = await push(rest, shop)
    for _ in range(3):
        assert (await say(rest, delivery, "opened")).status_code == 202
        await apply_all(db)
    assert len(await events(rest, delivery)) == 2


async def test_receipts_at_the_same_moment_count_once(rest, db, shop):
    delivery = await push(rest, shop)
    await asyncio.gather(*(say(rest, delivery, event) for event in EVENTS * 5))
    await apply_all(db)
    assert len(await events(rest, delivery)) == 3


async def test_two_processes_store_a_receipt_once_whatever_the_day(rest, db, shop):
    """Neither knows what the other has seen, and the second hears of it on another day."""
    delivery = await push(rest, shop)
    attempt = SentAttempt(delivery.id, 1)
    for days in (-2, 0):
        told = of_push(attempt, "opened", datetime.now(UTC) + timedelta(days=days))
        process = Receipts(db, Settings(), committed=lambda: None)
        await process.tell(told)
        await process.close()
    assert await rest.rows("SELECT kind FROM store.inbound_events ORDER BY kind") == [("delivered",), ("opened",)]


# -- who may say it ------------------------------------------------------------------------------------------


async def test_only_a_token_of_ours_says_anything(rest, shop):
    delivery = await push(rest, shop)
    good = token_of(delivery)
    pixel = open_url(SECRET.encode(), "http://x", delivery.id, 1).rpartition("/")[2].removesuffix(".gif")
    for token in (token_of(delivery, secret="another"), good[:-1], good + "A", "", "a.b.c", pixel, "é"):
        answer = await say(rest, delivery, "received", token=token)
        assert answer.status_code == 401, token
        assert answer.headers["content-type"] == "application/problem+json"
    assert await rest.rows("SELECT FROM store.inbound_events") == []


async def test_what_is_wrong_is_named(rest, shop):
    delivery = await push(rest, shop)
    assert "event" in wrong_fields(await say(rest, delivery, "burnt"))
    assert "token" in wrong_fields(await say(rest, delivery, "received", token=7))
    assert "more" in wrong_fields(await say(rest, delivery, "received", more=1))
    assert "token" in wrong_fields(await say(rest, delivery, "received", token="x" * 2001))
    anyone = await rest.anyone()
    for content, status in ((b"x" * 5000, 413), (b"{", 400)):
        answer = await anyone.post(RECEIPTS, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == status


@pytest.mark.parametrize("path", [RECEIPTS, OPENED])
async def test_a_worker_of_any_site_may_acknowledge_and_no_cookie_is_asked_for(rest, shop, path):
    worker = await rest.anyone({"Origin": "https://shop.example"})
    asked = await worker.options(
        path, headers={"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    )
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "*"
    assert "content-type" in asked.headers["access-control-allow-headers"]
    assert "POST" in asked.headers["access-control-allow-methods"]
    answer = await worker.post(path, json={"token": "x", "event": "opened"})
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert "access-control-allow-credentials" not in answer.headers
    assert "set-cookie" not in answer.headers


# -- push-opened ---------------------------------------------------------------------------------------------


async def report(client, delivery, device, **changes):
    body = {"notification_id": str(delivery.notification_id), "device_id": device} | changes
    return await client.post(OPENED, json={name: value for name, value in body.items() if value is not None})


async def test_a_backend_reports_an_open_by_notification_and_device(rest, db, shop):
    _, client, device = shop
    delivery = await push(rest, shop)
    assert (await report(client, delivery, device)).status_code == 202
    await apply_all(db)
    assert await standing(rest, delivery) == ("delivered", "confirmed", True, True)


async def test_an_app_reports_its_own_open_with_its_recipients_token(rest, db, shop):
    tenant, client, device = shop
    await make_recipient(rest.conn, tenant_id=tenant.id, id="bob")
    delivery = await push(rest, shop)
    clients = {}
    for name in ("ada", "bob"):
        token = (await client.post(f"/api/v1/recipients/{name}/tokens", json={"ttl_seconds": 600})).json()["token"]
        clients[name] = await rest.anyone({"Authorization": f"Bearer {token}"})
    assert (await report(clients["bob"], delivery, device)).status_code == 404
    assert (await report(clients["ada"], delivery, device)).status_code == 202
    await apply_all(db)
    assert (await standing(rest, delivery))[3]


async def test_a_push_token_is_enough(rest, db, shop):
    delivery = await push(rest, shop)
    anyone = await rest.anyone()
    answer = await report(anyone, delivery, None, notification_id=None, token=token_of(delivery))
    assert answer.status_code == 202
    assert (await report(anyone, delivery, None, notification_id=None, token="1.a.b")).status_code == 401
    await apply_all(db)
    assert (await standing(rest, delivery))[3]


async def test_nobody_reports_for_what_is_not_theirs(rest, shop):
    tenant, client, device = shop
    delivery = await push(rest, shop)
    _, other = await rest.tenant()
    assert (await report(other, delivery, device)).status_code == 404
    assert (await report(client, delivery, str(uuid4()))).status_code == 404
    assert (await report(client, delivery, device, notification_id=str(uuid4()))).status_code == 404
    assert (await report(await rest.client(tenant.id, "read"), delivery, device)).status_code == 403
    assert (await report(await rest.anyone(), delivery, device)).status_code == 401
    unsent = await push(rest, shop, state="queued")
    assert (await report(client, unsent, device)).status_code == 404
    mail = await push(rest, shop, channel="email")
    assert (await report(client, mail, device)).status_code == 404
    assert await rest.rows("SELECT FROM store.inbound_events") == []


@pytest.mark.parametrize("state", ["refused", "not_sent"])
async def test_an_open_of_what_never_left_does_not_end_its_retry(rest, db, shop, state):
    _, client, device = shop
    delivery = await push(rest, shop, state="queued", attempt=False, attempt_no=1, failures=1)
    await make_attempt(rest.conn, delivery, provider="apns", state=state, outcome="transient")
    assert (await report(client, delivery, device)).status_code == 404
    await apply_all(db)
    assert (await standing(rest, delivery))[0] == "queued"
    assert await rest.rows("SELECT FROM store.inbound_events") == []


@pytest.mark.parametrize("state", ["sending", "ambiguous", "sent", "unconfirmed"])
async def test_an_open_of_what_may_have_left_counts_for_the_attempt_that_may_have_brought_it(rest, db, shop, state):
    _, client, device = shop
    delivery = await push(rest, shop, state=state, attempt_no=2)
    await make_attempt(rest.conn, delivery, no=1, provider="apns", state="refused", outcome="transient")
    assert (await report(client, delivery, device)).status_code == 202
    await apply_all(db)
    assert await standing(rest, delivery) == ("delivered", "confirmed", True, True)
    assert {attempt_no for _, _, attempt_no in await events(rest, delivery)} == {2}


@pytest.mark.parametrize(
    "changes", [{"device_id": None}, {"notification_id": None}, {"token": "1.a.b"}, {"device_id": "phone"}]
)
async def test_a_report_names_one_push_in_one_way(rest, shop, changes):
    _, client, device = shop
    delivery = await push(rest, shop)
    assert wrong_fields(await report(client, delivery, device, **changes))
