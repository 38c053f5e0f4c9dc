"""What the SendGrid account is set up with, and the key that its webhooks are signed with."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.sandbox.config import setting

#: Order of the group of P-256 (SP 800-186, section 3.2.1.3).
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True, kw_only=True)
class SendGridSettings:
    api_key: str = setting("SG.sandbox-api-key", "Key that callers of SendGrid must present.", secret=True)
    webhook_secret: str = setting(
        "sandbox-webhook-secret",
        "Any words; the key that SendGrid's webhooks are signed with is made of them.",
        secret=True,
    )


def private_key(secret: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key that a secret stands for: the same words make the same key, so a restart changes nothing."""
    number = int.from_bytes(hashlib.sha512(secret.encode()).digest())
    return ec.derive_private_key(number % (_ORDER - 1) + 1, ec.SECP256R1())


def public_key(secret: str) -> str:
    """What SendGrid shows as the verification key: base64 of the DER of the SubjectPublicKeyInfo."""
    der = (
        private_key(secret)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return base64.b64encode(der).decode()
