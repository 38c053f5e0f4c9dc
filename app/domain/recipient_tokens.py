"""The token of one recipient: with it a browser or an app reads its own inbox and registers its own device.

A JWT (RFC 7519) signed with HMAC-SHA256 and the tenant's secret, whoever mints it: we, or the tenant, who need not ask.

    {"iss": <tenant>, "sub": <recipient id>, "aud": "landed", "iat": <seconds>, "exp": <seconds>}

The algorithm is not the token's to choose (RFC 8725, 3.1), and every claim above is required.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
from jwt.types import Options

ALGORITHM = "HS256"
AUDIENCE = "landed"
CLAIMS = ("iss", "sub", "aud", "iat", "exp")
SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
TOKEN_CHARS_MAX = 4096  # a recipient id of 200 characters and a tenant's name need about 1,500
RECIPIENT_ID_CHARS_MAX = 200
TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
MOMENT_MAX = 2**36  # some 2,000 years on; datetime ends later
CLOCK_SKEW_SECONDS = 60  # how far ahead of ours the clock of a tenant's server may be
# Of the same length as a real one: what is signed for a tenant that is not there is refused by the same work.
NOBODYS_KEY = "lrs_nobody-signs-with-this-because-no-tenant-has-it"

# PyJWT verifies the signature. The claims are for us to check, so that a genuine token is told what is wrong with it.
_SIGNATURE_ONLY: Options = {
    "verify_aud": False,
    "verify_exp": False,
    "verify_iat": False,
    "verify_iss": False,
    "verify_jti": False,
    "verify_nbf": False,
    "verify_sub": False,
}


class BadToken(ValueError):
    """Not a token of a recipient, or one that is not good now; the message says what would be right"""


@dataclass(frozen=True, slots=True)
class RecipientClaims:
    """What a genuine token says. expires_at: UTC."""

    tenant: str
    recipient_id: str
    expires_at: datetime


def mint(secret: str, *, tenant: str, recipient_id: str, now: datetime, ttl_seconds: int) -> tuple[str, datetime]:
    """A token and when it expires."""
    issued = int(now.timestamp())
    claims = {"iss": tenant, "sub": recipient_id, "aud": AUDIENCE, "iat": issued, "exp": issued + ttl_seconds}
    return jwt.encode(claims, secret, ALGORITHM), datetime.fromtimestamp(issued + ttl_seconds, UTC)


def looks_like_one(text: str) -> bool:
    """Whether this may be a token at all, and is not an API key."""
    return len(text) <= TOKEN_CHARS_MAX and SHAPE.fullmatch(text) is not None


def claimed_tenant(token: str) -> str:
    """The tenant that a token says it is of: only good for looking up its secrets. Raises BadToken."""
    if not looks_like_one(token):
        raise _not_genuine()
    try:
        tenant = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except jwt.InvalidTokenError:
        raise _not_genuine() from None
    if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
        raise _not_genuine()
    return tenant


def verify(
    token: str, secrets: Sequence[str], *, tenant: str, now: datetime, ttl_max_seconds: float
) -> RecipientClaims:
    """What the token says, if one of the tenant's secrets signed it and it is good now. Raises BadToken.

    secrets: none when there is no such tenant; the answer does not tell.
    """
    signed = [claims for secret in secrets or (NOBODYS_KEY,) if (claims := _signed_with(secret, token)) is not None]
    if not signed or not secrets or signed[0].get("iss") != tenant:
        raise _not_genuine()
    claims = signed[0]
    if missing := [name for name in CLAIMS if claims.get(name) is None]:
        raise BadToken(f"the token lacks {', '.join(missing)}; a recipient token has {', '.join(CLAIMS)}")
    if AUDIENCE not in (claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]):
        raise BadToken(f"aud must be {AUDIENCE!r}")
    _check_times(claims, now.timestamp(), ttl_max_seconds)
    return RecipientClaims(tenant, _subject(claims), datetime.fromtimestamp(_moment(claims, "exp"), UTC))


def _signed_with(secret: str, token: str) -> dict[str, Any] | None:
    """The claims, if this secret signed them. PyJWT compares in constant time."""
    try:
        return jwt.decode(token, secret, algorithms=[ALGORITHM], options=_SIGNATURE_ONLY)
    except (jwt.InvalidTokenError, ValueError):
        return None


def _check_times(claims: dict[str, Any], now: float, ttl_max_seconds: float) -> None:
    issued, expires = _moment(claims, "iat"), _moment(claims, "exp")
    if expires <= now:
        raise BadToken("this recipient token has expired: get a new one")
    if max(issued, _moment(claims, "nbf", issued)) > now + CLOCK_SKEW_SECONDS:
        raise BadToken("this recipient token is not good yet: iat and nbf must not be later than now")
    if expires - issued > ttl_max_seconds:
        raise BadToken(f"exp may be at most {ttl_max_seconds:g} seconds after iat")


def _moment(claims: dict[str, Any], name: str, default: float | None = None) -> float:
    """A NumericDate (RFC 7519, section 2), in seconds. Raises BadToken."""
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOMENT_MAX:
        raise BadToken(f"{name} must be a number: seconds since 1970-01-01T00:00:00Z")
    return value


def _subject(claims: dict[str, Any]) -> str:
    """The recipient's id, of what the database can hold. Raises BadToken."""
    id = claims["sub"]
    if not isinstance(id, str) or not 1 <= len(id) <= RECIPIENT_ID_CHARS_MAX or UNSTORABLE.search(id):
        raise BadToken(f"sub must be the recipient's id: a text of 1 to {RECIPIENT_ID_CHARS_MAX} characters")
    return id


def _not_genuine() -> BadToken:
    """One answer for all that is not signed by a tenant of ours, so that it tells nothing of which there are."""
    return BadToken("this is not a recipient token that a tenant of this service signed")
