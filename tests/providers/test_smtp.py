"""The SMTP adapter on bytes: messages it composes, replies it reads, and the references that bring a report home."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage as Mime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.models import BounceClass, EvidenceKind, OutcomeKind
from app.errors import ConfigurationError, InvalidFields, WebhookRefused
from app.providers.base import SENDER_REFUSED, ProviderResponse
from app.providers.registry import make_provider
from app.providers.smtp import Smtp, SmtpAccount
from app.providers.smtp_codes import Refusal, classify, enhanced_code, redacted
from tests.messages import CONTEXT, DELIVERY, NOW, email_message, posted

TOKEN = "a-token-of-some-length"
ACCOUNT = SmtpAccount("relay.test", "mail.test", TOKEN)
SMTP = Smtp(ACCOUNT)
MESSAGE = email_message(to="zoe@example.test")
REFERENCE = re.compile(rf"{DELIVERY}\.2\.[a-z2-7]{{12}}")
PRINTABLE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]))


def composed(smtp: Smtp = SMTP, **changes: Any) -> Mime:
    """The message as a stranger's mail program reads it."""
    raw = smtp.build(replace(MESSAGE, **changes), CONTEXT).message
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, Mime)
    assert not message.defects
    return message


def raw_of(**changes: Any) -> bytes:
    return SMTP.build(replace(MESSAGE, **changes), CONTEXT).message


# -- the envelope --------------------------------------------------------------------------------------------


def test_a_request_names_the_server_and_the_envelope():
    request = SMTP.build(MESSAGE, CONTEXT)
    assert (request.host, request.port, request.security) == ("relay.test", 587, "starttls")
    assert request.recipient == "zoe@example.test"
    assert request.envelope_id is not None
    assert REFERENCE.fullmatch(request.envelope_id)
    assert request.envelope_from == f"bounces+{request.envelope_id}@mail.test"
    assert request.local_hostname == "mail.test"
    assert request.receipts


@pytest.mark.parametrize(("security", "port"), [("starttls", 587), ("tls", 465), ("none", 25)])
def test_each_security_has_its_port(security, port):
    account = replace(ACCOUNT, security=security)
    assert Smtp(account).build(MESSAGE, CONTEXT).port == port
    assert Smtp(replace(account, port=2525)).build(MESSAGE, CONTEXT).port == 2525


def test_the_account_says_how_to_connect():
    account = replace(ACCOUNT, username="u", password="p", receipts=False, trust="/ca.pem", local_hostname="app.test")
    request = Smtp(account).build(MESSAGE, CONTEXT)
    assert (request.username, request.password, request.receipts) == ("u", "p", False)
    assert (request.trust, request.local_hostname) == ("/ca.pem", "app.test")


@pytest.mark.parametrize("attempt", [1, 32767])
def test_the_envelope_sender_is_no_longer_than_a_local_part_may_be(attempt):
    local, _, domain = SMTP.build(replace(MESSAGE, attempt_no=attempt), CONTEXT).envelope_from.partition("@")
    assert len(local) <= 64
    assert domain == "mail.test"


def test_a_resend_keeps_its_message_id_and_changes_its_envelope():
    first, second = (SMTP.build(replace(MESSAGE, attempt_no=no), CONTEXT) for no in (1, 2))
    assert composed(attempt_no=1)["Message-ID"] == composed(attempt_no=2)["Message-ID"]
    assert first.envelope_id != second.envelope_id
    assert first.envelope_from != second.envelope_from


def test_success_reports_confirm_a_delivery_and_nothing_else_does():
    assert SMTP.capabilities.confirms_delivery
    assert not Smtp(replace(ACCOUNT, receipts=False)).capabilities.confirms_delivery
    assert not SMTP.capabilities.can_look_up
    assert not SMTP.capabilities.resend_is_safe


# -- the message ---------------------------------------------------------------------------------------------


def test_a_message_has_both_bodies_and_our_ids():
    message = composed()
    assert message.get_content_type() == "multipart/alternative"
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content() == MESSAGE.text
    assert html.get_content() == MESSAGE.html + "\r\n"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert re.fullmatch(rf"<{DELIVERY}\.[a-z2-7]{{12}}@mail\.test>", message["Message-ID"])
    assert REFERENCE.fullmatch(message["X-Landed-Reference"])
    assert message["Date"].datetime == NOW
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["To"] == "zoe@example.test"
    assert (message["From"].addresses[0].display_name, message["From"].addresses[0].addr_spec) == (
        "Acme & Söhne",
        "shop@mg.example.com",
    )
    assert message["Subject"] == MESSAGE.subject


