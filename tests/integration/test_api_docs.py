"""The documentation the API serves of itself, and whether it is fit to serve."""

from __future__ import annotations

import re

import pytest

from tests.shop import SEND, running_shop


@pytest.fixture
async def shop(dsn, tmp_path):
    async with running_shop(dsn, tmp_path) as shop:
        yield shop


async def test_the_page_names_every_operation_and_asks_nobody_else(shop):
    page = await shop.client.get("/docs")
    assert page.status_code == 200
    document = (await shop.client.get("/docs/openapi.json")).json()
    for path in document["paths"]:
        assert path in page.text
    assert "<script" not in page.text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page.text)
    assert "recipient_id" in page.text
    assert "Idempotency-Key" in page.text


async def test_the_document_says_what_a_request_must_be(shop):
    document = (await shop.client.get("/docs/openapi.json")).json()
    assert document["info"]["title"] == "Landed"
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    operation = document["paths"][SEND]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert {"recipient_id", "category", "template_id"} == set(schema["required"])
    assert schema["additionalProperties"] is False
    assert "#/$defs" not in str(document)


async def test_a_live_and_ready_process_says_so_to_anyone(shop):
    stranger = await shop.rest.anyone()
    assert (await stranger.get("/health/live")).json() == {"status": "ok"}
    ready = await stranger.get("/health/ready")
    assert (ready.status_code, ready.json()["checks"]) == (
        200,
        {"database": "ok", "migrations": "ok", "accept_queue": "ok"},
    )


async def test_a_database_that_was_not_migrated_is_not_ready(shop):
    await shop.rest.conn.execute("COMMENT ON SCHEMA landed IS 'built from something else'")
    response = await shop.client.get("/health/ready")
    assert response.status_code == 503
    assert response.json()["checks"]["migrations"] == "pending: interfaces"
