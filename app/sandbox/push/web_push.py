"""A Web Push service (RFC 8030) and the browsers behind it, which decrypt what they get (RFC 8291).

A browser decrypts what a real push service passes on unread; here both are one, so what cannot be decrypted is refused.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import http_ece  # type: ignore[import-untyped]  # ships no types
import jwt
import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from litestar import get, post
from litestar.exceptions import ValidationException
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, ControllerRouterHandler

from app.sandbox.config import setting
from app.sandbox.httpapi import (
    AnyRequest,
    HttpProtocol,
    answer,
    as_text,
    captive_page,
    is_same,
    protocol_of,
    take,
)
from app.sandbox.keys import base64url, derived_ec_key, from_base64url, raw_public_key
from app.sandbox.push.devices import PushService, first, strings
from app.sandbox.push.scripts import SERVER_ERROR, UNREGISTERED
from app.sandbox.scripting import RATE_LIMIT_SECONDS, Reason
from app.sandbox.world import Message

NAME: Final = "web_push"
MAX_BODY: Final = 4096
MAX_TOPIC: Final = 32
VAPID_SECONDS: Final = 86_400
URGENCIES: Final = frozenset({"very-low", "low", "normal", "high"})

_TOPIC: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_PART: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")

_REFUSALS: Final[Mapping[str, tuple[int, str]]] = {
    Reason.RATE_LIMITED: (429, "Too many messages for this subscription"),
    Reason.UNAVAILABLE: (503, "Service unavailable"),
    Reason.BROKEN: (500, "Internal error"),
    SERVER_ERROR: (500, "Internal error"),
    Reason.UNAUTHORIZED: (401, "Unauthorized registration"),
    Reason.INVALID_RECIPIENT: (404, "No such subscription"),
    UNREGISTERED: (410, "The subscription has unsubscribed or expired"),
    Reason.SENDER_REFUSED: (
        403,
        "the VAPID credentials in the authorization header do not correspond to the credentials used to create the "
        "subscriptions.",
    ),
    Reason.CONTENT_REFUSED: (413, "The payload is too large"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebPushSettings:
    vapid_public_key: str = setting(
        "", "Application server key that browsers have subscribed with, base64url; that of vapid.pem when empty."
    )


class Refused(Exception):
    """A push that the service or the browser will not have"""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@post("/push/{script:str}/{id:str}")
async def push(request: AnyRequest, script: str, id: str) -> ASGIApp:  # noqa: A002 - the path's word
    """Take one message on, to one browser."""
    protocol = protocol_of(request, WebPush)
    try:
        topic = _check_headers(request)
        payload = protocol.decrypted(request, await request.body(), script, id)
    except Refused as exc:
        return answer(request, as_text(str(exc), exc.status), note=str(exc))
    message_id = secrets.token_hex(16)
    data = {**strings(payload.get("notification")), **strings(payload.get("data")), **payload}
    draft = protocol.draft(
        protocol.endpoint(script, id),
        message_id=message_id,
        notification=strings(payload.get("notification")),
        data=data,
        collapse=topic or first([data.get("tag")]),
    )
    created = ASGIResponse(
        body=b"",
        status_code=201,
        headers={
            "Location": f"{protocol.sandbox.config.base_url}/push/messages/{message_id}",
            "TTL": request.headers["ttl"],
        },
    )
    return take(request, [draft], created)


def _check_headers(request: AnyRequest) -> str | None:
    """The topic, when the headers are right. Raises ``Refused``."""
    ttl, topic = request.headers.get("ttl"), request.headers.get("topic")
    if ttl is None or not ttl.isdecimal():
        raise Refused(400, "TTL must be a number of seconds")
    if request.headers.get("urgency", "normal") not in URGENCIES:
        raise Refused(400, f"Urgency must be one of {', '.join(sorted(URGENCIES))}")
    if topic is not None and not _TOPIC.fullmatch(topic):
        raise Refused(400, f"Topic must be at most {MAX_TOPIC} characters of base64url")
    return topic


def _vapid(authorization: str) -> tuple[str, str]:
    """Token and key of ``vapid t=…, k=…`` (RFC 8292). Raises ``Refused``."""
    scheme, _, rest = authorization.partition(" ")
    given = dict(part.strip().split("=", 1) for part in rest.split(",") if "=" in part)
    if scheme.lower() != "vapid" or not given.get("t") or not given.get("k"):
        raise Refused(401, "Authorization must be: vapid t=..., k=...")
    return given["t"], given["k"]


class WebPush(PushService, HttpProtocol):
    """A push service for browsers that all subscribed with one application server key."""

    name = NAME
    settings_type = WebPushSettings
    paths = ("/push/",)
    routes = (push,)
    settings: WebPushSettings

    async def start(self) -> None:
        vapid = self.keys.vapid_key()  # made even when the browsers have another one: a file may be waited for
        self._server_key = self.settings.vapid_public_key or base64url(raw_public_key(vapid))

    def handlers(self) -> list[ControllerRouterHandler]:
        """The push service, and a browser that subscribes."""

        @get("/sandbox/push/subscription")
        async def subscription(script: str = "", id: str = "") -> dict[str, Any]:  # noqa: A002 - as in the path
            return self.subscription(script or "received", id or secrets.token_hex(8))

        return [*super().handlers(), subscription]

    def subscription(self, script: str, id: str) -> dict[str, Any]:  # noqa: A002
        """What a browser hands to its app; the same keys for the same endpoint, whenever it is asked for."""
        if not _PART.fullmatch(script) or not _PART.fullmatch(id):
            raise ValidationException("script and id must be letters, digits, hyphens and underscores")
        key, auth = self._keys_of(script, id)
        return {
            "endpoint": self.endpoint(script, id),
            "expirationTime": None,
            "keys": {"p256dh": base64url(raw_public_key(key)), "auth": base64url(auth)},
        }

    def endpoint(self, script: str, id: str) -> str:  # noqa: A002
        return f"{self.sandbox.config.base_url}/push/{quote(script)}/{quote(id)}"

    def authorise(self, request: AnyRequest) -> ASGIResponse | None:
        """The application server's key and its signature over who it is meant for and until when."""
        try:
            token, key = _vapid(request.headers.get("authorization", ""))
            self._check_vapid(token, key)
        except Refused as exc:
            return as_text(str(exc), exc.status)
        return None

    def _check_vapid(self, token: str, key: str) -> None:
        """Raises ``Refused``."""
        try:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), from_base64url(key))
            base = self.sandbox.config.base_url
            options: Any = {"require": ["aud", "exp"]}
            claims = jwt.decode(token, public, algorithms=["ES256"], audience=base, options=options)
        except ValueError as exc:
            raise Refused(401, "k is no P-256 public key") from exc
        except jwt.InvalidTokenError as exc:
            raise Refused(401, f"Invalid VAPID token: {exc}") from exc
        if claims["exp"] > time.time() + VAPID_SECONDS:
            raise Refused(401, "Invalid VAPID token: exp must be at most 24 hours ahead")
        if not str(claims.get("sub", "mailto:")).startswith(("mailto:", "https:")):
            raise Refused(401, "Invalid VAPID token: sub must be mailto: or https:")
        if not is_same(key.rstrip("="), self._server_key.rstrip("=")):
            raise Refused(403, _REFUSALS[Reason.SENDER_REFUSED][1])

    def decrypted(self, request: AnyRequest, body: bytes, script: str, id: str) -> dict[str, Any]:  # noqa: A002
        """The message's own JSON; nothing for a push without a body. Raises ``Refused``."""
        if len(body) > MAX_BODY:
            raise Refused(413, _REFUSALS[Reason.CONTENT_REFUSED][1])
        if not body:
            return {}
        if request.headers.get("content-encoding") != "aes128gcm":
            raise Refused(400, "Content-Encoding must be aes128gcm")
        key, auth = self._keys_of(script, id)
        try:
            plain = http_ece.decrypt(body, private_key=key, auth_secret=auth, version="aes128gcm")
        except (http_ece.ECEException, InvalidTag, ValueError) as exc:
            raise Refused(400, "The browser cannot decrypt this") from exc
        try:
            return msgspec.json.decode(plain, type=dict[str, Any])
        except msgspec.DecodeError:
            return {"body": plain.decode(errors="replace")}

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        if reason == Reason.WRONG_RESPONSE:
            return captive_page()
        status, text = _REFUSALS[reason]
        response = as_text(text, status)
        if status in (429, 503):
            response.headers.add("Retry-After", str(max(1, round(self.sandbox.config.scaled(RATE_LIMIT_SECONDS)))))
        return response

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return as_text(detail, status)

    def _keys_of(self, script: str, id: str) -> tuple[ec.EllipticCurvePrivateKey, bytes]:  # noqa: A002
        """A browser's private key and its authentication secret."""
        purpose = f"web push {script}/{id}"
        return derived_ec_key(self.keys.secret(purpose, 48)), self.keys.secret(f"{purpose} auth", 16)
