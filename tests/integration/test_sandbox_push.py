"""The sandbox's push services, as a process, against foreign clients and bare HTTP/2; and devices that acknowledge."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import firebase_admin
import http_ece
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from firebase_admin import credentials, exceptions, messaging
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, RemoteSettingsChanged, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from pywebpush import WebPushException, webpush
from urllib3 import Retry

from app.sandbox.push.devices import is_loopback
from app.sandbox.push.scripts import PUSH
from tests.sandbox_process import SandboxProcess, free_port, wait_until
from tests.sandbox_receiver import Receiver

KEY_ID, TEAM_ID, TOPIC = "SANDBOXKEY", "SANDBOXTEM", "test.landed.app"
CODES = {script.name: script.asked_by.split()[1][:4] for group in PUSH.groups.values() for script in group}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def apns_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory, apns_port: int) -> Iterator[SandboxProcess]:
    ledger: Path = tmp_path_factory.mktemp("sandbox") / "ledger.jsonl"
    with SandboxProcess(ledger, hold_seconds=1, apns_port=apns_port) as process:
        yield process


def key_file(sandbox: SandboxProcess, name: str) -> Path:
    return sandbox.ledger_path.with_suffix(".keys") / name


def page_of(sandbox: SandboxProcess, provider: str, recipient: str) -> str:
    return httpx.get(sandbox.url, params={"provider": provider, "to": recipient}).text


def apns_token(script: str = "") -> str:
    return f"{CODES.get(script, '00ff')}{uuid4().hex}{uuid4().hex}"[:64]


def landed(receiver: Receiver, path: str) -> dict[str, str]:
    """The keys that a push carries, so that the app can acknowledge it."""
    return {
        "landed_delivery_id": str(uuid4()),
        "landed_receipt_token": f"token-of-{path}",
        "landed_receipt_url": f"{receiver.url}{path}",
    }


def receipts(receiver: Receiver, path: str) -> list[str]:
    told = [json.loads(post.body) for post in receiver.posts(path)]
    assert all(receipt["token"] == f"token-of-{path}" for receipt in told)
    return [receipt["event"] for receipt in told]


# --- keys -----------------------------------------------------------------------------------------------------------


def test_the_keys_a_caller_needs_are_files_only_their_owner_can_read(sandbox):
    for name in ("apns.p8", "fcm-service-account.json", "vapid.pem", "seed"):
        assert stat.S_IMODE(key_file(sandbox, name).stat().st_mode) == 0o600
    assert stat.S_IMODE(key_file(sandbox, "seed").parent.stat().st_mode) == 0o700
    account = json.loads(key_file(sandbox, "fcm-service-account.json").read_text())
    assert account["token_uri"] == f"{sandbox.url}/token"


def test_keys_subscriptions_and_bearer_tokens_outlive_a_restart(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    with SandboxProcess(ledger) as sandbox:
        before = httpx.get(f"{sandbox.url}/sandbox/push/subscription", params={"script": "opens", "id": "one"}).json()
        key = key_file(sandbox, "apns.p8").read_bytes()
        bearer = fcm_bearer(sandbox)
        port = sandbox.port
    with SandboxProcess(ledger, port=port) as sandbox:
        after = httpx.get(f"{sandbox.url}/sandbox/push/subscription", params={"script": "opens", "id": "one"}).json()
        assert fcm_send(sandbox, "any", bearer).status_code == 200
    assert after == before
    assert key_file(sandbox, "apns.p8").read_bytes() == key


def test_a_device_calls_nobody_but_this_machine():
    assert is_loopback("http://127.0.0.1:8025/x")
    assert is_loopback("https://localhost/x")
    assert is_loopback("http://[::1]/x")
    for url in ("http://example.com/", "http://127.0.0.1.example.com/", "http://10.0.0.1/", "file://localhost/x", "x"):
        assert not is_loopback(url)


# --- APNs -----------------------------------------------------------------------------------------------------------


def provider_token(sandbox: SandboxProcess, **changes: Any) -> str:
    claims = {"iss": TEAM_ID, "iat": int(time.time())} | changes
    return jwt.encode(claims, key_file(sandbox, "apns.p8").read_text(), "ES256", headers={"kid": KEY_ID})


class Gateway:
    """A bare HTTP/2 connection to the sandbox's APNs."""

    def __init__(self, sandbox: SandboxProcess, port: int) -> None:
        self._sandbox = sandbox
        self._port = port
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.settings: list[dict[int, int]] = []
        self.terminated: ConnectionTerminated | None = None
        self.reset: dict[int, int] = {}
        self.ended: set[int] = set()
        self.answers: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.closed = False

    async def __aenter__(self) -> Gateway:
        context = ssl.create_default_context(cafile=self._sandbox.ledger_path.with_suffix(".tls") / "ca.pem")
        context.set_alpn_protocols(["h2"])
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=context)
        self.h2.initiate_connection()
        self.flush()
        self.reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()
        await asyncio.wait({self.reading})
        with suppress(OSError):
            await self._writer.wait_closed()

    def send(self, token: str, payload: Any = None, *, at_once: bool = True, **headers: str) -> int:
        stream = self.h2.get_next_available_stream_id()
        body = json.dumps(payload or {"aps": {"alert": {"title": "Hello", "body": "World"}}}).encode()
        fields = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": "localhost",
            ":path": f"/3/device/{token}",
            "authorization": f"bearer {provider_token(self._sandbox)}",
            "apns-topic": TOPIC,
            "apns-push-type": "alert",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        self.h2.send_headers(stream, [(name, value) for name, value in fields.items() if value])
        for start in range(0, len(body), 8192):
            self.h2.send_data(stream, body[start : start + 8192], end_stream=start + 8192 >= len(body))
        if at_once:
            self.flush()
        return stream

    async def answered(self, stream: int) -> tuple[int, dict[str, Any]]:
        """Status and reason."""
        await self.until(lambda: stream in self.ended)
        body = self.bodies.get(stream, b"")
        return int(self.answers[stream][":status"]), json.loads(body) if body else {}

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - anything a test can see
                await asyncio.sleep(0.005)

    def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())

    async def _read(self) -> None:
        with suppress(OSError):
            await self._read_on()
        self.closed = True

    async def _read_on(self) -> None:
        while data := await self._reader.read(65536):
            for event in self.h2.receive_data(data):
                match event:
                    case RemoteSettingsChanged():
                        self.settings.append({code: one.new_value for code, one in event.changed_settings.items()})
                    case ResponseReceived():
                        self.answers[event.stream_id] = dict(event.headers)
                    case StreamEnded():
                        self.ended.add(event.stream_id)
                    case StreamReset():
                        self.reset[event.stream_id] = event.error_code
                    case ConnectionTerminated():
                        self.terminated = event
                    case _:
                        if hasattr(event, "data") and hasattr(event, "stream_id"):
                            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            self.flush()


