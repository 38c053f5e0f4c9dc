"""The Twilio adapter on bytes: requests it builds, answers it reads, webhooks it believes and refuses."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import BounceClass, Channel, EvidenceKind, OutcomeKind
from app.domain.sms import content_hash
from app.errors import ConfigurationError, InvalidFields, WebhookRefused
from app.providers.base import SENDER_REFUSED, AttemptRef, LookupVerdict, ProviderResponse, SendContext, WebhookRequest
from app.providers.registry import make_provider
from app.providers.twilio import RETRY_OVERRIDE, Twilio, TwilioAccount
from tests.messages import CONTEXT, DELIVERY, NOW, posted, sms_message

SID = "SM" + "a1" * 16
ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
SERVICE_SID = "MG" + "0123456789abcdef" * 2
ACCOUNT = TwilioAccount(
    ACCOUNT_SID,
    "auth-token",
    sender="+14155550100",
    previous_auth_token="previous-token",
    shared_key="shared-key",
    lookup_settle_seconds=600.0,
)
TWILIO = Twilio(ACCOUNT)
MESSAGE = sms_message()
CALLBACK = f"{CONTEXT.webhook_url}?mid={DELIVERY}.2"
MESSAGES = f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT_SID}/Messages"


def form(message=MESSAGE, account=ACCOUNT, context=CONTEXT) -> dict[str, str]:
    body = Twilio(account).build(message, context).body.decode("ascii")
    return dict(parse_qsl(body, keep_blank_values=True, strict_parsing=True))


def answer(status: int, body: Mapping[str, Any] | bytes = b"", **headers: str) -> ProviderResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ProviderResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def refused(status: int, code: int, message: str = "", **headers: str) -> ProviderResponse:
    return answer(status, {"code": code, "message": message, "more_info": "", "status": status}, **headers)


def sign(url: str, params: Mapping[str, str], key: str = "auth-token", algorithm: str = "sha1") -> str:
    signed = url + "".join(f"{name}{params[name]}" for name in sorted(params))
    return b64encode(hmac.new(key.encode(), signed.encode(), algorithm).digest()).decode()


def webhook(params: Mapping[str, str], *, url: str = CALLBACK, **headers: str) -> WebhookRequest:
    """A form as Twilio posts it, signed unless a signature is given."""
    given = {
        "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
        "X-Twilio-Signature": sign(url, params),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return posted(urlencode(params), given, url=url)


def status(status: str, code: int | None = None, **more: str) -> dict[str, str]:
    params = {
        "AccountSid": ACCOUNT_SID,
        "ApiVersion": "2010-04-01",
        "From": "+14155550100",
        "MessageSid": SID,
        "MessageStatus": status,
        "SmsSid": SID,
        "SmsStatus": status,
        "To": "+14155550101",
    }
    return params | ({"ErrorCode": str(code)} if code else {}) | more


def inbound(body: str, **more: str) -> dict[str, str]:
    return {
        "AccountSid": ACCOUNT_SID,
        "Body": body,
        "From": "+14155550101",
        "FromCountry": "US",
        "MessageSid": SID,
        "NumMedia": "0",
        "NumSegments": "1",
        "SmsStatus": "received",
        "To": "+14155550100",
    } | more


# -- building ------------------------------------------------------------------------------------------------


def test_a_send_carries_the_text_and_our_reference_in_the_callback():
    request = TWILIO.build(MESSAGE, CONTEXT)
    assert (request.method, request.url, request.timeout_seconds) == ("POST", f"{MESSAGES}.json", 10.0)
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert b64decode(request.headers["Authorization"].removeprefix("Basic ")) == f"{ACCOUNT_SID}:auth-token".encode()
    assert form() == {
        "To": "+14155550101",
        "From": "+14155550100",
        "Body": "Your code is 123456",
        "SmartEncoded": "false",
        "StatusCallback": f"{CALLBACK}#{RETRY_OVERRIDE}",
        "ValidityPeriod": "36000",
    }


def test_without_a_public_url_a_send_asks_for_no_callback():
    assert "StatusCallback" not in form(context=SendContext(NOW, "account"))


def test_our_reference_joins_a_query_that_is_there_already():
    context = replace(CONTEXT, webhook_url="https://notify.example.com/hooks?account=main")
    assert form(context=context)["StatusCallback"].startswith(
        f"https://notify.example.com/hooks?account=main&mid={DELIVERY}.2#rc=5&rp=all"
    )


@pytest.mark.parametrize(("seconds", "period"), [(3600, "3600"), (86400, "36000"), (0, "1"), (-5, "1"), (59.9, "59")])
def test_a_text_is_not_delivered_after_it_expired(seconds, period):
    assert form(replace(MESSAGE, expires_at=NOW + timedelta(seconds=seconds)))["ValidityPeriod"] == period


def test_a_messaging_service_sends_in_place_of_a_number_or_with_it():
    service = form(account=replace(ACCOUNT, sender=None, messaging_service_sid=SERVICE_SID))
    assert (service.get("From"), service["MessagingServiceSid"]) == (None, SERVICE_SID)
    both = form(account=replace(ACCOUNT, messaging_service_sid=SERVICE_SID))
    assert (both["From"], both["MessagingServiceSid"]) == ("+14155550100", SERVICE_SID)


def test_an_api_key_sends_and_the_auth_token_still_verifies():
    account = replace(ACCOUNT, api_key_sid="SK" + "0" * 32, api_key_secret="key-secret", base_url="http://127.0.0.1:1")
    request = Twilio(account).build(MESSAGE, CONTEXT)
    assert request.url == f"http://127.0.0.1:1/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json"
    assert b64decode(request.headers["Authorization"].removeprefix("Basic ")).endswith(b":key-secret")
    Twilio(account).verify(webhook(status("sent")), NOW)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1600))
def test_any_text_arrives_unchanged(text):
    assert form(replace(MESSAGE, text=text))["Body"] == text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"to": "+1415555\r\n0101"}, "to"),
        ({"to": "+14155550101,+14155550102"}, "to"),
        ({"to": "whatsapp:+14155550101"}, "to"),
        ({"to": "14155550101"}, "to"),
        ({"text": ""}, "text"),
        ({"text": "a" * 1601}, "text"),
        ({"text": "half \ud83d"}, "text"),
    ],
)
def test_what_must_never_leave_is_refused_by_name(changes, field):
    with pytest.raises(InvalidFields) as caught:
        TWILIO.build(sms_message(**changes), CONTEXT)
    assert [error.field for error in caught.value.errors] == [field]


@pytest.mark.parametrize("takes_tests", [True, False])
def test_only_test_credentials_take_a_test_message(takes_tests):
    assert Twilio(replace(ACCOUNT, test_credentials=takes_tests)).capabilities.takes_tests == takes_tests


# -- the account ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"account_sid": "AC123"}, "account_sid"),
        ({"account_sid": "AC" + "0" * 31 + "/"}, "account_sid"),
        ({"auth_token": ""}, "auth_token"),
        ({"sender": None}, "sender and messaging_service_sid"),
        ({"sender": "+1 415"}, "sender"),
        ({"sender": "Acme\r\n"}, "sender"),
        ({"messaging_service_sid": "SM" + "0" * 32}, "messaging_service_sid"),
        ({"api_key_sid": "SK1"}, "belong together"),
        ({"base_url": "https://api.twilio.com/2010-04-01"}, "base_url"),
        ({"lookup_settle_seconds": -1.0}, "lookup_settle_seconds"),
    ],
)
def test_an_account_that_cannot_work_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        replace(ACCOUNT, **wrong)


def test_nothing_prints_a_secret():
    account = replace(ACCOUNT, api_key_sid="SK1", api_key_secret="key-secret", previous_shared_key="older-key")
    shown = repr(account) + repr(Twilio(account).build(MESSAGE, CONTEXT))
    secrets = ("auth-token", "previous-token", "shared-key", "key-secret", "older-key")
    assert not any(secret in shown for secret in secrets)


def test_an_account_is_made_from_settings_and_secret_files(tmp_path):
    (tmp_path / "token").write_text("from-file\n")
    settings = {"adapter": "twilio", "account_sid": ACCOUNT_SID, "sender": "Acme", "lookup_settle_seconds": "60"}
    provider = make_provider("main", settings | {"auth_token_file": str(tmp_path / "token")})
    assert isinstance(provider, Twilio)
    assert (provider.account.auth_token, provider.capabilities.lookup_settle_seconds) == ("from-file", 60)
    assert (provider.capabilities.channel, provider.capabilities.accepts_client_id) == (Channel.SMS, False)
    with pytest.raises(ConfigurationError, match=r"providers\.main\.frm"):
        make_provider("main", settings | {"auth_token": "x", "frm": "x"})


# -- answers to a send ---------------------------------------------------------------------------------------

ACCEPTED = {"sid": SID, "status": "queued", "to": "+14155550101", "num_segments": "1", "error_code": None}


def test_an_answer_with_a_sid_is_accepted():
    outcome = TWILIO.interpret(answer(201, ACCEPTED), NOW)
    assert (outcome.kind, outcome.provider_message_id, outcome.detail) == (OutcomeKind.ACCEPTED, SID, "queued")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", {"status": "queued"}, {"sid": ""}, {"sid": None}, {"sid": "../../x"}]
)
def test_an_answer_of_success_without_a_sid_is_unknown(body):
    assert TWILIO.interpret(answer(201, body), NOW).kind is OutcomeKind.UNKNOWN


@pytest.mark.parametrize(
    ("http", "code", "kind"),
    [
        (401, 20003, OutcomeKind.UNAUTHORIZED),
        (404, 20404, OutcomeKind.UNAUTHORIZED),
        (429, 20429, OutcomeKind.RATE_LIMITED),
        (500, 20500, OutcomeKind.UNKNOWN),
        (503, 20503, OutcomeKind.UNKNOWN),
        (400, 21211, OutcomeKind.RECIPIENT_INVALID),
        (400, 21212, OutcomeKind.UNAUTHORIZED),
        (400, 21408, OutcomeKind.REJECTED),
        (400, 21602, OutcomeKind.REJECTED),
        (400, 21604, OutcomeKind.REJECTED),
        (400, 21605, OutcomeKind.REJECTED),
        (400, 21606, OutcomeKind.UNAUTHORIZED),
        (400, 21608, OutcomeKind.UNAUTHORIZED),
        (400, 21610, OutcomeKind.RECIPIENT_INVALID),
        (429, 21611, OutcomeKind.RATE_LIMITED),
        (400, 21611, OutcomeKind.RATE_LIMITED),
        (400, 21612, OutcomeKind.REJECTED),
        (400, 21614, OutcomeKind.RECIPIENT_INVALID),
        (400, 21617, OutcomeKind.REJECTED),
        (400, 21703, OutcomeKind.UNAUTHORIZED),
        (400, 21704, OutcomeKind.UNAUTHORIZED),
        (503, 21730, OutcomeKind.TRANSIENT),
        (400, 30034, OutcomeKind.UNAUTHORIZED),
        (400, 99999, OutcomeKind.REJECTED),
        (503, 21211, OutcomeKind.UNKNOWN),  # whatever it says, a 5xx may have sent
    ],
)
def test_every_error_code_has_its_class(http, code, kind):
    outcome = TWILIO.interpret(refused(http, code, "words"), NOW)
    assert (outcome.kind, outcome.detail, outcome.status_code) == (kind, f"{code}: words", http)
    assert outcome.reason == {
        21610: "opted_out",
        21606: SENDER_REFUSED,
        21608: SENDER_REFUSED,
        30034: SENDER_REFUSED,
    }.get(code)


@pytest.mark.parametrize("http", [302, 503])
@pytest.mark.parametrize("code", [21606, 21610, 30034])
def test_what_the_code_does_not_decide_has_no_reason(http, code):
    assert TWILIO.interpret(refused(http, code, "words"), NOW).reason is None


@pytest.mark.parametrize(
    ("http", "kind"),
    [
        (301, OutcomeKind.UNAUTHORIZED),
        (400, OutcomeKind.REJECTED),
        (401, OutcomeKind.UNAUTHORIZED),
        (403, OutcomeKind.UNAUTHORIZED),
        (404, OutcomeKind.UNAUTHORIZED),
        (408, OutcomeKind.UNKNOWN),
        (413, OutcomeKind.REJECTED),
        (429, OutcomeKind.RATE_LIMITED),
        (502, OutcomeKind.UNKNOWN),
        (504, OutcomeKind.UNKNOWN),
    ],
)
def test_an_answer_that_is_not_twilios_is_judged_by_its_status(http, kind):
    assert TWILIO.interpret(answer(http, b"<html>"), NOW).kind is kind


@pytest.mark.parametrize(
    ("header", "wait"),
    [({"retry_after": "7"}, 7.0), ({"retry_after": "Sun, 01 Mar 2026 12:00:30 GMT"}, 30.0), ({}, None)],
)
def test_a_wait_is_taken_from_the_answer(header, wait):
    assert TWILIO.interpret(refused(429, 20429, **header), NOW).retry_after_seconds == wait
    assert TWILIO.interpret(refused(400, 21211, **header), NOW).retry_after_seconds is None


def test_details_are_one_line_and_name_no_number():
    outcome = TWILIO.interpret(refused(400, 21211, "The 'To' number\r\n+14155550101 is not valid."), NOW)
    assert outcome.detail == "21211: The 'To' number <number> is not valid."


# -- signatures ----------------------------------------------------------------------------------------------


def test_the_documented_signature_is_believed():
    params = {
        "CallSid": "CA1234567890ABCDE",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
        "Caller": "+14158675309",
    }
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    twilio = Twilio(replace(ACCOUNT, auth_token="12345"))
    twilio.verify(webhook(params, url=url, X_Twilio_Signature="RSOYDt4T1cUTdK1PDd93/VVr8B8="), NOW)
    with pytest.raises(WebhookRefused):
        twilio.verify(
            webhook(params | {"Digits": "1235"}, url=url, X_Twilio_Signature="RSOYDt4T1cUTdK1PDd93/VVr8B8="), NOW
        )


def test_parameters_nobody_knows_yet_are_covered_too():
    TWILIO.verify(webhook(status("sent", Newest="ü & =", Empty="")), NOW)


def test_a_parameter_given_twice_counts_once_per_value():
    body = "b=2&a=1&b=1&a=1"
    signature = sign(CALLBACK + "a1b1b2", {})
    headers = {"Content-Type": "application/x-www-form-urlencoded", "X-Twilio-Signature": signature}
    TWILIO.verify(posted(body, headers, url=CALLBACK), NOW)


@pytest.mark.parametrize(
    ("signed", "received"),
    [
        ("https://a.example/x?mid=1", "https://a.example/x?mid=1"),
        ("https://a.example:443/x?mid=1", "https://a.example/x?mid=1"),
        ("https://a.example/x?mid=1", "https://a.example:443/x?mid=1"),
        ("http://a.example:80/x", "http://a.example/x"),
        ("http://a.example/x", "http://a.example:8080/x"),
        ("http://a.example:8080/x", "http://a.example:8080/x"),
        ("https://[::1]:443/x?", "https://[::1]/x?"),
        (f"https://a.example/x?mid=1#{RETRY_OVERRIDE}", "https://a.example/x?mid=1"),
    ],
)
def test_twilio_may_sign_the_url_with_the_port_or_without(signed, received):
    params = status("sent")
    TWILIO.verify(webhook(params, url=received, X_Twilio_Signature=sign(signed, params)), NOW)


@pytest.mark.parametrize(
    ("signed", "received"),
    [
        ("https://a.example/x?mid=1", "https://a.example/x?mid=2"),
        ("https://a.example/x", "http://a.example/x"),
        ("https://b.example/x", "https://a.example/x"),
        ("https://a.example/X", "https://a.example/x"),
        ("https://a.example:444/x", "https://a.example:443/x"),
    ],
)
def test_another_url_is_not_the_one_that_was_signed(signed, received):
    params = status("sent")
    with pytest.raises(WebhookRefused, match="not Twilio's"):
        TWILIO.verify(webhook(params, url=received, X_Twilio_Signature=sign(signed, params)), NOW)


@pytest.mark.parametrize("key", ["auth-token", "previous-token"])
def test_two_tokens_are_believed_while_one_is_rotated_out(key):
    params = status("sent")
    TWILIO.verify(webhook(params, X_Twilio_Signature=sign(CALLBACK, params, key)), NOW)


@pytest.mark.parametrize("signature", ["", "x", "é", sign(CALLBACK, status("sent"), "another"), "\udcff"])
def test_a_forged_signature_is_refused(signature):
    with pytest.raises(WebhookRefused) as caught:
        TWILIO.verify(webhook(status("sent"), X_Twilio_Signature=signature), NOW)
    assert (caught.value.reason, caught.value.http_status) == ("forged", 401)


SETTINGS = "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"


@pytest.mark.parametrize("key", ["shared-key", "older-key"])
@pytest.mark.parametrize(
    ("settings", "algorithm"),
    [
        (SETTINGS, "sha256"),
        ("algorithm=hmac_sha256, key=1", "sha256"),
        ("key=1,algorithm=HMAC_SHA1", "sha1"),
        ("key=1", "sha1"),
    ],
)
def test_a_shared_key_signs_where_the_header_says_so(settings, algorithm, key):
    twilio = Twilio(replace(ACCOUNT, previous_shared_key="older-key"))
    params = status("sent")
    signature = sign(CALLBACK, params, key, algorithm)
    request = webhook(params, X_Twilio_Signature=signature, X_Twilio_Webhooks_Signature_Settings=settings)
    twilio.verify(request, NOW)


@pytest.mark.parametrize(
    ("settings", "key", "algorithm"),
    [
        (SETTINGS, "auth-token", "sha256"),  # each key has its own scheme
        (SETTINGS, "shared-key", "sha1"),
        ("", "shared-key", "sha256"),
        ("", "auth-token", "sha256"),
        ("key=1,algorithm=HMAC_MD5", "shared-key", "md5"),
        ("key=1,algorithm=NONE", "shared-key", "sha1"),
    ],
)
def test_no_scheme_stands_in_for_another(settings, key, algorithm):
    params = status("sent")
    signature = sign(CALLBACK, params, key, algorithm)
    with pytest.raises(WebhookRefused):
        TWILIO.verify(webhook(params, X_Twilio_Signature=signature, X_Twilio_Webhooks_Signature_Settings=settings), NOW)


def test_a_shared_key_that_is_not_configured_is_named():
    with pytest.raises(WebhookRefused, match="no shared_key"):
        Twilio(replace(ACCOUNT, shared_key=None)).verify(
            webhook(status("sent"), X_Twilio_Webhooks_Signature_Settings=SETTINGS), NOW
        )


def json_webhook(body: bytes, digest: str | None = None, **headers: str) -> WebhookRequest:
    url = f"{CALLBACK}&bodySHA256={hashlib.sha256(body).hexdigest() if digest is None else digest}"
    return posted(body, {"Content-Type": "application/json", "X-Twilio-Signature": sign(url, {})} | headers, url=url)


def test_a_json_body_is_covered_by_its_hash_in_the_url():
    body = json.dumps(status("delivered")).encode()
    TWILIO.verify(json_webhook(body), NOW)
    assert TWILIO.parse(json_webhook(body))[0].kind is EvidenceKind.DELIVERED


def test_a_body_that_the_signature_does_not_cover_is_refused():
    body = json.dumps(status("delivered")).encode()
    with pytest.raises(WebhookRefused, match="does not cover"):
        TWILIO.verify(json_webhook(body, hashlib.sha256(b"{}").hexdigest()), NOW)
    bare = posted(body, {"Content-Type": "application/json", "X-Twilio-Signature": sign(CALLBACK, {})}, url=CALLBACK)
    with pytest.raises(WebhookRefused, match="does not cover"):
        TWILIO.verify(bare, NOW)
    untyped = posted(body, {"X-Twilio-Signature": sign(CALLBACK, {})}, url=CALLBACK)
    with pytest.raises(WebhookRefused, match="does not cover"):
        TWILIO.verify(untyped, NOW)


def test_a_webhook_by_get_is_covered_by_its_url():
    url = f"{CALLBACK}&{urlencode(status('delivered'))}"
    request = posted(b"", {"X-Twilio-Signature": sign(url, {})}, url=url, method="GET")
    TWILIO.verify(request, NOW)
    (evidence,) = TWILIO.parse(request)
    assert (evidence.kind, evidence.delivery_id) == (EvidenceKind.DELIVERED, DELIVERY)


# -- status callbacks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("accepted", EvidenceKind.ACCEPTED),
        ("scheduled", EvidenceKind.ACCEPTED),
        ("queued", EvidenceKind.ACCEPTED),
        ("sending", EvidenceKind.ACCEPTED),
        ("sent", EvidenceKind.ACCEPTED),
        ("partially_delivered", EvidenceKind.ACCEPTED),
        ("delivered", EvidenceKind.DELIVERED),
        ("read", EvidenceKind.DELIVERED),
        ("undelivered", EvidenceKind.BOUNCED),
        ("failed", EvidenceKind.FAILED),
        ("canceled", EvidenceKind.FAILED),
        ("something_new", EvidenceKind.OTHER),
    ],
)
def test_each_status_is_evidence_about_our_attempt(word, kind):
    (evidence,) = TWILIO.parse(webhook(status(word)))
    assert (evidence.kind, evidence.event_key) == (kind, f"{SID}:{word}:")
    assert (evidence.delivery_id, evidence.attempt_no, evidence.provider_message_id) == (DELIVERY, 2, SID)
    assert (evidence.address, evidence.occurred_at) == ("+14155550101", NOW)
    assert evidence.data == {"status": word}


@pytest.mark.parametrize(
    ("code", "kind", "bounce", "suppress"),
    [
        (21211, EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce"),
        (21408, EvidenceKind.FAILED, None, None),
        (21602, EvidenceKind.FAILED, BounceClass.CONTENT, None),
        (21605, EvidenceKind.FAILED, BounceClass.CONTENT, None),
        (21610, EvidenceKind.FAILED, BounceClass.PROVIDER_SUPPRESSED, "opted_out"),
        (21612, EvidenceKind.FAILED, None, None),
        (21614, EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce"),
        (21617, EvidenceKind.FAILED, BounceClass.CONTENT, None),
        (30001, EvidenceKind.FAILED, None, None),
        (30002, EvidenceKind.BOUNCED, BounceClass.REPUTATION, None),
        (30003, EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        (30004, EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        (30005, EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce"),
        (30006, EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce"),
        (30007, EvidenceKind.BOUNCED, BounceClass.REPUTATION, None),
        (30008, EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        (30009, EvidenceKind.FAILED, None, None),
        (30022, EvidenceKind.FAILED, None, None),
        (30023, EvidenceKind.FAILED, None, None),
        (30032, EvidenceKind.BOUNCED, BounceClass.REPUTATION, None),
        (30034, EvidenceKind.BOUNCED, BounceClass.REPUTATION, None),
        (30036, EvidenceKind.FAILED, None, None),
    ],
)
@pytest.mark.parametrize("word", ["undelivered", "failed"])
def test_each_error_code_says_what_becomes_of_the_address(word, code, kind, bounce, suppress):
    (evidence,) = TWILIO.parse(webhook(status(word, code)))
    assert (evidence.kind, evidence.bounce_class, evidence.suppress_reason) == (kind, bounce, suppress)
    assert evidence.event_key == f"{SID}:{word}:{code}"
    assert evidence.data["error_code"] == code
    assert evidence.data["meaning"]


def test_an_error_code_of_a_message_that_came_through_means_nothing():
    (evidence,) = TWILIO.parse(webhook(status("delivered", 30005)))
    assert (evidence.kind, evidence.suppress_reason) == (EvidenceKind.DELIVERED, None)


def test_the_same_fact_has_the_same_key_whenever_it_comes():
    first = webhook(status("delivered", RawDlrDoneDate="2603011159"))
    later = replace(first, received_at=NOW + timedelta(minutes=1))
    (one,), (two,) = TWILIO.parse(first), TWILIO.parse(later)
    assert one.event_key == two.event_key
    assert (one.occurred_at, two.occurred_at) == (NOW, NOW + timedelta(minutes=1))  # Twilio's own time has no zone


@pytest.mark.parametrize(
    "query", ["", "?mid=", "?mid=x", f"?mid={DELIVERY}", f"?mid={DELIVERY}.0", f"?mid={DELIVERY}.99999", "?mid=1.1"]
)
def test_a_callback_without_our_reference_is_matched_by_its_sid(query):
    (evidence,) = TWILIO.parse(webhook(status("sent"), url=f"{CONTEXT.webhook_url}{query}"))
    assert (evidence.delivery_id, evidence.attempt_no, evidence.provider_message_id) == (None, None, SID)


def test_words_of_a_failure_are_shown_without_numbers():
    (evidence,) = TWILIO.parse(webhook(status("failed", 30008, ErrorMessage="to +14155550101\nfailed")))
    assert evidence.data["message"] == "to <number> failed"


@pytest.mark.parametrize(
    "params",
    [{}, {"MessageSid": SID}, {"MessageStatus": "sent"}, {"MessageSid": "a/b", "MessageStatus": "sent"}, {"Body": "x"}],
)
def test_what_is_no_callback_is_malformed(params):
    with pytest.raises(WebhookRefused) as caught:
        TWILIO.parse(webhook(params))
    assert (caught.value.reason, caught.value.http_status) == ("malformed", 400)


def test_callbacks_are_answered_with_empty_twiml():
    assert TWILIO.webhook_answer is not None
    assert TWILIO.webhook_answer.content_type == "text/xml"
    assert TWILIO.webhook_answer.body.endswith(b"<Response/>")


# -- inbound messages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "kind", "keyword"),
    [
        (inbound("Stop"), EvidenceKind.OPTED_OUT, "STOP"),
        (inbound(" unsubscribe\n"), EvidenceKind.OPTED_OUT, "STOP"),
        (inbound("START"), EvidenceKind.OPTED_IN, "START"),
        (inbound("help"), EvidenceKind.OTHER, "HELP"),
        (inbound("Where is my order?"), EvidenceKind.OTHER, None),
        (inbound(""), EvidenceKind.OTHER, None),
        (inbound("ARRET", OptOutType="STOP"), EvidenceKind.OPTED_OUT, "STOP"),
        (inbound("HOLA", OptOutType="START"), EvidenceKind.OPTED_IN, "START"),
        (inbound("STOP", OptOutType="HELP"), EvidenceKind.OTHER, "HELP"),  # Twilio's judgement is what it acts upon
        (inbound("STOP", OptOutType="NEWEST"), EvidenceKind.OPTED_OUT, "STOP"),
    ],
)
def test_an_answer_of_a_recipient_opts_out_or_in(params, kind, keyword):
    (evidence,) = TWILIO.parse(webhook(params))
    assert (evidence.kind, evidence.address, evidence.occurred_at) == (kind, "+14155550101", NOW)
    assert evidence.data == {"inbound": True, "keyword": keyword, "to": "…0100"}
    assert evidence.event_key == f"inbound:{SID}"
    assert (evidence.delivery_id, evidence.provider_message_id, evidence.suppress_reason) == (None, None, None)


def test_the_words_of_a_recipient_stay_out_of_the_evidence():
    (evidence,) = TWILIO.parse(webhook(inbound("my PIN is 4711")))
    assert "4711" not in repr(evidence)


# -- looking up ----------------------------------------------------------------------------------------------

OPENED = NOW - timedelta(minutes=15)
ATTEMPT = AttemptRef(DELIVERY, 2, OPENED, "+14155550101", None, content_hash(MESSAGE.text))
KNOWN = replace(ATTEMPT, provider_message_id=SID)


def mail_date(moment) -> str:
    return moment.strftime("%a, %d %b %Y %H:%M:%S +0000")


def listed(**changes: Any) -> dict[str, Any]:
    return {
        "sid": SID,
        "status": "delivered",
        "error_code": None,
        "error_message": None,
        "direction": "outbound-api",
        "to": "+14155550101",
        "body": MESSAGE.text,
        "date_created": mail_date(OPENED + timedelta(seconds=1)),
        "date_updated": mail_date(OPENED + timedelta(seconds=9)),
    } | changes


def page(
    *messages: Mapping[str, Any], next_uri: str | None = None, previous_uri: str | None = None
) -> ProviderResponse:
    payload = {"messages": messages, "next_page_uri": next_uri, "previous_page_uri": previous_uri}
    return answer(200, payload)


def look(response: ProviderResponse, attempt: AttemptRef = ATTEMPT, now=NOW, twilio: Twilio = TWILIO):
    return twilio.interpret_lookup(attempt, response, now)


def test_a_message_with_a_sid_is_asked_for_by_it():
    request = TWILIO.build_lookup(KNOWN, NOW)
    assert (request.method, request.url) == ("GET", f"{MESSAGES}/{SID}.json")
    assert request.headers["Authorization"].startswith("Basic ")


def test_a_message_without_a_sid_is_looked_for_among_all_to_the_number():
    url, _, query = TWILIO.build_lookup(ATTEMPT, NOW).url.partition("?")
    assert (url, parse_qs(query)) == (f"{MESSAGES}.json", {"To": ["+14155550101"], "PageSize": ["300"]})
    odd = replace(ATTEMPT, provider_message_id="../secret")
    assert TWILIO.build_lookup(odd, NOW).url.startswith(f"{MESSAGES}.json?")


def test_what_a_sid_leads_to_is_the_fact_a_callback_would_have_told():
    lookup = look(answer(200, listed(status="undelivered", error_code=30005)), KNOWN)
    assert lookup.verdict is LookupVerdict.FOUND
    (found,) = lookup.evidence
    (told,) = TWILIO.parse(webhook(status("undelivered", 30005)))
    assert replace(found, occurred_at=NOW) == told
    assert found.occurred_at == OPENED + timedelta(seconds=9)


def test_a_message_is_recognised_by_number_time_and_text():
    others = (
        listed(sid="SM1", body="Another text"),
        listed(sid="SM2", direction="inbound"),
        listed(sid="SM4", date_created=mail_date(OPENED - timedelta(seconds=6))),
        listed(sid="SM5", date_created=mail_date(OPENED + timedelta(seconds=301))),
        listed(sid="SM6", direction="outbound-reply"),
    )
    lookup = look(page(*others, listed()))
    assert lookup.verdict is LookupVerdict.FOUND
    (evidence,) = lookup.evidence
    assert (evidence.provider_message_id, evidence.delivery_id, evidence.attempt_no) == (SID, DELIVERY, 2)
    assert (evidence.kind, evidence.event_key) == (EvidenceKind.DELIVERED, f"{SID}:delivered:")


@pytest.mark.parametrize(
    "odd",
    [
        listed(to=None),
        listed(to="+1415555XXXX"),
        listed(to="+14155550102"),
        listed(direction=None),
        "no message at all",
    ],
)
def test_a_page_that_cannot_be_read_to_its_end_is_no_page_without_our_message(odd: object):
    later = OPENED + timedelta(hours=1)
    for others in ([odd], [listed(sid="SM1", body="Another text"), odd]):
        lookup = look(answer(200, {"messages": others}), now=later)
        assert lookup.verdict is LookupVerdict.UNAVAILABLE
    assert look(page(), now=later).verdict is LookupVerdict.NOT_SENT


def test_the_same_text_made_a_little_too_early_leaves_a_doubt_and_not_a_second_text():
    later = OPENED + timedelta(hours=1)
    early = listed(date_created=mail_date(OPENED - timedelta(seconds=6)))
    assert look(page(early), now=later).verdict is LookupVerdict.UNANSWERABLE
    earlier = listed(date_created=mail_date(OPENED - timedelta(minutes=6)))
    assert look(page(earlier), now=later).verdict is LookupVerdict.NOT_SENT


@pytest.mark.parametrize(
    ("messages", "attempt"),
    [
        ([listed(), listed(sid="SM2")], ATTEMPT),
        ([listed(body="")], ATTEMPT),  # not kept by Twilio: it may or may not be ours
        ([listed(body=None), listed()], ATTEMPT),
        ([listed()], replace(ATTEMPT, content_hash=None)),
        ([listed(date_created=None), listed(sid="SM2")], ATTEMPT),
    ],
)
def test_messages_that_cannot_be_told_apart_settle_nothing(messages, attempt):
    assert look(page(*messages), attempt).verdict is LookupVerdict.UNANSWERABLE
    early = look(page(*messages), attempt, OPENED + timedelta(minutes=4))
    assert early.verdict is LookupVerdict.TOO_EARLY  # the callback may still tell


@pytest.mark.parametrize(
    ("messages", "settle", "age", "verdict"),
    [
        ([], 600.0, 900, LookupVerdict.NOT_SENT),
        ([listed(body="Another text")], 600.0, 900, LookupVerdict.NOT_SENT),
        ([], 600.0, 599, LookupVerdict.TOO_EARLY),
        ([], None, 900, LookupVerdict.TOO_EARLY),  # Twilio documents no moment from which absence would prove anything
        ([], 600.0, 4 * 86400, LookupVerdict.UNANSWERABLE),
    ],
)
def test_absence_proves_only_what_the_account_says_it_does(messages, settle, age, verdict):
    twilio = Twilio(replace(ACCOUNT, lookup_settle_seconds=settle))
    assert look(page(*messages), now=OPENED + timedelta(seconds=age), twilio=twilio).verdict is verdict


def test_an_attempt_whose_text_is_unknown_is_absent_where_nothing_is():
    assert look(page(), replace(ATTEMPT, content_hash=None)).verdict is LookupVerdict.NOT_SENT


NEXT = f"/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json?To=%2B14155550101&PageSize=300&Page=1&PageToken=PASM1"


def test_pages_are_read_to_the_end_before_absence_counts():
    lookup = look(page(listed(body="Another text"), next_uri=NEXT))
    assert (lookup.verdict, lookup.evidence) == (LookupVerdict.TOO_EARLY, ())
    assert lookup.next_request is not None
    assert lookup.next_request.url == f"https://api.twilio.com{NEXT}"
    assert lookup.next_request.headers == TWILIO.build_lookup(ATTEMPT, NOW).headers


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example/2010-04-01/Accounts/x/Messages.json?Page=1",
        "//evil.example/x",
        "@evil.example/x",
        ".evil.example/x",
        NEXT.replace("Messages.json", "Messages.json/../Keys.json"),
        NEXT.replace(ACCOUNT_SID, "AC" + "f" * 32),
        f"{NEXT}\r\nX-Evil: 1",
        7,
        "",
    ],
)
def test_credentials_follow_no_page_elsewhere(uri):
    lookup = look(page(next_uri=uri))
    assert (lookup.verdict, lookup.next_request) == (LookupVerdict.UNAVAILABLE, None)


def at(minutes: float, **changes: Any) -> dict[str, Any]:
    return listed(body="Another text", date_created=mail_date(OPENED + timedelta(minutes=minutes))) | changes


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (page(at(6), listed(), at(-6), next_uri=NEXT), LookupVerdict.FOUND),
        (page(at(6), listed(), at(-6), next_uri=NEXT, previous_uri=NEXT), LookupVerdict.FOUND),
        (page(listed(), at(-6), next_uri=NEXT), LookupVerdict.FOUND),
        (page(at(6), listed(), previous_uri=NEXT), LookupVerdict.FOUND),
        (page(at(6), listed(), next_uri=NEXT), LookupVerdict.UNANSWERABLE),
        (page(listed(), at(-6), previous_uri=NEXT), LookupVerdict.UNANSWERABLE),
        (page(at(-6), listed(), at(6), next_uri=NEXT), LookupVerdict.UNANSWERABLE),  # in no order to rely on
    ],
)
def test_one_message_is_the_one_only_if_no_other_can_be_on_another_page(response, verdict):
    assert look(response).verdict is verdict


@pytest.mark.parametrize(
    "response",
    [
        refused(401, 20003),
        refused(404, 20404),
        refused(500, 20500),
        answer(200, b"{"),
        answer(200, {}),
        answer(200, {"messages": {}}),
    ],
)
@pytest.mark.parametrize("attempt", [ATTEMPT, replace(KNOWN, provider_message_id="SM9")])
def test_a_question_that_failed_is_no_answer(response, attempt):
    verdict = look(response, attempt).verdict
    gone = response.status == 404 and attempt.provider_message_id is not None
    assert verdict is (LookupVerdict.UNANSWERABLE if gone else LookupVerdict.UNAVAILABLE)


def test_the_answer_about_another_message_is_no_answer():
    assert look(answer(200, listed(sid="SM2")), KNOWN).verdict is LookupVerdict.UNAVAILABLE


# -- whatever comes ------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner))
FIELDS = st.sampled_from(
    ["MessageSid", "SmsSid", "MessageStatus", "SmsStatus", "ErrorCode", "Body", "From", "To", "OptOutType", "x"]
)
VALUES = SCALARS.map(str) | st.sampled_from([SID, "sent", "failed", "received", "30005", "+14155550101", "STOP"])
BODIES = (
    st.binary(max_size=200)
    | st.dictionaries(FIELDS, VALUES).map(lambda form: urlencode(form, errors="replace").encode())
    | st.dictionaries(FIELDS, JSON | VALUES).map(lambda value: json.dumps(value).encode())
)
URLS = st.just(CALLBACK) | st.text(max_size=60) | st.just("https://[") | st.just("https://a:99999/x?mid=1")


@given(
    BODIES, URLS, st.sampled_from(["application/x-www-form-urlencoded", "application/json", ""]), st.text(), st.text()
)
def test_whatever_comes_a_webhook_is_read_or_refused(body, url, content_type, signature, settings):
    headers = {
        "Content-Type": content_type,
        "X-Twilio-Signature": signature,
        "X-Twilio-Webhooks-Signature-Settings": settings,
    }
    request = posted(body, headers, url=url)
    with pytest.raises(WebhookRefused):
        TWILIO.verify(request, NOW)
    with contextlib.suppress(WebhookRefused):
        for evidence in TWILIO.parse(request):
            assert 0 < len(evidence.event_key) <= 200
            json.dumps(evidence.data).encode()


@given(st.integers(100, 599), st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()), st.text())
def test_whatever_comes_an_answer_has_a_meaning(http, body, wait):
    outcome = TWILIO.interpret(ProviderResponse(http, {"retry-after": wait}, body), NOW)
    assert outcome.kind is not OutcomeKind.ACCEPTED
    assert len(outcome.detail) <= 400


MESSAGE_FIELDS = st.fixed_dictionaries({}, optional=dict.fromkeys(listed(), JSON))


@given(
    st.lists(MESSAGE_FIELDS.map(lambda odd: listed() | odd) | JSON, max_size=3),
    JSON,
    st.booleans(),
    st.sampled_from([200, 404, 500]),
)
def test_whatever_comes_a_lookup_has_a_verdict(messages, uri, known, http):
    payload = {"messages": messages, "next_page_uri": uri, "sid": SID, "status": "sent"}
    lookup = look(ProviderResponse(http, {}, json.dumps(payload).encode()), KNOWN if known else ATTEMPT)
    assert lookup.verdict in LookupVerdict
    assert lookup.next_request is None or lookup.next_request.url.startswith(f"{MESSAGES}.json?")
