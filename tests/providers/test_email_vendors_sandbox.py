"""SES, SendGrid and Postmark against the provider sandbox: two readings of each protocol must agree."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.domain.models import Evidence, EvidenceKind, Outcome, OutcomeKind
from app.providers.base import (
    AttemptRef,
    EmailMessage,
    Lookup,
    LookupVerdict,
    Provider,
    ProviderRequest,
    WebhookRequest,
)
from app.providers.postmark import Postmark, PostmarkAccount
from app.providers.sendgrid import SendGrid, SendGridAccount
from app.providers.ses import Ses, SesAccount
from app.providers.transport import Transport, TransportError, classify_transport_error
from tests.messages import CONTEXT, email_message
from tests.sandbox_process import SandboxProcess, wait_until

TOPIC = "arn:aws:sns:eu-west-1:123456789012:landed-events"
VENDORS = ("ses", "sendgrid", "postmark")


class Inbox(ThreadingHTTPServer):
    """Takes every webhook as it comes, and confirms a subscription as the API does."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, WebhookRequest]] = []
        super().__init__(("127.0.0.1", 0), InboxHandler)
        self.thread = Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class InboxHandler(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = WebhookRequest("POST", f"{self.server.url}{self.path}", headers, body, datetime.now(UTC))
        if headers.get("x-amz-sns-message-type") == "SubscriptionConfirmation":
            httpx.get(json.loads(body)["SubscribeURL"], timeout=10).raise_for_status()
        self.server.requests.append((self.path.strip("/").rpartition("/")[2], request))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.stop()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory, inbox: Inbox) -> Iterator[SandboxProcess]:
    ledger: Path = tmp_path_factory.mktemp("sandbox") / "ledger.jsonl"
    with SandboxProcess(ledger, webhook_base_url=inbox.url, hold_seconds=1) as process:
        yield process


@pytest.fixture
def vendors(sandbox: SandboxProcess) -> dict[str, Provider[EmailMessage]]:
    signed = httpx.get(
        f"{sandbox.url}/v3/user/webhooks/event/settings/signed", headers={"Authorization": "Bearer SG.sandbox-api-key"}
    )
    return {
        "ses": Ses(
            SesAccount(
                "eu-west-1",
                "AKIASANDBOXLANDED000",
                "sandbox-secret-access-key",
                (TOPIC,),
                configuration_set="landed",
                insights=True,
                base_url=sandbox.url,
                sns_base_url=sandbox.url,
                trust_any_certificate=True,
            )
        ),
        "sendgrid": SendGrid(
            SendGridAccount(
                "SG.sandbox-api-key",
                signed.raise_for_status().json()["public_key"],
                base_url=sandbox.url,
                lookup_settle_seconds=0,
            )
        ),
        "postmark": Postmark(
            PostmarkAccount(
                "sandbox-server-token",
                webhook_user="landed",
                webhook_password="sandbox-webhook-password",
                base_url=sandbox.url,
                lookup_settle_seconds=0,
            )
        ),
    }


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport() as transport:
        yield transport


def message(script: str) -> EmailMessage:
    return email_message(
        delivery_id=uuid4(),
        attempt_no=1,
        to=f"{script}+{uuid4().hex[:8]}@example.com",
        sender="Acme & Söhne <shop@sandbox.landed.test>",
        subject="Ihre Bestellung: 50%",
        headers={"List-Unsubscribe": "<https://a.example/u?x=1>"},
    )


async def send(transport: Transport, provider: Provider[EmailMessage], what: EmailMessage) -> Outcome:
    request = provider.build(what, replace(CONTEXT, now=datetime.now(UTC)))
    assert isinstance(request, ProviderRequest)
    try:
        response = await transport.send(request, asyncio.get_running_loop().time() + 30)
    except TransportError as error:
        return classify_transport_error(error)
    return provider.interpret(response, datetime.now(UTC))


async def look_up(
    transport: Transport, provider: Provider[EmailMessage], what: EmailMessage, message_id: str | None = None
) -> Lookup:
    attempt = AttemptRef(what.delivery_id, what.attempt_no, datetime.now(UTC), what.to, message_id)
    request: ProviderRequest | None = provider.build_lookup(attempt, datetime.now(UTC))
    evidence: list[Evidence] = []
    while request is not None:
        response = await transport.send(request, asyncio.get_running_loop().time() + 30)
        lookup = provider.interpret_lookup(attempt, response, datetime.now(UTC))
        evidence += lookup.evidence
        request = lookup.next_request
    return replace(lookup, verdict=LookupVerdict.FOUND, evidence=evidence) if evidence else lookup


def told(inbox: Inbox, vendor: str, provider: Provider[EmailMessage], what: EmailMessage) -> list[Evidence]:
    """What the webhooks that came so far say of a message; each is verified."""
    facts: list[Evidence] = []
    for name, request in list(inbox.requests):
        if name == vendor:
            url = provider.key_url(request)
            provider.verify(request, datetime.now(UTC), httpx.get(url).content if url else None)
            facts += [fact for fact in provider.parse(request) if fact.delivery_id == what.delivery_id]
    return facts


