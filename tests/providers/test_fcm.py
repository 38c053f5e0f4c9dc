"""The FCM adapter on bytes: access tokens, messages for each platform, and every error Google gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import Channel, Outcome, OutcomeKind, Platform
from app.errors import ConfigurationError, InvalidFields
from app.providers.access import TOKEN_REFUSED
from app.providers.base import SENDER_REFUSED, AccessToken, ProviderRequest, ProviderResponse, PushMessage
from app.providers.fcm import Fcm, FcmAccount
from app.providers.registry import make_provider
from tests.messages import CONTEXT, DELIVERY, NOTIFICATION, NOW, device, push_message

KEY = rsa.generate_private_key(65537, 2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
SERVICE_ACCOUNT = {
    "type": "service_account",
    "project_id": "acme-shop",
    "private_key_id": "key-1",
    "private_key": PEM,
    "client_email": "landed@acme-shop.iam.gserviceaccount.com",
    "client_id": "1",
    "token_uri": "https://oauth2.googleapis.com/token",
    "universe_domain": "googleapis.com",
}
ACCOUNT = FcmAccount(service_account=json.dumps(SERVICE_ACCOUNT))
FCM = Fcm(ACCOUNT)
WITH_TOKEN = replace(CONTEXT, access_token="ya29.token")
RICH: dict[str, Any] = {
    "subtitle": "Order A-1",
    "badge": 3,
    "sound": "default",
    "url": "https://shop.example/orders/A-1",
    "image": "https://cdn.example/parcel.png",
    "data": {"order_id": "A-1"},
    "receipt_token": "receipt",
    "receipt_url": "https://notify.example.com/api/v1/receipts",
}


def on(platform: Platform, **changes: Any) -> PushMessage:
    return push_message(device=device(platform=platform, token="fcm-token"), **changes)


def build(message: PushMessage, fcm: Fcm = FCM) -> ProviderRequest:
    request = fcm.build(message, WITH_TOKEN)
    assert isinstance(request, ProviderRequest)
    return request


def sent(message: PushMessage, fcm: Fcm = FCM) -> dict[str, Any]:
    return dict(json.loads(build(message, fcm).body)["message"])


def answer(status: int, body: Any = None, headers: Mapping[str, str] | None = None) -> ProviderResponse:
    return ProviderResponse(status, headers or {}, b"" if body is None else json.dumps(body).encode())


def error(
    code: int, status: str, own: str | None = None, field: str | None = None, message: str = ""
) -> dict[str, Any]:
    details: list[dict[str, Any]] = []
    if own is not None:
        details.append({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": own})
    if field is not None:
        violations = [{"field": field, "description": "Invalid value"}]
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations})
    return {"error": {"code": code, "status": status, "message": message, "details": details}}


# -- access tokens -------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_with_a_jwt_of_the_service_account():
    request = FCM.build_access(NOW)
    assert request is not None
    assert (request.method, request.url) == ("POST", "https://oauth2.googleapis.com/token")
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    form = parse_qs(request.body.decode(), strict_parsing=True)
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    (assertion,) = form["assertion"]
    assert jwt.get_unverified_header(assertion) == {"alg": "RS256", "kid": "key-1", "typ": "JWT"}
    options = {"verify_iat": False, "verify_exp": False}
    audience = "https://oauth2.googleapis.com/token"
    assert jwt.decode(assertion, KEY.public_key(), algorithms=["RS256"], audience=audience, options=options) == {
        "iss": "landed@acme-shop.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": audience,
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 3600,
    }


def test_the_audience_is_googles_wherever_the_token_is_asked_for():
    """As Google's own libraries have it: a sandbox changes where we ask, not whom the assertion is for."""
    request = Fcm(replace(ACCOUNT, token_uri="http://127.0.0.1:8025/token")).build_access(NOW)
    assert request is not None
    assert request.url == "http://127.0.0.1:8025/token"
    (assertion,) = parse_qs(request.body.decode())["assertion"]
    claims = jwt.decode(assertion, options={"verify_signature": False})
    assert claims["aud"] == "https://oauth2.googleapis.com/token"


