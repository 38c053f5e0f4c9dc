"""Endpoints over HTTP: secrets shown once, addresses checked, events tested and replayed."""

from __future__ import annotations

import itertools
import socket
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.api.endpoints import ENDPOINTS_MAX
from app.flows.fan_out import FILTERS, fan_out
from app.store import endpoints as store
from app.store.endpoints import EndpointResult
from tests.factories import make_attempt, make_delivery
from tests.rest import running_api, wrong_fields

URL = "/api/v1/endpoints"
PUBLIC = "https://93.184.216.34/hooks"  # no name to resolve
ORDERS = {"name": "orders", "url": PUBLIC}
SLACK = {"name": "room", "url": "https://hooks.slack.com/services/T/B/hidden", "format": "slack"}


@pytest.fixture
async def rest(dsn, tmp_path):
    async with running_api(dsn, tmp_path) as rest:
        yield rest


async def created(client: Any, **changes: Any) -> dict[str, Any]:
    answer = await client.post(URL, json={**ORDERS, **changes})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def audit(rest) -> list[tuple[str, str]]:
    return await rest.rows("SELECT action, reason FROM store.audit_log ORDER BY id")


async def told(rest, endpoint: dict[str, Any], tenant: Any, state: str, **overrides: Any) -> Any:
    return await make_delivery(
        rest.conn,
        tenant_id=tenant.id,
        recipient_id=f"endpoint:{endpoint['id']}",
        category="delivery.delivered",
        state=state,
        channel="webhook",
        lane="webhook.transactional.default",
        address=endpoint["id"],
        **overrides,
    )


# -- registering ---------------------------------------------------------------------------------------------


async def test_a_new_endpoint_shows_its_secret_this_once(rest):
    tenant, client = await rest.tenant()
    made = await created(client, events=["delivery.*", "*", "delivery.*"], owner_email="Ops@Example.com")
    assert made["secret"].startswith("whsec_")
    assert len(b64decode(made["secret"].removeprefix("whsec_"))) == 32
    assert (made["algorithm"], made["public_key"], made["format"]) == ("hmac-sha256", None, "standard")
    assert (made["events"], made["owner_email"], made["status"]) == (["delivery.*", "*"], "Ops@example.com", "enabled")
    shown = (await client.get(f"{URL}/{made['id']}")).json()
    assert shown == {key: value for key, value in made.items() if key != "secret"}
    listed = (await client.get(URL)).json()["items"]
    assert listed == [shown]
    assert await audit(rest) == [("endpoint_created", "asked for through the API")]


async def test_with_ed25519_only_the_public_key_is_ever_shown(rest):
    _, client = await rest.tenant()
    made = await created(client, algorithm="ed25519")
    assert (made["secret"], made["algorithm"]) == (None, "ed25519")
    assert len(b64decode(made["public_key"].removeprefix("whpk_"))) == 32
    assert (await client.get(f"{URL}/{made['id']}")).json()["public_key"] == made["public_key"]
    [(private,)] = await rest.rows("SELECT secret FROM store.endpoints")
    assert private.startswith("whsk_")
    assert private not in (await client.get(URL)).text