@pytest.fixture
async def gateway(sandbox, apns_port):
    async with Gateway(sandbox, apns_port) as gateway:
        yield gateway


async def test_apns_echoes_the_id_and_keeps_what_it_was_told(sandbox, gateway):
    token, apns_id, delivery = apns_token(), str(uuid4()), str(uuid4())
    payload = {"aps": {"alert": {"title": "Shipped", "body": "secret words"}}, "landed_delivery_id": delivery}

    stream = gateway.send(token, payload, apns_id=apns_id)

    assert await gateway.answered(stream) == (200, {})
    assert gateway.answers[stream]["apns-id"] == apns_id
    [accepted] = sandbox.ledger(kind="accepted", recipient=token)
    assert (accepted["message_id"], accepted["landed_delivery"]) == (apns_id, delivery)
    assert "secret words" not in sandbox.ledger_path.read_text()
    assert "Shipped" in await asyncio.to_thread(page_of, sandbox, "apns", token)


async def test_apns_gives_one_stream_until_it_knows_who_calls(gateway):
    streams_max = SettingCodes.MAX_CONCURRENT_STREAMS
    await gateway.until(lambda: gateway.settings)
    assert gateway.settings[0][streams_max] == 1
    await gateway.answered(gateway.send(apns_token(), authorization="bearer wrong"))
    assert len(gateway.settings) == 1
    await gateway.answered(gateway.send(apns_token()))
    assert gateway.settings[1][streams_max] == 1000


