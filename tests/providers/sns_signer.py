"""A stand-in for the signing side of Amazon SNS: certificates as Amazon issues them, and messages signed with them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.messages import NOW

TOPIC = "arn:aws:sns:eu-west-1:123456789012:ses-events"
HOST = "https://sns.eu-west-1.amazonaws.com"
CERTIFICATE_URL = f"{HOST}/SimpleNotificationService-9c6465fa7f48f5cacd23014631ec1136.pem"
SUBSCRIBE_URL = f"{HOST}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=2336412f37"


@dataclass(frozen=True)
class Issued:
    """A certificate and the key that belongs to it."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@lru_cache
def issue(
    name: str, issuer: Issued | None = None, *, authority: bool = False, valid_for: timedelta = timedelta(days=365)
) -> Issued:
    """A certificate for ``name`` that began a month before NOW; signed by itself without an issuer."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    begin = NOW - timedelta(days=30)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + valid_for)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(authority), critical=True)
    )
    signer = issuer or Issued(None, key)  # type: ignore[arg-type]
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False
    )
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return Issued(builder.sign(signer.key, hashes.SHA256()), key)


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def amazon() -> Issued:
    """What SNS signs with: one certificate, whose intermediate it does not send."""
    return issue("sns.amazonaws.com", intermediate())


def root() -> Issued:
    return issue("Amazon Root CA 1", authority=True)


def intermediate() -> Issued:
    return issue("Amazon RSA 2048 M01", root(), authority=True)


def signed(
    message: Any = "Hello", *, by: Issued | None = None, version: str = "2", when: datetime = NOW, **changes: Any
) -> dict[str, Any]:
    """An SNS notification or confirmation as it is posted. ``changes`` are made before it is signed; None removes."""
    fields: dict[str, Any] = {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Message": message if isinstance(message, str) else json.dumps(message),
        "Timestamp": f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.655Z",
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE_URL,
        **changes,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    return fields | {"Signature": signature(fields, by or amazon(), version)}


def confirmation(kind: str = "SubscriptionConfirmation", **changes: Any) -> dict[str, Any]:
    given = {
        "Type": kind,
        "Message": "You have chosen to subscribe",
        "Token": "2336412f37",
        "SubscribeURL": SUBSCRIBE_URL,
    }
    return signed(**given | changes)


def signature(fields: Mapping[str, Any], by: Issued, version: str) -> str:
    """As the SNS Developer Guide says, written apart from the code under test."""
    if fields["Type"] == "Notification":
        keys = ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"]
    else:
        keys = ["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    lines = [line for key in keys if key in fields for line in (key, str(fields[key]))]
    algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()  # noqa: S303 - what SNS signs with by default
    digest = by.key.sign("".join(f"{line}\n" for line in lines).encode(), padding.PKCS1v15(), algorithm)
    return b64encode(digest).decode()
