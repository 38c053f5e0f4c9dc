"""What browsers fetch from us: the worker, and the key that a page subscribes with."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.rest import running_api

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
POINT = KEY.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
BROWSERS = {"adapter": "web-push", "private_key": PEM, "subject": "mailto:ops@example.com"}


async def test_a_page_is_told_the_key_that_pushes_are_signed_with(dsn, tmp_path):
    async with running_api(dsn, tmp_path, providers={"browsers": BROWSERS}, routes={"push.web": ("browsers",)}) as rest:
        answer = await (await rest.anyone({})).get("/push/vapid-public-key")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert base64.urlsafe_b64decode(answer.text + "=") == POINT


async def test_where_no_push_goes_to_browsers_there_is_no_key(dsn, tmp_path):
    async with running_api(dsn, tmp_path) as rest:
        answer = await (await rest.anyone({})).get("/push/vapid-public-key")
    assert answer.status_code == 404
    assert "routes.push.web" in answer.json()["detail"]


@pytest.mark.parametrize("script", ["landed-sw.js", "landed-push.js"])
async def test_a_script_is_asked_for_anew_and_not_sent_anew(dsn, tmp_path, script):
    async with running_api(dsn, tmp_path) as rest:
        client = await rest.anyone({})
        first = await client.get(f"/push/{script}")
        again = await client.get(f"/push/{script}", headers={"If-None-Match": first.headers["etag"]})
    assert first.headers["service-worker-allowed"] == "/"
    assert (again.status_code, again.content) == (304, b"")