async def test_apns_refuses_early_streams_and_takes_the_first(sandbox, apns_port):
    async with Gateway(sandbox, apns_port) as gateway:
        first, *others = [gateway.send(apns_token(), at_once=False) for _ in range(3)]
        gateway.flush()
        assert await gateway.answered(first) == (200, {})
        assert set(gateway.reset) == set(others)
        assert set(gateway.reset.values()) == {7}  # REFUSED_STREAM


REFUSALS = {
    "rate-limited": (429, "TooManyRequests"),
    "outage": (503, "ServiceUnavailable"),
    "server-error": (500, "InternalServerError"),
    "unauthorized": (403, "ExpiredProviderToken"),
    "bad-token": (400, "BadDeviceToken"),
    "wrong-app": (400, "DeviceTokenNotForTopic"),
    "too-large": (413, "PayloadTooLarge"),
    "too-many-provider-tokens": (429, "TooManyProviderTokenUpdates"),
    "error-after-accept": (500, "InternalServerError"),
}


@pytest.mark.parametrize(("script", "expected"), REFUSALS.items())
async def test_apns_refuses_with_apples_reasons(sandbox, gateway, script, expected):
    token = apns_token(script)
    status, body = await gateway.answered(gateway.send(token))
    assert (status, body["reason"]) == expected
    assert len(sandbox.ledger(kind="accepted", recipient=token)) == (script == "error-after-accept")


@pytest.mark.parametrize(("script", "days"), [("unregistered", 0), ("unregistered-before", 30)])
async def test_apns_says_since_when_a_token_is_dead(gateway, script, days):
    status, body = await gateway.answered(gateway.send(apns_token(script)))
    assert (status, body["reason"]) == (410, "Unregistered")
    assert abs(body["timestamp"] / 1000 + days * 86_400 - time.time()) < 60


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"authorization": ""}, 403, "MissingProviderToken"),
        ({"authorization": "bearer a.b.c"}, 403, "InvalidProviderToken"),
        ({"apns_topic": ""}, 400, "MissingTopic"),
        ({"apns_topic": "com.example.other"}, 400, "TopicDisallowed"),
        ({"apns_push_type": "shout"}, 400, "InvalidPushType"),
        ({"apns_priority": "7"}, 400, "BadPriority"),
        ({"apns_push_type": "background", "apns_priority": "10"}, 400, "BadPriority"),
        ({"apns_expiration": "soon"}, 400, "BadExpirationDate"),
        ({"apns_id": "not-a-uuid"}, 400, "BadMessageId"),
        ({"apns_collapse_id": "a" * 65}, 400, "BadCollapseId"),
        ({":path": "/3/device/"}, 400, "MissingDeviceToken"),
        ({":path": "/3/device/nothex"}, 400, "BadDeviceToken"),
        ({":path": "/4/device/00"}, 404, "BadPath"),
        ({":method": "PUT"}, 405, "MethodNotAllowed"),
    ],
)
async def test_apns_refuses_what_is_wrong_with_a_request(gateway, headers, status, reason):
    assert await gateway.answered(gateway.send(apns_token(), **headers)) == (status, {"reason": reason})


async def test_apns_measures_payloads_and_the_age_of_provider_tokens(sandbox, gateway):
    large = {"aps": {"alert": "a" * 4096}}
    assert (await gateway.answered(gateway.send(apns_token(), large)))[0] == 413
    old = provider_token(sandbox, iat=int(time.time()) - 3700)
    assert await gateway.answered(gateway.send(apns_token(), authorization=f"bearer {old}")) == (
        403,
        {"reason": "ExpiredProviderToken"},
    )
    other = provider_token(sandbox, iss="ANOTHERTEM")
    assert (await gateway.answered(gateway.send(apns_token(), authorization=f"bearer {other}")))[1] == {
        "reason": "InvalidProviderToken"
    }


async def test_apns_sends_a_caller_away_before_it_has_read(sandbox, gateway):
    token = apns_token("go-away")
    stream = gateway.send(token)
    await gateway.until(lambda: gateway.terminated and gateway.closed)
    assert gateway.terminated.last_stream_id < stream
    assert json.loads(gateway.terminated.additional_data) == {"reason": "Shutdown"}
    assert not sandbox.ledger(kind="accepted", recipient=token)


