"""One SNS topic with one HTTP subscriber: messages signed under a certificate that the sandbox serves itself."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final
from urllib.parse import urlencode
from uuid import NAMESPACE_URL, uuid5

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from app.sandbox.emails import iso_time
from app.sandbox.protocol import STALE_SECONDS, Forgery, Outgoing

_KEY_BITS: Final = 2048
#: What is signed of each type of message, in this order.
_SIGNED: Final = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
#: A topic of somebody else's account: SNS signs for anybody.
_FOREIGN_TOPIC: Final = "arn:aws:sns:eu-west-1:999999999999:not-yours"


class Topic:
    """Signs what it says with a key of its own, SignatureVersion 2. ``url``: where its certificate is served."""

    def __init__(self, arn: str, url: str) -> None:
        self.arn = arn
        self._url = url

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)

    @cached_property
    def certificate(self) -> bytes:
        """PEM, self-signed: nobody but the sandbox vouches for it."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=365))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("sns.amazonaws.com")]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    @cached_property
    def certificate_name(self) -> str:
        digest = hashlib.sha256(self.certificate).hexdigest()[:32]
        return f"SimpleNotificationService-{digest}.pem"

    def notification(
        self, message: str, *, event_id: str, forgery: Forgery | None = None, subject: str | None = None
    ) -> Outgoing:
        """``message`` as SNS posts it; ``forgery`` makes a lie of it. The same event keeps its MessageId."""
        arn = _FOREIGN_TOPIC if forgery is Forgery.FOREIGN else self.arn
        fields = {
            "Type": "Notification",
            "MessageId": str(uuid5(NAMESPACE_URL, event_id)),
            "TopicArn": arn,
            **({"Subject": subject} if subject else {}),
            "Message": message,
            "Timestamp": iso_time(time.time() - (STALE_SECONDS if forgery is Forgery.STALE else 0)),
        }
        signed = self._sign(fields, genuine=forgery is not Forgery.BAD_SIGNATURE)
        subscription = f"{arn}:{uuid5(NAMESPACE_URL, arn)}"
        query = urlencode({"Action": "Unsubscribe", "SubscriptionArn": subscription})
        return _outgoing(signed | {"UnsubscribeURL": f"{self._url}/?{query}"}, subscription)

    def confirmation(self, token: str) -> Outgoing:
        """The request to confirm that the topic's messages are wanted."""
        query = urlencode({"Action": "ConfirmSubscription", "TopicArn": self.arn, "Token": token})
        fields = {
            "Type": "SubscriptionConfirmation",
            "MessageId": str(uuid5(NAMESPACE_URL, token)),
            "Token": token,
            "TopicArn": self.arn,
            "Message": f"You have chosen to subscribe to the topic {self.arn}.\nTo confirm the subscription, visit the "
            "SubscribeURL included in this message.",
            "SubscribeURL": f"{self._url}/?{query}",
            "Timestamp": iso_time(time.time()),
        }
        return _outgoing(self._sign(fields, genuine=True), None)

    def _sign(self, fields: Mapping[str, str], *, genuine: bool) -> dict[str, str]:
        key = self._key if genuine else rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
        text = "".join(f"{name}\n{fields[name]}\n" for name in _SIGNED[fields["Type"]] if name in fields)
        signature = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return {
            **fields,
            "SignatureVersion": "2",
            "Signature": base64.b64encode(signature).decode(),
            "SigningCertURL": f"{self._url}/{self.certificate_name}",
        }


def _outgoing(fields: Mapping[str, str], subscription: str | None) -> Outgoing:
    headers = {
        "Content-Type": "text/plain; charset=UTF-8",
        "User-Agent": "Amazon Simple Notification Service Agent",
        "x-amz-sns-message-type": fields["Type"],
        "x-amz-sns-message-id": fields["MessageId"],
        "x-amz-sns-topic-arn": fields["TopicArn"],
        **({"x-amz-sns-subscription-arn": subscription} if subscription else {}),
    }
    return Outgoing(headers, msgspec.json.encode(fields))