async def heard(
    inbox: Inbox, vendor: str, provider: Any, what: EmailMessage, kinds: set[EvidenceKind]
) -> list[Evidence]:
    def complete() -> Sequence[Evidence]:
        facts = told(inbox, vendor, provider, what)
        return facts if kinds <= {fact.kind for fact in facts} else []

    return list(await asyncio.to_thread(wait_until, complete, what=f"{kinds} of {vendor}"))


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("anyone", OutcomeKind.ACCEPTED),
        ("rate-limited", OutcomeKind.RATE_LIMITED),
        ("outage", OutcomeKind.UNKNOWN),
        ("error-after-accept", OutcomeKind.UNKNOWN),
        ("reset-after-accept", OutcomeKind.UNKNOWN),
        ("unauthorized", OutcomeKind.UNAUTHORIZED),
        ("domain-disabled", OutcomeKind.UNAUTHORIZED),
        ("wrong-response", OutcomeKind.UNKNOWN),
        ("invalid-address", OutcomeKind.RECIPIENT_INVALID),
        ("permanent-4xx", OutcomeKind.REJECTED),
    ],
)
@pytest.mark.parametrize("vendor", VENDORS)
async def test_every_answer_is_read_as_it_was_meant(transport, vendors, vendor, script, kind):
    outcome = await send(transport, vendors[vendor], message(script))
    assert outcome.kind is kind
    assert (outcome.provider_message_id is not None) == (kind is OutcomeKind.ACCEPTED)


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_webhook_and_a_lookup_tell_the_same_facts(transport, vendors, vendor, inbox):
    provider, what = vendors[vendor], message("anyone")
    outcome = await send(transport, provider, what)
    by_webhook = await heard(inbox, vendor, provider, what, {EvidenceKind.DELIVERED})
    by_lookup = await look_up(transport, provider, what, outcome.provider_message_id)
    assert by_lookup.verdict is LookupVerdict.FOUND
    keys = {fact.event_key for fact in by_lookup.evidence}
    assert {fact.event_key for fact in by_webhook if fact.kind is EvidenceKind.DELIVERED} <= keys
    assert {(fact.delivery_id, fact.attempt_no) for fact in by_lookup.evidence} == {(what.delivery_id, 1)}
    assert {fact.provider_message_id for fact in by_webhook} == {outcome.provider_message_id}


@pytest.mark.parametrize(
    "vendor", ["ses", "sendgrid"]
)  # Postmark's details only name a bounce; the sandbox has no more
async def test_a_bounce_is_the_same_by_webhook_and_by_lookup(transport, vendors, vendor, inbox):
    provider, what = vendors[vendor], message("bounce")
    outcome = await send(transport, provider, what)
    webhooks = await heard(inbox, vendor, provider, what, {EvidenceKind.BOUNCED})
    lookup = await look_up(transport, provider, what, outcome.provider_message_id)
    by_webhook, by_lookup = (
        [(fact.event_key, fact.bounce_class, fact.suppress_reason) for fact in facts if fact.bounce_class]
        for facts in (webhooks, lookup.evidence)
    )
    assert by_webhook == by_lookup
    assert [suppress for *_, suppress in by_lookup] == ["hard_bounce"]


@pytest.mark.parametrize("vendor", ["sendgrid", "postmark"])
async def test_an_accepted_send_without_an_answer_is_found_by_asking(transport, vendors, vendor):
    provider, what = vendors[vendor], message("timeout-after-accept")
    assert (await send(transport, provider, what)).kind is OutcomeKind.UNKNOWN
    found = await look_up(transport, provider, what)
    assert found.verdict is LookupVerdict.FOUND
    assert {(fact.delivery_id, fact.attempt_no) for fact in found.evidence} == {(what.delivery_id, 1)}


async def test_an_accepted_send_through_ses_without_an_answer_is_settled_by_its_send_event(transport, vendors, inbox):
    provider, what = vendors["ses"], message("timeout-after-accept")
    assert (await send(transport, provider, what)).kind is OutcomeKind.UNKNOWN
    assert (await look_up(transport, provider, what)).verdict is LookupVerdict.TOO_EARLY
    assert await heard(inbox, "ses", provider, what, {EvidenceKind.ACCEPTED})


@pytest.mark.parametrize("vendor", ["sendgrid", "postmark"])
async def test_what_an_outage_swallowed_is_proven_not_sent(transport, vendors, vendor):
    provider, what = vendors[vendor], message("outage")
    assert (await send(transport, provider, what)).kind is OutcomeKind.UNKNOWN
    assert (await look_up(transport, provider, what)).verdict is LookupVerdict.NOT_SENT


@pytest.mark.parametrize(
    ("script", "kind", "suppress"),
    [
        ("complaint", EvidenceKind.COMPLAINED, "complaint"),
        ("unsubscribe", EvidenceKind.UNSUBSCRIBED, "unsubscribe"),
        ("open", EvidenceKind.OPENED, None),
        ("click", EvidenceKind.CLICKED, None),
    ],
)
@pytest.mark.parametrize("vendor", VENDORS)
async def test_what_people_do_is_heard(transport, vendors, vendor, inbox, script, kind, suppress):
    provider, what = vendors[vendor], message(script)
    await send(transport, provider, what)
    facts = await heard(inbox, vendor, provider, what, {kind})
    assert [fact.suppress_reason for fact in facts if fact.kind is kind] == [suppress]
