"""Amazon's texts: SendTextMessage of AWS End User Messaging SMS, and events that come through SNS (R-020).

Sources: the model of the API "pinpoint-sms-voice-v2" in botocore, and the pages "Example event data", "Event types for
SMS, MMS, and voice", "Example of a two-way SMS message payload" and "Required opt-out keywords" of the AWS End User
Messaging SMS User Guide. What shaped this file:

- This is the API behind the texts of SNS. SNS's own, ``Publish`` to a phone number, tells its receipts to CloudWatch
  alone and carries no id of ours; SendTextMessage gives our ``Context`` back in each event, so evidence names its
  attempt (decision 20).
- Sending has no idempotency key and nothing can be looked up. The first event of any kind is what settles a send of
  unknown outcome; without one it stays unknown.
- ``TEXT_SUCCESSFUL`` says that the carrier took the text, and for some countries it is the last that is ever said. Only
  ``TEXT_DELIVERED`` is proof that the phone has it.
- ``TEXT_UNKNOWN`` is a failure without a name on one page, and on another what comes after three days without any word.
  So it proves neither.
- A refusal quotes what it refuses. The words of one about the request are shown to nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, Literal

from app.domain.keywords import Keyword, inbound_evidence, keyword_of
from app.domain.models import Channel, Evidence, NotificationClass, Outcome, OutcomeKind
from app.domain.sms import e164
from app.errors import FieldError, InvalidFields
from app.providers import aws, sms, sns
from app.providers.base import (
    SENDER_REFUSED,
    Capabilities,
    Provider,
    ProviderRequest,
    ProviderResponse,
    SendContext,
    SmsMessage,
    WebhookRequest,
)
from app.providers.reading import at, items, moment, number, retry_after, text
from app.providers.sms import ACCEPTED, CONTENT, DELIVERED, GAVE_UP, HARD, OTHER, REPUTATION, SOFT, Verdict

TARGET: Final = "PinpointSMSVoiceV2.SendTextMessage"
CONTENT_TYPE: Final = "application/x-amz-json-1.0"

TEXT_CHARS_MAX: Final = 1600
VALIDITY_SECONDS: Final = (5, 259_200)

MessageType = Literal["TRANSACTIONAL", "PROMOTIONAL"]


@dataclass(frozen=True, slots=True)
class AwsSmsAccount:
    """One AWS account in one region and who it sends as. Raises ValueError for what could not work.

    access_key_id, secret_access_key, session_token: of an identity that may ``sms-voice:SendTextMessage``.
    sender: a phone number or a sender id, or the id or ARN of one or of a pool: Amazon's origination identity.
    configuration_set: what makes Amazon publish events; by its name or ARN. Without events nothing would be proven.
    topic_arns: the SNS topics that events and answers come through; no other topic is believed.
    message_type: of every text, whatever its category; None: by the class of the category.
    price_max: in US dollars; a text that would cost more is refused, such as "0.20".
    test_mode: every text is checked by Amazon and none is sent.
    base_url: in place of the region's host. sns_base_url, sns_ca, trust_any_certificate, allow_signature_v1,
        webhook_max_age_seconds: see ``sns.SnsTrust``.
    """

    region: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    sender: str
    configuration_set: str
    topic_arns: tuple[str, ...]
    session_token: str | None = field(default=None, repr=False)
    message_type: MessageType | None = None
    price_max: str | None = None
    test_mode: bool = False
    base_url: str | None = None
    sns_base_url: str | None = None
    sns_ca: str | None = field(default=None, repr=False)
    trust_any_certificate: bool = False
    allow_signature_v1: bool = False
    webhook_max_age_seconds: float = sns.MAX_AGE_SECONDS

    def __post_init__(self) -> None:
        if not aws.REGION.fullmatch(self.region):
            raise ValueError(f"region {self.region!r} is not an AWS region, such as eu-west-1")
        if not (self.access_key_id and self.secret_access_key):
            raise ValueError("access_key_id and secret_access_key must not be empty")
        if not _SENDER.fullmatch(self.sender):
            raise ValueError("sender must be a phone number, a sender id, or the id or ARN of one or of a pool")
        if not _CONFIGURATION_SET.fullmatch(self.configuration_set):
            raise ValueError("configuration_set must be the name or ARN of a configuration set: events need one")
        if self.price_max is not None and not _PRICE.fullmatch(self.price_max):
            raise ValueError('price_max must be dollars below 100 with a point, such as "0.20"')
        if self.webhook_max_age_seconds < 0:
            raise ValueError("webhook_max_age_seconds must not be negative")
        sms.check_base_url(self.base_url)
        sms.check_base_url(self.sns_base_url, "sns_base_url")
        _ = self.trust

    @property
    def url(self) -> str:
        return f"{self.base_url or f'https://sms-voice.{self.region}.amazonaws.com'}/"

    @property
    def trust(self) -> sns.SnsTrust:
        """Raises ValueError for what could not work."""
        return sns.SnsTrust(
            topic_arns=self.topic_arns,
            base_url=self.sns_base_url,
            ca=self.sns_ca,
            trust_any_certificate=self.trust_any_certificate,
            allow_signature_v1=self.allow_signature_v1,
            max_age_seconds=self.webhook_max_age_seconds,
        )


class AwsSms(sns.Subscriber, Provider[SmsMessage]):
    """One account of AWS End User Messaging SMS behind the Provider protocol."""

    name: ClassVar[str] = "aws_sms"

    def __init__(self, account: AwsSmsAccount) -> None:
        self.account = account
        self.trust = account.trust
        self.capabilities = Capabilities(
            channel=Channel.SMS, confirms_delivery=True, can_look_up=False, accepts_client_id=False, takes_tests=True
        )

    # -- sending -----------------------------------------------------------------------------------------------------

    def build(self, message: SmsMessage, context: SendContext) -> ProviderRequest:
        """The signed request. Raises InvalidFields for what must never leave, or Amazon would not take."""
        sms.refuse_unsendable(message, chars_max=TEXT_CHARS_MAX)
        if not message.text.strip():
            raise InvalidFields(FieldError("text", "must not be blank"))
        left = int((message.expires_at - context.now).total_seconds())
        fields: dict[str, Any] = {
            "DestinationPhoneNumber": message.to,
            "OriginationIdentity": self.account.sender,
            "MessageBody": message.text,
            "MessageType": self.account.message_type or _message_type(message),
            "ConfigurationSetName": self.account.configuration_set,
            "TimeToLive": min(max(left, VALIDITY_SECONDS[0]), VALIDITY_SECONDS[1]),
            "Context": {_REFERENCE: message.reference},
        }
        if self.account.price_max is not None:
            fields["MaxPrice"] = self.account.price_max
        if message.test_mode or self.account.test_mode:
            fields["DryRun"] = True
        return self._signed(json.dumps(fields, separators=(",", ":")).encode(), context.now)

    def _signed(self, body: bytes, now: datetime) -> ProviderRequest:
        headers = aws.sign(
            aws.Credentials(self.account.access_key_id, self.account.secret_access_key, self.account.session_token),
            region=self.account.region,
            service=_SERVICE,
            method="POST",
            url=self.account.url,
            headers={"Content-Type": CONTENT_TYPE, "X-Amz-Target": TARGET},
            body=body,
            now=now,
        )
        return ProviderRequest("POST", self.account.url, headers, body)

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer to a send means. Only an answer with a MessageId counts as accepted."""
        payload = sms.json_object(response.body)
        message_id = text(payload.get("MessageId"), 64)
        if response.status == 200 and _ID.fullmatch(message_id):
            return Outcome(OutcomeKind.ACCEPTED, "accepted", response.status, provider_message_id=message_id)
        error, why = aws.error_name(response, payload), text(payload.get("Reason"), 80)
        kind, reason = _refusal(response.status, error, why, _fields(payload))
        return Outcome(
            kind,
            _said(error, why, payload) or f"HTTP {response.status}",
            response.status,
            retry_after_seconds=retry_after(response.headers, now) if kind is OutcomeKind.RATE_LIMITED else None,
            reason=reason,
        )

    # -- webhooks ----------------------------------------------------------------------------------------------------

    def parse(self, request: WebhookRequest) -> tuple[Evidence, ...]:
        """The fact in one notification: what became of a text, or a message that somebody sent to us."""
        message = self.notification(request)
        if message is None:
            return ()
        event = sms.json_object(message["Message"].encode("utf-8", "replace"))
        told_at = message.timestamp or request.received_at
        if "inboundMessageId" in event:
            return (_inbound(event, told_at),)
        return (_event(event, told_at),)