def test_text_alone_is_one_part():
    message = composed(html=None)
    assert message.get_content_type() == "text/plain"
    assert not message.is_multipart()


def test_headers_and_reply_to_pass_through():
    headers = {
        "List-Unsubscribe": f"<https://notify.example.com/u/{'x' * 200}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }
    raw = raw_of(headers=headers, reply_to="Help, please <help@example.com>")
    assert f"\r\nList-Unsubscribe: {headers['List-Unsubscribe']}\r\n".encode() in raw, "an address must stay whole"
    message = composed(headers=headers, reply_to="Help, please <help@example.com>")
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert str(message["Reply-To"]) == '"Help, please" <help@example.com>'


@given(PRINTABLE)
@example("=?utf-8?q?not_encoded?=")
@example("ä" * 300)
@example("a" * 900)
@example("a  b" * 100)
@example("x" * 70 + " " + "ö" * 70)
def test_any_subject_arrives(subject):
    raw = raw_of(subject=subject)
    head = raw.partition(b"\r\n\r\n")[0]
    assert all(len(line) <= 998 for line in head.split(b"\r\n"))
    assert re.search(rb"\r\nSubject:[ -~]*(\r\n [ -~]+)*\r\nDate: ", head)
    assert str(message_from_bytes(raw, policy=policy.default)["Subject"]).strip() == subject.strip()


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters='<>@"\\(),:;'), max_size=200)
)
def test_any_name_arrives(name):
    field = message_from_bytes(raw_of(sender=f"{name} <shop@example.com>"))["From"]
    shown, _, address = str(make_header(decode_header(field))).rpartition("<")
    assert address == "shop@example.com>" if shown else address == "shop@example.com"
    assert " ".join(shown.strip(' "').split()) == " ".join(name.split())


@pytest.mark.parametrize("name", ["Acme, Inc.", "a@b", "Dr. O'Neil", "Zoë (Shop), GmbH", "=?utf-8?q?x?="])
def test_a_name_with_special_characters_arrives(name):
    address = composed(sender=f'"{name}" <shop@example.com>')["From"].addresses[0]
    assert (address.display_name, address.addr_spec) == (name, "shop@example.com")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")))
@example("한국어" * 200)
@example("." * 3)
@example("--=_0192000000007000800000000000002a--")
def test_any_body_arrives(text):
    raw = raw_of(text=f"{text}\n{text}.", html=f"<p>{text}</p>")
    assert raw.isascii()
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    message = message_from_bytes(raw, policy=policy.default)
    parts = [part.get_content().replace("\r\n", "\n") for part in message.iter_parts()]
    assert parts == [f"{text}\n{text}.\n", f"<p>{text}</p>\n"]


def test_lines_of_a_body_keep_the_limit_of_their_encoding():
    raw = raw_of(text="x" * 5000 + "ä", html="ж" * 5000)
    assert max(len(line) for line in raw.partition(b"\r\n\r\n")[2].split(b"\r\n")) <= 76


def test_the_same_message_is_the_same_bytes():
    assert raw_of() == raw_of()


@pytest.mark.parametrize(
    "evil", ["a\r\nBcc: victim@example.com", "a\nb", "a\rb", "a\0b", "a\x0bb", "a\u2028b", "a\x85b"]
)
@pytest.mark.parametrize("name", ["to", "sender", "subject", "reply_to", "headers.X-Note"])
def test_no_field_smuggles_in_a_header(name, evil):
    value: Any = {"X-Note": evil} if name == "headers.X-Note" else evil
    with pytest.raises(InvalidFields) as refused:
        SMTP.build(replace(MESSAGE, **{name.partition(".")[0]: value}), CONTEXT)
    assert name in [error.field for error in refused.value.errors]


