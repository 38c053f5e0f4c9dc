"""Firebase Cloud Messaging, HTTP v1, with the token endpoint of the service account that calls it."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs
from uuid import uuid4

import jwt
import msgspec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from litestar import post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from app.sandbox.config import setting
from app.sandbox.httpapi import AnyRequest, HttpProtocol, answer, as_json, captive_page, is_same, protocol_of, take
from app.sandbox.keys import base64url
from app.sandbox.push.devices import PushService, first, strings
from app.sandbox.push.scripts import SERVER_ERROR, THIRD_PARTY_AUTH, UNREGISTERED
from app.sandbox.scripting import RATE_LIMIT_SECONDS, Reason
from app.sandbox.world import Message

NAME: Final = "fcm"
GOOGLE_TOKEN_URL: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - a URL
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPES: Final = frozenset(
    {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
)
TOKEN_SECONDS: Final = 3599
CLOCK_SECONDS: Final = 300
MAX_PAYLOAD: Final = 4096

_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_RESERVED: Final = ("google.", "gcm.")

#: HTTP status, Google's status, FCM's own error code if it has one, and words.
_REFUSALS: Final[Mapping[str, tuple[int, str, str | None, str]]] = {
    Reason.RATE_LIMITED: (429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "Message rate exceeded."),
    Reason.UNAVAILABLE: (503, "UNAVAILABLE", "UNAVAILABLE", "The service is currently unavailable."),
    Reason.BROKEN: (500, "INTERNAL", "INTERNAL", "Internal error encountered."),
    SERVER_ERROR: (500, "INTERNAL", "INTERNAL", "Internal error encountered."),
    Reason.UNAUTHORIZED: (401, "UNAUTHENTICATED", None, "Request had invalid authentication credentials."),
    UNREGISTERED: (404, "NOT_FOUND", "UNREGISTERED", "Requested entity was not found."),
    Reason.SENDER_REFUSED: (403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", "SenderId mismatch"),
    THIRD_PARTY_AUTH: (401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", "Auth error from APNS or Web Push Service"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FcmSettings:
    project: str = setting("landed-sandbox", "Firebase project.")


class Invalid(Exception):
    """A request that FCM answers with INVALID_ARGUMENT, and the field that is wrong"""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


def problem(
    status: int,
    word: str,
    text: str,
    *,
    code: str | None = None,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> ASGIResponse:
    """An error as Google writes it."""
    details: list[dict[str, Any]] = [{"@type": _ERROR, "errorCode": code}] if code else []
    if field:
        details.append({"@type": _BAD_REQUEST, "fieldViolations": [{"field": field, "description": text}]})
    error: dict[str, Any] = {"code": status, "message": text, "status": word}
    return as_json({"error": error | ({"details": details} if details else {})}, status, headers)


def invalid(exc: Invalid) -> ASGIResponse:
    return problem(400, "INVALID_ARGUMENT", str(exc), code="INVALID_ARGUMENT", field=exc.field)


# The token endpoint -------------------------------------------------------------------------------------------------


@post("/token", status_code=200)
async def token(request: AnyRequest) -> ASGIApp:
    """A bearer token for the service account whose key signed the assertion (RFC 7523)."""
    protocol = protocol_of(request, Fcm)
    form = parse_qs((await request.body()).decode(errors="replace"))
    if form.get("grant_type") != [GRANT]:
        return answer(request, _denied("unsupported_grant_type", f"Invalid grant_type: use {GRANT}"))
    if wrong := protocol.wrong_with(form.get("assertion", [""])[0]):
        return answer(request, _denied("invalid_grant", wrong))
    granted = {"access_token": protocol.new_bearer(), "expires_in": TOKEN_SECONDS, "token_type": "Bearer"}
    return answer(request, as_json(granted))


def _denied(error: str, words: str) -> ASGIResponse:
    return as_json({"error": error, "error_description": words}, 400)


# Sending ------------------------------------------------------------------------------------------------------------


@post("/v1/projects/{project:str}/{action:str}", status_code=200)
async def send(request: AnyRequest, project: str, action: str) -> ASGIApp:
    """Take one message on, to one device."""
    protocol = protocol_of(request, Fcm)
    if action != "messages:send":
        return answer(request, problem(404, "NOT_FOUND", "Method not found."))
    try:
        message, is_trial = _read(await request.body())
    except Invalid as exc:
        return answer(request, invalid(exc))
    name = f"projects/{project}/messages"
    if is_trial:
        return answer(request, as_json({"name": f"{name}/fake_message_id"}), note="checked only")
    message_id = f"{name}/0:{uuid4().hex}"
    android, webpush = strings(message.get("android")), strings(message.get("webpush"))
    apns = strings(message.get("apns"))
    draft = protocol.draft(
        message["token"],
        message_id=message_id,
        notification=_shown(message, android, webpush, apns),
        data={**strings(webpush.get("data")), **strings(android.get("data")), **strings(message.get("data"))},
        collapse=first(
            (
                strings(android.get("notification")).get("tag"),
                android.get("collapse_key"),
                strings(apns.get("headers")).get("apns-collapse-id"),
                strings(webpush.get("notification")).get("tag"),
            )
        ),
    )
    return take(request, [draft], as_json({"name": message_id}))


def _shown(
    message: Mapping[str, Any], android: Mapping[str, Any], webpush: Mapping[str, Any], apns: Mapping[str, Any]
) -> dict[str, Any]:
    """Title and text, wherever the message has them; what speaks to one platform goes before what speaks to all."""
    alert = strings(strings(strings(apns.get("payload")).get("aps")).get("alert"))
    return {
        **strings(message.get("notification")),
        **alert,
        **strings(webpush.get("notification")),
        **strings(android.get("notification")),
    }


def _read(body: bytes) -> tuple[dict[str, Any], bool]:
    """The message, and whether it is only to be checked. Raises ``Invalid``."""
    try:
        request: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise Invalid("", f"Invalid JSON payload received. {exc}") from exc
    message = request.get("message")
    if not isinstance(message, dict):
        raise Invalid("message", "Message is required.")
    if not isinstance(message.get("token"), str) or not message["token"]:
        raise Invalid("message.token", "Recipient of the message is not set: only a token is supported here.")
    _check_data(message.get("data", {}))
    if len(msgspec.json.encode(message)) > MAX_PAYLOAD + len(message["token"]):
        raise Invalid("message", "Message is too big.")
    _check_ttl(strings(message.get("android")).get("ttl", "0s"))
    return message, request.get("validate_only") is True


def _check_data(data: object) -> None:
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise Invalid("message.data", "The values of data must be strings.")
    for name in data:
        if name in ("from", "message_type") or name.startswith(_RESERVED):
            raise Invalid(f"message.data[{name}]", f"Invalid data payload key: {name}")


def _check_ttl(ttl: object) -> None:
    digits = ttl.removesuffix("s") if isinstance(ttl, str) else ""
    if not isinstance(ttl, str) or not ttl.endswith("s") or not digits.replace(".", "", 1).isdecimal():
        raise Invalid("message.android.ttl", "Invalid duration: must be seconds, ending in 's'.")
    if float(digits) > 28 * 86_400:
        raise Invalid("message.android.ttl", "The ttl must be at most four weeks.")


class Fcm(PushService, HttpProtocol):
    """One project, and the service account in ``fcm-service-account.json`` that may send for it."""

    name = NAME
    settings_type = FcmSettings
    paths = ("/v1/projects/", "/token")
    routes = (token, send)
    settings: FcmSettings

    async def start(self) -> None:
        account = self.keys.service_account(self.settings.project, self._token_url)
        self._bearer_key = self.keys.secret("fcm bearer")
        self._email = account["client_email"]
        self._public_key: Any = load_pem_private_key(account["private_key"].encode(), None).public_key()

    @property
    def _token_url(self) -> str:
        return f"{self.sandbox.config.base_url}/token"

    def authorise(self, request: AnyRequest) -> ASGIResponse | None:
        if request.url.path == "/token":
            return None
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._is_bearer(bearer):
            return self.refused(Reason.UNAUTHORIZED)
        if request.path_params.get("project") != self.settings.project:
            return problem(403, "PERMISSION_DENIED", "Permission denied on resource project.")
        return None

    def is_send(self, request: AnyRequest) -> bool:
        return request.method == "POST" and request.url.path != "/token"

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        match reason:
            case Reason.WRONG_RESPONSE:
                return captive_page()
            case Reason.INVALID_RECIPIENT:
                words = "The registration token is not a valid FCM registration token"
                return invalid(Invalid("message.token", words))
            case Reason.CONTENT_REFUSED:
                return invalid(Invalid("message", "Message is too big."))
        status, word, code, text = _REFUSALS[reason]
        wait = max(1, round(self.sandbox.config.scaled(RATE_LIMIT_SECONDS)))
        headers = {"Retry-After": str(wait)} if status in (429, 503) else None
        return problem(status, word, text, code=code, headers=headers)

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return problem(status, {404: "NOT_FOUND", 405: "UNIMPLEMENTED"}.get(status, "INVALID_ARGUMENT"), detail)

    def wrong_with(self, assertion: str) -> str | None:
        """What is wrong with a service account's signed claim; None when nothing is."""
        audiences = [GOOGLE_TOKEN_URL, self._token_url]
        try:
            options: Any = {"require": ["iss", "iat", "exp", "aud"]}
            claims = jwt.decode(
                assertion,
                self._public_key,
                algorithms=["RS256"],
                audience=audiences,
                leeway=CLOCK_SECONDS,
                options=options,
            )
        except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError):
            return "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
        except jwt.InvalidSignatureError:
            return "Invalid JWT Signature."
        except jwt.InvalidTokenError as exc:
            return f"Invalid JWT: {exc}"
        if claims["iss"] != self._email:
            return "Invalid grant: account not found"
        if claims["exp"] - claims["iat"] > 3600 + CLOCK_SECONDS:
            return "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
        if not SCOPES & set(str(claims.get("scope", "")).split()):
            return "Invalid OAuth scope or ID token audience provided."
        return None

    def new_bearer(self) -> str:
        """A token that proves itself, so that a restarted sandbox still knows it."""
        expires = str(int(time.time()) + TOKEN_SECONDS)
        return f"ya29.{expires}.{self._proof(expires)}"

    def _is_bearer(self, bearer: str) -> bool:
        _, expires, proof = (*bearer.split("."), "", "", "")[:3]
        return expires.isdecimal() and int(expires) >= time.time() and is_same(proof, self._proof(expires))

    def _proof(self, expires: str) -> str:
        return base64url(hmac.new(self._bearer_key, expires.encode(), hashlib.sha256).digest())
