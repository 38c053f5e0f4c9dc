"""Messages of Amazon SNS over HTTP: whose they are, and what they ask for.

Sources: the SNS Developer Guide ("Verifying the signatures of Amazon SNS messages", "HTTP/HTTPS message and JSON
formats", "Message delivery retries") and AWS's own validators. What shaped this file:

- Anybody with an AWS account can have SNS sign a message and post it here. A valid signature proves that SNS sent it;
  only the list of our topics proves that it is for us.
- The address of the certificate is in the message. It is Amazon's own address or it is not fetched at all.
- SNS serves the certificate alone, without the intermediate that issued it, so its chain cannot be followed to a public
  CA from what is served. It is fetched over TLS from the name it is then checked to bear; whoever wants the chain
  followed as well gives the CAs and intermediates to trust.
- SNS takes a 4xx for "delivered" and never comes again. So 4xx is for what would be no better the next time; what may
  be, is answered 503.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar, Final

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from app.errors import WebhookRefused
from app.providers.base import ProviderRequest, WebhookRequest
from app.providers.reading import at, document, moment, text

log = structlog.get_logger()

MAX_AGE_SECONDS: Final = 3600.0 + 300.0  # SNS retries for an hour at the most; five minutes for the clocks
FUTURE_SECONDS: Final = 300.0

MALFORMED_STATUS: Final = 400
FORGED_STATUS: Final = 403
RETRY_STATUS: Final = 503  # SNS comes again after 5xx, and only after 5xx

NOTIFICATION: Final = "Notification"
SUBSCRIPTION: Final = "SubscriptionConfirmation"
UNSUBSCRIPTION: Final = "UnsubscribeConfirmation"

#: How a line of plain text begins by which a service says that it may publish to the topic.
_SETUP_WORDS: Final = "Successfully validated SNS topic"

#: What is signed of each type, in the order it is signed. ``Subject`` counts only where there is one.
_CONFIRMATION_KEYS: Final = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
_SIGNED: Final[Mapping[str, tuple[str, ...]]] = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    SUBSCRIPTION: _CONFIRMATION_KEYS,
    UNSUBSCRIPTION: _CONFIRMATION_KEYS,
}
_OPTIONAL: Final = frozenset({"Subject"})
_HASHES: Final[Mapping[str, type[hashes.SHA1] | type[hashes.SHA256]]] = {"1": hashes.SHA1, "2": hashes.SHA256}

_HEADERS: Final = {
    "x-amz-sns-message-type": "Type",
    "x-amz-sns-message-id": "MessageId",
    "x-amz-sns-topic-arn": "TopicArn",
}

_ORIGIN: Final = r"https://sns\.[a-zA-Z0-9-]{3,}\.amazonaws\.com(?:\.cn)?"
_CERTIFICATE_PATH: Final = r"/(?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+\.pem"
_SUBSCRIBE_PATH: Final = r"/[A-Za-z0-9_/-]*\?[A-Za-z0-9._~:/?@!$&'()*+,;=%-]+"
#: Amazon's certificates name ``sns.amazonaws.com``, not the region they are served from.
_CERTIFICATE_NAME: Final = re.compile(r"sns(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?")
_TOPIC_ARN: Final = re.compile(r"arn:aws(-[a-z]+)*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")


@dataclass(frozen=True, slots=True)
class SnsTrust:
    """Whom to believe. Raises ValueError for what could not work.

    topic_arns: our topics; nothing else is taken, however well signed.
    base_url: in place of Amazon's own hosts for certificates and confirmations; for a sandbox.
    ca: certificates (PEM) to follow the signing certificate's chain to: roots, and the intermediates SNS does not send.
    trust_any_certificate: believe whatever certificate is served. Only with ``base_url``: a sandbox signs its own.
    allow_signature_v1: take SHA-1 signatures too, which are SNS's default for a topic.
    max_age_seconds: how old a message may be.
    """

    topic_arns: Sequence[str]
    base_url: str | None = None
    ca: str | None = field(default=None, repr=False)
    trust_any_certificate: bool = False
    allow_signature_v1: bool = False
    max_age_seconds: float = MAX_AGE_SECONDS

    def __post_init__(self) -> None:
        if not self.topic_arns:
            raise ValueError("topic_arns must name the topics that events come from")
        for arn in self.topic_arns:
            if not _TOPIC_ARN.fullmatch(arn):
                raise ValueError(f"topic_arns: {arn!r} is not the ARN of an SNS topic")
        if self.trust_any_certificate and self.base_url is None:
            raise ValueError("trust_any_certificate needs sns_base_url: Amazon's certificates are checked")
        if self.ca is not None and not _certificates(self.ca.encode()):
            raise ValueError("sns_ca must hold certificates in PEM form")

    @property
    def versions(self) -> frozenset[str]:
        return frozenset({"1", "2"}) if self.allow_signature_v1 else frozenset({"2"})


@dataclass(frozen=True, slots=True)
class SnsMessage:
    """One message as it was posted: every field that is signed is a string, and there is a signature."""

    fields: Mapping[str, Any] = field(repr=False)

    def __getitem__(self, name: str) -> str:
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""

    @property
    def type(self) -> str:
        return self["Type"]

    @property
    def timestamp(self) -> datetime | None:
        return moment(self["Timestamp"])

    @property
    def signed(self) -> bytes:
        """The string to sign: each key and each value on a line of its own."""
        keys = (key for key in _SIGNED[self.type] if key not in _OPTIONAL or self.fields.get(key) is not None)
        return "".join(f"{key}\n{self[key]}\n" for key in keys).encode("utf-8", "surrogatepass")


def read(request: WebhookRequest) -> SnsMessage:
    """The message in a request. Raises WebhookRefused for what no SNS message looks like."""
    if request.headers.get("x-amz-sns-rawdelivery", "").lower() == "true":
        raise malformed("raw message delivery is on, which drops the signature: turn it off")
    fields = document(request.body)
    signed = _SIGNED.get(text(at(fields, "Type"), 40))
    if signed is None:
        raise malformed("not a message of SNS")
    needed = (*signed, "SignatureVersion", "Signature", "SigningCertURL")
    for key in needed:
        value = fields.get(key)
        if not isinstance(value, str) and not (key in _OPTIONAL and value is None):
            raise malformed(f"no {key}")
    return SnsMessage(fields)


def check_ours(message: SnsMessage, headers: Mapping[str, str], trust: SnsTrust) -> None:
    """What costs nothing to know: is it of a topic of ours, and signed in a way we take? Raises WebhookRefused."""
    for header, key in _HEADERS.items():
        if headers.get(header, message[key]) != message[key]:
            raise _forged(f"the header and the body differ in {key}")
    if message["TopicArn"] not in trust.topic_arns:
        raise _forged("the topic is not one of topic_arns")
    if message["SignatureVersion"] not in trust.versions:
        raise _forged("not signed with SignatureVersion 2: set that attribute of the topic, or allow_signature_v1")


def certificate_url(message: SnsMessage, trust: SnsTrust) -> str:
    """Where the signing certificate is. Raises WebhookRefused for any address but Amazon's (or the sandbox's)."""
    return _own_address(message, "SigningCertURL", _CERTIFICATE_PATH, trust)


def subscribe_url(message: SnsMessage, trust: SnsTrust) -> str:
    """What to visit to confirm a subscription. Raises WebhookRefused for any address but Amazon's."""
    return _own_address(message, "SubscribeURL", _SUBSCRIBE_PATH, trust)


