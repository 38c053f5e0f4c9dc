"""The adapters for SES, SendGrid, Postmark and SMTP against the provider sandbox, over the real transports: two
readings of each protocol must agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.domain.models import BounceClass, Evidence, EvidenceKind, Outcome, OutcomeKind
from app.errors import WebhookRefused
from app.providers.base import AnyProvider, AttemptRef, EmailMessage, Lookup, LookupVerdict, SendContext
from app.providers.postmark import Postmark, PostmarkAccount
from app.providers.sendgrid import SendGrid, SendGridAccount
from app.providers.ses import Ses, SesAccount
from app.providers.smtp import Smtp, SmtpAccount
from app.providers.smtp_transport import SmtpTransport
from app.providers.transport import Transport, TransportError, classify_transport_error
from tests.messages import email_message, posted
from tests.sandbox_process import Hub, Post, SandboxProcess, free_port, wait_until

TOPIC = "arn:aws:sns:eu-west-1:123456789012:landed-events"
SMTP_TOKEN = "sandbox-smtp-webhook-token"
VENDORS = ("ses", "sendgrid", "postmark", "smtp")
SEND_SECONDS = 30


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """Confirms nothing: the adapter is to say how."""
    with Hub(confirms=False) as hub:
        yield hub


@pytest.fixture(scope="module")
def smtp_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory, hub, smtp_port) -> Iterator[SandboxProcess]:
    ledger = tmp_path_factory.mktemp("sandbox") / "ledger.jsonl"
    with SandboxProcess(ledger, webhook_base_url=hub.base_url, smtp_port=smtp_port, hold_seconds=1) as process:
        yield process


@pytest.fixture(scope="module")
def adapters(sandbox: SandboxProcess, smtp_port: int) -> dict[str, AnyProvider]:
    key = httpx.get(
        f"{sandbox.url}/v3/user/webhooks/event/settings/signed", headers={"Authorization": "Bearer SG.sandbox-api-key"}
    ).json()["public_key"]
    return {
        "ses": Ses(
            SesAccount(
                region="eu-west-1",
                access_key_id="AKIASANDBOXLANDED000",
                secret_access_key="sandbox-secret-access-key",
                topic_arns=(TOPIC,),
                configuration_set="landed",
                insights=True,
                base_url=sandbox.url,
                sns_base_url=sandbox.url,
                trust_any_certificate=True,
                send_event_seconds=0,
            )
        ),
        "sendgrid": SendGrid(
            SendGridAccount(
                api_key="SG.sandbox-api-key", webhook_public_key=key, base_url=sandbox.url, lookup_settle_seconds=0
            )
        ),
        "postmark": Postmark(
            PostmarkAccount(
                server_token="sandbox-server-token",
                webhook_user="landed",
                webhook_password="sandbox-webhook-password",
                base_url=sandbox.url,
                lookup_settle_seconds=0,
            )
        ),
        "smtp": Smtp(
            SmtpAccount(
                host="127.0.0.1",
                port=smtp_port,
                bounce_domain="bounces.landed.test",
                webhook_token=SMTP_TOKEN,
                username="landed",
                password="sandbox-smtp-password",
                trust=str(sandbox.ca_path),
            )
        ),
    }


@dataclass(frozen=True)
class Rig:
    """One adapter, what it travels by, and the webhooks that come to its account."""

    adapter: AnyProvider
    http: Transport
    smtp: SmtpTransport
    hub: Hub

    async def call(self, request: Any) -> Any:
        deadline = asyncio.get_running_loop().time() + SEND_SECONDS
        transport = self.smtp if self.adapter.name == "smtp" else self.http
        return await transport.send(request, deadline)

    async def send(self, message: EmailMessage) -> Outcome:
        now = datetime.now(UTC)
        url = f"{self.hub.base_url}/{self.adapter.name}"
        try:
            response = await self.call(self.adapter.build(message, SendContext(now, self.adapter.name, url)))
        except TransportError as error:
            return classify_transport_error(error)
        return self.adapter.interpret(response, datetime.now(UTC))

    async def look_up(self, message: EmailMessage, provider_message_id: str | None = None) -> Lookup:
        """Page by page, as the reconciliation asks: evidence of earlier pages stands, the last verdict counts."""
        now = datetime.now(UTC)
        attempt = AttemptRef(message.delivery_id, message.attempt_no, now, message.to, provider_message_id)
        request, verdict, evidence = self.adapter.build_lookup(attempt, now), LookupVerdict.UNAVAILABLE, []
        while request is not None:
            lookup = self.adapter.interpret_lookup(attempt, await self.call(request), datetime.now(UTC))
            request, verdict = lookup.next_request, lookup.verdict
            evidence += lookup.evidence
        return Lookup(verdict, evidence)

    def posts(self, *about: str) -> list[Post]:
        return self.hub.of(self.adapter.name, *about)

    def read(self, post: Post) -> list[Evidence]:
        """What the adapter makes of a webhook, once it believes it."""
        now = datetime.now(UTC)
        request = posted(post.body, post.headers, url=f"{self.hub.base_url}/{self.adapter.name}", received_at=now)
        key_url = self.adapter.key_url(request)
        key = httpx.get(key_url).content if key_url else None
        self.adapter.verify(request, now, key)
        return list(self.adapter.parse(request))

    async def told(self, message: EmailMessage, kinds: set[EvidenceKind]) -> list[Evidence]:
        """Everything the webhooks say about a message, once they have said all of these kinds."""

        def facts() -> list[Evidence]:
            found = [fact for post in self.posts(str(message.delivery_id)) for fact in self.read(post)]
            mine = [fact for fact in found if fact.delivery_id == message.delivery_id]
            return mine if kinds <= {fact.kind for fact in mine} else []

        found: list[Evidence] = await asyncio.to_thread(wait_until, facts, what=f"{kinds} of {self.adapter.name}")
        return found


@pytest.fixture
async def rig_for(adapters, hub, sandbox) -> AsyncIterator[Callable[[str], Rig]]:
    async with Transport() as http, SmtpTransport() as smtp:
        ses = Rig(adapters["ses"], http, smtp, hub)
        await confirm(ses, sandbox)
        yield lambda name: Rig(adapters[name], http, smtp, hub)


async def confirm(ses: Rig, sandbox: SandboxProcess) -> None:
    """Let the adapter confirm the subscription to its topic, as a verified webhook asks it to."""
    if any(entry["data"]["confirmed"] for entry in sandbox.ledger(kind="subscription", provider="ses")):
        return
    [asked, *_] = await asyncio.to_thread(wait_until, lambda: ses.posts("SubscriptionConfirmation"))
    assert ses.read(asked) == []
    request = ses.adapter.confirmation(posted(asked.body, asked.headers))
    assert request is not None
    assert (await ses.call(request)).status == 200


def message(script: str, **changes: Any) -> EmailMessage:
    return email_message(
        delivery_id=uuid4(),
        attempt_no=1,
        to=f"{script}+{uuid4().hex[:8]}@example.com",
        sender="Acme & Söhne <shop@sandbox.landed.test>",
        subject="Ihre Bestellung: 50%",
        html="<p>größer</p>",
        text="größer",
        **changes,
    )


HTTP_OUTCOMES = {
    "anyone": OutcomeKind.ACCEPTED,
    "slow": OutcomeKind.ACCEPTED,
    "rate-limited": OutcomeKind.RATE_LIMITED,
    "outage": OutcomeKind.UNKNOWN,
    "error-after-accept": OutcomeKind.UNKNOWN,
    "reset-after-accept": OutcomeKind.UNKNOWN,
    "timeout-after-accept": OutcomeKind.UNKNOWN,
    "hang": OutcomeKind.UNKNOWN,
    "unauthorized": OutcomeKind.UNAUTHORIZED,
    "domain-disabled": OutcomeKind.UNAUTHORIZED,
    "invalid-address": OutcomeKind.RECIPIENT_INVALID,
    "permanent-4xx": OutcomeKind.REJECTED,
}
SMTP_OUTCOMES = HTTP_OUTCOMES | {
    "outage": OutcomeKind.TRANSIENT,
    "greylisted": OutcomeKind.TRANSIENT,
    "mailbox-full": OutcomeKind.TRANSIENT,
    "silent-at-rcpt": OutcomeKind.TRANSIENT,
    "closed-at-data": OutcomeKind.TRANSIENT,
    "unknown-user": OutcomeKind.RECIPIENT_INVALID,
    "policy": OutcomeKind.REJECTED,
}
OUTCOMES = [
    *((vendor, script, kind) for vendor in VENDORS[:3] for script, kind in HTTP_OUTCOMES.items()),
    *(("smtp", script, kind) for script, kind in SMTP_OUTCOMES.items()),
    ("postmark", "suppressed", OutcomeKind.RECIPIENT_INVALID),
]


@pytest.mark.parametrize(("vendor", "script", "kind"), OUTCOMES)
async def test_every_answer_is_read_as_it_was_meant(rig_for, sandbox, vendor, script, kind):
    what = message(script)

    outcome = await rig_for(vendor).send(what)

    assert outcome.kind is kind, outcome
    arrivals = await asyncio.to_thread(sandbox.ledger, kind="accepted", landed_delivery=str(what.delivery_id))
    if kind is OutcomeKind.ACCEPTED:
        assert outcome.provider_message_id
    if kind not in (OutcomeKind.ACCEPTED, OutcomeKind.UNKNOWN):
        assert arrivals == []
    for arrival in arrivals:
        assert (arrival["provider"], arrival["landed_attempt"]) == (vendor, "1")


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_body_that_no_api_would_give_is_no_acceptance(rig_for, vendor):
    assert (await rig_for(vendor).send(message("wrong-response"))).kind is not OutcomeKind.ACCEPTED


HARD = (EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce")
SOFT = (EvidenceKind.BOUNCED, BounceClass.SOFT, None)
ACCEPTED = (EvidenceKind.ACCEPTED, None, None)
DELIVERED = (EvidenceKind.DELIVERED, None, None)
DEFERRED = (EvidenceKind.DEFERRED, None, None)
COMPLAINED = (EvidenceKind.COMPLAINED, None, "complaint")
UNSUBSCRIBED = (EvidenceKind.UNSUBSCRIBED, None, "unsubscribe")
OPENED = (EvidenceKind.OPENED, None, None)
CLICKED = (EvidenceKind.CLICKED, None, None)

#: What the webhooks of each script come to: without what only some vendors tell (taken on, opened, unsubscribed).
STORIES = {
    "anyone": {DELIVERED},
    "bounce": {HARD},
    "soft-bounce": {DEFERRED, SOFT},
    "deferred": {DEFERRED, DELIVERED},
    "async-bounce": {DELIVERED, HARD},
    "complaint": {DELIVERED, COMPLAINED},
    "unsubscribe": {DELIVERED, UNSUBSCRIBED},
    "open": {DELIVERED, OPENED},
    "click": {DELIVERED, OPENED, CLICKED},
}
UNTOLD = {"smtp": {UNSUBSCRIBED, OPENED, CLICKED}}


def facts(evidence: list[Evidence]) -> set[tuple]:
    return {(fact.kind, fact.bounce_class, fact.suppress_reason) for fact in evidence}


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(("script", "story"), STORIES.items())
async def test_webhooks_are_believed_and_understood(rig_for, vendor, script, story):
    rig, what = rig_for(vendor), message(script, track_opens=True, track_clicks=True)
    expected = story - UNTOLD.get(vendor, set())

    outcome = await rig.send(what)
    told = await rig.told(what, {kind for kind, _, _ in expected})

    assert facts(told) - {ACCEPTED} == expected
    assert {(fact.delivery_id, fact.attempt_no) for fact in told} == {(what.delivery_id, 1)}
    # What came late or was struck out may lack it; what has it has the one that the answer to the send had.
    assert {fact.provider_message_id for fact in told} <= {outcome.provider_message_id, None}
    assert len({fact.event_key for fact in told}) >= len(story - UNTOLD.get(vendor, set()))


@pytest.mark.parametrize("vendor", ["ses", "sendgrid"])
async def test_a_message_just_taken_on_is_told_of_where_the_vendor_tells(rig_for, vendor):
    rig, what = rig_for(vendor), message("anyone")

    await rig.send(what)

    assert ACCEPTED in facts(await rig.told(what, {EvidenceKind.ACCEPTED}))


#: A refusal of ours at the far end, which blames no address.
BLOCKED = {
    "ses": BounceClass.CONTENT,
    "sendgrid": BounceClass.REPUTATION,
    "postmark": BounceClass.REPUTATION,
    "smtp": BounceClass.REPUTATION,
}


@pytest.mark.parametrize(("vendor", "bounce_class"), BLOCKED.items())
async def test_a_bad_reputation_blames_no_address(rig_for, vendor, bounce_class):
    rig, what = rig_for(vendor), message("blocked")
    await rig.send(what)

    [blocked] = [fact for fact in await rig.told(what, {EvidenceKind.BOUNCED}) if fact.kind is EvidenceKind.BOUNCED]

    assert (blocked.bounce_class, blocked.suppress_reason) == (bounce_class, None)


@pytest.mark.parametrize("vendor", ["ses", "sendgrid"])
async def test_what_the_vendor_dropped_by_its_own_list_joins_ours(rig_for, vendor):
    rig, what = rig_for(vendor), message("suppressed")
    await rig.send(what)

    told = await rig.told(what, {EvidenceKind.FAILED})

    assert (EvidenceKind.FAILED, BounceClass.PROVIDER_SUPPRESSED, "provider_suppressed") in facts(told)


@pytest.mark.parametrize(
    ("vendor", "script"),
    [("ses", "rejected"), ("sendgrid", "rejected"), ("postmark", "rejected"), ("ses", "rendering-failure")],
)
async def test_what_the_vendor_refuses_later_is_the_end_of_the_message_alone(rig_for, vendor, script):
    rig, what = rig_for(vendor), message(script)
    await rig.send(what)

    def ended() -> list[Evidence]:
        told = [fact for post in rig.posts(str(what.delivery_id)) for fact in rig.read(post)]
        return [fact for fact in told if fact.kind in (EvidenceKind.FAILED, EvidenceKind.BOUNCED)]

    [end] = await asyncio.to_thread(wait_until, ended)
    assert (end.bounce_class, end.suppress_reason) == (BounceClass.CONTENT, None)


async def test_an_automatic_reply_is_no_bounce(rig_for, sandbox):
    rig, what = rig_for("smtp"), message("vacation")
    await rig.send(what)
    await asyncio.to_thread(sandbox.wait_until_settled)

    told = [fact for post in rig.posts(str(what.delivery_id)) for fact in rig.read(post)]

    assert {fact.kind for fact in told} <= {EvidenceKind.DELIVERED, EvidenceKind.OTHER}


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_lie_is_refused_and_the_truth_is_not(rig_for, sandbox, vendor):
    rig, what = rig_for(vendor), message("forged-webhook")
    await rig.send(what)
    await asyncio.to_thread(sandbox.wait_until_settled)
    forged = await asyncio.to_thread(
        wait_until, lambda: [e for e in sandbox.ledger(kind="webhook", recipient=what.to) if e["data"]["forgery"]]
    )

    refused, believed = [], []
    for post in rig.posts(str(what.delivery_id)):
        try:
            believed += rig.read(post)
        except WebhookRefused as refusal:
            refused.append(refusal.reason)

    assert len(refused) >= len(forged)  # a lie is owed to nobody, so one may still be on its way into the ledger
    assert set(refused) <= {"forged", "stale"}
    assert EvidenceKind.DELIVERED not in {fact.kind for fact in believed}
    assert HARD in facts(believed)


@pytest.mark.parametrize("vendor", VENDORS)
async def test_duplicates_are_the_same_facts(rig_for, sandbox, vendor):
    rig, what = rig_for(vendor), message("duplicate-webhook")
    await rig.send(what)
    await asyncio.to_thread(sandbox.wait_until_settled)

    told = [fact for post in rig.posts(str(what.delivery_id)) for fact in rig.read(post)]

    delivered = [fact.event_key for fact in told if fact.kind is EvidenceKind.DELIVERED]
    assert len(delivered) == 3
    assert len(set(delivered)) == 1


@pytest.mark.parametrize("vendor", ["sendgrid", "postmark"])
async def test_an_accepted_send_without_an_answer_is_found_by_asking(rig_for, vendor):
    rig, what = rig_for(vendor), message("timeout-after-accept")
    assert (await rig.send(what)).kind is OutcomeKind.UNKNOWN

    found = await rig.look_up(what)

    assert found.verdict is LookupVerdict.FOUND
    assert {(fact.delivery_id, fact.attempt_no) for fact in found.evidence} == {(what.delivery_id, 1)}


@pytest.mark.parametrize("vendor", ["sendgrid", "postmark"])
async def test_what_an_outage_swallowed_is_proven_not_sent(rig_for, vendor):
    rig, what = rig_for(vendor), message("outage")
    assert (await rig.send(what)).kind is OutcomeKind.UNKNOWN

    assert (await rig.look_up(what)).verdict is LookupVerdict.NOT_SENT


@pytest.mark.parametrize("vendor", ["ses", "sendgrid", "postmark"])
@pytest.mark.parametrize("script", ["anyone", "bounce", "soft-bounce"])
async def test_a_webhook_and_a_lookup_tell_the_same_facts(rig_for, sandbox, vendor, script):
    rig, what = rig_for(vendor), message(script)
    outcome = await rig.send(what)
    await asyncio.to_thread(sandbox.wait_until_settled)
    end = EvidenceKind.DELIVERED if script == "anyone" else EvidenceKind.BOUNCED
    by_webhook = await rig.told(what, {end})

    found = await rig.look_up(what, outcome.provider_message_id)

    assert found.verdict is LookupVerdict.FOUND
    assert facts(found.evidence) - {ACCEPTED} == facts(by_webhook) - {ACCEPTED}


async def test_ses_cannot_be_asked_about_a_message_that_it_gave_no_id(rig_for):
    rig, what = rig_for("ses"), message("timeout-and-webhooks-lost")
    assert (await rig.send(what)).kind is OutcomeKind.UNKNOWN

    assert (await rig.look_up(what)).verdict is LookupVerdict.UNANSWERABLE


def test_every_id_is_a_delivery(sandbox):
    """The sandbox found our ids wherever each protocol carries them."""
    assert {UUID(entry["landed_delivery"]) for entry in sandbox.ledger(kind="accepted")}
