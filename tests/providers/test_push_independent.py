"""Push against implementations that others wrote, so that we do not only agree with ourselves.

- APNs: aioapns, a client of others, proves our stand-in for Apple's gateway; then our requests go through it.
- FCM: Google's firebase-admin sends the same message, asks for its token the same way, and reads the same errors.
- Web Push: web-push-testing (Node.js) plays the push service: it checks our signature and decrypts what we sealed.
- HTTP/2: Node.js (nghttp2) is the server our transport talks to.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
import warnings
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import firebase_admin
import jwt
import pytest
from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsProductionClientProtocol
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from firebase_admin import credentials, exceptions, messaging
from py_vapid import Vapid02
from pytest_httpserver import HTTPServer
from werkzeug import Request as HttpRequest
from werkzeug import Response as HttpResponse

from app.domain.models import OutcomeKind, Platform
from app.providers.access import AccessTokens
from app.providers.apns import Apns, ApnsAccount
from app.providers.base import ProviderRequest, ProviderResponse, PushMessage, SendContext
from app.providers.fcm import Fcm, FcmAccount
from app.providers.http2 import Http2Transport
from app.providers.transport import Transport, TransportError
from app.providers.transports import open_transport
from app.providers.web_push import WebPush, WebPushAccount
from app.settings import Endpoints
from tests.h2_server import Answer, H2Server, Request, authority, ca_file
from tests.messages import DEVICE, device, push_message
from tests.node_peers import HOME, install, node


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def now() -> datetime:
    return datetime.now(UTC)


def context(access_token: str | None = None) -> SendContext:
    return SendContext(now=now(), account="push", access_token=access_token)


def deadline(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


RICH: dict[str, Any] = {
    "expires_at": now() + timedelta(days=1),
    "subtitle": "Order A-1",
    "badge": 3,
    "sound": "default",
    "url": "https://shop.example/orders/A-1",
    "image": "https://cdn.example/parcel.png",
    "data": {"order_id": "A-1"},
    "receipt_token": "receipt",
    "receipt_url": "https://notify.example.com/api/v1/receipts",
}


# -- APNs ----------------------------------------------------------------------------------------------------

KEY = ec.generate_private_key(ec.SECP256R1())
ALIVE, DEAD, WRONG = "ab" * 32, "de" * 32, "bad0" * 16
SCRIPT: dict[str, tuple[int, dict[str, Any]]] = {
    DEAD: (410, {"reason": "Unregistered", "timestamp": 1772366400123}),
    WRONG: (400, {"reason": "BadDeviceToken"}),
}
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def apple(request: Request) -> Answer:
    """Apple's gateway, by its documentation: what it refuses, in the order it refuses it."""
    status, body = _verdict(request)
    raw = json.dumps(body).encode() if body else b""
    return Answer(status, {"apns-id": request.headers.get("apns-id", "00000000-0000-0000-0000-000000000000")}, raw)


def _verdict(request: Request) -> tuple[int, dict[str, Any]]:
    if request.method != "POST":
        return 405, {"reason": "MethodNotAllowed"}
    path = re.fullmatch(r"/3/device/([0-9a-f]*)", request.path)
    if path is None:
        return 404, {"reason": "BadPath"}
    if refused := _provider_refused(request.headers.get("authorization", "")):
        return 403, {"reason": refused}
    headers = request.headers
    if headers.get("apns-topic") != "com.example.app":
        return 400, {"reason": "BadTopic" if "apns-topic" in headers else "MissingTopic"}
    checks = {
        "BadMessageId": ID.fullmatch(headers.get("apns-id", "")),
        "BadExpirationDate": headers.get("apns-expiration", "0").isdigit(),
        "BadPriority": headers.get("apns-priority", "10") in ("10", "5", "1"),
        "BadCollapseId": len(headers.get("apns-collapse-id", "")) <= 64,
        "InvalidPushType": headers.get("apns-push-type") == "alert",
        "PayloadEmpty": isinstance(json.loads(request.body or b"{}").get("aps"), dict),
    }
    for reason, right in checks.items():
        if not right:
            return 400, {"reason": reason}
    if len(request.body) > 4096:
        return 413, {"reason": "PayloadTooLarge"}
    return SCRIPT.get(path[1], (200, {}))


