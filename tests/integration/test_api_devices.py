"""Devices: one row for one device, whose token belongs to who signed in last, and dies only of its own refusal."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from app.store import devices
from app.store.devices import Refusal
from tests.factories import make_recipient
from tests.looking import until, waiting_for_a_lock
from tests.rest import running_api, wrong_fields

REGISTER = "/api/v1/devices/register"
DEVICES = "/api/v1/devices"
APNS = "a1b2c3d4" * 8
FCM = "dQw4w9WgXcQ:APA91bH" + "x" * 140


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def point():
    return generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


POINT = point()


def subscription(endpoint="https://fcm.googleapis.com/fcm/send/abc123", *, p256dh=None, auth=b"0123456789abcdef"):
    return {
        "endpoint": endpoint,
        "expirationTime": None,
        "keys": {"p256dh": b64(POINT if p256dh is None else p256dh), "auth": b64(auth)},
    }


@pytest.fixture
async def rest(dsn, tmp_path):
    async with running_api(dsn, tmp_path) as rest:
        yield rest


@pytest.fixture
async def shop(rest):
    """A tenant with two recipients, and a client that may do everything in it."""
    tenant, client = await rest.tenant()
    for name in ("ada", "bob"):
        await make_recipient(rest.conn, tenant_id=tenant.id, id=name)
    return tenant, client


async def register(client, **changes):
    body = {"user_id": "ada", "platform": "ios", "device_token": APNS, "app_version": "2.1.0"} | changes
    return await client.post(REGISTER, json={name: value for name, value in body.items() if value is not None})


async def rows(rest):
    return await rest.rows(
        "SELECT recipient_id, token, device_key, retired_reason FROM store.devices ORDER BY created_at, id"
    )


async def signed_in(rest, client, recipient):
    """A client with that recipient's own token."""
    answer = await client.post(f"/api/v1/recipients/{recipient}/tokens", json={"ttl_seconds": 600})
    return await rest.anyone({"Authorization": f"Bearer {answer.json()['token']}"})


# -- registration --------------------------------------------------------------------------------------------


async def test_a_device_is_registered_and_its_token_is_not_shown(shop):
    _, client = shop
    answer = await register(client, device_key="phone", environment="sandbox")
    assert answer.status_code == 201, answer.text
    device = answer.json()
    assert UUID(device["id"])
    shown = {name: device[name] for name in ("user_id", "platform", "environment", "token_end", "device_key")}
    assert shown == {
        "user_id": "ada",
        "platform": "ios",
        "environment": "sandbox",
        "token_end": APNS[-6:],
        "device_key": "phone",
    }
    assert device["app_version"] == "2.1.0"
    assert APNS not in answer.text
    listed = await client.get(DEVICES, params={"user_id": "ada"})
    assert listed.json() == {"items": [device]}
    assert APNS not in listed.text


async def test_the_same_token_again_is_the_same_device_registered_anew(shop):
    _, client = shop
    first = (await register(client)).json()
    again = await register(client, device_token=APNS.upper(), app_version="2.2.0")
    assert again.status_code == 200
    second = again.json()
    assert second["id"] == first["id"]
    assert second["registered_at"] > first["registered_at"]
    assert second["app_version"] == "2.2.0"


async def test_a_new_token_of_the_same_device_replaces_the_old_one(rest, shop):
    _, client = shop
    first = (await register(client, device_key="phone")).json()
    second = (await register(client, device_key="phone", device_token="ff" * 32)).json()
    assert second["id"] == first["id"]
    assert second["registered_at"] > first["registered_at"]
    assert await rows(rest) == [("ada", "ff" * 32, "phone", None)]


async def test_a_token_that_turns_up_under_a_device_key_leaves_its_other_row(rest, shop):
    _, client = shop
    await register(client, device_key="phone")
    await register(client, device_token="ff" * 32)
    await register(client, device_key="phone", device_token="ff" * 32)
    assert await rows(rest) == [("ada", "ff" * 32, "phone", None), ("ada", "ff" * 32, None, "replaced")]


async def test_a_token_belongs_to_who_signed_in_last(rest, shop):
    _, client = shop
    await register(client, device_key="phone")
    moved = await register(client, user_id="bob", device_key="phone")
    assert moved.status_code == 201
    assert await rows(rest) == [("ada", APNS, "phone", "moved"), ("bob", APNS, "phone", None)]
    assert (await client.get(DEVICES, params={"user_id": "ada"})).json() == {"items": []}
    await register(client)
    assert [row[3] for row in await rows(rest)] == ["moved", "moved", None]


