"""Amazon SES v2: sending with signed requests, and events that come through SNS.

Sources: the SES v2 API model of botocore, the SES Developer Guide (event publishing, notification contents, sending
errors, mailbox simulator) and the SNS Developer Guide (see ``sns``). What shaped this file:

- Sending has no idempotency key, and SES writes its own Message-ID. Our ids travel as email tags, which come back in
  events only through a configuration set; the ``Send`` event is what settles a send of unknown outcome.
- SES cannot be asked for a message by anything of ours. With the message id it can (``insights``), if the account pays
  for it.
- A complaint lists every recipient at the complaining domain, so one message has one recipient.
- An auto-reply comes as a bounce of type Transient, General. It is told from a failure by what it lacks: a delivery
  status notification (RFC 3464), and so any status or diagnostic code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.header import Header
from email.utils import formataddr, parseaddr
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import quote
from uuid import UUID

from app.domain.models import Channel, Evidence, EvidenceKind, Outcome, OutcomeKind
from app.errors import FieldError, InvalidFields
from app.providers import aws, sns
from app.providers.base import (
    SENDER_REFUSED,
    AttemptRef,
    Capabilities,
    EmailMessage,
    Lookup,
    LookupVerdict,
    Provider,
    ProviderRequest,
    ProviderResponse,
    SendContext,
    WebhookRequest,
)
from app.providers.email_fields import (
    COMPLAINED,
    CONTENT,
    HARD,
    NOTED,
    ON_ITS_LIST,
    REJECTED,
    REPUTATION,
    SENDER_CODES,
    SOFT,
    UNSUBSCRIBED,
    Verdict,
    check_base_url,
    check_durations,
    kind_of_status,
    labels,
    named_address,
    our_ids,
    refuse_injection,
)
from app.providers.reading import at, detail, digest, document, items, moment, retry_after, shown, text, words_of

SEND_PATH: Final = "/v2/email/outbound-emails"
INSIGHTS_PATH: Final = "/v2/email/insights/"
ACCOUNT_PATH: Final = "/v2/email/account"
SIMULATOR: Final = "success@simulator.amazonses.com"  # takes everything, delivers nothing, and sends the events

HEADER_NAME_CHARS_MAX: Final = 126
HEADER_CHARS_MAX: Final = 996  # name and value together; the value alone 995
LABEL_CHARS_MAX: Final = 200  # in a tag's name, which may have 256
TAGS_MAX: Final = 10
RECIPIENTS_MAX: Final = 50  # of one message, by SES's own limit

SEND_EVENT_SECONDS: Final = (
    300.0  # SNS's usual retries are over after two minutes; then the event was lost, or never was
)
INSIGHTS_RETENTION_SECONDS: Final = 30 * 86400.0
QUOTA_SECONDS: Final = 3600.0  # the daily quota is of a rolling day: a little of it comes back every hour


@dataclass(frozen=True, slots=True)
class SesAccount:
    """One AWS account in one region. Raises ValueError for what could not work.

    access_key_id, secret_access_key, session_token: of an identity that may ``ses:SendEmail``.
    topic_arns: the SNS topics the events come through; no other topic is believed.
    configuration_set: what makes SES publish events and give our tags back; None where every identity has a default.
    tracking_configuration_set: used for messages whose opens or clicks are to be tracked, which SES decides by
        configuration set. None: SES tracks nothing, and our own pixel and links do.
    insights: ask GetMessageInsights what became of a message; needs the Virtual Deliverability Manager.
    test_mode: everything goes to SES's mailbox simulator, in place of its recipient.
    base_url: in place of the region's host. sns_base_url, sns_ca, trust_any_certificate, allow_signature_v1,
        webhook_max_age_seconds: see ``sns.SnsTrust``.
    """

    region: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    topic_arns: tuple[str, ...]
    session_token: str | None = field(default=None, repr=False)
    configuration_set: str | None = None
    tracking_configuration_set: str | None = None
    insights: bool = False
    test_mode: bool = False
    base_url: str | None = None
    sns_base_url: str | None = None
    sns_ca: str | None = field(default=None, repr=False)
    trust_any_certificate: bool = False
    allow_signature_v1: bool = False
    send_event_seconds: float = SEND_EVENT_SECONDS
    webhook_max_age_seconds: float = sns.MAX_AGE_SECONDS

    def __post_init__(self) -> None:
        if not aws.REGION.fullmatch(self.region):
            raise ValueError(f"region {self.region!r} is not an AWS region, such as eu-west-1")
        if not (self.access_key_id and self.secret_access_key):
            raise ValueError("access_key_id and secret_access_key must not be empty")
        for name in (self.configuration_set, self.tracking_configuration_set):
            if name is not None and not _CONFIGURATION_SET.fullmatch(name):
                raise ValueError(f"configuration_set {name!r} may hold letters, digits, - and _, 64 at the most")
        check_base_url(self.base_url)
        check_base_url(self.sns_base_url, "sns_base_url")
        check_durations(
            send_event_seconds=self.send_event_seconds, webhook_max_age_seconds=self.webhook_max_age_seconds
        )
        _ = self.trust

    @property
    def url(self) -> str:
        return self.base_url or f"https://email.{self.region}.amazonaws.com"

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


class Ses(sns.Subscriber, Provider[EmailMessage]):
    """One SES account behind the Provider protocol."""

    name: ClassVar[str] = "ses"

    def __init__(self, account: SesAccount) -> None:
        self.account = account
        self.trust = account.trust
        self.capabilities = Capabilities(
            channel=Channel.EMAIL,
            confirms_delivery=True,
            can_look_up=account.insights,
            accepts_client_id=False,
            lookup_settle_seconds=None,  # of a message that SES gave no id for, nothing can be asked
            lookup_retention_seconds=INSIGHTS_RETENTION_SECONDS,
            tracks_engagement=account.tracking_configuration_set is not None,
            takes_tests=True,
        )

    # -- sending ---------------------------------------------------------------------------------------------

    def build(self, message: EmailMessage, context: SendContext) -> ProviderRequest:
        """The signed request. Raises InvalidFields for what must never leave, or SES cannot carry."""
        refuse_injection(message)
        test_mode = message.test_mode or self.account.test_mode
        payload: dict[str, Any] = {
            "FromEmailAddress": _mailbox(message.sender, "sender"),
            "Destination": {"ToAddresses": [SIMULATOR if test_mode else _ascii_address(message.to, "to")]},
            "Content": {"Simple": _content(message)},
            "EmailTags": _tags(message),
        }
        if message.reply_to is not None:
            payload["ReplyToAddresses"] = [_mailbox(message.reply_to, "reply_to")]
        if name := self._configuration_set(message):
            payload["ConfigurationSetName"] = name
        body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        return self._signed("POST", SEND_PATH, context.now, body)

    def _configuration_set(self, message: EmailMessage) -> str | None:
        tracked = message.track_opens or message.track_clicks
        return (tracked and self.account.tracking_configuration_set) or self.account.configuration_set

    def _signed(self, method: str, path: str, now: datetime, body: bytes = b"") -> ProviderRequest:
        url = self.account.url + path
        headers = {"Content-Type": "application/json"} if body else {}
        headers = aws.sign(
            aws.Credentials(self.account.access_key_id, self.account.secret_access_key, self.account.session_token),
            region=self.account.region,
            service=_SERVICE,
            method=method,
            url=url,
            headers=headers,
            body=body,
            now=now,
        )
        return ProviderRequest(method, url, headers, body)

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer to a send means. Only an answer with a MessageId counts as accepted."""
        payload = document(response.body)
        message_id = text(at(payload, "MessageId"))
        if response.status == 200 and message_id:
            return Outcome(OutcomeKind.ACCEPTED, "accepted", response.status, provider_message_id=message_id)
        words = _words(payload, response.body)
        error = aws.error_name(response, payload)
        kind = _refusal(response.status, error, words)
        wait = _wait(response, words, now) if kind is OutcomeKind.RATE_LIMITED else None
        ours = kind is OutcomeKind.UNAUTHORIZED and _is_about_the_sender(error, words)
        return Outcome(
            kind,
            detail(words, response.status),
            response.status,
            retry_after_seconds=wait,
            reason=SENDER_REFUSED if ours else None,
        )

    # -- webhooks --------------------------------------------------------------------------------------------

    def parse(self, request: WebhookRequest) -> tuple[Evidence, ...]:
        """The facts in one notification; none in a confirmation, or in what SNS and SES say about the set-up."""
        message = self.notification(request)
        if message is None:
            return ()
        event = document(message["Message"].encode("utf-8", "replace"))
        if not isinstance(event, dict):
            raise sns.malformed("the notification is not an event of SES")
        if event.get("notificationType") == _SETUP_TYPE:
            return ()
        return tuple(_evidence(event, message.timestamp or request.received_at))

    # -- looking up ------------------------------------------------------------------------------------------

    def build_lookup(self, attempt: AttemptRef, now: datetime) -> ProviderRequest:
        """Asks what became of a message. Without its id nothing can be asked; then whether SES answers at all."""
        if attempt.provider_message_id is None:
            return self._signed("GET", ACCOUNT_PATH, now)
        return self._signed("GET", f"{INSIGHTS_PATH}{quote(attempt.provider_message_id, safe='')}/", now)

    def interpret_lookup(self, attempt: AttemptRef, response: ProviderResponse, now: datetime) -> Lookup:
        """What the insights say. Nothing they lack disproves a message that SES gave an id for."""
        age = (now - attempt.opened_at).total_seconds()
        if attempt.provider_message_id is None:
            if age < self.account.send_event_seconds:
                return Lookup(LookupVerdict.TOO_EARLY, detail="the Send event may still be on its way")
            return Lookup(LookupVerdict.UNANSWERABLE, detail="SES gave no message id, and no Send event came")
        payload = document(response.body)
        if response.status == 200 and isinstance(payload, dict):
            if evidence := tuple(_insights(attempt, payload)):
                return Lookup(LookupVerdict.FOUND, evidence)
        elif response.status != 404:
            return Lookup(LookupVerdict.UNAVAILABLE, detail=detail(_words(payload, response.body), response.status))
        if age > self.capabilities.lookup_retention_seconds:
            return Lookup(LookupVerdict.UNANSWERABLE, detail="older than the insights SES keeps")
        return Lookup(LookupVerdict.TOO_EARLY, detail="accepted by SES, no insights yet")


