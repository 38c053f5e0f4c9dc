"""What an adapter is: pure functions between our words and a provider's bytes.

No client, no clock, no retry, no database inside: values in, values out (the sans-I/O way of h11 and
wsproto). Credentials are handed in with the account. Only the transports touch a socket.

An adapter subclasses ``Provider`` and writes the methods its protocol has; the defaults say "it has none".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final, Literal, Protocol, TypeVar
from uuid import UUID

from app.domain.models import Channel, Evidence, Outcome, OutcomeKind, Platform
from app.errors import WebhookRefused

TransportKind = Literal["http", "http2", "smtp", "guarded", "local"]

#: The reason of an UNAUTHORIZED outcome that speaks of this message's sender alone (an address or domain that is not
#: verified, a number that may not send there): whoever sends by another name, or elsewhere, through the same account
#: still may.
SENDER_REFUSED: Final = "sender_refused"

#: The reason of a RATE_LIMITED outcome that speaks of this message's recipient alone: nobody else has to wait.
RECIPIENT_LIMITED: Final = "recipient_limited"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can prove and take.

    confirms_delivery: somebody tells us when the receiving side took the message (the provider, or the device).
    can_look_up: can be asked about one message afterwards.
    lookup_settle_seconds: an absent answer younger than this proves nothing (None: absence never proves).
    lookup_retention_seconds: how long after the send it can still be asked.
    batch_size: messages per call. rate_per_second: documented ceiling, None where it is plan specific.
    transport: how a request travels. ``local`` never leaves the database.
    resend_is_safe: the receiving side drops a second copy by our id, so an unknown outcome may simply be tried again.
    acceptance_is_delivery: an accepted answer comes from the receiving side itself, and so proves that it took it.
    finds_by_content: its list of messages keeps no id of ours, so one of unknown outcome is looked for by its words.
    concurrency_max: calls it takes at once, where fewer than a lane would make.
    takes_tests: takes a message of test mode, without delivering it.
    tracks_engagement: opens and clicks are the provider's to tell; where it cannot, our own pixel and links do.
    breaks: its failures speak against the provider itself; False where each message goes to another receiver
        (merchants' endpoints, chat rooms, browsers' push services, our own inbox), of which one that fails says nothing
        about the rest.
    """

    channel: Channel
    confirms_delivery: bool
    can_look_up: bool
    accepts_client_id: bool
    lookup_settle_seconds: float | None = None
    lookup_retention_seconds: float = 0.0
    batch_size: int = 1
    rate_per_second: float | None = None
    transport: TransportKind = "http"
    resend_is_safe: bool = False
    acceptance_is_delivery: bool = False
    finds_by_content: bool = False
    concurrency_max: int | None = None
    tracks_engagement: bool = False
    takes_tests: bool = False
    breaks: bool = True


# Messages -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What every rendered message says of itself. ``to`` is the delivery's address on its channel."""

    delivery_id: UUID
    attempt_no: int
    notification_id: UUID
    tenant: str
    category: str
    klass: str
    to: str
    expires_at: datetime
    test_mode: bool = False

    @property
    def reference(self) -> str:
        """Our correlation id, derivable from the attempt alone (RELIABILITY B.2)."""
        return reference(self.delivery_id, self.attempt_no)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailMessage(Message):
    """One rendered email. Addresses are validated, headers without CR/LF."""

    sender: str
    subject: str
    html: str | None
    text: str
    reply_to: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    tags: Sequence[str] = ()
    track_opens: bool = False
    track_clicks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SmsMessage(Message):
    """One text message; ``to`` is E.164."""

    text: str