def test_a_token_is_good_for_as_long_as_google_says():
    given = FCM.interpret_access(
        answer(200, {"access_token": "ya29.x", "expires_in": 3599, "token_type": "Bearer"}), NOW
    )
    assert given == AccessToken("ya29.x", NOW + timedelta(seconds=3599))
    assert "ya29" not in repr(given)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, {}, OutcomeKind.TRANSIENT),
        (200, {"access_token": "x"}, OutcomeKind.TRANSIENT),
        (200, {"access_token": "x\r\ny: z", "expires_in": 3599}, OutcomeKind.TRANSIENT),
        (200, {"access_token": 7, "expires_in": 3599}, OutcomeKind.TRANSIENT),
        (302, None, OutcomeKind.UNAUTHORIZED),
        (400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, OutcomeKind.UNAUTHORIZED),
        (401, {"error": "invalid_client"}, OutcomeKind.UNAUTHORIZED),
        (403, None, OutcomeKind.UNAUTHORIZED),
        (404, None, OutcomeKind.UNAUTHORIZED),
        (408, None, OutcomeKind.TRANSIENT),
        (429, None, OutcomeKind.RATE_LIMITED),
        (500, None, OutcomeKind.TRANSIENT),
        (503, None, OutcomeKind.TRANSIENT),
    ],
)
def test_why_there_is_no_token_is_never_in_doubt(status, body, kind):
    outcome = FCM.interpret_access(answer(status, body, {"retry-after": "9"}), NOW)
    assert isinstance(outcome, Outcome)
    assert (outcome.kind, outcome.status_code, outcome.retry_after_seconds) == (kind, status, 9)


# -- building ------------------------------------------------------------------------------------------------


def test_a_push_to_android_replaces_what_it_repeats_and_dies_in_time():
    request = build(on(Platform.ANDROID, **RICH))
    assert (request.method, request.url) == (
        "POST",
        "https://fcm.googleapis.com/v1/projects/acme-shop/messages:send",
    )
    assert request.headers == {
        "authorization": "Bearer ya29.token",
        "content-type": "application/json; charset=UTF-8",
    }
    assert (request.timeout_seconds, request.pool) == (5.0, "fcm:acme-shop")
    assert json.loads(request.body) == {
        "message": {
            "token": "fcm-token",
            "notification": {
                "title": "Shipped",
                "body": "Your order A-1 is on its way",
                "image": "https://cdn.example/parcel.png",
            },
            "data": {
                "order_id": "A-1",
                "url": "https://shop.example/orders/A-1",
                "landed_notification_id": str(NOTIFICATION),
                "landed_delivery_id": str(DELIVERY),
                "landed_receipt_token": "receipt",
                "landed_receipt_url": "https://notify.example.com/api/v1/receipts",
            },
            "android": {
                "collapse_key": str(NOTIFICATION),
                "priority": "HIGH",
                "ttl": "86400s",
                "notification": {"tag": str(NOTIFICATION), "sound": "default", "notification_count": 3},
            },
        }
    }


def test_a_push_to_an_iphone_through_firebase_says_the_same_in_apples_words():
    assert sent(on(Platform.IOS, **RICH))["apns"] == {
        "headers": {
            "apns-collapse-id": str(NOTIFICATION),
            "apns-expiration": str(int(push_message().expires_at.timestamp())),
            "apns-priority": "10",
        },
        "payload": {
            "aps": {
                "thread-id": "order_shipped",
                "alert": {"title": "Shipped", "subtitle": "Order A-1", "body": "Your order A-1 is on its way"},
                "badge": 3,
                "sound": "default",
                "mutable-content": 1,
            }
        },
    }


def test_a_push_to_a_browser_through_firebase_says_the_same_in_web_pushs_words():
    assert sent(on(Platform.WEB))["webpush"] == {
        "headers": {"TTL": "86400", "Urgency": "high", "Topic": NOTIFICATION.hex},
        "notification": {"tag": str(NOTIFICATION)},
    }


