"""The adapter and the transport against the provider sandbox: two readings of one protocol must agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from uuid import uuid4

import pytest

from app.domain.models import EvidenceKind, Outcome, OutcomeKind
from app.providers.base import AttemptRef, EmailMessage, Lookup, LookupVerdict
from app.providers.mailgun import Mailgun, MailgunAccount
from app.providers.transport import Transport, TransportError, classify_transport_error
from tests.messages import CONTEXT, email_message, posted
from tests.sandbox_process import SandboxProcess, wait_until


class Inbox(ThreadingHTTPServer):
    """Takes every webhook, and keeps its body."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), InboxHandler)
        self.thread = Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/webhooks/mailgun"

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class InboxHandler(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
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
    with SandboxProcess(ledger, webhook_url=inbox.url, hold_seconds=1) as process:
        yield process


@pytest.fixture
def mailgun(sandbox: SandboxProcess) -> Mailgun:
    account = MailgunAccount(
        sandbox.domain, sandbox.api_key, sandbox.signing_key, base_url=sandbox.url, lookup_settle_seconds=0
    )
    return Mailgun(account)


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport() as transport:
        yield transport


def message(script: str) -> EmailMessage:
    return email_message(
        delivery_id=uuid4(),
        attempt_no=1,
        tenant="acme",
        category="order_shipped",
        to=f"{script}+{uuid4().hex[:8]}@example.com",
        sender="Acme & Söhne <shop@sandbox.landed.test>",
        subject="Ihre Bestellung: 50%",
        html="<p>größer</p>",
        text="größer",
    )


async def send(transport: Transport, mailgun: Mailgun, what: EmailMessage) -> Outcome:
    try:
        response = await transport.send(mailgun.build(what, CONTEXT), asyncio.get_running_loop().time() + 30)
    except TransportError as error:
        return classify_transport_error(error)
    return mailgun.interpret(response, datetime.now(UTC))


async def look_up(transport: Transport, mailgun: Mailgun, what: EmailMessage) -> Lookup:
    now = datetime.now(UTC)
    attempt = AttemptRef(what.delivery_id, what.attempt_no, now, what.to, None)
    response = await transport.send(mailgun.build_lookup(attempt, now), asyncio.get_running_loop().time() + 30)
    return mailgun.interpret_lookup(attempt, response, datetime.now(UTC))


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
        ("wrong-response", OutcomeKind.UNAUTHORIZED),
        ("invalid-address", OutcomeKind.RECIPIENT_INVALID),
        ("permanent-4xx", OutcomeKind.REJECTED),
    ],
)
async def test_every_answer_is_read_as_it_was_meant(transport, mailgun, script, kind):
    what = message(script)
    outcome = await send(transport, mailgun, what)
    assert outcome.kind is kind
    if kind is OutcomeKind.ACCEPTED:
        assert outcome.provider_message_id == f"{what.reference}@{mailgun.account.domain}"
    if kind is OutcomeKind.RATE_LIMITED:
        assert outcome.retry_after_seconds is not None


async def test_an_accepted_send_without_an_answer_is_found_by_asking(transport, mailgun):
    what = message("timeout-after-accept")
    assert (await send(transport, mailgun, what)).kind is OutcomeKind.UNKNOWN
    found = await look_up(transport, mailgun, what)
    assert found.verdict is LookupVerdict.FOUND
    assert found.evidence[0].kind is EvidenceKind.ACCEPTED
    assert (found.evidence[0].delivery_id, found.evidence[0].attempt_no) == (what.delivery_id, 1)


async def test_what_an_outage_swallowed_is_proven_not_sent(transport, mailgun):
    what = message("outage")
    assert (await send(transport, mailgun, what)).kind is OutcomeKind.UNKNOWN
    assert (await look_up(transport, mailgun, what)).verdict is LookupVerdict.NOT_SENT


async def test_a_webhook_and_a_lookup_tell_the_same_facts(transport, mailgun, inbox):
    what = message("bounce")
    await send(transport, mailgun, what)

    def told() -> list:
        mine = (body for body in list(inbox.bodies) if str(what.delivery_id).encode() in body)
        facts = []
        for body in mine:
            mailgun.verify(posted(body), datetime.now(UTC))
            facts += mailgun.parse(posted(body))
        return facts if {fact.kind for fact in facts} == {EvidenceKind.ACCEPTED, EvidenceKind.BOUNCED} else []

    by_webhook = await asyncio.to_thread(wait_until, told, what="both webhooks")
    by_lookup = (await look_up(transport, mailgun, what)).evidence
    assert {fact.event_key: fact for fact in by_lookup} == {fact.event_key: fact for fact in by_webhook}
    assert {fact.suppress_reason for fact in by_lookup} == {None, "hard_bounce"}
