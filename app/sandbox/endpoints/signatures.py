"""Standard Webhooks as their receiver checks them (the specification, "Verifying signatures")."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TOLERANCE_SECONDS: Final = 300
SYMMETRIC: Final = "whsec_"
PUBLIC: Final = "whpk_"
MIN_SECRET: Final = 24
MAX_SECRET: Final = 64


class Unverified(Exception):
    """A webhook that is not what it claims to be"""


def check_secret(secret: str) -> None:
    """Raises ValueError for what no webhook can be verified with."""
    if secret.startswith(SYMMETRIC) and MIN_SECRET <= len(_decoded(secret, SYMMETRIC)) <= MAX_SECRET:
        return
    if secret.startswith(PUBLIC) and len(_decoded(secret, PUBLIC)) == 32:
        return
    raise ValueError(
        f"a secret must be {SYMMETRIC} and {MIN_SECRET} to {MAX_SECRET} bytes in base64, or {PUBLIC} and a public key"
    )


def verify(headers: Mapping[str, str], body: bytes, secrets: Iterable[str], now: float) -> None:
    """Whether one of the signatures was made with one of the secrets, and lately. Raises ``Unverified``."""
    webhook_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "").split()
    if not webhook_id or "." in webhook_id or not timestamp.isdecimal() or not signatures:
        raise Unverified("webhook-id, webhook-timestamp and webhook-signature are needed")
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise Unverified("webhook-timestamp is too far from now")
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    if not any(_is_by(secret, signature, signed) for secret in secrets for signature in signatures):
        raise Unverified("no signature is right")


def _is_by(secret: str, signature: str, signed: bytes) -> bool:
    version, _, encoded = signature.partition(",")
    try:
        given = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    if version == "v1" and secret.startswith(SYMMETRIC):
        expected = hmac.new(_decoded(secret, SYMMETRIC), signed, hashlib.sha256).digest()
        return hmac.compare_digest(given, expected)
    if version == "v1a" and secret.startswith(PUBLIC):
        try:
            Ed25519PublicKey.from_public_bytes(_decoded(secret, PUBLIC)).verify(given, signed)
        except InvalidSignature:
            return False
        return True
    return False


def _decoded(secret: str, prefix: str) -> bytes:
    """Raises ValueError."""
    return base64.b64decode(secret.removeprefix(prefix), validate=True)