@pytest.mark.parametrize(
    "name",
    ["X-Note\r\nBcc", "X Note", "X:Note", "", "Bcc", "message-id", "To", "X-Nöte", "Content-Type", "MIME-Version"]
    + ["Resent-To", "Sender", "Date", "Return-Path", "x-landed-reference"],
)
def test_no_header_name_that_could_redirect_or_rename_the_message(name):
    with pytest.raises(InvalidFields, match="not a header that may be set"):
        SMTP.build(replace(MESSAGE, headers={name: "x"}), CONTEXT)


@pytest.mark.parametrize(
    "to",
    ["a@example.com,b@example.com", "a@example.com b@example.com", "<a@example.com>", "zoë@example.com", "a", "@b", ""]
    + ["a@b> NOTIFY=NEVER", "a@ex_ample.com", "a" * 65 + "@example.com", "a@" + "b." * 130 + "com"],
)
def test_one_delivery_goes_to_one_address_in_ascii(to):
    with pytest.raises(InvalidFields, match="exactly one address"):
        SMTP.build(replace(MESSAGE, to=to), CONTEXT)


@pytest.mark.parametrize(
    "sender", ["a@example.com, b@example.com", "Shop", "Shop <shop>", "", "Shop <söhne@example.com>"]
)
@pytest.mark.parametrize("field", ["sender", "reply_to"])
def test_a_sender_is_one_address(field, sender):
    if field == "reply_to" and not sender:
        return
    with pytest.raises(InvalidFields, match="exactly one address"):
        SMTP.build(replace(MESSAGE, **{field: sender}), CONTEXT)


def test_a_word_that_no_line_can_hold_is_refused():
    with pytest.raises(InvalidFields, match="998"):
        SMTP.build(replace(MESSAGE, headers={"X-Note": "x" * 1000}), CONTEXT)


# -- replies -------------------------------------------------------------------------------------------------

ENVELOPE_ID = SMTP.build(MESSAGE, CONTEXT).envelope_id or ""


def reply(status: int, words: str, phase: str = "rcpt", envelope_id: str = ENVELOPE_ID) -> ProviderResponse:
    return ProviderResponse(status, {"phase": phase, "envelope-id": envelope_id}, words.encode())


@pytest.mark.parametrize(
    ("words", "detail"),
    [
        ("2.0.0 Ok: queued as 4bXyZ1abc", "queued as 4bXyZ1abc"),
        ("OK id=1sAbCd-00000000abc-1XyZ", "queued as 1sAbCd-00000000abc-1XyZ"),
        ("2.0.0 45Q3ZkPb012345 Message accepted for delivery", "queued as 45Q3ZkPb012345"),
        ("2.6.0 <x@y> [InternalId=123] Queued mail for delivery", "queued"),
        ("OK", "queued"),
    ],
)
def test_a_250_to_the_message_accepts_it_under_our_message_id(words, detail):
    outcome = SMTP.interpret(reply(250, words, "final"), NOW)
    assert (outcome.kind, outcome.detail, outcome.status_code) == (OutcomeKind.ACCEPTED, detail, 250)
    assert f"<{outcome.provider_message_id}>" == composed()["Message-ID"]


@pytest.mark.parametrize("code", [354, 199, 600, -1, 0])
def test_an_answer_to_the_message_that_means_nothing_leaves_the_outcome_unknown(code):
    assert SMTP.interpret(reply(code, "?", "final"), NOW).kind is OutcomeKind.UNKNOWN


@pytest.mark.parametrize("phase", ["connect", "ehlo", "mail", "rcpt", "data"])
@pytest.mark.parametrize("code", [220, 250, 354, 999])
def test_only_an_answer_to_the_message_accepts_it(phase, code):
    assert SMTP.interpret(reply(code, "queued as ABC", phase), NOW).kind is OutcomeKind.TRANSIENT


@pytest.mark.parametrize(("phase", "word"), [("starttls", "STARTTLS"), ("auth", "log in")])
def test_a_server_that_does_not_offer_what_we_demand_is_for_an_operator(phase, word):
    outcome = SMTP.interpret(reply(250, "mx.test\nSIZE 1", phase), NOW)
    assert outcome.kind is OutcomeKind.UNAUTHORIZED
    assert word in outcome.detail


