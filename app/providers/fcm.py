"""FCM: Firebase Cloud Messaging, HTTP v1, as functions of values.

Sources: the FCM v1 discovery document; Firebase, "FCM error codes", "Scale FCM", "Authorize send requests"; Google,
"Using OAuth 2.0 for server to server applications". What shaped this file:

- A 200 means that Google has it. Only the device can say that it came, by its receipt.
- There is no idempotency and no lookup. The tag (Android, web) and the collapse id (iOS) are the same for every copy
  of a notification, so a second one replaces the first on the screen.
- Calls carry an access token, fetched with a JWT that the service account signs: ``build_access``, ``access.py``.
- ``FcmError.errorCode`` says more than the status, and the status more than the HTTP code.
- An INVALID_ARGUMENT about the token, or a token of another sender, may as well be our own configuration: doubtful.
- THIRD_PARTY_AUTH_ERROR is about the credentials for APNs or Web Push that lie in Firebase: iPhones or browsers get
  nothing then, Android everything.
- 503 with ``Retry-After`` was not accepted. Any other 5xx is unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from app.domain.models import Channel, Outcome, OutcomeKind, Platform
from app.errors import FieldError, InvalidFields
from app.providers.access import TOKEN_REFUSED
from app.providers.base import (
    SENDER_REFUSED,
    AccessToken,
    Capabilities,
    Provider,
    ProviderRequest,
    ProviderResponse,
    PushMessage,
    SendContext,
)
from app.providers.push import TIMEOUT_SECONDS, TTL_SECONDS_MAX, check_size, custom_keys, encode, urgent
from app.providers.reading import at, document, items, number, retry_after, text

HOST: Final = "https://fcm.googleapis.com"
TOKEN_URI: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
AUDIENCE: Final = TOKEN_URI  # wherever the token is asked for: Google's own libraries say no other
SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_SECONDS: Final = 3600  # the longest that Google takes
PAYLOAD_BYTES_MAX: Final = 4096
NAME_CHARS_MAX: Final = 300
PER_SECOND: Final = 600_000 / 60  # a project's token bucket
QUOTA_SECONDS: Final = 60.0  # to wait when a quota is used up and no Retry-After says for how long

_PROJECT: Final = re.compile(r"[a-z0-9:.-]{1,100}")
_BASE_URL: Final = re.compile(r"https?://[^/?#@\s]+")
_TOKEN_URI: Final = re.compile(r"https?://[^/?#@\s]+/[^?#\s]*")
_RESERVED_KEYS: Final = re.compile(r"from|message_type|(?:google|gcm)\..*")
_TOKEN: Final = re.compile(r"[!-~]{1,4096}")


@dataclass(frozen=True, slots=True)
class FcmAccount:
    """One Firebase project, and the service account that may send for it. Raises ValueError for what could not work.

    service_account: the JSON file that Google gave out (so ``service_account_file`` names it), in place of the four
    fields it holds. base_url: in place of Google's host, for a sandbox; trust: the CA bundle that vouches for it.
    test_mode: messages are checked and answered, but not delivered.
    """

    project_id: str = ""
    client_email: str = ""
    private_key: str = field(default="", repr=False)
    private_key_id: str = ""
    token_uri: str = ""
    service_account: str | None = field(default=None, repr=False)
    base_url: str | None = None
    trust: str | None = None
    test_mode: bool = False

    def __post_init__(self) -> None:
        given = _service_account(self.service_account)
        for name in ("project_id", "client_email", "private_key", "private_key_id", "token_uri"):
            object.__setattr__(self, name, getattr(self, name) or text(given.get(name), 10_000))
        object.__setattr__(self, "token_uri", self.token_uri or TOKEN_URI)
        if not _PROJECT.fullmatch(self.project_id):
            raise ValueError("project_id must be the id of a Firebase project")
        if not self.client_email or not self.private_key_id:
            raise ValueError("client_email and private_key_id must not be empty")
        if self.base_url is not None and not _BASE_URL.fullmatch(self.base_url):
            raise ValueError("base_url must be http(s)://host[:port], without a path")
        if not _TOKEN_URI.fullmatch(self.token_uri):
            raise ValueError("token_uri must be a URL such as https://oauth2.googleapis.com/token")
        _load_key(self.private_key)


class Fcm(Provider[PushMessage]):
    """One Firebase project behind the Provider protocol.

    A ``base_url`` in clear is a sandbox on this machine, and those speak HTTP/1.1.
    """

    name: ClassVar[str] = "fcm"

    def __init__(self, account: FcmAccount) -> None:
        self.account = account
        self.capabilities = Capabilities(
            channel=Channel.PUSH,
            confirms_delivery=True,
            can_look_up=False,
            accepts_client_id=False,
            rate_per_second=PER_SECOND,
            transport="http" if (account.base_url or HOST).startswith("http://") else "http2",
            takes_tests=True,
        )
        self._url = f"{account.base_url or HOST}/v1/projects/{account.project_id}/messages:send"
        self._key = _load_key(account.private_key)

    # -- the access token ------------------------------------------------------------------------------------

    def build_access(self, now: datetime) -> ProviderRequest | None:
        """Asks for a token with a JWT of the service account (RFC 7523)."""
        issued_at = int(now.timestamp())
        claims = {
            "iss": self.account.client_email,
            "scope": SCOPE,
            "aud": AUDIENCE,
            "iat": issued_at,
            "exp": issued_at + ASSERTION_SECONDS,
        }
        assertion = jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self.account.private_key_id})
        return ProviderRequest(
            "POST",
            self.account.token_uri,
            {"Content-Type": "application/x-www-form-urlencoded"},
            urlencode({"grant_type": GRANT_TYPE, "assertion": assertion}).encode(),
            timeout_seconds=TIMEOUT_SECONDS,
            trust=self.account.trust,
        )

    def interpret_access(self, response: ProviderResponse, now: datetime) -> AccessToken | Outcome:
        """The token, or why there is none: nothing was sent, so nothing is unknown."""
        status, payload = response.status, document(response.body)
        token, seconds = at(payload, "access_token"), number(at(payload, "expires_in"))
        if status == 200 and isinstance(token, str) and _TOKEN.fullmatch(token) and seconds is not None:
            return AccessToken(token, now + timedelta(seconds=min(max(seconds, 0.0), 86400.0)))
        kind = OutcomeKind.UNAUTHORIZED if 300 <= status < 500 else OutcomeKind.TRANSIENT
        if status in (408, 429):
            kind = OutcomeKind.RATE_LIMITED if status == 429 else OutcomeKind.TRANSIENT
        error = at(payload, "error")
        words = f"access token: {status} {text(error, 60)}".rstrip()
        return Outcome(kind, words, status, retry_after_seconds=retry_after(response.headers, now))

    # -- sending -----------------------------------------------------------------------------------------------

    def build(self, message: PushMessage, context: SendContext) -> ProviderRequest:
        """The request; ``context.access_token`` is what Google answered to ``build_access``."""
        assert context.access_token is not None, "the dispatcher fetches it before it builds"
        if not message.device.token:
            raise InvalidFields(FieldError("device.token", "must be a registration token"))
        for key in message.data:
            if _RESERVED_KEYS.fullmatch(key):
                raise InvalidFields(FieldError(f"data.{key}", "is reserved by FCM: name it otherwise"))
        content = {"notification": _notification(message), "data": custom_keys(message)}
        check_size(message, len(encode(content)), PAYLOAD_BYTES_MAX)
        body: dict[str, Any] = {
            "message": {"token": message.device.token, **content, **_for_platform(message, context.now)}
        }
        if message.test_mode or self.account.test_mode:
            body["validate_only"] = True
        return ProviderRequest(
            "POST",
            self._url,
            {"authorization": f"Bearer {context.access_token}", "content-type": "application/json; charset=UTF-8"},
            encode(body),
            timeout_seconds=TIMEOUT_SECONDS,
            trust=self.account.trust,
            pool=f"fcm:{self.account.project_id}",
        )

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer means: by FCM's own code, else by Google's status, else by the HTTP code."""
        status, payload = response.status, document(response.body)
        name = at(payload, "name")
        if status == 200 and isinstance(name, str) and name:
            return Outcome(OutcomeKind.ACCEPTED, "accepted", status, provider_message_id=text(name, NAME_CHARS_MAX))
        code, general = _codes(payload)
        wait = retry_after(response.headers, now)
        meaning = _meaning(status, code, general, _violates_token(payload))
        if meaning.kind is OutcomeKind.UNKNOWN and status == 503 and wait is not None:
            meaning = _AGAIN
        if meaning.kind is OutcomeKind.RATE_LIMITED and wait is None:
            wait = QUOTA_SECONDS
        return Outcome(
            meaning.kind,
            f"{status} {code or general}".rstrip(),
            status,
            retry_after_seconds=wait,
            reason=meaning.named,
            doubtful=meaning.doubtful,
        )