@dataclass(frozen=True, slots=True)
class Device:
    """Where a push goes. ``token``: APNs device token, FCM registration token, or a Web Push endpoint URL.

    environment: which of Apple's gateways made the token. p256dh, auth: a Web Push subscription's keys, base64url.
    """

    id: UUID
    platform: Platform
    token: str = field(repr=False)
    environment: str = "production"
    p256dh: str | None = field(default=None, repr=False)
    auth: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushMessage(Message):
    """One rendered push to one device (R-126); ``to`` is the device's id.

    data: the app's own keys. receipt_token, receipt_url: with them the device says that it came, was opened or was
    dismissed (R-109); ``collapse_id`` is the same for every copy, so that a second one replaces the first (R-086).
    """

    device: Device
    title: str
    body: str
    subtitle: str | None = None
    badge: int | None = None
    sound: str | None = None
    url: str | None = None
    image: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    receipt_token: str = ""
    receipt_url: str | None = None

    @property
    def collapse_id(self) -> str:
        """36 characters: APNs takes 64 bytes, a Web Push topic 32 characters (so without its hyphens: 32)."""
        return str(self.notification_id)

    def landed_data(self) -> dict[str, str]:
        """The keys every payload carries, so that the app can update a tray entry and acknowledge."""
        known = {
            "landed_notification_id": str(self.notification_id),
            "landed_delivery_id": str(self.delivery_id),
            "landed_receipt_token": self.receipt_token,
            "landed_receipt_url": self.receipt_url,
        }
        return {name: value for name, value in known.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointMessage(Message):
    """One event to one registered endpoint, a merchant's or a chat room's; ``to`` is the endpoint's id.

    event_id: the same on every attempt and every replay; the receiver drops copies by it.
    secrets: the current signing secret first, then one that is being rotated out.
    title, text: the words for people, for chat; data: what machines read.
    """

    url: str = field(repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)
    format: str = "standard"
    event_id: str
    event_type: str
    occurred_at: datetime
    data: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    text: str = ""


def reference(delivery_id: UUID, attempt_no: int) -> str:
    return f"{delivery_id}.{attempt_no}"


def parse_reference(text: str) -> tuple[UUID, int] | None:
    """The delivery and attempt of a reference; None for anything else."""
    head, _, tail = text.rpartition(".")
    try:
        return UUID(head), int(tail)
    except ValueError:
        return None


# Calls --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendContext:
    """What a request needs beside the message.

    now: UTC. account: its name in the configuration. webhook_url: where this account's webhooks reach us, None without
    ``api.public_url``. access_token: what ``build_access`` was answered, for providers that have it.
    """

    now: datetime
    account: str
    webhook_url: str | None = None
    access_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """An HTTP request. trust: a CA bundle in place of the system's, for a sandbox with a CA of its own.

    pool: requests of different pools never share a connection (APNs binds one to a team and an environment).
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    timeout_seconds: float = 10.0  # 10 s for email; push adapters say 5
    trust: str | None = None
    pool: str = ""


@dataclass(frozen=True, slots=True)
class SmtpRequest:
    """One message to one recipient over SMTP submission.

    security: ``starttls`` refuses to go on in clear, ``tls`` is implicit TLS, ``none`` is for loopback.
    envelope_id: returned in bounces as Original-Envelope-Id (RFC 3461). receipts: ask for success DSNs too.
    """

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    envelope_from: str
    recipient: str
    message: bytes = field(repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    envelope_id: str | None = None
    receipts: bool = True
    timeout_seconds: float = 10.0
    trust: str | None = None
    local_hostname: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderResponse:
    """status: of HTTP, or an SMTP reply code; then ``headers`` says the ``phase`` it answered and ``body`` its text."""

    status: int
    headers: Mapping[str, str]  # keys lower-case
    body: bytes


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token fetched from the provider, good until ``expires_at``."""

    value: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A webhook as it came. ``url`` is the external one (public_url, path, query), never rebuilt from ``Host``.

    received_at: UTC; for facts whose provider tells no time. It must not become part of an event key: the same fact
    told again arrives at another time.
    """

    method: str
    url: str
    headers: Mapping[str, str]  # keys lower-case
    body: bytes = field(repr=False)
    received_at: datetime


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """What the provider expects in a 2xx."""

    content_type: str
    body: bytes


# Looking up -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AttemptRef:
    """The attempt a lookup asks about. ``content_hash`` is of the rendered content (``app.rendering.types``), None when
    the attempt was never recorded.
    """

    delivery_id: UUID
    attempt_no: int
    opened_at: datetime
    address: str
    provider_message_id: str | None
    content_hash: bytes | None = None

    @property
    def reference(self) -> str:
        return reference(self.delivery_id, self.attempt_no)


class LookupVerdict(StrEnum):
    FOUND = "found"  # evidence follows
    NOT_SENT = "not_sent"  # proven absent: asked after the settle time and inside retention
    TOO_EARLY = "too_early"  # absent, but absence proves nothing yet
    UNANSWERABLE = "unanswerable"  # cannot be settled here: out of retention, or the provider cannot say
    REPEATABLE = "repeatable"  # nobody can say, and sending again under the same id does no harm
    NEVER_LEFT = "never_left"  # what stays in the database did not happen, if it is not there
    UNAVAILABLE = "unavailable"  # the question failed (network, 5xx, auth): ask again later


@dataclass(frozen=True, slots=True)
class Lookup:
    """What one page of an answer says. Evidence of earlier pages stands, whatever the last page says."""

    verdict: LookupVerdict
    evidence: Sequence[Evidence] = ()
    detail: str = ""
    next_request: ProviderRequest | None = None  # another page to read before this verdict counts


def absent(attempt: AttemptRef, capabilities: Capabilities, now: datetime) -> Lookup:
    """What it proves that nothing was found: only where the account says from when on absence means something."""
    age, settle = (now - attempt.opened_at).total_seconds(), capabilities.lookup_settle_seconds
    if age > capabilities.lookup_retention_seconds:
        return Lookup(LookupVerdict.UNANSWERABLE, detail="too long ago for its absence to mean anything")
    if attempt.provider_message_id is not None:
        return Lookup(LookupVerdict.TOO_EARLY, detail="accepted by the provider, no report yet")
    if settle is None or age < settle:
        return Lookup(LookupVerdict.TOO_EARLY, detail="not listed yet")
    return Lookup(LookupVerdict.NOT_SENT, detail="not listed")


# The protocol -------------------------------------------------------------------------------------------------------

M = TypeVar("M", bound=Message, contravariant=True)


class Provider(Protocol[M]):
    """One provider account behind its adapter: every method is a function of its arguments and the account."""

    name: ClassVar[str]
    capabilities: Capabilities
    webhook_answer: ClassVar[WebhookAnswer | None] = None

    def build(self, message: M, context: SendContext) -> ProviderRequest | SmtpRequest:
        """The request that sends it. Raises InvalidFields for what must never leave, such as CR/LF in a header."""
        ...

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer to a send means."""
        ...

    def build_access(self, now: datetime) -> ProviderRequest | None:
        """The request that fetches an access token (OAuth); None for providers without one."""
        return None

    def interpret_access(self, response: ProviderResponse, now: datetime) -> AccessToken | Outcome:
        """The token, or why there is none (UNAUTHORIZED, TRANSIENT, RATE_LIMITED)."""
        return Outcome(OutcomeKind.REJECTED, "this provider has no access tokens", response.status)

    def key_url(self, request: WebhookRequest) -> str | None:
        """Where the key that signs this webhook is to be fetched, None when none is. Raises WebhookRefused for an
        address that is not the provider's own."""
        return None

    def verify(self, request: WebhookRequest, now: datetime, key: bytes | None = None) -> None:
        """Raise ``WebhookRefused`` unless the raw body was signed by the provider. ``key``: what ``key_url`` served."""
        raise WebhookRefused("this provider sends no webhooks", reason="unexpected", status=404)

    def replay_token(self, request: WebhookRequest) -> str | None:
        """What the signature covers where it does not cover the body: it may only ever carry one event."""
        return None

    def parse(self, request: WebhookRequest) -> Sequence[Evidence]:
        """The facts in one verified webhook. Raises ``WebhookRefused(reason="malformed")`` on nonsense."""
        return ()

    def confirmation(self, request: WebhookRequest) -> ProviderRequest | None:
        """A request that a verified webhook asks us to make, such as confirming an SNS subscription."""
        return None

    def build_lookup(self, attempt: AttemptRef, now: datetime) -> ProviderRequest:
        """Asks about one attempt; only called where ``can_look_up``."""
        raise NotImplementedError

    def interpret_lookup(self, attempt: AttemptRef, response: ProviderResponse, now: datetime) -> Lookup:
        return Lookup(LookupVerdict.UNANSWERABLE, detail="this provider cannot be asked")


AnyProvider = Provider[Any]
"""A provider of whichever channel."""
