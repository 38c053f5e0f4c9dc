"""Web Push: encrypted messages to the push services of browsers, as functions of values.

Sources: RFC 8030 (delivery), RFC 8188 and 8291 (encryption), RFC 8292 (VAPID); W3C Push API. What shaped this file:

- The endpoint comes from a browser, so from anybody. Only hosts of known push services are called, and the request
  travels guarded.
- A 201 means that the push service has it. Only the service worker can say that it came, by its receipt.
- There is no lookup. ``Topic`` replaces a copy that still waits at the push service, the notification's ``tag`` one
  that is on the screen; both are the same for every copy.
- A subscription belongs for life to the VAPID key it was made with. One that was made with another key is refused like
  a wrong key of ours, yet says nothing of ours: its own words tell them apart.
- 503 with ``Retry-After`` was not accepted. Any other 5xx is unknown, whatever it says: a proxy in between may give up
  on a message that went through.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import http_ece  # type: ignore[import-untyped]
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from app.domain.models import Channel, NotificationClass, Outcome, OutcomeKind
from app.errors import FieldError, InvalidFields
from app.providers.base import (
    Capabilities,
    Device,
    Provider,
    ProviderRequest,
    ProviderResponse,
    PushMessage,
    SendContext,
)
from app.providers.push import TIMEOUT_SECONDS, TTL_SECONDS_MAX, check_size, encode
from app.providers.reading import DETAIL_CHARS_MAX, at, document, number, retry_after, text, words_of

#: The push services of Chrome and Edge, Firefox, Safari. ``*.`` stands for any subdomain.
PUSH_HOSTS: Final = (
    "fcm.googleapis.com",
    "updates.push.services.mozilla.com",
    "web.push.apple.com",
    "*.push.apple.com",
    "*.notify.windows.com",
)
ENDPOINT_CHARS_MAX: Final = 2048
PAYLOAD_BYTES_MAX: Final = 3993  # 4,096 less the header of 86 bytes, a tag of 16 and a delimiter (RFC 8291, 4)
RECORD_BYTES: Final = 4096
TOKEN_SECONDS: Final = 12 * 3600  # RFC 8292, 2 allows 24 h; half of it leaves room for clocks
TOKEN_REFRESH: Final = timedelta(hours=1)  # before it runs out
ORIGINS_MAX: Final = 1000  # tokens kept; Windows has many hosts

URGENCIES: Final[Mapping[str, str]] = {
    NotificationClass.ALERT: "high",  # RFC 8030, 5.3: a call, a time-sensitive alert
    NotificationClass.TRANSACTIONAL: "normal",  # a chat or calendar message
    NotificationClass.PROMOTIONAL: "low",  # a topic of interest
}

_ENDPOINT: Final = re.compile(r"https?://[!-~]+")
_HOST_NAME: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")
_HOST_PATTERN: Final = re.compile(r"(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*")

#: How push services say that a subscription was made with another key: Google, Mozilla, Apple.
_OTHER_KEY: Final = re.compile(
    r"do(es)? not correspond to the (credentials|sender ID) used|VAPID public key mismatch|VapidPkHashMismatch"
)


@dataclass(frozen=True, slots=True)
class WebPushAccount:
    """The key that signs for us. Raises ValueError for what could not work.

    private_key: a PEM, or the 32 bytes of the key in base64url as the usual tools print it. subject: how a push
    service's operator reaches us, ``mailto:`` or ``https:``; Apple refuses one at localhost.
    push_hosts: whose endpoints may be called; allow_loopback: this machine's own as well, for development.
    """

    private_key: str = field(repr=False)
    subject: str
    push_hosts: tuple[str, ...] = PUSH_HOSTS
    allow_loopback: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"mailto:[^\s@]+@[^\s@]+|https://[!-~]+", self.subject):
            raise ValueError("subject must be mailto:somebody@example.com or an https:// address")
        for host in self.push_hosts:
            if not _HOST_PATTERN.fullmatch(host):
                raise ValueError("push_hosts must be host names such as web.push.apple.com or *.push.apple.com")
        _load_key(self.private_key)


class WebPush(Provider[PushMessage]):
    """One VAPID key behind the Provider protocol."""

    name: ClassVar[str] = "web-push"
    capabilities = Capabilities(
        channel=Channel.PUSH,
        confirms_delivery=True,
        can_look_up=False,
        accepts_client_id=False,
        transport="guarded",
        breaks=False,
    )

    def __init__(self, account: WebPushAccount) -> None:
        self.account = account
        self._key = _load_key(account.private_key)
        self.public_key = _base64(_point(self._key))
        self._tokens: dict[str, tuple[str, datetime]] = {}

    def build(self, message: PushMessage, context: SendContext) -> ProviderRequest:
        """The encrypted request. Raises InvalidFields for an endpoint that is no push service's."""
        device = message.device
        origin = self._origin(device.token)
        payload = encode(_payload(message))
        check_size(message, len(payload), PAYLOAD_BYTES_MAX)
        seconds = int((message.expires_at - context.now).total_seconds())
        headers = {
            # Without a space after the comma: some read only that, and all read that.
            "Authorization": f"vapid t={self._sign(origin, context.now)},k={self.public_key}",
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(min(max(seconds, 0), TTL_SECONDS_MAX)),
            "Urgency": URGENCIES.get(message.klass, "normal"),
            "Topic": message.collapse_id.replace("-", ""),
        }
        return ProviderRequest("POST", device.token, headers, _encrypted(payload, device), TIMEOUT_SECONDS)

    def _origin(self, endpoint: str) -> str:
        """Scheme, host and port of an endpoint that may be called."""
        try:
            if len(endpoint) > ENDPOINT_CHARS_MAX or not _ENDPOINT.fullmatch(endpoint):
                raise ValueError
            parts = urlsplit(endpoint)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            raise InvalidFields(FieldError("device.token", "must be the endpoint of a push subscription")) from None
        loopback = self.account.allow_loopback and _is_loopback(host)
        named = parts.scheme == "https" and _HOST_NAME.fullmatch(host)
        known = named and any(_matches(host, pattern) for pattern in self.account.push_hosts)
        if "@" in parts.netloc or not (known or loopback):
            raise InvalidFields(FieldError("device.token", "must be an https endpoint of a known push service"))
        given = f"[{host}]" if ":" in host else host
        usual = port is None or port == {"https": 443, "http": 80}[parts.scheme]
        return f"{parts.scheme}://{given}" if usual else f"{parts.scheme}://{given}:{port}"

    def _sign(self, origin: str, now: datetime) -> str:
        """The VAPID token for one push service, made anew an hour before it runs out (RFC 8292)."""
        token, expires_at = self._tokens.get(origin, ("", now))
        remaining = expires_at - now
        if not TOKEN_REFRESH < remaining <= timedelta(seconds=TOKEN_SECONDS):
            expires_at = now + timedelta(seconds=TOKEN_SECONDS)
            claims = {"aud": origin, "exp": int(expires_at.timestamp()), "sub": self.account.subject}
            token = jwt.encode(claims, self._key, algorithm="ES256")
            if len(self._tokens) >= ORIGINS_MAX:
                self._tokens.clear()
            self._tokens[origin] = (token, expires_at)
        return token

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer means, by its status (RFC 8030, 5 and 7.3)."""
        status = response.status
        if status in (200, 201, 202):
            # Its Location lets whoever reads it call the message off, and nobody can be asked about it: not kept.
            return Outcome(OutcomeKind.ACCEPTED, "accepted", status)
        words, wait = _words(response), retry_after(response.headers, now)
        detail = f"{status} {words}".rstrip()
        if status in (400, 401, 403) and _OTHER_KEY.search(words):
            return Outcome(
                OutcomeKind.RECIPIENT_INVALID, detail, status, reason="subscribed_with_another_key", doubtful=True
            )
        return Outcome(_kind(status, wait), detail, status, retry_after_seconds=wait)


# -- keys and encryption -----------------------------------------------------------------------------------------------


def _load_key(given: str) -> EllipticCurvePrivateKey:
    """Raises ValueError, without a word of the key."""
    key: Any = None
    try:
        if "-----BEGIN" in given:
            key = load_pem_private_key(given.encode(), None)
        elif len(raw := _bytes(given)) == 32:
            key = derive_private_key(int.from_bytes(raw, "big"), SECP256R1())
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("private_key must be a P-256 key: a PEM, or its 32 bytes in base64url")
    return key


def encrypt(
    payload: bytes, p256dh: bytes, auth: bytes, *, salt: bytes | None = None, key: EllipticCurvePrivateKey | None = None
) -> bytes:
    """One record that only the subscription's owner can read (RFC 8291, 3). Salt and key are new for every message.

    p256dh: 65 bytes, an uncompressed point of P-256; auth: 16 bytes. Raises ValueError for others.
    """
    if len(p256dh) != 65:  # a compressed point is one too, but not the one the browser mixes into the key
        raise ValueError("p256dh must be an uncompressed point")
    sealed: bytes = http_ece.encrypt(
        payload,
        salt=salt,
        private_key=key or generate_private_key(SECP256R1()),
        dh=p256dh,
        auth_secret=auth,
        rs=RECORD_BYTES,
        version="aes128gcm",
    )
    return sealed


def _encrypted(payload: bytes, device: Device) -> bytes:
    p256dh, auth = _bytes(device.p256dh or ""), _bytes(device.auth or "")
    if len(auth) != 16:
        raise InvalidFields(FieldError("device.auth", "must be 16 bytes in base64url"))
    try:
        return encrypt(payload, p256dh, auth)
    except ValueError:
        told = "must be an uncompressed point of P-256, 65 bytes in base64url"
        raise InvalidFields(FieldError("device.p256dh", told)) from None


def _point(key: EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _base64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(given: str) -> bytes:
    """Decodes base64url, padded or not, and the usual alphabet too; nothing for what is neither."""
    plain = given.strip().rstrip("=").replace("+", "-").replace("/", "_")
    if not re.fullmatch(r"[A-Za-z0-9_-]*", plain):
        return b""
    try:
        return urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
    except Base64Error:
        return b""


# -- messages ----------------------------------------------------------------------------------------------------------


def _payload(message: PushMessage) -> dict[str, Any]:
    """What the service worker shows: the parts of a notification, the app's own keys as ``data``, and ours."""
    parts: dict[str, Any] = {
        "title": message.title,
        "subtitle": message.subtitle,
        "body": message.body,
        "url": message.url,
        "image": message.image,
        "badge": message.badge,
        "tag": message.collapse_id,
        "data": dict(message.data) or None,
    }
    return {name: value for name, value in parts.items() if value is not None} | message.landed_data()


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


# -- answers -----------------------------------------------------------------------------------------------------------


def _kind(status: int, wait: float | None) -> OutcomeKind:
    if status in (404, 410):
        return OutcomeKind.RECIPIENT_INVALID
    if status in (401, 403, 407):
        return OutcomeKind.UNAUTHORIZED
    if status == 429:
        return OutcomeKind.RATE_LIMITED
    if status == 503 and wait is not None:
        return OutcomeKind.TRANSIENT  # it says when to come again, so it has not taken it
    return OutcomeKind.REJECTED if 300 <= status < 500 and status != 408 else OutcomeKind.UNKNOWN


def _words(response: ProviderResponse) -> str:
    """What a push service says, as JSON or in plain words; bounded, and without anything that could be an address."""
    payload = document(response.body)
    reason, message = text(at(payload, "reason")), text(at(payload, "message"))
    errno = number(at(payload, "errno"))
    said = reason or message or ("" if payload is not None else text(words_of(response.body)))
    shown = re.sub(r"\S*(://|@)\S*", "<address>", " ".join(said.split()))
    return (f"errno {errno:g}: {shown}" if errno is not None else shown)[:DETAIL_CHARS_MAX]