# -- the account -------------------------------------------------------------------------------------------------------


def _service_account(given: str | None) -> Mapping[str, Any]:
    if given is None:
        return {}
    try:
        parsed = json.loads(given)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict) or parsed.get("type") != "service_account":
        raise ValueError("service_account must be the JSON of a Google service account's key")
    return parsed


def _load_key(pem: str) -> RSAPrivateKey:
    """Raises ValueError, without a word of the key."""
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("private_key must be the PEM of a service account's RSA key")
    return key


# -- messages ----------------------------------------------------------------------------------------------------------


def _notification(message: PushMessage) -> dict[str, str]:
    fields = {"title": message.title, "body": message.body, "image": message.image}
    return {name: words for name, words in fields.items() if words}


def _for_platform(message: PushMessage, now: datetime) -> dict[str, Any]:
    """How the device's own push service shall treat it. What a copy replaces is said in each one's words."""
    seconds = int((message.expires_at - now).total_seconds())
    ttl = min(max(seconds, 0), TTL_SECONDS_MAX)
    match message.device.platform:
        case Platform.IOS:
            return {"apns": _apns(message)}
        case Platform.WEB:
            return {"webpush": _webpush(message, ttl)}
        case _:
            return {"android": _android(message, ttl)}


def _android(message: PushMessage, ttl: int) -> dict[str, Any]:
    notification: dict[str, Any] = {"tag": message.collapse_id}
    if message.sound is not None:
        notification["sound"] = message.sound
    if message.badge is not None:
        notification["notification_count"] = message.badge
    return {
        "collapse_key": message.collapse_id,
        "priority": "HIGH" if urgent(message) else "NORMAL",
        "ttl": f"{ttl}s",
        "notification": notification,
    }


