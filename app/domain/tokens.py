"""The token in an unsubscribe link (RFC 8058): who opts out of what, signed so that nobody else can.

``1.<payload>.<signature>``: a version, the subscription as base64url JSON, and HMAC-SHA256 over both. It
never expires: a link in an old email must still work. It carries the address itself, because the delivery it
went out with is dropped before that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import astuple, dataclass

VERSION = "1"
PURPOSE = b"landed unsubscribe "  # the same secret may come to sign other things
TOKEN_CHARS_MAX = 2000  # an address of 254 and a category of 100 characters need about 600


class BadToken(ValueError):
    """Not a token of ours, or one that was altered"""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one link ends: email of one category to one address."""

    tenant_id: int
    channel: str
    address: str
    category: str


def sign(secret: bytes, subscription: Subscription) -> str:
    """The token for a link, of characters that need no quoting in a URL."""
    payload = _encode(json.dumps(astuple(subscription), separators=(",", ":")).encode())
    signed = f"{VERSION}.{payload}"
    return f"{signed}.{_signature(secret, signed)}"


def verify(secret: bytes, token: str) -> Subscription:
    """The subscription a token was signed for. Raises BadToken."""
    if len(token) > TOKEN_CHARS_MAX or not token.isascii() or token.count(".") != 2:
        raise BadToken("not an unsubscribe token")
    signed, _, signature = token.rpartition(".")
    if not hmac.compare_digest(signature, _signature(secret, signed)):
        raise BadToken("the signature is wrong")
    version, _, payload = signed.partition(".")
    if version != VERSION:
        raise BadToken("a version this release does not know")
    try:
        return Subscription(*json.loads(_decode(payload)))
    except (binascii.Error, ValueError, TypeError) as exc:
        raise BadToken("signed, but not a subscription") from exc


def unsubscribe_headers(public_url: str, token: str) -> dict[str, str]:
    """The two headers of RFC 8058. Its URI must be https for mail clients to show their button, so a plain
    ``public_url`` is of use on one's own machine only."""
    return {
        "List-Unsubscribe": f"<{public_url.rstrip('/')}/u/{token}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }


def _signature(secret: bytes, signed: str) -> str:
    return _encode(hmac.digest(secret, PURPOSE + signed.encode(), hashlib.sha256))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