_SERVICE: Final = "sms-voice"
_REFERENCE: Final = "landed_reference"

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SENDER: Final = re.compile(r"[A-Za-z0-9_:/+-]{1,256}")
_CONFIGURATION_SET: Final = re.compile(r"[A-Za-z0-9_:/-]{1,256}")
_PRICE: Final = re.compile(r"[0-9]{0,2}\.[0-9]{1,5}")


def _message_type(message: SmsMessage) -> MessageType:
    """Some countries have hours in which no promotional text may be sent, so what is none must not be called one."""
    return "PROMOTIONAL" if message.klass == NotificationClass.PROMOTIONAL else "TRANSACTIONAL"


# -- answers to a send -------------------------------------------------------------------------------------------------

#: What each error means whatever its reason. Of a 4xx, nothing was taken.
_ERRORS: Final[Mapping[str, OutcomeKind]] = {
    **dict.fromkeys(aws.NOT_LET_IN, OutcomeKind.UNAUTHORIZED),
    "ServiceQuotaExceededException": OutcomeKind.UNAUTHORIZED,  # the month's money is spent
    "ResourceNotFoundException": OutcomeKind.UNAUTHORIZED,  # the sender or the configuration set: settings of ours
    "UnknownOperationException": OutcomeKind.UNAUTHORIZED,  # what answers there is another service
}
#: The sender is the account's, and yet these depend on where the text goes or on its type: others still get theirs.
_OF_THE_SENDER: Final = (OutcomeKind.UNAUTHORIZED, SENDER_REFUSED)
_OF_THE_ACCOUNT: Final = (OutcomeKind.UNAUTHORIZED, None)
_REASONS: Final[Mapping[str, tuple[OutcomeKind, str | None]]] = {
    # ConflictException
    "DESTINATION_PHONE_NUMBER_OPTED_OUT": (OutcomeKind.RECIPIENT_INVALID, "opted_out"),
    "DESTINATION_PHONE_NUMBER_NOT_VERIFIED": _OF_THE_SENDER,  # the account is still in Amazon's own sandbox
    "MESSAGE_TYPE_MISMATCH": _OF_THE_SENDER,
    "NO_ORIGINATION_IDENTITIES_FOUND": _OF_THE_SENDER,  # the pool has none for this country
    "REGISTRATION_NOT_COMPLETE": _OF_THE_SENDER,
    "NUMBER_CAPABILITIES_MISMATCH": _OF_THE_ACCOUNT,
    "RESOURCE_NOT_ACTIVE": _OF_THE_ACCOUNT,
    # ValidationException
    "INVALID_IDENTITY_FOR_DESTINATION_COUNTRY": _OF_THE_SENDER,
    "SENDER_ID_NOT_REGISTERED": _OF_THE_SENDER,
    "SENDER_ID_NOT_SUPPORTED": _OF_THE_SENDER,
    "SENDER_ID_REQUIRES_REGISTRATION": _OF_THE_SENDER,
    "CHANNEL_NOT_ENABLED": _OF_THE_ACCOUNT,
    "INVALID_ARN": _OF_THE_ACCOUNT,
    "RESOURCE_NOT_ACCESSIBLE": _OF_THE_ACCOUNT,
}
#: What a field that failed validation is to us. Countries that are not enabled, prices and the rest concern one text.
_FIELDS: Final[Mapping[str, OutcomeKind]] = {
    "DestinationPhoneNumber": OutcomeKind.RECIPIENT_INVALID,
    "OriginationIdentity": OutcomeKind.UNAUTHORIZED,
    "ConfigurationSetName": OutcomeKind.UNAUTHORIZED,
}
_OF_A_FIELD: Final = frozenset({"CANNOT_PARSE", "FIELD_VALIDATION_FAILED", "INVALID_PARAMETER"})
#: Errors whose words say nothing of the request: who may not, what is not there.
_SPEAK_OF_US: Final = frozenset({*_ERRORS, "ConflictException", "ThrottlingException"})