async def test_of_a_chat_room_only_the_host_is_shown(rest):
    _, client = await rest.tenant()
    answer = await client.post(URL, json={**SLACK, "events": ["*"]})
    made = answer.json()
    assert (made["url"], made["secret"], made["algorithm"]) == ("https://hooks.slack.com/…", None, None)
    for text in (answer.text, (await client.get(f"{URL}/{made['id']}")).text, (await client.get(URL)).text):
        assert "hidden" not in text
    [(kept,)] = await rest.rows("SELECT url FROM store.endpoints")
    assert kept == SLACK["url"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\r\nb"}, "name"),
        ({"url": None}, "url"),
        ({"url": "http://hooks.example.com/"}, "url"),
        ({"url": "https://hooks.example.com:22/"}, "url"),
        ({"url": "https://user:hunter2@hooks.example.com/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "url"),
        ({"url": "https://127.0.0.1/"}, "url"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "url"),
        ({"url": "https://2130706433/"}, "url"),
        ({"url": "https://localhost/"}, "url"),
        ({"url": "https://" + "a" * 2050}, "url"),
        ({"format": "irc"}, "format"),
        ({"format": "slack"}, "url"),
        ({"format": "teams", "url": "https://hooks.slack.com/services/T/B/X"}, "url"),
        ({**SLACK, "algorithm": "ed25519"}, "algorithm"),
        ({"algorithm": "md5"}, "algorithm"),
        ({"events": ["delivery.deliverd"]}, "events[0]"),
        ({"events": ["*", "landed.test"]}, "events[1]"),
        ({"events": "*"}, "events"),
        ({"owner_email": "nobody"}, "owner_email"),
        ({"owner_email": "a@example.com\r\nBcc: b@example.com"}, "owner_email"),
        ({"secret": "whsec_mine"}, "secret"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_written(rest, changes, field):
    _, client = await rest.tenant()
    body = {name: value for name, value in {**ORDERS, **changes}.items() if value is not None}
    wrong = wrong_fields(await client.post(URL, json=body))
    assert wrong.keys() == {field}
    assert "hunter2" not in str(wrong)
    assert await rest.rows("SELECT FROM store.endpoints") == []


async def test_a_misspelt_filter_is_told_what_there_is(rest):
    _, client = await rest.tenant()
    wrong = wrong_fields(await client.post(URL, json={**ORDERS, "events": ["delivery.deliverd"]}))
    assert all(known in wrong["events[0]"] for known in FILTERS)


async def test_a_name_that_leads_inside_is_refused_and_one_that_leads_nowhere_yet_is_not(rest, monkeypatch):
    _, client = await rest.tenant()

    def resolver(host: str, *arguments: Any, **options: Any) -> Any:
        if host == "inside.example.com":
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("10.0.0.5", 443))]
        if host == "not-yet.example.com":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **options)

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    wrong = wrong_fields(await client.post(URL, json={**ORDERS, "url": "https://inside.example.com/"}))
    assert wrong == {"url": "resolves to a private address"}
    await created(client, url="https://not-yet.example.com/")


async def test_a_development_machine_may_register_itself(dsn, tmp_path):
    async with running_api(dsn, tmp_path, endpoints={"allow_loopback": True}) as rest:
        _, client = await rest.tenant()
        assert (await created(client, url="http://127.0.0.1:8025/hooks"))["url"] == "http://127.0.0.1:8025/hooks"
        room = await client.post(URL, json={**SLACK, "url": "http://localhost:1/slack/x"})
        assert room.json()["url"] == "http://localhost:1/…"
        assert wrong_fields(await client.post(URL, json={**ORDERS, "url": "http://10.0.0.1/"}))


async def test_without_a_route_for_chat_there_are_no_rooms(dsn, tmp_path):
    async with running_api(dsn, tmp_path, routes={"chat": ()}) as rest:
        _, client = await rest.tenant()
        assert wrong_fields(await client.post(URL, json=SLACK)).keys() == {"format"}


async def test_there_is_a_limit(rest):
    tenant, client = await rest.tenant()
    await rest.conn.execute(
        "INSERT INTO store.endpoints (tenant_id, name, url, secret)"
        " SELECT %s, 'e', 'https://1.1.1.1/', 'whsec_x' FROM generate_series(2, %s)",
        (tenant.id, ENDPOINTS_MAX),
    )
    await created(client)
    answer = await client.post(URL, json=ORDERS)
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/conflict")


# -- looking and changing ------------------------------------------------------------------------------------


async def test_the_list_comes_in_pages_newest_first_and_is_filtered(rest):
    _, client = await rest.tenant()
    names = [(await created(client, name=f"e{n}"))["name"] for n in range(3)]
    first = (await client.get(URL, params={"limit": 2})).json()
    second = (await client.get(URL, params={"limit": 2, "after": first["next"]})).json()
    assert [item["name"] for item in first["items"] + second["items"]] == names[::-1]
    assert second["next"] is None
    await client.post(URL, json=SLACK)
    assert len((await client.get(URL, params={"format": "slack"})).json()["items"]) == 1
    assert (await client.get(URL, params={"status": "disabled"})).json()["items"] == []
    assert wrong_fields(await client.get(URL, params={"status": "broken"})).keys() == {"status"}


async def test_a_change_touches_only_what_it_names(rest):
    _, client = await rest.tenant()
    made = await created(client, events=["*"], owner_email="ops@example.com")
    path = f"{URL}/{made['id']}"
    renamed = (await client.patch(path, json={"name": "renamed"})).json()
    assert (renamed["name"], renamed["url"], renamed["events"]) == ("renamed", PUBLIC, ["*"])
    assert renamed["owner_email"] == "ops@example.com"
    moved = (await client.patch(path, json={"url": "https://1.1.1.1/", "events": [], "owner_email": None})).json()
    assert (moved["url"], moved["events"], moved["owner_email"]) == ("https://1.1.1.1/", [], None)
    assert (await client.patch(path, json={})).json()["name"] == "renamed"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": None}, "url"),
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"events": ["x"]}, "events[0]"),
        ({"format": "slack"}, "format"),
        ({"status": "enabled"}, "status"),
    ],
)
async def test_a_wrong_change_is_refused_by_name(rest, changes, field):
    _, client = await rest.tenant()
    made = await created(client)
    assert wrong_fields(await client.patch(f"{URL}/{made['id']}", json=changes)).keys() == {field}


