"""Recipients over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from tests.factories import make_suppression
from tests.rest import running_api, wrong_fields

URL = "/api/v1/recipients"
ANA = {
    "email": "ana@example.com",
    "phone": "+4915112345678",
    "locale": "pt-BR",
    "time_zone": "America/Sao_Paulo",
    "active": True,
    "attributes": {"plan": "pro", "since": 2024},
}


@pytest.fixture
async def rest(dsn, tmp_path):
    async with running_api(dsn, tmp_path) as rest:
        yield rest


async def test_a_recipient_put_is_the_recipient_got(rest):
    _, client = await rest.tenant()
    put = await client.put(f"{URL}/ana", json=ANA)
    assert put.status_code == 201, put.text
    assert put.json().items() >= {"id": "ana", **ANA}.items()
    assert (await client.get(f"{URL}/ana")).json() == {**put.json(), "suppressions": [], "soft_bounces": []}


async def test_a_put_replaces_the_whole_recipient(rest):
    _, client = await rest.tenant()
    await client.put(f"{URL}/ana", json=ANA)
    again = await client.put(f"{URL}/ana", json={"email": "ana@example.org", "active": False})
    assert again.status_code == 200
    assert (
        again.json().items()
        >= {
            "email": "ana@example.org",
            "phone": None,
            "locale": None,
            "active": False,
            "attributes": {},
        }.items()
    )


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("Ana@Example.COM", "Ana@example.com"),
        ("ana@shop.test", "ana@shop.test"),
        ("bounce+order-42@example.com", "bounce+order-42@example.com"),
        ("ana@münchen.example.com", "ana@xn--mnchen-3ya.example.com"),
    ],
)
async def test_an_address_is_kept_as_providers_report_it(rest, given, stored):
    _, client = await rest.tenant()
    assert (await client.put(f"{URL}/ana", json={"email": given})).json()["email"] == stored


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"email": "ana"}, "email"),
        ({"email": "ana@localhost"}, "email"),
        ({"email": "ana@example.com\r\nBcc: all@example.com"}, "email"),
        ({"email": "Ana <ana@example.com>"}, "email"),
        ({"email": "ana@example.com, bo@example.com"}, "email"),
        ({"email": ""}, "email"),
        ({"email": 5}, "email"),
        ({"phone": "015112345678"}, "phone"),
        ({"phone": "+49 151 1234"}, "phone"),
        ({"phone": "+4915112345678\n"}, "phone"),
        ({"locale": "german please"}, "locale"),
        ({"locale": "de\n"}, "locale"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"active": "yes"}, "active"),
        ({"attributes": []}, "attributes"),
        ({"attributes": {"a": ["\x00"]}}, "attributes.a[0]"),
        ({"id": "bo"}, "id"),
        ({"name": "Ana"}, "name"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_written(rest, body, field):
    _, client = await rest.tenant()
    assert field in wrong_fields(await client.put(f"{URL}/ana", json=body))
    assert (await client.get(f"{URL}/ana")).status_code == 404


@pytest.mark.parametrize("recipient_id", ["a\nb", "a\x00", "x" * 201])
async def test_an_id_that_cannot_be_one_is_refused(rest, recipient_id):
    _, client = await rest.tenant()
    url = f"{URL}/{quote(recipient_id)}"
    assert "id" in wrong_fields(await client.put(url, json=ANA))
    assert (await client.get(url)).status_code == 404


async def test_malformed_json_is_a_400_and_another_type_a_415(rest):
    _, client = await rest.tenant()
    json_type = {"Content-Type": "application/json"}
    assert (await client.put(f"{URL}/ana", content=b'{"email": ', headers=json_type)).status_code == 400
    assert (await client.put(f"{URL}/ana", content=b"email=a@example.com")).status_code == 415
    assert (await client.put(f"{URL}/ana", content=b" " * (256 * 1024 + 1), headers=json_type)).status_code == 413


async def test_many_are_written_at_once_with_a_status_each(rest):
    _, client = await rest.tenant()
    await client.put(f"{URL}/bo", json={"email": "old@example.com"})
    items = [
        {"id": "ana", "email": "ana@example.com"},
        {"id": "bo", "email": "bo@example.com"},
        {"id": "cy", "email": "not an address"},
        {"id": "dee", "email": "dee@example.com", "shoe_size": 40},
        "eve",
        {"email": "nobody@example.com"},
        {"id": "ana", "email": "second@example.com"},
        {"id": "a/b", "email": "slash@example.com"},
        {"id": 7, "email": "seven@example.com"},
        {"id": "gus", "attributes": {"a": "\x00"}},
        {"id": "hal", "phone": "+4915112345678"},
    ]
    answer = await client.post(URL, json={"items": items})
    assert answer.status_code == 200, answer.text
    results = answer.json()["items"]
    assert [(r["index"], r["id"], r["status"]) for r in results] == [
        (0, "ana", "created"),
        (1, "bo", "updated"),
        (2, "cy", "invalid"),
        (3, "dee", "invalid"),
        (4, None, "invalid"),
        (5, None, "invalid"),
        (6, "ana", "invalid"),
        (7, "a/b", "invalid"),
        (8, None, "invalid"),
        (9, "gus", "invalid"),
        (10, "hal", "created"),
    ]
    named = [[error["field"] for error in r["errors"]] for r in results[2:10]]
    assert named == [["email"], ["shoe_size"], ["body"], ["id"], ["id"], ["id"], ["id"], ["attributes.a"]]
    rows = await rest.rows("SELECT id, email FROM store.recipients ORDER BY id")
    assert rows == [("ana", "ana@example.com"), ("bo", "bo@example.com"), ("hal", None)]


async def test_a_batch_has_a_length(rest):
    _, client = await rest.tenant()
    assert "items" in wrong_fields(await client.post(URL, json={"items": []}))
    too_many = [{"id": str(number)} for number in range(1001)]
    assert "items" in wrong_fields(await client.post(URL, json={"items": too_many}))
    results = (await client.post(URL, json={"items": too_many[:1000]})).json()["items"]
    assert {result["status"] for result in results} == {"created"}
    assert len(results) == 1000


async def test_a_recipient_shows_why_its_addresses_are_not_sent_to(rest):
    tenant, client = await rest.tenant()
    await client.put(f"{URL}/ana", json={**ANA, "email": "Ana@example.com"})
    made = await make_suppression(
        rest.conn, tenant_id=tenant.id, address="ana@example.com", reason="complaint", source="provider"
    )
    await make_suppression(rest.conn, tenant_id=tenant.id, address="someone@example.com")
    lifted = {"lifted_at": datetime.now(UTC), "lift_reason": "asked", "scope": "news"}
    await make_suppression(rest.conn, tenant_id=tenant.id, address="ana@example.com", **lifted)
    then = datetime.now(UTC) - timedelta(days=1)
    await rest.rows(
        "INSERT INTO store.soft_bounces (tenant_id, channel, address, bounces, first_at, last_at)"
        " VALUES (%s, 'email', 'ana@example.com', 2, %s, %s), (%s, 'email', 'bo@example.com', 3, %s, %s)"
        " RETURNING 1",
        *(tenant.id, then, then, tenant.id, then, then),
    )
    shown = (await client.get(f"{URL}/ana")).json()
    assert [(s["id"], s["reason"], s["scope"]) for s in shown["suppressions"]] == [(made.id, "complaint", "all")]
    assert [(b["address"], b["bounces"]) for b in shown["soft_bounces"]] == [("ana@example.com", 2)]
    await client.put(f"{URL}/ana", json={"email": "new@example.com"})
    moved = (await client.get(f"{URL}/ana")).json()
    assert (moved["suppressions"], moved["soft_bounces"]) == ([], [])


async def test_another_tenant_sees_and_changes_nothing(rest):
    tenant, client = await rest.tenant()
    other, stranger = await rest.tenant()
    mine = (await client.put(f"{URL}/ana", json=ANA)).json()
    await make_suppression(rest.conn, tenant_id=other.id, address="ana@example.com")
    assert (await stranger.get(f"{URL}/ana")).status_code == 404
    assert (await stranger.put(f"{URL}/ana", json={"email": "x@example.com"})).status_code == 201
    (result,) = (await stranger.post(URL, json={"items": [{"id": "ana"}]})).json()["items"]
    assert result["status"] == "updated"
    assert (await client.get(f"{URL}/ana")).json() == {**mine, "suppressions": [], "soft_bounces": []}
    rows = await rest.rows("SELECT tenant_id, email FROM store.recipients ORDER BY tenant_id")
    assert rows == [(tenant.id, "ana@example.com"), (other.id, None)]


async def test_each_act_needs_its_scope(rest):
    tenant, client = await rest.tenant()
    await client.put(f"{URL}/ana", json=ANA)
    reader, sender = await rest.client(tenant.id, "read"), await rest.client(tenant.id, "send")
    assert (await reader.put(f"{URL}/ana", json={})).status_code == 403
    assert (await reader.post(URL, json={"items": [{"id": "ana"}]})).status_code == 403
    assert (await sender.get(f"{URL}/ana")).status_code == 403
    assert (await reader.get(f"{URL}/ana")).json()["email"] == "ana@example.com"
