"""The same key again: the stored answer, once the first is known to be durable; never a second
notification (I15).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys

import httpx
import psycopg
import pytest

from tests.factories import make_template
from tests.rest import wrong_fields
from tests.sandbox_process import free_port
from tests.shop import BATCH, MAIL_SETTINGS, SEND, open_shop, running_shop


@pytest.fixture
async def shop(dsn, tmp_path):
    times = {"lock_timeout_seconds": 0.3}
    async with running_shop(dsn, tmp_path, times=times) as shop:
        yield shop


def told_apart(responses):
    """New, replayed and refused answers; anything else fails."""
    assert {response.status_code for response in responses} <= {202, 409}
    new = [r for r in responses if r.status_code == 202 and "Idempotent-Replayed" not in r.headers]
    replayed = [r for r in responses if r.headers.get("Idempotent-Replayed") == "true"]
    refused = [r for r in responses if r.status_code == 409]
    assert all(r.headers["Retry-After"] == "1" for r in refused)
    return new, replayed, refused


async def test_a_hundred_at_once_are_one_notification(shop):
    responses = await asyncio.gather(*(shop.send() for _ in range(100)))
    new, replayed, refused = told_apart(responses)
    assert len(new) == 1
    assert len(replayed) + len(refused) == 99
    assert all(response.content == new[0].content for response in replayed)
    assert await shop.counted("notifications") == 1


async def test_two_processes_make_one_notification(dsn, shop):
    async with _process(dsn, shop.client.headers) as first, _process(dsn, shop.client.headers) as second:
        headers = {"Idempotency-Key": "k"}
        responses = await asyncio.gather(
            *(client.post(SEND, json=shop.request(), headers=headers) for _ in range(30) for client in (first, second))
        )
    new, replayed, refused = told_apart(responses)
    assert len(new) == 1
    assert {response.content for response in replayed} <= {new[0].content}
    assert await shop.counted("notifications") == 1


async def test_a_replay_is_the_same_to_the_byte(shop):
    first, second = await shop.send(), await shop.send()
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.content == second.content
    assert first.headers["content-type"] == second.headers["content-type"]
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"


async def test_a_replay_ignores_how_the_same_thing_was_written(shop):
    first = await shop.send(channel="email", send_at="2026-01-01T10:00:00+02:00", key="k")
    second = await shop.send(channels=["email"], send_at="2026-01-01T08:00:00Z", key='"k"')
    third = await shop.send(channels=["email"], send_at="2026-01-01T08:00:00.000Z", key=None, idempotency_key="k")
    assert first.status_code == 202
    assert first.content == second.content == third.content


async def test_another_body_is_refused_with_what_differs(shop):
    first = (await shop.send(variables={"order_id": "A-1", "note": "x"})).json()
    response = await shop.send(variables={"order_id": "A-2"}, channels=["email"])
    errors = wrong_fields(response)
    assert list(errors) == ["channels", "variables.note", "variables.order_id"]
    assert response.json()["type"] == "/problems/idempotency-key-reused"
    assert response.json()["first_notification_id"] == first["id"]
    assert await shop.counted("notifications") == 1


async def test_another_tenants_key_is_another_key(shop):
    other = await open_shop(shop.rest)
    mine, theirs = await shop.send(key="k"), await other.send(key="k")
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.json()["id"] != theirs.json()["id"]


async def test_one_key_by_rest_and_by_sql_is_one_notification(shop):
    first = (await shop.send(key="k")).json()["id"]
    [(by_sql,)] = await shop.rest.rows(
        "SELECT landed.send(%s, 'ada', 'order_confirmation', '{\"order_id\": \"A-1\"}', "
        "category => 'orders', idempotency_key => 'k')",
        shop.tenant.name,
    )
    assert str(by_sql) == first
    assert await shop.counted("notifications") == 1


# -- what is not stored, and what outlives the rules it was accepted under ---------------------------------


async def test_a_refusal_does_not_use_the_key(shop):
    assert (await shop.send(variables={})).status_code == 422
    assert (await shop.send(recipient_id="nobody")).status_code == 422
    accepted = await shop.send()
    assert accepted.status_code == 202
    assert "Idempotent-Replayed" not in accepted.headers


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE store.templates SET status = 'archived', archived_at = now()",
        "DELETE FROM store.categories",
        "UPDATE store.recipients SET active = false",
    ],
)
async def test_a_key_answers_as_before_when_the_rules_have_changed(shop, change):
    first = await shop.send()
    await shop.rest.conn.execute(change)
    shop.rest.app.state.api.desk.terms.clear()
    assert (await shop.send(key="new")).status_code == 422
    again = await shop.send()
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    batch = await shop.client.post(BATCH, json={"items": [shop.request(idempotency_key="order_confirmation:A-1")]})
    [item] = batch.json()["items"]
    assert (item["status"], item["id"], item["replayed"]) == (202, first.json()["id"], True)
    other_body = await shop.send(variables={"order_id": "B"})
    assert other_body.json()["type"] == "/problems/idempotency-key-reused"


async def test_a_replay_names_the_version_chosen_then(shop):
    first = await shop.send()
    await make_template(shop.rest.conn, tenant_id=shop.tenant.id, template_id="order_confirmation", version=2)
    shop.rest.app.state.api.desk.terms.clear()
    assert (await shop.send()).content == first.content


# -- a key that another transaction has in hand ------------------------------------------------------------


async def test_a_key_in_use_elsewhere_is_409_and_holds_up_nobody_else(shop, dsn):
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute(
            "INSERT INTO store.idempotency_keys "
            "(tenant_id, key, fingerprint, notification_id, response_status, response, expires_at) "
            "VALUES (%s, 'held', '', gen_random_uuid(), 202, '', now() + interval '1 day')",
            (shop.tenant.id,),
        )
        responses = await asyncio.gather(shop.send("held"), *(shop.send(f"free:{n}") for n in range(20)))
        await other.rollback()
    held, *free = responses
    assert held.status_code == 409
    assert held.json()["type"] == "/problems/idempotency-key-in-use"
    assert held.headers["Retry-After"] == "1"
    assert {response.status_code for response in free} == {202}
    assert (await shop.send("held")).status_code == 202


async def test_a_lock_that_has_nothing_to_do_with_the_key_is_503(shop, dsn):
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute("LOCK TABLE store.notifications IN ACCESS EXCLUSIVE MODE")
        response = await shop.send()
        await other.rollback()
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert (await shop.send()).status_code == 202


# -- header and body ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "field", "status", "says"),
    [
        ([], None, 400, "an idempotency key is needed"),
        (["a"], "b", 400, "differ"),
        (["a", "a"], None, 400, "2 times"),
        (['"a'], None, 400, "quoted string"),
        (['"a" b'], None, 400, "quoted string"),
        (['"a\\x"'], None, 400, "quoted string"),
        ([""], None, 422, "1 to 255"),
        (['""'], None, 422, "1 to 255"),
        (["a" * 256], None, 422, "it has 256"),
        ([], "", 422, "1 to 255"),
        ([], "a" * 256, 422, "it has 256"),
        ([], "line\nbreak", 422, "printable ASCII"),
        ([], "schlüssel", 422, "printable ASCII"),
    ],
)
async def test_a_key_that_cannot_be_kept_is_refused_by_name(shop, headers, field, status, says):
    body = shop.request(idempotency_key=field)
    response = await shop.client.post(SEND, json=body, headers=[("Idempotency-Key", key) for key in headers])
    assert response.status_code == status, response.text
    assert says in response.json()["detail"]
    assert await shop.counted("notifications") == 0


@pytest.mark.parametrize(
    ("header", "stored"),
    [
        ("plain", "plain"),
        ('"quoted"', "quoted"),
        ('"with \\"quotes\\" and \\\\"', 'with "quotes" and \\'),
        ("order_confirmation:12345", "order_confirmation:12345"),
        ("with space", "with space"),
        ("~" * 255, "~" * 255),
    ],
)
async def test_a_key_is_stored_as_it_is_meant(shop, header, stored):
    response = await shop.send(header, idempotency_key=stored)
    assert response.status_code == 202, response.text
    assert await shop.rest.rows("SELECT key FROM store.idempotency_keys") == [(stored,)]


# -- another process ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _process(dsn, headers):
    """The API as its own process, and a client to it."""
    port = free_port()
    environment = {
        **os.environ,
        "LANDED_DATABASE_URL": dsn,
        "LANDED_API__PORT": str(port),
        "LANDED_PROVIDERS": json.dumps(MAIL_SETTINGS["providers"]),
        "LANDED_ROUTES": json.dumps(MAIL_SETTINGS["routes"]),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "app.api.server", env=environment)
    try:
        authorization = {"Authorization": headers["Authorization"]}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=authorization, timeout=30) as client:
            await _until_alive(client, process)
            yield client
    finally:
        process.terminate()
        assert await process.wait() in (0, -15)


async def _until_alive(client, process):
    async with asyncio.timeout(60):
        while True:
            assert process.returncode is None
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/health/live")).status_code == 200:
                    return
            await asyncio.sleep(0.05)
