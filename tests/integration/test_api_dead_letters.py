"""Dead letters over HTTP: what ran out of tries, and another chance for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.factories import make_category, make_delivery, make_recipient, make_suppression
from tests.rest import running_api, wrong_fields

URL = "/api/v1/dead-letters"
WHY = {"reason": "the provider is back"}


@pytest.fixture
async def rest(dsn, tmp_path):
    async with running_api(dsn, tmp_path) as rest:
        yield rest


async def dead(rest, tenant, **overrides):
    return await make_delivery(rest.conn, state="dead", tenant_id=tenant.id, **overrides)


async def state_of(rest, delivery):
    (row,) = await rest.rows("SELECT state, reason FROM store.deliveries WHERE id = %s", delivery.id)
    return row


async def test_a_dead_letter_shows_how_its_last_attempt_went(rest):
    tenant, client = await rest.tenant()
    letter = await dead(rest, tenant)
    await rest.rows(
        "UPDATE store.attempts SET status_code = 503, detail = 'try later' WHERE delivery_id = %s RETURNING 1",
        letter.id,
    )
    await make_delivery(rest.conn, state="queued", tenant_id=tenant.id)
    await make_delivery(rest.conn, state="unconfirmed", tenant_id=tenant.id)
    (shown,) = (await client.get(URL)).json()["items"]
    assert (
        shown.items()
        >= {
            "delivery_id": str(letter.id),
            "notification_id": str(letter.notification_id),
            "recipient_id": letter.recipient_id,
            "category": letter.category,
            "channel": "email",
            "reason": "retries_exhausted",
            "provider": "mailgun",
            "attempts": 1,
            "last_outcome": "transient",
            "last_status_code": 503,
            "last_detail": "try later",
        }.items()
    )


async def test_lists_filter_and_page_latest_first(rest):
    tenant, client = await rest.tenant()
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    recipient = await make_recipient(rest.conn, tenant_id=tenant.id, id="ana")
    category = await make_category(rest.conn, tenant_id=tenant.id, name="news")
    letters = [
        await dead(rest, tenant, ended_at=noon, recipient_id=recipient.id),
        await dead(rest, tenant, ended_at=noon, category=category.name),
        await dead(rest, tenant, ended_at=noon + timedelta(hours=1), reason="rejected"),
        await dead(rest, tenant, ended_at=noon + timedelta(hours=2), provider="other"),
    ]
    ids = [str(letter.id) for letter in sorted(letters, key=lambda row: (row.ended_at, row.id), reverse=True)]

    async def listed(**query):
        answer = await client.get(URL, params=query)
        assert answer.status_code == 200, answer.text
        return [item["delivery_id"] for item in answer.json()["items"]]

    seen, after = [], {}
    while len(seen) < 4:
        page = (await client.get(URL, params={"limit": 1, **after})).json()
        seen += [item["delivery_id"] for item in page["items"]]
        after = {"after": page["next"]}
    assert seen == ids
    assert page["next"] is None
    assert await listed(recipient_id="ana") == [str(letters[0].id)]
    assert await listed(category="news") == [str(letters[1].id)]
    assert await listed(reason="rejected") == [str(letters[2].id)]
    assert await listed(provider="other") == [str(letters[3].id)]
    assert await listed(template_id=letters[0].template_id) == [str(letters[0].id)]
    assert await listed(since="2026-01-31T13:00:00Z") == ids[:2]
    assert await listed(until="2026-01-31T14:00:00+01:00") == ids[2:]
    assert await listed(channel="sms") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("since=yesterday", "since"),
        ("until=2026-01-31T12:00:00", "until"),
        ("channel=fax", "channel"),
        ("after=WyJ4IiwgInkiXQ", "after"),
        ("recipient_id=%00", "recipient_id"),
        ("state=sent", "state"),
    ],
)
async def test_a_wrong_query_is_named(rest, query, field):
    _, client = await rest.tenant()
    assert any(name.startswith(field) for name in wrong_fields(await client.get(f"{URL}?{query}")))


async def test_a_replayed_dead_letter_is_queued_again_once_and_audited(rest):
    tenant, client = await rest.tenant()
    letter = await dead(rest, tenant)
    replayed = await client.post(f"{URL}/{letter.id}/replay", json=WHY)
    assert replayed.status_code == 200, replayed.text
    assert replayed.json().items() >= {"verdict": "requeued", "replayed_as": str(letter.id)}.items()
    assert await state_of(rest, letter) == ("queued", "replay")
    again = await client.post(f"{URL}/{letter.id}/replay", json=WHY)
    assert (again.status_code, again.json()["verdict"]) == (409, "refused_not_ended")
    ((actor, reason),) = await rest.rows("SELECT actor, reason FROM store.audit_log WHERE action = 'replay'")
    assert (actor.endswith(f"of {tenant.name}"), reason) == (True, WHY["reason"])


async def test_what_was_delivered_is_refused_unless_forced(rest):
    tenant, client = await rest.tenant()
    arrived = await make_delivery(rest.conn, state="delivered", tenant_id=tenant.id)
    refused = await client.post(f"{URL}/{arrived.id}/replay", json=WHY)
    assert refused.status_code == 409
    assert refused.json()["verdict"] == "refused_proven_delivered"
    assert "delivered" in refused.json()["detail"]
    forced = await client.post(f"{URL}/{arrived.id}/replay", json={**WHY, "force": True})
    assert forced.json()["verdict"] == "sent_again"
    assert forced.json()["replayed_as"] != str(arrived.id)


async def test_a_suppressed_address_is_refused_even_when_forced(rest):
    tenant, client = await rest.tenant()
    letter = await dead(rest, tenant)
    await make_suppression(rest.conn, tenant_id=tenant.id, address=letter.address)
    refused = await client.post(f"{URL}/{letter.id}/replay", json={**WHY, "force": True})
    assert (refused.status_code, refused.json()["verdict"]) == (409, "refused_suppressed")
    assert await state_of(rest, letter) == ("dead", "retries_exhausted")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "reason"),
        ({"reason": ""}, "reason"),
        ({"reason": "a\r\nb"}, "reason"),
        ({**WHY, "force": "yes"}, "force"),
        ({**WHY, "expires_at": "soon"}, "expires_at"),
        ({**WHY, "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({**WHY, "expires_at": "2999-01-01T00:00:00Z"}, "expires_at"),
        ({**WHY, "commit": True}, "commit"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_sent(rest, body, field):
    tenant, client = await rest.tenant()
    letter = await dead(rest, tenant)
    assert field in wrong_fields(await client.post(f"{URL}/{letter.id}/replay", json=body))
    assert await state_of(rest, letter) == ("dead", "retries_exhausted")


async def test_many_are_shown_first_and_replayed_when_told_to(rest):
    tenant, client = await rest.tenant()
    category = await make_category(rest.conn, tenant_id=tenant.id, name="news")
    letters = [await dead(rest, tenant, category=category.name) for _ in range(3)]
    apart = await dead(rest, tenant)
    await make_suppression(rest.conn, tenant_id=tenant.id, address=letters[0].address)

    shown = (await client.post(f"{URL}/replay", json={"category": "news"})).json()
    assert (shown["dry_run"], shown["counts"]) == (True, {"would_requeue": 2, "refused_suppressed": 1})
    assert {item["delivery_id"] for item in shown["items"]} == {str(letter.id) for letter in letters}
    assert await state_of(rest, letters[1]) == ("dead", "retries_exhausted")

    done = (await client.post(f"{URL}/replay", json={"category": "news", "dry_run": False, **WHY})).json()
    assert (done["dry_run"], done["counts"]) == (False, {"requeued": 2, "refused_suppressed": 1})
    assert [await state_of(rest, letter) for letter in letters] == [
        ("dead", "retries_exhausted"),
        ("queued", "replay"),
        ("queued", "replay"),
    ]
    assert await state_of(rest, apart) == ("dead", "retries_exhausted")


async def test_a_bulk_replay_is_bounded_and_needs_a_reason(rest):
    tenant, client = await rest.tenant()
    for _ in range(3):
        await dead(rest, tenant)
    assert len((await client.post(f"{URL}/replay", json={"max_rows": 2})).json()["items"]) == 2
    assert "body" in wrong_fields(await client.post(f"{URL}/replay", json={"dry_run": False}))
    assert "max_rows" in wrong_fields(await client.post(f"{URL}/replay", json={"max_rows": 1001}))
    assert "since" in wrong_fields(await client.post(f"{URL}/replay", json={"since": "2026-01-31"}))
    assert "force" in wrong_fields(await client.post(f"{URL}/replay", json={"force": True}))
    assert await rest.rows("SELECT FROM store.deliveries WHERE state <> 'dead'") == []


async def test_another_tenant_sees_and_changes_nothing(rest):
    tenant, client = await rest.tenant()
    _, stranger = await rest.tenant()
    letter = await dead(rest, tenant)
    assert (await stranger.get(URL)).json()["items"] == []
    assert (await stranger.post(f"{URL}/{letter.id}/replay", json=WHY)).status_code == 404
    assert (await stranger.post(f"{URL}/{letter.id}/replay", json={**WHY, "force": True})).status_code == 404
    many = await stranger.post(f"{URL}/replay", json={"dry_run": False, **WHY})
    assert many.json() == {"dry_run": False, "counts": {}, "items": []}
    assert await state_of(rest, letter) == ("dead", "retries_exhausted")
    assert (await client.post(f"{URL}/{uuid4()}/replay", json=WHY)).status_code == 404
    assert (await client.post(f"{URL}/not-an-id/replay", json=WHY)).status_code == 404


async def test_each_act_needs_its_scope(rest):
    tenant, _ = await rest.tenant()
    letter = await dead(rest, tenant)
    reader, sender = await rest.client(tenant.id, "read"), await rest.client(tenant.id, "send")
    for client in (reader, sender):
        assert (await client.post(f"{URL}/{letter.id}/replay", json=WHY)).status_code == 403
        assert (await client.post(f"{URL}/replay", json={})).status_code == 403
    assert (await sender.get(URL)).status_code == 403
    assert len((await reader.get(URL)).json()["items"]) == 1
    assert await state_of(rest, letter) == ("dead", "retries_exhausted")
