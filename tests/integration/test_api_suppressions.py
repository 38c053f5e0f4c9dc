"""Suppressions over HTTP."""

from __future__ import annotations

import asyncio

import pytest
from psycopg import AsyncConnection

from tests.factories import make_category, make_suppression
from tests.rest import running_api, wrong_fields

URL = "/api/v1/suppressions"
WAITING = (
    "SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
    " WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted"
)
ANA = {"channel": "email", "address": "ana@example.com"}


@pytest.fixture
async def rest(dsn, tmp_path):
    async with running_api(dsn, tmp_path) as rest:
        yield rest


async def audit(rest):
    return await rest.rows("SELECT actor, action, tenant_id, target, reason FROM store.audit_log ORDER BY id")


async def test_an_added_address_is_suppressed_in_its_normal_form_and_audited(rest):
    tenant, client = await rest.tenant()
    added = await client.post(URL, json={**ANA, "address": "Ana@Example.COM", "detail": "wrote to us"})
    assert added.status_code == 201, added.text
    row = added.json()
    assert (
        row.items()
        >= {
            "channel": "email",
            "address": "ana@example.com",
            "scope": "all",
            "reason": "manual",
            "detail": "wrote to us",
            "source": "api",
            "lifted_at": None,
        }.items()
    )
    (entry,) = await audit(rest)
    assert entry[1:] == ("suppress", tenant.id, f"suppression {row['id']}", "manual")
    assert entry[0].endswith(f"of {tenant.name}")