async def test_a_token_that_was_retired_is_alive_anew_when_it_is_registered_again(rest, shop):
    _, client = shop
    first = (await register(client, device_key="phone")).json()
    assert (await client.delete(f"{DEVICES}/{first['id']}")).status_code == 204
    again = await register(client, device_key="phone")
    assert again.status_code == 201
    assert (await client.get(DEVICES, params={"user_id": "ada"})).json() == {"items": [again.json()]}


async def test_the_same_token_at_another_tenant_is_another_device(rest, shop):
    _, client = shop
    other, stranger = await rest.tenant()
    await make_recipient(rest.conn, tenant_id=other.id, id="ada")
    mine, theirs = (await register(client)).json(), (await register(stranger)).json()
    assert mine["id"] != theirs["id"]
    assert (await stranger.delete(f"{DEVICES}/{mine['id']}")).status_code == 404
    assert [row[3] for row in await rows(rest)] == [None, None]


async def test_registrations_at_the_same_moment_leave_one_device(rest, shop):
    _, client = shop
    answers = await asyncio.gather(*(register(client, user_id=user, device_key="phone") for user in ("ada", "bob") * 4))
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len([row for row in await rows(rest) if row[3] is None]) == 1


async def test_one_recipient_has_so_many_devices_and_the_stalest_make_room(rest, shop, monkeypatch):
    _, client = shop
    monkeypatch.setattr(devices, "DEVICES_MAX", 2)
    for number in range(3):
        await register(client, device_token=f"{number:02}" * 32)
    assert [row[3] for row in await rows(rest)] == ["too_many", None, None]


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"user_id": "nobody"}, "user_id"),
        ({"user_id": None}, "user_id"),
        ({"platform": "windows"}, "platform"),
        ({"platform": None}, "platform"),
        ({"device_token": None}, "device_token"),
        ({"device_token": "abc"}, "device_token"),
        ({"device_token": "not hexadecimal"}, "device_token"),
        ({"device_token": FCM}, "device_token"),
        ({"device_token": APNS + "\r\n"}, "device_token"),
        ({"platform": "android", "device_token": "a b"}, "device_token"),
        ({"platform": "android", "device_token": "x" * 2049}, "device_token"),
        ({"platform": "android", "device_token": FCM, "subscription": subscription()}, "device_token"),
        ({"environment": "staging"}, "environment"),
        ({"device_key": ""}, "device_key"),
        ({"app_version": "1\n2"}, "app_version"),
        ({"token": APNS}, "token"),
        ({"platform": "web"}, "subscription"),
        ({"platform": "web", "device_token": "https://fcm.googleapis.com/x"}, "subscription"),
    ],
)
async def test_what_is_wrong_is_named(rest, shop, changes, field):
    _, client = shop
    assert field in wrong_fields(await register(client, **changes))
    assert await rows(rest) == []


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (subscription("http://fcm.googleapis.com/x"), "endpoint"),
        (subscription("https://10.0.0.7/x"), "endpoint"),
        (subscription("http://127.0.0.1:8080/x"), "endpoint"),
        (subscription("https://user:word@fcm.googleapis.com/x"), "endpoint"),
        (subscription("https://fcm.googleapis.com/\r\nx"), "endpoint"),
        (subscription("ftp://fcm.googleapis.com/x"), "endpoint"),
        (subscription(p256dh=b"\x04" + b"1" * 64), "keys.p256dh"),
        (subscription(p256dh=POINT[:-1]), "keys.p256dh"),
        (subscription(p256dh=b"\x03" + POINT[1:33]), "keys.p256dh"),
        (subscription(auth=b"0123456789abcde"), "keys.auth"),
        (subscription() | {"keys": {"p256dh": "!", "auth": "?"}}, "keys.auth"),
    ],
)
async def test_a_subscription_that_nothing_can_be_sent_to_is_named(shop, given, field):
    _, client = shop
    answer = await register(client, platform="web", device_token=None, subscription=given)
    assert f"subscription.{field}" in wrong_fields(answer)


async def test_a_browser_is_registered_by_its_subscription(rest, shop):
    _, client = shop
    given = subscription()
    given["keys"] = {name: key + "=" * (-len(key) % 4) for name, key in given["keys"].items()}
    device = await register(client, platform="web", device_token=None, subscription=given)
    assert device.status_code == 201, device.text
    assert device.json()["token_end"] == "abc123"
    stored = await rest.rows("SELECT token, p256dh, auth FROM store.devices")
    assert stored == [(given["endpoint"], b64(POINT), b64(b"0123456789abcdef"))]


async def test_a_development_machine_has_its_own_push_service(dsn, tmp_path):
    async with running_api(dsn, tmp_path, endpoints={"allow_loopback": True}) as rest:
        tenant, client = await rest.tenant()
        await make_recipient(rest.conn, tenant_id=tenant.id, id="ada")
        given = subscription("http://127.0.0.1:8080/push/1")
        answer = await register(client, platform="web", device_token=None, subscription=given)
        assert answer.status_code == 201, answer.text