# -- requests ------------------------------------------------------------------------------------------------

_SERVICE: Final = "ses"
_CONFIGURATION_SET: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLAIN_ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@([A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{2,63}")
_NOT_IN_TAGS: Final = re.compile(r"[^A-Za-z0-9_-]")


def _ascii_address(address: str, name: str) -> str:
    """SES has no SMTPUTF8 (RFC 6531): the part before the @ is ASCII, the domain in its ASCII form."""
    if not address.isascii():
        raise InvalidFields(FieldError(name, "an address in ASCII, its domain in xn-- form: SES carries no other"))
    return address


def _mailbox(value: str, name: str) -> str:
    """A header's ``Name <address>``, the name in encoded words (RFC 2047) where it needs them.

    Its address is checked as strictly as SES does: it then finds fault with an address of the recipient's only.
    """
    person, address = named_address(value, name)
    if not _PLAIN_ADDRESS.fullmatch(_ascii_address(address, name)):
        raise InvalidFields(FieldError(name, "an address such as shop@example.com"))
    return formataddr((person, address))


def _content(message: EmailMessage) -> dict[str, Any]:
    body = {"Text": {"Data": message.text, "Charset": "UTF-8"}}
    if message.html is not None:
        body["Html"] = {"Data": message.html, "Charset": "UTF-8"}
    content: dict[str, Any] = {"Subject": {"Data": message.subject, "Charset": "UTF-8"}, "Body": body}
    if message.headers:
        content["Headers"] = [_header(name, value) for name, value in message.headers.items()]
    return content


def _header(name: str, value: str) -> dict[str, str]:
    encoded = value if value.isascii() else Header(value, "utf-8").encode(linesep="")
    encoded = encoded.replace("\t", " ")
    if len(name) > HEADER_NAME_CHARS_MAX or len(name) + len(encoded) > HEADER_CHARS_MAX:
        raise InvalidFields(FieldError(f"headers.{name}", f"{HEADER_CHARS_MAX} characters at the most, with its name"))
    return {"Name": name, "Value": encoded}


def _tags(message: EmailMessage) -> list[dict[str, str]]:
    """Our ids, which events carry back, and labels for CloudWatch: a tag has a name and a value here."""
    found = (_NOT_IN_TAGS.sub("_", label) for label in labels(message, count_max=TAGS_MAX, chars_max=LABEL_CHARS_MAX))
    tags = {
        "landed_delivery": str(message.delivery_id),
        "landed_attempt": str(message.attempt_no),
        **{f"landed_label_{label}": "1" for label in found},
    }
    return [{"Name": name, "Value": value} for name, value in tags.items()]


# -- answers to a send ---------------------------------------------------------------------------------------

#: What each error means. Whatever SES names in a 4xx, it did not take the message.
_ERRORS: Final[Mapping[str, OutcomeKind]] = {
    "TooManyRequestsException": OutcomeKind.RATE_LIMITED,
    "AccountSuspendedException": OutcomeKind.UNAUTHORIZED,
    "SendingPausedException": OutcomeKind.UNAUTHORIZED,
    "NotFoundException": OutcomeKind.UNAUTHORIZED,  # the configuration set: a setting of ours, not this message
    **dict.fromkeys(aws.NOT_LET_IN, OutcomeKind.UNAUTHORIZED),
    "MessageRejected": OutcomeKind.REJECTED,
    "BadRequestException": OutcomeKind.REJECTED,
}
_PACE: Final = re.compile(r"\brate\b|quota|per second|throttl", re.I)
#: SES's words for an address that is none; whose, it does not say (see ``_mailbox``).
_BAD_ADDRESS: Final = re.compile(
    r"(illegal|invalid|malformed)\b.{0,40}\baddress|address.{0,40}\b(illegal|invalid|malformed)|"
    r"missing (final|local)|(domain|local address) (contains|starts|ends)",
    re.I | re.S,
)


def _refusal(status: int, error: str, words: str) -> OutcomeKind:
    """The outcome of an answer that carries no message id."""
    if not 300 <= status < 500:
        return OutcomeKind.UNKNOWN
    if "throttl" in error.lower():
        return OutcomeKind.RATE_LIMITED
    if error == "LimitExceededException":
        return OutcomeKind.RATE_LIMITED if _PACE.search(words) else OutcomeKind.UNAUTHORIZED
    if _is_about_the_sender(error, words):
        return OutcomeKind.UNAUTHORIZED
    if error == "BadRequestException" and _BAD_ADDRESS.search(words):
        return OutcomeKind.RECIPIENT_INVALID
    if error in _ERRORS:
        return _ERRORS[error]
    return kind_of_status(status)


def _is_about_the_sender(error: str, words: str) -> bool:
    """Or, while the account is in SES's sandbox, about the recipient: either way about this message alone."""
    return error == "MailFromDomainNotVerifiedException" or (error == "MessageRejected" and "not verified" in words)


def _words(payload: Any, body: bytes) -> str:
    return text(at(payload, "message"), 2000) or text(at(payload, "Message"), 2000) or words_of(body)


def _wait(response: ProviderResponse, words: str, now: datetime) -> float | None:
    """SES does not say when to come back; only that its daily quota is spent."""
    said = retry_after(response.headers, now)
    return QUOTA_SECONDS if said is None and "quota exceeded" in words.lower() else said


# -- events --------------------------------------------------------------------------------------------------

_SETUP_TYPE: Final = "AmazonSnsSubscriptionSucceeded"


class _Kind(NamedTuple):
    """What an event means, and where in a notification its part is, and in that the recipients it is about."""

    kind: EvidenceKind
    part: str
    recipients: str | None = None


_KINDS: Final[Mapping[str, _Kind]] = {
    "Send": _Kind(EvidenceKind.ACCEPTED, "send"),
    "Delivery": _Kind(EvidenceKind.DELIVERED, "delivery", "recipients"),
    "Bounce": _Kind(EvidenceKind.BOUNCED, "bounce", "bouncedRecipients"),
    "Complaint": _Kind(EvidenceKind.COMPLAINED, "complaint", "complainedRecipients"),
    "Reject": _Kind(EvidenceKind.FAILED, "reject"),
    "Rendering Failure": _Kind(EvidenceKind.FAILED, "failure"),
    "DeliveryDelay": _Kind(EvidenceKind.DEFERRED, "deliveryDelay", "delayedRecipients"),
    "Open": _Kind(EvidenceKind.OPENED, "open"),
    "Click": _Kind(EvidenceKind.CLICKED, "click"),
    "Subscription": _Kind(EvidenceKind.UNSUBSCRIBED, "subscription"),
}
#: What happens to a message once for each recipient: its key needs no time, so that two topics, or a notification and
#: the insights, tell one fact. The others can happen again, and are told apart by when.
_ONCE: Final = frozenset(
    {EvidenceKind.ACCEPTED, EvidenceKind.DELIVERED, EvidenceKind.BOUNCED, EvidenceKind.COMPLAINED, EvidenceKind.FAILED}
)

#: What the timeline shows of an event's part. No person's IP address.
_SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "bounce_type": ("bounceType",),
    "bounce_sub_type": ("bounceSubType",),
    "complaint_sub_type": ("complaintSubType",),
    "feedback_type": ("complaintFeedbackType",),
    "feedback_id": ("feedbackId",),
    "reporting_mta": ("reportingMTA",),
    "message": ("smtpResponse",),
    "delay_type": ("delayType",),
    "expires": ("expirationTime",),
    "reason": ("reason",),
    "template": ("templateName",),
    "error": ("errorMessage",),
    "user_agent": ("userAgent",),
    "url": ("link",),
    "contact_list": ("contactList",),
}
_SHOWN_OF_RECIPIENT: Final[Mapping[str, tuple[str, ...]]] = {
    "action": ("action",),
    "enhanced_code": ("status",),
    "message": ("diagnosticCode",),
}


def _evidence(event: Mapping[str, Any], told_at: datetime) -> Iterator[Evidence]:
    """One event in our words, once for each recipient it names. Raises WebhookRefused when it is not an event."""
    name = text(event.get("eventType"), 40) or text(event.get("notificationType"), 40)
    mail = event.get("mail")
    message_id = text(at(mail, "messageId"), 200)
    if not name or not message_id:
        raise sns.malformed("no event type, or no message")
    kind = _KINDS.get(name, _Kind(EvidenceKind.OTHER, ""))
    part = event.get(kind.part)
    occurred_at = moment(at(part, "timestamp")) or moment(at(mail, "timestamp")) or told_at
    delivery_id, attempt_no = _correlation(at(mail, "tags"))
    for recipient in _recipients(part, kind, mail):
        verdict = _verdict(kind.kind, part, recipient)
        address = parseaddr(text(recipient.get("emailAddress"), 320))[1] or None
        yield Evidence(
            kind=verdict.kind,
            event_key=_event_key(name, message_id, address, verdict, part, occurred_at),
            occurred_at=occurred_at,
            delivery_id=delivery_id,
            attempt_no=attempt_no,
            provider_message_id=message_id,
            address=address,
            bounce_class=verdict.bounce_class,
            suppress_reason=verdict.suppress_reason,
            data=_data(verdict, part, recipient),
        )


def _event_key(
    name: str, message_id: str, address: str | None, verdict: Verdict, part: Any, occurred_at: datetime
) -> str:
    """The fact itself. SNS's own id is of the notification, and two topics tell of one event under two of them."""
    key = [name.lower().replace(" ", "_"), message_id, digest((address or "").lower())]
    if name == "Bounce":
        key.append(_compact(at(part, "bounceType")) + "." + _compact(at(part, "bounceSubType")))
    if verdict.kind not in _ONCE:
        key.append(f"{occurred_at:%Y-%m-%dT%H:%M:%S.%f}")
    if link := text(at(part, "link"), 2000):
        key.append(digest(link))
    return ":".join(key)


def _compact(value: Any) -> str:
    """``Permanent`` in a notification is ``PERMANENT`` in the insights."""
    return re.sub(r"[^a-z0-9]", "", text(value, 60).lower())


def _correlation(tags: Any) -> tuple[UUID | None, int | None]:
    """Our ids; None for a message that is not ours, or a feedback notification, which carries no tags."""
    given = (next(iter(items(at(tags, name))), None) for name in ("landed_delivery", "landed_attempt"))
    return our_ids(".".join(text(value, 60) for value in given))


def _recipients(part: Any, kind: _Kind, mail: Any) -> Sequence[Mapping[str, Any]]:
    """Those the event is about; where it does not say, the message's only one; else nobody in particular."""
    given = items(at(part, kind.recipients), RECIPIENTS_MAX) if kind.recipients else []
    named = [item if isinstance(item, dict) else {"emailAddress": item} for item in given]
    if told := [item for item in named if text(item.get("emailAddress"))]:
        return told
    destination = items(at(mail, "destination"))
    return [{"emailAddress": destination[0]}] if len(destination) == 1 else [{}]


def _data(verdict: Verdict, part: Any, recipient: Mapping[str, Any]) -> dict[str, Any]:
    data = shown(part, _SHOWN) | shown(recipient, _SHOWN_OF_RECIPIENT)
    if verdict.kind is EvidenceKind.UNSUBSCRIBED:
        data["scope"] = "all"  # a contact list's topics are SES's, not our categories
    return data


# -- failures ------------------------------------------------------------------------------------------------

_ITS_LISTS: Final = frozenset({"suppressed", "onaccountsuppressionlist"})
_CONTENT_SUB_TYPES: Final = frozenset({"messagetoolarge", "contentrejected", "attachmentrejected"})
_ENHANCED: Final = re.compile(r"(?<![\d.])([45]\.\d{1,3}\.\d{1,3})(?![\d.]*\d)")


def _verdict(kind: EvidenceKind, part: Any, recipient: Mapping[str, Any]) -> Verdict:
    match kind:
        case EvidenceKind.BOUNCED:
            return _bounce(part, recipient)
        case EvidenceKind.COMPLAINED:
            return _complaint(part)
        case EvidenceKind.FAILED:
            return REJECTED
        case EvidenceKind.UNSUBSCRIBED:
            return UNSUBSCRIBED if _opted_out(part) else NOTED
    return Verdict(kind)


def _bounce(part: Any, recipient: Mapping[str, Any]) -> Verdict:
    """Permanent blames the address, unless the status says that it was we who were refused."""
    bounce_type, sub_type = _compact(at(part, "bounceType")), _compact(at(part, "bounceSubType"))
    if sub_type in _ITS_LISTS:
        return ON_ITS_LIST
    if sub_type in _CONTENT_SUB_TYPES:
        return CONTENT
    if bounce_type == "permanent":
        return REPUTATION if _enhanced_code(recipient).startswith(SENDER_CODES) else HARD
    if (bounce_type, sub_type) == ("transient", "general") and not shown(recipient, _SHOWN_OF_RECIPIENT):
        return NOTED  # an auto-reply, by what it lacks: the message arrived
    return SOFT


def _enhanced_code(recipient: Mapping[str, Any]) -> str:
    """RFC 3463's code, from its own field or else from the server's words."""
    given = (text(recipient.get(name)) for name in ("status", "diagnosticCode"))
    return next((found[1] for words in given if (found := _ENHANCED.search(words))), "")


def _complaint(part: Any) -> Verdict:
    if _compact(at(part, "complaintSubType")) in _ITS_LISTS:
        return ON_ITS_LIST  # SES sent nothing: an earlier complaint keeps the address on its list
    if text(at(part, "complaintFeedbackType")).lower() == "not-spam":
        return NOTED  # RFC 5965: somebody took it out of the spam folder
    return COMPLAINED


def _opted_out(part: Any) -> bool:
    """Whether a change of a contact list's topics takes something away."""
    if at(part, "newTopicPreferences", "unsubscribeAll") is True:
        return True
    return bool(_topics_out(at(part, "newTopicPreferences")) - _topics_out(at(part, "oldTopicPreferences")))


def _topics_out(preferences: Any) -> set[str]:
    topics = items(at(preferences, "topicSubscriptionStatus"))
    return {text(at(topic, "topicName")) for topic in topics if _compact(at(topic, "subscriptionStatus")) == "optout"}


# -- insights ------------------------------------------------------------------------------------------------

_INSIGHT_NAMES: Final[Mapping[str, str]] = {re.sub(r"[^a-z]", "", name.lower()): name for name in _KINDS}


def _insights(attempt: AttemptRef, payload: Mapping[str, Any]) -> Iterator[Evidence]:
    """The events of one message as notifications tell them: the same words, the same keys."""
    tags = _insight_tags(payload.get("EmailTags"))
    mail = {
        "messageId": attempt.provider_message_id,
        "tags": tags or {"landed_delivery": [str(attempt.delivery_id)], "landed_attempt": [str(attempt.attempt_no)]},
    }
    for insight in items(payload.get("Insights")):
        for event in items(at(insight, "Events")):
            yield from _insight(mail, text(at(insight, "Destination"), 320), event, attempt.opened_at)


def _insight_tags(given: Any) -> dict[str, list[Any]]:
    """Ours among the tags, in the shape of ``mail.tags``; none when they did not come back."""
    return {name: [at(tag, "Value")] for tag in items(given) if (name := text(at(tag, "Name"))).startswith("landed_")}


def _insight(mail: Mapping[str, Any], address: str, event: Any, fallback: datetime) -> Iterable[Evidence]:
    name = _INSIGHT_NAMES.get(re.sub(r"[^a-z]", "", text(at(event, "Type"), 40).lower()))
    happened_at = moment(at(event, "Timestamp"))
    if name is None or happened_at is None:
        return ()
    kind = _KINDS[name]
    bounce, complaint = at(event, "Details", "Bounce"), at(event, "Details", "Complaint")
    recipient = {"emailAddress": address, "diagnosticCode": at(bounce, "DiagnosticCode")}
    part = {
        "timestamp": at(event, "Timestamp"),
        "bounceType": at(bounce, "BounceType"),
        "bounceSubType": at(bounce, "BounceSubType"),
        "complaintSubType": at(complaint, "ComplaintSubType"),
        "complaintFeedbackType": at(complaint, "ComplaintFeedbackType"),
        **({kind.recipients: [recipient]} if kind.recipients else {}),
    }
    return _evidence({"eventType": name, "mail": {**mail, "destination": [address]}, kind.part: part}, fallback)
