"""Mailgun's own Python client and our adapter, side by side, against one server that notes what it gets."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from mailgun.client import Client
from mailgun.security import SecurityGuard
from pytest_httpserver import HTTPServer
from werkzeug import Request

from app.errors import WebhookRefused
from app.providers.base import AttemptRef, ProviderRequest
from app.providers.mailgun import Mailgun, MailgunAccount
from tests.messages import CONTEXT, email_message, posted

DOMAIN = "mg.example.com"
KEY = "key-0123456789abcdef0123456789abcdef"
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
MESSAGE = email_message(
    delivery_id=UUID("01920000-0000-7000-8000-00000000002a"),
    attempt_no=1,
    tenant="acme",
    category="order_shipped",
    to="zoe@example.com",
    sender="Acme & Söhne <shop@mg.example.com>",
    subject="Ihre Bestellung: 50% + Versand",
    html="<p>größer & besser</p>",
    text="größer & besser",
    headers={"List-Unsubscribe": "<https://a.example/u?x=1&y=2>"},
    tags=("spring",),
    test_mode=True,
)
REFERENCE = f"{MESSAGE.reference}@{DOMAIN}"
FIELDS = {
    "from": MESSAGE.sender,
    "to": MESSAGE.to,
    "subject": MESSAGE.subject,
    "text": MESSAGE.text,
    "html": MESSAGE.html,
    "h:Message-Id": f"<{REFERENCE}>",
    "h:List-Unsubscribe": "<https://a.example/u?x=1&y=2>",
    "v:landed_delivery": str(MESSAGE.delivery_id),
    "v:landed_attempt": "1",
    "o:tag": ["order_shipped", "spring"],
    "o:tracking": "no",
    "o:tracking-opens": "no",
    "o:tracking-clicks": "no",
    "o:suppress-headers": "X-Mailgun-Variables",
    "o:testmode": "yes",
}


@pytest.fixture
def server():
    with HTTPServer() as server:
        server.expect_request(f"/v3/{DOMAIN}/messages").respond_with_json({"id": "<x@y>", "message": "Queued"})
        server.expect_request(f"/v3/{DOMAIN}/events").respond_with_json({"items": [], "paging": {}})
        yield server


@pytest.fixture
def theirs(server):
    with Client(auth=("api", KEY), api_url=server.url_for("").rstrip("/")) as client:
        yield client


@pytest.fixture
def ours(server):
    return Mailgun(MailgunAccount(DOMAIN, KEY, "signing-key", base_url=server.url_for("").rstrip("/")))


def last(server: HTTPServer) -> Request:
    return server.log[-1][0]


def post(request: ProviderRequest) -> None:
    httpx.request(request.method, request.url, headers=dict(request.headers), content=request.body).raise_for_status()


def shape(request: Request):
    return (
        request.method,
        request.path,
        request.headers["Authorization"],
        request.headers.get("Content-Type"),
        sorted(request.form.items(multi=True)),
        sorted(request.args.items(multi=True)),
    )


def test_a_send_looks_like_the_official_clients(server, theirs, ours):
    assert theirs.messages.create(data=FIELDS, domain=DOMAIN).status_code == 200
    expected = shape(last(server))
    post(ours.build(MESSAGE, CONTEXT))
    assert shape(last(server)) == expected


def test_a_lookup_looks_like_the_official_clients(server, theirs, ours):
    opened = NOW - timedelta(hours=1)
    filters = {
        "message-id": REFERENCE,
        "begin": int(opened.timestamp()) - 300,
        "end": int(NOW.timestamp()),
        "ascending": "yes",
        "limit": 300,
    }
    assert theirs.events.get(domain=DOMAIN, filters=filters).status_code == 200
    expected = shape(last(server))
    post(ours.build_lookup(AttemptRef(MESSAGE.delivery_id, 1, opened, MESSAGE.to, None), NOW))
    assert shape(last(server)) == expected


@pytest.mark.parametrize("key", ["signing-key", "another key"])
def test_signatures_are_judged_as_the_official_client_judges_them(ours, key):
    now = datetime.now(UTC)  # the official client has a clock of its own
    timestamp, token = str(int(now.timestamp())), "a" * 50
    mac = hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()
    signed = {"timestamp": timestamp, "token": token, "signature": mac}
    try:
        ours.verify(posted(json.dumps({"signature": signed, "event-data": {}}).encode()), now)
        believed = True
    except WebhookRefused:
        believed = False
    assert believed == SecurityGuard.verify_webhook("signing-key", token, timestamp, mac) == (key == "signing-key")
