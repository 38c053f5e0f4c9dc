"""Sending one notification and many, reading what became of one, calling one back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from tests.factories import (
    make_category,
    make_delivery,
    make_notification,
    make_recipient,
    make_template,
)
from tests.rest import wrong_fields
from tests.shop import BATCH, MAIL, open_shop, running_shop

NOTIFICATIONS = "/api/v1/notifications"


@pytest.fixture
async def shop(dsn, tmp_path):
    async with running_shop(dsn, tmp_path) as shop:
        yield shop


# -- sending one -------------------------------------------------------------------------------------------


async def test_an_accepted_notification_is_a_row_that_is_due(shop):
    response = await shop.send()
    assert response.status_code == 202, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body == {"id": body["id"], "status": "queued"}
    [row] = await shop.rest.rows(
        "SELECT tenant_id, recipient_id, category, class, channels, template_id, template_version, state, "
        "source, request, idempotency_key, due_at <= now(), expires_at - due_at "
        "FROM store.notifications WHERE id = %s",
        UUID(body["id"]),
    )
    assert row == (
        shop.tenant.id,
        "ada",
        "orders",
        "transactional",
        ["email"],
        "order_confirmation",
        1,
        "accepted",
        "api",
        {
            "recipient_id": "ada",
            "category": "orders",
            "template_id": "order_confirmation",
            "variables": {"order_id": "A-1"},
        },
        "order_confirmation:A-1",
        True,
        row[-1],
    )
    assert timedelta(hours=23) < row[-1] <= timedelta(days=1)


async def test_the_stored_request_has_the_shape_that_sql_builds(shop):
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    response = await shop.send(
        channel="email",
        template_version=1,
        send_at=(due.astimezone().isoformat()),
        expires_at=(due + timedelta(hours=2)).isoformat(),
    )
    assert response.status_code == 202, response.text
    [(ours, theirs)] = await shop.rest.rows(
        "SELECT request, landed._request(recipient_id, category, template_id, 1, channels, "
        "request -> 'variables', due_at, expires_at) FROM store.notifications WHERE id = %s",
        UUID(response.json()["id"]),
    )
    assert ours == theirs
    assert ours["channels"] == ["email"]


async def test_a_scheduled_notification_is_due_then_and_expires_from_then(shop):
    due = datetime.now(UTC) + timedelta(days=3)
    response = await shop.send(send_at=due.isoformat())
    [(due_at, life)] = await shop.rest.rows(
        "SELECT due_at, expires_at - due_at FROM store.notifications WHERE id = %s",
        UUID(response.json()["id"]),
    )
    assert (due_at, life) == (due, timedelta(days=1))


async def test_a_commit_wakes_the_intake(shop, dsn):
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as listening:
        await listening.execute("LISTEN landed_wake")
        await shop.send()
        async for heard in listening.notifies(timeout=30):
            assert heard.payload == "intake"
            return
    pytest.fail("nobody was woken")


async def _archived_template(shop):
    await make_template(shop.rest.conn, tenant_id=shop.tenant.id, template_id="old", status="archived")


async def _draft_template(shop):
    await make_template(shop.rest.conn, tenant_id=shop.tenant.id, template_id="new", status="draft")
    await make_template(
        shop.rest.conn, tenant_id=shop.tenant.id, template_id="order_confirmation", version=2, status="draft"
    )


async def _push_category(shop):
    await make_category(shop.rest.conn, tenant_id=shop.tenant.id, name="both", channels=["email", "push"])


async def _inactive_recipient(shop):
    await make_recipient(shop.rest.conn, tenant_id=shop.tenant.id, id="bob", active=False)


HOURS = timedelta(hours=1)


@pytest.mark.parametrize(
    ("before", "changes", "field", "message"),
    [
        (None, {"recipient_id": "nobody"}, "recipient_id", "there is no recipient 'nobody'"),
        (_inactive_recipient, {"recipient_id": "bob"}, "recipient_id", "recipient 'bob' is not active"),
        (None, {"category": "other"}, "category", "there is no category 'other'"),
        (None, {"template_id": "other"}, "template_id", "there is no template 'other'"),
        (_draft_template, {"template_id": "new"}, "template_id", "has only drafts"),
        (_draft_template, {"template_version": 2}, "template_version", "version 2 is a draft"),
        (None, {"template_version": 7}, "template_version", "has no version 7; the newest is 1"),
        (_archived_template, {"template_id": "old"}, "template_id", "is archived"),
        (
            _archived_template,
            {"template_id": "old", "template_version": 1},
            "template_version",
            "is archived",
        ),
        (None, {"variables": {}}, "variables.order_id", "missing"),
        (None, {"variables": {"order_id": "1", "ordre": 1}}, "variables.ordre", "unknown"),
        (None, {"channel": "sms"}, "channels", "nothing is configured to send sms"),
        (_push_category, {"category": "both"}, "channels", "nothing is configured to send push"),
        (None, {"channels": ["email", "email"]}, "channels", "names a channel twice"),
        (None, {"channel": "email", "channels": ["email"]}, "channel", "give one of them"),
        (None, {"send_at": "2999-01-01T00:00:00Z"}, "send_at", "days ahead"),
        (None, {"expires_at": "2001-01-01T00:00:00Z"}, "expires_at", "must be later"),
        (None, {"expires_at": "2999-01-01T00:00:00Z"}, "expires_at", "may be at most 86400 s"),
    ],
)
async def test_what_cannot_be_sent_is_refused_by_name(shop, before, changes, field, message):
    if before is not None:
        await before(shop)
    errors = wrong_fields(await shop.send(**changes))
    assert list(errors) == [field]
    assert message in errors[field]
    assert await shop.counted("notifications") == 0
    assert await shop.counted("idempotency_keys") == 0


async def test_a_channel_without_content_is_named(shop, dsn, tmp_path):
    async with running_shop(
        dsn, tmp_path, providers={"mail": MAIL}, routes={"email": ("mail",), "push.ios": ("mail",)}
    ) as other:
        errors = wrong_fields(await other.send(channels=["email", "push"]))
        assert errors == {"channels": "template 'order_confirmation' version 1 has no content for push"}


async def test_the_newest_published_version_is_sent(shop):
    await make_template(shop.rest.conn, tenant_id=shop.tenant.id, template_id="order_confirmation", version=2)
    await make_template(
        shop.rest.conn, tenant_id=shop.tenant.id, template_id="order_confirmation", version=3, status="draft"
    )
    response = await shop.send()
    shown = (await shop.client.get(f"{NOTIFICATIONS}/{response.json()['id']}")).json()
    assert shown["template_version"] == 2


async def test_a_publish_is_seen_at_once(shop):
    await make_template(shop.rest.conn, tenant_id=shop.tenant.id, template_id="new", status="draft")
    assert (await shop.send(template_id="new")).status_code == 422
    await shop.rest.conn.execute(
        "UPDATE store.templates SET status = 'published', published_at = now() WHERE template_id = 'new'"
    )
    async with asyncio.timeout(20):  # far below the cache's own time, so only the hint can have done it
        while True:
            response = await shop.send(template_id="new")
            if response.status_code == 202:
                return
            await asyncio.sleep(0.01)


# -- sending many ------------------------------------------------------------------------------------------


async def test_each_item_of_a_batch_has_its_own_fate(shop):
    items = [
        shop.request(),
        shop.request(recipient_id="nobody"),
        shop.request(variables={"order_id": "A-\x00"}),
        "not an object",
        shop.request(colour="red"),
        shop.request(idempotency_key="own:1"),
        shop.request(send_at="tomorrow"),
    ]
    response = await shop.client.post(BATCH, json={"items": items}, headers={"Idempotency-Key": "night"})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["accepted"], answer["refused"]) == (2, 5)
    assert [item["index"] for item in answer["items"]] == list(range(7))
    assert [item["status"] for item in answer["items"]] == [202, 422, 422, 422, 422, 202, 422]
    fields = [item["problem"]["errors"][0]["field"] for item in answer["items"] if "problem" in item]
    assert fields == ["recipient_id", "variables.order_id", "body", "colour", "send_at"]
    keys = await shop.rest.rows("SELECT key FROM store.idempotency_keys ORDER BY key")
    assert keys == [("night/0",), ("own:1",)]


async def test_a_batch_sent_twice_is_accepted_once(shop):
    items = {"items": [shop.request(variables={"order_id": str(number)}) for number in range(20)]}
    first, second = [
        (await shop.client.post(BATCH, json=items, headers={"Idempotency-Key": "night"})).json() for _ in range(2)
    ]
    assert [item["id"] for item in first["items"]] == [item["id"] for item in second["items"]]
    assert all(item["replayed"] for item in second["items"])
    assert await shop.counted("notifications") == 20


async def test_items_that_share_a_key_are_one_notification(shop):
    items = [shop.request(idempotency_key="same")] * 3
    answer = (await shop.client.post(BATCH, json={"items": items})).json()
    assert [item["status"] for item in answer["items"]] == [202, 409, 409]
    assert await shop.counted("notifications") == 1


async def test_an_item_without_a_key_is_refused_alone(shop):
    items = [shop.request(idempotency_key="k"), shop.request()]
    answer = (await shop.client.post(BATCH, json={"items": items})).json()
    assert [item["status"] for item in answer["items"]] == [202, 400]


async def test_a_thousand_items_are_accepted_in_order(shop):
    items = [shop.request(variables={"order_id": str(number)}) for number in range(1000)]
    answer = (await shop.client.post(BATCH, json={"items": items}, headers={"Idempotency-Key": "k"}, timeout=60)).json()
    assert answer["accepted"] == 1000
    rows = await shop.rest.rows("SELECT id, request #>> '{variables,order_id}' FROM store.notifications")
    assert {str(id): order for id, order in rows} == {item["id"]: str(item["index"]) for item in answer["items"]}


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_batch_has_one_to_a_thousand_items(shop, count):
    response = await shop.client.post(BATCH, json={"items": [shop.request(idempotency_key="k")] * count})
    assert wrong_fields(response) == {"items": f"must have 1 to 1000 elements; it has {count}"}


async def test_half_a_surrogate_pair_fails_its_own_item(shop):
    body = b'{"items": [%b, %b]}' % (
        b'{"recipient_id":"ada","category":"orders","template_id":"order_confirmation",'
        b'"variables":{"order_id":"\\ud83d"},"idempotency_key":"a"}',
        b'{"recipient_id":"ada","category":"orders","template_id":"order_confirmation",'
        b'"variables":{"order_id":"\\ud83d\\ude00"},"idempotency_key":"b"}',
    )
    response = await shop.client.post(BATCH, content=body, headers={"Content-Type": "application/json"})
    assert [item["status"] for item in response.json()["items"]] == [422, 202]


# -- what became of it -------------------------------------------------------------------------------------


async def test_the_whole_story_is_told(shop):
    conn = shop.rest.conn
    notification = await make_notification(
        conn, tenant_id=shop.tenant.id, state="planned", trace=[{"rule": "recipient", "verdict": "ok"}]
    )
    delivery = await make_delivery(conn, notification=notification, state="delivered")
    shown = (await shop.client.get(f"{NOTIFICATIONS}/{notification.id}")).json()
    assert shown["id"] == str(notification.id)
    assert shown["class"] == "transactional"
    assert shown["trace"] == [{"rule": "recipient", "verdict": "ok"}]
    [told] = shown["deliveries"]
    assert (told["id"], told["state"], told["reason"]) == (str(delivery.id), "delivered", "confirmed")
    assert [(a["no"], a["state"]) for a in told["attempts"]] == [(1, "accepted")]
    kinds = [entry["kind"] for entry in shown["timeline"]]
    assert {"accepted", "planned", "attempt_opened", "provider_delivered"} <= set(kinds)
    assert [entry["at"] for entry in shown["timeline"]] == sorted(entry["at"] for entry in shown["timeline"])


async def test_another_tenants_notification_is_not_there(shop):
    other = await open_shop(shop.rest)
    mine = (await shop.send()).json()["id"]
    assert (await shop.client.get(f"{NOTIFICATIONS}/{mine}")).status_code == 200
    for method, url in [("GET", f"{NOTIFICATIONS}/{mine}"), ("POST", f"{NOTIFICATIONS}/{mine}/cancel")]:
        response = await other.client.request(method, url, json={} if method == "POST" else None)
        assert response.status_code == 404, url
    [(state,)] = await shop.rest.rows("SELECT state FROM store.notifications WHERE id = %s", UUID(mine))
    assert state == "accepted"


@pytest.mark.parametrize(
    "unknown",
    ["f47ac10b-58cc-7372-8567-0e02b2c3d479", "00000000-0000-0000-0000-000000000000", "nonsense", "1"],
)
async def test_an_unknown_id_is_404(shop, unknown):
    assert (await shop.client.get(f"{NOTIFICATIONS}/{unknown}")).status_code == 404
    assert (await shop.client.post(f"{NOTIFICATIONS}/{unknown}/cancel", json={})).status_code == 404


# -- calling one back --------------------------------------------------------------------------------------


async def test_what_waits_is_cancelled_and_audited(shop):
    mine = (await shop.send()).json()["id"]
    response = await shop.client.post(f"{NOTIFICATIONS}/{mine}/cancel", json={"reason": "order withdrawn"})
    assert response.status_code == 200, response.text
    assert response.json()["cancelled"] is True
    assert (await shop.client.get(f"{NOTIFICATIONS}/{mine}")).json()["state"] == "cancelled"
    [(actor, reason)] = await shop.rest.rows("SELECT actor, reason FROM store.audit_log WHERE action = 'cancel'")
    assert actor.startswith("api key ")
    assert reason == "order withdrawn"


async def test_what_was_sent_cannot_be_called_back_and_says_so(shop):
    notification = await make_notification(shop.rest.conn, tenant_id=shop.tenant.id, state="planned")
    await make_delivery(shop.rest.conn, notification=notification, state="sent")
    response = await shop.client.post(f"{NOTIFICATIONS}/{notification.id}/cancel", json={})
    assert response.json()["cancelled"] is False
    [delivery] = response.json()["deliveries"]
    assert delivery["explanation"] == "the provider has accepted it"


# -- how fast one may go -----------------------------------------------------------------------------------


async def test_a_key_beyond_its_rate_is_told_when_to_come_back(shop):
    await shop.rest.conn.execute("UPDATE store.api_keys SET rate_per_second = 1, burst = 5")
    shop.rest.app.state.api.keys.clear()
    responses = [await shop.send(key=f"k{number}") for number in range(12)]
    refused = [response for response in responses if response.status_code == 429]
    assert {response.status_code for response in responses} == {202, 429}
    assert 5 <= responses.index(refused[0]) <= 8
    problem = refused[0].json()
    assert problem["type"] == "/problems/too-many-requests"
    assert 0 < problem["retry_after_seconds"] <= 1
    assert refused[0].headers["Retry-After"] == "1"
    assert await shop.counted("notifications") == len(responses) - len(refused)


async def test_what_a_key_was_refused_is_on_record(shop):
    await shop.rest.conn.execute("UPDATE store.api_keys SET rate_per_second = 1, burst = 1")
    shop.rest.app.state.api.keys.clear()
    refused = recorded = number = 0
    while recorded < 3:  # it is written with the next look into the bucket, a tenth of a second later
        number += 1
        refused += (await shop.send(key=f"k{number}")).status_code == 429
        rows = await shop.rest.rows("SELECT level, tenant, sum(hits)::int FROM reporting.rate_limit_hits GROUP BY 1, 2")
        recorded = rows[0][2] if rows else 0
        assert recorded <= refused
    assert rows == [("api_key", shop.tenant.name, recorded)]


async def test_a_batch_costs_a_token_an_item(shop):
    await shop.rest.conn.execute("UPDATE store.api_keys SET rate_per_second = 1, burst = 5")
    shop.rest.app.state.api.keys.clear()
    items = [shop.request() for _ in range(50)]
    response = await shop.client.post(BATCH, json={"items": items}, headers={"Idempotency-Key": "k"})
    assert response.status_code == 429
    assert 40 <= response.json()["retry_after_seconds"] <= 46
    assert await shop.counted("notifications") == 0