@pytest.mark.parametrize(("script", "accepted"), [("timeout-after-accept", 1), ("reset-after-accept", 1), ("hang", 0)])
async def test_apns_may_say_nothing_and_leaves_other_streams_alone(sandbox, gateway, script, accepted):
    await gateway.answered(gateway.send(apns_token()))
    token = apns_token(script)
    silent, beside = gateway.send(token), gateway.send(apns_token())
    assert await gateway.answered(beside) == (200, {})
    await gateway.until(lambda: silent in gateway.reset)  # at once, or when it has been held for a second
    assert len(sandbox.ledger(kind="accepted", recipient=token)) == accepted


async def test_faults_of_apns_meet_it_alone(sandbox, apns_port):
    try:
        for mode, status in (("error", 503), ("rate_limit", 429), ("unauthorized", 403), ("accept_then_error", 500)):
            sandbox.set_fault(mode, provider="apns")
            async with Gateway(sandbox, apns_port) as gateway:
                assert (await gateway.answered(gateway.send(apns_token())))[0] == status
        sandbox.set_fault("refuse", provider="apns")
        async with Gateway(sandbox, apns_port) as gateway:
            gateway.send(apns_token())
            await asyncio.wait({gateway.reading})
            assert not gateway.answers
        assert fcm_send(sandbox, "any", fcm_bearer(sandbox)).status_code == 200
    finally:
        sandbox.set_fault("ok")


async def test_a_held_call_of_apns_is_answered_on_release(tmp_path, apns_port):
    port = free_port()
    with SandboxProcess(tmp_path / "ledger.jsonl", apns_port=port) as sandbox:
        async with Gateway(sandbox, port) as gateway:
            token = apns_token("timeout-after-accept")
            stream = gateway.send(token)
            await asyncio.to_thread(wait_until, lambda: sandbox.ledger(kind="response", recipient=token))
            await asyncio.to_thread(sandbox.release)
            assert await gateway.answered(stream) == (200, {})


# --- FCM ------------------------------------------------------------------------------------------------------------


def fcm_bearer(sandbox: SandboxProcess, **changes: Any) -> str:
    answer = fcm_token(sandbox, **changes)
    assert answer.status_code == 200, answer.text
    return answer.json()["access_token"]


def fcm_token(sandbox: SandboxProcess, **changes: Any) -> httpx.Response:
    account = json.loads(key_file(sandbox, "fcm-service-account.json").read_text())
    claims = {
        "iss": account["client_email"],
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": account["token_uri"],
        "iat": int(time.time()),
        "exp": int(time.time()) + 3600,
    }
    key = changes.pop("key", account["private_key"])
    assertion = jwt.encode(claims | changes, key, "RS256", headers={"kid": account["private_key_id"]})
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
    return httpx.post(f"{sandbox.url}/token", data=form)


def fcm_send(sandbox: SandboxProcess, script: str, bearer: str, **message: Any) -> httpx.Response:
    body = {"message": {"token": f"{script}:{uuid4().hex}", "notification": {"title": "Hello"}} | message}
    url = f"{sandbox.url}/v1/projects/landed-sandbox/messages:send"
    return httpx.post(url, json=body, headers={"Authorization": f"Bearer {bearer}"}, timeout=30)


@pytest.fixture(scope="module")
def firebase(sandbox: SandboxProcess) -> Iterator[firebase_admin.App]:
    """Google's own client, with the sandbox in the place of Google."""
    certificate = credentials.Certificate(str(key_file(sandbox, "fcm-service-account.json")))
    app = firebase_admin.initialize_app(certificate, {"projectId": "landed-sandbox"}, name="sandbox")
    service = messaging._get_messaging_service(app)
    service._fcm_url = f"{sandbox.url}/v1/projects/landed-sandbox/messages:send"
    for adapter in service._client.session.adapters.values():
        adapter.max_retries = Retry(0)
    yield app
    firebase_admin.delete_app(app)


