"""The Vonage adapter on bytes: requests it builds, answers it reads, webhooks it believes and refuses."""

from __future__ import annotations

import contextlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import BounceClass, EvidenceKind, OutcomeKind
from app.errors import ConfigurationError, InvalidFields, WebhookRefused
from app.providers.base import SENDER_REFUSED, AttemptRef, LookupVerdict, ProviderResponse, SendContext, WebhookRequest
from app.providers.registry import make_provider
from app.providers.vonage import Vonage, VonageAccount
from tests.messages import CONTEXT, DELIVERY, NOW, posted, sms_message

MESSAGE_ID = "0A0000000123ABCD1"
REFERENCE = f"{DELIVERY}.2"
ACCOUNT = VonageAccount("api-key", "+14155550100", "signing-secret", api_secret="api-secret")
VONAGE = Vonage(ACCOUNT)
MESSAGE = sms_message()


def form(message=MESSAGE, vonage=VONAGE, context=CONTEXT) -> dict[str, str]:
    body = vonage.build(message, context).body.decode("ascii")
    return dict(parse_qsl(body, keep_blank_values=True, strict_parsing=True))


def answer(status: int, body: Any = b"", **headers: str) -> ProviderResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ProviderResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def told(*statuses: Any, **more: Any) -> ProviderResponse:
    """An answer with a message for each status."""
    messages = [
        {"to": "14155550101", "status": status}
        | ({"message-id": f"{MESSAGE_ID[:-1]}{n}"} if status == "0" else {"error-text": "words"})
        | more
        for n, status in enumerate(statuses, start=1)
    ]
    return answer(200, {"message-count": str(len(messages)), "messages": messages})


def sign(params: Mapping[str, Any], key: str = "signing-secret", method: str = "sha256") -> str:
    signed = "".join(f"&{name}={str(params[name]).translate({38: 95, 61: 95})}" for name in sorted(params))
    return hmac.new(key.encode(), signed.encode(), method).hexdigest()


def webhook(params: Mapping[str, Any], style: str = "form", at: datetime = NOW, **changes: Any) -> WebhookRequest:
    """A webhook as Vonage sends it: by GET, as a form or as JSON; signed unless a sig is given."""
    stamped = {**params, "timestamp": str(int(at.timestamp())), "nonce": "9bd1d1a5"}
    signed = stamped | {"sig": sign(stamped)} | changes
    if style == "get":
        return posted(b"", url=f"{CONTEXT.webhook_url}?{urlencode(signed)}", method="GET")
    if style == "json":
        return posted(json.dumps(signed), {"Content-Type": "application/json"})
    return posted(urlencode(signed), {"Content-Type": "application/x-www-form-urlencoded"})


def receipt(status: str, code: int | None = None, **more: str) -> dict[str, str]:
    return {
        "msisdn": "14155550101",
        "to": "14155550100",
        "network-code": "310090",
        "messageId": MESSAGE_ID,
        "price": "0.00650000",
        "status": status,
        "scts": "2603011159",
        "message-timestamp": "2026-03-01 11:59:30",
        "client-ref": REFERENCE,
        **({} if code is None else {"err-code": str(code)}),
        **more,
    }


def inbound(words: str, **more: str) -> dict[str, str]:
    return {
        "msisdn": "14155550101",
        "to": "14155550100",
        "messageId": MESSAGE_ID,
        "text": words,
        "type": "text",
        "keyword": words.upper().split(" ")[0],
        "message-timestamp": "2026-03-01 11:59:31",
    } | more


# -- building ------------------------------------------------------------------------------------------------


def test_a_send_carries_the_text_and_our_reference():
    request = VONAGE.build(MESSAGE, CONTEXT)
    assert (request.method, request.url, request.timeout_seconds) == ("POST", "https://rest.nexmo.com/sms/json", 10.0)
    assert form() == {
        "api_key": "api-key",
        "api_secret": "api-secret",
        "from": "14155550100",
        "to": "14155550101",
        "text": "Your code is 123456",
        "type": "text",
        "client-ref": REFERENCE,
        "callback": CONTEXT.webhook_url,
        "status-report-req": "true",
        "ttl": "86400000",
    }