def _provider_refused(authorization: str) -> str | None:
    scheme, _, token = authorization.partition(" ")
    if scheme != "bearer":
        return "MissingProviderToken"
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, KEY.public_key(), algorithms=["ES256"])
    except jwt.InvalidTokenError:
        return "InvalidProviderToken"
    if header["kid"] != "ABC123DEFG" or claims["iss"] != "DEF123GHIJ":
        return "InvalidProviderToken"
    return "ExpiredProviderToken" if now().timestamp() - claims["iat"] > 3600 else None


@asynccontextmanager
async def gateway() -> AsyncIterator[H2Server]:
    async with H2Server(apple, streams_max=1, streams_max_once_trusted=1000) as server:
        yield server
        assert not server.errors


def ours(server: H2Server, key: ec.EllipticCurvePrivateKey = KEY) -> Apns:
    return Apns(
        ApnsAccount("ABC123DEFG", "DEF123GHIJ", "com.example.app", pem(key), base_url=server.url, trust=server.trust)
    )


@asynccontextmanager
async def aioapns(server: H2Server, key: ec.EllipticCurvePrivateKey = KEY) -> AsyncIterator[APNs]:
    trusting = ssl.create_default_context(cafile=server.trust)
    trusting.set_alpn_protocols(["h2"])
    client = APNs(
        key=pem(key), key_id="ABC123DEFG", team_id="DEF123GHIJ", topic="com.example.app", ssl_context=trusting
    )
    there = {"APNS_SERVER": "localhost", "APNS_PORT": server.port}
    client.pool.protocol_class = type("ToTheFake", (APNsProductionClientProtocol,), there)
    try:
        yield client
    finally:
        client.pool.close()
        for connection in server.connections:
            await connection.closed.wait()


@pytest.mark.parametrize(
    ("token", "status", "reason"),
    [(ALIVE, "200", None), (DEAD, "410", "Unregistered"), (WRONG, "400", "BadDeviceToken")],
)
async def test_a_client_of_others_finds_apples_gateway_in_our_stand_in(token, status, reason):
    async with gateway() as server, aioapns(server) as client:
        request = NotificationRequest(
            token, {"aps": {"alert": "Hello"}}, time_to_live=60, collapse_key="c", push_type=PushType.ALERT, priority=5
        )
        result = await client.send_notification(request)
    assert (result.status, result.description) == (status, reason)
    assert result.notification_id == request.notification_id


async def test_a_client_of_others_with_another_key_is_refused_as_apple_would():
    async with gateway() as server, aioapns(server, ec.generate_private_key(ec.SECP256R1())) as client:
        request = NotificationRequest(ALIVE, {"aps": {"alert": "Hello"}}, push_type=PushType.ALERT)
        result = await client.send_notification(request)
    assert (result.status, result.description) == ("403", "InvalidProviderToken")


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (ALIVE, OutcomeKind.ACCEPTED),
        (DEAD, OutcomeKind.RECIPIENT_INVALID),
        (WRONG, OutcomeKind.RECIPIENT_INVALID),
    ],
)
async def test_what_we_send_is_taken_where_a_client_of_others_is_taken(token, kind):
    async with gateway() as server, Http2Transport() as transport:
        apns = ours(server)
        request = apns.build(push_message(device=device(token=token), **RICH), context())
        outcome = apns.interpret(await transport.send(request, deadline()), now())
    assert outcome.kind is kind
    if kind is OutcomeKind.ACCEPTED:
        assert outcome.provider_message_id == server.requests[0].headers["apns-id"]
        assert json.loads(server.requests[0].body)["aps"]["mutable-content"] == 1


async def test_another_key_of_ours_is_refused_and_alerts():
    async with gateway() as server, Http2Transport() as transport:
        apns = ours(server, ec.generate_private_key(ec.SECP256R1()))
        request = apns.build(push_message(), context())
        outcome = apns.interpret(await transport.send(request, deadline()), now())
    assert (outcome.kind, outcome.detail) == (OutcomeKind.UNAUTHORIZED, "403 InvalidProviderToken")


