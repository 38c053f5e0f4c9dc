"""The Web Push adapter on bytes: whose endpoints it calls, what it encrypts, how it signs, and what answers mean."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import http_ece
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import Channel, Outcome, OutcomeKind, Platform
from app.errors import ConfigurationError, InvalidFields
from app.providers.base import ProviderRequest, ProviderResponse, PushMessage
from app.providers.registry import make_provider
from app.providers.web_push import WebPush, WebPushAccount, encrypt
from tests.messages import CONTEXT, DELIVERY, NOTIFICATION, NOW, device, push_message


def unbase64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def base64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def pem(key: Any) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


KEY = ec.generate_private_key(ec.SECP256R1())
RAW_KEY = base64(KEY.private_numbers().private_value.to_bytes(32, "big"))
ACCOUNT = WebPushAccount(RAW_KEY, "mailto:push@example.com")
WEB_PUSH = WebPush(ACCOUNT)

BROWSER = ec.generate_private_key(ec.SECP256R1())
AUTH = b"sixteen bytes..."
ENDPOINT = "https://fcm.googleapis.com/fcm/send/abc:def"
DEVICE = device(platform=Platform.WEB, token=ENDPOINT, p256dh=base64(point(BROWSER)), auth=base64(AUTH))
MESSAGE = push_message(device=DEVICE)


def build(message: PushMessage = MESSAGE, web_push: WebPush = WEB_PUSH, now: datetime = NOW) -> ProviderRequest:
    request = web_push.build(message, replace(CONTEXT, now=now))
    assert isinstance(request, ProviderRequest)
    return request


def to(endpoint: str, **changes: Any) -> PushMessage:
    return push_message(device=replace(DEVICE, token=endpoint), **changes)


def decrypted(request: ProviderRequest) -> dict[str, Any]:
    return dict(json.loads(http_ece.decrypt(request.body, private_key=BROWSER, auth_secret=AUTH)))


def answer(status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> ProviderResponse:
    return ProviderResponse(status, headers or {}, body if isinstance(body, bytes) else json.dumps(body).encode())


# -- encryption ----------------------------------------------------------------------------------------------


def test_the_vector_of_rfc_8291_is_met_byte_for_byte():
    """RFC 8291, 5: with its salt and keys our encryption gives its body, and its receiver reads it."""
    receiver = ec.derive_private_key(
        int.from_bytes(unbase64("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"), "big"), ec.SECP256R1()
    )
    sender = ec.derive_private_key(
        int.from_bytes(unbase64("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"), "big"), ec.SECP256R1()
    )
    body = (
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A"
        "_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )
    auth, salt = unbase64("BTBZMqHH6r4Tts7J_aSIgg"), unbase64("DGv6ra1nlYgDCS1FRnbzlw")
    words = b"When I grow up, I want to be a watermelon"
    assert base64(encrypt(words, point(receiver), auth, salt=salt, key=sender)) == body
    assert http_ece.decrypt(unbase64(body), private_key=receiver, auth_secret=auth) == words


def test_only_the_subscriptions_owner_reads_the_message():
    request = build()
    assert decrypted(request)["title"] == "Shipped"
    with pytest.raises(http_ece.ECEException):
        http_ece.decrypt(request.body, private_key=ec.generate_private_key(ec.SECP256R1()), auth_secret=AUTH)


def test_no_two_messages_share_a_salt_or_a_key():
    first, second = build().body, build().body
    assert first[:16] != second[:16]
    assert first[21:86] != second[21:86]


@given(st.binary(max_size=3993))
def test_whatever_is_encrypted_is_read_and_fits_every_push_service(payload):
    sealed = encrypt(payload, point(BROWSER), AUTH)
    assert http_ece.decrypt(sealed, private_key=BROWSER, auth_secret=AUTH) == payload
    assert len(sealed) <= 4096


@pytest.mark.parametrize("alphabet", [str, lambda key: key + "=", lambda key: key.replace("-", "+").replace("_", "/")])
def test_keys_are_read_however_a_browser_writes_them(alphabet):
    written = replace(DEVICE, p256dh=alphabet(base64(point(BROWSER))), auth=alphabet(base64(AUTH)))
    assert decrypted(build(push_message(device=written)))["title"] == "Shipped"


COMPRESSED = BROWSER.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


@pytest.mark.parametrize(
    "key",
    [None, "", "x", "ü", "not base64!", base64(COMPRESSED), base64(b"\4" + b"\1" * 64), base64(b"\4" * 100)],
    ids=["none", "empty", "short", "not ASCII", "not base64", "compressed", "off the curve", "too long"],
)
def test_a_key_that_is_no_point_is_named(key):
    with pytest.raises(InvalidFields) as refused:
        build(push_message(device=replace(DEVICE, p256dh=key)))
    assert [error.field for error in refused.value.errors] == ["device.p256dh"]


@pytest.mark.parametrize("auth", [None, "", "short", base64(b"x" * 17), "!"])
def test_an_auth_secret_of_another_size_is_named(auth):
    with pytest.raises(InvalidFields) as refused:
        build(push_message(device=replace(DEVICE, auth=auth)))
    assert [error.field for error in refused.value.errors] == ["device.auth"]


# -- building ------------------------------------------------------------------------------------------------


def test_a_push_goes_to_the_endpoint_with_everything_the_protocol_asks_for():
    request = build()
    assert (request.method, request.url, request.timeout_seconds) == ("POST", ENDPOINT, 5.0)
    assert {name: value for name, value in request.headers.items() if name != "Authorization"} == {
        "Content-Encoding": "aes128gcm",
        "Content-Type": "application/octet-stream",
        "TTL": "86400",
        "Urgency": "normal",
        "Topic": NOTIFICATION.hex,
    }


def test_the_payload_is_what_a_service_worker_shows_and_answers_with():
    rich = push_message(
        device=DEVICE,
        subtitle="Order A-1",
        badge=3,
        url="https://shop.example/orders/A-1",
        image="https://cdn.example/parcel.png",
        data={"order_id": "A-1"},
        receipt_token="receipt",
        receipt_url="https://notify.example.com/api/v1/receipts",
    )
    assert decrypted(build(rich)) == {
        "title": "Shipped",
        "subtitle": "Order A-1",
        "body": "Your order A-1 is on its way",
        "url": "https://shop.example/orders/A-1",
        "image": "https://cdn.example/parcel.png",
        "badge": 3,
        "tag": str(NOTIFICATION),
        "data": {"order_id": "A-1"},
        "landed_notification_id": str(NOTIFICATION),
        "landed_delivery_id": str(DELIVERY),
        "landed_receipt_token": "receipt",
        "landed_receipt_url": "https://notify.example.com/api/v1/receipts",
    }


def test_every_copy_replaces_the_one_before():
    first, second = build(replace(MESSAGE, attempt_no=1)), build(replace(MESSAGE, attempt_no=2))
    assert first.headers["Topic"] == second.headers["Topic"]
    assert len(first.headers["Topic"]) <= 32
    assert decrypted(first)["tag"] == decrypted(second)["tag"]


@pytest.mark.parametrize(("klass", "urgency"), [("alert", "high"), ("transactional", "normal"), ("promotional", "low")])
def test_the_class_says_how_urgent_it_is(klass, urgency):
    assert build(replace(MESSAGE, klass=klass)).headers["Urgency"] == urgency


@pytest.mark.parametrize(
    ("left", "ttl"), [(timedelta(seconds=-5), "0"), (timedelta(seconds=90), "90"), (timedelta(days=90), "2419200")]
)
def test_the_time_to_live_is_what_is_left(left, ttl):
    assert build(replace(MESSAGE, expires_at=NOW + left)).headers["TTL"] == ttl


def test_a_payload_over_3993_bytes_names_what_takes_most_of_it():
    with pytest.raises(InvalidFields, match="which may have 3993") as refused:
        build(replace(MESSAGE, body="ü" * 2000))
    assert [error.field for error in refused.value.errors] == ["body"]


def test_a_payload_of_exactly_3993_bytes_is_sent_in_4096():
    room = 3993 - (len(build(replace(MESSAGE, body="")).body) - 103)
    assert len(build(replace(MESSAGE, body="x" * room)).body) == 4096
    with pytest.raises(InvalidFields):
        build(replace(MESSAGE, body="x" * (room + 1)))


# -- whose endpoints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://fcm.googleapis.com/wp/abc",
        "https://FCM.googleapis.com/wp/abc",
        "https://fcm.googleapis.com:443/wp/abc",
        "https://updates.push.services.mozilla.com/wpush/v2/abc",
        "https://web.push.apple.com/abc",
        "https://eu.push.apple.com/abc",
        "https://wns2-by3p.notify.windows.com/w/?token=abc",
    ],
)
def test_known_push_services_are_called(endpoint):
    assert build(to(endpoint)).url == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "https://evil.example/wp",
        "http://fcm.googleapis.com/wp",
        "https://fcm.googleapis.com.evil.example/wp",
        "https://evilfcm.googleapis.com/wp",
        "https://push.apple.com/wp",
        "https://.push.apple.com/wp",
        "https://evil.example/.push.apple.com",
        "https://evil.example\\.push.apple.com/",
        "https://evil.example#.push.apple.com",
        "https://evil.example?.push.apple.com",
        "https://fcm.googleapis.com@evil.example/wp",
        "https://user@fcm.googleapis.com/wp",
        "https://fcm.googleapis.com:port/wp",
        "https://fcm.googleapis.com\r\nHost: evil.example/wp",
        "https://fcm.googleapis.com/w p",
        "https://fcm.googleapis.com/ü",
        "https://127.0.0.1/wp",
        "https://localhost/wp",
        "https://[::1]/wp",
        "https://[::1/wp",
        "https://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "https://fcm.googleapis.com/" + "x" * 2048,
    ],
)
def test_nobody_else_is_called(endpoint):
    with pytest.raises(InvalidFields) as refused:
        build(to(endpoint))
    assert [error.field for error in refused.value.errors] == ["device.token"]
    assert not endpoint or endpoint not in refused.value.detail


def test_an_operator_says_which_push_services_are_known():
    own = WebPush(replace(ACCOUNT, push_hosts=("push.example.com",)))
    assert build(to("https://push.example.com/1"), own)
    with pytest.raises(InvalidFields):
        build(MESSAGE, own)


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:8090/notify/x", "http://localhost:8090/notify/x", "http://[::1]:8090/notify/x"]
)
def test_a_development_machine_may_call_itself(endpoint):
    own = WebPush(replace(ACCOUNT, allow_loopback=True))
    assert build(to(endpoint), own).url == endpoint
    with pytest.raises(InvalidFields):
        build(to("http://192.168.0.1:8090/notify/x"), own)


# -- signing -------------------------------------------------------------------------------------------------


def signed(request: ProviderRequest) -> tuple[str, str]:
    scheme, _, rest = request.headers["Authorization"].partition(" ")
    fields = dict(part.strip().split("=", 1) for part in rest.split(","))
    assert scheme == "vapid"
    return fields["t"], fields["k"]


@pytest.mark.parametrize(
    ("endpoint", "audience"),
    [
        (ENDPOINT, "https://fcm.googleapis.com"),
        ("https://fcm.googleapis.com:443/x", "https://fcm.googleapis.com"),
        ("https://fcm.googleapis.com:8443/x", "https://fcm.googleapis.com:8443"),
    ],
)
def test_the_push_service_learns_who_sends_and_that_it_is_meant(endpoint, audience):
    token, key = signed(build(to(endpoint)))
    assert key == WEB_PUSH.public_key == base64(point(KEY))
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), unbase64(key))
    options = {"verify_exp": False}
    claims = jwt.decode(token, public, algorithms=["ES256"], audience=audience, options=options)
    assert claims == {
        "aud": audience,
        "exp": int((NOW + timedelta(hours=12)).timestamp()),
        "sub": "mailto:push@example.com",
    }


def test_one_token_serves_a_push_service_until_an_hour_before_it_runs_out():
    web_push = WebPush(ACCOUNT)
    first = signed(build(web_push=web_push))
    assert signed(build(web_push=web_push, now=NOW + timedelta(hours=10, minutes=59))) == first
    assert signed(build(web_push=web_push, now=NOW + timedelta(hours=11))) != first
    assert signed(build(to("https://web.push.apple.com/x"), web_push)) != first


def test_a_clock_that_steps_back_makes_a_token_that_is_not_too_far_ahead():
    web_push = WebPush(ACCOUNT)
    build(web_push=web_push)
    token, _ = signed(build(web_push=web_push, now=NOW - timedelta(days=2)))
    expires_at = jwt.decode(token, options={"verify_signature": False})["exp"]
    assert expires_at == int((NOW - timedelta(days=2) + timedelta(hours=12)).timestamp())


def test_tokens_of_many_push_services_do_not_pile_up():
    web_push = WebPush(ACCOUNT)
    for number in range(1100):
        web_push._sign(f"https://{number}.notify.windows.com", NOW)
    assert len(web_push._tokens) <= 1000


@pytest.mark.parametrize(
    "written", [RAW_KEY, RAW_KEY + "=", pem(KEY), f"\n{RAW_KEY}\n"], ids=["base64url", "padded", "PEM", "between lines"]
)
def test_the_key_is_read_however_tools_write_it(written):
    assert WebPush(replace(ACCOUNT, private_key=written)).public_key == base64(point(KEY))


# -- answers -------------------------------------------------------------------------------------------------

OTHER_KEY = [
    (403, b"the VAPID credentials in the authorization header do not correspond to the credentials used to create the"),
    (403, b"the key in the authorization header does not correspond to the sender ID used to subscribe this user."),
    (401, {"code": 401, "errno": 109, "error": "Unauthorized", "message": "VAPID public key mismatch"}),
    (400, {"reason": "VapidPkHashMismatch"}),
    (403, {"reason": "VapidPkHashMismatch"}),
]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, OutcomeKind.ACCEPTED),
        (201, OutcomeKind.ACCEPTED),
        (202, OutcomeKind.ACCEPTED),
        (204, OutcomeKind.UNKNOWN),
        (307, OutcomeKind.REJECTED),
        (400, OutcomeKind.REJECTED),
        (401, OutcomeKind.UNAUTHORIZED),
        (403, OutcomeKind.UNAUTHORIZED),
        (404, OutcomeKind.RECIPIENT_INVALID),
        (408, OutcomeKind.UNKNOWN),
        (410, OutcomeKind.RECIPIENT_INVALID),
        (413, OutcomeKind.REJECTED),
        (429, OutcomeKind.RATE_LIMITED),
        (500, OutcomeKind.UNKNOWN),
        (502, OutcomeKind.UNKNOWN),
        (503, OutcomeKind.UNKNOWN),
    ],
)
def test_every_status_has_its_class(status, kind):
    outcome = WEB_PUSH.interpret(answer(status), NOW)
    assert (outcome.kind, outcome.status_code, outcome.doubtful) == (kind, status, False)
    assert outcome.detail


@pytest.mark.parametrize(("status", "body"), OTHER_KEY)
def test_a_subscription_made_with_another_key_says_nothing_of_ours(status, body):
    """A single one, which anybody could register, must not make the account look refused."""
    outcome = WEB_PUSH.interpret(answer(status, body), NOW)
    assert (outcome.kind, outcome.reason, outcome.doubtful) == (
        OutcomeKind.RECIPIENT_INVALID,
        "subscribed_with_another_key",
        True,
    )


@pytest.mark.parametrize("reason", ["BadJwtToken", "ExpiredJwtToken"])
def test_a_token_that_a_push_service_does_not_take_is_ours_to_mend(reason):
    assert WEB_PUSH.interpret(answer(403, {"reason": reason}), NOW).kind is OutcomeKind.UNAUTHORIZED


@pytest.mark.parametrize(
    ("value", "seconds"), [("17", 17), ("Sun, 01 Mar 2026 12:00:30 GMT", 30), ("soon", None), (None, None)]
)
def test_a_limit_says_when_to_come_back_in_seconds_or_as_a_date(value, seconds):
    headers = {} if value is None else {"retry-after": value}
    outcome = WEB_PUSH.interpret(answer(429, b"", headers), NOW)
    assert (outcome.kind, outcome.retry_after_seconds) == (OutcomeKind.RATE_LIMITED, seconds)


def test_an_overload_that_says_when_to_come_back_took_nothing():
    outcome = WEB_PUSH.interpret(answer(503, b"", {"retry-after": "30"}), NOW)
    assert (outcome.kind, outcome.retry_after_seconds) == (OutcomeKind.TRANSIENT, 30)


@pytest.mark.parametrize("status", [500, 502, 504, 599])
def test_a_failure_on_the_way_may_have_taken_it_whatever_it_says(status):
    outcome = WEB_PUSH.interpret(answer(status, b"", {"retry-after": "30"}), NOW)
    assert (outcome.kind, outcome.retry_after_seconds) == (OutcomeKind.UNKNOWN, 30)


def test_the_messages_own_url_is_not_kept():
    outcome = WEB_PUSH.interpret(answer(201, b"", {"location": "https://fcm.googleapis.com/0:123%abc"}), NOW)
    assert outcome.provider_message_id is None


def test_details_hold_no_address_and_have_an_end():
    words = f"no such subscription {ENDPOINT} of zoe@example.com " + "x" * 1000
    detail = WEB_PUSH.interpret(answer(400, words.encode()), NOW).detail
    assert detail.startswith("400 no such subscription <address> of <address>")
    assert len(detail) < 320


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
BODIES = st.binary() | st.fixed_dictionaries({}, optional={"reason": JSON, "message": JSON, "errno": JSON}).map(
    lambda body: json.dumps(body).encode()
)


@given(st.integers(0, 999), BODIES, st.dictionaries(st.sampled_from(["retry-after", "location"]), st.text()))
def test_any_answer_is_an_outcome_and_only_a_2xx_is_acceptance(status, body, headers):
    outcome = WEB_PUSH.interpret(ProviderResponse(status, headers, body), NOW)
    assert isinstance(outcome, Outcome)
    assert (outcome.kind is OutcomeKind.ACCEPTED) <= (200 <= status < 300)
    assert len(outcome.detail) < 320


# -- the account ---------------------------------------------------------------------------------------------


def test_what_web_push_can_prove_and_how_it_travels():
    capabilities = WEB_PUSH.capabilities
    assert (capabilities.channel, capabilities.transport) == (Channel.PUSH, "guarded")
    assert (capabilities.confirms_delivery, capabilities.can_look_up) == (True, False)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"private_key": "SECRET"}, "private_key"),
        ({"private_key": base64(b"x" * 31)}, "private_key"),
        ({"private_key": base64(b"\xff" * 32)}, "private_key"),
        ({"private_key": pem(rsa.generate_private_key(65537, 2048))}, "private_key"),
        ({"private_key": pem(ec.generate_private_key(ec.SECP384R1()))}, "private_key"),
        ({"subject": "push@example.com"}, "subject"),
        ({"subject": "mailto:"}, "subject"),
        ({"subject": "http://example.com"}, "subject"),
        ({"push_hosts": ("*",)}, "push_hosts"),
        ({"push_hosts": ("https://push.example.com",)}, "push_hosts"),
        ({"push_hosts": ("*.*.com",)}, "push_hosts"),
    ],
)
def test_an_account_that_cannot_work_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told) as refused:
        replace(ACCOUNT, **wrong)
    assert "SECRET" not in str(refused.value)


def test_an_account_does_not_print_its_key():
    assert RAW_KEY not in repr(ACCOUNT)


def test_an_account_is_made_from_settings_and_a_secret_file(tmp_path):
    (tmp_path / "vapid").write_text(RAW_KEY + "\n")
    settings = {
        "adapter": "web-push",
        "private_key_file": str(tmp_path / "vapid"),
        "subject": "mailto:push@example.com",
        "push_hosts": ["push.example.com"],
    }
    provider = make_provider("web", settings)
    assert isinstance(provider, WebPush)
    assert (provider.public_key, provider.account.push_hosts) == (base64(point(KEY)), ("push.example.com",))


def test_wrong_settings_are_named_and_secrets_are_not():
    with pytest.raises(ConfigurationError) as refused:
        make_provider("web", {"adapter": "web-push", "private_key": "SECRET", "subject": "mailto:a@example.com"})
    assert "providers.web" in refused.value.detail
    assert "SECRET" not in refused.value.detail
