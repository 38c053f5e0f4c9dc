"""Standard Webhooks and chat against the provider sandbox: two readings of each protocol must agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from app.domain.models import Outcome, OutcomeKind
from app.providers.base import EndpointMessage, Provider
from app.providers.chat import Chat, ChatAccount
from app.providers.guarded import GuardedTransport
from app.providers.standard_webhooks import StandardWebhooks, StandardWebhooksAccount, new_secret, public_key
from app.providers.transport import TransportError, classify_transport_error
from app.settings import Endpoints
from tests.messages import CONTEXT, endpoint_message
from tests.sandbox_process import SandboxProcess

ACCEPTED, TRANSIENT, UNKNOWN = OutcomeKind.ACCEPTED, OutcomeKind.TRANSIENT, OutcomeKind.UNKNOWN
INVALID, REJECTED, LIMITED = OutcomeKind.RECIPIENT_INVALID, OutcomeKind.REJECTED, OutcomeKind.RATE_LIMITED
ROOMS = ("slack", "discord", "teams")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    ledger: Path = tmp_path_factory.mktemp("sandbox") / "ledger.jsonl"
    with SandboxProcess(ledger, hold_seconds=1) as process:
        yield process


@pytest.fixture
async def transport() -> AsyncIterator[GuardedTransport]:
    async with GuardedTransport(connections_max=10, endpoints=Endpoints(allow_loopback=True)) as transport:
        yield transport


async def send(transport: GuardedTransport, adapter: Provider[EndpointMessage], message: EndpointMessage) -> Outcome:
    now = datetime.now(UTC)
    try:
        request = adapter.build(message, replace(CONTEXT, now=now))
        response = await transport.send(request, asyncio.get_running_loop().time() + 30)
    except TransportError as error:
        return classify_transport_error(error)
    return adapter.interpret(response, datetime.now(UTC))


WEBHOOKS = StandardWebhooks(StandardWebhooksAccount())
CHAT = Chat(ChatAccount())


async def event(sandbox: SandboxProcess, script: str = "ok", *keys: str) -> EndpointMessage:
    """An event to a merchant of its own, who knows one of the secrets that sign it."""
    secrets = keys or (new_secret("hmac-sha256"),)
    name = f"shop-{uuid4().hex[:12]}"
    async with httpx.AsyncClient(base_url=sandbox.url) as control:
        known = public_key(secrets[-1]) or secrets[-1]
        told = await control.put(f"/sandbox/merchant/{name}", json={"secret": known})
    assert told.status_code == 204
    return endpoint_message(
        delivery_id=uuid4(), url=f"{sandbox.url}/merchant/{script}/{name}", secrets=secrets, event_id=str(uuid4())
    )


def room(sandbox: SandboxProcess, kind: str, script: str = "ok") -> EndpointMessage:
    unique = uuid4().hex
    path = {
        "slack": f"/slack/services/T1/{unique}/{script}",
        "discord": f"/discord/api/webhooks/{unique}/{script}",
        "teams": f"/teams/workflows/{script}/{unique}",
    }[kind]
    words = {"title": "Order shipped", "text": "A-1 <is> on its way & more"}
    return endpoint_message(delivery_id=uuid4(), url=sandbox.url + path, format=kind, secrets=(), **words)


ANSWERS = [
    ("ok", ACCEPTED),
    ("slow", ACCEPTED),
    ("failing", TRANSIENT),
    ("outage", TRANSIENT),
    ("rate-limited", LIMITED),
    ("error-after-accept", TRANSIENT),
    ("gone", INVALID),
    ("not-found", TRANSIENT),
    ("forbidden", TRANSIENT),
    ("content-refused", TRANSIENT),
    ("redirect", TRANSIENT),
    ("timeout-after-accept", UNKNOWN),
    ("reset-after-accept", UNKNOWN),
    ("hang", UNKNOWN),
]


@pytest.mark.parametrize(("script", "kind"), ANSWERS)
async def test_every_answer_of_a_merchant_is_read_as_it_was_meant(sandbox, transport, script, kind):
    message = await event(sandbox, script)
    outcome = await send(transport, WEBHOOKS, message)
    assert outcome.kind is kind
    assert (outcome.retry_after_seconds is not None) is (script == "rate-limited")
    received = {"ok", "slow", "error-after-accept", "timeout-after-accept", "reset-after-accept"}
    assert len(sandbox.ledger(kind="accepted", message_id=message.event_id)) == (script in received)


@pytest.mark.parametrize("script", ["failing", "timeout-after-accept", "reset-after-accept", "error-after-accept"])
async def test_a_merchant_has_an_event_once_however_often_it_is_sent(sandbox, transport, script):
    message = await event(sandbox, script)
    for attempt_no in range(1, 5):
        outcome = await send(transport, WEBHOOKS, replace(message, attempt_no=attempt_no))
    assert outcome.kind is ACCEPTED
    [entry] = sandbox.ledger(kind="accepted", message_id=message.event_id)
    assert entry["landed_delivery"] == message.event_id
    assert sandbox.summary()["duplicates"] == {}


async def test_a_merchant_believes_both_secrets_of_a_rotation_and_a_public_key(sandbox, transport):
    for keys in (
        (new_secret("hmac-sha256"), new_secret("hmac-sha256")),
        (new_secret("hmac-sha256"), new_secret("ed25519")),
        (new_secret("ed25519"),),
    ):
        assert (await send(transport, WEBHOOKS, await event(sandbox, "ok", *keys))).kind is ACCEPTED


async def test_a_merchant_refuses_another_senders_secret(sandbox, transport):
    message = replace(await event(sandbox), secrets=(new_secret("hmac-sha256"),))
    outcome = await send(transport, WEBHOOKS, message)
    assert (outcome.kind, outcome.status_code) == (TRANSIENT, 401)
    assert not sandbox.ledger(kind="accepted", message_id=message.event_id)


async def test_an_answer_without_end_is_not_read_to_the_end(sandbox, transport):
    outcome = await send(transport, WEBHOOKS, await event(sandbox, "huge-answer"))
    assert outcome.kind in (ACCEPTED, UNKNOWN)


async def test_nobody_follows_a_redirect(sandbox, transport):
    await send(transport, WEBHOOKS, await event(sandbox, "redirect"))
    assert not sandbox.ledger(kind="accepted", recipient="ok/redirected")


ROOM_ANSWERS = [
    ("ok", ACCEPTED),
    ("slow", ACCEPTED),
    ("failing", UNKNOWN),
    ("outage", UNKNOWN),
    ("rate-limited", LIMITED),
    ("error-after-accept", UNKNOWN),
    ("gone", INVALID),
    ("not-found", INVALID),
    ("forbidden", INVALID),
    ("content-refused", REJECTED),
    ("redirect", REJECTED),
    ("timeout-after-accept", UNKNOWN),
    ("reset-after-accept", UNKNOWN),
    ("hang", UNKNOWN),
]


@pytest.mark.parametrize("kind", ROOMS)
@pytest.mark.parametrize(("script", "outcome"), ROOM_ANSWERS)
async def test_every_answer_of_a_room_is_read_as_it_was_meant(sandbox, transport, kind, script, outcome):
    told = await send(transport, CHAT, room(sandbox, kind, script))
    assert told.kind is outcome
    assert (told.retry_after_seconds is not None) is (script == "rate-limited")
    assert told.doubtful is (script == "forbidden")


@pytest.mark.parametrize("kind", ROOMS)
async def test_what_is_said_arrives_in_the_room(sandbox, transport, kind):
    message = room(sandbox, kind)
    told = await send(transport, CHAT, message)
    [mine] = [e for e in sandbox.ledger(kind="accepted", provider=kind) if e["recipient"] in message.url]
    assert told.provider_message_id == (mine["message_id"] if kind == "discord" else None)
    assert "Order shipped" in mine["data"]["subject"]