def test_without_a_secret_of_its_own_a_send_is_signed():
    fields = form(vonage=Vonage(replace(ACCOUNT, api_secret=None, signature_method="sha512")))
    signature = fields.pop("sig")
    assert "api_secret" not in fields
    assert fields["timestamp"] == str(int(NOW.timestamp()))
    assert signature == sign(fields, method="sha512")


@pytest.mark.parametrize(
    ("text", "kind"), [("Your code", "text"), ("{€}", "text"), ("Grüße ç", "unicode"), ("😀", "unicode")]
)
def test_a_text_beyond_the_gsm_alphabet_is_sent_as_unicode(text, kind):
    fields = form(replace(MESSAGE, text=text))
    assert (fields["text"], fields["type"]) == (text, kind)


@pytest.mark.parametrize(("offset", "ttl"), [(3600, "3600000"), (86400 * 9, "604800000"), (5, "20000"), (-5, "20000")])
def test_a_text_is_not_delivered_after_it_expired(offset, ttl):
    assert form(replace(MESSAGE, expires_at=NOW + timedelta(seconds=offset)))["ttl"] == ttl


@pytest.mark.parametrize("url", [None, "https://notify.example.com/" + "a" * 74])
def test_a_callback_that_vonage_would_not_take_is_left_to_the_account(url):
    assert "callback" not in form(context=SendContext(NOW, "account", url))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_arrives_unchanged(text):
    assert form(replace(MESSAGE, text=text))["text"] == text


@pytest.mark.parametrize(("changes", "field"), [({"to": "14155550101"}, "to"), ({"text": ""}, "text")])
def test_what_must_never_leave_is_refused_by_name(changes, field):
    with pytest.raises(InvalidFields) as caught:
        VONAGE.build(sms_message(**changes), CONTEXT)
    assert [error.field for error in caught.value.errors] == [field]


# -- the account ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told_"),
    [
        ({"api_key": ""}, "api_key"),
        ({"api_secret": ""}, "api_secret"),
        ({"signature_secret": ""}, "signature_secret"),
        ({"sender": "a sender that is too long"}, "sender"),
        ({"base_url": "rest.nexmo.com"}, "base_url"),
    ],
)
def test_an_account_that_cannot_work_is_refused(wrong, told_):
    with pytest.raises(ValueError, match=told_):
        replace(ACCOUNT, **wrong)


def test_nothing_prints_a_secret():
    account = replace(ACCOUNT, previous_signature_secret="older-secret")
    shown = repr(account) + repr(VONAGE.build(MESSAGE, CONTEXT))
    assert not any(secret in shown for secret in ("signing-secret", "api-secret", "older-secret"))


def test_an_account_is_made_from_settings():
    settings = {"adapter": "vonage", "api_key": "k", "sender": "Acme", "signature_secret": "s"}
    provider = make_provider("main", settings | {"signature_method": "sha512", "base_url": "http://127.0.0.1:1"})
    assert isinstance(provider, Vonage)
    assert provider.build(MESSAGE, CONTEXT).url == "http://127.0.0.1:1/sms/json"
    with pytest.raises(ConfigurationError, match=r"providers\.main\.signature_method"):
        make_provider("main", settings | {"signature_method": "md5hash"})


# -- answers to a send ---------------------------------------------------------------------------------------


def test_an_answer_that_took_every_segment_is_accepted():
    outcome = VONAGE.interpret(told("0", "0"), NOW)
    assert (outcome.kind, outcome.provider_message_id) == (OutcomeKind.ACCEPTED, "0A0000000123ABCD1")


