"""dispatch on every channel: from an accepted notification to what the provider was told and what the row then says.

Providers are HTTP servers on loopback that answer what the test says; everything else is the real thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pytest_httpserver import HTTPServer
from standardwebhooks import Webhook
from werkzeug import Request, Response

from app.db import Database
from app.domain.models import BounceClass, Evidence, EvidenceKind, Outcome, OutcomeKind
from app.domain.tokens import read_receipt
from app.flows.apply import apply
from app.flows.dispatch import Dispatcher
from app.flows.fan_out import fan_out
from app.flows.intake import intake
from app.flows.targets import Settled, settle
from app.providers.accounts import ProviderSet
from app.providers.transport import Transport
from app.providers.transports import open_transport
from app.rendering.pool import RenderPool
from app.settings import Bounces, Settings
from jobs.worker import lanes_of
from tests.factories import make_category, make_notification, make_recipient, make_template, make_tenant
from tests.lanes import make_dispatcher
from tests.looking import rows, until

PATIENCE_SECONDS = 60
PHONE = "+14155550101"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNING_KEY = b"key"
RSA = (
    rsa.generate_private_key(65537, 2048)
    .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    .decode()
)


@pytest.fixture
def settings(httpserver: HTTPServer) -> Settings:
    url = httpserver.url_for("").rstrip("/")
    return Settings(
        api={"public_url": "https://notify.example.com"},
        endpoints={"allow_loopback": True},
        providers={
            "twilio": {
                "adapter": "twilio",
                "account_sid": "AC" + "0" * 32,
                "auth_token": "secret",
                "sender": "+14155550100",
                "base_url": url,
            },
            "fcm": {
                "adapter": "fcm",
                "project_id": "demo",
                "client_email": "landed@demo.iam.gserviceaccount.com",
                "private_key": RSA,
                "private_key_id": "1",
                "token_uri": f"{url}/token",
                "base_url": url,
            },
            "smtp-like": {"adapter": "postmark", "server_token": "t", "webhook_token": "w", "base_url": url},
        },
        routes={"sms": ("twilio",), "push.android": ("fcm",), "email": ("smtp-like",)},
    )


async def the_delivery(seed: psycopg.AsyncConnection) -> dict[str, Any]:
    [row] = await rows(seed, "SELECT * FROM store.deliveries ORDER BY id LIMIT 1")
    return row


@contextlib.asynccontextmanager
async def lane_at_work(db: Database, settings: Settings, name: str) -> AsyncIterator[Dispatcher]:
    """One lane of the worker, as the worker sets it up."""
    [lane] = [lane for lane in lanes_of(settings) if lane.name == name]
    renderer = RenderPool()
    await renderer.start()
    providers = ProviderSet(settings.providers)
    [choice] = lane.choices
    kind = providers.get(choice.provider).capabilities.transport
    try:
        async with (
            Transport() as plain,
            open_transport(kind, connections_max=10, endpoints=settings.endpoints) as transport,
        ):
            dispatcher = make_dispatcher(
                lane,
                db=db,
                settings=settings,
                transport=transport,
                renderer=renderer,
                tokens_by=plain,
                signing_key=SIGNING_KEY,
            )
            running = asyncio.create_task(dispatcher.run())
            try:
                yield dispatcher
            finally:
                dispatcher.stop()
                await running
    finally:
        await renderer.stop()


async def send(
    db: Database,
    seed: psycopg.AsyncConnection,
    settings: Settings,
    channel: str,
    *,
    recipient: Any = None,
    test_mode: bool = False,
    **template: Any,
) -> str:
    """An accepted notification, planned and taken through its lane until nothing is under way. Answers the lane."""
    tenant_id = recipient.tenant_id if recipient else (await make_tenant(seed)).id
    recipient = recipient or await make_recipient(seed, tenant_id=tenant_id, id="ada", phone=PHONE)
    title = "" if channel in ("sms", "webhook") else "Order {{ order_id }}"
    words = {"subject": title, "html": None, "text": "Order {{ order_id }} is on its way"} | template
    made = await make_template(seed, tenant_id=tenant_id, channel=channel, **words)
    category = await make_category(seed, tenant_id=tenant_id, test_mode=test_mode)
    await make_notification(
        seed,
        tenant_id=tenant_id,
        recipient_id=recipient.id,
        category=category.name,
        template_id=made.template_id,
        channels=[channel],
    )
    _, lanes = await intake(db, settings, klass="transactional", limit=10)
    for lane in lanes:
        await run(db, seed, settings, lane)
    return next(iter(lanes), "")


async def run(db: Database, seed: psycopg.AsyncConnection, settings: Settings, lane: str) -> None:
    async def idle() -> bool:
        due = "state = 'sending' OR (state = 'queued' AND due_at <= now())"
        return not await rows(seed, f"SELECT FROM store.deliveries WHERE lane = %s AND ({due})", lane)

    async with lane_at_work(db, settings, lane):
        await until(idle)
    while await apply(db, settings, limit=100):
        pass


def answer(httpserver: HTTPServer, path: str, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    httpserver.expect_request(path, method="POST").respond_with_data(
        body if isinstance(body, str) else json.dumps(body), status, headers, content_type="application/json"
    )


MESSAGES = f"/2010-04-01/Accounts/AC{'0' * 32}/Messages.json"


async def test_a_text_goes_out_with_our_reference_in_its_callback_and_its_segments_on_record(
    db, seed, settings, httpserver
):
    answer(httpserver, MESSAGES, 201, {"sid": "SM" + "1" * 32, "status": "queued"})
    await send(db, seed, settings, "sms", text="Größe: " + "x" * 160)
    delivery = await the_delivery(seed)
    assert (delivery["state"], delivery["provider_message_id"]) == ("sent", "SM" + "1" * 32)
    [(request, _)] = httpserver.log
    form = parse_qs(request.get_data(as_text=True))
    assert form["To"] == [PHONE]
    assert f"mid={delivery['id']}.1" in form["StatusCallback"][0]
    assert form["StatusCallback"][0].startswith("https://notify.example.com/api/v1/webhooks/twilio?")
    [attempt] = await rows(seed, "SELECT facts FROM store.attempts")
    assert attempt["facts"] == {"encoding": "gsm7", "units": 167, "segments": 2}


@pytest.mark.parametrize(("said_start", "suppressed"), [(None, True), ("-1 hour", True), ("1 minute", False)])
async def test_a_number_that_said_stop_to_the_provider_is_suppressed_as_such(
    db, seed, settings, httpserver, said_start, suppressed
):
    """Unless its owner said START after the call: the answer speaks of the time before."""
    if said_start is not None:
        await seed.execute(
            "INSERT INTO store.consents (channel, address, action, source, occurred_at) "
            "VALUES ('sms', %s, 'opt_in', 'recipient', now() + %s::interval)",
            (PHONE, said_start),
        )
    answer(httpserver, MESSAGES, 400, {"code": 21610, "message": "unsubscribed", "status": 400})
    await send(db, seed, settings, "sms")
    delivery = await the_delivery(seed)
    assert (delivery["state"], delivery["reason"]) == ("failed", "opted_out")
    found = await rows(seed, "SELECT channel, address, reason FROM store.suppressions")
    assert [tuple(row.values()) for row in found] == [("sms", PHONE, "opted_out")] * suppressed


@pytest.mark.parametrize("channel", ["sms", "in_app"])
async def test_what_is_only_a_test_is_never_delivered_in_earnest(db, seed, settings, httpserver, channel):
    await send(db, seed, settings, channel, test_mode=True)
    delivery = await the_delivery(seed)
    assert (delivery["state"], delivery["reason"]) == ("dead", "test_mode")
    assert httpserver.log == []
    assert await rows(seed, "SELECT FROM store.inbox_items") == []


# -- push ----------------------------------------------------------------------------------------------------

PUSHES = "/v1/projects/demo/messages:send"


async def with_devices(seed: psycopg.AsyncConnection, *tokens: str) -> Any:
    tenant = await make_tenant(seed)
    recipient = await make_recipient(seed, tenant_id=tenant.id, id="ada")
    for token in tokens:
        await rows(
            seed,
            "INSERT INTO store.devices (tenant_id, recipient_id, platform, token) VALUES (%s, 'ada', 'android', %s) "
            "RETURNING id",
            tenant.id,
            token,
        )
    return recipient


async def test_each_device_gets_its_push_with_what_it_needs_to_acknowledge_it(db, seed, settings, httpserver):
    answer(httpserver, "/token", 200, {"access_token": "ya29", "expires_in": 3599, "token_type": "Bearer"})
    answer(httpserver, PUSHES, 200, {"name": "projects/demo/messages/1"})
    recipient = await with_devices(seed, "token-1", "token-2")
    extras = {"url": "https://shop.example.com/{{ order_id }}", "data.order": "{{ order_id }}", "badge": "3"}
    await send(db, seed, settings, "push", recipient=recipient, extras=extras)
    deliveries = await rows(seed, "SELECT id, state, address FROM store.deliveries")
    assert [d["state"] for d in deliveries] == ["sent", "sent"]
    pushes = [json.loads(request.get_data())["message"] for request, _ in httpserver.log if request.path == PUSHES]
    assert {push["token"] for push in pushes} == {"token-1", "token-2"}
    fetched = [request for request, _ in httpserver.log if request.path == "/token"]
    assert len(fetched) == 1  # one access token for both
    for push in pushes:
        data = push["data"]
        assert (data["order"], data["url"]) == ("A-1", "https://shop.example.com/A-1")
        attempt = read_receipt(SIGNING_KEY, data["landed_receipt_token"])
        assert attempt.delivery_id in {d["id"] for d in deliveries}
        assert data["landed_receipt_url"] == "https://notify.example.com/api/v1/receipts"
    collapse = {push["android"]["collapse_key"] for push in pushes}
    assert len(collapse) == 1  # a copy replaces, on each device


async def test_a_dead_token_is_retired_at_once_and_only_that_one(db, seed, settings, httpserver):
    answer(httpserver, "/token", 200, {"access_token": "ya29", "expires_in": 3599, "token_type": "Bearer"})

    def by_token(request: Request) -> Response:
        if json.loads(request.get_data())["message"]["token"] == "dead":
            error = {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "UNREGISTERED"}
            body = {"error": {"code": 404, "status": "NOT_FOUND", "message": "x", "details": [error]}}
            return Response(json.dumps(body), 404)
        return Response(json.dumps({"name": "projects/demo/messages/1"}), 200)

    httpserver.expect_request(PUSHES).respond_with_handler(by_token)
    recipient = await with_devices(seed, "dead", "alive")
    await send(db, seed, settings, "push", recipient=recipient)
    found = await rows(seed, "SELECT token, retired_at IS NOT NULL AS retired FROM store.devices ORDER BY token")
    assert [tuple(row.values()) for row in found] == [("alive", False), ("dead", True)]
    states = await rows(seed, "SELECT state, count(*) AS n FROM store.deliveries GROUP BY 1 ORDER BY 1")
    assert [tuple(row.values()) for row in states] == [("failed", 1), ("sent", 1)]
    assert await rows(seed, "SELECT FROM store.suppressions") == []


@pytest.mark.parametrize(
    ("status", "general", "code", "breakers"),
    [(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", []), (403, "PERMISSION_DENIED", None, ["open"])],
)
async def test_what_is_wrong_with_one_platforms_credentials_stops_no_other_platform(
    db, seed, settings, httpserver, status, general, code, breakers
):
    answer(httpserver, "/token", 200, {"access_token": "ya29", "expires_in": 3599, "token_type": "Bearer"})
    own = {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}
    error = {"code": status, "status": general, "message": "x", "details": [own] if code else []}
    answer(httpserver, PUSHES, status, {"error": error})
    await send(db, seed, settings, "push", recipient=await with_devices(seed, "token-1"))
    delivery = await the_delivery(seed)
    assert (delivery["state"], delivery["reason"]) == ("queued", "unauthorized")
    states = await rows(seed, "SELECT breaker FROM store.provider_states WHERE breaker <> 'closed'")
    assert [row["breaker"] for row in states] == breakers


async def test_a_device_that_is_gone_when_its_push_is_due_is_a_recorded_end(db, seed, settings, httpserver):
    recipient = await with_devices(seed, "token-1")
    tenant_id = recipient.tenant_id
    made = await make_template(seed, tenant_id=tenant_id, channel="push")
    await make_notification(
        seed, tenant_id=tenant_id, recipient_id="ada", template_id=made.template_id, channels=["push"]
    )
    _, [lane] = await intake(db, settings, klass="transactional", limit=10)
    await seed.execute("UPDATE store.devices SET retired_at = now(), retired_reason = 'signed out'")
    await run(db, seed, settings, lane)
    delivery = await the_delivery(seed)
    assert (delivery["state"], delivery["reason"]) == ("failed", "no_device")
    assert httpserver.log == []


async def test_a_link_that_is_none_is_the_contents_fault(db, seed, settings, httpserver):
    recipient = await with_devices(seed, "token-1")
    await send(db, seed, settings, "push", recipient=recipient, extras={"url": "javascript:alert({{ order_id }})"})
    delivery = await the_delivery(seed)
    assert (delivery["state"], delivery["reason"]) == ("dead", "rejected")
    [attempt] = await rows(seed, "SELECT detail FROM store.attempts")
    assert "extras.url" in attempt["detail"]


# -- the inbox -----------------------------------------------------------------------------------------------


async def test_an_item_is_in_the_inbox_once_whatever_becomes_of_its_record(db, seed, settings):
    await send(db, seed, settings, "in_app", extras={"url": "https://shop.example.com/{{ order_id }}"})
    delivery = await the_delivery(seed)
    assert delivery["state"] == "sent"
    # As if the worker had vanished before it recorded: the attempt is shown not to have been made, and made again.
    await seed.execute(
        "UPDATE store.deliveries SET state = 'queued', sent_at = NULL, due_at = now(), ended_at = NULL WHERE true"
    )
    await seed.execute("UPDATE store.attempts SET state = 'not_sent'")
    await run(db, seed, settings, delivery["lane"])
    items = await rows(seed, "SELECT id, title, body, data FROM store.inbox_items")
    assert [tuple(item.values()) for item in items] == [
        (delivery["id"], "Order A-1", "Order A-1 is on its way", {"url": "https://shop.example.com/A-1"})
    ]
    [counts] = await rows(seed, "SELECT unread, unseen FROM store.inboxes")
    assert (counts["unread"], counts["unseen"]) == (1, 1)


# -- endpoints -----------------------------------------------------------------------------------------------


async def with_endpoint(seed: psycopg.AsyncConnection, url: str, **columns: Any) -> Any:
    tenant = await make_tenant(seed)
    [endpoint] = await rows(
        seed,
        "INSERT INTO store.endpoints (tenant_id, name, url, secret, events) VALUES (%s, 'shop', %s, %s, %s) "
        "RETURNING id",
        tenant.id,
        url,
        SECRET,
        columns.get("events", []),
    )
    return await make_recipient(seed, tenant_id=tenant.id, id="ada", addresses={"webhook": str(endpoint["id"])})


async def test_a_merchants_2xx_is_the_proof_and_the_signature_is_theirs_to_check(db, seed, settings, httpserver):
    answer(httpserver, "/hooks", 204, "")
    recipient = await with_endpoint(seed, httpserver.url_for("/hooks"))
    await send(db, seed, settings, "webhook", recipient=recipient)
    delivery = await the_delivery(seed)
    assert (delivery["state"], delivery["reason"]) == ("delivered", "confirmed")
    [(request, _)] = httpserver.log
    payload = Webhook(SECRET).verify(request.get_data(as_text=True), dict(request.headers))
    assert request.headers["webhook-id"] == str(delivery["id"])
    assert payload["data"]["variables"] == {"order_id": "A-1"}
    assert payload["data"]["notification_id"] == str(delivery["notification_id"])


async def test_an_answer_that_never_came_is_asked_for_again_under_the_same_id(db, seed, settings, httpserver):
    impatient = settings.model_copy(
        update={"endpoints": settings.endpoints.model_copy(update={"ladder": (0.01, 0.01, 0.01)})}
    )
    ids = []

    def fail_once(request: Request) -> Response:
        ids.append(request.headers["webhook-id"])
        return Response("", 500 if len(ids) == 1 else 200)

    httpserver.expect_request("/hooks").respond_with_handler(fail_once)
    recipient = await with_endpoint(seed, httpserver.url_for("/hooks"))
    lane = await send(db, seed, impatient, "webhook", recipient=recipient)
    await run(db, seed, impatient, lane)
    await until(lambda: _delivered(db, seed, impatient, lane))
    assert len(ids) == 2
    assert len(set(ids)) == 1


async def test_what_a_merchant_may_have_taken_is_not_said_to_have_failed(db, seed, settings):
    """Read to its end and left without an answer: it goes out again, and cancelling says what may have arrived."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        recipient = await with_endpoint(seed, f"http://127.0.0.1:{port}/hooks")
        await send(db, seed, settings, "webhook", recipient=recipient)
    delivery = await the_delivery(seed)
    assert (delivery["state"], delivery["reason"], delivery["failures"]) == ("queued", "retry", 1)
    [attempt] = await rows(seed, "SELECT state, outcome, closed_at IS NOT NULL AS closed FROM reporting.attempts")
    assert attempt == {"state": "unanswered", "outcome": "transient", "closed": True}
    [cancelled] = await rows(
        seed, "SELECT * FROM landed.cancel(notification_id => %s, reason => 'test')", delivery["notification_id"]
    )
    assert cancelled["cancelled"]
    assert "may have arrived" in cancelled["explanation"]