@pytest.mark.filterwarnings("ignore:Message.token is deprecated")
def test_googles_own_client_gets_a_token_and_sends(sandbox, firebase):
    token = f"any:{uuid4().hex}"
    what = messaging.Message(token=token, notification=messaging.Notification("Shipped", "words"), data={"a": "b"})
    name = messaging.send(what, app=firebase)
    assert name.startswith("projects/landed-sandbox/messages/0:")
    [accepted] = sandbox.ledger(kind="accepted", recipient=token)
    assert accepted["message_id"] == name


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("unregistered", messaging.UnregisteredError),
        ("wrong-app", messaging.SenderIdMismatchError),
        ("rate-limited", messaging.QuotaExceededError),
        ("third-party-auth", messaging.ThirdPartyAuthError),
        ("bad-token", exceptions.InvalidArgumentError),
        ("too-large", exceptions.InvalidArgumentError),
    ],
)
@pytest.mark.filterwarnings("ignore:Message.token is deprecated")
def test_googles_own_client_understands_each_refusal(firebase, script, error):
    with pytest.raises(error):
        messaging.send(messaging.Message(token=f"{script}:{uuid4().hex}", data={"a": "b"}), app=firebase)


@pytest.mark.parametrize(
    ("script", "status", "word", "code"),
    [
        ("outage", 503, "UNAVAILABLE", "UNAVAILABLE"),
        ("server-error", 500, "INTERNAL", "INTERNAL"),
        ("error-after-accept", 500, "INTERNAL", "INTERNAL"),
        ("unauthorized", 401, "UNAUTHENTICATED", None),
        ("bad-token", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    ],
)
def test_fcm_refuses_in_googles_shape(sandbox, script, status, word, code):
    answer = fcm_send(sandbox, script, fcm_bearer(sandbox))
    error = answer.json()["error"]
    codes = [detail["errorCode"] for detail in error.get("details", []) if "errorCode" in detail]
    assert (answer.status_code, error["status"], codes) == (status, word, [code] if code else [])
    assert ("retry-after" in answer.headers) is (status == 503)


@pytest.mark.parametrize(
    "message",
    [
        {"token": ""},
        {"data": {"a": 1}},
        {"data": {"from": "x"}},
        {"data": {"google.x": "y"}},
        {"data": {"a": "b" * 5000}},
        {"android": {"ttl": "an hour"}},
        {"android": {"ttl": "9999999s"}},
    ],
)
def test_fcm_refuses_what_is_wrong_with_a_message(sandbox, message):
    answer = fcm_send(sandbox, "any", fcm_bearer(sandbox), **message)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_fcm_checks_without_sending(sandbox):
    token = f"any:{uuid4().hex}"
    answer = httpx.post(
        f"{sandbox.url}/v1/projects/landed-sandbox/messages:send",
        json={"validate_only": True, "message": {"token": token}},
        headers={"Authorization": f"Bearer {fcm_bearer(sandbox)}"},
    )
    assert answer.json()["name"].endswith("fake_message_id")
    assert not sandbox.ledger(kind="accepted", recipient=token)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"iss": "somebody@example.com"}, "account not found"),
        ({"aud": "https://example.com"}, "Invalid JWT"),
        ({"exp": 1}, "short-lived"),
        ({"exp": int(time.time()) + 90_000}, "short-lived"),
        ({"scope": "openid"}, "scope"),
        ({"key": "another"}, "Signature"),
    ],
)
def test_the_token_endpoint_checks_who_signed_what(sandbox, changes, words):
    if changes.get("key"):
        changes = {"key": rsa.generate_private_key(65_537, 2048)}
    answer = fcm_token(sandbox, **changes)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert words in answer.json()["error_description"]


def test_fcm_lets_nobody_in_without_a_bearer_token_of_its_own(sandbox):
    assert fcm_send(sandbox, "any", "wrong").json()["error"]["status"] == "UNAUTHENTICATED"
    good = fcm_bearer(sandbox)
    assert fcm_send(sandbox, "any", f"{good}x").json()["error"]["status"] == "UNAUTHENTICATED"
    url = f"{sandbox.url}/v1/projects/another/messages:send"
    denied = httpx.post(url, json={}, headers={"Authorization": f"Bearer {good}"})
    assert denied.json()["error"]["status"] == "PERMISSION_DENIED"