async def test_a_room_may_only_move_within_its_vendor(rest):
    _, client = await rest.tenant()
    room = (await client.post(URL, json=SLACK)).json()
    wrong = wrong_fields(await client.patch(f"{URL}/{room['id']}", json={"url": PUBLIC}))
    assert wrong == {"url": "must be at hooks.slack.com"}
    answer = await client.patch(f"{URL}/{room['id']}", json={"url": "https://hooks.slack.com/services/T/B/other"})
    assert (answer.status_code, answer.json()["url"]) == (200, "https://hooks.slack.com/…")


async def test_a_deleted_endpoint_is_gone(rest):
    _, client = await rest.tenant()
    made = await created(client)
    assert (await client.delete(f"{URL}/{made['id']}")).status_code == 204
    assert (await client.get(f"{URL}/{made['id']}")).status_code == 404
    assert (await client.delete(f"{URL}/{made['id']}")).status_code == 404
    assert [action for action, _ in await audit(rest)] == ["endpoint_created", "endpoint_deleted"]


CALLS = [
    ("GET", ""),
    ("PATCH", ""),
    ("DELETE", ""),
    ("POST", "/rotate-secret"),
    ("POST", "/enable"),
    ("POST", "/disable"),
    ("POST", "/test"),
    ("GET", "/deliveries"),
    ("POST", "/replay"),
]
BODIES = {"/disable": {"reason": "x"}, "/replay": {"since": "2026-01-01T00:00:00Z"}}


async def test_another_tenants_endpoint_does_not_exist(rest):
    _, client = await rest.tenant()
    _, stranger = await rest.tenant()
    made = await created(client)
    for (method, path), id in itertools.product(CALLS, (made["id"], str(uuid4()))):
        body = {} if method == "GET" else {"json": BODIES.get(path, {})}
        answer = await stranger.request(method, f"{URL}/{id}{path}", **body)
        assert answer.status_code == 404, (method, path, answer.text)
    assert (await client.get(f"{URL}/{made['id']}")).json()["status"] == "enabled"


async def test_reading_and_changing_need_their_scopes(rest):
    tenant, client = await rest.tenant()
    made = await created(client)
    may_not_read, may_not_change = await rest.client(tenant.id, "send", "admin"), await rest.client(tenant.id, "read")
    for method, path in [("POST", None), ("GET", None), *CALLS]:
        lacking = may_not_read if method == "GET" else may_not_change
        url = URL if path is None else f"{URL}/{made['id']}{path}"
        assert (await lacking.request(method, url)).status_code == 403, (method, path)


# -- secrets -------------------------------------------------------------------------------------------------


async def test_a_rotated_secret_goes_on_signing_for_a_while(rest):
    tenant, client = await rest.tenant()
    made = await created(client)
    rotated = (await client.post(f"{URL}/{made['id']}/rotate-secret", json={})).json()
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != made["secret"]
    until = datetime.fromisoformat(rotated["previous_secret_until"])
    assert timedelta(hours=23) < until - datetime.now(UTC) < timedelta(hours=25)
    found = await store.targets(rest.conn, [tenant.id], [UUID(made["id"])])
    assert found[UUID(made["id"])].secrets == (rotated["secret"], made["secret"])