async def _delivered(db: Database, seed: psycopg.AsyncConnection, settings: Settings, lane: str) -> bool:
    await run(db, seed, settings, lane)
    return (await the_delivery(seed))["state"] == "delivered"


async def test_410_disables_the_endpoint_and_what_waits_for_it_can_be_replayed(db, seed, settings, httpserver):
    answer(httpserver, "/hooks", 410, "")
    recipient = await with_endpoint(seed, httpserver.url_for("/hooks"))
    await send(db, seed, settings, "webhook", recipient=recipient)
    await send(db, seed, settings, "webhook", recipient=recipient)
    found = await rows(seed, "SELECT state, reason FROM store.deliveries ORDER BY id")
    assert [tuple(row.values()) for row in found] == [("failed", "gone"), ("dead", "endpoint_disabled")]
    [endpoint] = await rows(seed, "SELECT status FROM store.endpoints")
    assert endpoint["status"] == "disabled"
    assert len(httpserver.log) == 1


async def test_an_address_of_our_own_network_is_called_by_nobody(db, seed, settings, httpserver):
    answer(httpserver, "/hooks", 200, "")
    recipient = await with_endpoint(seed, httpserver.url_for("/hooks"))
    strict = settings.model_copy(update={"endpoints": settings.endpoints.model_copy(update={"allow_loopback": False})})
    await send(db, seed, strict, "webhook", recipient=recipient)
    delivery = await the_delivery(seed)
    assert (delivery["state"], delivery["reason"]) == ("dead", "forbidden_address")
    assert httpserver.log == []


