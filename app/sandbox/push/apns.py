"""Apple's push service: HTTP/2 on a port of its own, provider tokens, and Apple's reasons for what is wrong."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from app.sandbox.calls import Call, Do, Draft, Verdict
from app.sandbox.config import setting
from app.sandbox.keys import read_ec_key
from app.sandbox.push.devices import PushService, first, strings
from app.sandbox.push.h2 import Listener, Stream
from app.sandbox.push.scripts import GO_AWAY, SERVER_ERROR, TOKEN_UPDATES, UNREGISTERED, UNREGISTERED_BEFORE
from app.sandbox.scripting import SLOW_ANSWER_SECONDS, Reason

PATH: Final = "/3/device/"
MAX_PAYLOAD: Final = 4096
MAX_VOIP_PAYLOAD: Final = 5120
MAX_COLLAPSE_ID: Final = 64
TOKEN_SECONDS: Final = 3600
CLOCK_SECONDS: Final = 300
MONTH_SECONDS: Final = 30 * 86_400

PUSH_TYPES: Final = frozenset(
    {
        "alert",
        "background",
        "voip",
        "complication",
        "fileprovider",
        "mdm",
        "location",
        "liveactivity",
        "pushtotalk",
        "widgets",
        "controls",
    }
)
_TOKEN: Final = re.compile(r"(?:[0-9a-fA-F]{2}){4,100}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_REFUSALS: Final[Mapping[str, tuple[int, str]]] = {
    Reason.RATE_LIMITED: (429, "TooManyRequests"),
    Reason.UNAVAILABLE: (503, "ServiceUnavailable"),
    Reason.BROKEN: (500, "InternalServerError"),
    Reason.UNAUTHORIZED: (403, "ExpiredProviderToken"),
    Reason.INVALID_RECIPIENT: (400, "BadDeviceToken"),
    Reason.SENDER_REFUSED: (400, "DeviceTokenNotForTopic"),
    Reason.CONTENT_REFUSED: (413, "PayloadTooLarge"),
    SERVER_ERROR: (500, "InternalServerError"),
    TOKEN_UPDATES: (429, "TooManyProviderTokenUpdates"),
    UNREGISTERED: (410, "Unregistered"),
    UNREGISTERED_BEFORE: (410, "Unregistered"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApnsSettings:
    port: int = setting(0, "Port of APNs, HTTP/2 over TLS; 0 has none.")
    key_file: str = setting("", "Key (.p8) that provider tokens are signed with; made beside the ledger when empty.")
    key_id: str = setting("SANDBOXKEY", "Its 10 characters' id.")
    team_id: str = setting("SANDBOXTEM", "Team of 10 characters that it belongs to.")
    topic: str = setting("test.landed.app", "Topic that the app has; empty takes any.")


class Refused(Exception):
    """A request that APNs refuses, with its reason"""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Apns(PushService):
    """One app of one team. A caller has one stream until it has shown a valid provider token."""

    name = "apns"
    settings_type = ApnsSettings
    settings: ApnsSettings
    _listener: Listener | None = None

    async def start(self) -> None:
        path = self.settings.key_file
        key = read_ec_key(await asyncio.to_thread(Path(path).read_bytes)) if path else self.keys.apns_key()
        self._public_key: ec.EllipticCurvePublicKey = key.public_key()
        if self.settings.port:
            self._listener = Listener(self._serve, self.sandbox.authority.server_context())
            await self._listener.open(self.sandbox.config.host, self.settings.port)

    async def stop(self) -> None:
        if self._listener is not None:
            await self._listener.close()

    # One request ----------------------------------------------------------------------------------------------------

    async def _serve(self, stream: Stream) -> None:
        door = self.sandbox.door
        is_send = stream.method == "POST" and stream.path.startswith(PATH)
        call = door.admit(self.name, stream.method, stream.path, is_send=is_send)
        if verdict := door.turned_away(call):
            await self._tell(stream, call, verdict, "")
            return
        try:
            draft = self._read(stream)
        except Refused as exc:
            door.respond(call, exc.status, note=exc.reason)
            stream.answer(exc.status, {"apns-id": _apns_id(stream)}, msgspec.json.encode({"reason": exc.reason}))
            return
        await self._tell(stream, call, door.decide(self, call, [draft]), draft.message.message_id)

    def _read(self, stream: Stream) -> Draft:
        """The notification that a request asks for. Raises ``Refused``."""
        if stream.method != "POST":
            raise Refused(405, "MethodNotAllowed")
        if not stream.path.startswith(PATH):
            raise Refused(404, "BadPath")
        token = stream.path.removeprefix(PATH)
        if not token:
            raise Refused(400, "MissingDeviceToken")
        self._check_provider_token(stream.headers.get("authorization", ""))
        stream.connection.trust()
        if not _TOKEN.fullmatch(token):
            raise Refused(400, "BadDeviceToken")
        push_type = self._check_headers(stream.headers)
        payload = _payload(bytes(stream.body), MAX_VOIP_PAYLOAD if push_type == "voip" else MAX_PAYLOAD)
        alert = strings(payload.get("aps")).get("alert")
        return self.draft(
            token.lower(),
            message_id=_apns_id(stream),
            notification={"title": "", "body": alert} if isinstance(alert, str) else strings(alert),
            data=_all_strings(payload),
            collapse=stream.headers.get("apns-collapse-id"),
        )

    def _check_provider_token(self, authorization: str) -> None:
        """Apple's check of the JWT. Raises ``Refused``."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refused(403, "MissingProviderToken")
        try:
            header = jwt.get_unverified_header(token)
            options: Any = {"verify_exp": False, "verify_iat": False, "verify_aud": False, "require": ["iss", "iat"]}
            claims = jwt.decode(token, self._public_key, algorithms=["ES256"], options=options)
        except jwt.InvalidTokenError as exc:
            raise Refused(403, "InvalidProviderToken") from exc
        issued = claims["iat"]
        if header.get("kid") != self.settings.key_id or claims["iss"] != self.settings.team_id:
            raise Refused(403, "InvalidProviderToken")
        if not isinstance(issued, int | float) or issued > time.time() + CLOCK_SECONDS:
            raise Refused(403, "InvalidProviderToken")
        if issued < time.time() - TOKEN_SECONDS:
            raise Refused(403, "ExpiredProviderToken")

    def _check_headers(self, headers: Mapping[str, str]) -> str:
        """The push type, when the other headers are right as well. Raises ``Refused``."""
        topic, push_type = headers.get("apns-topic", ""), headers.get("apns-push-type", "alert")
        priority, expiration = headers.get("apns-priority", ""), headers.get("apns-expiration", "0")
        if not topic:
            raise Refused(400, "MissingTopic")
        if self.settings.topic and topic != self.settings.topic and not topic.startswith(f"{self.settings.topic}."):
            raise Refused(400, "TopicDisallowed")
        if push_type not in PUSH_TYPES:
            raise Refused(400, "InvalidPushType")
        if priority not in ("", "1", "5", "10") or (push_type == "background" and priority != "5"):
            raise Refused(400, "BadPriority")
        if not expiration.isdecimal():
            raise Refused(400, "BadExpirationDate")
        if len(headers.get("apns-collapse-id", "").encode()) > MAX_COLLAPSE_ID:
            raise Refused(400, "BadCollapseId")
        if "apns-id" in headers and not _UUID.fullmatch(headers["apns-id"]):
            raise Refused(400, "BadMessageId")
        return push_type

    # What the caller sees -------------------------------------------------------------------------------------------

    async def _tell(self, stream: Stream, call: Call, verdict: Verdict, apns_id: str) -> None:
        match verdict.do:
            case Do.ANSWER:
                self._accept(stream, call, verdict, apns_id)
            case Do.ANSWER_SLOWLY:
                await asyncio.sleep(self.sandbox.config.scaled(SLOW_ANSWER_SECONDS))
                self._accept(stream, call, verdict, apns_id)
            case Do.HOLD:
                await self._hold(stream, call, verdict, apns_id)
            case Do.ERROR:
                self._refuse(stream, call, verdict, Reason.BROKEN)
            case Do.REFUSE if verdict.reason == GO_AWAY:
                self._respond(call, None, verdict)
                stream.send_away("Shutdown")
            case Do.REFUSE:
                self._refuse(stream, call, verdict, verdict.reason)
            case _:
                self._respond(call, None, verdict)
                if verdict.accepted:
                    stream.reset()
                else:
                    stream.connection.abort()

    def _accept(self, stream: Stream, call: Call, verdict: Verdict, apns_id: str) -> None:
        self._respond(call, 200, verdict)
        stream.answer(200, {"apns-id": apns_id, "apns-unique-id": str(uuid4())})

    def _refuse(self, stream: Stream, call: Call, verdict: Verdict, why: str) -> None:
        status, reason = _REFUSALS[why]
        body: dict[str, Any] = {"reason": reason}
        if status == 410:
            since = time.time() - (MONTH_SECONDS if why == UNREGISTERED_BEFORE else 0)
            body["timestamp"] = int(since * 1000)
        self._respond(call, status, verdict)
        stream.answer(status, {"apns-id": _apns_id(stream)}, msgspec.json.encode(body))

    async def _hold(self, stream: Stream, call: Call, verdict: Verdict, apns_id: str) -> None:
        """Say nothing until the caller gives up, a release comes, or the time is over."""
        self._respond(call, None, verdict)
        try:
            async with asyncio.timeout(self.sandbox.config.hold_seconds):
                await self.sandbox.faults.released()
        except TimeoutError:
            stream.reset()
            return
        if verdict.accepted:
            self.sandbox.door.respond(call, 200, about=verdict.about, note="released")
            stream.answer(200, {"apns-id": apns_id})
        else:
            stream.reset()

    def _respond(self, call: Call, status: int | None, verdict: Verdict) -> None:
        self.sandbox.door.respond(call, status, about=verdict.about, note=verdict.note)


def _apns_id(stream: Stream) -> str:
    """The caller's id for the notification if it is one; else a new one, which stays with the request."""
    given = stream.headers.get("apns-id", "")
    if not _UUID.fullmatch(given):
        given = stream.headers["apns-id"] = str(uuid4())
    return given


def _payload(body: bytes, most: int) -> dict[str, Any]:
    """Raises ``Refused``."""
    if len(body) > most:
        raise Refused(413, "PayloadTooLarge")
    try:
        payload: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise Refused(400, "PayloadEmpty") from exc
    if not payload:
        raise Refused(400, "PayloadEmpty")
    return payload


def _all_strings(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The app's own keys: beside ``aps``, or in one object there."""
    own = {name: value for name, value in payload.items() if name != "aps"}
    nested = [value for value in own.values() if isinstance(value, dict)]
    return {name: value for values in (*nested, own) for name, value in values.items() if first([value])}