T, R, P, C, A = (
    OutcomeKind.TRANSIENT,
    OutcomeKind.RATE_LIMITED,
    OutcomeKind.RECIPIENT_INVALID,
    OutcomeKind.REJECTED,
    OutcomeKind.UNAUTHORIZED,
)
UNVERIFIED = "Message rejected: Email address is not verified. The following identities failed the check:"
ACCESS_DENIED = (
    "Access denied: User `arn:aws:iam::123456789012:user/mail' is not authorized to perform `ses:SendRawEmail' on "
    "resource `arn:aws:ses:eu-west-1:123456789012:identity/shop.test'"
)
NOT_OWNED = "Sender address rejected: not owned by user"
NOT_LOGGED_IN = "Sender address rejected: not logged in"
SEND_AS = "Client does not have permissions to send as this sender"
REPLIES = [
    # temporary
    ("connect", 421, "4.3.2 Service shutting down", T, None, None),
    ("final", 451, "4.4.1 no answer from host", T, None, None),
    ("rcpt", 450, "4.2.0 <x@y.test>: Recipient address rejected: Greylisted", T, None, 300),
    ("rcpt", 451, "4.7.1 Please try again later", T, None, 300),
    ("rcpt", 450, "Graylisted, come back", T, None, 300),
    ("rcpt", 452, "4.2.2 mailbox full", T, None, None),
    ("rcpt", 452, "4.5.3 too many recipients", T, None, None),
    ("rcpt", 452, "4.3.1 Insufficient system storage", T, None, None),
    ("rcpt", 450, "4.2.1 The user is receiving mail at a rate that prevents more", T, None, None),
    # slow down
    ("auth", 454, "4.7.0 Temporary authentication failure", R, None, 300),
    ("final", 421, "4.7.28 unusual rate of mail", R, None, 300),
    ("mail", 451, "4.7.1 rate limit exceeded", R, None, 300),
    ("final", 452, "4.3.1 throttled", R, None, 300),
    ("connect", 421, "4.7.0 mx Error: too many connections from 192.0.2.1", R, None, 30),
    ("final", 550, "5.4.5 Daily sending quota exceeded", R, None, 300),
    # credentials, and the right to send
    ("mail", 530, "5.7.0 Must issue a STARTTLS command first", A, None, None),
    ("auth", 534, "5.7.9 mechanism too weak", A, None, None),
    ("auth", 535, "5.7.8 Error: authentication failed", A, None, None),
    ("auth", 538, "Encryption required", A, None, None),
    ("auth", 504, "5.5.4 Unrecognized authentication type", A, None, None),
    ("starttls", 502, "5.5.1 no", A, None, None),
    ("connect", 554, "5.7.1 192.0.2.1 is on a block list", A, None, None),
    ("ehlo", 550, "go away", A, None, None),
    ("mail", 550, "5.1.8 sender's domain not found", A, None, None),
    ("mail", 550, "5.7.60 client does not have permissions to send as this sender", A, None, None),
    ("mail", 553, "5.1.1 sender unknown", A, None, None),
    ("mail", 550, "rejected", A, None, None),
    ("rcpt", 554, "5.7.1 <x@y.test>: Relay access denied", A, None, None),
    ("rcpt", 454, "4.7.1 <x@y.test>: Relay access denied", A, None, None),
    ("rcpt", 550, "relaying denied", A, None, None),
    ("rcpt", 550, "5.1.7 bad sender address", A, None, None),
    ("rcpt", 553, f"5.7.1 <bounces+0192@bounce.test>: {NOT_OWNED} hello", A, None, None),
    ("rcpt", 553, f"5.7.1 <bounces+0192@bounce.test>: {NOT_LOGGED_IN}", A, None, None),
    ("rcpt", 550, f"5.7.1 {SEND_AS}", A, None, None),
    ("rcpt", 553, NOT_LOGGED_IN, A, None, None),
    ("final", 554, ACCESS_DENIED, A, None, None),
    ("data", 554, ACCESS_DENIED, A, None, None),
    ("final", 554, "Message rejected: Sending suspended for this account. For more information, ...", A, None, None),
    ("final", 554, "Message rejected: Sending paused for this account.", A, None, None),
    # the recipient
    ("rcpt", 550, "5.1.1 <x@y.test>: User unknown", P, None, None),
    ("rcpt", 550, "5.1.2 bad destination system", P, None, None),
    ("rcpt", 553, "5.1.3 bad syntax", P, None, None),
    ("rcpt", 550, "5.1.6 moved", P, None, None),
    ("rcpt", 556, "5.1.10 null MX", P, None, None),
    ("rcpt", 550, "5.2.1 mailbox disabled", P, None, None),
    ("final", 550, "5.1.1 no such user", P, None, None),
    ("rcpt", 550, "No such user here", P, None, None),
    ("rcpt", 550, "#5.1.0 Address rejected: user unknown", P, None, None),
    ("rcpt", 551, "User not found", P, None, None),
    ("rcpt", 556, "domain does not accept mail", P, None, None),
    # soft
    ("rcpt", 552, "5.2.2 Mailbox full", C, "mailbox_full", None),
    ("rcpt", 552, "mailbox is over its size", C, "mailbox_full", None),
    ("rcpt", 550, "5.0.0 quota exceeded", C, "mailbox_full", None),
    # content
    ("final", 552, "5.2.3 too long", C, "content", None),
    ("final", 552, "5.3.4 Message too big", C, "content", None),
    ("final", 552, "message size exceeds the limit", C, "content", None),
    ("mail", 552, "5.3.4 Message size exceeds fixed limit", C, "content", None),
    ("mail", 552, "no", C, "content", None),
    ("final", 554, "5.6.0 content rejected", C, "content", None),
    # policy
    ("rcpt", 550, "5.7.1 message refused", C, "reputation", None),
    ("final", 550, "5.7.26 DMARC", C, "reputation", None),
    ("final", 554, "5.7.25 no PTR", C, "reputation", None),
    ("rcpt", 550, "blocked using zen.example", C, "reputation", None),
    # what is said of the message is about its sender; before that, of an envelope that is the account's own
    ("final", 550, "5.7.60 client does not have permissions to send as this sender", A, SENDER_REFUSED, None),
    ("final", 550, "5.1.8 sender's domain not found", A, SENDER_REFUSED, None),
    ("final", 550, f"5.7.1 {SEND_AS}", A, SENDER_REFUSED, None),
    ("final", 553, f"5.7.1 <hello@shop.test>: {NOT_OWNED} hello", A, SENDER_REFUSED, None),
    ("final", 553, f"5.7.1 <bounces+0192@bounce.test>: {NOT_OWNED} hello", A, None, None),
    ("final", 554, f"{UNVERIFIED} hello@shop.test", A, SENDER_REFUSED, None),
    ("final", 554, f"{UNVERIFIED} bounces+0192@bounce.test", A, None, None),
    ("mail", 554, f"{UNVERIFIED} hello@shop.test", A, None, None),
    ("rcpt", 550, "5.1.8 sender's domain not found", A, None, None),
    ("final", 550, "5.7.1 Relaying denied", A, None, None),
    ("final", 535, "5.7.8 log in first", A, None, None),
    # the rest
    ("rcpt", 501, "5.5.4 what?", C, None, None),
    ("data", 503, "bad sequence", C, None, None),
    ("rcpt", 550, "", C, None, None),
    ("rcpt", 550, "mailbox unavailable", C, None, None),
    ("rcpt", 550, "5.7.1 Recipient address rejected: user unknown to policy", C, "reputation", None),
    ("final", 554, "transaction failed", C, None, None),
    ("rcpt", 550, "5.4.1 no answer", C, None, None),
    # what sounds alike, and is said of the recipient or the message
    ("rcpt", 550, "5.4.1 Recipient address rejected: Access denied. AS(201806281)", C, None, None),
    ("final", 554, "5.7.1 Access denied", C, "reputation", None),
    ("final", 554, "Access denied", C, None, None),
    ("rcpt", 550, "5.7.1 you do not have permission to send to this recipient", C, "reputation", None),
    ("rcpt", 554, "5.7.1 <bounces+0192@bounce.test>: Sender address rejected: Access denied", C, "reputation", None),
]