def _apns(message: PushMessage) -> dict[str, Any]:
    aps: dict[str, Any] = {"thread-id": message.category}
    if message.subtitle:
        aps["alert"] = {"title": message.title, "subtitle": message.subtitle, "body": message.body}
    if message.badge is not None:
        aps["badge"] = message.badge
    if message.sound is not None:
        aps["sound"] = message.sound
    if message.image is not None or message.receipt_url is not None:
        aps["mutable-content"] = 1
    headers = {
        "apns-collapse-id": message.collapse_id,
        "apns-expiration": str(max(0, int(message.expires_at.timestamp()))),
        "apns-priority": "10" if urgent(message) else "5",
    }
    return {"headers": headers, "payload": {"aps": aps}}


def _webpush(message: PushMessage, ttl: int) -> dict[str, Any]:
    headers = {
        "TTL": str(ttl),
        "Urgency": "high" if urgent(message) else "low",
        "Topic": message.collapse_id.replace("-", ""),
    }
    return {"headers": headers, "notification": {"tag": message.collapse_id}}


# -- answers -----------------------------------------------------------------------------------------------------------


class _Meaning(NamedTuple):
    kind: OutcomeKind
    named: str | None = None
    doubtful: bool = False


_AGAIN: Final = _Meaning(OutcomeKind.TRANSIENT)
_OURS: Final = _Meaning(OutcomeKind.UNAUTHORIZED)
_ONE_PLATFORMS: Final = _Meaning(OutcomeKind.UNAUTHORIZED, SENDER_REFUSED)
_QUOTA: Final = _Meaning(OutcomeKind.RATE_LIMITED)
_THIS_MESSAGE: Final = _Meaning(OutcomeKind.REJECTED)
_UNCLEAR: Final = _Meaning(OutcomeKind.UNKNOWN)
_BAD_TOKEN: Final = _Meaning(OutcomeKind.RECIPIENT_INVALID, "bad_device_token", doubtful=True)