async def test_both_clients_say_the_same_in_the_same_headers():
    fields = {"apns-id", "apns-topic", "apns-expiration", "apns-priority", "apns-collapse-id", "apns-push-type"}
    async with gateway() as server, aioapns(server) as client, Http2Transport() as transport:
        apns = ours(server)
        message = push_message(**RICH)
        request = apns.build(message, context())
        assert isinstance(request, ProviderRequest)
        await transport.send(request, deadline())
        began = time.time()
        theirs = NotificationRequest(
            message.device.token,
            json.loads(request.body),
            notification_id=request.headers["apns-id"],
            time_to_live=86400,
            priority=10,
            collapse_key=message.collapse_id,
            push_type=PushType.ALERT,
        )
        assert (await client.send_notification(theirs)).is_successful
        ended = time.time()
        mine, others = server.requests
        assert json.loads(mine.body) == json.loads(others.body)
        said = [{name: held.headers[name] for name in fields} for held in (mine, others)]
        assert int(said[0].pop("apns-expiration")) == int(message.expires_at.timestamp())
        assert int(began) <= int(said[1].pop("apns-expiration")) - 86400 <= ended  # they count from their own now
        assert said[0] == said[1]
        tokens = [held.headers["authorization"].split()[1] for held in (mine, others)]
        assert jwt.get_unverified_header(tokens[0]) == jwt.get_unverified_header(tokens[1])


async def test_a_thousand_pushes_share_one_provider_token_and_few_connections():
    async with gateway() as server, Http2Transport() as transport:
        apns = ours(server)
        requests = [apns.build(push_message(attempt_no=number), context()) for number in range(1000)]
        answers = await asyncio.gather(*(transport.send(request, deadline()) for request in requests))
    assert {apns.interpret(answer, now()).kind for answer in answers} == {OutcomeKind.ACCEPTED}
    assert len({held.headers["authorization"] for held in server.requests}) == 1
    assert len({held.headers["apns-id"] for held in server.requests}) == 1000
    assert len(server.connections) <= 11


# -- FCM -----------------------------------------------------------------------------------------------------

RSA_KEY = rsa.generate_private_key(65537, 2048)
AUDIENCE = "https://oauth2.googleapis.com/token"
SEND_PATH = "/v1/projects/acme-shop/messages:send"
IDENTITY = ("landed@acme-shop.iam.gserviceaccount.com", "key-1")


class Google:
    """Google's token endpoint and FCM, by their documentation: remembers what came, answers as told."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for("").rstrip("/")
        self.grants: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.answer: tuple[int, dict[str, Any]] = (200, {"name": "projects/acme-shop/messages/1"})
        server.expect_request("/token", method="POST").respond_with_handler(self._grant)
        server.expect_request(SEND_PATH, method="POST").respond_with_handler(self._send)

    def service_account(self) -> dict[str, str]:
        return {
            "type": "service_account",
            "project_id": "acme-shop",
            "private_key_id": IDENTITY[1],
            "private_key": pem(RSA_KEY),
            "client_email": IDENTITY[0],
            "token_uri": f"{self.url}/token",
        }

    def _grant(self, request: HttpRequest) -> HttpResponse:
        form = parse_qs(request.get_data(as_text=True), strict_parsing=True)
        (assertion,) = form["assertion"]
        claims = jwt.decode(assertion, RSA_KEY.public_key(), algorithms=["RS256"], audience=AUDIENCE)
        self.grants.append(
            {"header": jwt.get_unverified_header(assertion), "claims": claims, "type": form["grant_type"]}
        )
        return _json(200, {"access_token": "ya29.token", "expires_in": 3599, "token_type": "Bearer"})

    def _send(self, request: HttpRequest) -> HttpResponse:
        assert request.headers["Authorization"] == "Bearer ya29.token"
        self.messages.append(json.loads(request.get_data()))
        return _json(*self.answer)


def _json(status: int, body: dict[str, Any]) -> HttpResponse:
    return HttpResponse(json.dumps(body), status, content_type="application/json; charset=UTF-8")


@pytest.fixture
def google(httpserver: HTTPServer) -> Google:
    return Google(httpserver)


@pytest.fixture
def official(google: Google, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Google's own client, told where its service is."""
    monkeypatch.setattr(
        messaging._MessagingService, "FCM_URL", google.url + "/v1/projects/{0}/messages:send", raising=True
    )
    app = firebase_admin.initialize_app(credentials.Certificate(google.service_account()), name="landed")
    yield app
    firebase_admin.delete_app(app)


async def send_ours(google: Google, message: PushMessage) -> Any:
    """As the dispatcher does it: a token, the request, the answer."""
    fcm = Fcm(FcmAccount(service_account=json.dumps(google.service_account()), base_url=google.url))
    async with Transport() as transport:
        token = await AccessTokens(transport).get("fcm", fcm, now(), deadline())
        assert token == "ya29.token"
        request = fcm.build(message, context(token))
        assert isinstance(request, ProviderRequest)
        return fcm.interpret(await transport.send(request, deadline()), now())


