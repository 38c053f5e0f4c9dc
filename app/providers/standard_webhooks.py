"""Standard Webhooks: one event, signed, to one merchant's endpoint (R-023, R-024).

Source: the Standard Webhooks specification. What shaped this file:

- ``webhook-id`` is the same on every attempt and every replay, and receivers drop copies by it. So an attempt of
  unknown outcome is simply made again: that is the designed resolution.
- Every secret signs while one is rotated out for another, each with the scheme its prefix names.
- Only 2xx is success. A 410 asks us to stop; anything else may be mended by the merchant's next deployment, so it is
  tried again over days. Throttling concerns one endpoint: it never pauses the others.
- What a merchant answers is not ours to keep: only its status is.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.domain.models import Channel, Outcome, OutcomeKind
from app.errors import FieldError, InvalidFields
from app.providers.base import Capabilities, EndpointMessage, Provider, ProviderRequest, ProviderResponse, SendContext
from app.providers.reading import retry_after

Algorithm = Literal["hmac-sha256", "ed25519"]

SYMMETRIC, PRIVATE, PUBLIC = "whsec_", "whsk_", "whpk_"
SECRET_BYTES: Final = 32  # the specification allows 24 to 64; an ed25519 key has 32
SYMMETRIC_BYTES: Final = range(24, 65)
GONE: Final = 410
TOO_MANY: Final = 429

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")  # a dot would divide the signed content elsewhere


@dataclass(frozen=True, slots=True)
class StandardWebhooksAccount:
    """Nothing to say: each endpoint has an address and secrets of its own."""


class StandardWebhooks(Provider[EndpointMessage]):
    """Signed events to merchants' endpoints, behind the Provider protocol."""

    name: ClassVar[str] = "standard-webhooks"
    capabilities = Capabilities(
        channel=Channel.WEBHOOK,
        confirms_delivery=True,
        can_look_up=False,
        accepts_client_id=True,
        transport="guarded",
        breaks=False,
        resend_is_safe=True,
        acceptance_is_delivery=True,
    )

    def __init__(self, account: StandardWebhooksAccount) -> None:
        self.account = account

    def build(self, message: EndpointMessage, context: SendContext) -> ProviderRequest:
        """The signed request. Raises InvalidFields for an id or a secret that cannot be used."""
        if not _ID.fullmatch(message.event_id):
            raise InvalidFields(FieldError("event_id", "must be letters, digits, - and _"))
        if not message.secrets:
            raise InvalidFields(FieldError("secrets", "an endpoint needs one to sign with"))
        body = _payload(message)
        timestamp = str(int(context.now.timestamp()))
        signed = f"{message.event_id}.{timestamp}.".encode() + body
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Landed-Webhooks",
            "webhook-id": message.event_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(sign(secret, signed) for secret in message.secrets),
        }
        return ProviderRequest("POST", message.url, headers, body)

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """2xx: the merchant has it. Everything else was not taken."""
        status = response.status
        detail = f"HTTP {status}"
        if 200 <= status < 300:
            return Outcome(OutcomeKind.ACCEPTED, detail, status)
        if status == GONE:
            return Outcome(OutcomeKind.RECIPIENT_INVALID, detail, status, reason="gone")
        wait = retry_after(response.headers, now)
        kind = OutcomeKind.RATE_LIMITED if status == TOO_MANY else OutcomeKind.TRANSIENT
        return Outcome(kind, detail, status, retry_after_seconds=wait)


def _payload(message: EndpointMessage) -> bytes:
    """The bytes that are signed, and sent."""
    document: dict[str, Any] = {
        "type": message.event_type,
        "timestamp": message.occurred_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": dict(message.data),
    }
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidFields(FieldError("data", "must be a JSON object")) from error


# -- secrets -------------------------------------------------------------------------------------------------


def new_secret(algorithm: Algorithm) -> str:
    """A secret that nobody has had before: ``whsec_`` to share with the endpoint's owner, ``whsk_`` to keep."""
    prefix = SYMMETRIC if algorithm == "hmac-sha256" else PRIVATE
    return prefix + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def algorithm_of(secret: str) -> Algorithm:
    return "ed25519" if secret.startswith(PRIVATE) else "hmac-sha256"


def public_key(secret: str) -> str | None:
    """What a receiver verifies with, if it is not the secret itself."""
    if algorithm_of(secret) != "ed25519":
        return None
    return PUBLIC + b64encode(_private(secret).public_key().public_bytes_raw()).decode()


def sign(secret: str, content: bytes) -> str:
    """One entry of ``webhook-signature``. Raises InvalidFields when the secret is none."""
    if algorithm_of(secret) == "ed25519":
        return "v1a," + b64encode(_private(secret).sign(content)).decode()
    key = _bytes_of(secret, SYMMETRIC)
    if len(key) not in SYMMETRIC_BYTES:
        raise _unusable()
    return "v1," + b64encode(hmac.digest(key, content, "sha256")).decode()


def _private(secret: str) -> Ed25519PrivateKey:
    key = _bytes_of(secret, PRIVATE)
    if len(key) != SECRET_BYTES:
        raise _unusable()
    return Ed25519PrivateKey.from_private_bytes(key)


def _bytes_of(secret: str, prefix: str) -> bytes:
    try:
        if not secret.startswith(prefix):
            raise ValueError
        return b64decode(secret.removeprefix(prefix), validate=True)
    except ValueError:
        raise _unusable() from None


def _unusable() -> InvalidFields:
    return InvalidFields(FieldError("secrets", "must be whsec_ or whsk_ and a key of the right length in base64"))