@pytest.mark.parametrize("statuses", [("0", "5"), ("5", "0"), ("0", "0", "9")])
def test_a_text_of_which_some_segments_were_taken_is_unknown(statuses):
    outcome = VONAGE.interpret(told(*statuses), NOW)
    assert outcome.kind is OutcomeKind.UNKNOWN
    assert "segments taken" in outcome.detail


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        [],
        {},
        {"messages": []},
        {"messages": {}},
        {"messages": [{}]},
        {"messages": [{"status": "x"}]},
        {"messages": [{"status": "0"}]},
        {"messages": [{"status": "0", "message-id": "a/b"}]},
        {"messages": ["0"]},
    ],
)
def test_an_answer_of_success_that_says_nothing_is_unknown(body):
    assert VONAGE.interpret(answer(200, body), NOW).kind is OutcomeKind.UNKNOWN


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("1", OutcomeKind.RATE_LIMITED),
        ("2", OutcomeKind.REJECTED),
        ("3", OutcomeKind.REJECTED),
        ("4", OutcomeKind.UNAUTHORIZED),
        ("5", OutcomeKind.TRANSIENT),
        ("6", OutcomeKind.RECIPIENT_INVALID),
        ("7", OutcomeKind.RECIPIENT_INVALID),
        ("8", OutcomeKind.UNAUTHORIZED),
        ("9", OutcomeKind.UNAUTHORIZED),
        ("14", OutcomeKind.UNAUTHORIZED),
        ("15", OutcomeKind.UNAUTHORIZED),
        ("22", OutcomeKind.REJECTED),
        ("29", OutcomeKind.UNAUTHORIZED),
        ("99", OutcomeKind.REJECTED),
        (4, OutcomeKind.UNAUTHORIZED),
    ],
)
def test_vonage_answers_200_to_what_it_refuses(status, kind):
    outcome = VONAGE.interpret(told(status), NOW)
    assert (outcome.kind, outcome.detail, outcome.status_code) == (kind, f"{status}: words", 200)
    assert outcome.reason == (SENDER_REFUSED if status in ("15", "29") else None)
    again = VONAGE.interpret(told(status, status), NOW)
    assert (again.kind, again.reason) == (kind, outcome.reason)


@pytest.mark.parametrize(
    ("http", "kind"),
    [
        (302, OutcomeKind.UNAUTHORIZED),
        (401, OutcomeKind.UNAUTHORIZED),
        (404, OutcomeKind.UNAUTHORIZED),
        (408, OutcomeKind.UNKNOWN),
        (422, OutcomeKind.REJECTED),
        (429, OutcomeKind.RATE_LIMITED),
        (500, OutcomeKind.UNKNOWN),
        (503, OutcomeKind.UNKNOWN),
    ],
)
def test_an_answer_that_is_not_the_apis_is_judged_by_its_status(http, kind):
    outcome = VONAGE.interpret(answer(http, b"<html>", retry_after="2"), NOW)
    assert (outcome.kind, outcome.detail) == (kind, f"HTTP {http}")
    assert outcome.retry_after_seconds == (2.0 if kind is OutcomeKind.RATE_LIMITED else None)


def test_details_name_no_number():
    assert (
        VONAGE.interpret(told("6", **{"error-text": "No route to 14155550101"}), NOW).detail
        == "6: No route to <number>"
    )


# -- signatures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["get", "form", "json"])
@pytest.mark.parametrize("age", [timedelta(0), timedelta(hours=25), timedelta(minutes=-4)])
def test_a_signed_webhook_is_believed_however_it_comes(style, age):
    VONAGE.verify(webhook(receipt("delivered", 0, x="a&b=c ü"), style, NOW - age), NOW)


@pytest.mark.parametrize("age", [timedelta(hours=27), timedelta(minutes=-6)])
def test_a_signature_from_another_time_is_stale(age):
    with pytest.raises(WebhookRefused) as caught:
        VONAGE.verify(webhook(receipt("delivered", 0), at=NOW - age), NOW)
    assert caught.value.reason == "stale"


