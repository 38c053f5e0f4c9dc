"""The APNs adapter on bytes: requests, the provider token they share, and every reason Apple gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import Channel, Outcome, OutcomeKind
from app.errors import ConfigurationError, InvalidFields
from app.providers.apns import Apns, ApnsAccount, apns_id
from app.providers.base import (
    RECIPIENT_LIMITED,
    SENDER_REFUSED,
    ProviderRequest,
    ProviderResponse,
    PushMessage,
    SendContext,
)
from app.providers.registry import make_provider
from tests.messages import CONTEXT, DELIVERY, NOTIFICATION, NOW, device, push_message


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


KEY = ec.generate_private_key(ec.SECP256R1())
ACCOUNT = ApnsAccount("ABC123DEFG", "DEF123GHIJ", "com.example.app", pem(KEY))
TOKEN = "a1" * 32
MESSAGE = push_message()
RICH = push_message(
    subtitle="Order A-1",
    badge=3,
    sound="default",
    url="https://shop.example/orders/A-1",
    image="https://cdn.example/parcel.png",
    data={"order_id": "A-1"},
    receipt_token="receipt",
    receipt_url="https://notify.example.com/api/v1/receipts",
)


def build(message: PushMessage = MESSAGE, apns: Apns | None = None, context: SendContext = CONTEXT) -> ProviderRequest:
    request = (apns or Apns(ACCOUNT)).build(message, context)
    assert isinstance(request, ProviderRequest)
    return request


def payload(message: PushMessage) -> dict[str, Any]:
    return dict(json.loads(build(message).body))


def at(moment: datetime) -> SendContext:
    return replace(CONTEXT, now=moment)


def after(**passed: float) -> datetime:
    return NOW + timedelta(**passed)


def answer(status: int, reason: str | None = None, headers: Mapping[str, str] | None = None, **more: Any):
    body = {} if reason is None else {"reason": reason, **more}
    return ProviderResponse(status, headers or {}, json.dumps(body).encode() if body else b"")


def interpret(response: ProviderResponse, apns: Apns | None = None, now: datetime = NOW) -> Outcome:
    return (apns or Apns(ACCOUNT)).interpret(response, now)


# -- building ------------------------------------------------------------------------------------------------


def test_a_push_goes_to_its_device_with_everything_apple_asks_for():
    request = build()
    assert (request.method, request.url) == ("POST", f"https://api.push.apple.com/3/device/{TOKEN}")
    assert {name: value for name, value in request.headers.items() if name != "authorization"} == {
        "content-type": "application/json",
        "apns-topic": "com.example.app",
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-id": str(apns_id(DELIVERY, 2)),
        "apns-collapse-id": str(NOTIFICATION),
        "apns-expiration": str(int(MESSAGE.expires_at.timestamp())),
    }
    assert request.timeout_seconds == 5.0


def test_the_payload_is_an_alert_with_the_keys_that_let_the_device_answer():
    assert payload(RICH) == {
        "aps": {
            "alert": {"title": "Shipped", "subtitle": "Order A-1", "body": "Your order A-1 is on its way"},
            "badge": 3,
            "sound": "default",
            "thread-id": "order_shipped",
            "mutable-content": 1,
        },
        "order_id": "A-1",
        "url": "https://shop.example/orders/A-1",
        "image": "https://cdn.example/parcel.png",
        "landed_notification_id": str(NOTIFICATION),
        "landed_delivery_id": str(DELIVERY),
        "landed_receipt_token": "receipt",
        "landed_receipt_url": "https://notify.example.com/api/v1/receipts",
    }


def test_a_plain_alert_wakes_no_extension():
    assert payload(MESSAGE)["aps"] == {
        "alert": {"title": "Shipped", "body": "Your order A-1 is on its way"},
        "thread-id": "order_shipped",
    }


def test_our_keys_are_overridden_by_nobody():
    evil = push_message(data={"landed_delivery_id": "x", "url": "https://evil.example"}, url="https://shop.example")
    assert payload(evil)["landed_delivery_id"] == str(DELIVERY)
    assert payload(evil)["url"] == "https://shop.example"


def test_apples_own_key_is_not_the_apps_to_set():
    with pytest.raises(InvalidFields, match=r"data\.aps"):
        build(push_message(data={"aps": "{}"}))


@pytest.mark.parametrize(("klass", "priority"), [("alert", "10"), ("transactional", "10"), ("promotional", "5")])
def test_only_what_people_wait_for_wakes_the_device(klass, priority):
    assert build(push_message(klass=klass)).headers["apns-priority"] == priority


def test_the_id_follows_from_the_attempt_and_from_nothing_else():
    assert build(push_message(title="Other")).headers["apns-id"] == build().headers["apns-id"]
    assert build(push_message(attempt_no=3)).headers["apns-id"] != build().headers["apns-id"]
    assert str(UUID(build().headers["apns-id"])) == build().headers["apns-id"]


def test_every_copy_replaces_the_one_before():
    first, second = build(push_message(attempt_no=1)), build(push_message(attempt_no=2))
    assert first.headers["apns-collapse-id"] == second.headers["apns-collapse-id"]
    assert len(first.headers["apns-collapse-id"]) <= 64


@pytest.mark.parametrize(
    ("environment", "host"), [("production", "api.push.apple.com"), ("sandbox", "api.sandbox.push.apple.com")]
)
def test_a_token_goes_to_the_gateway_it_comes_from_over_connections_of_its_own(environment, host):
    request = build(push_message(device=device(environment=environment)))
    assert request.url == f"https://{host}/3/device/{TOKEN}"
    assert request.pool == f"apns:DEF123GHIJ:ABC123DEFG:{environment}"


def test_a_sandbox_takes_the_place_of_both_gateways():
    apns = Apns(replace(ACCOUNT, base_url="https://127.0.0.1:2197", trust="/etc/sandbox-ca.pem"))
    requests = [build(push_message(device=device(environment=e)), apns) for e in ("production", "sandbox")]
    assert {request.url for request in requests} == {f"https://127.0.0.1:2197/3/device/{TOKEN}"}
    assert {request.trust for request in requests} == {"/etc/sandbox-ca.pem"}
    assert len({request.pool for request in requests}) == 2


@pytest.mark.parametrize("token", ["", "xyz", "a1/../..", "a1?x", "a1\r\nx: y", "a1 ", "ä1", "a" * 401])
def test_a_token_that_is_none_never_becomes_part_of_a_url(token):
    with pytest.raises(InvalidFields) as refused:
        build(push_message(device=device(token=token)))
    assert [error.field for error in refused.value.errors] == ["device.token"]
    assert not token or token not in refused.value.detail


def test_an_environment_that_apple_does_not_have_is_named():
    with pytest.raises(InvalidFields, match=r"device\.environment"):
        build(push_message(device=device(environment="staging")))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"body": "ü" * 2100}, "body"),
        ({"title": "x" * 4096}, "title"),
        ({"data": {"a": "x" * 2000, "b": "y" * 2000}}, "data"),
        ({"image": "https://cdn.example/" + "x" * 4000}, "image"),
    ],
)
def test_a_payload_over_4096_bytes_names_what_takes_most_of_it(changes, field):
    with pytest.raises(InvalidFields, match="which may have 4096") as refused:
        build(push_message(**changes))
    assert [error.field for error in refused.value.errors] == [field]


def test_a_payload_of_exactly_4096_bytes_is_sent():
    room = 4096 - len(build(push_message(body="")).body) - len(',"body":""')
    assert len(build(push_message(body="x" * room)).body) == 4096
    with pytest.raises(InvalidFields):
        build(push_message(body="x" * (room + 1)))


@given(
    st.text(max_size=100),
    st.text(max_size=100),
    st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=5),
)
def test_any_words_become_a_payload_that_can_be_read(title, body, data):
    data.pop("aps", None)
    built = json.loads(build(push_message(title=title, body=body, data=data)).body.decode())
    shown = title.encode("utf-8", "replace").decode()
    assert built["aps"]["alert"].get("title", "") == shown


# -- the provider token --------------------------------------------------------------------------------------


def token_of(apns: Apns, now: datetime = NOW) -> str:
    return build(apns=apns, context=at(now)).headers["authorization"].removeprefix("bearer ")


def test_the_provider_token_says_who_signs_and_when():
    token = token_of(Apns(ACCOUNT))
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": "ABC123DEFG", "typ": "JWT"}
    claims = jwt.decode(token, KEY.public_key(), algorithms=["ES256"], options={"verify_iat": False})
    assert claims == {"iss": "DEF123GHIJ", "iat": int(NOW.timestamp())}


def test_one_token_serves_all_requests_for_more_than_twenty_and_less_than_sixty_minutes():
    apns = Apns(ACCOUNT)
    first = token_of(apns)
    assert token_of(apns, after(minutes=20)) == token_of(apns, after(minutes=44, seconds=59)) == first
    assert token_of(apns, after(minutes=45)) != first


def test_a_clock_that_steps_back_far_makes_a_new_token_and_a_small_step_does_not():
    apns = Apns(ACCOUNT)
    first = token_of(apns)
    assert token_of(apns, after(seconds=-30)) == first
    assert token_of(apns, after(hours=-3)) != first


EXPIRED = answer(403, "ExpiredProviderToken")
OK = answer(200, headers={"apns-id": str(NOTIFICATION)})


def test_a_token_that_expired_is_made_anew_and_its_call_tried_again():
    apns = Apns(ACCOUNT)
    first = token_of(apns)
    outcome = interpret(EXPIRED, apns, after(minutes=30))
    assert (outcome.kind, outcome.detail) == (OutcomeKind.TRANSIENT, "403 ExpiredProviderToken")
    assert token_of(apns, after(minutes=30)) != first


def test_a_new_token_that_expired_as_well_is_a_clock_and_not_a_token():
    apns = Apns(ACCOUNT)
    token_of(apns)
    interpret(EXPIRED, apns, after(minutes=30))
    second = token_of(apns, after(minutes=30))
    assert interpret(EXPIRED, apns, after(minutes=30)).kind is OutcomeKind.UNAUTHORIZED
    assert token_of(apns, after(minutes=31)) == second, "Apple refuses a token a minute"


def test_answers_to_calls_with_the_old_token_do_not_condemn_the_new_one():
    apns = Apns(ACCOUNT)
    for seconds in range(10):
        token_of(apns, after(minutes=29, seconds=50 + seconds))
    kinds = [interpret(EXPIRED, apns, after(minutes=30)).kind for _ in range(5)]
    second = token_of(apns, after(minutes=30))
    kinds += [interpret(EXPIRED, apns, after(minutes=30)).kind for _ in range(5)]
    assert kinds == [OutcomeKind.TRANSIENT] * 10
    assert token_of(apns, after(minutes=30)) == second
    assert interpret(EXPIRED, apns, after(minutes=30)).kind is OutcomeKind.UNAUTHORIZED


def test_calls_that_nobody_ever_answered_do_not_hide_a_wrong_clock():
    apns = Apns(ACCOUNT)
    for _ in range(200):
        token_of(apns)
    kinds = []
    for seconds in range(3):
        token_of(apns, after(minutes=30, seconds=seconds))
        kinds.append(interpret(EXPIRED, apns, after(minutes=30, seconds=seconds)).kind)
    assert kinds == [OutcomeKind.TRANSIENT, OutcomeKind.UNAUTHORIZED, OutcomeKind.UNAUTHORIZED]


def test_calls_just_made_are_under_way_although_counting_began_anew():
    apns = Apns(ACCOUNT)
    for seconds in (0, 28, 29, 31):  # the last of them 31 seconds after the first
        token_of(apns, after(minutes=20, seconds=seconds))
    kinds = [interpret(EXPIRED, apns, after(minutes=20, seconds=32)).kind for _ in range(3)]
    assert kinds == [OutcomeKind.TRANSIENT] * 3


def test_accounts_of_one_team_and_key_share_one_token():
    """Apple counts what a key makes, not what our accounts do."""
    apns, other = Apns(ACCOUNT), Apns(replace(ACCOUNT, topic="com.example.other"))
    first = token_of(apns)
    assert token_of(other, after(minutes=1)) == first
    interpret(EXPIRED, other, after(minutes=30))
    assert token_of(apns, after(minutes=30)) == token_of(other, after(minutes=31)) != first


def test_an_account_made_anew_goes_on_with_its_token():
    apns = Apns(ACCOUNT)
    first = token_of(apns)
    apns = Apns(ACCOUNT)
    assert token_of(apns, after(minutes=1)) == first


@pytest.mark.parametrize(
    "changes",
    [{"team_id": "OTHERTEAM1"}, {"key_id": "OTHERKEY12"}, {"key": pem(ec.generate_private_key(ec.SECP256R1()))}],
)
def test_another_team_or_key_has_a_token_of_its_own(changes):
    apns, other = Apns(ACCOUNT), Apns(replace(ACCOUNT, **changes))
    assert token_of(apns) != token_of(other)


def test_a_new_token_that_was_taken_may_expire_in_its_time():
    apns = Apns(ACCOUNT)
    token_of(apns)
    interpret(EXPIRED, apns, NOW)
    token_of(apns)
    interpret(OK, apns, after(seconds=1))
    token_of(apns, after(minutes=30))
    assert interpret(EXPIRED, apns, after(minutes=30)).kind is OutcomeKind.TRANSIENT


def test_a_wrong_clock_gets_another_chance_every_twenty_minutes():
    apns = Apns(ACCOUNT)
    token_of(apns)
    interpret(EXPIRED, apns, NOW)
    second = token_of(apns)
    assert interpret(EXPIRED, apns, after(minutes=21)).kind is OutcomeKind.UNAUTHORIZED
    assert token_of(apns, after(minutes=21)) != second


# -- answers -------------------------------------------------------------------------------------------------


def test_acceptance_carries_the_id_that_was_ours():
    outcome = interpret(answer(200, headers={"apns-id": build().headers["apns-id"].upper()}))
    assert outcome.kind is OutcomeKind.ACCEPTED
    assert outcome.provider_message_id == build().headers["apns-id"]


A, T, C, R = (OutcomeKind.UNAUTHORIZED, OutcomeKind.TRANSIENT, OutcomeKind.REJECTED, OutcomeKind.RECIPIENT_INVALID)
OF_ONE_GATEWAY = ("BadCertificateEnvironment", "BadEnvironmentKeyIdInToken")


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (200, None, OutcomeKind.UNKNOWN),
        (204, None, OutcomeKind.UNKNOWN),
        (307, None, A),
        (400, "BadCollapseId", C),
        (400, "BadDeviceToken", R),
        (400, "BadExpirationDate", C),
        (400, "BadMessageId", C),
        (400, "BadPriority", C),
        (400, "BadTopic", A),
        (400, "DeviceTokenNotForTopic", R),
        (400, "DuplicateHeaders", C),
        (400, "IdleTimeout", T),
        (400, "InvalidPushType", C),
        (400, "MissingDeviceToken", C),
        (400, "MissingTopic", A),
        (400, "PayloadEmpty", C),
        (400, "TopicDisallowed", A),
        (400, "SomethingNew", C),
        (400, None, C),
        (403, "BadCertificate", A),
        (403, "BadCertificateEnvironment", A),
        (403, "BadEnvironmentKeyIdInToken", A),
        (403, "ExpiredProviderToken", T),
        (403, "Forbidden", A),
        (403, "InvalidProviderToken", A),
        (403, "MissingProviderToken", A),
        (403, "UnrelatedKeyIdInToken", A),
        (403, None, A),
        (404, "BadPath", C),
        (405, "MethodNotAllowed", C),
        (408, None, OutcomeKind.UNKNOWN),
        (410, "ExpiredToken", R),
        (410, "Unregistered", R),
        (413, "PayloadTooLarge", C),
        (418, "Teapot", C),
        (429, "TooManyProviderTokenUpdates", A),
        (429, "TooManyRequests", OutcomeKind.RATE_LIMITED),
        (429, None, OutcomeKind.RATE_LIMITED),
        (500, "InternalServerError", OutcomeKind.UNKNOWN),
        (502, None, OutcomeKind.UNKNOWN),
        (503, "ServiceUnavailable", T),
        (503, "Shutdown", T),
    ],
)
def test_every_reason_has_its_class(status, reason, kind):
    outcome = interpret(answer(status, reason))
    assert outcome.kind is kind
    # A wrong topic too is wrong for every message of the account; a key of one gateway only for those of the other.
    assert kind is not A or outcome.reason == (SENDER_REFUSED if reason in OF_ONE_GATEWAY else None)
    assert outcome.status_code == status
    assert outcome.detail
    assert outcome.provider_message_id is None


@pytest.mark.parametrize("reason", ["Unregistered", "ExpiredToken"])
def test_a_dead_token_is_dead_since_the_time_apple_says(reason):
    outcome = interpret(answer(410, reason, timestamp=1772366400123))
    assert outcome.invalid_since == datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)
    assert not outcome.doubtful


@pytest.mark.parametrize("timestamp", ["soon", None, -1, 1e300, True, {}, [], 7])
def test_a_dead_token_without_a_readable_time_is_dead_all_the_same(timestamp):
    outcome = interpret(answer(410, "Unregistered", timestamp=timestamp))
    assert (outcome.kind, outcome.invalid_since) == (R, None)


@pytest.mark.parametrize(
    ("reason", "named"),
    [("BadDeviceToken", "bad_device_token"), ("DeviceTokenNotForTopic", "device_token_not_for_topic")],
)
def test_a_token_of_the_other_gateway_or_app_looks_just_as_bad(reason, named):
    outcome = interpret(answer(400, reason))
    assert (outcome.reason, outcome.doubtful, outcome.invalid_since) == (named, True, None)


def test_too_many_pushes_to_one_device_hold_up_no_other():
    """The limit is the device's own, and costs no retries (R-092)."""
    outcome = interpret(answer(429, "TooManyRequests", {"retry-after": "17"}))
    assert (outcome.kind, outcome.retry_after_seconds) == (OutcomeKind.RATE_LIMITED, 17)
    assert outcome.reason == RECIPIENT_LIMITED
    assert interpret(answer(429)).reason is None