async def test_what_becomes_of_a_delivery_is_told_to_the_endpoints_that_listen(db, seed, settings, httpserver):
    answer(httpserver, "/hooks", 200, "")
    answer(httpserver, MESSAGES, 400, {"code": 21211, "message": "invalid", "status": 400})
    recipient = await with_endpoint(seed, httpserver.url_for("/hooks"), events=["delivery.failed"])
    await seed.execute("UPDATE store.recipients SET phone = %s", (PHONE,))
    await send(db, seed, settings, "sms", recipient=recipient)
    told, [lane] = await fan_out(db, settings, limit=10)
    assert told == 1
    await run(db, seed, settings, lane)
    [request] = [request for request, _ in httpserver.log if request.path == "/hooks"]
    payload = Webhook(SECRET).verify(request.get_data(as_text=True), dict(request.headers))
    assert payload["type"] == "delivery.failed"
    assert (payload["data"]["channel"], payload["data"]["reason"]) == ("sms", "recipient_invalid")
    assert await rows(seed, "SELECT FROM store.status_events") == []


# -- email without tracking of its own -----------------------------------------------------------------------


async def test_what_is_rendered_is_known_by_its_hash_whatever_the_links_lead_through(db, seed, settings, httpserver):
    """Postmark tracks by itself; nothing of ours is added to what it is given."""
    answer(httpserver, "/email", 200, {"To": "x", "MessageID": str(uuid4()), "ErrorCode": 0, "Message": "OK"})
    tenant = await make_tenant(seed)
    recipient = await make_recipient(seed, tenant_id=tenant.id, id="ada")
    await make_category(seed, tenant_id=tenant.id, name="tracked", track_opens=True, track_clicks=True)
    html = '<p><a href="https://shop.example.com/">Order {{ order_id }}</a></p>'
    await send(db, seed, settings, "email", recipient=recipient, html=html)
    [(request, _)] = httpserver.log
    assert json.loads(request.get_data())["HtmlBody"] == html.replace("{{ order_id }}", "A-1")