async def test_where_iphones_go_through_firebase_their_tokens_are_firebases(dsn, tmp_path):
    key = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    firebase = {
        "adapter": "fcm",
        "project_id": "shop-1234",
        "client_email": "sender@shop-1234.iam.gserviceaccount.com",
        "private_key": key.decode(),
        "private_key_id": "1",
    }
    settings = {"providers": {"firebase": firebase}, "routes": {"push.ios": ("firebase",)}}
    async with running_api(dsn, tmp_path, **settings) as rest:
        tenant, client = await rest.tenant()
        await make_recipient(rest.conn, tenant_id=tenant.id, id="ada")
        assert (await register(client, device_token=FCM)).status_code == 201


# -- who may -------------------------------------------------------------------------------------------------


async def test_an_app_registers_its_own_device_with_its_recipients_token(rest, shop):
    _, client = shop
    ada, bob = await signed_in(rest, client, "ada"), await signed_in(rest, client, "bob")
    device = (await register(ada, user_id=None)).json()
    assert device["user_id"] == "ada"
    assert (await register(ada)).status_code == 200
    assert (await register(ada, user_id="bob")).status_code == 403
    known = (await register(ada)).json()
    assert (await ada.get(DEVICES)).json() == {"items": [known]}
    assert (await bob.get(DEVICES)).json() == {"items": []}
    assert (await bob.get(DEVICES, params={"user_id": "ada"})).status_code == 403
    assert (await bob.delete(f"{DEVICES}/{device['id']}")).status_code == 404
    assert (await ada.delete(f"{DEVICES}/{device['id']}")).status_code == 204
    assert (await ada.delete(f"{DEVICES}/{device['id']}")).status_code == 204
    assert [row[3] for row in await rows(rest)] == ["removed"]


@pytest.mark.parametrize(("scope", "may"), [("send", True), ("admin", True), ("read", False)])
async def test_a_key_that_sends_or_sets_up_may_register(rest, shop, scope, may):
    tenant, _ = shop
    answer = await register(await rest.client(tenant.id, scope))
    assert answer.status_code == (201 if may else 403), answer.text


async def test_nobody_else_may(rest, shop):
    stranger = await rest.anyone()
    assert (await register(stranger)).status_code == 401
    assert (await stranger.get(DEVICES, params={"user_id": "ada"})).status_code == 401
    assert (await stranger.delete(f"{DEVICES}/{uuid4()}")).status_code == 401
    wrong = await rest.anyone({"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."})
    assert (await register(wrong)).status_code == 401


