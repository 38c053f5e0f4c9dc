"""Bad input and faults: each its documented status, a problem that names the field, nothing stored,
nothing leaked.
"""

from __future__ import annotations

import json

import psycopg
import pytest
from psycopg import conninfo, sql

from tests.rest import wrong_fields
from tests.shop import SEND, running_shop

JSON = {"Content-Type": "application/json", "Idempotency-Key": "k"}


@pytest.fixture
async def shop(dsn, tmp_path):
    async with running_shop(dsn, tmp_path) as shop:
        yield shop


def text(changes: str) -> bytes:
    """A request that is accepted but for what is written into it."""
    return (
        '{"recipient_id": "ada", "category": "orders", "template_id": "order_confirmation", '
        '"variables": {"order_id": "A"}' + changes + "}"
    ).encode()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "EOF"),
        (b"{", 400, "EOF"),
        (b"nonsense", 400, "expected"),
        (b"\xff\xfe", 400, "expected"),
        (b'{"recipient_id": "\xff"}', 400, "unicode"),
        (text("")[:-1], 400, "EOF"),
        (text(', "variables": ' + "[" * 5000 + "]" * 5000), 400, "recursion"),
        (text(', "variables": {"order_id": ' + "9" * 5000 + "}"), 400, "out of range"),
        (b"[]", 422, "body: should be an object"),
        (b"null", 422, "body: should be an object"),
        (b"{}", 422, "recipient_id: is required"),
        (text(', "recipient_id": 7'), 422, "recipient_id: should be a valid string"),
        (text(', "recipient_id": ""'), 422, "recipient_id: "),
        (text(', "recipient_id": "%s"' % ("a" * 201)), 422, "recipient_id: "),
        (text(', "recipient_id": "ada\\r\\nBcc: x"'), 422, "recipient_id: must not contain control"),
        (text(', "recipient_id": "ada\\u0000"'), 422, "recipient_id: must not contain control"),
        (text(', "category": "orders\\n"'), 422, "category: must not contain control"),
        (text(', "template_id": "x\\r"'), 422, "template_id: must not contain control"),
        (text(', "template_version": "1"'), 422, "template_version: should be a valid integer"),
        (text(', "template_version": 0'), 422, "template_version: "),
        (text(', "template_version": true'), 422, "template_version: "),
        (text(', "channel": "pigeon"'), 422, "channel: should be 'email'"),
        (text(', "channels": []'), 422, "channels: "),
        (text(', "channels": ["email", "fax"]'), 422, "channels[1]: "),
        (text(', "variables": []'), 422, "variables: "),
        (text(', "variables": {"order_id": "a\\u0000b"}'), 422, "variables.order_id: must not contain NUL"),
        (text(', "variables": {"order_id": {"x": ["\\u0000"]}}'), 422, "variables.order_id.x[0]: "),
        (text(', "variables": {"order_id": "\\ud800"}'), 422, "variables.order_id: must not contain half"),
        (text(', "variables": {"order_id": 1e999}'), 422, "variables.order_id: must be a finite number"),
        (text(', "variables": {"order_id": NaN}'), 422, "variables.order_id: must be a finite number"),
        (text(', "variables": {"order_id": 36893488147419103232}'), 422, "variables.order_id: "),
        (text(', "variables": {"order_id": "A", "x\\u0000": 1}'), 422, "must not contain NUL"),
        (text(', "send_at": "tomorrow"'), 422, "send_at: should be a time with its offset"),
        (text(', "send_at": "2026-01-01T00:00:00"'), 422, "send_at: should be a time with its offset"),
        (text(', "send_at": 1767225600'), 422, "send_at: should be a time with its offset"),
        (text(', "send_at": "2026-02-30T00:00:00Z"'), 422, "send_at: should be a time with its offset"),
        (text(', "send_at": "9999-12-31T23:59:59-23:00"'), 422, "send_at: should be a time with its offset"),
        (
            text(', "to": "ada@example.com"'),
            422,
            "to: is not a field of this request; fields are recipient_id",
        ),
        (text(', "idempotency_key": 7'), 422, "idempotency_key: should be a valid string"),
    ],
)
async def test_bad_input_is_refused_by_name_and_nothing_is_stored(shop, body, status, says):
    response = await shop.client.post(SEND, content=body, headers=JSON)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert says in problem["detail"]
    assert problem["status"] == status
    assert problem["type"].startswith("/problems/")
    assert await shop.counted("notifications") == 0
    assert await shop.counted("idempotency_keys") == 0


async def test_a_body_with_a_million_wrong_fields_gets_a_short_answer(shop):
    body = json.dumps({f"field{number}": number for number in range(10_000)})
    response = await shop.client.post(SEND, content=body, headers=JSON)
    assert len(wrong_fields(response)) == 20
    assert len(response.content) < 10_000


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_anything_but_json_is_415(shop, content_type):
    headers = {"Idempotency-Key": "k"} | ({"Content-Type": content_type} if content_type else {})
    response = await shop.client.post(SEND, content=text(""), headers=headers)
    assert response.status_code == 415
    assert "application/json" in response.json()["detail"]


