"""Nothing of one tenant's reaches another by way of a channel: endpoints, devices, inboxes, suppressions, evidence; and
nothing that a stranger writes into a message leads anywhere it should not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import structlog

from app.db import Database
from app.domain.models import Channel
from app.domain.tokens import SentAttempt, Subscription, click_url, open_url, read_click, receipt_token, sign
from app.flows import targets
from app.flows.apply import apply
from app.flows.compose import LINK
from app.flows.intake import intake
from app.log import configure
from app.settings import Settings
from app.store import devices, dispatch
from tests import lanes
from tests.factories import (
    make_delivery,
    make_notification,
    make_recipient,
    make_suppression,
    make_template,
)
from tests.inboxes import INBOX, as_recipient, deliver
from tests.rest import running_api, wrong_fields

SECRET = "a secret of the test"
ENDPOINTS = "/api/v1/endpoints"
SUPPRESSIONS = "/api/v1/suppressions"
REGISTER = "/api/v1/devices/register"
ROUTES = Settings(
    providers={"hooks": {"adapter": "standard-webhooks"}, "rooms": {"adapter": "chat"}, "web": {"adapter": "inbox"}},
    routes={"webhook": ("hooks",), "chat": ("rooms",), "push.android": ("web",)},
)


@pytest.fixture
async def rest(dsn, tmp_path):
    async with running_api(dsn, tmp_path, secret=SECRET) as rest:
        yield rest


async def endpoint_of(client: Any) -> str:
    answer = await client.post(ENDPOINTS, json={"name": "orders", "url": "https://93.184.216.34/hooks"})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def registered(client: Any, user_id: str, of: str = "tablet", **changes: Any) -> str:
    body = {"user_id": user_id, "platform": "android", "device_token": f"token-{of}"} | changes
    answer = await client.post(REGISTER, json=body)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()["id"]


async def planned(rest: Any, db: Database, tenant: Any, recipient_id: str, channel: str) -> None:
    """A notification on this channel, with its deliveries."""
    title = "" if channel in ("sms", "webhook") else "Order"
    template = await make_template(rest.conn, tenant_id=tenant.id, channel=channel, html=None, subject=title)
    await make_notification(
        rest.conn,
        tenant_id=tenant.id,
        recipient_id=recipient_id,
        channels=[channel],
        template_id=template.template_id,
    )
    assert (await intake(db, ROUTES, klass="transactional", limit=10))[0] == 1


async def claimed(db: Database, channel: str, lane: str) -> list[tuple[dispatch.Claimed, Any]]:
    """What a lane takes up now, each with where it would go."""
    async with db.transaction() as conn:
        _, taken = await lanes.claim(conn, lane=lane, provider="any", to_endpoints=channel in targets.ENDPOINT_CHANNELS)
        found = await targets.load(conn, channel, taken)
    return [(one, found.of(one)) for one in taken]


async def states(rest: Any) -> list[tuple[str, str | None]]:
    return await rest.rows("SELECT state, reason FROM store.deliveries ORDER BY id")


# -- endpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["webhook", "chat"])
async def test_another_tenants_endpoint_leads_nowhere_whoever_names_it(rest, db, channel):
    _, theirs = await rest.tenant()
    mine, client = await rest.tenant()
    foreign = await endpoint_of(theirs)
    put = await client.put("/api/v1/recipients/ada", json={"addresses": {channel: foreign}})
    assert put.status_code == 201  # ids of others are not told apart from ids of nothing
    await planned(rest, db, mine, "ada", channel)
    [(delivery, target)] = await claimed(db, channel, f"{channel}.transactional.default")
    assert target is None
    assert targets.missing(delivery, target).reason == "no_endpoint"


async def test_what_others_sent_towards_an_endpoint_is_not_its_owners_to_see_or_to_replay(rest):
    owner, client = await rest.tenant()
    stranger, _ = await rest.tenant()
    endpoint = await endpoint_of(client)
    values = {"channel": "webhook", "lane": "webhook.transactional.default", "address": endpoint, "state": "dead"}
    foreign = await make_delivery(rest.conn, tenant_id=stranger.id, **values)
    own = await make_delivery(rest.conn, tenant_id=owner.id, **values)
    listed = (await client.get(f"{ENDPOINTS}/{endpoint}/deliveries")).json()["items"]
    assert [item["delivery_id"] for item in listed] == [str(own.id)]
    one = await client.post(f"{ENDPOINTS}/{endpoint}/replay", json={"delivery_id": str(foreign.id)})
    assert one.status_code == 404
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    many = (await client.post(f"{ENDPOINTS}/{endpoint}/replay", json={"since": since})).json()
    assert [item["delivery_id"] for item in many["items"]] == [str(own.id)]
    [(state,)] = await rest.rows("SELECT state FROM store.deliveries WHERE id = %s", foreign.id)
    assert state == "dead"


async def test_since_the_beginning_of_time_is_everything(rest):
    owner, client = await rest.tenant()
    endpoint = await endpoint_of(client)
    values = {"channel": "webhook", "lane": "webhook.transactional.default", "address": endpoint, "state": "dead"}
    own = await make_delivery(rest.conn, tenant_id=owner.id, **values)
    for since in ("0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z"):
        listed = await client.get(f"{ENDPOINTS}/{endpoint}/deliveries", params={"since": since})
        assert [item["delivery_id"] for item in listed.json()["items"]] == [str(own.id)], since
        replay = {"since": since, "dry_run": True}
        answer = await client.post(f"{ENDPOINTS}/{endpoint}/replay", json=replay)
        assert [item["delivery_id"] for item in answer.json()["items"]] == [str(own.id)], since
    nothing = await client.get(f"{ENDPOINTS}/{endpoint}/deliveries", params={"since": "9999-12-31T23:59:59Z"})
    assert nothing.json()["items"] == []


# -- suppressions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["webhook", "chat"])
async def test_an_endpoint_is_suppressed_by_its_id_however_that_is_written(rest, db, channel):
    mine, client = await rest.tenant()
    endpoint = "abcdef01-2345-7789-abcd-ef0123456789"
    await make_recipient(rest.conn, tenant_id=mine.id, id="ada", addresses={channel: endpoint})
    await planned(rest, db, mine, "ada", channel)
    added = await client.post(SUPPRESSIONS, json={"channel": channel, "address": endpoint.upper()})
    assert (added.status_code, added.json()["address"]) == (201, endpoint)
    assert await claimed(db, channel, f"{channel}.transactional.default") == []
    assert await states(rest) == [("suppressed", "suppressed:manual")]
    await planned(rest, db, mine, "ada", channel)
    assert (await states(rest))[1] == ("suppressed", "suppressed:manual")  # intake knows it as well


async def test_an_endpoint_is_suppressed_by_psql_too(rest, db):
    mine, client = await rest.tenant()
    endpoint = await endpoint_of(client)
    for channel in ("webhook", "chat"):
        await rest.conn.execute("SELECT landed.suppress(%s, %s, %s, 'why')", (mine.name, channel, endpoint.upper()))
    found = await rest.rows("SELECT channel, address FROM store.suppressions ORDER BY id")
    assert found == [("webhook", endpoint), ("chat", endpoint)]


@pytest.mark.parametrize(
    ("channel", "address"),
    [("push", "a-device-token"), ("webhook", "https://example.com/hooks"), ("chat", "#room")],
)
async def test_what_no_delivery_has_as_its_address_is_refused_and_not_silently_kept(rest, channel, address):
    _, client = await rest.tenant()
    answer = await client.post(SUPPRESSIONS, json={"channel": channel, "address": address})
    assert wrong_fields(answer).keys() == {"address"}
    assert "must be the id of" in wrong_fields(answer)["address"]


async def test_a_suppressed_device_gets_no_push(rest, db):
    mine, client = await rest.tenant()
    await make_recipient(rest.conn, tenant_id=mine.id, id="ada")
    device = await registered(client, "ada")
    await planned(rest, db, mine, "ada", "push")
    assert (await client.post(SUPPRESSIONS, json={"channel": "push", "address": device.upper()})).status_code == 201
    assert await claimed(db, "push", "push.transactional.android") == []
    assert await states(rest) == [("suppressed", "suppressed:manual")]


async def test_one_tenants_suppression_is_not_anothers(rest, db):
    mine, client = await rest.tenant()
    other, _ = await rest.tenant()
    for tenant in (mine, other):
        await make_delivery(
            rest.conn, tenant_id=tenant.id, channel="sms", lane="sms.transactional.default", address="+4915112345678"
        )
    await client.post(SUPPRESSIONS, json={"channel": "sms", "address": "+49 1511 2345678"})
    taken = await claimed(db, "sms", "sms.transactional.default")
    assert [one.tenant_id for one, _ in taken] == [other.id]


async def test_opted_out_can_be_looked_for_and_not_be_given(rest):
    mine, client = await rest.tenant()
    await make_suppression(
        rest.conn, tenant_id=mine.id, channel="sms", address="+4915112345678", reason="opted_out", source="recipient"
    )
    given = {"channel": "sms", "address": "+4915112345678"}
    manual = await client.post(SUPPRESSIONS, json=given)
    assert (manual.status_code, manual.json()["reason"]) == (201, "manual")  # it stands beside the STOP
    assert wrong_fields(await client.post(SUPPRESSIONS, json={**given, "reason": "opted_out"})).keys() == {"reason"}
    found = (await client.get(SUPPRESSIONS, params={"reason": "opted_out"})).json()["items"]
    assert [item["reason"] for item in found] == ["opted_out"]
    assert len((await client.get(SUPPRESSIONS, params={"address": "+49 1511-2345678"})).json()["items"]) == 2


@pytest.mark.parametrize("channel", list(Channel))
async def test_whoever_asks_for_a_channel_may_name_each(rest, channel):
    _, client = await rest.tenant()
    for url in ("/api/v1/dead-letters", SUPPRESSIONS):
        assert (await client.get(url, params={"channel": channel})).status_code == 200, url
    category = await client.put("/api/v1/categories/c", json={"class": "alert", "channels": [channel]})
    assert category.status_code in (200, 201), category.text
    recipient = await client.put("/api/v1/recipients/ada", json={"channels": [channel]})
    assert recipient.status_code == 201


# -- devices -------------------------------------------------------------------------------------------------------


async def test_a_push_that_waits_does_not_follow_the_device_to_its_next_owner(rest, db):
    mine, client = await rest.tenant()
    for person in ("ada", "bo"):
        await make_recipient(rest.conn, tenant_id=mine.id, id=person)
    await registered(client, "ada", device_key="tablet")
    await planned(rest, db, mine, "ada", "push")
    of_bo = await registered(client, "bo", device_key="tablet")
    [(delivery, target)] = await claimed(db, "push", "push.transactional.android")
    assert target is None
    assert delivery.address != of_bo
    outcome = targets.missing(delivery, target)
    assert (outcome.kind, outcome.reason) == ("recipient_invalid", "no_device")


async def test_a_token_that_was_exchanged_while_its_push_waited_is_the_one_that_is_used(rest, db):
    mine, client = await rest.tenant()
    await make_recipient(rest.conn, tenant_id=mine.id, id="ada")
    await registered(client, "ada", "old", device_key="tablet")
    await planned(rest, db, mine, "ada", "push")
    await registered(client, "ada", "new", device_key="tablet")
    [(_, target)] = await claimed(db, "push", "push.transactional.android")
    assert target.device.token == "token-new"


async def test_the_same_token_at_another_tenant_is_neither_theirs_nor_taken_from_them(rest, db):
    mine, client = await rest.tenant()
    other, stranger = await rest.tenant()
    for tenant in (mine, other):
        await make_recipient(rest.conn, tenant_id=tenant.id, id="ada")
    own, foreign = await registered(client, "ada"), await registered(stranger, "ada")
    found = await devices.targets(rest.conn, [mine.id, mine.id], [UUID(own), UUID(foreign)])
    assert {str(id) for id in found} == {own}
    assert (await stranger.delete(f"/api/v1/devices/{own}")).status_code == 404
    assert (await client.get("/api/v1/devices", params={"user_id": "ada"})).json()["items"][0]["id"] == own


async def test_nobody_says_of_another_tenants_push_that_it_was_opened(rest, db):
    mine, _ = await rest.tenant()
    other, stranger = await rest.tenant()
    for tenant in (mine, other):
        await make_recipient(rest.conn, tenant_id=tenant.id, id="ada")
    device = await registered(await rest.client(mine.id), "ada")
    push = await make_delivery(
        rest.conn, tenant_id=mine.id, recipient_id="ada", state="sent", channel="push", address=device
    )
    told = {"notification_id": str(push.notification_id), "device_id": device}
    opened = "/api/v1/analytics/push-opened"
    assert (await stranger.post(opened, json=told)).status_code == 404
    assert (await (await as_recipient(rest, other, "ada")).post(opened, json=told)).status_code == 404
    assert await rest.rows("SELECT FROM store.inbound_events") == []


# -- inboxes -------------------------------------------------------------------------------------------------------


async def test_the_same_name_at_another_tenant_has_another_inbox(rest, db):
    mine, _ = await rest.tenant()
    other, stranger = await rest.tenant()
    item = await deliver(rest.conn, mine, "ada")
    impostor = await as_recipient(rest, other, "ada")
    for client, query in ((impostor, {}), (stranger, {"recipient_id": "ada"})):
        assert (await client.get(INBOX, params=query)).json()["items"] == []
        assert (await client.post(f"{INBOX}/{item.id}/read", params=query)).status_code == 404
        several = await client.post(f"{INBOX}/read", params=query, json={"ids": [str(item.id)]})
        assert several.json()["items"] == []
    assert await rest.rows("SELECT FROM store.inbound_events") == []


# -- what comes months later ---------------------------------------------------------------------------------------


async def test_whatever_is_said_of_a_message_long_gone_is_taken_and_comes_to_nothing(rest, db):
    """Its day was dropped: tokens do not expire, and a phone may have been in a drawer."""
    tenant, client = await rest.tenant()
    anyone = await rest.anyone()
    long_ago = UUID(int=(int((datetime.now(UTC) - timedelta(days=200)).timestamp() * 1000) << 80) | 0x7000 << 64 | 7)
    token = receipt_token(SECRET.encode(), long_ago, 1)
    for event in ("received", "opened", "dismissed"):
        assert (await anyone.post("/api/v1/receipts", json={"token": token, "event": event})).status_code == 202
    opened = "/api/v1/analytics/push-opened"
    assert (await anyone.post(opened, json={"token": token})).status_code == 202
    missing = await client.post(opened, json={"notification_id": str(long_ago), "device_id": str(uuid4())})
    assert missing.status_code == 404
    pixel = open_url(SECRET.encode(), "", long_ago, 1)
    assert (await anyone.get(pixel)).status_code == 200
    link = click_url(SECRET.encode(), "", long_ago, 1, "https://example.com/a")
    assert (await anyone.get(link)).headers["location"] == "https://example.com/a"
    settings = Settings()
    await apply(db, settings, limit=100)
    assert await rest.rows("SELECT DISTINCT state, reason FROM store.inbound_events") == [
        ("parked", "no such delivery")
    ]
    later = settings.times.evidence_window_seconds + 60
    await rest.conn.execute(
        "UPDATE store.inbound_events SET due_at = now(), received_at = now() - make_interval(secs => %s)", (later,)
    )
    await apply(db, settings, limit=100)
    ended = await rest.rows("SELECT DISTINCT state, reason FROM store.inbound_events")
    assert ended == [("unmatched", "no such delivery")]


@pytest.mark.parametrize("id", ["ffffffff-ffff-ffff-ffff-ffffffffffff", "00000000-0000-0000-0000-000000000000"])
async def test_an_id_of_no_day_at_all_is_not_found(rest, id):
    _, client = await rest.tenant()
    told = {"notification_id": id, "device_id": id}
    assert (await client.post("/api/v1/analytics/push-opened", json=told)).status_code == 404
    assert (await client.get(f"/api/v1/notifications/{id}")).status_code == 404
    assert (await client.delete(f"/api/v1/devices/{id}")).status_code == 404
    assert (await client.get(f"{ENDPOINTS}/{id}")).status_code == 404


# -- evidence ------------------------------------------------------------------------------------------------------


async def test_a_receipt_speaks_of_the_delivery_that_its_token_names_and_of_no_other(rest, db):
    mine, _ = await rest.tenant()
    other, _ = await rest.tenant()
    own, foreign = [
        await make_delivery(rest.conn, tenant_id=tenant.id, state="sent", channel="push", address=str(uuid4()))
        for tenant in (mine, other)
    ]
    anyone = await rest.anyone()
    token = receipt_token(SECRET.encode(), own.id, 1)
    answer = await anyone.post("/api/v1/receipts", json={"token": token, "event": "opened"})
    assert answer.status_code == 202
    await apply(db, Settings(), limit=10)
    found = await rest.rows("SELECT id, state FROM store.deliveries ORDER BY tenant_id")
    assert found == [(own.id, "delivered"), (foreign.id, "sent")]
    for wrong in (token[:-1], token.replace("1.", "2.", 1), receipt_token(b"another", foreign.id, 1)):
        assert (await anyone.post("/api/v1/receipts", json={"token": wrong, "event": "opened"})).status_code == 401


# -- links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JavaScript://%0aalert(1)",
        "JAVASCRIPT:/alert(1)",
        "Data:/text/html,x",
        "vbScript://x",
        "FILE:///etc/passwd",
        "blob:https://example.com/1",
        "java\tscript://x",
        "https://example.com/\r\nSet-Cookie: a=b",
        "https://example.com/ b",
        "//example.com",
        "",
    ],
)
def test_no_message_leads_into_script_or_a_second_header(url):
    assert LINK.fullmatch(url) is None
    with pytest.raises(ValueError, match="link"):
        click_url(b"key", "https://notify.example.com", uuid4(), 1, url)


def test_a_click_leads_to_the_very_url_that_was_signed():
    delivery = uuid4()
    url = "https://example.com/a?b=%0d%0a#c"
    token = click_url(b"key", "https://notify.example.com", delivery, 3, url).rpartition("/")[2]
    link = read_click(b"key", token)
    assert (link.attempt, link.url) == (SentAttempt(delivery, 3), url)


# -- logs ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def logging_as_in_earnest() -> Iterator[None]:
    configure()
    structlog.configure(cache_logger_on_first_use=False)  # else loggers would keep this test's stderr
    try:
        yield
    finally:
        structlog.reset_defaults()


async def test_no_log_line_holds_a_row_of_the_database(rest, capsys):
    """Whatever the database refuses it quotes, and an error is logged."""
    tenant, _ = await rest.tenant()
    values = {"tenant_id": tenant.id, "channel": "sms", "detail": "a\n\nsecret"}
    await make_suppression(rest.conn, address="+4915112345678", **values)
    with logging_as_in_earnest():
        for address in ("+4915112345678", "+49 1511 2345678"):
            with pytest.raises(psycopg.Error, match="1511") as refused:
                await make_suppression(rest.conn, address=address, **values)
            structlog.get_logger().warning("refused", error=str(refused.value), exc_info=refused.value)
            with pytest.raises(RuntimeError) as outer:
                raise RuntimeError("and then") from refused.value
            structlog.get_logger().warning("refused", exc_info=outer.value)
    said = capsys.readouterr().err
    assert said.count("duplicate key value") >= 2
    assert said.count("violates check constraint") >= 2
    assert said.count("RuntimeError: and then") == 2
    assert "2345678" not in said  # seven digits: the microseconds of a timestamp have six
    assert "secret" not in said


async def test_what_fails_unexpectedly_is_logged_without_the_token_in_its_path(rest, capsys):
    """An unsubscribe link holds the address."""
    await rest.conn.execute("ALTER TABLE store.suppressions RENAME TO elsewhere")
    token = sign(SECRET.encode(), Subscription(1, "email", "ada@example.com", "news"))
    with logging_as_in_earnest():
        answer = await (await rest.anyone()).post(f"/u/{token}")
    assert answer.status_code == 500
    said = capsys.readouterr().err
    assert "request_failed" in said
    assert token not in said
    assert "/u/{token" in said
