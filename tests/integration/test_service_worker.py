"""What browsers fetch from us: the worker, and the key that a page subscribes with."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.rest import running_api, wrong_fields


def account(key):
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return {"adapter": "web-push", "private_key": pem, "subject": "mailto:ops@example.com"}


def point(key):
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


KEY, ACMES = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
BROWSERS = account(KEY)


async def test_a_page_is_told_the_key_that_pushes_are_signed_with(dsn, tmp_path):
    async with running_api(dsn, tmp_path, providers={"browsers": BROWSERS}, routes={"push.web": ("browsers",)}) as rest:
        answer = await (await rest.anyone({})).get("/push/vapid-public-key")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert base64.urlsafe_b64decode(answer.text + "=") == point(KEY)


async def test_where_no_push_goes_to_browsers_there_is_no_key(dsn, tmp_path):
    async with running_api(dsn, tmp_path) as rest:
        answer = await (await rest.anyone({})).get("/push/vapid-public-key")
    assert answer.status_code == 404
    assert "routes.push.web" in answer.json()["detail"]


@pytest.mark.parametrize("order", [("push.web", "push.web@acme"), ("push.web@acme", "push.web")], ids=" ".join)
async def test_a_tenants_own_key_is_told_to_whoever_asks_for_the_tenants(dsn, tmp_path, order):
    leads_to = {"push.web": ("browsers",), "push.web@acme": ("acmes",)}
    async with running_api(
        dsn,
        tmp_path,
        providers={"acmes": account(ACMES), "browsers": BROWSERS},
        routes={route: leads_to[route] for route in order},
    ) as rest:
        told = {}
        for query in ("", "?tenant=acme", "?tenant=other", "?tenant="):
            answer = await (await rest.anyone({})).get(f"/push/vapid-public-key{query}")
            told[query] = base64.urlsafe_b64decode(answer.text + "=")
    assert told == {"": point(KEY), "?tenant=acme": point(ACMES), "?tenant=other": point(KEY), "?tenant=": point(KEY)}


async def test_one_tenants_key_is_nobody_elses(dsn, tmp_path):
    async with running_api(
        dsn, tmp_path, providers={"acmes": account(ACMES)}, routes={"push.web@acme": ("acmes",)}
    ) as rest:
        client = await rest.anyone({})
        own, others = [await client.get(f"/push/vapid-public-key{query}") for query in ("?tenant=acme", "")]
        misspelt = await client.get("/push/vapid-public-key?tennant=acme")
    assert (own.status_code, others.status_code) == (200, 404)
    assert "tennant" in wrong_fields(misspelt)


@pytest.mark.parametrize("script", ["landed-sw.js", "landed-push.js"])
async def test_a_script_is_asked_for_anew_and_not_sent_anew(dsn, tmp_path, script):
    async with running_api(dsn, tmp_path) as rest:
        client = await rest.anyone({})
        first = await client.get(f"/push/{script}")
        again = await client.get(f"/push/{script}", headers={"If-None-Match": first.headers["etag"]})
    assert first.headers["service-worker-allowed"] == "/"
    assert (again.status_code, again.content) == (304, b"")