@pytest.mark.parametrize(("phase", "code", "words", "kind", "reason", "wait"), REPLIES)
def test_what_a_refusal_comes_to(phase, code, words, kind, reason, wait):
    outcome = SMTP.interpret(reply(code, words, phase), NOW)
    assert (outcome.kind, outcome.reason, outcome.retry_after_seconds) == (kind, reason, wait)
    assert outcome.status_code == code
    assert outcome.detail.startswith(f"{phase}: {code}")
    assert "x@y.test" not in outcome.detail


@given(st.integers(-1, 999), st.text(), st.sampled_from(["connect", "auth", "mail", "rcpt", "data", "final", "?"]))
def test_every_reply_means_something_and_only_one_kind_accepts(code, words, phase):
    outcome = SMTP.interpret(ProviderResponse(code, {"phase": phase}, words.encode("utf-8", "replace")), NOW)
    assert (outcome.kind is OutcomeKind.ACCEPTED) == (phase == "final" and 200 <= code < 300)
    assert (outcome.kind is OutcomeKind.UNKNOWN) <= (phase == "final")
    assert len(outcome.detail) <= 300
    if outcome.kind is OutcomeKind.RECIPIENT_INVALID:
        assert phase in ("rcpt", "data", "final", "?")


def test_a_full_mailbox_is_a_soft_bounce_of_this_very_attempt():
    """A bounce that needs no report, and is to count like one that came by one (R-113, R-114)."""
    (evidence,) = SMTP.interpret(reply(552, "5.2.2 <x@y.test> is full"), NOW).evidence
    assert (evidence.kind, evidence.bounce_class) == (EvidenceKind.BOUNCED, BounceClass.SOFT)
    assert (evidence.delivery_id, evidence.attempt_no, evidence.occurred_at) == (DELIVERY, 2, NOW)
    assert evidence.suppress_reason is None
    assert evidence.data == {"code": 552, "diagnostic": "5.2.2 <<address>> is full"}