async def test_a_page_of_an_allowed_origin_may_register(dsn, tmp_path):
    async with running_api(dsn, tmp_path, inbox={"allow_origins": ("https://shop.example",)}) as rest:
        page = await rest.anyone({"Origin": "https://shop.example"})
        asked = await page.options(
            REGISTER,
            headers={"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"},
        )
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == "https://shop.example"
        assert "authorization" in asked.headers["access-control-allow-headers"]
        removing = await page.options(f"{DEVICES}/{uuid4()}", headers={"Access-Control-Request-Method": "DELETE"})
        assert "DELETE" in removing.headers["access-control-allow-methods"]
        other = await rest.anyone({"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in (await register(other)).headers


# -- what the dispatcher asks --------------------------------------------------------------------------------


async def registered(shop, **changes):
    tenant, client = shop
    return tenant.id, UUID((await register(client, **changes)).json()["id"])


async def retire(db, *refusals):
    async with db.transaction() as conn:
        return await devices.retire(conn, refusals)


async def accepted(db, provider="apns", environments=("production",)):
    async with db.transaction() as conn:
        await devices.note_accepted(conn, provider, environments)


def refusal(tenant_id, device_id, **changes):
    values = {"provider": "apns", "token_sent": APNS, "reason": "Unregistered"}
    return Refusal(tenant_id=tenant_id, device_id=device_id, **values | changes)


async def test_only_live_devices_of_the_tenant_are_targets(rest, shop, db):
    tenant, ios = await registered(shop, environment="sandbox")
    _, web = await registered(shop, platform="web", device_token=None, subscription=subscription())
    _, gone = await registered(shop, device_token="ff" * 32)
    await retire(db, refusal(tenant, gone, token_sent="ff" * 32))
    async with db.transaction() as conn:
        found = await devices.targets(conn, [tenant, tenant, tenant, tenant + 1], [ios, web, gone, ios])
    assert set(found) == {ios, web}
    assert (found[ios].platform, found[ios].token, found[ios].environment) == ("ios", APNS, "sandbox")
    assert (found[web].p256dh, found[web].auth) == (b64(POINT), b64(b"0123456789abcdef"))
    assert APNS not in repr(found[ios])


async def test_a_dead_token_is_retired_at_once_and_only_that_one(rest, shop, db):
    tenant, dead = await registered(shop)
    await registered(shop, device_token="ff" * 32)
    assert await retire(db, refusal(tenant, dead)) == {dead}
    assert [row[3] for row in await rows(rest)] == ["Unregistered", None]
    assert await retire(db, refusal(tenant, dead)) == set()


async def test_a_token_that_was_exchanged_meanwhile_is_not_the_one_refused(rest, shop, db):
    tenant, device = await registered(shop, device_key="phone")
    await registered(shop, device_key="phone", device_token="ff" * 32)
    assert await retire(db, refusal(tenant, device)) == set()


async def test_a_refusal_that_waited_for_a_registration_looks_again(rest, shop, db):
    tenant, device = await registered(shop, device_key="phone")
    async with await psycopg.AsyncConnection.connect(rest.conn.info.dsn) as registering:
        await registering.execute("UPDATE store.devices SET token = %s WHERE id = %s", ["ff" * 32, device])
        retiring = asyncio.create_task(retire(db, refusal(tenant, device)))
        await until(lambda: waiting_for_a_lock(rest.conn))
        await registering.commit()
    assert await retiring == set()


async def test_a_token_registered_since_the_provider_calls_it_dead_lives(rest, shop, db):
    tenant, device = await registered(shop)
    before, after = datetime.now(UTC) - timedelta(minutes=5), datetime.now(UTC) + timedelta(minutes=5)
    assert await retire(db, refusal(tenant, device, invalid_since=before)) == set()
    assert await retire(db, refusal(tenant, device, invalid_since=after)) == {device}


async def test_where_nothing_gets_through_a_refused_token_is_not_to_blame(rest, shop, db):
    tenant, device = await registered(shop)
    doubtful = refusal(tenant, device, reason="BadDeviceToken", doubtful=True)
    assert await retire(db, doubtful) == set()
    await accepted(db, provider="fcm")
    await accepted(db, environments=("sandbox",))
    assert await retire(db, doubtful) == set()
    await accepted(db)
    assert await retire(db, doubtful) == {device}


async def test_what_got_through_before_a_wrong_deploy_condemns_no_token(rest, shop, db):
    """A wrong topic is refused for every device alike, minutes after the last push that was right."""
    tokens = [f"{number:064x}" for number in range(30)]
    refusals = []
    for token in tokens:
        tenant, device = await registered(shop, device_token=token)
        refusals.append(refusal(tenant, device, token_sent=token, reason="device_token_not_for_topic", doubtful=True))
    await accepted(db)
    await rest.conn.execute("UPDATE store.push_environments SET accepted_at = now() - interval '20 minutes'")
    assert await retire(db, *refusals) == set()
    await accepted(db)
    assert await retire(db, refusals[0]) == {refusals[0].device_id}


async def test_an_acceptance_counts_until_the_next_one_would_be_noted(rest, shop, db):
    tenant, device = await registered(shop)
    await accepted(db)
    await rest.conn.execute("UPDATE store.push_environments SET accepted_at = now() - interval '90 seconds'")
    assert await retire(db, refusal(tenant, device, reason="bad_device_token", doubtful=True)) == {device}


async def test_a_refusal_for_another_tenants_device_does_nothing(rest, shop, db):
    tenant, device = await registered(shop)
    assert await retire(db, refusal(tenant + 1, device)) == set()


async def test_many_refusals_are_one_statement_and_each_stands_for_itself(rest, shop, db):
    tenant, first = await registered(shop)
    _, second = await registered(shop, device_token="ff" * 32)
    early = datetime.now(UTC) - timedelta(hours=1)
    gone = await retire(
        db,
        refusal(tenant, first, invalid_since=early),
        refusal(tenant, first),
        refusal(tenant, second, token_sent="ee" * 32),
    )
    assert gone == {first}


async def test_an_acceptance_is_noted_at_most_once_a_minute(rest, db):
    async def noted():
        return await rest.rows("SELECT environment, accepted_at, xmin::text FROM store.push_environments ORDER BY 1")

    await accepted(db, environments=("production", "sandbox", "production"))
    first = await noted()
    assert [row[0] for row in first] == ["production", "sandbox"]
    await accepted(db, environments=("production",))
    assert await noted() == first
    await rest.conn.execute(
        "UPDATE store.push_environments SET accepted_at = now() - interval '61 seconds' WHERE environment = 'sandbox'"
    )
    await accepted(db, environments=("production", "sandbox"))
    after = await noted()
    assert after[0] == first[0]
    assert after[1][1] > first[1][1]