async def test_a_leaked_secret_stops_at_once(rest):
    tenant, client = await rest.tenant()
    made = await created(client)
    rotated = (await client.post(f"{URL}/{made['id']}/rotate-secret", json={"revoke_old": True})).json()
    assert rotated["previous_secret_until"] is None
    found = await store.targets(rest.conn, [tenant.id], [UUID(made["id"])])
    assert found[UUID(made["id"])].secrets == (rotated["secret"],)
    assert ("endpoint_secret_rotated", "asked for through the API") in await audit(rest)


async def test_rotating_may_change_what_signs(rest):
    _, client = await rest.tenant()
    made = await created(client)
    path = f"{URL}/{made['id']}/rotate-secret"
    rotated = (await client.post(path, json={"algorithm": "ed25519"})).json()
    assert (rotated["secret"], rotated["algorithm"]) == (None, "ed25519")
    again = (await client.post(path, json={})).json()
    assert again["algorithm"] == "ed25519"
    assert again["public_key"] != rotated["public_key"]


async def test_a_room_has_no_secret_to_rotate(rest):
    _, client = await rest.tenant()
    room = (await client.post(URL, json=SLACK)).json()
    assert (await client.post(f"{URL}/{room['id']}/rotate-secret", json={})).status_code == 409


# -- on and off ----------------------------------------------------------------------------------------------


async def test_an_endpoint_is_disabled_with_a_reason_and_enabled_afresh(rest):
    tenant, client = await rest.tenant()
    made = await created(client)
    path = f"{URL}/{made['id']}"
    off = (await client.post(f"{path}/disable", json={"reason": "moving house"})).json()
    assert (off["status"], off["disabled_reason"]) == ("disabled", "moving house")
    assert off["disabled_at"] is not None
    await rest.conn.execute("UPDATE store.endpoints SET failing_since = now() - interval '30 days'")
    on = (await client.post(f"{path}/enable")).json()
    assert (on["status"], on["disabled_reason"], on["disabled_at"], on["failing_since"]) == (
        "enabled",
        None,
        None,
        None,
    )
    failure = EndpointResult(tenant.id, UUID(made["id"]), made["url"], False, False, "HTTP 500")
    assert await store.note_outcomes(rest.conn, [failure], disable_after_seconds=86400) == []
    assert (await audit(rest))[1:] == [
        ("endpoint_disabled", "moving house"),
        ("endpoint_enabled", "asked for through the API"),
    ]
    assert wrong_fields(await client.post(f"{path}/disable", json={})).keys() == {"reason"}


# -- trying it -----------------------------------------------------------------------------------------------


async def test_a_test_event_goes_the_way_of_all_others(rest):
    tenant, client = await rest.tenant()
    made = await created(client)
    answer = await client.post(f"{URL}/{made['id']}/test")
    assert answer.status_code == 202
    instance = rest.app.state.api
    assert await fan_out(instance.db, instance.settings, limit=10) == (1, frozenset({"webhook.transactional.default"}))
    (delivery,) = (await client.get(f"{URL}/{made['id']}/deliveries")).json()["items"]
    assert (delivery["event_type"], delivery["state"], delivery["attempts"]) == ("landed.test", "queued", [])
    assert delivery["event_id"] == delivery["delivery_id"]
    [(data,)] = await rest.rows("SELECT request -> 'variables' FROM store.notifications")
    assert (data["test_id"], data["endpoint_id"]) == (answer.json()["test_id"], made["id"])


async def test_a_disabled_endpoint_is_not_tested(rest):
    _, client = await rest.tenant()
    made = await created(client)
    await client.post(f"{URL}/{made['id']}/disable", json={"reason": "x"})
    assert (await client.post(f"{URL}/{made['id']}/test")).status_code == 409
    assert await rest.rows("SELECT FROM store.status_events") == []


# -- what was sent -------------------------------------------------------------------------------------------