@pytest.mark.parametrize("envelope_id", ["", "x", f"{DELIVERY}.2", f"{DELIVERY}.2.aaaaaaaaaaaa"])
def test_an_answer_without_our_reference_proves_nothing(envelope_id):
    assert SMTP.interpret(reply(552, "5.2.2 full", envelope_id=envelope_id), NOW).evidence == ()
    assert SMTP.interpret(reply(250, "ok", "final", envelope_id), NOW).provider_message_id is None


def test_the_codes_stand_at_the_beginning():
    assert enhanced_code("5.1.1 unknown") == "5.1.1"
    assert enhanced_code(" 550-5.1.10 null MX") == "5.1.10"
    assert enhanced_code("550 #5.1.0 rejected") == "5.1.0"
    for text in ("", "refused by 5.1.1.2", "5.1.1.2 refuses", "Exim 4.96.1 says no", "550 host 5.2.1", "5.1.1x"):
        assert enhanced_code(text) == ""


def test_a_permanent_code_is_not_softened_by_its_enhanced_one():
    assert classify(550, "4.1.1", "") is Refusal.RECIPIENT
    assert classify(450, "5.1.1", "") is Refusal.TEMPORARY


@given(st.text())
def test_no_address_is_shown_in_full(text):
    assert "zoe@example.test" not in redacted(f"{text[:100]} <zoe@example.test> {text}")


# -- the account ---------------------------------------------------------------------------------------------

SETTINGS = {"adapter": "smtp", "host": "relay.test", "bounce_domain": "mail.test", "webhook_token": TOKEN}


def test_an_account_is_made_from_settings():
    provider = make_provider("relay", {**SETTINGS, "port": 2525, "security": "tls", "username": "u", "password": "p"})
    assert isinstance(provider, Smtp)
    assert provider.account == replace(ACCOUNT, port=2525, security="tls", username="u", password="p")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"host": "relay.test/x"}, "host"),
        ({"host": ""}, "host"),
        ({"port": 0}, "port"),
        ({"security": "ssl"}, "security"),
        ({"bounce_domain": "mail test"}, "bounce_domain"),
        ({"bounce_domain": "a@mail.test"}, "bounce_domain"),
        ({"local_hostname": "x y"}, "local_hostname"),
        ({"username": "u"}, "go together"),
        ({"password": "p"}, "go together"),
        ({"username": "u", "password": "p", "security": "none"}, "security must be"),
        ({"webhook_token": "short"}, "16 characters"),
        ({"webhook_token": ""}, "16 characters"),
        ({"previous_webhook_token": "short"}, "16 characters"),
        ({"webhook_token": "with a blank in the middle"}, "without blanks"),
        ({"verp": True}, "verp"),
    ],
)
def test_an_account_that_could_not_work_is_refused(changes, says):
    with pytest.raises(ConfigurationError, match=says):
        make_provider("relay", {**SETTINGS, **changes})