#: FCM's own codes, from the FcmError among an error's details.
_CODES: Final[Mapping[str, _Meaning]] = {
    "UNREGISTERED": _Meaning(OutcomeKind.RECIPIENT_INVALID),
    "SENDER_ID_MISMATCH": _Meaning(OutcomeKind.RECIPIENT_INVALID, "sender_id_mismatch", doubtful=True),
    "INVALID_ARGUMENT": _THIS_MESSAGE,
    "THIRD_PARTY_AUTH_ERROR": _ONE_PLATFORMS,
    "APNS_AUTH_ERROR": _ONE_PLATFORMS,
    "QUOTA_EXCEEDED": _QUOTA,
    "INTERNAL": _UNCLEAR,
    "UNAVAILABLE": _UNCLEAR,
}

#: Google's statuses, where there is no FcmError: a 404 is then the project's, not the device's.
_GENERAL: Final[Mapping[str, _Meaning]] = {
    "INVALID_ARGUMENT": _THIS_MESSAGE,
    "UNAUTHENTICATED": _Meaning(OutcomeKind.UNAUTHORIZED, TOKEN_REFUSED),
    "PERMISSION_DENIED": _OURS,
    "NOT_FOUND": _OURS,
    "RESOURCE_EXHAUSTED": _QUOTA,
    "INTERNAL": _UNCLEAR,
    "UNAVAILABLE": _UNCLEAR,
}

_STATUSES: Final[Mapping[int, _Meaning]] = {
    **dict.fromkeys((301, 302, 307, 308), _OURS),
    401: _Meaning(OutcomeKind.UNAUTHORIZED, TOKEN_REFUSED),
    403: _OURS,
    404: _OURS,
    408: _UNCLEAR,
    429: _QUOTA,
}


def _meaning(status: int, code: str, general: str, token_is_wrong: bool) -> _Meaning:
    if status == 400 and token_is_wrong and (code or general) == "INVALID_ARGUMENT":
        return _BAD_TOKEN
    if not 400 <= status < 600:  # no error of FCM's, whatever it says
        return _STATUSES.get(status, _UNCLEAR)
    found = _CODES.get(code) if code else _GENERAL.get(general)
    return found or _STATUSES.get(status) or (_THIS_MESSAGE if status < 500 else _UNCLEAR)


def _codes(payload: Any) -> tuple[str, str]:
    """FCM's own code and Google's status, empty where they are missing."""
    own = (at(detail, "errorCode") for detail in _details(payload, "google.firebase.fcm.v1.FcmError"))
    return text(next(own, ""), 60), text(at(payload, "error", "status"), 60)


def _violates_token(payload: Any) -> bool:
    """Whether the argument that is invalid is the token: FCM names the field, or says so in words."""
    return "not a valid FCM registration token" in text(at(payload, "error", "message")) or any(
        at(violation, "field") == "message.token"
        for detail in _details(payload, "google.rpc.BadRequest")
        for violation in items(at(detail, "fieldViolations"))
    )


def _details(payload: Any, kind: str) -> Iterator[Any]:
    for detail in items(at(payload, "error", "details")):
        if at(detail, "@type") == f"type.googleapis.com/{kind}":
            yield detail