async def send_official(app: Any, message: PushMessage) -> str:
    return str(await asyncio.to_thread(messaging.send, official_message(message), app=app))


def official_message(message: PushMessage) -> messaging.Message:
    """The same message in the words of Google's client."""
    common = {
        "notification": messaging.Notification(message.title, message.body, message.image),
        "data": {**message.data, "url": message.url} | message.landed_data(),
    }
    match message.device.platform:
        case Platform.ANDROID:
            common["android"] = messaging.AndroidConfig(
                collapse_key=message.collapse_id,
                priority="high",
                ttl=86400,
                notification=messaging.AndroidNotification(
                    tag=message.collapse_id, sound="default", notification_count=3
                ),
            )
        case Platform.IOS:
            aps = messaging.Aps(
                alert=messaging.ApsAlert(title=message.title, subtitle=message.subtitle, body=message.body),
                badge=3,
                sound="default",
                thread_id=message.category,
                mutable_content=True,
            )
            headers = {
                "apns-collapse-id": message.collapse_id,
                "apns-priority": "10",
                "apns-expiration": str(int(message.expires_at.timestamp())),
            }
            common["apns"] = messaging.APNSConfig(headers=headers, payload=messaging.APNSPayload(aps))
        case Platform.WEB:
            common["webpush"] = messaging.WebpushConfig(
                headers={"TTL": "86400", "Urgency": "high", "Topic": message.notification_id.hex},
                notification=messaging.WebpushNotification(tag=message.collapse_id),
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of ``token``, which the service takes all the same
        return messaging.Message(token=message.device.token, **common)


def _comparable(body: dict[str, Any]) -> dict[str, Any]:
    """What may differ between two who mean the same: the case of an enum, and a second that has passed."""
    message = json.loads(json.dumps(body))
    if android := message["message"].get("android"):
        android["priority"] = android["priority"].upper()
        android["ttl"] = round(int(android["ttl"].rstrip("s")), -2)
    if webpush := message["message"].get("webpush"):
        webpush["headers"]["TTL"] = round(int(webpush["headers"]["TTL"]), -2)
    return dict(message)


@pytest.mark.parametrize("platform", list(Platform))
async def test_googles_own_client_sends_the_same_message(google, official, platform):
    fields = {**RICH, "expires_at": now() + timedelta(days=1, seconds=1)}
    message = push_message(device=device(platform=platform, token="fcm-token"), **fields)
    outcome = await send_ours(google, message)
    assert await send_official(official, message) == outcome.provider_message_id
    mine, theirs = map(_comparable, google.messages)
    assert mine == theirs


async def test_googles_own_client_asks_for_its_token_the_same_way(google, official):
    message = push_message(device=device(platform=Platform.ANDROID, token="fcm-token"), **RICH)
    await send_ours(google, message)
    await send_official(official, message)
    mine, theirs = google.grants
    assert mine["type"] == theirs["type"]
    assert mine["header"] == theirs["header"]
    for name in ("iss", "aud"):
        assert mine["claims"][name] == theirs["claims"][name]
    assert mine["claims"]["scope"] == "https://www.googleapis.com/auth/firebase.messaging"  # they ask for far more
    assert mine["claims"]["exp"] - mine["claims"]["iat"] == theirs["claims"]["exp"] - theirs["claims"]["iat"] == 3600


def fcm_error(code: int, status: str, own: str | None = None) -> tuple[int, dict[str, Any]]:
    details = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": own}] if own else []
    return code, {"error": {"code": code, "status": status, "message": "told", "details": details}}


@pytest.mark.parametrize(
    ("answer", "theirs", "kind"),
    [
        (fcm_error(404, "NOT_FOUND", "UNREGISTERED"), messaging.UnregisteredError, "recipient_invalid"),
        (fcm_error(404, "NOT_FOUND"), exceptions.NotFoundError, "unauthorized"),
        (
            fcm_error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
            messaging.SenderIdMismatchError,
            "recipient_invalid",
        ),
        (fcm_error(403, "PERMISSION_DENIED"), exceptions.PermissionDeniedError, "unauthorized"),
        (fcm_error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), messaging.ThirdPartyAuthError, "unauthorized"),
        (fcm_error(401, "UNAUTHENTICATED", "APNS_AUTH_ERROR"), messaging.ThirdPartyAuthError, "unauthorized"),
        (fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"), exceptions.InvalidArgumentError, "rejected"),
        (fcm_error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), messaging.QuotaExceededError, "rate_limited"),
        (fcm_error(429, "RESOURCE_EXHAUSTED"), exceptions.ResourceExhaustedError, "rate_limited"),
    ],
)
async def test_googles_own_client_reads_the_same_in_an_error(google, official, answer, theirs, kind):
    google.answer = answer
    message = push_message(device=device(platform=Platform.ANDROID, token="fcm-token"), **RICH)
    assert (await send_ours(google, message)).kind == kind
    with pytest.raises(exceptions.FirebaseError) as refused:
        await send_official(official, message)
    assert type(refused.value) is theirs