async def test_json_may_name_its_charset(shop):
    headers = JSON | {"Content-Type": "Application/JSON; charset=utf-8"}
    assert (await shop.client.post(SEND, content=text(""), headers=headers)).status_code == 202


async def test_too_long_is_413_whether_announced_or_found_out(shop):
    limit = shop.rest.app.state.api.settings.api.body_bytes_max
    body = text(', "variables": {"order_id": "%s"}' % ("a" * limit))

    async def in_parts():
        for start in range(0, len(body), 4096):
            yield body[start : start + 4096]

    for content in (body, in_parts()):
        response = await shop.client.post(SEND, content=content, headers=JSON)
        assert response.status_code == 413
        assert response.json()["bytes_max"] == limit
    assert await shop.counted("notifications") == 0


async def test_a_large_body_within_its_limit_is_accepted(shop):
    limit = shop.rest.app.state.api.settings.api.body_bytes_max
    body = text(', "variables": {"order_id": "%s"}' % ("a" * (limit - 200)))
    assert (await shop.client.post(SEND, content=body, headers=JSON)).status_code == 202


async def test_what_the_framework_refuses_is_a_problem_too(shop):
    missing = await shop.client.get("/api/v1/nonsense")
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/not-found")
    method = await shop.client.get(SEND)
    assert (method.status_code, method.json()["type"]) == (405, "/problems/method-not-allowed")
    assert "POST" in method.headers["allow"]
    webhook = await shop.client.post("/api/v1/webhooks/nobody", content=b"{}")
    assert (webhook.status_code, webhook.json()["type"]) == (404, "/problems/not-found")


async def test_a_forged_webhook_is_refused_and_changes_nothing(shop):
    response = await shop.client.post("/api/v1/webhooks/mail", json={"signature": {}, "event-data": {}})
    assert response.status_code in (400, 401, 406)
    assert response.json()["type"] == "/problems/webhook-refused"
    assert await shop.rest.rows("SELECT FROM store.inbound_events") == []


async def test_a_huge_webhook_is_413(shop):
    limit = shop.rest.app.state.api.settings.api.webhook_bytes_max
    response = await shop.client.post("/api/v1/webhooks/mail", content=b"a" * (limit + 1))
    assert response.status_code == 413


@pytest.mark.parametrize("path", ["/api/v1/nonsense", "/docs", "/problems", "/health/live"])
async def test_every_answer_carries_the_security_headers(shop, path):
    headers = (await shop.client.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "default-src 'none'" in headers["content-security-policy"]


async def test_every_type_has_its_page(shop):
    page = await shop.client.get("/problems/idempotency-key-reused")
    assert page.status_code == 200
    assert "The idempotency key was used with another body" in page.text
    assert "idempotency-key-in-use" in (await shop.client.get("/problems")).text
    assert (await shop.client.get("/problems/nonsense")).status_code == 404


# -- faults ------------------------------------------------------------------------------------------------


async def test_an_unexpected_error_tells_its_id_and_nothing_else(shop):
    sent = (await shop.send()).json()["id"]
    await shop.rest.conn.execute("ALTER TABLE store.events RENAME TO elsewhere")
    response = await shop.client.get(f"/api/v1/notifications/{sent}")
    assert response.status_code == 500
    problem = response.json()
    assert problem.pop("instance").startswith("urn:uuid:")
    assert problem == {
        "type": "/problems/internal",
        "title": "Something went wrong",
        "status": 500,
        "detail": "an unexpected error, logged under this instance",
    }


async def test_an_accept_that_the_database_refuses_is_503_and_leaks_nothing(shop):
    await shop.rest.conn.execute("ALTER TABLE store.idempotency_keys RENAME TO elsewhere")
    response = await shop.send()
    assert response.status_code == 503
    assert "elsewhere" not in response.text
    assert "idempotency_keys" not in response.text


async def test_without_a_database_nothing_is_accepted_and_readiness_says_so(shop, dsn):
    assert (await shop.client.get("/health/ready")).status_code == 200
    assert (await shop.send()).status_code == 202
    admin = conninfo.make_conninfo(dsn, dbname="postgres")
    name = conninfo.conninfo_to_dict(dsn)["dbname"]
    async with await psycopg.AsyncConnection.connect(admin, autocommit=True) as conn:
        switch = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        await conn.execute(switch.format(sql.Identifier(name), sql.SQL("false")))
        await conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        down = await shop.send(key="k2")
        ready = await shop.client.get("/health/ready")
        await conn.execute(switch.format(sql.Identifier(name), sql.SQL("true")))
    assert (down.status_code, down.headers["Retry-After"]) == (503, "1")
    assert down.json()["type"] == "/problems/unavailable"
    assert ready.status_code == 503
    assert ready.json()["checks"]["database"] == "unreachable"
    assert (await shop.client.get("/health/live")).status_code == 200
    assert (await shop.send(key="k2")).status_code == 202