@pytest.mark.parametrize("platform", list(Platform))
def test_only_the_devices_own_platform_is_spoken_to(platform):
    blocks = {Platform.ANDROID: "android", Platform.IOS: "apns", Platform.WEB: "webpush"}
    assert set(sent(on(platform))) - {"token", "notification", "data"} == {blocks[platform]}


@pytest.mark.parametrize(
    ("klass", "priority", "apns"),
    [("alert", "HIGH", "10"), ("transactional", "HIGH", "10"), ("promotional", "NORMAL", "5")],
)
def test_only_what_people_wait_for_wakes_the_device(klass, priority, apns):
    assert sent(on(Platform.ANDROID, klass=klass))["android"]["priority"] == priority
    assert sent(on(Platform.IOS, klass=klass))["apns"]["headers"]["apns-priority"] == apns


@pytest.mark.parametrize(
    ("left", "ttl"), [(timedelta(seconds=-5), "0s"), (timedelta(seconds=90), "90s"), (timedelta(days=90), "2419200s")]
)
def test_the_time_to_live_is_what_is_left_within_googles_limits(left, ttl):
    assert sent(on(Platform.ANDROID, expires_at=NOW + left))["android"]["ttl"] == ttl


@pytest.mark.parametrize("key", ["from", "message_type", "google.x", "gcm.notification.title"])
def test_keys_that_fcm_keeps_for_itself_are_named(key):
    with pytest.raises(InvalidFields) as refused:
        build(on(Platform.ANDROID, data={key: "x"}))
    assert [error.field for error in refused.value.errors] == [f"data.{key}"]


def test_a_payload_over_4096_bytes_names_what_takes_most_of_it():
    with pytest.raises(InvalidFields, match="which may have 4096") as refused:
        build(on(Platform.ANDROID, body="ü" * 2100))
    assert [error.field for error in refused.value.errors] == ["body"]


def test_a_device_without_a_token_is_named():
    with pytest.raises(InvalidFields, match=r"device\.token"):
        build(push_message(device=device(platform=Platform.ANDROID, token="")))


@pytest.mark.parametrize(("account", "message"), [(True, False), (False, True), (False, False)])
def test_test_mode_is_the_accounts_or_the_messages(account, message):
    fcm = Fcm(replace(ACCOUNT, test_mode=account))
    body = json.loads(build(on(Platform.ANDROID, test_mode=message), fcm).body)
    assert body.get("validate_only", False) is (account or message)


@given(
    st.text(max_size=100),
    st.text(max_size=100),
    st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=5),
)
def test_any_words_become_a_message_that_can_be_read(title, body, data):
    allowed = {f"x{key}": value for key, value in data.items()}
    built = json.loads(build(on(Platform.ANDROID, title=title, body=body, data=allowed)).body.decode())
    assert len(built["message"]["data"]) >= len(allowed)


# -- answers -------------------------------------------------------------------------------------------------


def test_acceptance_carries_the_messages_name():
    outcome = FCM.interpret(answer(200, {"name": "projects/acme-shop/messages/0:1500415314455276%31bd1c96"}), NOW)
    assert outcome.kind is OutcomeKind.ACCEPTED
    assert outcome.provider_message_id == "projects/acme-shop/messages/0:1500415314455276%31bd1c96"