# --- Web Push -------------------------------------------------------------------------------------------------------


def subscription(sandbox: SandboxProcess, script: str = "any") -> dict[str, Any]:
    return httpx.get(f"{sandbox.url}/sandbox/push/subscription", params={"script": script}).json()


def web_push(sandbox: SandboxProcess, to: dict[str, Any], words: str = '{"title": "Hello"}', **options: Any) -> Any:
    """pywebpush, a foreign client."""
    return webpush(
        to,
        words,
        vapid_private_key=str(key_file(sandbox, "vapid.pem")),
        vapid_claims={"sub": "mailto:ops@example.com"},
        ttl=60,
        **options,
    )


def test_a_foreign_client_reaches_the_browser(sandbox):
    to = subscription(sandbox)
    answer = web_push(sandbox, to, '{"title": "Shipped", "body": "secret words"}', headers={"Topic": "order-1"})
    assert answer.status_code == 201
    assert answer.headers["location"]
    assert "Shipped" in page_of(sandbox, "web_push", to["endpoint"])
    assert len(sandbox.ledger(kind="accepted", recipient=to["endpoint"])) == 1
    assert "secret words" not in sandbox.ledger_path.read_text()


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("bad-token", 404),
        ("unregistered", 410),
        ("too-large", 413),
        ("rate-limited", 429),
        ("server-error", 500),
        ("outage", 503),
        ("unauthorized", 401),
        ("wrong-app", 403),
        ("error-after-accept", 500),
    ],
)
def test_a_push_service_refuses_by_status(sandbox, script, status):
    with pytest.raises(WebPushException) as refused:
        web_push(sandbox, subscription(sandbox, script))
    assert refused.value.response.status_code == status
    assert ("retry-after" in refused.value.response.headers) is (status in (429, 503))


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"TTL": None}, 400),
        ({"Urgency": "now"}, 400),
        ({"Topic": "a" * 33}, 400),
        ({"Content-Encoding": "aesgcm"}, 400),
        ({"Authorization": None}, 401),
        ({"Authorization": "vapid t=a.b.c,k=AAAA"}, 401),
        ({"claims": {"aud": "https://example.com"}}, 401),
        ({"claims": {"exp": int(time.time()) - 10}}, 401),
        ({"claims": {"exp": int(time.time()) + 90_000}}, 401),
        ({"claims": {"sub": "ops@example.com"}}, 401),
        ({"key": "another"}, 403),
        ({"body": b"x" * 200}, 400),
        ({"body": b"x" * 4097}, 413),
        ({}, 201),
    ],
)
def test_a_push_service_checks_headers_signature_and_encryption(sandbox, changes, status):
    to = subscription(sandbox)
    key = serialization.load_pem_private_key(key_file(sandbox, "vapid.pem").read_bytes(), None)
    if changes.get("key"):
        key = ec.generate_private_key(ec.SECP256R1())
    point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    claims = {"aud": sandbox.url, "exp": int(time.time()) + 3600, "sub": "mailto:ops@example.com"}
    token = jwt.encode(claims | changes.get("claims", {}), key, "ES256")
    sealed = http_ece.encrypt(
        b"{}",
        private_key=ec.generate_private_key(ec.SECP256R1()),
        dh=decoded(to["keys"]["p256dh"]),
        auth_secret=decoded(to["keys"]["auth"]),
        version="aes128gcm",
    )
    headers = {
        "TTL": "60",
        "Content-Encoding": "aes128gcm",
        "Authorization": f"vapid t={token}, k={encoded(point)}",
    } | {name: value for name, value in changes.items() if name[0].isupper()}
    given = {name: value for name, value in headers.items() if value is not None}
    answer = httpx.post(to["endpoint"], content=changes.get("body", sealed), headers=given)
    assert answer.status_code == status


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