def _own_address(message: SnsMessage, key: str, path: str, trust: SnsTrust) -> str:
    """The address is matched whole, character by character: no parser may read another host in it than this one."""
    origin = _ORIGIN if trust.base_url is None else re.escape(trust.base_url)
    if not re.fullmatch(origin + path, message[key]):
        raise _forged(f"{key} is not an address of SNS")
    return message[key]


def verify(message: SnsMessage, trust: SnsTrust, pem: bytes | None, now: datetime) -> None:
    """Raises WebhookRefused unless the certificate is Amazon's, signed this, and did so lately."""
    if not pem:
        raise _again("the signing certificate could not be had")
    certificates = _certificates(pem)
    if not certificates:
        raise _again("what was served is not a certificate")
    if not trust.trust_any_certificate:
        _check_certificate(certificates, trust, now)
    _check_signature(message, certificates[0])
    _check_age(message, trust, now)


def _check_certificate(certificates: Sequence[x509.Certificate], trust: SnsTrust, now: datetime) -> None:
    leaf = certificates[0]
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise _forged("the signing certificate is not valid at this time")
    name = next((name for name in _names(leaf) if _CERTIFICATE_NAME.fullmatch(name)), None)
    if name is None:
        raise _forged("the signing certificate is not for sns.amazonaws.com")
    if trust.ca is not None:
        _check_chain(certificates, _certificates(trust.ca.encode()), name, now)