A, C, R = OutcomeKind.UNAUTHORIZED, OutcomeKind.REJECTED, OutcomeKind.RECIPIENT_INVALID
Q, U = OutcomeKind.RATE_LIMITED, OutcomeKind.UNKNOWN
BAD_TOKEN_WORDS = "The registration token is not a valid FCM registration token"


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason", "doubtful"),
    [
        (200, {}, U, None, False),
        (200, {"name": 7}, U, None, False),
        (200, {"name": ""}, U, None, False),
        (200, None, U, None, False),
        (307, None, A, None, False),
        (400, error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"), C, None, False),
        (400, error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "message.android.ttl"), C, None, False),
        (400, error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "message.token"), R, "bad_device_token", True),
        (400, error(400, "INVALID_ARGUMENT", None, "message.token"), R, "bad_device_token", True),
        (400, error(400, "INVALID_ARGUMENT", message=BAD_TOKEN_WORDS), R, "bad_device_token", True),
        (400, error(400, "INVALID_ARGUMENT"), C, None, False),
        (400, None, C, None, False),
        (401, error(401, "UNAUTHENTICATED"), A, TOKEN_REFUSED, False),
        (401, error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), A, SENDER_REFUSED, False),
        (401, error(401, "UNAUTHENTICATED", "APNS_AUTH_ERROR"), A, SENDER_REFUSED, False),
        (401, None, A, TOKEN_REFUSED, False),
        (403, error(403, "PERMISSION_DENIED"), A, None, False),
        (403, error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"), R, "sender_id_mismatch", True),
        (403, None, A, None, False),
        (404, error(404, "NOT_FOUND", "UNREGISTERED"), R, None, False),
        (404, error(404, "NOT_FOUND"), A, None, False),
        (404, None, A, None, False),
        (408, None, U, None, False),
        (413, None, C, None, False),
        (429, error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), Q, None, False),
        (429, error(429, "RESOURCE_EXHAUSTED"), Q, None, False),
        (429, None, Q, None, False),
        (500, error(500, "INTERNAL", "INTERNAL"), U, None, False),
        (500, error(500, "INTERNAL"), U, None, False),
        (502, None, U, None, False),
        (503, error(503, "UNAVAILABLE", "UNAVAILABLE"), U, None, False),
        (503, error(503, "UNAVAILABLE"), U, None, False),
        (400, error(400, "INVALID_ARGUMENT", "SOMETHING_NEW"), C, None, False),
        (503, error(503, "UNAVAILABLE", "SOMETHING_NEW"), U, None, False),
    ],
)
def test_every_answer_has_its_class(status, body, kind, reason, doubtful):
    outcome = FCM.interpret(answer(status, body), NOW)
    assert (outcome.kind, outcome.reason, outcome.doubtful) == (kind, reason, doubtful)
    assert outcome.status_code == status
    assert outcome.detail


@pytest.mark.parametrize(("headers", "seconds"), [({"retry-after": "17"}, 17), ({}, 60), ({"retry-after": "soon"}, 60)])
def test_a_quota_says_when_to_come_back_or_a_minute_passes(headers, seconds):
    outcome = FCM.interpret(answer(429, error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), headers), NOW)
    assert (outcome.kind, outcome.retry_after_seconds) == (Q, seconds)


def test_an_overload_that_says_when_to_come_back_took_nothing():
    outcome = FCM.interpret(answer(503, error(503, "UNAVAILABLE", "UNAVAILABLE"), {"retry-after": "30"}), NOW)
    assert (outcome.kind, outcome.retry_after_seconds) == (OutcomeKind.TRANSIENT, 30)