@pytest.mark.parametrize("method", ["md5", "sha1", "sha256", "sha512"])
def test_each_hash_that_an_account_may_choose_is_known(method):
    vonage = Vonage(replace(ACCOUNT, signature_method=method))
    params = receipt("delivered", 0) | {"timestamp": str(int(NOW.timestamp()))}
    for signature in (sign(params, method=method), sign(params, method=method).upper()):
        vonage.verify(posted(json.dumps(params | {"sig": signature})), NOW)
    with pytest.raises(WebhookRefused):
        vonage.verify(posted(json.dumps(params | {"sig": sign(params, method="sha384")})), NOW)


def test_numbers_are_signed_as_they_are_written():
    params = {
        "messageId": MESSAGE_ID,
        "status": "delivered",
        "timestamp": int(NOW.timestamp()),
        "price": 0.0065,
        "x": True,
    }
    VONAGE.verify(posted(json.dumps(params | {"sig": sign(params)})), NOW)


@pytest.mark.parametrize("style", ["get", "form", "json"])
@pytest.mark.parametrize("changes", [{"sig": ""}, {"sig": "0" * 64}, {"sig": "é"}, {"status": "failed"}, {"x": ""}])
def test_anything_else_is_forged(style, changes):
    with pytest.raises(WebhookRefused) as caught:
        VONAGE.verify(webhook(receipt("delivered", 0), style, **changes), NOW)
    assert (caught.value.reason, caught.value.http_status) == ("forged", 401)


def test_a_parameter_that_is_no_value_is_refused():
    with pytest.raises(WebhookRefused, match="no value"):
        VONAGE.verify(webhook(receipt("delivered", 0), "json", x=[1]), NOW)


def test_two_secrets_are_believed_while_one_is_rotated_out():
    vonage = Vonage(replace(ACCOUNT, signature_secret="newer", previous_signature_secret="signing-secret"))
    vonage.verify(webhook(receipt("delivered", 0)), NOW)


