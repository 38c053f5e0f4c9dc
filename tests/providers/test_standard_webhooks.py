"""Outbound webhooks against what merchants verify them with: the reference libraries, Svix's, Node's own crypto."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import svix.webhooks
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import Channel, OutcomeKind
from app.errors import InvalidFields
from app.providers.base import ProviderRequest, ProviderResponse, SendContext
from app.providers.registry import make_provider
from app.providers.standard_webhooks import (
    StandardWebhooks,
    StandardWebhooksAccount,
    algorithm_of,
    new_secret,
    public_key,
    sign,
)
from tests.messages import CONTEXT, DELIVERY, NOW, endpoint_message
from tests.node_peers import run_node

WEBHOOKS = StandardWebhooks(StandardWebhooksAccount())
SECRET, OTHER = new_secret("hmac-sha256"), new_secret("hmac-sha256")
KEY = new_secret("ed25519")
GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "webhooks-for-merchants.md"

Verify = Callable[[str, bytes, dict[str, str]], Any]


def built(now: datetime | None = None, **changes: Any) -> ProviderRequest:
    """A request signed now, because the verifiers look at the clock."""
    context = SendContext(now=now or datetime.now(UTC), account="webhooks")
    return WEBHOOKS.build(endpoint_message(**{"secrets": (SECRET,)} | changes), context)


def answer(status: int, body: bytes = b"", **headers: str) -> ProviderResponse:
    return ProviderResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


# -- the request ---------------------------------------------------------------------------------------------


def test_the_vector_of_the_specification():
    signed = b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'
    signature = sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", signed)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_an_event_is_its_type_its_time_and_its_data():
    request = built(occurred_at=datetime(2026, 3, 1, 13, 0, 0, 250_000, timezone(timedelta(hours=1))), data={"ö": [1]})
    assert (request.method, request.url) == ("POST", "https://merchant.example.com/hooks")
    assert json.loads(request.body) == {
        "type": "order_shipped",
        "timestamp": "2026-03-01T12:00:00.250Z",
        "data": {"ö": [1]},
    }
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["webhook-id"] == str(DELIVERY)


def test_every_attempt_has_the_same_id_and_its_own_time():
    first, second = built(NOW), built(NOW + timedelta(minutes=5), attempt_no=3)
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    times = [int(request.headers["webhook-timestamp"]) for request in (first, second)]
    assert times == [int(NOW.timestamp()), int(NOW.timestamp()) + 300]
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"event_id": "a.b"}, "event_id"),
        ({"event_id": "a\r\nX-Evil: yes"}, "event_id"),
        ({"event_id": ""}, "event_id"),
        ({"secrets": ()}, "secrets"),
        ({"secrets": ("",)}, "secrets"),
        ({"secrets": ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",)}, "secrets"),
        ({"secrets": ("whsec_no base64",)}, "secrets"),
        ({"secrets": ("whsec_" + b64encode(b"x" * 23).decode(),)}, "secrets"),
        ({"secrets": ("whsec_" + b64encode(b"x" * 65).decode(),)}, "secrets"),
        ({"secrets": ("whsk_" + b64encode(b"x" * 31).decode(),)}, "secrets"),
        ({"secrets": (SECRET, "whpk_" + b64encode(b"x" * 32).decode())}, "secrets"),
        ({"data": {"a": float("nan")}}, "data"),
        ({"data": {"a": {1, 2}}}, "data"),
        ({"data": {"a": "\ud800"}}, "data"),
    ],
)
def test_what_cannot_be_signed_is_refused_by_name_and_no_secret_is_told(changes, field):
    with pytest.raises(InvalidFields) as wrong:
        built(**changes)
    assert [error.field for error in wrong.value.errors] == [field]
    assert "whsec_no" not in str(wrong.value)
    assert "MfKQ" not in str(wrong.value)


def test_secrets_are_in_no_repr():
    message = endpoint_message(secrets=(SECRET, KEY))
    assert SECRET not in repr(message)
    assert SECRET not in repr(WEBHOOKS.build(message, CONTEXT))


def test_it_is_what_the_configuration_calls_it():
    provider = make_provider("webhooks", {"adapter": "standard-webhooks"})
    assert isinstance(provider, StandardWebhooks)
    assert provider.capabilities.channel is Channel.WEBHOOK
    assert provider.capabilities.transport == "guarded"
    assert provider.capabilities.resend_is_safe
    assert provider.capabilities.acceptance_is_delivery


# -- secrets -------------------------------------------------------------------------------------------------


def test_secrets_are_new_and_have_the_length_that_is_asked_for():
    symmetric, private = {new_secret("hmac-sha256") for _ in range(9)}, {new_secret("ed25519") for _ in range(9)}
    assert len(symmetric | private) == 18
    for secret in symmetric:
        assert algorithm_of(secret) == "hmac-sha256"
        assert len(b64decode(secret.removeprefix("whsec_"))) == 32
        assert public_key(secret) is None
    for secret in private:
        shown = public_key(secret) or ""
        assert algorithm_of(secret) == "ed25519"
        assert shown.startswith("whpk_")
        assert len(b64decode(shown.removeprefix("whpk_"))) == 32
        assert secret.removeprefix("whsk_") not in shown


# -- independent verifiers -----------------------------------------------------------------------------------


def by_standardwebhooks(secret: str, body: bytes, headers: dict[str, str]) -> Any:
    return standardwebhooks.Webhook(secret).verify(body, headers)


def by_svix(secret: str, body: bytes, headers: dict[str, str]) -> Any:
    svix.webhooks.Webhook(secret).verify(body, headers)
    return json.loads(body)


def by_node(package: str) -> Verify:
    def verify(secret: str, body: bytes, headers: dict[str, str]) -> Any:
        script = (
            f"const {{ Webhook, WebhookVerificationError }} = require('{package}');"
            "try { answer(new Webhook(given.secret).verify(given.body, given.headers) ?? JSON.parse(given.body)); }"
            "catch (error) { if (!(error instanceof WebhookVerificationError)) throw error; answer('refused'); }"
        )
        verdict = run_node(script, {"secret": secret, "body": body.decode(), "headers": headers})
        if verdict == "refused":
            raise standardwebhooks.WebhookVerificationError
        return verdict

    return verify


VERIFIERS = {
    "standardwebhooks": by_standardwebhooks,
    "svix": by_svix,
    "standardwebhooks for Node.js": by_node("standardwebhooks"),
    "svix for Node.js": by_node("svix"),
}
EVERY_VERIFIER = pytest.mark.parametrize("verify", VERIFIERS.values(), ids=VERIFIERS)


@EVERY_VERIFIER
def test_others_take_what_we_sign(verify):
    request = built(data={"name": "Zoë 🚚", "n": 1.5, "nested": {"a": [None, True]}})
    event = verify(SECRET, request.body, dict(request.headers))
    assert event["data"] == {"name": "Zoë 🚚", "n": 1.5, "nested": {"a": [None, True]}}


@EVERY_VERIFIER
def test_while_a_secret_is_rotated_both_verify_and_a_third_does_not(verify):
    request = built(secrets=(SECRET, OTHER))
    for secret in (SECRET, OTHER):
        assert verify(secret, request.body, dict(request.headers))["type"] == "order_shipped"
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verify(new_secret("hmac-sha256"), request.body, dict(request.headers))


@EVERY_VERIFIER
def test_others_refuse_what_was_changed_or_kept_too_long(verify):
    request = built()
    for headers, body in (
        (dict(request.headers), request.body.replace(b"A-1", b"A-2")),
        (dict(request.headers) | {"webhook-id": "another"}, request.body),
        (dict(built(datetime.now(UTC) - timedelta(minutes=6)).headers), request.body),
    ):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            verify(SECRET, body, headers)


@EVERY_VERIFIER
def test_a_signature_of_another_scheme_beside_it_does_no_harm(verify):
    request = built(secrets=(KEY, SECRET))
    assert [entry.partition(",")[0] for entry in request.headers["webhook-signature"].split(" ")] == ["v1a", "v1"]
    assert verify(SECRET, request.body, dict(request.headers))["type"] == "order_shipped"


NODE_ED25519 = """
const crypto = require('node:crypto');
const raw = Buffer.from(given.key.slice('whpk_'.length), 'base64');
const jwk = { kty: 'OKP', crv: 'Ed25519', x: raw.toString('base64url') };
const key = crypto.createPublicKey({ key: jwk, format: 'jwk' });
const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': header } = given.headers;
const [version, signature] = header.split(',');
const signed = Buffer.from(`${id}.${timestamp}.${given.body}`);
answer(version === 'v1a' && crypto.verify(null, signed, key, Buffer.from(signature, 'base64')));
"""


def test_asymmetric_signatures_verify_with_the_public_key_alone():
    request = built(secrets=(KEY,))
    given_to_node = {"key": public_key(KEY), "body": request.body.decode(), "headers": dict(request.headers)}
    assert run_node(NODE_ED25519, given_to_node) is True
    assert run_node(NODE_ED25519, {**given_to_node, "body": "{}"}) is False


def test_another_key_does_not_verify():
    request = built(secrets=(KEY,))
    signature = b64decode(request.headers["webhook-signature"].removeprefix("v1a,"))
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body

    def verify(shown: str | None) -> None:
        raw = b64decode((shown or "").removeprefix("whpk_"))
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, signed)

    verify(public_key(KEY))
    with pytest.raises(InvalidSignature):
        verify(public_key(new_secret("ed25519")))


# -- what we tell receivers to write --------------------------------------------------------------------------


def samples(language: str) -> str:
    """The guide's code in one language, put together as a reader would."""
    blocks = re.findall(rf"^```{language}\n(.*?)```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks, f"the guide has no {language}"
    return "\n".join(blocks)


def by_the_guide_in_python(secret: str, body: bytes, headers: dict[str, str]) -> bool:
    names: dict[str, Any] = {}
    exec(samples("python"), names)  # noqa: S102 - our own page
    return bool(names["is_genuine"](headers, body, secret))


def by_the_guide_in_javascript(secret: str, body: bytes, headers: dict[str, str]) -> bool:
    script = samples("js") + "\nanswer(isGenuine(given.headers, Buffer.from(given.body), given.secret));"
    return bool(run_node(script, {"secret": secret, "body": body.decode(), "headers": headers}))


@pytest.mark.parametrize("is_genuine", [by_the_guide_in_python, by_the_guide_in_javascript])
def test_the_guide_tells_receivers_what_holds(is_genuine):
    request = built(secrets=(OTHER, SECRET))
    headers = dict(request.headers)
    assert is_genuine(SECRET, request.body, headers)
    assert is_genuine(OTHER, request.body, headers)
    assert not is_genuine(new_secret("hmac-sha256"), request.body, headers)
    assert not is_genuine(SECRET, request.body + b" ", headers)
    assert not is_genuine(SECRET, request.body, headers | {"webhook-id": "another"})
    assert not is_genuine(SECRET, request.body, headers | {"webhook-signature": "nonsense v2,x v1,"})
    old = built(datetime.now(UTC) - timedelta(minutes=6))
    assert not is_genuine(SECRET, old.body, dict(old.headers))


# -- answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_2xx_says_that_the_merchant_has_it(status):
    outcome = WEBHOOKS.interpret(answer(status, b"anything"), NOW)
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.ACCEPTED, status)


