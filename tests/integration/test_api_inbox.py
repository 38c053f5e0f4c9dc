"""The inbox over HTTP: what recipients see of it and do with it, and who else may."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import jwt
import pytest

from app.flows.apply import apply
from app.store.inbox import Action
from tests.factories import make_recipient
from tests.inboxes import INBOX, as_recipient, deliver, hint, sign_for, until
from tests.rest import running_api, wrong_fields

SHOP = "https://shop.example.com"


@pytest.fixture
async def rest(dsn, tmp_path):
    async with running_api(dsn, tmp_path, inbox={"allow_origins": (SHOP,)}) as rest:
        yield rest


@pytest.fixture
async def tenant(rest):
    tenant, _ = await rest.tenant()
    return tenant


@pytest.fixture
async def ada(rest, tenant):
    await make_recipient(rest.conn, tenant_id=tenant.id, id="ada")
    return await as_recipient(rest, tenant, "ada")


async def counts(client) -> tuple[int, int, int]:
    answer = (await client.get(f"{INBOX}/counts")).json()
    return answer["version"], answer["unread"], answer["unseen"]


# -- reading -----------------------------------------------------------------------------------------------------


async def test_an_empty_inbox_is_at_version_zero(ada):
    assert (await ada.get(INBOX)).json() == {"items": [], "next": None, "unread": 0, "unseen": 0, "version": 0}
    assert await counts(ada) == (0, 0, 0)


async def test_an_item_shows_what_was_sent(rest, tenant, ada):
    sent = await deliver(rest.conn, tenant, "ada", "Order A-1")
    [item] = (await ada.get(INBOX)).json()["items"]
    assert (
        item.items()
        >= {
            "id": str(sent.id),
            "notification_id": str(sent.notification_id),
            "category": sent.category,
            "title": "Order A-1",
            "body": "It is on its way.",
            "data": {"url": "/orders/1"},
            "version": 1,
            "arrival": 1,
            "acknowledged_at": None,
            "seen_at": None,
            "read_at": None,
            "archived_at": None,
        }.items()
    )


async def test_pages_come_newest_first_and_neither_skip_nor_repeat(rest, tenant, ada):
    for n in range(5):
        await deliver(rest.conn, tenant, "ada", str(n))
    first = (await ada.get(INBOX, params={"limit": 2})).json()
    assert [item["title"] for item in first["items"]] == ["4", "3"]
    await deliver(rest.conn, tenant, "ada", "late")
    await ada.post(f"{INBOX}/{first['items'][0]['id']}/read")  # a change moves nothing in the list
    titles = []
    before = first["next"]
    while before is not None:
        page = (await ada.get(INBOX, params={"limit": 2, "before": before})).json()
        titles += [item["title"] for item in page["items"]]
        before = page["next"]
    assert titles == ["2", "1", "0"]


async def test_a_list_is_of_unread_of_archived_or_of_all_that_is_not(rest, tenant, ada):
    read, archived, fresh = [await deliver(rest.conn, tenant, "ada", title) for title in ("read", "archived", "fresh")]
    await ada.post(f"{INBOX}/{read.id}/read")
    await ada.post(f"{INBOX}/{archived.id}/archive")

    async def titles(**query) -> list[str]:
        return [item["title"] for item in (await ada.get(INBOX, params=query)).json()["items"]]

    assert await titles() == await titles(status="all") == ["fresh", "read"]
    assert await titles(status="unread") == ["fresh"]
    assert await titles(status="archived") == ["archived"]


async def test_a_wrong_query_is_named(ada):
    for query in (
        {"limit": 0},
        {"limit": 201},
        {"before": -1},
        {"before": "x"},
        {"before": 2**63},
        {"status": "seen"},
        {"page": 1},
        {"recipient_id": "bo"},
        {"access_token": "x"},
    ):
        assert wrong_fields(await ada.get(INBOX, params=query)).keys() == query.keys()


# -- acting ------------------------------------------------------------------------------------------------------


async def test_each_action_does_what_it_says_and_twice_is_once(rest, tenant, ada):
    sent = await deliver(rest.conn, tenant, "ada")

    async def does(action: str) -> dict:
        first = (await ada.post(f"{INBOX}/{sent.id}/{action}")).json()
        again = (await ada.post(f"{INBOX}/{sent.id}/{action}")).json()
        assert again == {**first, "changed": 0}
        assert first["changed"] == 1
        [item] = first["items"]
        assert item["version"] == first["version"]
        marks = {mark for mark in ("acknowledged", "seen", "read", "archived") if item[f"{mark}_at"]}
        return {"marks": marks, "unread": first["unread"], "unseen": first["unseen"]}

    assert await does("ack") == {"marks": {"acknowledged"}, "unread": 1, "unseen": 1}
    assert await does("seen") == {"marks": {"acknowledged", "seen"}, "unread": 1, "unseen": 0}
    assert await does("read") == {"marks": {"acknowledged", "seen", "read"}, "unread": 0, "unseen": 0}
    assert await does("unread") == {"marks": {"acknowledged", "seen"}, "unread": 1, "unseen": 0}
    assert await does("archive") == {"marks": {"acknowledged", "seen", "archived"}, "unread": 0, "unseen": 0}
    assert await does("unarchive") == {"marks": {"acknowledged", "seen"}, "unread": 1, "unseen": 0}
    assert await counts(ada) == (7, 1, 0)


async def test_reading_at_once_is_seeing_and_acknowledging(rest, tenant, ada):
    sent = await deliver(rest.conn, tenant, "ada")
    answer = (await ada.post(f"{INBOX}/{sent.id}/read")).json()
    [item] = answer["items"]
    assert item["acknowledged_at"] == item["seen_at"] == item["read_at"] is not None
    assert (answer["unread"], answer["unseen"], answer["version"]) == (0, 0, 2)


async def test_several_are_acted_on_at_once(rest, tenant, ada):
    sent = [await deliver(rest.conn, tenant, "ada", str(n)) for n in range(3)]
    answer = await ada.post(f"{INBOX}/ack", json={"ids": [str(one.id) for one in sent[:2]] + [str(uuid4())]})
    assert answer.status_code == 200, answer.text
    assert [item["title"] for item in answer.json()["items"]] == ["1", "0"]
    assert all(item["acknowledged_at"] for item in answer.json()["items"])
    assert answer.json()["changed"] == 2
    assert await counts(ada) == (5, 3, 3)


async def test_all_up_to_a_version_leaves_what_arrived_meanwhile(rest, tenant, ada):
    first = await deliver(rest.conn, tenant, "ada", "seen on the screen")
    second = await deliver(rest.conn, tenant, "ada", "seen on the screen, and acknowledged elsewhere")
    version = (await ada.get(INBOX)).json()["version"]
    await ada.post(f"{INBOX}/{second.id}/ack")  # another tab: its version grows, it is still what was on the screen
    await deliver(rest.conn, tenant, "ada", "came meanwhile")
    answer = (await ada.post(f"{INBOX}/read-all", json={"version": version})).json()
    assert (answer["changed"], answer["unread"], answer["unseen"]) == (2, 1, 1)
    [unread] = (await ada.get(INBOX, params={"status": "unread"})).json()["items"]
    assert unread["title"] == "came meanwhile"
    assert first.id != second.id


async def test_seen_all_and_archive_all(rest, tenant, ada):
    for n in range(3):
        await deliver(rest.conn, tenant, "ada", str(n))
    seen = (await ada.post(f"{INBOX}/seen-all", json={"version": 3})).json()
    assert (seen["changed"], seen["unread"], seen["unseen"], seen["version"]) == (3, 3, 0, 6)
    archived = (await ada.post(f"{INBOX}/archive-all", json={"version": 2})).json()
    assert (archived["changed"], archived["unread"], archived["version"]) == (2, 1, 8)
    again = (await ada.post(f"{INBOX}/archive-all", json={"version": 2})).json()
    assert (again["changed"], again["version"]) == (0, 8)
    [left] = (await ada.get(INBOX)).json()["items"]
    assert left["title"] == "2"


async def test_all_is_more_than_one_transaction_takes(rest, tenant, ada, monkeypatch):
    monkeypatch.setattr("app.flows.inbox.CHANGED_MAX", 2)
    for n in range(5):
        await deliver(rest.conn, tenant, "ada", str(n))
    answer = (await ada.post(f"{INBOX}/read-all", json={"version": 5})).json()
    assert (answer["changed"], answer["unread"], answer["version"]) == (5, 0, 10)


async def test_a_wrong_body_is_named(ada):
    for path, body, field in (
        ("ack", {}, "ids"),
        ("ack", {"ids": []}, "ids"),
        ("ack", {"ids": ["x"]}, "ids[0]"),
        ("ack", {"ids": [str(uuid4())] * 201}, "ids"),
        ("read-all", {}, "version"),
        ("read-all", {"version": "5"}, "version"),
        ("read-all", {"version": -1}, "version"),
        ("read-all", {"version": 2**63}, "version"),
        ("read-all", {"version": 1, "ids": []}, "ids"),
    ):
        assert field in wrong_fields(await ada.post(f"{INBOX}/{path}", json=body))


async def test_what_is_not_there_is_not_found(ada):
    assert (await ada.post(f"{INBOX}/{uuid4()}/read")).status_code == 404
    assert (await ada.post(f"{INBOX}/{uuid4()}/eat")).status_code == 404
    assert (await ada.post(f"{INBOX}/eat", json={"ids": [str(uuid4())]})).status_code == 404


# -- evidence ----------------------------------------------------------------------------------------------------


async def state_of(rest, item) -> tuple[str, str | None, bool]:
    [row] = await rest.rows("SELECT state, reason, opened_at IS NOT NULL FROM store.deliveries WHERE id = %s", item.id)
    return row


async def test_acknowledging_proves_delivery_and_reading_proves_opening(rest, tenant, ada):
    api = rest.app.state.api
    sent = await deliver(rest.conn, tenant, "ada")
    assert await state_of(rest, sent) == ("sent", None, False)
    await ada.post(f"{INBOX}/{sent.id}/ack")
    assert await apply(api.db, api.settings, limit=10) == 1
    assert await state_of(rest, sent) == ("delivered", "confirmed", False)
    await ada.post(f"{INBOX}/{sent.id}/read")
    assert await apply(api.db, api.settings, limit=10) == 1
    assert await state_of(rest, sent) == ("delivered", "confirmed", True)


async def test_one_fact_is_told_once_however_often_it_is_done(rest, tenant, ada):
    sent = await deliver(rest.conn, tenant, "ada")
    for action in ("read", "read", "unread", "read", "ack", "seen", "archive", "unarchive", "read"):
        assert (await ada.post(f"{INBOX}/{sent.id}/{action}")).status_code == 200
    await ada.post(f"{INBOX}/read-all", json={"version": 100})
    told = await rest.rows("SELECT provider, source, kind, event_key FROM store.inbound_events ORDER BY kind")
    assert told == [
        ("device", "device", "delivered", f"inbox:{sent.id}:1:delivered"),
        ("device", "device", "opened", f"inbox:{sent.id}:1:opened"),
    ]


async def test_putting_away_proves_nothing(rest, tenant, ada):
    sent = await deliver(rest.conn, tenant, "ada")
    await ada.post(f"{INBOX}/{sent.id}/archive")
    await ada.post(f"{INBOX}/archive-all", json={"version": 100})
    await ada.post(f"{INBOX}/{sent.id}/unarchive")
    assert await rest.rows("SELECT * FROM store.inbound_events") == []


async def test_the_evidence_holds_the_moment_that_the_recipient_sees(rest, tenant, ada):
    sent = await deliver(rest.conn, tenant, "ada")
    [item] = (await ada.post(f"{INBOX}/{sent.id}/read")).json()["items"]
    rows = await rest.rows("SELECT evidence ->> 'occurred_at', evidence ->> 'delivery_id' FROM store.inbound_events")
    assert {datetime.fromisoformat(at) for at, _ in rows} == {datetime.fromisoformat(item["read_at"])}
    assert {id for _, id in rows} == {str(sent.id)}


async def test_evidence_about_a_delivery_long_gone_is_not_left_waiting(rest, tenant, ada):
    old = datetime.now(UTC) - timedelta(days=40)
    id = f"{int(old.timestamp() * 1000):012x}"
    id = f"{id[:8]}-{id[8:]}-7000-8000-000000000001"
    await deliver(rest.conn, tenant, "ada", id=id)
    assert (await ada.post(f"{INBOX}/{id}/read")).json()["changed"] == 1
    assert await rest.rows("SELECT * FROM store.inbound_events") == []


# -- who may -----------------------------------------------------------------------------------------------------


async def test_nobody_sees_or_touches_the_inbox_of_another(rest, tenant, ada):
    other_tenant, _ = await rest.tenant()
    sent = await deliver(rest.conn, tenant, "ada")
    others = [await as_recipient(rest, tenant, "bo"), await as_recipient(rest, other_tenant, "ada")]
    for other in others:
        assert (await other.get(INBOX)).json()["items"] == []
        assert await counts(other) == (0, 0, 0)
        assert (await other.get(f"{INBOX}/changes", params={"after": 0})).json()["items"] == []
        for action in Action:
            assert (await other.post(f"{INBOX}/{sent.id}/{action}")).status_code == 404
            several = await other.post(f"{INBOX}/{action}", json={"ids": [str(sent.id)]})
            assert (several.json()["items"], several.json()["changed"]) == ([], 0)
        for bulk in ("read-all", "seen-all", "archive-all"):
            assert (await other.post(f"{INBOX}/{bulk}", json={"version": 2**62})).json()["changed"] == 0
    assert await counts(ada) == (1, 1, 1)


async def test_a_backend_acts_for_its_recipients_with_a_key(rest, tenant):
    sent = await deliver(rest.conn, tenant, "ada")
    backend = await rest.client(tenant.id, "read", "send")
    whose = {"recipient_id": "ada"}
    assert [i["id"] for i in (await backend.get(INBOX, params=whose)).json()["items"]] == [str(sent.id)]
    assert (await backend.get(f"{INBOX}/counts", params=whose)).json()["unread"] == 1
    assert (await backend.post(f"{INBOX}/{sent.id}/read", params=whose)).json()["unread"] == 0
    assert (await backend.post(f"{INBOX}/read-all", params=whose, json={"version": 1})).status_code == 200
    assert "recipient_id" in wrong_fields(await backend.get(INBOX))
    assert "recipient_id" in wrong_fields(await backend.get(INBOX, params={"recipient_id": ""}))
    assert (await backend.get(INBOX, params={"recipient_id": "a\x00"})).status_code == 404


async def test_a_key_needs_the_scope_and_reaches_its_own_tenant_only(rest, tenant):
    sent = await deliver(rest.conn, tenant, "ada")
    whose = {"recipient_id": "ada"}
    reader = await rest.client(tenant.id, "read")
    assert (await reader.get(INBOX, params=whose)).status_code == 200
    assert (await reader.post(f"{INBOX}/{sent.id}/read", params=whose)).status_code == 403
    sender = await rest.client(tenant.id, "send")
    assert (await sender.get(INBOX, params=whose)).status_code == 403
    admin = await rest.client(tenant.id, "admin")
    assert (await admin.get(INBOX, params=whose)).status_code == 403
    _, stranger = await rest.tenant()
    assert (await stranger.get(INBOX, params=whose)).json()["items"] == []
    assert (await stranger.post(f"{INBOX}/{sent.id}/read", params=whose)).status_code == 404


async def test_without_a_token_or_with_a_bad_one_nothing_is_told(rest, tenant):
    good = await sign_for(rest.conn, tenant, "ada")
    head, payload, signature = good.split(".")
    claims = jwt.decode(good, options={"verify_signature": False})
    now = int(datetime.now(UTC).timestamp())
    secret = f"lrs_the-signing-secret-of-a-tenant-in-the-tests-{tenant.id}"
    forged = {
        "altered": f"{head}.{payload[:-2]}AA.{signature}",
        "unsigned": jwt.encode(claims, None, "none"),
        "of another secret": jwt.encode(claims, "another secret that is long enough to sign", "HS256"),
        "of another algorithm": jwt.encode(claims, secret * 2, "HS512"),
        "of no tenant": jwt.encode(claims | {"iss": "nobody"}, secret, "HS256"),
        "no token": "x",
        "empty": "",
    }
    told = set()
    for name, token in forged.items():
        anyone = await rest.anyone({"Authorization": f"Bearer {token}"})
        answer = await anyone.get(INBOX)
        assert answer.status_code == 401, name
        assert answer.headers["www-authenticate"] == "Bearer"
        told.add(answer.json()["detail"])
    assert len(told) == 1
    genuine = {
        "expired": claims | {"iat": now - 600, "exp": now - 1},
        "at most": claims | {"exp": now + 10**6},
        "lacks exp": {name: value for name, value in claims.items() if name != "exp"},
        "aud": claims | {"aud": "another"},
    }
    for word, wrong in genuine.items():
        anyone = await rest.anyone({"Authorization": f"Bearer {jwt.encode(wrong, secret, 'HS256')}"})
        answer = await anyone.get(INBOX)
        assert (answer.status_code, word in answer.json()["detail"]) == (401, True), answer.text
    assert (await (await rest.anyone()).get(INBOX)).status_code == 401
    assert (await (await rest.anyone({"Authorization": f"Basic {good}"})).get(INBOX)).status_code == 401


async def test_a_token_opens_nothing_but_its_inbox(rest, tenant, ada):
    for path in ("recipients/ada", "suppressions", "dead-letters", "notifications/templates"):
        assert (await ada.get(f"/api/v1/{path}")).status_code == 401
    assert (await ada.post("/api/v1/recipients/ada/tokens")).status_code == 401
    assert (await ada.post("/api/v1/recipient-signing-secret")).status_code == 401


async def test_a_token_in_the_query_is_for_the_stream_only(rest, tenant):
    token = await sign_for(rest.conn, tenant, "ada")
    anyone = await rest.anyone()
    assert (await anyone.get(INBOX, params={"access_token": token})).status_code == 401
    assert (await anyone.get(f"{INBOX}/changes", params={"access_token": token, "after": 0})).status_code == 401


# -- tokens and the secret ---------------------------------------------------------------------------------------


async def test_a_minted_token_is_good_for_its_recipient_for_its_time(rest, tenant):
    await make_recipient(rest.conn, tenant_id=tenant.id, id="ada")
    sent = await deliver(rest.conn, tenant, "ada")
    backend = await rest.client(tenant.id, "send")
    minted = await backend.post("/api/v1/recipients/ada/tokens", json={"ttl_seconds": 60})
    assert minted.status_code == 201, minted.text
    life = datetime.fromisoformat(minted.json()["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=50) < life <= timedelta(seconds=60)
    anyone = await rest.anyone({"Authorization": f"Bearer {minted.json()['token']}"})
    assert [item["id"] for item in (await anyone.get(INBOX)).json()["items"]] == [str(sent.id)]


async def test_minting_needs_the_scope_the_recipient_and_a_life_that_is_allowed(rest, tenant):
    await make_recipient(rest.conn, tenant_id=tenant.id, id="ada")
    backend = await rest.client(tenant.id, "send")
    assert (await backend.post("/api/v1/recipients/ada/tokens")).status_code == 201
    assert (await backend.post("/api/v1/recipients/nobody/tokens")).status_code == 404
    for ttl in (0, -1, 86401, "60"):
        refused = await backend.post("/api/v1/recipients/ada/tokens", json={"ttl_seconds": ttl})
        assert "ttl_seconds" in wrong_fields(refused)
    reader = await rest.client(tenant.id, "read", "admin")
    assert (await reader.post("/api/v1/recipients/ada/tokens")).status_code == 403
    _, stranger = await rest.tenant()
    assert (await stranger.post("/api/v1/recipients/ada/tokens")).status_code == 404


async def test_a_server_that_has_the_secret_mints_offline(rest, tenant):
    admin = await rest.client(tenant.id, "admin")
    shown = (await admin.post("/api/v1/recipient-signing-secret")).json()
    assert shown == (await admin.post("/api/v1/recipient-signing-secret")).json()
    assert shown.items() >= {"tenant": tenant.name, "algorithm": "HS256", "audience": "landed"}.items()
    now = int(datetime.now(UTC).timestamp())
    claims = {"iss": shown["tenant"], "sub": "ada", "aud": shown["audience"], "iat": now, "exp": now + 60}
    token = jwt.encode(claims, shown["secret"], shown["algorithm"])
    anyone = await rest.anyone({"Authorization": f"Bearer {token}"})
    assert (await anyone.get(INBOX)).status_code == 200


async def test_only_an_admin_sees_the_secret_and_every_look_is_audited(rest, tenant):
    for scopes in (("send",), ("read",), ("send", "read")):
        other = await rest.client(tenant.id, *scopes)
        assert (await other.post("/api/v1/recipient-signing-secret")).status_code == 403
        assert (await other.post("/api/v1/recipient-signing-secret/rotate")).status_code == 403
    admin = await rest.client(tenant.id, "admin")
    await admin.post("/api/v1/recipient-signing-secret")
    await admin.post("/api/v1/recipient-signing-secret/rotate", json={"reason": "a laptop was lost"})
    told = await rest.rows("SELECT action, reason, tenant_id, data::text FROM store.audit_log ORDER BY id")
    assert told == [
        ("reveal_signing_secret", "asked for", tenant.id, "{}"),
        ("rotate_signing_secret", "a laptop was lost", tenant.id, "{}"),
    ]


async def status_comes_to(client, status: int) -> bool:
    """The change is heard of by NOTIFY, so soon but not at once."""

    async def is_so() -> bool:
        return (await client.get(INBOX)).status_code == status

    return await until(is_so)


async def test_a_rotated_secret_is_good_for_its_overlap_and_not_after(rest, tenant):
    admin = await rest.client(tenant.id, "admin")
    old = await as_recipient(rest, tenant, "ada")
    assert (await old.get(INBOX)).status_code == 200
    rotated = (await admin.post("/api/v1/recipient-signing-secret/rotate")).json()
    until = datetime.fromisoformat(rotated["previous_secret_until"])
    assert abs(until - datetime.now(UTC) - timedelta(days=1)) < timedelta(minutes=1)
    new = await as_recipient(rest, tenant, "ada")
    assert await status_comes_to(new, 200)
    assert (await old.get(INBOX)).status_code == 200
    await admin.post("/api/v1/recipient-signing-secret/rotate", json={"overlap_seconds": 0})
    assert await status_comes_to(old, 401)
    assert await status_comes_to(new, 401)
    assert await status_comes_to(await as_recipient(rest, tenant, "ada"), 200)


async def test_an_overlap_is_no_longer_than_a_token_lives(rest, tenant):
    admin = await rest.client(tenant.id, "admin")
    for overlap in (-1, 86401, "0"):
        refused = await admin.post("/api/v1/recipient-signing-secret/rotate", json={"overlap_seconds": overlap})
        assert "overlap_seconds" in wrong_fields(refused)


async def test_two_who_ask_first_get_the_same_secret(rest, tenant):
    admin = await rest.client(tenant.id, "admin")
    shown = await asyncio.gather(*(admin.post("/api/v1/recipient-signing-secret") for _ in range(8)))
    assert len({answer.json()["secret"] for answer in shown}) == 1


# -- changes since a version -------------------------------------------------------------------------------------


async def changes(client, after: int, **query) -> dict:
    answer = await client.get(f"{INBOX}/changes", params={"after": after, **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_changes_are_what_is_new_since_a_version(rest, tenant, ada):
    first = await deliver(rest.conn, tenant, "ada", "first")
    await deliver(rest.conn, tenant, "ada", "second")
    every = await changes(ada, 0)
    assert [(i["title"], i["version"]) for i in every["items"]] == [("first", 1), ("second", 2)]
    assert {name: every[name] for name in ("version", "more", "reset", "unread", "unseen")} == {
        "version": 2,
        "more": False,
        "reset": False,
        "unread": 2,
        "unseen": 2,
    }
    await ada.post(f"{INBOX}/{first.id}/read")
    since = await changes(ada, 2)
    assert [(i["title"], i["version"]) for i in since["items"]] == [("first", 3)]
    assert (since["version"], since["unread"]) == (3, 1)
    assert (await changes(ada, 3))["items"] == []


async def test_changes_come_in_pages(rest, tenant, ada, monkeypatch):
    monkeypatch.setattr("app.flows.inbox.PAGE", 2)
    for n in range(5):
        await deliver(rest.conn, tenant, "ada", str(n))
    titles, after, more = [], 0, True
    while more:
        page = await changes(ada, after)
        titles += [item["title"] for item in page["items"]]
        after, more = page["version"], page["more"]
    assert titles == ["0", "1", "2", "3", "4"]
    assert after == 5


async def test_a_version_the_inbox_never_had_asks_for_a_new_start(rest, tenant, ada):
    await deliver(rest.conn, tenant, "ada")
    answer = await changes(ada, 9)
    assert (answer["reset"], answer["items"], answer["version"]) == (True, [], 1)


async def test_a_long_poll_answers_at_the_first_change(rest, tenant, ada):
    await deliver(rest.conn, tenant, "ada")
    bo = await as_recipient(rest, tenant, "bo")
    waiting = [asyncio.create_task(changes(who, after, wait=25)) for who, after in ((ada, 1), (ada, 1), (bo, 0))]
    await until(lambda: rest.app.state.api.inbox.followers == 3)
    async with asyncio.timeout(10):
        await hint(rest.conn, await deliver(rest.conn, tenant, "ada", "for ada"))
        told = await asyncio.gather(*waiting[:2])
        assert [[item["title"] for item in one["items"]] for one in told] == [["for ada"], ["for ada"]]
        assert not waiting[2].done()
        await hint(rest.conn, await deliver(rest.conn, tenant, "bo", "for bo"))
        assert [item["title"] for item in (await waiting[2])["items"]] == ["for bo"]
    assert rest.app.state.api.inbox.followers == 0


async def test_a_long_poll_answers_when_its_time_is_over(ada):
    answer = await changes(ada, 0, wait=0.01)
    assert (answer["items"], answer["version"]) == ([], 0)
    assert "wait" in wrong_fields(await ada.get(f"{INBOX}/changes", params={"after": 0, "wait": 26}))
    assert "after" in wrong_fields(await ada.get(f"{INBOX}/changes"))


# -- pages of other origins --------------------------------------------------------------------------------------

ASKING = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
ALLOW_ORIGIN = "access-control-allow-origin"


async def test_a_page_of_an_allowed_origin_may_call(rest):
    anyone = await rest.anyone({"Origin": SHOP})
    for path in (INBOX, f"{INBOX}/stream", f"{INBOX}/changes", f"{INBOX}/{uuid4()}/read"):
        answer = await anyone.options(path, headers=ASKING)
        assert (answer.status_code, answer.headers[ALLOW_ORIGIN]) == (204, SHOP), path
        assert "authorization" in answer.headers["access-control-allow-headers"]
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers


async def test_a_page_of_any_other_origin_may_not(rest):
    for origin in (
        "https://evil.example",
        "http://shop.example.com",
        "https://shop.example.com:8443",
        "https://shop.example.com.evil.example",
        "https://sub.shop.example.com",
        "HTTPS://SHOP.EXAMPLE.COM",
        "null",
        "*",
        "",
    ):
        anyone = await rest.anyone({"Origin": origin})
        assert ALLOW_ORIGIN not in (await anyone.options(INBOX, headers=ASKING)).headers, origin
        answer = await anyone.get(INBOX)
        assert ALLOW_ORIGIN not in answer.headers, origin
        assert "origin" in answer.headers["vary"]


async def test_no_other_route_is_for_pages(rest):
    anyone = await rest.anyone({"Origin": SHOP})
    for path in (
        "/api/v1/notifications/send",
        "/api/v1/recipients/ada",
        "/api/v1/recipients/ada/tokens",
        "/api/v1/recipient-signing-secret",
        "/api/v1/inboxes",
        "/health",
    ):
        for answer in (await anyone.options(path, headers=ASKING), await anyone.get(path)):
            assert not [name for name in answer.headers if name.startswith("access-control")], path


async def test_a_page_can_read_an_answer_and_a_refusal(rest, tenant, ada):
    assert (await ada.get(INBOX, headers={"Origin": SHOP})).headers[ALLOW_ORIGIN] == SHOP
    refused = await (await rest.anyone({"Origin": SHOP})).get(INBOX)
    assert (refused.status_code, refused.headers[ALLOW_ORIGIN]) == (401, SHOP)
    missing = await ada.post(f"{INBOX}/{uuid4()}/read", headers={"Origin": SHOP})
    assert (missing.status_code, missing.headers[ALLOW_ORIGIN]) == (404, SHOP)


async def test_no_origin_is_allowed_unless_it_is_named(dsn, tmp_path):
    async with running_api(dsn, tmp_path) as rest:
        anyone = await rest.anyone({"Origin": SHOP})
        assert ALLOW_ORIGIN not in (await anyone.options(INBOX, headers=ASKING)).headers


async def test_a_star_allows_any_origin(dsn, tmp_path):
    async with running_api(dsn, tmp_path, inbox={"allow_origins": ("*",)}) as rest:
        anyone = await rest.anyone({"Origin": "http://localhost:3000"})
        assert (await anyone.options(INBOX, headers=ASKING)).headers[ALLOW_ORIGIN] == "*"