# -- receipts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["get", "form", "json"])
@pytest.mark.parametrize(
    ("status", "code", "kind", "bounce", "suppress"),
    [
        ("accepted", 0, EvidenceKind.ACCEPTED, None, None),
        ("buffered", 0, EvidenceKind.ACCEPTED, None, None),
        ("unknown", 99, EvidenceKind.ACCEPTED, None, None),
        ("delivered", 0, EvidenceKind.DELIVERED, None, None),
        ("expired", None, EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        ("expired", 2, EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        ("failed", 1, EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        ("failed", 3, EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce"),
        ("failed", 4, EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce"),
        ("failed", 5, EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        ("rejected", 6, EvidenceKind.BOUNCED, BounceClass.REPUTATION, None),
        ("failed", 7, EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        ("failed", 8, EvidenceKind.FAILED, None, None),
        ("rejected", 9, EvidenceKind.FAILED, BounceClass.PROVIDER_SUPPRESSED, "opted_out"),
        ("rejected", 10, EvidenceKind.FAILED, BounceClass.CONTENT, None),
        ("rejected", 11, EvidenceKind.FAILED, None, None),
        ("failed", 12, EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        ("rejected", 13, EvidenceKind.FAILED, BounceClass.CONTENT, None),
        ("rejected", 14, EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        ("failed", 15, EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        ("failed", 99, EvidenceKind.FAILED, None, None),
        ("failed", 1234, EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        ("something_new", 3, EvidenceKind.OTHER, None, None),
    ],
)
def test_each_receipt_is_evidence_about_our_attempt(style, status, code, kind, bounce, suppress):
    (evidence,) = VONAGE.parse(webhook(receipt(status, code), style))
    assert (evidence.kind, evidence.bounce_class, evidence.suppress_reason) == (kind, bounce, suppress)
    assert evidence.event_key == f"{MESSAGE_ID}:{status}:{'' if code is None else code}"
    assert (evidence.delivery_id, evidence.attempt_no, evidence.provider_message_id) == (DELIVERY, 2, MESSAGE_ID)
    assert evidence.address == "+14155550101"
    assert evidence.occurred_at == datetime(2026, 3, 1, 11, 59, 30, tzinfo=UTC)


def test_a_receipt_without_a_time_happened_when_it_came():
    request = webhook({name: v for name, v in receipt("delivered", 0).items() if name != "message-timestamp"})
    (evidence,) = VONAGE.parse(replace(request, received_at=NOW + timedelta(seconds=5)))
    assert (evidence.occurred_at, evidence.event_key) == (NOW + timedelta(seconds=5), f"{MESSAGE_ID}:delivered:0")


@pytest.mark.parametrize(
    "params", [{}, {"messageId": MESSAGE_ID}, {"status": "delivered"}, receipt("delivered", messageId="a/b")]
)
def test_what_is_no_receipt_is_malformed(params):
    with pytest.raises(WebhookRefused) as caught:
        VONAGE.parse(webhook(params))
    assert caught.value.reason == "malformed"


# -- inbound messages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["get", "form", "json"])
@pytest.mark.parametrize(
    ("params", "kind", "keyword"),
    [
        (inbound("Stop"), EvidenceKind.OPTED_OUT, "STOP"),
        (inbound("YES"), EvidenceKind.OPTED_IN, "START"),
        (inbound("help"), EvidenceKind.OTHER, "HELP"),
        (inbound("Stop by at noon, my PIN is 4711"), EvidenceKind.OTHER, None),  # Vonage's keyword is its first word
        (inbound("STOP", concat="true", **{"concat-part": "2"}), EvidenceKind.OTHER, None),
        (inbound("", type="binary"), EvidenceKind.OTHER, None),
    ],
)
def test_an_answer_of_a_recipient_opts_out_or_in(style, params, kind, keyword):
    (evidence,) = VONAGE.parse(webhook(params, style))
    assert (evidence.kind, evidence.address) == (kind, "+14155550101")
    assert evidence.data == {"inbound": True, "keyword": keyword, "to": "…0100"}
    assert evidence.event_key == f"inbound:{MESSAGE_ID}"
    assert evidence.occurred_at == datetime(2026, 3, 1, 11, 59, 31, tzinfo=UTC)
    assert "4711" not in repr(evidence)


# -- looking up ----------------------------------------------------------------------------------------------


def test_nothing_can_be_looked_up():
    assert not VONAGE.capabilities.can_look_up
    attempt = AttemptRef(DELIVERY, 2, NOW, "+14155550101", None)
    assert VONAGE.interpret_lookup(attempt, answer(200), NOW).verdict is LookupVerdict.UNANSWERABLE


# -- whatever comes ------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.just(MESSAGE_ID)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner))
FIELDS = st.fixed_dictionaries({}, optional=dict.fromkeys([*receipt("", 0), *inbound(""), "sig", "timestamp"], JSON))
PAYLOADS = (
    JSON | FIELDS | FIELDS.map(lambda odd: receipt("failed", 9) | odd) | FIELDS.map(lambda odd: inbound("x") | odd)
)
BODIES = st.binary(max_size=100) | PAYLOADS.map(lambda value: json.dumps(value).encode())


@given(BODIES, st.text(max_size=60), st.sampled_from(["application/x-www-form-urlencoded", "application/json", ""]))
def test_whatever_comes_a_webhook_is_read_or_refused(body, url, content_type):
    request = posted(body, {"Content-Type": content_type}, url=url)
    with pytest.raises(WebhookRefused):
        VONAGE.verify(request, NOW)
    with contextlib.suppress(WebhookRefused):
        for evidence in VONAGE.parse(request):
            assert 0 < len(evidence.event_key) <= 200
            json.dumps(evidence.data).encode()


MESSAGES = st.lists(st.fixed_dictionaries({}, optional={"status": JSON | st.just("0"), "message-id": JSON}) | JSON)


@given(st.integers(100, 599), BODIES | MESSAGES.map(lambda value: json.dumps({"messages": value}).encode()), st.text())
def test_whatever_comes_an_answer_has_a_meaning(http, body, wait):
    outcome = VONAGE.interpret(ProviderResponse(http, {"retry-after": wait}, body), NOW)
    assert len(outcome.detail) <= 500
    assert outcome.kind is not OutcomeKind.ACCEPTED or 200 <= http < 300
