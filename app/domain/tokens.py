"""What we sign so that nobody else can: unsubscribe links (RFC 8058), push receipts, open pixels, click links.

``1.<payload>.<signature>``: a version, the payload as base64url, and HMAC-SHA256 over both. One secret signs for every
purpose; the purpose goes into the HMAC before the rest, so a token is of no use for anything but its own. No token
expires: a link in an old email must still work, and what a token can still do is bounded by what it names. An
unsubscribe token carries the address itself, because the delivery it went out with is dropped before that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import struct
from dataclasses import astuple, dataclass
from uuid import UUID

VERSION = "1"
# None is the beginning of another: what is signed for one can never read as signed for another.
UNSUBSCRIBE = b"landed unsubscribe "
RECEIPT = b"landed receipt "
OPEN = b"landed open "
CLICK = b"landed click "

TARGET_CHARS_MAX = 1400  # of a link's target: with it, the link still fits the 2,083 characters that old clients take
TOKEN_CHARS_MAX = 2000  # an address of 254 and a category of 100 characters need about 600, such a target 1,950
_ATTEMPT = struct.Struct(">16sH")  # a delivery's id and the number of an attempt


class BadToken(ValueError):
    """Not a token of ours, or one that was altered"""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one link ends: email of one category to one address."""

    tenant_id: int
    channel: str
    address: str
    category: str


@dataclass(frozen=True, slots=True)
class SentAttempt:
    """The attempt whose message carried a token: whoever shows it was given that very message (I10)."""

    delivery_id: UUID
    attempt_no: int


@dataclass(frozen=True, slots=True)
class TrackedLink:
    """A link of a message, and where it leads."""

    attempt: SentAttempt
    url: str


# Unsubscribe links ---------------------------------------------------------------------------------------------------


def sign(secret: bytes, subscription: Subscription) -> str:
    """The token for a link, of characters that need no quoting in a URL."""
    return _seal(secret, UNSUBSCRIBE, json.dumps(astuple(subscription), separators=(",", ":")).encode())


def verify(secret: bytes, token: str) -> Subscription:
    """The subscription a token was signed for. Raises BadToken."""
    payload = _open(secret, UNSUBSCRIBE, token)
    try:
        return Subscription(*json.loads(payload))
    except (ValueError, TypeError) as exc:
        raise BadToken("signed, but not a subscription") from exc


def unsubscribe_headers(public_url: str, token: str) -> dict[str, str]:
    """The two headers of RFC 8058. Its URI must be https for mail clients to show their button, so a plain
    ``public_url`` is of use on one's own machine only."""
    return {
        "List-Unsubscribe": f"<{public_url.rstrip('/')}/u/{token}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }


# Receipts, opens, clicks ---------------------------------------------------------------------------------------------


def receipt_token(secret: bytes, delivery_id: UUID, attempt_no: int) -> str:
    """What a push carries, 70 characters: with it the device says that it came, was opened or dismissed (R-109)."""
    return _seal(secret, RECEIPT, _ATTEMPT.pack(delivery_id.bytes, attempt_no))


def read_receipt(secret: bytes, token: str) -> SentAttempt:
    """Raises BadToken."""
    return _attempt(_open(secret, RECEIPT, token))


def open_url(secret: bytes, public_url: str, delivery_id: UUID, attempt_no: int) -> str:
    """The address of the pixel that tells of an open (R-189)."""
    token = _seal(secret, OPEN, _ATTEMPT.pack(delivery_id.bytes, attempt_no))
    return f"{public_url.rstrip('/')}/o/{token}.gif"


def read_open(secret: bytes, token: str) -> SentAttempt:
    """Raises BadToken."""
    return _attempt(_open(secret, OPEN, token))


def click_url(secret: bytes, public_url: str, delivery_id: UUID, attempt_no: int, url: str) -> str:
    """A link that tells of the click and leads on to ``url``, and nowhere else (R-190).

    Raises ValueError for what is no plain http(s) URL of at most TARGET_CHARS_MAX characters; ``engagement`` makes
    such URLs of a document's links.
    """
    if not is_target(url):
        raise ValueError("the target of a link must be an absolute http(s) URL of printable ASCII")
    token = _seal(secret, CLICK, _ATTEMPT.pack(delivery_id.bytes, attempt_no) + url.encode())
    return f"{public_url.rstrip('/')}/c/{token}"


def read_click(secret: bytes, token: str) -> TrackedLink:
    """Raises BadToken."""
    payload = _open(secret, CLICK, token)
    attempt = _attempt(payload[: _ATTEMPT.size])
    url = payload[_ATTEMPT.size :].decode("ascii", "replace")
    if not is_target(url):
        raise BadToken("signed, but not a link")
    return TrackedLink(attempt, url)


def is_target(url: str) -> bool:
    """Whether it may stand in a Location header: nothing in it can end the header or begin another scheme."""
    return (
        url.startswith(("https://", "http://"))
        and len(url) <= TARGET_CHARS_MAX
        and all("!" <= char <= "~" for char in url)
    )


def _attempt(payload: bytes) -> SentAttempt:
    try:
        delivery, attempt_no = _ATTEMPT.unpack(payload)
    except struct.error as exc:
        raise BadToken("signed, but not an attempt") from exc
    return SentAttempt(UUID(bytes=delivery), attempt_no)


# Sealing -------------------------------------------------------------------------------------------------------------


def _seal(secret: bytes, purpose: bytes, payload: bytes) -> str:
    signed = f"{VERSION}.{_encode(payload)}"
    return f"{signed}.{_signature(secret, purpose, signed)}"


def _open(secret: bytes, purpose: bytes, token: str) -> bytes:
    """The payload that was sealed for this purpose. Raises BadToken."""
    if len(token) > TOKEN_CHARS_MAX or not token.isascii() or token.count(".") != 2:
        raise BadToken("not a token of ours")
    signed, _, signature = token.rpartition(".")
    if not hmac.compare_digest(signature, _signature(secret, purpose, signed)):
        raise BadToken("the signature is wrong")
    version, _, payload = signed.partition(".")
    if version != VERSION:
        raise BadToken("a version this release does not know")
    try:
        return _decode(payload)
    except binascii.Error as exc:
        raise BadToken("signed, but not base64url") from exc


def _signature(secret: bytes, purpose: bytes, signed: str) -> str:
    return _encode(hmac.digest(secret, purpose + signed.encode(), hashlib.sha256))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
