"""APNs, FCM and Web Push against the provider sandbox: two readings of each protocol must agree."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from app.domain.models import Outcome, OutcomeKind, Platform
from app.providers.access import AccessTokens
from app.providers.apns import Apns, ApnsAccount, apns_id
from app.providers.base import RECIPIENT_LIMITED, Device, Provider, PushMessage
from app.providers.fcm import Fcm, FcmAccount
from app.providers.guarded import GuardedTransport
from app.providers.http2 import Http2Transport
from app.providers.transport import Transport, TransportError, classify_transport_error
from app.providers.transports import AnyTransport
from app.providers.web_push import WebPush, WebPushAccount
from app.settings import Endpoints
from tests.messages import CONTEXT, push_message
from tests.sandbox_process import SandboxProcess, free_port
from tests.sandbox_receiver import Receiver

SERVICES = ("apns", "fcm", "web-push")
CODES = {
    "silent": "5a00",
    "opens": "5a01",
    "dismisses": "5a02",
    "slow": "5a10",
    "timeout-after-accept": "5a11",
    "reset-after-accept": "5a12",
    "error-after-accept": "5a13",
    "hang": "5a14",
    "rate-limited": "5a20",
    "outage": "5a21",
    "server-error": "5a22",
    "unauthorized": "5a23",
    "bad-token": "5a24",
    "unregistered": "5a25",
    "unregistered-before": "5a26",
    "wrong-app": "5a27",
    "too-large": "5a28",
    "go-away": "5a29",
    "too-many-provider-tokens": "5a2a",
}


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


@dataclass
class Service:
    """One adapter with its transport, and devices of the platform that it serves."""

    adapter: Provider[PushMessage]
    transport: AnyTransport
    access: AccessTokens
    sandbox: SandboxProcess

    async def device(self, script: str = "any") -> Device:
        if self.adapter.name == "apns":
            return Device(uuid4(), Platform.IOS, f"{CODES.get(script, '00ff')}{uuid4().hex}{uuid4().hex}"[:64])
        if self.adapter.name == "fcm":
            return Device(uuid4(), Platform.ANDROID, f"{script}:{uuid4().hex}")
        async with httpx.AsyncClient(base_url=self.sandbox.url) as browser:
            told = (await browser.get("/sandbox/push/subscription", params={"script": script})).json()
        return Device(uuid4(), Platform.WEB, told["endpoint"], **told["keys"])

    async def message(self, script: str = "any", **changes: object) -> PushMessage:
        fields = {
            "delivery_id": uuid4(),
            "notification_id": uuid4(),
            "expires_at": datetime.now(UTC) + timedelta(hours=1),
            "title": "Größe 50 %",
            "device": await self.device(script),
        }
        return push_message(**{**fields, **changes})

    async def send(self, message: PushMessage) -> Outcome:
        now, deadline = datetime.now(UTC), asyncio.get_running_loop().time() + 30
        token = await self.access.get("sandbox", self.adapter, now, deadline)
        assert token is None or isinstance(token, str)
        try:
            request = self.adapter.build(message, replace(CONTEXT, now=now, access_token=token))
            response = await self.transport.send(request, deadline)
        except TransportError as error:
            return classify_transport_error(error)
        return self.adapter.interpret(response, datetime.now(UTC))

    def accepted(self, message: PushMessage) -> int:
        return len(self.sandbox.ledger(kind="accepted", landed_delivery=str(message.delivery_id)))


def adapter_of(name: str, sandbox: SandboxProcess, apns_port: int) -> Provider[PushMessage]:
    keys = sandbox.ledger_path.with_suffix(".keys")
    if name == "apns":
        account = ApnsAccount(
            "SANDBOXKEY",
            "SANDBOXTEM",
            "test.landed.app",
            (keys / "apns.p8").read_text(),
            base_url=f"https://127.0.0.1:{apns_port}",
            trust=str(sandbox.ledger_path.with_suffix(".tls") / "ca.pem"),
        )
        return Apns(account)
    if name == "fcm":
        given = (keys / "fcm-service-account.json").read_text()
        return Fcm(FcmAccount(service_account=given, base_url=sandbox.url))
    return WebPush(WebPushAccount((keys / "vapid.pem").read_text(), "mailto:ops@example.com", allow_loopback=True))


@pytest.fixture
async def open_service(sandbox: SandboxProcess, apns_port: int) -> AsyncIterator:
    async with AsyncExitStack() as stack:

        async def open_(name: str) -> Service:
            plain = await stack.enter_async_context(Transport())
            transport: AnyTransport = plain
            if name == "apns":
                transport = await stack.enter_async_context(Http2Transport())
            if name == "web-push":
                guarded = GuardedTransport(connections_max=10, endpoints=Endpoints(allow_loopback=True))
                transport = await stack.enter_async_context(guarded)
            return Service(adapter_of(name, sandbox, apns_port), transport, AccessTokens(plain), sandbox)

        yield open_


@pytest.fixture(params=SERVICES)
async def service(request, open_service) -> Service:
    return await open_service(request.param)


RATE_LIMITED, TRANSIENT, UNKNOWN = OutcomeKind.RATE_LIMITED, OutcomeKind.TRANSIENT, OutcomeKind.UNKNOWN
UNAUTHORIZED, INVALID, REJECTED = OutcomeKind.UNAUTHORIZED, OutcomeKind.RECIPIENT_INVALID, OutcomeKind.REJECTED
#: What each script comes to, at APNs, FCM and Web Push.
ANSWERS = {
    "any": (OutcomeKind.ACCEPTED,) * 3,
    "slow": (OutcomeKind.ACCEPTED,) * 3,
    "rate-limited": (RATE_LIMITED,) * 3,
    "outage": (TRANSIENT,) * 3,
    "server-error": (UNKNOWN,) * 3,
    "error-after-accept": (UNKNOWN,) * 3,
    "timeout-after-accept": (UNKNOWN,) * 3,
    "reset-after-accept": (UNKNOWN,) * 3,
    "hang": (UNKNOWN,) * 3,
    "unauthorized": (TRANSIENT, UNAUTHORIZED, UNAUTHORIZED),  # the first "expired" makes another provider token
    "bad-token": (INVALID,) * 3,
    "unregistered": (INVALID,) * 3,
    "wrong-app": (INVALID,) * 3,
    "too-large": (REJECTED,) * 3,
}


@pytest.mark.parametrize("script", ANSWERS)
async def test_every_answer_is_read_as_it_was_meant(service, script):
    message = await service.message(script)
    outcome = await service.send(message)
    assert outcome.kind is ANSWERS[script][SERVICES.index(service.adapter.name)]
    assert outcome.doubtful is (script == "wrong-app" or (script == "bad-token" and service.adapter.name != "web-push"))
    if outcome.kind is RATE_LIMITED:  # Apple counts the pushes to one device, and names no time
        apples = service.adapter.name == "apns"
        assert (outcome.reason == RECIPIENT_LIMITED, outcome.retry_after_seconds is None) == (apples, apples)


async def test_an_accepted_push_is_known_by_the_services_own_id(service, sandbox):
    message = await service.message()
    outcome = await service.send(message)
    [accepted] = sandbox.ledger(kind="accepted", landed_delivery=str(message.delivery_id))
    match service.adapter.name:
        case "apns":
            expected = str(apns_id(message.delivery_id, message.attempt_no))
            assert outcome.provider_message_id == accepted["message_id"] == expected
        case "fcm":
            assert outcome.provider_message_id == accepted["message_id"]
        case _:
            assert outcome.provider_message_id is None
    assert accepted["recipient"] == message.device.token


@pytest.mark.parametrize(
    ("script", "kind"),
    [("go-away", TRANSIENT), ("too-many-provider-tokens", UNAUTHORIZED), ("unregistered-before", INVALID)],
)
async def test_what_only_apple_says_is_understood(open_service, script, kind):
    service = await open_service("apns")
    message = await service.message(script)
    outcome = await service.send(message)
    assert outcome.kind is kind
    assert service.accepted(message) == 0
    if script == "unregistered-before":
        assert outcome.invalid_since is not None
        assert timedelta(days=29) < datetime.now(UTC) - outcome.invalid_since < timedelta(days=31)


async def test_a_dead_token_of_apple_has_been_dead_since_now(open_service):
    service = await open_service("apns")
    outcome = await service.send(await service.message("unregistered"))
    assert outcome.invalid_since is not None
    assert datetime.now(UTC) - outcome.invalid_since < timedelta(minutes=1)


async def test_who_was_sent_away_comes_back_on_another_connection(open_service):
    service = await open_service("apns")
    message = await service.message("go-away")
    kinds = [(await service.send(message)).kind for _ in range(3)]
    assert kinds == [TRANSIENT, TRANSIENT, OutcomeKind.ACCEPTED]


async def test_an_expired_provider_token_is_made_anew(open_service):
    service = await open_service("apns")
    message = await service.message("unauthorized")
    assert (await service.send(message)).kind is TRANSIENT
    assert (await service.send(await service.message())).kind is OutcomeKind.ACCEPTED


async def test_many_pushes_travel_at_once(service):
    messages = [await service.message() for _ in range(50)]
    outcomes = await asyncio.gather(*(service.send(message) for message in messages))
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.ACCEPTED}
    assert {service.accepted(message) for message in messages} == {1}


async def test_a_second_copy_takes_the_place_of_the_first(service, sandbox):
    message = await service.message("silent")
    await service.send(message)
    await service.send(replace(message, attempt_no=message.attempt_no + 1))
    name = service.adapter.name.replace("-", "_")
    async with httpx.AsyncClient(base_url=sandbox.url) as device:
        told = await device.get(f"/sandbox/{name}/device", params={"token": message.device.token})
    [shown] = told.json()["notifications"]
    assert shown["title"] == "Größe 50 %"


@pytest.mark.parametrize(
    ("script", "events"),
    [
        ("any", ["received"]),
        ("opens", ["received", "opened"]),
        ("dismisses", ["received", "dismissed"]),
        ("silent", []),
    ],
)
async def test_a_device_acknowledges_with_the_token_that_came_in_the_push(service, sandbox, receiver, script, events):
    path = f"/api/v1/receipts-{uuid4().hex}"
    message = await service.message(script, receipt_token="signed", receipt_url=receiver.url + path)
    await service.send(message)
    await sandbox.settled()
    told = [json.loads(post.body) for post in receiver.posts(path)]
    assert sorted(receipt["event"] for receipt in told) == sorted(events)
    assert all(receipt["token"] == "signed" for receipt in told)


async def test_ios_devices_behind_fcm_are_reached_as_well(open_service, sandbox):
    service = await open_service("fcm")
    ios = Device(uuid4(), Platform.IOS, f"silent:{uuid4().hex}")
    message = await service.message(device=ios, subtitle="Order A-1")
    await service.send(message)
    assert (await service.send(message)).kind is OutcomeKind.ACCEPTED
    async with httpx.AsyncClient(base_url=sandbox.url) as device:
        told = await device.get("/sandbox/fcm/device", params={"token": ios.token})
    assert [one["title"] for one in told.json()["notifications"]] == ["Größe 50 %"]


async def test_a_push_of_the_largest_size_is_taken(open_service):
    for name, size in (("apns", 3300), ("fcm", 3300), ("web-push", 3300)):
        service = await open_service(name)
        assert (await service.send(await service.message(body="a" * size))).kind is OutcomeKind.ACCEPTED


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(
    ("mode", "accepted"),
    [("refuse", 0), ("hang", 0), ("accept_then_hang", 1), ("accept_then_reset", 1), ("accept_then_error", 1)],
)
async def test_a_fault_leaves_it_unknown_whether_a_push_was_taken(open_service, sandbox, name, mode, accepted):
    service = await open_service(name)
    token = await service.access.get(
        "sandbox", service.adapter, datetime.now(UTC), asyncio.get_running_loop().time() + 9
    )
    assert token is None or isinstance(token, str)
    message = await service.message()
    await asyncio.to_thread(sandbox.set_fault, mode, provider=name.replace("-", "_"))
    try:
        outcome = await service.send(message)
    finally:
        await asyncio.to_thread(sandbox.set_fault, "ok")
    assert outcome.kind is UNKNOWN
    assert service.accepted(message) == accepted