async def test_adding_it_again_answers_the_standing_one(rest):
    tenant, client = await rest.tenant()
    await make_category(rest.conn, tenant_id=tenant.id, name="news")
    first = (await client.post(URL, json={**ANA, "reason": "complaint"})).json()
    again = await client.post(URL, json={**ANA, "address": "ANA@example.com"})
    assert (again.status_code, again.json()) == (200, first)
    other_scope = await client.post(URL, json={**ANA, "scope": "news"})
    assert (other_scope.status_code, other_scope.json()["scope"]) == (201, "news")
    assert len(await audit(rest)) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "channel"),
        ({**ANA, "channel": "fax"}, "channel"),
        ({**ANA, "address": "ana"}, "address"),
        ({**ANA, "address": ""}, "address"),
        ({**ANA, "address": "ana@example.com\r\nBcc: all@example.com"}, "address"),
        ({"channel": "sms", "address": "0151"}, "address"),
        ({**ANA, "scope": "no_such_category"}, "scope"),
        ({**ANA, "scope": "Not A Name"}, "scope"),
        ({**ANA, "reason": "spite"}, "reason"),
        ({**ANA, "detail": "\x00"}, "detail"),
        ({**ANA, "source": "provider"}, "source"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_written(rest, body, field):
    _, client = await rest.tenant()
    assert field in wrong_fields(await client.post(URL, json=body))
    assert (await client.get(URL)).json()["items"] == []


async def test_an_opt_out_waits_for_a_claim_that_has_already_looked(rest, dsn):
    """I11: the claim shares the address; until its transaction is over, the opt-out has not happened."""
    tenant, client = await rest.tenant()
    async with await AsyncConnection.connect(dsn) as claim:
        await claim.execute(
            "SELECT pg_advisory_xact_lock_shared(11, store.address_bucket(%s, 'email', 'ana@example.com'))",
            (tenant.id,),
        )
        adding = asyncio.create_task(client.post(URL, json=ANA))
        while not await rest.rows(WAITING):
            assert not adding.done()
            await asyncio.sleep(0)
        assert await rest.rows("SELECT FROM store.suppressions") == []
        await claim.rollback()
        assert (await adding).status_code == 201


async def test_a_lift_that_meets_a_claim_waits_as_well_and_gives_up_as_503(rest, dsn):
    tenant, client = await rest.tenant()
    added = (await client.post(URL, json=ANA)).json()
    async with await AsyncConnection.connect(dsn) as claim:
        await claim.execute(
            "SELECT pg_advisory_xact_lock_shared(11, store.address_bucket(%s, 'email', 'ana@example.com'))",
            (tenant.id,),
        )
        refused = await client.post(f"{URL}/{added['id']}/lift", json={"reason": "asked"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        await claim.rollback()
    assert (await client.post(f"{URL}/{added['id']}/lift", json={"reason": "asked"})).status_code == 200


async def test_a_lift_has_a_reason_is_audited_and_happens_once(rest):
    tenant, client = await rest.tenant()
    added = (await client.post(URL, json={**ANA, "reason": "soft_bounces"})).json()
    await rest.rows(
        "INSERT INTO store.soft_bounces (tenant_id, channel, address, bounces, first_at, last_at)"
        " VALUES (%s, 'email', 'ana@example.com', 4, now(), now()) RETURNING 1",
        tenant.id,
    )
    url = f"{URL}/{added['id']}/lift"
    assert "reason" in wrong_fields(await client.post(url, json={}))
    assert "reason" in wrong_fields(await client.post(url, json={"reason": ""}))
    assert "reason" in wrong_fields(await client.post(url, json={"reason": "a\nb"}))
    lifted = await client.post(url, json={"reason": "mailbox was emptied"})
    assert lifted.status_code == 200, lifted.text
    assert lifted.json()["lift_reason"] == "mailbox was emptied"
    assert lifted.json()["lifted_by"].endswith(f"of {tenant.name}")
    assert (await audit(rest))[-1][1:] == (
        "unsuppress",
        tenant.id,
        f"suppression {added['id']}",
        "mailbox was emptied",
    )
    assert await rest.rows("SELECT FROM store.soft_bounces") == []
    again = await client.post(url, json={"reason": "again"})
    assert again.status_code == 409
    assert len(await audit(rest)) == 2
    assert (await client.post(URL, json=ANA)).status_code == 201


async def test_lists_filter_and_page_newest_first(rest):
    tenant, client = await rest.tenant()
    ids = []
    for number in range(5):
        reason = "complaint" if number % 2 else "manual"
        body = {**ANA, "address": f"user-{number}@example.com", "reason": reason}
        ids.insert(0, (await client.post(URL, json=body)).json()["id"])
    await client.post(f"{URL}/{ids[0]}/lift", json={"reason": "asked"})
    await make_suppression(rest.conn, tenant_id=tenant.id, channel="sms", address="+4915112345678")

    async def listed(**query):
        answer = await client.get(URL, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    first = await listed(channel="email", limit=3)
    second = await listed(channel="email", limit=3, after=first["next"])
    assert [row["id"] for row in first["items"] + second["items"]] == ids
    assert second["next"] is None
    assert [row["id"] for row in (await listed(reason="complaint"))["items"]] == [ids[1], ids[3]]
    assert [row["id"] for row in (await listed(active="false"))["items"]] == [ids[0]]
    assert [row["id"] for row in (await listed(active="true", channel="email"))["items"]] == ids[1:]
    assert [row["id"] for row in (await listed(address="USER-2@example.com"))["items"]] == [ids[2]]
    assert [row["channel"] for row in (await listed(channel="sms"))["items"]] == ["sms"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("active=perhaps", "active"),
        ("channel=fax", "channel"),
        ("after=Wzk5XQ==x", "after"),
        ("after=WzFlOTld", "after"),
        ("after=WzksOV0", "after"),
    ],
)
async def test_a_wrong_query_is_named(rest, query, field):
    _, client = await rest.tenant()
    assert field in wrong_fields(await client.get(f"{URL}?{query}"))


async def test_another_tenant_sees_and_changes_nothing(rest):
    tenant, client = await rest.tenant()
    other, stranger = await rest.tenant()
    added = (await client.post(URL, json=ANA)).json()
    assert (await stranger.get(URL)).json()["items"] == []
    lift = await stranger.post(f"{URL}/{added['id']}/lift", json={"reason": "not mine"})
    assert lift.status_code == 404
    assert (await client.get(URL)).json()["items"] == [added]
    theirs = await stranger.post(URL, json=ANA)
    assert (theirs.status_code, theirs.json()["id"] != added["id"]) == (201, True)
    await make_category(rest.conn, tenant_id=tenant.id, name="news")
    assert "scope" in wrong_fields(await stranger.post(URL, json={**ANA, "scope": "news"}))


async def test_each_act_needs_its_scope(rest):
    tenant, client = await rest.tenant()
    added = (await client.post(URL, json=ANA)).json()
    reader, sender = await rest.client(tenant.id, "read"), await rest.client(tenant.id, "send")
    assert (await reader.post(URL, json={**ANA, "address": "bo@example.com"})).status_code == 403
    assert (await reader.post(f"{URL}/{added['id']}/lift", json={"reason": "no"})).status_code == 403
    assert (await sender.get(URL)).status_code == 403
    assert (await reader.get(URL)).json()["items"] == [added]