@pytest.mark.parametrize(("value", "seconds"), [("30", 30), ("Sun, 01 Mar 2026 12:01:00 GMT", 60), ("soon", None)])
def test_an_overloaded_gateway_says_when_to_come_back(value, seconds):
    outcome = interpret(answer(503, "ServiceUnavailable", {"retry-after": value}))
    assert (outcome.kind, outcome.retry_after_seconds) == (T, seconds)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
BODIES = st.binary() | st.fixed_dictionaries({}, optional={"reason": JSON, "timestamp": JSON}).map(
    lambda body: json.dumps(body).encode()
)


@given(st.integers(0, 999), BODIES, st.dictionaries(st.sampled_from(["retry-after", "apns-id"]), st.text()))
def test_any_answer_is_an_outcome_and_only_a_200_is_acceptance(status, body, headers):
    outcome = interpret(ProviderResponse(status, headers, body))
    assert (outcome.kind is OutcomeKind.ACCEPTED) <= (status == 200)
    assert len(outcome.detail) < 100


# -- the account ---------------------------------------------------------------------------------------------


def test_what_apns_can_prove_and_take():
    capabilities = Apns(ACCOUNT).capabilities
    assert (capabilities.channel, capabilities.transport) == (Channel.PUSH, "http2")
    assert (capabilities.confirms_delivery, capabilities.can_look_up, capabilities.accepts_client_id) == (
        True,
        False,
        True,
    )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"key_id": "short"}, "key_id"),
        ({"key_id": "ABC123DEF\n"}, "key_id"),
        ({"team_id": "lowercase1"}, "team_id"),
        ({"topic": "com.example\r\nx: y"}, "topic"),
        ({"topic": ""}, "topic"),
        ({"key": "SECRET"}, "key must be the PEM"),
        ({"key": pem(ec.generate_private_key(ec.SECP384R1()))}, "key must be the PEM"),
        ({"key": pem(rsa.generate_private_key(65537, 2048))}, "key must be the PEM"),
        ({"base_url": "https://api.example.com/3"}, "base_url"),
        ({"base_url": "ftp://api.example.com"}, "base_url"),
    ],
)
def test_an_account_that_cannot_work_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told) as refused:
        replace(ACCOUNT, **wrong)
    assert "SECRET" not in str(refused.value)


def test_an_account_does_not_print_its_key():
    assert "PRIVATE" not in repr(ACCOUNT)


def test_an_account_is_made_from_settings_and_the_file_apple_gave_out(tmp_path):
    (tmp_path / "AuthKey_ABC123DEFG.p8").write_text(ACCOUNT.key)
    settings = {
        "adapter": "apns",
        "key_id": "ABC123DEFG",
        "team_id": "DEF123GHIJ",
        "topic": "com.example.app",
        "key_file": str(tmp_path / "AuthKey_ABC123DEFG.p8"),
    }
    provider = make_provider("apns", settings)
    assert isinstance(provider, Apns)
    assert provider.account.key == ACCOUNT.key.strip()


def test_wrong_settings_are_named_and_secrets_are_not():
    settings = {"adapter": "apns", "key_id": "ABC123DEFG", "team_id": "x", "topic": "t", "key": "SECRET"}
    with pytest.raises(ConfigurationError) as refused:
        make_provider("ios", settings)
    assert "providers.ios" in refused.value.detail
    assert "SECRET" not in refused.value.detail