def test_the_code_of_another_service_is_not_believed():
    body = error(404, "NOT_FOUND")
    body["error"]["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "errorCode": "UNREGISTERED"}]
    assert FCM.interpret(answer(404, body), NOW).kind is A


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
TYPES = ["type.googleapis.com/google.firebase.fcm.v1.FcmError", "type.googleapis.com/google.rpc.BadRequest"]
DETAILS = st.lists(
    st.fixed_dictionaries({"@type": st.sampled_from(TYPES)}, optional={"errorCode": JSON, "fieldViolations": JSON})
    | JSON,
    max_size=3,
)
ERRORS = st.fixed_dictionaries({}, optional={"status": JSON, "message": JSON, "details": DETAILS | JSON})
BODIES = (
    st.binary()
    | JSON.map(lambda body: json.dumps(body).encode())
    | ERRORS.map(lambda body: json.dumps({"error": body}).encode())
)


@given(st.integers(0, 999), BODIES, st.dictionaries(st.just("retry-after"), st.text()))
def test_any_answer_is_an_outcome_and_only_a_200_is_acceptance(status, body, headers):
    outcome = FCM.interpret(ProviderResponse(status, headers, body), NOW)
    assert (outcome.kind is OutcomeKind.ACCEPTED) <= (status == 200)
    assert len(outcome.detail) < 100


@given(
    st.integers(0, 999),
    BODIES | st.fixed_dictionaries({"access_token": JSON, "expires_in": JSON}).map(lambda b: json.dumps(b).encode()),
)
def test_any_answer_to_a_token_request_is_a_token_or_an_outcome(status, body):
    given = FCM.interpret_access(ProviderResponse(status, {}, body), NOW)
    assert isinstance(given, AccessToken | Outcome)


# -- the account ---------------------------------------------------------------------------------------------


def test_what_fcm_can_prove_and_take():
    assert (FCM.capabilities.channel, FCM.capabilities.transport) == (Channel.PUSH, "http2")
    assert (FCM.capabilities.confirms_delivery, FCM.capabilities.can_look_up) == (True, False)


def test_a_sandbox_in_clear_is_spoken_to_in_http1():
    sandbox = Fcm(replace(ACCOUNT, base_url="http://127.0.0.1:8025"))
    assert sandbox.capabilities.transport == "http"
    assert build(on(Platform.ANDROID), sandbox).url == "http://127.0.0.1:8025/v1/projects/acme-shop/messages:send"
    assert Fcm(replace(ACCOUNT, base_url="https://127.0.0.1:8025")).capabilities.transport == "http2"


def test_fields_that_are_given_win_over_the_file():
    account = FcmAccount(
        service_account=json.dumps(SERVICE_ACCOUNT), project_id="other", token_uri="http://127.0.0.1:8025/token"
    )
    assert (account.project_id, account.token_uri) == ("other", "http://127.0.0.1:8025/token")
    assert account.client_email == SERVICE_ACCOUNT["client_email"]


def test_an_account_may_come_without_a_file():
    fields = {name: SERVICE_ACCOUNT[name] for name in ("project_id", "client_email", "private_key", "private_key_id")}
    account = FcmAccount(**fields)
    assert account.token_uri == "https://oauth2.googleapis.com/token"


EC_PEM = (
    ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"project_id": "a/b"}, "project_id"),
        ({"private_key": "SECRET"}, "private_key"),
        ({"private_key": EC_PEM}, "private_key"),
        ({"base_url": "https://fcm.example/v1"}, "base_url"),
        ({"token_uri": "oauth2.googleapis.com"}, "token_uri"),
        ({"service_account": "SECRET"}, "service_account"),
        ({"service_account": '{"type":"authorized_user","x":"SECRET"}'}, "service_account"),
        ({"client_email": "", "service_account": None}, "client_email"),
        ({"private_key_id": "", "service_account": None}, "private_key_id"),
        ({"project_id": "", "service_account": None}, "project_id"),
    ],
)
def test_an_account_that_cannot_work_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told) as refused:
        replace(ACCOUNT, **wrong)
    assert "SECRET" not in str(refused.value)


def test_an_account_does_not_print_its_key():
    assert "PRIVATE" not in repr(ACCOUNT)


def test_an_account_is_made_from_settings_and_the_file_google_gave_out(tmp_path):
    (tmp_path / "service-account.json").write_text(json.dumps(SERVICE_ACCOUNT))
    settings = {"adapter": "fcm", "service_account_file": str(tmp_path / "service-account.json")}
    provider = make_provider("android", settings)
    assert isinstance(provider, Fcm)
    assert (provider.account.project_id, provider.account.private_key_id) == ("acme-shop", "key-1")


def test_wrong_settings_are_named_and_secrets_are_not():
    with pytest.raises(ConfigurationError) as refused:
        make_provider("android", {"adapter": "fcm", "service_account": '{"private_key":"SECRET"}'})
    assert "providers.android" in refused.value.detail
    assert "SECRET" not in refused.value.detail