def test_a_410_ends_it():
    outcome = WEBHOOKS.interpret(answer(410), NOW)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.RECIPIENT_INVALID, "gone")


@pytest.mark.parametrize("status", [100, 301, 302, 307, 400, 401, 403, 404, 405, 413, 422, 500, 502, 503, 504, 599])
def test_all_else_is_tried_again_and_pauses_nobody_else(status):
    assert WEBHOOKS.interpret(answer(status), NOW).kind is OutcomeKind.TRANSIENT


def test_a_merchant_that_asks_for_patience_costs_no_retries():
    assert WEBHOOKS.interpret(answer(429), NOW).kind is OutcomeKind.RATE_LIMITED
    assert not WEBHOOKS.capabilities.breaks, "or it would pause all merchants"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize(
    ("said", "seconds"),
    [("120", 120.0), ("Sun, 01 Mar 2026 12:02:00 GMT", 120.0), ("-5", 0.0), ("soon", None)],
)
def test_an_endpoint_says_when_it_wants_to_be_tried_again(status, said, seconds):
    assert WEBHOOKS.interpret(answer(status, retry_after=said), NOW).retry_after_seconds == seconds


def test_nothing_of_what_a_merchant_says_is_kept():
    body = b"Traceback: password=hunter2 for bob@example.com"
    for status in (200, 301, 410, 429, 500):
        outcome = WEBHOOKS.interpret(answer(status, body, location="https://bob:hunter2@inside/"), NOW)
        assert outcome.detail == f"HTTP {status}"
        assert outcome.provider_message_id is None


@given(
    st.integers(100, 599),
    st.binary(max_size=200),
    st.dictionaries(st.sampled_from(["retry-after", "location", "content-type"]), st.text(max_size=40)),
)
def test_any_answer_is_understood(status, body, headers):
    outcome = WEBHOOKS.interpret(ProviderResponse(status, headers, body), NOW)
    assert outcome.kind in (OutcomeKind.ACCEPTED, OutcomeKind.TRANSIENT, OutcomeKind.RECIPIENT_INVALID)
    assert (outcome.kind is OutcomeKind.ACCEPTED) == (200 <= status < 300)
    assert outcome.retry_after_seconds is None or outcome.retry_after_seconds >= 0
