"""The Mailgun adapter on bytes: requests it builds, answers it reads, webhooks it believes and refuses."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import BounceClass, EvidenceKind, OutcomeKind
from app.errors import ConfigurationError, InvalidFields, WebhookRefused
from app.providers.base import AttemptRef, EmailMessage, LookupVerdict, ProviderResponse
from app.providers.mailgun import Mailgun, MailgunAccount
from app.providers.registry import make_provider
from tests.messages import CONTEXT, email_message, posted

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DELIVERY = UUID("01920000-0000-7000-8000-00000000002a")
OURS = f"{DELIVERY}.2@mg.example.com"
SIGNING_KEY = "signing-key"
ACCOUNT = MailgunAccount("mg.example.com", "key-send", SIGNING_KEY)
MAILGUN = Mailgun(ACCOUNT)
MESSAGE = email_message(
    delivery_id=DELIVERY,
    attempt_no=2,
    tenant="acme",
    category="order_shipped",
    to="zoë@example.com",
    sender="Acme & Söhne <shop@mg.example.com>",
    subject="Ihre Bestellung: 50% + Versand",
    html="<p>a&b = c; d + e %41 \r\n</p>",
    text="a&b = c; d + e %41\r\n",
)


def form(message: EmailMessage, mailgun: Mailgun = MAILGUN) -> dict[str, list[str]]:
    return parse_qs(mailgun.build(message, CONTEXT).body.decode("ascii"), keep_blank_values=True, strict_parsing=True)


def answer(
    status: int, body: str | bytes | Mapping[str, Any] = b"", headers: Mapping[str, str] | None = None
) -> ProviderResponse:
    if isinstance(body, Mapping):
        body = json.dumps(body)
    return ProviderResponse(status, headers or {}, body.encode() if isinstance(body, str) else body)


# -- building ------------------------------------------------------------------------------------------------


def test_a_send_carries_the_message_and_our_ids():
    request = MAILGUN.build(MESSAGE, CONTEXT)
    assert (request.method, request.url) == ("POST", "https://api.mailgun.net/v3/mg.example.com/messages")
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert b64decode(request.headers["Authorization"].removeprefix("Basic ")) == b"api:key-send"
    assert form(MESSAGE) == {
        "from": [MESSAGE.sender],
        "to": [MESSAGE.to],
        "subject": [MESSAGE.subject],
        "text": [MESSAGE.text],
        "html": [MESSAGE.html],
        "h:Message-Id": [f"<{OURS}>"],
        "v:landed_delivery": [str(DELIVERY)],
        "v:landed_attempt": ["2"],
        "o:tag": ["order_shipped"],
        "o:tracking": ["no"],
        "o:tracking-opens": ["no"],
        "o:tracking-clicks": ["no"],
        "o:suppress-headers": ["X-Mailgun-Variables"],
    }


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_arrives_unchanged(text):
    assert dict(parse_qsl(MAILGUN.build(replace(MESSAGE, text=text), CONTEXT).body.decode(), True))["text"] == text


def test_text_alone_has_no_html_part():
    assert "html" not in form(replace(MESSAGE, html=None))


def test_the_european_region_has_its_own_host():
    eu = Mailgun(replace(ACCOUNT, region="eu"))
    assert eu.build(MESSAGE, CONTEXT).url == "https://api.eu.mailgun.net/v3/mg.example.com/messages"


@pytest.mark.parametrize(("account", "message"), [(True, False), (False, True)])
def test_test_mode_is_the_accounts_or_the_messages(account, message):
    mailgun = Mailgun(replace(ACCOUNT, test_mode=account))
    assert form(replace(MESSAGE, test_mode=message), mailgun)["o:testmode"] == ["yes"]


def test_tracking_is_said_outright():
    fields = form(replace(MESSAGE, track_opens=True))
    assert (fields["o:tracking"], fields["o:tracking-opens"], fields["o:tracking-clicks"]) == (
        ["yes"],
        ["yes"],
        ["no"],
    )


def test_headers_pass_through():
    headers = {
        "List-Unsubscribe": "<https://a.example/u/1>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }
    fields = form(replace(MESSAGE, headers=headers, reply_to="help@example.com"))
    assert fields["h:List-Unsubscribe"] == ["<https://a.example/u/1>"]
    assert fields["h:List-Unsubscribe-Post"] == ["List-Unsubscribe=One-Click"]
    assert fields["h:Reply-To"] == ["help@example.com"]


def test_tags_keep_mailguns_limits():
    tags = form(replace(MESSAGE, tags=("order_shipped", "größe", "x" * 200, "one too many")))["o:tag"]
    assert tags == ["order_shipped", "gr??e", "x" * 128]


@pytest.mark.parametrize("evil", ["a\r\nBcc: victim@example.com", "a\nb", "a\rb", "a\0b", "a\x0bb"])
@pytest.mark.parametrize("name", ["to", "sender", "subject", "reply_to", "category", "tags", "headers.X-Note"])
def test_no_field_smuggles_in_a_header(name, evil):
    value = {"tags": (evil,), "headers.X-Note": {"X-Note": evil}}.get(name, evil)
    with pytest.raises(InvalidFields) as refused:
        MAILGUN.build(replace(MESSAGE, **{name.partition(".")[0]: value}), CONTEXT)
    assert [error.field for error in refused.value.errors] == [name]


@pytest.mark.parametrize("name", ["X-Note\r\nBcc", "X Note", "X:Note", "", "Bcc", "message-id", "To", "X-Nöte"])
def test_no_header_name_that_could_redirect_or_rename_the_message(name):
    with pytest.raises(InvalidFields):
        MAILGUN.build(replace(MESSAGE, headers={name: "x"}), CONTEXT)


@pytest.mark.parametrize("to", ["a@example.com,b@example.com", "a@example.com; b@example.com"])
def test_one_delivery_goes_to_one_address(to):
    with pytest.raises(InvalidFields, match="exactly one address"):
        MAILGUN.build(replace(MESSAGE, to=to), CONTEXT)


def test_options_stay_below_mailguns_16_kilobytes():
    fits, too_much = {"X-Note": "ü" * 7900}, {"X-Note": "ü" * 8200}
    assert form(replace(MESSAGE, headers=fits))["h:X-Note"] == ["ü" * 7900]
    with pytest.raises(InvalidFields, match="16384 bytes"):
        MAILGUN.build(replace(MESSAGE, headers=too_much), CONTEXT)


# -- the account ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"domain": "mg.example.com/x"},
        {"domain": ""},
        {"domain": "mg..example.com"},
        {"api_key": ""},
        {"base_url": "https://api.example.com/v3"},
        {"base_url": "ftp://api.example.com"},
        {"lookup_settle_seconds": -1.0},
    ],
)
def test_an_account_that_cannot_work_is_refused(wrong):
    with pytest.raises(ValueError, match="domain|empty|base_url|negative"):
        replace(ACCOUNT, **wrong)


def test_an_account_does_not_print_its_keys():
    account = replace(ACCOUNT, lookup_api_key="key-lookup")
    assert not any(key in repr(account) for key in ("key-send", "key-lookup", SIGNING_KEY))


def test_an_account_is_made_from_settings_and_secret_files(tmp_path):
    (tmp_path / "key").write_text("key-from-file\n")
    settings = {
        "adapter": "mailgun",
        "domain": "mg.example.com",
        "api_key_file": str(tmp_path / "key"),
        "webhook_signing_key": "s",
        "lookup_settle_seconds": "2",
    }
    provider = make_provider("main", settings)
    assert isinstance(provider, Mailgun)
    assert provider.account.api_key == "key-from-file"
    assert provider.capabilities.lookup_settle_seconds == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"adapter": "carrier-pigeon"}, "providers.main.adapter"),
        ({"region": "fr"}, "providers.main.region"),
        ({"domian": "x"}, "providers.main.domian"),
        ({"domain": "a/b"}, "domain"),
        ({"api_key_file": "/nonexistent"}, "providers.main.api_key_file"),
    ],
)
def test_wrong_settings_are_named_and_secrets_are_not(wrong, told):
    settings = {
        "adapter": "mailgun",
        "domain": "d.example",
        "api_key": "SECRET",
        "webhook_signing_key": "SECRET",
    }
    with pytest.raises(ConfigurationError) as refused:
        make_provider("main", {**settings, **wrong})
    assert told in refused.value.detail
    assert "SECRET" not in refused.value.detail


# -- answers to a send ---------------------------------------------------------------------------------------


def test_an_id_is_acceptance_and_loses_its_brackets():
    body = {"id": "<20111114174239.25659.5817@samples.mailgun.org>", "message": "Queued. Thank you."}
    outcome = MAILGUN.interpret(answer(200, body), NOW)
    assert outcome.kind is OutcomeKind.ACCEPTED
    assert outcome.provider_message_id == "20111114174239.25659.5817@samples.mailgun.org"


NOT_ALLOWED = "Domain mg.example.com is not allowed to send: "


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "Mailgun Magnificent API", OutcomeKind.UNAUTHORIZED),
        (200, "", OutcomeKind.UNKNOWN),
        (200, "<html>OK</html>", OutcomeKind.UNKNOWN),
        (200, '{"id":"<2011', OutcomeKind.UNKNOWN),
        (200, {"message": "Queued. Thank you."}, OutcomeKind.UNKNOWN),
        (200, {"id": ""}, OutcomeKind.UNKNOWN),
        (200, {"id": 7}, OutcomeKind.UNKNOWN),
        (200, "[" * 100_000, OutcomeKind.UNKNOWN),
        (204, "", OutcomeKind.UNKNOWN),
        (301, "", OutcomeKind.UNAUTHORIZED),
        (303, "", OutcomeKind.UNKNOWN),
        (308, "", OutcomeKind.UNAUTHORIZED),
        (
            400,
            {"message": "to parameter is not a valid address. please check documentation"},
            "recipient_invalid",
        ),
        (
            400,
            {"message": "'to' parameter is not a valid address. please check documentation"},
            "recipient_invalid",
        ),
        (400, {"message": "from parameter is missing"}, OutcomeKind.REJECTED),
        (
            400,
            {"message": "Need at least one of 'text' or 'html' parameters specified"},
            OutcomeKind.REJECTED,
        ),
        (
            400,
            {"message": "Send options (parameters starting with o:, h:, or v:) are limited to 16 kB"},
            "rejected",
        ),
        (
            400,
            {"message": NOT_ALLOWED + "The domain is unverified and requires DNS configuration."},
            "unauthorized",
        ),
        (400, {"message": NOT_ALLOWED + "request limit exceeded, try again after 5 seconds"}, "rate_limited"),
        (401, "Forbidden", OutcomeKind.UNAUTHORIZED),
        (401, "Invalid private key", OutcomeKind.UNAUTHORIZED),
        (402, "Request Failed", OutcomeKind.TRANSIENT),
        (403, {"message": "not allowed to send large batches yet"}, OutcomeKind.UNAUTHORIZED),
        (404, {"message": "Domain not found: mg.example.com"}, OutcomeKind.UNAUTHORIZED),
        (408, "", OutcomeKind.UNKNOWN),
        (413, "Request Entity Too Large", OutcomeKind.REJECTED),
        (422, "", OutcomeKind.REJECTED),
        (429, "", OutcomeKind.RATE_LIMITED),
        (500, "Internal Server Error", OutcomeKind.UNKNOWN),
        (502, "<html>Bad Gateway</html>", OutcomeKind.UNKNOWN),
        (503, "Service Unavailable", OutcomeKind.UNKNOWN),
        (504, "", OutcomeKind.UNKNOWN),
        (599, "", OutcomeKind.UNKNOWN),
    ],
)
def test_every_answer_has_its_class(status, body, kind):
    outcome = MAILGUN.interpret(answer(status, body), NOW)
    assert outcome.kind == kind
    assert outcome.reason is None  # even an unverified domain is the account's own
    assert outcome.status_code == status
    assert outcome.detail
    assert outcome.provider_message_id is None


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        (NOT_ALLOWED + "request limit exceeded, try again after Sun, 01 Mar 2026 12:05:00 UTC", {}, 300),
        (NOT_ALLOWED + "bytes limit exceeded, try again after Sun, 01 Mar 2026 12:01:00 +0000", {}, 60),
        ("account-requests-per-sec limit exceeded, try again after 120 seconds", {}, 120),
        ("limit exceeded, try again after 1.5s", {}, 1.5),
        ("limit exceeded, try again after Sun, 01 Mar 2026 11:00:00 GMT", {}, 0),
        ("limit exceeded, try again after a good rest", {}, None),
        ("", {"retry-after": "17"}, 17),
        ("", {"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"}, 30),
        ("", {"retry-after": "nan"}, None),
        ("", {"x-ratelimit-reset": f"{NOW.timestamp() + 2.5}"}, 2.5),
        ("", {"x-ratelimit-reset": "soon"}, None),
        ("", {"x-ratelimit-reset": "7"}, 0),
        ({"retry-seconds": -60}, {}, 0),
        ('{"retry-seconds": NaN}', {}, None),
        ({"retry-seconds": 60}, {}, 60),
        ({"message": "try again after 20 seconds"}, {"x-ratelimit-reset": f"{NOW.timestamp() + 99}"}, 20),
        ("", {}, None),
    ],
)
def test_a_rate_limit_says_when_to_come_back(body, headers, seconds):
    outcome = MAILGUN.interpret(answer(429, body, headers), NOW)
    assert outcome.kind is OutcomeKind.RATE_LIMITED
    assert outcome.retry_after_seconds == (None if seconds is None else pytest.approx(seconds))


def test_details_hold_no_address_and_have_an_end():
    words = "Sandbox: add zoë@example.com or <z@example.com> to authorized recipients.\n" + "x" * 5000
    detail = MAILGUN.interpret(answer(403, {"message": words}), NOW).detail
    assert "@" not in detail
    assert detail.startswith("Sandbox: add <address> or <<address>> to")
    assert len(detail) <= 300


@given(st.integers(100, 599), st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_answer_is_classified_and_only_an_id_is_acceptance(status, body):
    outcome = MAILGUN.interpret(answer(status, body), NOW)
    assert (outcome.kind is OutcomeKind.ACCEPTED) <= (b'"id"' in body)


# -- signatures ----------------------------------------------------------------------------------------------


def signature(when: datetime = NOW, token: str = "t" * 50, key: str = SIGNING_KEY) -> dict[str, str]:
    timestamp = str(int(when.timestamp()))
    mac = hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256)
    return {"timestamp": timestamp, "token": token, "signature": mac.hexdigest()}


def webhook(event: Any, signed: Any = None) -> bytes:
    return json.dumps({"signature": signature() if signed is None else signed, "event-data": event}).encode()


def refusal(body: bytes, now: datetime = NOW) -> tuple[str, int]:
    with pytest.raises(WebhookRefused) as refused:
        MAILGUN.verify(posted(body), now)
    return refused.value.reason, refused.value.http_status


def test_a_signed_webhook_is_believed():
    MAILGUN.verify(posted(webhook({})), NOW)
    assert MAILGUN.replay_token(posted(webhook({}))) == "t" * 50


@pytest.mark.parametrize(
    "signed",
    [
        signature(key="another key"),
        {**signature(), "token": "another token"},
        {**signature(), "timestamp": str(int(NOW.timestamp()) + 1)},
        {**signature(), "signature": "0" * 64},
        {**signature(), "signature": signature()["signature"].upper()},
        {**signature(), "signature": signature()["signature"][:-1]},
    ],
)
def test_a_forgery_is_refused(signed):
    assert refusal(webhook({}, signed)) == ("forged", 401)


@pytest.mark.parametrize("age", [timedelta(hours=8, minutes=30), timedelta(0), timedelta(minutes=-4)])
def test_a_late_retry_is_taken(age):
    MAILGUN.verify(posted(webhook({}, signature(NOW - age))), NOW)


@pytest.mark.parametrize("age", [timedelta(hours=9, seconds=1), timedelta(days=2), timedelta(minutes=-6)])
def test_a_stale_signature_is_refused_and_mailgun_told_to_stop(age):
    assert refusal(webhook({}, signature(NOW - age))) == ("stale", 406)


def test_how_old_a_webhook_may_be_is_the_accounts_to_say():
    strict = Mailgun(replace(ACCOUNT, webhook_max_age_seconds=15))
    with pytest.raises(WebhookRefused, match="signed 16 s ago"):
        strict.verify(posted(webhook({}, signature(NOW - timedelta(seconds=16)))), NOW)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"signature": 7}',
        b'{"signature": []}',
        webhook({}, {**signature(), "timestamp": 1529006854}),
        webhook({}, {**signature(), "timestamp": "soon"}),
        webhook({}, {**signature(), "timestamp": "٣"}),
        webhook({}, {**signature(), "timestamp": "9" * 400}),
        webhook({}, {**signature(), "token": ""}),
        webhook({}, {**signature(), "token": "ü"}),
        webhook({}, {**signature(), "signature": None}),
        webhook({}, {**signature(), "signature": "ü"}),
        webhook({}, {"timestamp": "1529006854"}),
    ],
)
def test_nonsense_is_refused_and_mailgun_told_to_stop(body):
    assert refusal(body) == ("malformed", 406)


# -- events --------------------------------------------------------------------------------------------------

DELIVERED = {
    "event": "delivered",
    "id": "CPgfbmQMTCKtHW6uIWtuVe",
    "timestamp": 1521472262.908181,
    "log-level": "info",
    "recipient": "alice@example.com",
    "recipient-domain": "example.com",
    "tags": ["order_shipped"],
    "campaigns": [],
    "user-variables": {"landed_delivery": str(DELIVERY), "landed_attempt": "2"},
    "flags": {
        "is-authenticated": True,
        "is-routed": False,
        "is-system-test": False,
        "is-test-mode": False,
        "is-delayed-bounce": False,
    },
    "envelope": {
        "sender": "shop@mg.example.com",
        "transport": "smtp",
        "sending-ip": "209.61.154.250",
        "targets": "",
    },
    "message": {
        "headers": {"to": "Alice <alice@example.com>", "from": "Shop", "subject": "Hi", "message-id": OURS},
        "attachments": [],
        "size": 111,
    },
    "delivery-status": {
        "tls": True,
        "mx-host": "smtp-in.example.com",
        "code": 250,
        "description": "",
        "session-seconds": 0.43,
        "utf8": True,
        "attempt-no": 1,
        "message": "OK",
        "certificate-verified": True,
    },
    "storage": {"url": "https://se.api.mailgun.net/v3/domains/mg.example.com/messages/m", "key": "m"},
}


def event(name: str, **fields: Any) -> dict[str, Any]:
    return {**DELIVERED, "event": name, **fields}


def read(data: Mapping[str, Any]):
    (evidence,) = MAILGUN.parse(posted(webhook(data)))
    return evidence


def test_a_delivery_is_evidence_for_its_very_attempt():
    evidence = read(DELIVERED)
    assert evidence.kind is EvidenceKind.DELIVERED
    assert evidence.event_key == "delivered:CPgfbmQMTCKtHW6uIWtuVe:2018-03-19"
    assert evidence.occurred_at == datetime(2018, 3, 19, 15, 11, 2, 908181, UTC)
    assert (evidence.delivery_id, evidence.attempt_no) == (DELIVERY, 2)
    assert evidence.provider_message_id == OURS
    assert evidence.address == "alice@example.com"
    assert evidence.bounce_class is None
    assert evidence.suppress_reason is None
    assert evidence.data == {
        "code": 250,
        "message": "OK",
        "attempt": 1,
        "mx_host": "smtp-in.example.com",
        "tls": True,
        "delayed_bounce": False,
        "test_mode": False,
    }


def test_a_bare_event_of_the_events_api_reads_the_same():
    assert MAILGUN.parse(posted(json.dumps(DELIVERED).encode())) == MAILGUN.parse(posted(webhook(DELIVERED)))


@pytest.mark.parametrize(
    ("name", "kind", "suppress"),
    [
        ("accepted", EvidenceKind.ACCEPTED, None),
        ("opened", EvidenceKind.OPENED, None),
        ("clicked", EvidenceKind.CLICKED, None),
        ("complained", EvidenceKind.COMPLAINED, "complaint"),
        ("unsubscribed", EvidenceKind.UNSUBSCRIBED, "unsubscribe"),
        ("rejected", EvidenceKind.FAILED, None),
        ("stored", EvidenceKind.OTHER, None),
        ("invented-tomorrow", EvidenceKind.OTHER, None),
    ],
)
def test_every_event_has_its_kind(name, kind, suppress):
    evidence = read(event(name))
    assert (evidence.kind, evidence.suppress_reason) == (kind, suppress)


def failed(reason: str, code: int, enhanced: str = "", message: str = "", severity: str = "permanent", **flags: bool):
    status = {"code": code, "enhanced-code": enhanced, "message": message, "attempt-no": 1}
    return event("failed", severity=severity, reason=reason, flags=flags, **{"delivery-status": status})


HARD = (EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce")
SOFT = (EvidenceKind.BOUNCED, BounceClass.SOFT, None)
REPUTATION = (EvidenceKind.BOUNCED, BounceClass.REPUTATION, None)
CONTENT = (EvidenceKind.BOUNCED, BounceClass.CONTENT, None)
GAVE_UP = (EvidenceKind.FAILED, BounceClass.SOFT, None)
ON_ITS_LIST = (EvidenceKind.FAILED, BounceClass.PROVIDER_SUPPRESSED, "provider_suppressed")


@pytest.mark.parametrize(
    ("failure", "verdict"),
    [
        # On Mailgun's own lists: mirrored into ours.
        (failed("suppress-bounce", 605, message="Not delivering to previously bounced address"), ON_ITS_LIST),
        (failed("suppress-unsubscribe", 606), ON_ITS_LIST),
        (failed("suppress-complaint", 607), ON_ITS_LIST),
        (failed("generic", 605), ON_ITS_LIST),
        # The address is bad.
        (
            failed("bounce", 550, "5.1.1", "5.1.1 The email account that you tried to reach does not exist"),
            HARD,
        ),
        (failed("bounce", 550, "", "550-5.1.1 no such user"), HARD),
        (failed("hardfail", 550, "5.1.10", "RESOLVER.ADR.RecipientNotFound"), HARD),
        (failed("generic", 550, "5.2.1", "The email account that you tried to reach is disabled"), HARD),
        (failed("bounce", 550, "", "No such mailbox"), HARD),
        (failed("bounce", 550, "", ""), HARD),
        (failed("bounce", 550, "5.4.1", "Recipient address rejected: Access denied"), HARD),
        (failed("bounce", 550, "5.5.0", "mailbox not found"), HARD),
        (failed("generic", 551, "", "User not local"), HARD),
        (failed("generic", 553, "", "sorry, that recipient is unknown"), HARD),
        # We are refused, not the address.
        (failed("espblock", 550, "5.7.1", "refused due to the sender's reputation"), REPUTATION),
        (failed("espblock", 421, "", ""), REPUTATION),
        (failed("blacklisted", 554, "", "listed"), REPUTATION),
        (failed("bounce", 550, "5.7.26", "unauthenticated email, DMARC"), REPUTATION),
        (failed("generic", 554, "", "Message rejected as spam"), REPUTATION),
        (
            failed("generic", 550, "", "5.7.1 Our system has detected that this message is suspicious"),
            REPUTATION,
        ),
        (failed("bounce", 553, "5.1.8", "Sender address rejected: Domain not found"), REPUTATION),
        (failed("bounce", 550, "", "blocked using dnsbl.example"), REPUTATION),
        # This message is refused.
        (failed("generic", 554, "5.6.0", "Malformed MIME"), CONTENT),
        # This message is over, the address may be fine.
        (failed("generic", 552, "5.2.2", "The mailbox is full"), SOFT),
        (failed("generic", 552, "", "quota exceeded"), SOFT),
        (failed("generic", 554, "", "Transaction failed"), SOFT),
        (failed("generic", 550, "5.3.0", "Try later"), SOFT),
        (failed("unknown", 0), SOFT),
        # Mailgun gave up.
        (failed("old", 602, "", "Too old"), GAVE_UP),
        (failed("generic", 498, "", "No MX for nowhere.example"), GAVE_UP),
        (failed("generic", 499), GAVE_UP),
        (failed("generic", 421, "", "busy"), GAVE_UP),
        (failed("generic", 0, "4.4.7", "expired"), GAVE_UP),
        (failed("greylisted", 451, "4.7.1"), GAVE_UP),
        (failed("generic", 680, "", "internal delivery failure"), (EvidenceKind.FAILED, None, None)),
        # Temporary, or not said to be permanent: Mailgun goes on trying.
        (failed("generic", 452, "4.2.2", severity="temporary"), (EvidenceKind.DEFERRED, None, None)),
        (failed("bounce", 550, "5.1.1", severity="temporary"), (EvidenceKind.DEFERRED, None, None)),
        (failed("bounce", 550, "5.1.1", severity=""), (EvidenceKind.DEFERRED, None, None)),
    ],
)
def test_a_failure_blames_the_address_only_on_plain_signs(failure, verdict):
    evidence = read(failure)
    assert (evidence.kind, evidence.bounce_class, evidence.suppress_reason) == verdict


def test_an_ip_address_is_not_an_enhanced_code():
    assert read(failed("generic", 554, "", "refused 5.1.1.7 for now")).bounce_class is BounceClass.SOFT


def test_a_late_bounce_says_so():
    late = read(failed("bounce", 550, "5.1.1", **{"is-delayed-bounce": True}))
    assert late.data["delayed_bounce"] is True
    assert late.suppress_reason == "hard_bounce"


def test_a_rejected_message_names_its_recipient_only_in_its_header():
    rejected = event("rejected", reject={"reason": "Sandbox", "description": "no"})
    del rejected["recipient"]
    evidence = read(rejected)
    assert evidence.address == "alice@example.com"
    assert evidence.bounce_class is BounceClass.CONTENT
    assert evidence.data["reject_reason"] == "Sandbox"


@pytest.mark.parametrize(
    ("tags", "scope"),
    [(["order_shipped", "x"], "order_shipped"), ([], "all"), (None, "all"), ([None], "all")],
)
def test_an_unsubscribe_covers_the_tag_it_came_from_or_everything(tags, scope):
    assert read(event("unsubscribed", tags=tags)).data["scope"] == scope


@pytest.mark.parametrize(
    "variables",
    [
        {},
        [],
        None,
        "{",
        {"landed_delivery": "x", "landed_attempt": "1"},
        {"landed_delivery": str(DELIVERY)},
        json.dumps({"landed_delivery": str(DELIVERY), "landed_attempt": 2}),
    ],
)
def test_our_ids_are_found_in_the_message_id_when_the_variables_are_missing(variables):
    evidence = read(event("delivered", **{"user-variables": variables}))
    assert (evidence.delivery_id, evidence.attempt_no) == (DELIVERY, 2)


def test_a_message_that_is_not_ours_has_no_ids():
    foreign = event("delivered", **{"user-variables": {}}, message={"headers": {"message-id": "<abc@elsewhere>"}})
    evidence = read(foreign)
    assert (evidence.delivery_id, evidence.attempt_no, evidence.provider_message_id) == (
        None,
        None,
        "abc@elsewhere",
    )


def test_the_same_fact_has_the_same_key_even_without_an_id():
    first, second = read(event("delivered", id=None)), read(event("delivered", id=None))
    assert first.event_key == second.event_key
    assert first.event_key != read(event("delivered", id=None, recipient="bob@example.com")).event_key


@pytest.mark.parametrize(
    "data",
    [
        None,
        7,
        [],
        {},
        event(""),
        {**DELIVERED, "event": {}},
        *({**DELIVERED, "timestamp": t} for t in (None, "soon", True, [], float("nan"), float("inf"), -1, 1e300, 7)),
    ],
)
def test_what_is_no_event_is_malformed(data):
    with pytest.raises(WebhookRefused) as refused:
        MAILGUN.parse(posted(webhook(data)))
    assert (refused.value.reason, refused.value.http_status) == ("malformed", 406)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FIELDS = (
    "event",
    "id",
    "timestamp",
    "severity",
    "reason",
    "recipient",
    "tags",
    "user-variables",
    "message",
    "flags",
)
EVENTS = st.fixed_dictionaries(
    {
        "event": st.sampled_from(["failed", "delivered", "unsubscribed", "rejected"]),
        "timestamp": st.just(1521472262.9),
    },
    optional=dict.fromkeys((*FIELDS[3:], "id", "url", "reject", "client-info"), JSON)
    | {"delivery-status": st.fixed_dictionaries({}, optional={"code": JSON, "enhanced-code": JSON, "message": JSON})},
)


@given(st.binary() | JSON.map(json.dumps).map(str.encode) | st.dictionaries(st.sampled_from(FIELDS), JSON).map(webhook))
def test_parse_raises_nothing_but_a_refusal(body):
    with contextlib.suppress(WebhookRefused):
        MAILGUN.parse(posted(body))


@given(st.binary() | JSON.map(lambda signed: webhook({}, signed)))
def test_verify_refuses_whatever_was_signed_with_another_key(body):
    with pytest.raises(WebhookRefused):
        Mailgun(replace(ACCOUNT, webhook_signing_key="another key")).verify(posted(body), NOW)


@given(EVENTS)
def test_any_event_becomes_evidence_that_any_store_takes(data):
    evidence = read(data)
    words = [evidence.event_key, evidence.provider_message_id or "", evidence.address or ""]
    stored = json.dumps([words, dict(evidence.data)], allow_nan=False, ensure_ascii=False).encode()
    assert b"\\u0000" not in stored
    assert len(stored) < 64 * 1024


# -- looking up ----------------------------------------------------------------------------------------------

OPENED = NOW - timedelta(hours=1)
ATTEMPT = AttemptRef(DELIVERY, 2, OPENED, "alice@example.com", None)
EVENTS_URL = "https://api.mailgun.net/v3/mg.example.com/events"
EMPTY: dict[str, Any] = {"items": [], "paging": {"next": f"{EVENTS_URL}/W10="}}


def look(
    body: Any,
    attempt: AttemptRef = ATTEMPT,
    mailgun: Mailgun = MAILGUN,
    status: int = 200,
    now: datetime = NOW,
):
    return mailgun.interpret_lookup(attempt, answer(status, body), now)


def page(*items: Any, then: Any = f"{EVENTS_URL}/W30=") -> dict[str, Any]:
    return {"items": list(items), "paging": {"next": then}}


def test_a_lookup_asks_for_our_message_id_without_brackets():
    request = MAILGUN.build_lookup(ATTEMPT, NOW)
    url = urlsplit(request.url)
    assert (request.method, f"{url.scheme}://{url.netloc}{url.path}") == ("GET", EVENTS_URL)
    assert parse_qs(url.query) == {
        "message-id": [OURS],
        "begin": [str(int(OPENED.timestamp()) - 300)],
        "end": [str(int(NOW.timestamp()))],
        "ascending": ["yes"],
        "limit": ["300"],
    }


def test_a_lookup_asks_for_the_providers_id_too_should_it_differ():
    request = MAILGUN.build_lookup(replace(ATTEMPT, provider_message_id="other@mailgun"), NOW)
    assert parse_qs(urlsplit(request.url).query)["message-id"] == [f"{OURS} OR other@mailgun"]


def test_a_sending_key_cannot_read_events_so_lookups_may_have_their_own():
    mailgun = Mailgun(replace(ACCOUNT, lookup_api_key="key-lookup"))
    sent, asked = mailgun.build(MESSAGE, CONTEXT), mailgun.build_lookup(ATTEMPT, NOW)
    keys = [b64decode(request.headers["Authorization"].removeprefix("Basic ")) for request in (sent, asked)]
    assert keys == [b"api:key-send", b"api:key-lookup"]


def test_what_is_found_is_evidence_under_the_same_key_as_its_webhook():
    found = look(page(event("accepted"), DELIVERED))
    assert found.verdict is LookupVerdict.FOUND
    assert [evidence.kind for evidence in found.evidence] == [EvidenceKind.ACCEPTED, EvidenceKind.DELIVERED]
    assert found.evidence[1].event_key == read(DELIVERED).event_key
    assert found.next_request is None


def test_absence_proves_nothing_before_events_have_settled():
    soon = look(EMPTY, now=OPENED + timedelta(minutes=29))
    assert soon.verdict is LookupVerdict.TOO_EARLY
    assert look(EMPTY, now=OPENED + timedelta(minutes=30)).verdict is LookupVerdict.NOT_SENT


def test_absence_proves_nothing_once_the_provider_has_forgotten():
    """The free plan forgets after a day; from an hour before that on, nothing is concluded."""
    assert look(EMPTY, now=OPENED + timedelta(hours=23)).verdict is LookupVerdict.NOT_SENT
    assert look(EMPTY, now=OPENED + timedelta(hours=23, seconds=1)).verdict is LookupVerdict.UNANSWERABLE


def test_absence_never_disproves_what_the_provider_confirmed():
    assert look(EMPTY, replace(ATTEMPT, provider_message_id=OURS)).verdict is LookupVerdict.TOO_EARLY


def test_settle_time_and_retention_are_the_accounts_to_say():
    mailgun = Mailgun(replace(ACCOUNT, lookup_settle_seconds=2.0, lookup_retention_seconds=30 * 86400.0))
    assert look(EMPTY, mailgun=mailgun, now=OPENED + timedelta(seconds=2)).verdict is LookupVerdict.NOT_SENT
    assert look(EMPTY, mailgun=mailgun, now=OPENED + timedelta(days=29)).verdict is LookupVerdict.NOT_SENT


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, "Forbidden"),
        (404, ""),
        (429, ""),
        (500, EMPTY),
        (503, ""),
        (200, ""),
        (200, "[]"),
        (200, {"items": 7}),
    ],
)
def test_a_question_that_failed_proves_nothing(status, body):
    assert look(body, status=status).verdict is LookupVerdict.UNAVAILABLE


OTHERS = event("delivered", **{"user-variables": {}}, message={"headers": {"message-id": "someone@else"}})


def test_others_events_prove_nothing_and_only_an_empty_page_ends_the_list():
    lookup = look(page(OTHERS, {"event": "unreadable"}, None))
    assert lookup.verdict is LookupVerdict.TOO_EARLY
    assert lookup.next_request is not None
    assert lookup.next_request.url == f"{EVENTS_URL}/W30="
    assert lookup.next_request.headers == MAILGUN.build_lookup(ATTEMPT, NOW).headers


def test_another_attempt_of_the_same_delivery_is_not_this_one():
    earlier = f"{DELIVERY}.1@mg.example.com"
    variables = {"landed_delivery": str(DELIVERY), "landed_attempt": "1"}
    first = event("delivered", **{"user-variables": variables}, message={"headers": {"message-id": earlier}})
    assert look(page(first)).evidence == ()


def test_a_full_page_is_followed_by_another():
    lookup = look(page(*[DELIVERED] * 300))
    assert lookup.verdict is LookupVerdict.FOUND
    assert lookup.next_request is not None


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/v3/mg.example.com/events/W30=",
        "http://api.mailgun.net/v3/mg.example.com/events/W30=",
        "https://api.mailgun.net:8443/v3/mg.example.com/events/W30=",
        "https://api.mailgun.net@evil.example/v3/mg.example.com/events/W30=",
        "https://user@api.mailgun.net/v3/mg.example.com/events/W30=",
        "https://api.mailgun.net/v3/another.example/events/W30=",
        "https://api.mailgun.net:port/v3/mg.example.com/events",
        "//evil.example/v3/mg.example.com/events",
        "",
        None,
        7,
    ],
)
def test_our_key_follows_no_page_to_another_place(elsewhere):
    lookup = look(page(OTHERS, then=elsewhere))
    assert lookup.next_request is None
    assert lookup.verdict is LookupVerdict.UNAVAILABLE


@given(st.binary() | JSON.map(json.dumps).map(str.encode) | JSON.map(lambda item: json.dumps({"items": item}).encode()))
def test_no_answer_but_a_settled_empty_page_says_not_sent(body):
    verdict = MAILGUN.interpret_lookup(ATTEMPT, answer(200, body), NOW).verdict
    assert (verdict is LookupVerdict.NOT_SENT) <= (b'"items": []' in body)