def _check_chain(
    certificates: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], name: str, now: datetime
) -> None:
    """Follows the chain to a certificate that is trusted (RFC 5280)."""
    builder = PolicyBuilder().store(Store(list(anchors))).time(now)
    try:
        builder.build_server_verifier(x509.DNSName(name)).verify(certificates[0], list(certificates[1:]))
    except VerificationError as error:
        raise _forged("the signing certificate's chain leads to none that is trusted") from error


def _check_signature(message: SnsMessage, certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise _forged("the signing certificate has no RSA key")
    try:
        signature = b64decode(message["Signature"], validate=True)
        key.verify(signature, message.signed, padding.PKCS1v15(), _HASHES[message["SignatureVersion"]]())
    except (binascii.Error, ValueError, InvalidSignature) as error:
        raise _forged("the signature is not that of SNS") from error


def _check_age(message: SnsMessage, trust: SnsTrust, now: datetime) -> None:
    timestamp = message.timestamp
    if timestamp is None:
        raise malformed("no Timestamp")
    age = (now - timestamp).total_seconds()
    if not -FUTURE_SECONDS <= age <= trust.max_age_seconds:
        raise WebhookRefused(f"sent {age:.0f} s ago", reason="stale", status=MALFORMED_STATUS)


@lru_cache(maxsize=16)
def _certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        return ()


def _names(certificate: x509.Certificate) -> list[str]:
    """The DNS names of a certificate, then its common names."""
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = list(alternative.get_values_for_type(x509.DNSName))
    except (x509.ExtensionNotFound, ValueError):
        names = []
    return names + [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def malformed(why: str) -> WebhookRefused:
    return WebhookRefused(why, reason="malformed", status=MALFORMED_STATUS)


def _forged(why: str) -> WebhookRefused:
    return WebhookRefused(why, reason="forged", status=FORGED_STATUS)


def _again(why: str) -> WebhookRefused:
    return WebhookRefused(why, reason="unverifiable", status=RETRY_STATUS)


# -- for adapters ------------------------------------------------------------------------------------------------------


class Subscriber:
    """A base beside ``Provider`` for an adapter whose events come through topics of SNS; it sets ``trust``."""

    name: ClassVar[str]
    trust: SnsTrust

    def key_url(self, request: WebhookRequest) -> str | None:
        """Where the certificate is that signs this message, once it is known to be of a topic of ours."""
        message = read(request)
        check_ours(message, request.headers, self.trust)
        return certificate_url(message, self.trust)

    def verify(self, request: WebhookRequest, now: datetime, key: bytes | None = None) -> None:
        """Refuses what SNS did not sign for a topic of ours. ``key``: the certificate that ``key_url`` leads to."""
        message = read(request)
        check_ours(message, request.headers, self.trust)
        certificate_url(message, self.trust)
        if message.type == SUBSCRIPTION:
            subscribe_url(message, self.trust)
        verify(message, self.trust, key, now)

    def confirmation(self, request: WebhookRequest) -> ProviderRequest | None:
        """The visit that confirms a subscription; SNS sends no events before."""
        message = read(request)
        if message.type != SUBSCRIPTION:
            return None
        return ProviderRequest("GET", subscribe_url(message, self.trust), {})

    def notification(self, request: WebhookRequest) -> SnsMessage | None:
        """The notification in a request; None for what SNS, or the service behind the topic, says of the set-up."""
        message = read(request)
        if message.type == UNSUBSCRIPTION:
            # From here on no event comes, and nothing else would tell: somebody has to subscribe again.
            log.error("subscription_ended", provider=self.name, topic=message["TopicArn"])
        if message.type != NOTIFICATION or message["Message"].startswith(_SETUP_WORDS):
            return None
        return message