async def test_deliveries_come_newest_first_with_their_attempts(rest):
    tenant, client = await rest.tenant()
    made = await created(client)
    first = await told(rest, made, tenant, "dead", attempt=False, attempt_no=2)
    for no, status in ((1, 500), (2, 404)):
        await make_attempt(
            rest.conn, first, no=no, state="refused", outcome="transient", status_code=status, detail=f"HTTP {status}"
        )
    second = await told(rest, made, tenant, "delivered", replay_of=first.id)
    await told(rest, await created(client), tenant, "dead")
    path = f"{URL}/{made['id']}/deliveries"
    newest, oldest = (await client.get(path)).json()["items"]
    assert (newest["delivery_id"], newest["event_id"]) == (str(second.id), str(first.id))
    assert [(a["no"], a["status_code"], a["detail"]) for a in oldest["attempts"]] == [
        (1, 500, "HTTP 500"),
        (2, 404, "HTTP 404"),
    ]
    page = (await client.get(path, params={"limit": 1})).json()
    rest_of_it = (await client.get(path, params={"limit": 1, "after": page["next"]})).json()
    assert [item["delivery_id"] for item in page["items"] + rest_of_it["items"]] == [str(second.id), str(first.id)]
    assert len((await client.get(path, params={"state": "dead"})).json()["items"]) == 1
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert (await client.get(path, params={"since": later})).json()["items"] == []


SINCE = {"since": "2026-01-01T00:00:00Z"}


async def test_what_was_missed_is_sent_again_in_pages(rest):
    tenant, client = await rest.tenant()
    made = await created(client)
    dead = [str((await told(rest, made, tenant, "dead")).id) for _ in range(3)]
    path = f"{URL}/{made['id']}/replay"
    dry = (await client.post(path, json={**SINCE, "dry_run": True})).json()
    assert (dry["dry_run"], dry["counts"], dry["next"]) == (True, {"would_requeue": 3}, None)
    first = (await client.post(path, json={**SINCE, "max_rows": 2})).json()
    assert [item["delivery_id"] for item in first["items"]] == dead[:2]
    second = (await client.post(path, json={**SINCE, "max_rows": 2, "after": first["next"]})).json()
    assert (second["counts"], second["next"]) == ({"requeued": 1}, None)
    [(queued,)] = await rest.rows("SELECT count(*) FROM store.deliveries WHERE state = 'queued'")
    assert queued == 3
    [(actor, reason)] = await rest.rows("SELECT DISTINCT actor, reason FROM store.audit_log WHERE action = 'replay'")
    assert actor.endswith(f"of {tenant.name}")
    assert reason == "asked for through the API"


async def test_one_delivery_is_sent_again_under_its_event_id(rest):
    tenant, client = await rest.tenant()
    made = await created(client)
    delivered = await told(rest, made, tenant, "delivered")
    path = f"{URL}/{made['id']}"
    (done,) = (await client.post(f"{path}/replay", json={"delivery_id": str(delivered.id)})).json()["items"]
    assert done["verdict"] == "sent_again"
    shown = (await client.get(f"{path}/deliveries")).json()["items"]
    assert {item["delivery_id"] for item in shown} == {str(delivered.id), done["replayed_as"]}
    assert {item["event_id"] for item in shown} == {str(delivered.id)}
    again = await client.post(f"{path}/replay", json={"delivery_id": str(delivered.id)})
    assert (again.status_code, again.json()["verdict"]) == (409, "refused_already_replayed")
    unknown = await client.post(f"{path}/replay", json={"delivery_id": str(uuid4())})
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "since"),
        ({**SINCE, "delivery_id": str(uuid4())}, "since"),
        ({"since": "yesterday"}, "since"),
        ({**SINCE, "max_rows": 1001}, "max_rows"),
        ({**SINCE, "reason": ""}, "reason"),
        ({"delivery_id": "x"}, "delivery_id"),
    ],
)
async def test_a_replay_that_makes_no_sense_names_the_field(rest, body, field):
    _, client = await rest.tenant()
    made = await created(client)
    assert wrong_fields(await client.post(f"{URL}/{made['id']}/replay", json=body)).keys() == {field}


async def test_nothing_is_replayed_to_a_disabled_endpoint(rest):
    _, client = await rest.tenant()
    made = await created(client)
    await client.post(f"{URL}/{made['id']}/disable", json={"reason": "x"})
    answer = await client.post(f"{URL}/{made['id']}/replay", json=SINCE)
    assert (answer.status_code, answer.json()["detail"]) == (409, "the endpoint is disabled: enable it first")