def test_a_password_may_go_to_this_very_machine_in_clear():
    make_provider("relay", {**SETTINGS, "host": "127.0.0.1", "username": "u", "password": "p", "security": "none"})


def test_no_secret_shows():
    account = replace(
        ACCOUNT, username="u", password="s3cret-password", previous_webhook_token="an-older-token-of-ours"
    )
    shown = repr(account) + repr(Smtp(account).build(MESSAGE, CONTEXT))
    for secret in (TOKEN, "s3cret-password", "an-older-token-of-ours", MESSAGE.text.strip()):
        assert secret not in shown


# -- the bounce endpoint -------------------------------------------------------------------------------------


def basic(password: str) -> str:
    return "Basic " + b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize("authorization", [f"Bearer {TOKEN}", f"bearer  {TOKEN} ", basic(TOKEN)])
def test_the_token_opens_the_endpoint(authorization):
    SMTP.verify(posted("x", {"Authorization": authorization}), NOW)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", TOKEN, f"Digest {TOKEN}", basic("wrong"), "Basic ???"]
    + ["Basic " + b64encode(TOKEN.encode()).decode(), "Bearer \udcff", "Bearer ä"],
)
def test_nothing_else_does(authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    with pytest.raises(WebhookRefused) as refused:
        SMTP.verify(posted("x", headers), NOW)
    assert (refused.value.reason, refused.value.http_status) == ("forged", 401)
    assert TOKEN not in refused.value.detail


def test_a_changed_token_is_honoured_beside_the_one_before():
    changed = Smtp(replace(ACCOUNT, webhook_token="the-token-that-is-new", previous_webhook_token=TOKEN))
    for token in ("the-token-that-is-new", TOKEN):
        changed.verify(posted("x", {"Authorization": f"Bearer {token}"}), NOW)
    # A report about a message that was sent before the change still finds its delivery.
    report = f"To: bounces+{ENVELOPE_ID}@mail.test\r\nSubject: returned\r\n\r\nsorry\r\n"
    (evidence,) = changed.parse(posted(report))
    assert (evidence.delivery_id, evidence.attempt_no) == (DELIVERY, 2)
    assert f"<{evidence.provider_message_id}>" == composed()["Message-ID"]


@pytest.mark.parametrize(
    "reference",
    [
        ENVELOPE_ID.upper(),
        f"<bounces+{ENVELOPE_ID}@mail.test>",
        f"bounces+{ENVELOPE_ID}@MAIL.TEST, another@example.test",
        f"SRS0=abc=de=mail.test=bounces+{ENVELOPE_ID}@forwarder.test",
    ],
)
def test_a_reference_is_known_again_whatever_was_done_to_it(reference):
    (evidence,) = SMTP.parse(posted(f"To: {reference}\r\nSubject: returned\r\n\r\n"))
    assert (evidence.delivery_id, evidence.attempt_no) == (DELIVERY, 2)


@pytest.mark.parametrize(
    "reference",
    [
        f"{DELIVERY}.2",
        ENVELOPE_ID[:-1] + ("a" if ENVELOPE_ID[-1] != "a" else "b"),
        ENVELOPE_ID.replace(".2.", ".3."),
        ENVELOPE_ID.replace(str(DELIVERY), str(UUID(int=7))),
        ENVELOPE_ID + "x",
        ENVELOPE_ID.replace(".2.", "."),
    ],
)
def test_a_reference_that_was_tampered_with_is_nobodys(reference):
    with pytest.raises(WebhookRefused) as refused:
        SMTP.parse(posted(f"To: bounces+{reference}@mail.test\r\n\r\n"))
    assert (refused.value.reason, refused.value.http_status) == ("not_a_report", 202)


def test_another_account_does_not_know_our_references():
    other = Smtp(replace(ACCOUNT, webhook_token="another-account's-token"))
    with pytest.raises(WebhookRefused):
        other.parse(posted(f"To: bounces+{ENVELOPE_ID}@mail.test\r\n\r\n"))


def test_a_time_is_the_contexts():
    late = replace(CONTEXT, now=datetime(2030, 5, 6, 7, 8, 9, tzinfo=UTC))
    assert b"\r\nDate: Mon, 06 May 2030 07:08:09 +0000\r\n" in SMTP.build(MESSAGE, late).message