# -- Node.js -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def node_server(script: str, *arguments: str) -> AsyncIterator[str]:
    """A server in Node.js, and the first line it prints."""
    install()
    process = await asyncio.create_subprocess_exec(
        node(),
        "-e",
        script,
        *arguments,
        cwd=HOME,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.communicate()


# -- Web Push ------------------------------------------------------------------------------------------------

PUSH_SERVICE = """
console.log = () => {};
const Server = require('web-push-testing/src/server.js');
const {PushApiModel} = require('web-push-testing/src/PushApiModel.js');
const model = new PushApiModel();
const server = new Server(model, 0);
server.startServer();
server._server.on('listening', () => {
    const port = server._server.address().port;
    model.notifyUrl = `http://localhost:${port}/notify/`;
    process.stdout.write(`${port}\\n`);
});
"""
VAPID_KEY = ec.generate_private_key(ec.SECP256R1())
VAPID = WebPush(WebPushAccount(pem(VAPID_KEY), "mailto:push@example.com", allow_loopback=True))


class PushService:
    """The push service's own interface, for tests: who subscribes, and what arrived."""

    def __init__(self, port: str, transport: Transport) -> None:
        self.url = f"http://localhost:{port}"
        self._transport = transport

    async def ask(self, path: str, body: dict[str, str]) -> Any:
        raw, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        answer = await self._transport.send(ProviderRequest("POST", self.url + path, headers, raw), deadline())
        assert answer.status == 200, answer.body
        return json.loads(answer.body).get("data") if answer.body.startswith(b"{") else None

    async def subscribe(self, key: str = VAPID.public_key) -> dict[str, Any]:
        return dict(await self.ask("/subscribe", {"userVisibleOnly": "true", "applicationServerKey": key}))


@asynccontextmanager
async def push_service() -> AsyncIterator[PushService]:
    async with node_server(PUSH_SERVICE) as port, Transport() as transport:
        yield PushService(port, transport)


def to_browser(subscription: dict[str, Any], **changes: Any) -> PushMessage:
    keys = subscription["keys"]
    browser = device(
        platform=Platform.WEB, token=subscription["endpoint"], p256dh=keys["p256dh"], auth=keys["auth"], id=DEVICE
    )
    return push_message(device=browser, **{**RICH, **changes})


async def push(message: PushMessage) -> Any:
    """Over the guarded transport, as in production; this machine is allowed for once."""
    endpoints = Endpoints(allow_loopback=True)
    async with open_transport("guarded", connections_max=5, endpoints=endpoints) as transport:
        return VAPID.interpret(await transport.send(VAPID.build(message, context()), deadline()), now())


async def test_a_push_service_takes_our_signature_and_decrypts_what_we_sealed():
    async with push_service() as service:
        subscription = await service.subscribe()
        message = to_browser(subscription)
        outcome = await push(message)
        arrived = await service.ask("/get-notifications", {"clientHash": subscription["clientHash"]})
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.ACCEPTED, 201)
    (shown,) = map(json.loads, arrived["messages"])
    assert (shown["title"], shown["body"], shown["tag"]) == (message.title, message.body, message.collapse_id)
    assert shown["data"] == {"order_id": "A-1"}
    assert shown["landed_receipt_token"] == "receipt"


async def test_a_subscription_that_expired_is_a_dead_device():
    async with push_service() as service:
        subscription = await service.subscribe()
        await service.ask(f"/expire-subscription/{subscription['clientHash']}", {})
        outcome = await push(to_browser(subscription))
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.RECIPIENT_INVALID, 410)