def _refusal(status: int, error: str, why: str, fields: tuple[str, ...]) -> tuple[OutcomeKind, str | None]:
    """The outcome of an answer that carries no message id, and the name of its end."""
    if not 400 <= status < 500:
        return sms.kind_of_status(status), None
    if "throttl" in error.lower():
        return OutcomeKind.RATE_LIMITED, None
    if why in _REASONS:
        return _REASONS[why]
    if error in _ERRORS:
        return _ERRORS[error], None
    if why in _OF_A_FIELD and len(fields) == 1 and fields[0] in _FIELDS:
        return _FIELDS[fields[0]], None
    return sms.kind_of_status(status), None


def _fields(payload: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the fields that failed validation."""
    names = (text(at(given, "Name"), 60) for given in items(payload.get("Fields"), 10))
    return tuple(f"{name[:1].upper()}{name[1:]}" for name in names if name.isalpha())


def _said(error: str, why: str, payload: Mapping[str, Any]) -> str:
    words = text(payload.get("Message") or payload.get("message"), 2000) if error in _SPEAK_OF_US else ""
    return sms.words(": ".join(filter(None, (error, why, ", ".join(_fields(payload)), words))))


# -- events and messages -----------------------------------------------------------------------------------------------

_TYPES: Final[Mapping[str, Verdict]] = {
    "TEXT_PENDING": ACCEPTED,
    "TEXT_QUEUED": ACCEPTED,
    "TEXT_SENT": ACCEPTED,
    "TEXT_SUCCESSFUL": ACCEPTED,  # by the carrier
    "TEXT_UNKNOWN": ACCEPTED,
    "TEXT_DELIVERED": DELIVERED,
    "TEXT_INVALID": HARD,  # not a valid number
    "TEXT_INVALID_MESSAGE": CONTENT,
    "TEXT_UNREACHABLE": SOFT,
    "TEXT_CARRIER_UNREACHABLE": SOFT,
    "TEXT_BLOCKED": SOFT,  # by the phone, or by its carrier for its owner
    "TEXT_CARRIER_BLOCKED": REPUTATION,  # taken for abuse
    "TEXT_SPAM": REPUTATION,
    "TEXT_TTL_EXPIRED": GAVE_UP,  # before it could be handed on
    "TEXT_PROTECT_BLOCKED": GAVE_UP,  # by a rule of the account's own
}
#: Words by which Amazon opts a number out, beside those that everybody takes for STOP: what it heard is so.
_STOPS: Final = frozenset({"ARRET", "REMOVE", "TD"})


def _event(event: Mapping[str, Any], told_at: datetime) -> Evidence:
    """What became of a text, in our words. Raises WebhookRefused when it is no event of one."""
    kind, message_id = text(event.get("eventType"), 40), text(event.get("messageId"), 64)
    if not kind or not _ID.fullmatch(message_id):
        raise sns.malformed("the notification is no event of a text, and no answer to one")
    verdict = _TYPES.get(kind, OTHER)
    delivery_id, attempt_no = sms.correlation(at(event, "context", _REFERENCE))
    return Evidence(
        kind=verdict.kind,
        event_key=f"{message_id}:{kind}",
        occurred_at=_milliseconds(event.get("eventTimestamp")) or told_at,
        delivery_id=delivery_id,
        attempt_no=attempt_no,
        provider_message_id=message_id,
        address=e164(text(event.get("destinationPhoneNumber"), 60)),
        bounce_class=verdict.bounce_class,
        suppress_reason=verdict.suppress_reason,
        data=sms.told(
            status=kind,
            message=sms.words(event.get("messageStatusDescription")),
            country=text(event.get("isoCountryCode"), 10),
            carrier=sms.words(text(event.get("carrierName"), 60)),
        ),
    )


def _milliseconds(value: Any) -> datetime | None:
    found = number(value)
    return None if found is None else moment(found / 1000)


def _inbound(message: Mapping[str, Any], told_at: datetime) -> Evidence:
    """A message to us; its payload tells no time. A number's own keyword is Amazon's matter: the words are judged."""
    message_id, body = text(message.get("inboundMessageId"), 64), text(message.get("messageBody"), 2000)
    if not message_id:
        raise sns.malformed("a message without an id")
    heard = Keyword.STOP if body.strip().upper() in _STOPS else keyword_of(body)
    return inbound_evidence(
        message_id=message_id,
        sender=text(message.get("originationNumber"), 60),
        receiver=text(message.get("destinationNumber"), 60),
        keyword=heard,
        occurred_at=told_at,
    )
