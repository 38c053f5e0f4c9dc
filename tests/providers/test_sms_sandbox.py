"""Twilio, Sinch, Vonage and Amazon against the provider sandbox: two readings of each protocol must agree."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from app.domain.models import BounceClass, Evidence, EvidenceKind, Outcome, OutcomeKind
from app.domain.sms import content_hash
from app.errors import WebhookRefused
from app.providers.aws_sms import AwsSms, AwsSmsAccount
from app.providers.base import AttemptRef, Lookup, LookupVerdict, Provider, SmsMessage
from app.providers.sinch import Sinch, SinchAccount
from app.providers.transport import Transport, TransportError, classify_transport_error
from app.providers.twilio import Twilio, TwilioAccount
from app.providers.vonage import Vonage, VonageAccount
from tests.messages import CONTEXT, posted, sms_message
from tests.sandbox_process import SandboxProcess, wait_until
from tests.sandbox_receiver import Post, Receiver

SENDER = "+14155550199"
VENDORS = ("twilio", "sinch", "vonage", "aws_sms")
#: How many kinds of lies the sandbox posts in each one's name.
LIES = {"twilio": 2, "sinch": 2, "vonage": 2, "aws_sms": 3}
SCRIPTS = {
    "anyone": "0100",
    "unknown-number": "0130",
    "landline": "0131",
    "filtered": "0132",
    "unreachable": "0133",
    "blocked": "0134",
    "failed": "0135",
    "expired": "0136",
    "never-confirmed": "0137",
    "timeout-after-accept": "0141",
    "reset-after-accept": "0142",
    "error-after-accept": "0143",
    "hang": "0144",
    "callback-thrice": "0151",
    "callback-forged": "0153",
    "rate-limited": "0160",
    "outage": "0161",
    "unauthorized": "0162",
    "sender-refused": "0163",
    "invalid-number": "0164",
    "not-mobile": "0165",
    "content-refused": "0166",
    "wrong-response": "0167",
    "opted-out": "0168",
    "answers-stop": "0170",
    "answers-stop-then-start": "0171",
    "answers-help": "0172",
    "answers-in-words": "0173",
}
_areas = count(201)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        receiver.status_for = confirmed
        yield receiver


def confirmed(post: Post) -> int:
    """Confirms a subscription as the API does."""
    if post.headers.get("x-amz-sns-message-type") == "SubscriptionConfirmation":
        httpx.get(json.loads(post.body)["SubscribeURL"], timeout=10).raise_for_status()
    return 200


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[SandboxProcess]:
    ledger: Path = tmp_path_factory.mktemp("sandbox") / "ledger.jsonl"
    with SandboxProcess(ledger, webhook_base_url=f"{receiver.url}/h", hold_seconds=1) as process:
        yield process


@pytest.fixture
def adapters(sandbox: SandboxProcess) -> dict[str, Provider[SmsMessage]]:
    twilio = TwilioAccount(
        "AC" + "5a" * 16, "sandbox-auth-token", sender=SENDER, base_url=sandbox.url, lookup_settle_seconds=0
    )
    sinch = SinchAccount(
        "sandbox-service-plan",
        "sandbox-api-token",
        SENDER,
        webhook_secret="sandbox-webhook-secret",
        base_url=sandbox.url,
        lookup_settle_seconds=0,
    )
    vonage = VonageAccount(
        "5adb0x01", SENDER, "sandbox-signature-secret", api_secret="sandbox-api-secret", base_url=sandbox.url
    )
    aws_sms = AwsSmsAccount(
        "eu-west-1",
        "AKIASANDBOXLANDED000",
        "sandbox-secret-access-key",
        SENDER,
        "landed",
        ("arn:aws:sns:eu-west-1:123456789012:landed-texts",),
        base_url=sandbox.url,
        sns_base_url=sandbox.url,
        trust_any_certificate=True,
    )
    return {"twilio": Twilio(twilio), "sinch": Sinch(sinch), "vonage": Vonage(vonage), "aws_sms": AwsSms(aws_sms)}


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport() as transport:
        yield transport


def text(script: str = "anyone") -> SmsMessage:
    words = f"Größe 1 & 2 = {uuid4().hex[:6]} €"
    to = f"+1{next(_areas)}555{SCRIPTS[script]}"
    return sms_message(
        delivery_id=uuid4(), attempt_no=3, to=to, text=words, expires_at=datetime.now(UTC) + timedelta(hours=1)
    )


class Vendor:
    """One adapter with what it needs to be used against the sandbox."""

    def __init__(self, adapter: Provider[SmsMessage], transport: Transport, receiver: Receiver) -> None:
        self.adapter = adapter
        self._transport = transport
        self._receiver = receiver

    async def send(self, message: SmsMessage) -> Outcome:
        context = replace(CONTEXT, now=datetime.now(UTC), webhook_url=f"{self._receiver.url}/h/{self.adapter.name}")
        try:
            request = self.adapter.build(message, context)
            response = await self._transport.send(request, asyncio.get_running_loop().time() + 30)
        except TransportError as error:
            return classify_transport_error(error)
        return self.adapter.interpret(response, datetime.now(UTC))

    async def look_up(self, message: SmsMessage, message_id: str | None = None) -> list[Lookup]:
        """Every answer, as far as one leads to the next."""
        now = datetime.now(UTC)
        attempt = AttemptRef(
            message.delivery_id,
            message.attempt_no,
            now,
            message.to,
            message_id,
            content_hash=content_hash(message.text),
        )
        request, lookups = self.adapter.build_lookup(attempt, now), []
        while request is not None:
            response = await self._transport.send(request, asyncio.get_running_loop().time() + 30)
            lookups.append(self.adapter.interpret_lookup(attempt, response, datetime.now(UTC)))
            request = lookups[-1].next_request
        return lookups

    def facts(self, message: SmsMessage) -> list[Evidence]:
        """What every genuine webhook about this message or from this number says, in the order they came."""
        told, digits = [], message.to.removeprefix("+").encode()
        for post in self._receiver.posts(f"/h/{self.adapter.name}"):
            if digits in post.body:
                told += self.read(post) or []
        return told

    def refused(self, message: SmsMessage) -> int:
        digits = message.to.removeprefix("+").encode()
        mine = [post for post in self._receiver.posts(f"/h/{self.adapter.name}") if digits in post.body]
        return sum(self.read(post) is None for post in mine)

    def read(self, post: Post) -> Sequence[Evidence] | None:
        request = posted(post.body, post.headers, url=post.url, method=post.method, received_at=datetime.now(UTC))
        try:
            url = self.adapter.key_url(request)
            self.adapter.verify(request, datetime.now(UTC), httpx.get(url).content if url else None)
        except WebhookRefused:
            return None
        return self.adapter.parse(request)


@pytest.fixture(params=VENDORS)
def vendor(request, adapters, transport, receiver) -> Vendor:
    return Vendor(adapters[request.param], transport, receiver)


ANSWERS = [
    ("anyone", OutcomeKind.ACCEPTED),
    ("rate-limited", OutcomeKind.RATE_LIMITED),
    ("outage", OutcomeKind.UNKNOWN),
    ("error-after-accept", OutcomeKind.UNKNOWN),
    ("reset-after-accept", OutcomeKind.UNKNOWN),
    ("timeout-after-accept", OutcomeKind.UNKNOWN),
    ("hang", OutcomeKind.UNKNOWN),
    ("unauthorized", OutcomeKind.UNAUTHORIZED),
    ("sender-refused", OutcomeKind.UNAUTHORIZED),
    ("invalid-number", OutcomeKind.RECIPIENT_INVALID),
    ("content-refused", OutcomeKind.REJECTED),
]


@pytest.mark.parametrize(("script", "kind"), ANSWERS)
async def test_every_answer_is_read_as_it_was_meant(vendor, script, kind):
    outcome = await vendor.send(text(script))
    assert outcome.kind is kind
    assert (outcome.provider_message_id is not None) is (kind is OutcomeKind.ACCEPTED)


async def test_a_page_of_html_is_no_acceptance(vendor):
    assert (await vendor.send(text("wrong-response"))).kind is not OutcomeKind.ACCEPTED


@pytest.mark.parametrize("script", ["not-mobile", "opted-out"])
async def test_what_only_twilio_refuses_is_about_the_recipient(adapters, transport, receiver, script):
    vendor = Vendor(adapters["twilio"], transport, receiver)
    outcome = await vendor.send(text(script))
    assert outcome.kind is OutcomeKind.RECIPIENT_INVALID
    assert outcome.reason == ("opted_out" if script == "opted-out" else None)


async def test_a_delivered_text_is_told_with_our_ids(vendor, sandbox):
    message = text()
    outcome = await vendor.send(message)
    await sandbox.settled()

    facts = vendor.facts(message)

    # Callbacks are calls of their own, so they may arrive in any order.
    assert [fact.kind for fact in facts if fact.kind is not EvidenceKind.ACCEPTED] == [EvidenceKind.DELIVERED]
    assert {(fact.delivery_id, fact.attempt_no) for fact in facts} == {(message.delivery_id, 3)}
    assert {fact.provider_message_id for fact in facts} == {outcome.provider_message_id}
    assert {fact.address for fact in facts} == {message.to}
    [accepted] = sandbox.ledger(kind="accepted", recipient=message.to)
    assert (accepted["landed_delivery"], accepted["landed_attempt"]) == (str(message.delivery_id), "3")


async def test_somebody_on_amazons_opt_out_list_is_refused_by_name(adapters, transport, receiver):
    outcome = await Vendor(adapters["aws_sms"], transport, receiver).send(text("opted-out"))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.RECIPIENT_INVALID, "opted_out")


#: What each failure comes to at each vendor: its kind, its class, and whether the number is to be suppressed.
BOUNCED, FAILED = EvidenceKind.BOUNCED, EvidenceKind.FAILED
FATES = {
    "unknown-number": {
        "twilio": (BOUNCED, BounceClass.HARD),
        "sinch": (BOUNCED, BounceClass.SOFT),
        "vonage": (BOUNCED, BounceClass.HARD),
        "aws_sms": (BOUNCED, BounceClass.HARD),
    },
    "landline": {
        "twilio": (BOUNCED, BounceClass.HARD),
        "sinch": (BOUNCED, BounceClass.SOFT),
        "vonage": (BOUNCED, BounceClass.SOFT),
        "aws_sms": (BOUNCED, BounceClass.SOFT),
    },
    "filtered": {
        "twilio": (BOUNCED, BounceClass.REPUTATION),
        "sinch": (FAILED, BounceClass.CONTENT),
        "vonage": (BOUNCED, BounceClass.REPUTATION),
        "aws_sms": (BOUNCED, BounceClass.REPUTATION),
    },
    "unreachable": {
        "twilio": (BOUNCED, BounceClass.SOFT),
        "sinch": (FAILED, None),
        "vonage": (BOUNCED, BounceClass.SOFT),
        "aws_sms": (BOUNCED, BounceClass.SOFT),
    },
    "blocked": {
        "twilio": (BOUNCED, BounceClass.SOFT),
        "sinch": (FAILED, BounceClass.CONTENT),
        "vonage": (BOUNCED, BounceClass.SOFT),
        "aws_sms": (BOUNCED, BounceClass.SOFT),
    },
    "failed": {
        "twilio": (BOUNCED, BounceClass.SOFT),
        "sinch": (FAILED, None),
        "vonage": (BOUNCED, BounceClass.SOFT),
    },
}


@pytest.mark.parametrize("script", FATES)
async def test_why_a_text_did_not_arrive_is_understood(vendor, sandbox, script):
    if vendor.adapter.name not in FATES[script]:
        pytest.skip("Amazon's UNKNOWN is a failure, or what nobody knows anything of: no end is proven by it")
    message = text(script)
    await vendor.send(message)
    await sandbox.settled()
    [end] = [fact for fact in vendor.facts(message) if fact.kind is not EvidenceKind.ACCEPTED]
    assert (end.kind, end.bounce_class) == FATES[script][vendor.adapter.name]
    assert end.suppress_reason == ("hard_bounce" if end.bounce_class is BounceClass.HARD else None)


async def test_a_text_that_is_never_confirmed_stays_accepted(vendor, sandbox):
    message = text("never-confirmed")
    await vendor.send(message)
    await sandbox.settled()
    assert {fact.kind for fact in vendor.facts(message)} == {EvidenceKind.ACCEPTED}


async def test_a_callback_that_comes_again_is_the_same_fact(vendor, sandbox):
    message = text("callback-thrice")
    await vendor.send(message)
    await sandbox.settled()
    delivered = [fact for fact in vendor.facts(message) if fact.kind is EvidenceKind.DELIVERED]
    assert (len(delivered), len({fact.event_key for fact in delivered})) == (3, 1)


async def test_forged_callbacks_are_refused(vendor, sandbox):
    message = text("callback-forged")
    await vendor.send(message)
    await sandbox.settled()
    # A lie is owed to nobody: all may be settled while one is still on its way.
    await asyncio.to_thread(wait_until, lambda: vendor.refused(message) == LIES[vendor.adapter.name], what="every lie")
    assert EvidenceKind.DELIVERED not in {fact.kind for fact in vendor.facts(message)}


@pytest.mark.parametrize(
    ("script", "kinds"),
    [
        ("answers-stop", [EvidenceKind.OPTED_OUT]),
        ("answers-stop-then-start", [EvidenceKind.OPTED_OUT, EvidenceKind.OPTED_IN]),
        ("answers-help", [EvidenceKind.OTHER]),
        ("answers-in-words", [EvidenceKind.OTHER]),
    ],
)
async def test_what_people_answer_is_heard(vendor, sandbox, script, kinds):
    message = text(script)
    await vendor.send(message)
    await sandbox.settled()
    inbound = [fact for fact in vendor.facts(message) if fact.data.get("inbound")]
    assert sorted(fact.kind for fact in inbound) == sorted(kinds)
    assert {fact.address for fact in inbound} == {message.to}
    assert (await vendor.send(message)).kind is (
        OutcomeKind.RECIPIENT_INVALID
        if script == "answers-stop" and vendor.adapter.name in ("twilio", "aws_sms")
        else OutcomeKind.ACCEPTED
    )


async def test_twilios_own_judgement_of_an_answer_is_heard(tmp_path, adapters, transport, receiver):
    message = text()
    with SandboxProcess(
        tmp_path / "ledger.jsonl", webhook_base_url=f"{receiver.url}/h", twilio_advanced_opt_out="true"
    ) as sandbox:
        account = replace(adapters["twilio"].account, base_url=sandbox.url)
        vendor = Vendor(Twilio(account), transport, receiver)
        await vendor.send(message)
        async with httpx.AsyncClient(base_url=sandbox.url) as person:
            told = await person.post("/sandbox/twilio/replies", json={"recipient": message.to, "text": "Stop"})
        assert told.status_code == 204
        await sandbox.settled()
    assert EvidenceKind.OPTED_OUT in {fact.kind for fact in vendor.facts(message)}


@pytest.mark.parametrize("script", ["timeout-after-accept", "reset-after-accept", "error-after-accept"])
async def test_an_accepted_send_without_an_answer_is_settled_by_amazons_events(
    adapters, transport, receiver, sandbox, script
):
    vendor, message = Vendor(adapters["aws_sms"], transport, receiver), text(script)
    assert (await vendor.send(message)).kind is OutcomeKind.UNKNOWN
    await sandbox.settled()
    facts = vendor.facts(message)
    assert {(fact.delivery_id, fact.attempt_no) for fact in facts} == {(message.delivery_id, 3)}
    assert {fact.kind for fact in facts} == {EvidenceKind.ACCEPTED, EvidenceKind.DELIVERED}


@pytest.mark.parametrize("name", ["twilio", "sinch"])
@pytest.mark.parametrize("script", ["timeout-after-accept", "reset-after-accept", "error-after-accept"])
async def test_an_accepted_send_without_an_answer_is_found_by_asking(adapters, transport, receiver, name, script):
    vendor, message = Vendor(adapters[name], transport, receiver), text(script)
    assert (await vendor.send(message)).kind is OutcomeKind.UNKNOWN
    found = await vendor.look_up(message)
    assert {lookup.verdict for lookup in found} == {LookupVerdict.FOUND}
    facts = [fact for lookup in found for fact in lookup.evidence]
    assert {(fact.delivery_id, fact.attempt_no) for fact in facts} == {(message.delivery_id, 3)}
    assert all(fact.provider_message_id for fact in facts)


@pytest.mark.parametrize("name", ["twilio", "sinch"])
@pytest.mark.parametrize("script", ["outage", "hang"])
async def test_what_was_never_taken_is_proven_not_sent(adapters, transport, receiver, name, script):
    vendor, message = Vendor(adapters[name], transport, receiver), text(script)
    assert (await vendor.send(message)).kind is OutcomeKind.UNKNOWN
    [lookup] = await vendor.look_up(message)
    assert lookup.verdict is LookupVerdict.NOT_SENT


@pytest.mark.parametrize("name", ["twilio", "sinch"])
async def test_a_callback_and_a_lookup_tell_the_same_fact(adapters, transport, receiver, sandbox, name):
    vendor, message = Vendor(adapters[name], transport, receiver), text("landline")
    outcome = await vendor.send(message)
    await asyncio.to_thread(wait_until, lambda: vendor.facts(message)[-1:], what="a callback")
    await sandbox.settled()
    by_lookup = (await vendor.look_up(message, outcome.provider_message_id))[-1].evidence[-1]
    [by_callback] = [fact for fact in vendor.facts(message) if fact.kind is not EvidenceKind.ACCEPTED]
    assert (by_lookup.event_key, by_lookup.kind) == (by_callback.event_key, by_callback.kind)
    assert by_lookup.bounce_class is by_callback.bounce_class