# --- the devices ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("any", ["received"]),
        ("silent", []),
        ("opens", ["received", "opened"]),
        ("dismisses", ["received", "dismissed"]),
        ("acknowledges-thrice", ["received"] * 3),
        ("acknowledges-backwards", ["opened", "received"]),
    ],
)
async def test_devices_acknowledge_as_they_are_scripted(sandbox, apns_port, receiver, script, told):
    paths = {name: f"/{name}-{uuid4().hex[:12]}" for name in ("apns", "fcm", "web-push")}
    async with Gateway(sandbox, apns_port) as gateway:
        payload = {"aps": {"alert": {"title": "Hello"}}, **landed(receiver, paths["apns"])}
        await gateway.answered(gateway.send(apns_token(script), payload))
    fcm_send(sandbox, script, fcm_bearer(sandbox), data=landed(receiver, paths["fcm"]))
    words = json.dumps({"title": "Hello", **landed(receiver, paths["web-push"])})
    await asyncio.to_thread(web_push, sandbox, subscription(sandbox, script), words)
    await sandbox.settled()

    heard = {name: sorted(receipts(receiver, path)) for name, path in paths.items()}
    assert heard == dict.fromkeys(paths, sorted(told))
    assert "token-of-" not in sandbox.ledger_path.read_text()


def test_a_device_tries_again_until_its_server_takes_the_receipt(sandbox, receiver):
    path, taken = f"/busy-{uuid4().hex}", iter([503, 429, 200])
    receiver.status_for = lambda post: next(taken) if post.path == path else 200
    fcm_send(sandbox, "any", fcm_bearer(sandbox), data=landed(receiver, path))
    sandbox.wait_until_settled()
    assert receipts(receiver, path) == ["received"] * 3


def test_a_device_calls_no_receipt_url_elsewhere(sandbox):
    keys = {"landed_receipt_token": "x", "landed_receipt_url": "http://receipts.example.com/r"}
    answer = fcm_send(sandbox, "opens", fcm_bearer(sandbox), data=keys)
    summary = sandbox.wait_until_settled()
    assert summary["webhooks_owed"] == 0
    assert not sandbox.ledger(kind="webhook", message_id=answer.json()["name"])


async def test_a_later_notification_takes_the_place_of_one_with_the_same_collapse_id(sandbox, gateway):
    token = apns_token("silent")
    for title, collapse in (("one", "order"), ("two", "order"), ("three", "other"), ("four", "order")):
        stream = gateway.send(token, {"aps": {"alert": {"title": title}}}, apns_collapse_id=collapse)
        await gateway.answered(stream)

    async with httpx.AsyncClient(base_url=sandbox.url) as device:
        shown = (await device.get("/sandbox/apns/device", params={"token": token})).json()["notifications"]

    assert [one["title"] for one in shown] == ["three", "four"]
    assert (await asyncio.to_thread(page_of, sandbox, "apns", token)).count(">replaced<") == 2


def test_a_person_opens_a_notification_whenever_a_test_wants_it(sandbox, receiver):
    path, token = f"/later-{uuid4().hex}", f"silent:{uuid4().hex}"
    fcm_send(sandbox, "silent", fcm_bearer(sandbox), token=token, data=landed(receiver, path))
    sandbox.wait_until_settled()
    asked = {"token": token, "event": "opened"}
    assert httpx.post(f"{sandbox.url}/sandbox/fcm/acknowledgements", json=asked).status_code == 204
    sandbox.wait_until_settled()
    assert receipts(receiver, path) == ["opened"]
    assert httpx.post(f"{sandbox.url}/sandbox/fcm/acknowledgements", json=asked).status_code == 404
    assert httpx.post(f"{sandbox.url}/sandbox/fcm/acknowledgements", json=asked | {"event": "eaten"}).status_code == 400


def test_a_restarted_device_still_acknowledges(tmp_path, receiver):
    path, ledger = f"/restart-{uuid4().hex}", tmp_path / "ledger.jsonl"
    with SandboxProcess(ledger, speed=0.001) as sandbox:
        fcm_send(sandbox, "opens", fcm_bearer(sandbox), data=landed(receiver, path))
        sandbox.kill()
    with SandboxProcess(ledger) as sandbox:
        sandbox.wait_until_settled()
    assert sorted(receipts(receiver, path)) == ["opened", "received"]


def test_every_script_of_a_device_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
    for group in PUSH.groups.values():
        for script in group:
            name, code = script.asked_by.split()
            assert f"| `{name}` | `{code}` | {script.does} |" in text