async def test_a_mailbox_that_stays_full_is_counted_although_nothing_was_accepted(db, seed, settings):
    """A relay's 552 at RCPT is the receiving server's own word, told in the answer itself."""
    full = Evidence(EvidenceKind.BOUNCED, "k", datetime.now(UTC), bounce_class=BounceClass.SOFT)
    outcome = Outcome(OutcomeKind.REJECTED, "552 5.2.2 mailbox full", 552, reason="mailbox_full", evidence=(full,))
    tenant = await make_tenant(seed)
    claimed = SimpleNamespace(tenant_id=tenant.id, channel="email", address="ada@example.com", id=uuid4())
    eager = settings.model_copy(update={"bounces": Bounces(soft_bounces_max=3, soft_bounce_days_min=0)})
    for times in range(1, 4):
        async with db.transaction() as conn:
            await settle(conn, "email", [Settled(claimed, outcome, None)], settings=eager)
        [counted] = await rows(seed, "SELECT bounces FROM store.soft_bounces")
        assert counted["bounces"] == times
    found = await rows(seed, "SELECT address, reason FROM store.suppressions")
    assert [tuple(row.values()) for row in found] == [("ada@example.com", "soft_bounces")]


@pytest.mark.parametrize(("status", "reason", "failures"), [(503, "retry", 1), (429, "rate_limited", 0)])
async def test_an_endpoint_that_fails_is_tried_one_at_a_time_and_holds_up_nobody(
    db, seed, settings, httpserver, status, reason, failures
):
    """One that is busy does not fail: to wait for it costs no retries (R-092)."""
    calls = []

    def by_path(request: Request) -> Response:
        calls.append(request.path)
        return Response("", status if request.path == "/down" else 200)

    httpserver.expect_request("/down").respond_with_handler(by_path)
    httpserver.expect_request("/up").respond_with_handler(by_path)
    down = await with_endpoint(seed, httpserver.url_for("/down"))
    await seed.execute("UPDATE store.endpoints SET failing_since = now() - interval '1 minute'")
    up = await with_endpoint(seed, httpserver.url_for("/up"))
    for recipient in (down, down, down, up, up):
        template = await make_template(seed, tenant_id=recipient.tenant_id, channel="webhook", subject="", html=None)
        await make_notification(
            seed,
            tenant_id=recipient.tenant_id,
            recipient_id="ada",
            template_id=template.template_id,
            channels=["webhook"],
        )
    _, [lane] = await intake(db, settings, klass="transactional", limit=10)
    await run(db, seed, settings, lane)
    assert sorted(calls) == ["/down", "/up", "/up"]
    waiting = await rows(
        seed, "SELECT reason, failures, attempt_no FROM store.deliveries WHERE state = 'queued' ORDER BY attempt_no"
    )
    assert [tuple(row.values()) for row in waiting] == [
        ("endpoint_failing", 0, 0),
        ("endpoint_failing", 0, 0),
        (reason, failures, 1),
    ]
    [paused] = await rows(
        seed, "SELECT paused_until > now() AS is_paused FROM store.endpoints WHERE failing_since IS NOT NULL"
    )
    assert paused["is_paused"]
