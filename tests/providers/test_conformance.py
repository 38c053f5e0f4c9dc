"""What every adapter promises, whatever it speaks: one suite, and each account in the registry has to pass it.

A new adapter is one entry in ``ACCOUNTS``; the suite fails until it has one.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote_plus

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.models import Channel, OutcomeKind, Platform
from app.errors import InvalidFields, WebhookRefused
from app.providers.base import (
    SENDER_REFUSED,
    AnyProvider,
    AttemptRef,
    Lookup,
    Message,
    ProviderRequest,
    ProviderResponse,
    SendContext,
    SmtpRequest,
    WebhookRequest,
)
from app.providers.registry import ADAPTERS, make_provider
from tests.messages import (
    CONTEXT,
    DELIVERY,
    NOTIFICATION,
    NOW,
    device,
    email_message,
    endpoint_message,
    posted,
    push_message,
    sms_message,
)

SECRET = "s3cret-of-the-account"  # in every account, under whatever name: it must show nowhere
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PEM = serialization.Encoding.PEM
EC_PEM = EC_KEY.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
EC_PUBLIC = base64.b64encode(
    EC_KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
).decode()
RSA_PEM = (
    rsa.generate_private_key(65537, 2048)
    .private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    .decode()
)
BROWSER = ec.generate_private_key(ec.SECP256R1()).public_key()
P256DH = (
    base64.urlsafe_b64encode(
        BROWSER.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    )
    .rstrip(b"=")
    .decode()
)

ACCOUNTS: Mapping[str, Mapping[str, Any]] = {
    "mailgun": {"domain": "mg.example.com", "api_key": SECRET, "webhook_signing_key": SECRET},
    "ses": {
        "region": "eu-west-1",
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key": SECRET,
        "topic_arns": ["arn:aws:sns:eu-west-1:123456789012:landed"],
        "configuration_set": "landed",
    },
    "sendgrid": {"api_key": SECRET, "webhook_public_key": EC_PUBLIC},
    "postmark": {"server_token": SECRET, "webhook_user": "landed", "webhook_password": SECRET},
    "smtp": {"host": "smtp.example.com", "bounce_domain": "bounce.example.com", "webhook_token": SECRET},
    "twilio": {"account_sid": "AC" + "0" * 32, "auth_token": SECRET, "sender": "+14155550100"},
    "sinch": {"service_plan_id": "plan", "api_token": SECRET, "sender": "+14155550100", "webhook_secret": SECRET},
    "vonage": {"api_key": "abcd1234", "api_secret": SECRET, "sender": "Landed", "signature_secret": SECRET},
    "aws_sms": {
        "region": "eu-west-1",
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key": SECRET,
        "sender": "+14155550100",
        "configuration_set": "landed",
        "topic_arns": ["arn:aws:sns:eu-west-1:123456789012:landed"],
    },
    "apns": {"key_id": "KEY1234567", "team_id": "TEAM123456", "topic": "com.example.app", "key": EC_PEM},
    "fcm": {
        "project_id": "demo",
        "client_email": "landed@demo.iam.gserviceaccount.com",
        "private_key": RSA_PEM,
        "private_key_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    },
    "web-push": {"private_key": EC_PEM, "subject": "mailto:ops@example.com", "push_hosts": ["push.example.com"]},
    "standard-webhooks": {},
    "chat": {},
    "inbox": {},
}
BROWSER_DEVICE = device(
    platform=Platform.WEB,
    token="https://push.example.com/send/abc",
    p256dh=P256DH,
    auth=base64.urlsafe_b64encode(b"a" * 16).rstrip(b"=").decode(),
)
MESSAGES: Mapping[str, Message] = {
    Channel.EMAIL: email_message(to="ann@example.com"),
    Channel.SMS: sms_message(),
    Channel.PUSH: push_message(receipt_token="receipt", receipt_url="https://notify.example.com/api/v1/receipts"),
    Channel.WEBHOOK: endpoint_message(),
    Channel.CHAT: endpoint_message(
        url="https://hooks.slack.com/services/T/B/X", secrets=(), format="slack", title="Deploy", text="done"
    ),
}
# What never leaves the database is asked nothing; an adapter that takes no webhooks refuses them all.
REMOTE = sorted(set(ADAPTERS) - {"inbox"})


def provider(name: str) -> AnyProvider:
    return make_provider(name, {"adapter": name, **ACCOUNTS[name]})


def message_for(adapter: AnyProvider) -> Any:
    if adapter.name == "web-push":
        return replace(MESSAGES[Channel.PUSH], device=BROWSER_DEVICE, to=str(BROWSER_DEVICE.id))
    if adapter.name == "fcm":
        android = device(platform=Platform.ANDROID, token="token-of-the-device")
        return replace(MESSAGES[Channel.PUSH], device=android)
    return MESSAGES[adapter.capabilities.channel]


def context(adapter: AnyProvider) -> SendContext:
    token = "access-token" if adapter.build_access(NOW) is not None else None
    return replace(CONTEXT, access_token=token)


def built(name: str) -> ProviderRequest | SmtpRequest:
    adapter = provider(name)
    return adapter.build(message_for(adapter), context(adapter))


def attempt(**changes: Any) -> AttemptRef:
    values = {
        "delivery_id": DELIVERY,
        "attempt_no": 2,
        "opened_at": NOW - timedelta(minutes=1),
        "address": "ann@example.com",
        "provider_message_id": None,
    }
    return AttemptRef(**values | changes)


def test_every_adapter_is_held_to_this_suite():
    assert ACCOUNTS.keys() == ADAPTERS.keys()


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_it_goes_by_its_name_and_serves_a_channel(name: str):
    adapter = provider(name)
    assert adapter.name == name
    assert adapter.capabilities.channel in list(Channel)
    assert adapter.capabilities.batch_size >= 1
    shown = repr(adapter) + repr(getattr(adapter, "account", None))
    assert SECRET not in shown
    assert "PRIVATE" not in shown


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_failures_speak_against_a_provider_unless_each_message_goes_to_a_receiver_of_its_own(name: str):
    capabilities = provider(name).capabilities
    assert capabilities.breaks is (capabilities.transport not in ("guarded", "local"))


def test_a_rate_is_named_only_where_it_is_documented_for_the_account():
    rates = {name: provider(name).capabilities.rate_per_second for name in ADAPTERS}
    assert {name: rate for name, rate in rates.items() if rate is not None} == {"fcm": 10_000}


@pytest.mark.parametrize("name", REMOTE)
def test_a_request_shows_no_secret_and_no_content_in_a_log_line(name: str):
    request = built(name)
    message = message_for(provider(name))
    shown = repr(request)
    assert SECRET not in shown
    assert "access-token" not in shown
    for part in ("text", "body", "subject"):
        words = getattr(message, part, None)
        assert not words or words not in shown


@pytest.mark.parametrize("name", REMOTE)
def test_a_call_ends_within_the_bound_of_its_channel(name: str):
    channel = provider(name).capabilities.channel
    assert 0 < built(name).timeout_seconds <= (5.0 if channel == Channel.PUSH else 10.0)


@pytest.mark.parametrize("name", [name for name in REMOTE if name != "chat"])
def test_our_ids_travel_with_the_message(name: str):
    """Whatever comes back, a receipt, a report, a webhook, can be told apart from every other message."""
    request = built(name)
    if isinstance(request, SmtpRequest):
        sent = f"{request.envelope_id} {request.envelope_from}"
    elif name == "web-push":
        pytest.skip("encrypted for the browser: tests/providers/test_web_push.py decrypts it")
    else:
        sent = " ".join((request.url, *request.headers.values(), request.body.decode("utf-8", "replace")))
    known = unquote_plus(unquote_plus(sent))
    assert any(str(id_) in known for id_ in (DELIVERY, NOTIFICATION))


@pytest.mark.parametrize("name", [n for n in REMOTE if provider(n).capabilities.channel == Channel.EMAIL])
@pytest.mark.parametrize("field", ["subject", "sender", "reply_to", "to"])
def test_a_line_break_never_becomes_a_header(name: str, field: str):
    adapter = provider(name)
    injected = email_message(**{"to": "ann@example.com", field: "x\r\nBcc: everyone@example.com"})
    with pytest.raises(InvalidFields):
        adapter.build(injected, CONTEXT)


answers = st.builds(
    ProviderResponse,
    status=st.integers(100, 599),
    headers=st.dictionaries(
        st.sampled_from(["retry-after", "x-ratelimit-reset", "x-message-id", "phase", "apns-id", "location"]),
        st.text(max_size=20),
        max_size=3,
    ),
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["error", "errors", "code", "message", "messages", "status", "id", "sid", "reason"]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    ),
)


@pytest.mark.parametrize("name", REMOTE)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(response=answers)
def test_any_answer_is_classified_and_none_is_believed_too_much(name: str, response: ProviderResponse):
    """Only a 2xx (250 in SMTP) can be an acceptance; a wait that is named is a finite one."""
    outcome = provider(name).interpret(response, NOW)
    if outcome.kind is OutcomeKind.ACCEPTED:
        assert 200 <= response.status < 300
    if outcome.reason == SENDER_REFUSED:
        assert outcome.kind is OutcomeKind.UNAUTHORIZED
    assert_bearable(outcome.retry_after_seconds)
    assert len(outcome.detail) < 1000
    assert "\0" not in outcome.detail


def assert_bearable(wait: float | None) -> None:
    assert wait is None or (isinstance(wait, float) and math.isfinite(wait) and wait >= 0)


#: To wait, as a header says it, and the seconds that it comes to; None: it says nothing.
WAITS: Mapping[str, float | None] = {
    "7": 7,
    " 2.5 ": 2.5,
    format_datetime(NOW + timedelta(seconds=90), usegmt=True): 90,
    (NOW + timedelta(seconds=90)).strftime("%A, %d-%b-%y %H:%M:%S GMT"): 90,  # RFC 850's, still to be read
    format_datetime(NOW - timedelta(days=400), usegmt=True): 0,
    "Fri, 31 Dec 9999 23:59:59 GMT": (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - NOW).total_seconds(),
    "-5": 0,
    "99999999999": 99999999999.0,
    "9" * 400: None,
    "9" * 5000: None,
    "soon": None,
    "nan": None,
    "-inf": None,
    "Mon, 99 Foo 2026 12:00:00 +999999999": None,
    "": None,
}


@pytest.mark.parametrize("name", [name for name in REMOTE if name != "smtp"])
@pytest.mark.parametrize(("value", "seconds"), WAITS.items(), ids=[value[:40] or "nothing" for value in WAITS])
def test_a_limit_is_believed_for_as_long_as_it_says_and_nonsense_for_no_time(
    name: str, value: str, seconds: float | None
):
    outcome = provider(name).interpret(ProviderResponse(429, {"retry-after": value}, b""), NOW)
    assert outcome.kind is OutcomeKind.RATE_LIMITED
    otherwise = provider(name).interpret(ProviderResponse(429, {}, b""), NOW).retry_after_seconds
    assert outcome.retry_after_seconds == (otherwise if seconds is None else pytest.approx(seconds))
    assert_bearable(outcome.retry_after_seconds)


@pytest.mark.parametrize("name", ["mailgun", "sendgrid"])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (f"{NOW.timestamp() + 12.5}", 12.5),
        (f"{NOW.timestamp() - 5}", 0),
        ("-5", 0),
        ("0", 0),
        ("99999999999", 99999999999 - NOW.timestamp()),
        ("1e308", 1e308),
        ("1e999", None),
        ("nan", None),
        ("soon", None),
        ("", None),
    ],
)
def test_a_limit_may_say_when_it_is_set_back(name: str, value: str, seconds: float | None):
    outcome = provider(name).interpret(ProviderResponse(429, {"x-ratelimit-reset": value}, b""), NOW)
    assert outcome.kind is OutcomeKind.RATE_LIMITED
    assert outcome.retry_after_seconds == (None if seconds is None else pytest.approx(seconds))
    assert_bearable(outcome.retry_after_seconds)


@pytest.mark.parametrize("name", [name for name in REMOTE if name != "smtp"])
@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_server_error_is_never_taken_for_a_refusal(name: str, status: int):
    """It may have been accepted: unknown, unless the provider says otherwise or a copy does no harm (I5)."""
    adapter = provider(name)
    outcome = adapter.interpret(ProviderResponse(status, {}, b""), NOW)
    harmless = adapter.capabilities.resend_is_safe
    assert outcome.kind is (OutcomeKind.TRANSIENT if harmless else OutcomeKind.UNKNOWN)


def believe(adapter: AnyProvider, request: WebhookRequest) -> None:
    """As the receiver does, but that no key can be had."""
    adapter.key_url(request)
    adapter.verify(request, NOW, None)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
@settings(max_examples=40, deadline=None)
@given(
    body=st.binary(max_size=300) | st.sampled_from([b"", b"{}", b"[]", b"null", b"[{}]", b"a=b&c=d"]),
    query=st.sampled_from(["", "?mid=x", "?a=b&sig=c"]),
    headers=st.dictionaries(
        st.sampled_from(["content-type", "authorization", "x-twilio-signature"]), st.text(max_size=9)
    ),
)
def test_what_nobody_signed_is_refused_and_nonsense_never_crashes(
    name: str, body: bytes, query: str, headers: dict[str, str]
):
    adapter = provider(name)
    request = posted(body, headers, url=f"https://notify.example.com/api/v1/webhooks/account{query}")
    with pytest.raises(WebhookRefused):
        believe(adapter, request)
    try:
        adapter.parse(request)
        adapter.replay_token(request)
        adapter.confirmation(request)
    except WebhookRefused:
        pass


@pytest.mark.parametrize("name", [name for name in REMOTE if provider(name).capabilities.can_look_up])
@settings(max_examples=40, deadline=None)
@given(response=answers, known=st.booleans())
def test_a_question_goes_to_the_provider_alone_and_any_answer_can_be_read(
    name: str, response: ProviderResponse, known: bool
):
    adapter = provider(name)
    request = built(name)
    asked = attempt(provider_message_id="abc" if known else None, address="+14155550101")
    lookup_request = adapter.build_lookup(asked, NOW)
    assert isinstance(request, ProviderRequest)
    assert lookup_request.url.split("/")[:3] == request.url.split("/")[:3]
    answer = adapter.interpret_lookup(asked, response, NOW)
    assert isinstance(answer, Lookup)
    if answer.next_request is not None:
        assert answer.next_request.url.split("/")[:3] == request.url.split("/")[:3]