async def test_a_subscription_made_with_another_key_is_refused():
    async with push_service() as service:
        other = WebPush(replace(VAPID.account, private_key=pem(ec.generate_private_key(ec.SECP256R1()))))
        outcome = await push(to_browser(await service.subscribe(other.public_key)))
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.REJECTED, 400)


def test_another_implementation_of_vapid_takes_our_signature():
    message = push_message(
        device=device(
            platform=Platform.WEB,
            token="https://updates.push.services.mozilla.com/wpush/v2/abc",
            p256dh=WebPush(replace(VAPID.account)).public_key,
            auth=urlsafe_b64encode(b"sixteen bytes...").decode(),
        )
    )
    request = VAPID.build(message, context())
    assert Vapid02.verify(request.headers["Authorization"])


# -- HTTP/2 --------------------------------------------------------------------------------------------------

HTTP2_SERVER = """
const [key, cert] = process.argv.slice(1, 3).map((name) => require('node:fs').readFileSync(name));
const http2 = require('node:http2');
const server = http2.createSecureServer({key, cert, settings: {maxConcurrentStreams: 20, initialWindowSize: 70000}});
let sessions = 0;
server.on('session', (session) => { session.on('error', () => {}); session.number = ++sessions; });
server.on('stream', (stream, headers) => {
    stream.on('error', () => {});
    const parts = [];
    stream.on('data', (part) => parts.push(part));
    stream.on('end', () => {
        const session = stream.session;
        const path = headers[':path'];
        if (path === '/refuse') return stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
        if (path === '/destroy') return session.destroy();
        if (path === '/silence') return;
        if (path === '/leave') session.close();  // GOAWAY; what is open may end
        stream.respond({':status': 200, 'x-session': String(session.number), 'x-path': path});
        stream.end(Buffer.concat(parts));
    });
});
server.listen(0, '127.0.0.1', () => process.stdout.write(`${server.address().port}\\n`));
"""


@asynccontextmanager
async def nghttp2(tmp_path) -> AsyncIterator[str]:
    issued = authority().issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    async with node_server(HTTP2_SERVER, str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")) as port:
        yield f"https://localhost:{port}"


async def call(
    transport: Http2Transport, url: str, path: str, body: bytes = b"x", seconds: float = 30.0
) -> ProviderResponse:
    what = ProviderRequest("POST", url + path, {"authorization": "bearer x"}, body, trust=ca_file())
    return await transport.send(what, deadline(seconds))


async def test_hundreds_of_calls_get_their_own_answers_from_a_server_of_others(tmp_path):
    async with nghttp2(tmp_path) as url, Http2Transport(connections_max=3) as transport:
        bodies = [str(number).encode() * (number * 7 % 1500) for number in range(600)]
        answers = await asyncio.gather(*(call(transport, url, f"/{n}", body) for n, body in enumerate(bodies)))
    for number, (body, answer) in enumerate(zip(bodies, answers, strict=True)):
        assert (answer.status, answer.headers["x-path"]) == (200, f"/{number}")
        assert answer.body == body[: 64 * 1024]
    assert {answer.headers["x-session"] for answer in answers} <= {"1", "2", "3"}


async def test_bodies_larger_than_any_window_pass_through_a_server_of_others(tmp_path):
    async with nghttp2(tmp_path) as url, Http2Transport(response_bytes_max=2**22) as transport:
        bodies = [bytes([number]) * 1_000_000 for number in range(4)]
        answers = await asyncio.gather(*(call(transport, url, "/big", body) for body in bodies))
    assert [answer.body for answer in answers] == bodies


async def test_a_server_of_others_refuses_drops_and_leaves(tmp_path):
    async with nghttp2(tmp_path) as url, Http2Transport() as transport:
        assert (await call(transport, url, "/first")).headers["x-session"] == "1"
        with pytest.raises(TransportError, match="REFUSED_STREAM") as refused:
            await call(transport, url, "/refuse")
        assert not refused.value.written
        assert (await call(transport, url, "/leave")).status == 200
        assert (await call(transport, url, "/next")).headers["x-session"] == "2"
        with pytest.raises(TransportError) as dropped:
            await call(transport, url, "/destroy")
        assert dropped.value.written
        with pytest.raises(TransportError, match="no answer before the deadline"):
            await call(transport, url, "/silence", seconds=0.5)
        assert (await call(transport, url, "/after")).headers["x-session"] == "3", "the silent call cost no connection"
