"""Postmark: the Email, Webhooks, Messages and Bounce APIs as pure functions.

Sources: Postmark's developer documentation and django-anymail's Postmark backend. What shaped this file:

- Sending has no idempotency key and the message id is Postmark's. Our reference travels as metadata, which comes back
  in every webhook and can be searched for, so an attempt of unknown outcome can be asked about.
- Webhooks carry no signature. They are believed by the password or the token we gave Postmark to send along, so these
  are not optional.
- 401 to a webhook is retried, over hours; 403 ends the retries.
- An inactive address (406) is one that bounced or complained before: Postmark's own suppression.
"""

from __future__ import annotations

import binascii
import hmac
import json
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import quote, urlencode
from uuid import UUID

from app.domain.models import Channel, Evidence, EvidenceKind, Outcome, OutcomeKind
from app.errors import WebhookRefused
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
    absent,
)
from app.providers.email_fields import (
    COMPLAINED,
    CONTENT,
    DELAYED,
    HARD,
    NOTED,
    ON_ITS_LIST,
    REJECTED,
    REPUTATION,
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

HOST: Final = "https://api.postmarkapp.com"
TEST_TOKEN: Final = "POSTMARK_API_TEST"  # noqa: S105 - Postmark's own word: a message is checked, and not sent
TOKEN_HEADER: Final = "X-Landed-Token"  # noqa: S105 - the header's name
METADATA_KEY: Final = "landed_reference"  # 20 characters at the most; its value has 80

TAG_CHARS_MAX: Final = 255
MESSAGES_MAX: Final = 50

LOOKUP_RETENTION_SECONDS: Final = 45 * 86400.0

FORGED_STATUS: Final = 401
GIVE_UP_STATUS: Final = 403  # what is genuine and cannot be read would be no clearer the next time


@dataclass(frozen=True, slots=True)
class PostmarkAccount:
    """One Postmark server and message stream. Raises ValueError for what could not work.

    webhook_user, webhook_password: Basic authentication set for the webhook; or
    webhook_token: the value of a custom header ``X-Landed-Token`` set for it. With both, both are asked for.
    message_stream: transactional mail goes by ``outbound``; broadcast streams have names of their own, and a
        suppression list each.
    lookup_settle_seconds: how old a message must be before its absence from the search proves that it was never sent.
        Postmark documents no such time, so None: absence never proves.
    """

    server_token: str = field(repr=False)
    webhook_user: str | None = None
    webhook_password: str | None = field(default=None, repr=False)
    webhook_token: str | None = field(default=None, repr=False)
    message_stream: str = "outbound"
    base_url: str | None = None
    test_mode: bool = False
    lookup_settle_seconds: float | None = None
    lookup_retention_seconds: float = LOOKUP_RETENTION_SECONDS

    def __post_init__(self) -> None:
        if not self.server_token:
            raise ValueError("server_token must not be empty")
        if bool(self.webhook_user) != bool(self.webhook_password):
            raise ValueError("webhook_user and webhook_password go together")
        if ":" in (self.webhook_user or ""):
            raise ValueError("webhook_user must not contain a colon: it ends the name (RFC 7617)")
        if not (self.webhook_password or self.webhook_token):
            raise ValueError(
                "webhook_user and webhook_password, or webhook_token, must be set: nothing else proves a "
                "webhook to be Postmark's"
            )
        if not _STREAM.fullmatch(self.message_stream):
            raise ValueError(f"message_stream {self.message_stream!r} is not the id of a message stream")
        check_base_url(self.base_url)
        check_durations(
            lookup_settle_seconds=self.lookup_settle_seconds, lookup_retention_seconds=self.lookup_retention_seconds
        )

    @property
    def url(self) -> str:
        return self.base_url or HOST


class Postmark(Provider[EmailMessage]):
    """One Postmark server behind the Provider protocol."""

    name: ClassVar[str] = "postmark"

    def __init__(self, account: PostmarkAccount) -> None:
        self.account = account
        self.capabilities = Capabilities(
            channel=Channel.EMAIL,
            confirms_delivery=True,
            can_look_up=True,
            accepts_client_id=False,
            lookup_settle_seconds=account.lookup_settle_seconds,
            lookup_retention_seconds=account.lookup_retention_seconds,
            tracks_engagement=True,
            takes_tests=True,
        )
        self._headers = _headers(account.server_token)

    # -- sending ---------------------------------------------------------------------------------------------

    def build(self, message: EmailMessage, context: SendContext) -> ProviderRequest:
        """The send request. Raises InvalidFields for what must never leave, as line breaks in a header."""
        refuse_injection(message)
        named_address(message.sender, "sender")
        payload: dict[str, Any] = {
            "From": message.sender,
            "To": message.to,
            "Subject": message.subject,
            "Metadata": {METADATA_KEY: message.reference},
            "MessageStream": self.account.message_stream,
            # Said outright, since the server's own settings would otherwise decide.
            "TrackOpens": message.track_opens,
            "TrackLinks": "HtmlAndText" if message.track_clicks else "None",
        }
        optional = {
            "HtmlBody": message.html,
            "TextBody": message.text,
            "ReplyTo": message.reply_to,
            "Tag": next(iter(labels(message, count_max=1, chars_max=TAG_CHARS_MAX)), None),
            "Headers": [{"Name": name, "Value": value} for name, value in message.headers.items()],
        }
        payload |= {name: value for name, value in optional.items() if value}
        body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        test_mode = message.test_mode or self.account.test_mode
        headers = {**(_headers(TEST_TOKEN) if test_mode else self._headers), "Content-Type": "application/json"}
        return ProviderRequest("POST", f"{self.account.url}/email", headers, body)

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer to a send means: accepted is error code 0 with a message id."""
        payload = document(response.body)
        code, message_id = _error_code(payload), text(at(payload, "MessageID"), 100)
        words = text(at(payload, "Message"), 2000) or words_of(response.body)
        if response.status == 200 and code == 0 and message_id and not _WILL_NOT_DELIVER.search(words):
            return Outcome(OutcomeKind.ACCEPTED, "accepted", response.status, provider_message_id=message_id)
        kind = _refusal(response.status, code, words)
        wait = retry_after(response.headers, now) if kind is OutcomeKind.RATE_LIMITED else None
        reason = SENDER_REFUSED if response.status in _READ and code in _CODES_OF_THE_SENDER else None
        return Outcome(kind, detail(words, response.status), response.status, retry_after_seconds=wait, reason=reason)

    # -- webhooks --------------------------------------------------------------------------------------------

    def verify(self, request: WebhookRequest, now: datetime, key: bytes | None = None) -> None:
        """Refuses what does not bring the password and the token that were agreed, whatever else it says."""
        account = self.account
        given = [_basic(request.headers.get("authorization", "")), request.headers.get(TOKEN_HEADER.lower(), "")]
        agreed = [
            f"{account.webhook_user}:{account.webhook_password}" if account.webhook_password else None,
            account.webhook_token,
        ]
        pairs = [(theirs, ours) for theirs, ours in zip(given, agreed, strict=True) if ours]
        # No short cut between them: how long it takes must not tell which of the two was right.
        right = [hmac.compare_digest(theirs.encode("utf-8", "replace"), ours.encode()) for theirs, ours in pairs]
        if not all(right):
            raise WebhookRefused("the webhook's credentials are not ours", reason="forged", status=FORGED_STATUS)

    def parse(self, request: WebhookRequest) -> Sequence[Evidence]:
        """The fact in a webhook."""
        event = document(request.body)
        name = text(at(event, "RecordType"), 40)
        if not name:
            raise WebhookRefused("no RecordType", reason="malformed", status=GIVE_UP_STATUS)
        return (_evidence(name, event, request.received_at),)

    # -- looking up ------------------------------------------------------------------------------------------

    def build_lookup(self, attempt: AttemptRef, now: datetime) -> ProviderRequest:
        """Asks for the message by Postmark's id, or else searches for our reference."""
        if attempt.provider_message_id is not None:
            return self._details(attempt.provider_message_id)
        query = {
            "count": MESSAGES_MAX,
            "offset": 0,
            "messagestream": self.account.message_stream,
            f"metadata_{METADATA_KEY}": attempt.reference,
        }
        return self._get(f"/messages/outbound?{urlencode(query)}")

    def interpret_lookup(self, attempt: AttemptRef, response: ProviderResponse, now: datetime) -> Lookup:
        """From the search to the message's events, and from a bounce among them to what kind it was."""
        payload = document(response.body)
        if response.status == 200 and isinstance(at(payload, "Messages"), list):
            return self._found(attempt, items(payload["Messages"]), now)
        if response.status == 200 and isinstance(at(payload, "MessageEvents"), list):
            return self._events(attempt, payload)
        if response.status == 200 and at(payload, "Type") is not None and at(payload, "BouncedAt") is not None:
            return Lookup(LookupVerdict.FOUND, [_named_ours(attempt, _evidence("Bounce", payload, attempt.opened_at))])
        if response.status == 404 and attempt.provider_message_id is not None:
            return absent(attempt, self.capabilities, now)
        words = text(at(payload, "Message"), 2000) or words_of(response.body)
        return Lookup(LookupVerdict.UNAVAILABLE, detail=detail(words, response.status))

    def _found(self, attempt: AttemptRef, messages: Sequence[Any], now: datetime) -> Lookup:
        """The messages that carry our reference: whatever the search made of it, only those count."""
        for message in messages:
            message_id = text(at(message, "MessageID"), 100)
            if message_id and text(at(message, "Metadata", METADATA_KEY)) == attempt.reference:
                evidence = _accepted(attempt, message_id, moment(at(message, "ReceivedAt")))
                return Lookup(LookupVerdict.FOUND, [evidence], next_request=self._details(message_id))
        if messages:
            return Lookup(LookupVerdict.TOO_EARLY, detail="the search found only other messages")
        return absent(attempt, self.capabilities, now)

    def _events(self, attempt: AttemptRef, payload: Mapping[str, Any]) -> Lookup:
        """The message's events. A bounce is named by its id only: which kind it was is asked next."""
        message_id = text(payload.get("MessageID"), 100) or attempt.provider_message_id or ""
        evidence = [_accepted(attempt, message_id, moment(payload.get("ReceivedAt")))]
        bounce_id = ""
        for event in items(payload["MessageEvents"]):
            name = _DETAIL_NAMES.get(text(at(event, "Type"), 40))
            if name == "Bounce":
                bounce_id = text(at(event, "Details", "BounceID"), 40)
            if name is not None and not (name == "Bounce" and bounce_id):
                record = _as_record(name, event, message_id)
                evidence.append(_named_ours(attempt, _evidence(name, record, attempt.opened_at)))
        more = self._get(f"/bounces/{quote(bounce_id, safe='')}") if bounce_id else None
        return Lookup(LookupVerdict.FOUND, evidence, next_request=more)

    def _details(self, message_id: str) -> ProviderRequest:
        return self._get(f"/messages/outbound/{quote(message_id, safe='')}/details")

    def _get(self, path: str) -> ProviderRequest:
        return ProviderRequest("GET", self.account.url + path, self._headers)


# -- requests ------------------------------------------------------------------------------------------------

_STREAM: Final = re.compile(r"[A-Za-z0-9_-]{1,60}")


def _headers(token: str) -> dict[str, str]:
    return {"X-Postmark-Server-Token": token, "Accept": "application/json"}


def _basic(header: str) -> str:
    """``user:password`` of a Basic authorization, nothing for any other (RFC 7617)."""
    scheme, _, encoded = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


# -- answers to a send ---------------------------------------------------------------------------------------

_READ: Final = frozenset({200, 422})  # the request was read: its error code says more than the status
#: Postmark's error codes in a refusal. Any other is about this message's content.
_CODES: Final[Mapping[int, OutcomeKind]] = {
    10: OutcomeKind.UNAUTHORIZED,  # bad or missing token
    100: OutcomeKind.TRANSIENT,  # maintenance: refused for now
    400: OutcomeKind.UNAUTHORIZED,  # sender signature not found
    401: OutcomeKind.UNAUTHORIZED,  # sender signature not confirmed
    405: OutcomeKind.UNAUTHORIZED,  # not allowed to send: out of credits
    406: OutcomeKind.RECIPIENT_INVALID,  # inactive: it bounced or complained before
    412: OutcomeKind.UNAUTHORIZED,  # account pending
    413: OutcomeKind.UNAUTHORIZED,  # account may not send
    429: OutcomeKind.RATE_LIMITED,
}
_CODE_INVALID_REQUEST: Final = 300
_CODES_OF_THE_SENDER: Final = frozenset({400, 401})
_BAD_RECIPIENT: Final = re.compile(r"'To'")  # as in: Error parsing 'To': Illegal email address
_WILL_NOT_DELIVER: Final = re.compile(r"will not deliver to th(is|ese) inactive address", re.I)


def _error_code(payload: Any) -> int | None:
    code = at(payload, "ErrorCode")
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _refusal(status: int, code: int | None, words: str) -> OutcomeKind:
    """The outcome of an answer that accepts nothing: by the error code where the request was read, else by status."""
    if status in _READ and code is not None:
        if code == 0:
            # One recipient and it is inactive; or an acceptance without an id, of which nobody can say what it took.
            return OutcomeKind.RECIPIENT_INVALID if _WILL_NOT_DELIVER.search(words) else OutcomeKind.UNKNOWN
        if code == _CODE_INVALID_REQUEST and _BAD_RECIPIENT.search(words):
            return OutcomeKind.RECIPIENT_INVALID
        return _CODES.get(code, OutcomeKind.REJECTED)
    return kind_of_status(status)


# -- events --------------------------------------------------------------------------------------------------


class _Record(NamedTuple):
    """What a record type means, and which of its fields tell who, when, and which one it is."""

    kind: EvidenceKind
    recipient: str
    moment: str
    once: bool = False  # happens to a message once for each recipient


_RECORDS: Final[Mapping[str, _Record]] = {
    "Delivery": _Record(EvidenceKind.DELIVERED, "Recipient", "DeliveredAt", once=True),
    "Bounce": _Record(EvidenceKind.BOUNCED, "Email", "BouncedAt"),
    "SpamComplaint": _Record(EvidenceKind.COMPLAINED, "Email", "BouncedAt"),
    "Open": _Record(EvidenceKind.OPENED, "Recipient", "ReceivedAt"),
    "Click": _Record(EvidenceKind.CLICKED, "Recipient", "ReceivedAt"),
    "SubscriptionChange": _Record(EvidenceKind.UNSUBSCRIBED, "Recipient", "ChangedAt"),
}
_UNKNOWN_RECORD: Final = _Record(EvidenceKind.OTHER, "Recipient", "ReceivedAt")
#: What a message's details call the same facts.
_DETAIL_NAMES: Final[Mapping[str, str]] = {
    "Delivered": "Delivery",
    "Bounced": "Bounce",
    "Opened": "Open",
    "LinkClicked": "Click",
    "SubscriptionChanged": "SubscriptionChange",
    "Transient": "Transient",
}

#: What the timeline shows of an event. No person's IP address.
_SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "type": ("Type",),
    "description": ("Description",),
    "message": ("Details",),
    "inactive": ("Inactive",),
    "can_activate": ("CanActivate",),
    "stream": ("MessageStream",),
    "suppresses": ("SuppressSending",),
    "suppression_reason": ("SuppressionReason",),
    "origin": ("Origin",),
    "first_open": ("FirstOpen",),
    "client": ("Client", "Name"),
    "system": ("OS", "Name"),
    "device": ("Platform",),
    "country": ("Geo", "Country"),
    "url": ("OriginalLink",),
}


def _evidence(name: str, event: Mapping[str, Any], told_at: datetime) -> Evidence:
    """One record in our words."""
    record = _RECORDS.get(name, _UNKNOWN_RECORD)
    occurred_at = moment(event.get(record.moment))
    verdict = DELAYED if name == "Transient" else _verdict(record.kind, event)
    message_id, address = text(event.get("MessageID"), 100), text(event.get(record.recipient), 320)
    delivery_id, attempt_no = _correlation(event)
    return Evidence(
        kind=verdict.kind,
        event_key=_event_key(name, record, event, message_id, address),
        occurred_at=occurred_at or told_at,
        delivery_id=delivery_id,
        attempt_no=attempt_no,
        provider_message_id=message_id or None,
        address=address or None,
        bounce_class=verdict.bounce_class,
        suppress_reason=verdict.suppress_reason,
        data=_data(verdict, event),
    )


def _event_key(name: str, record: _Record, event: Mapping[str, Any], message_id: str, address: str) -> str:
    """A bounce has an id. The rest is told apart by message, recipient and, where it can happen again, time."""
    if (bounce_id := text(event.get("ID"), 40)) and name in ("Bounce", "SpamComplaint"):
        return f"{name.lower()}:{bounce_id}"
    key = [name.lower(), message_id, digest(address.lower())]
    if not record.once:
        happened_at = moment(event.get(record.moment))
        key.append(f"{happened_at:%Y-%m-%dT%H:%M:%S.%f}" if happened_at else text(event.get(record.moment), 60))
    if link := text(event.get("OriginalLink"), 2000):
        key.append(digest(link))
    return ":".join(key)


def _correlation(event: Mapping[str, Any]) -> tuple[UUID | None, int | None]:
    """Our ids, from the metadata we sent along."""
    return our_ids(text(at(event, "Metadata", METADATA_KEY), 80))


def _data(verdict: Verdict, event: Mapping[str, Any]) -> dict[str, Any]:
    data = shown(event, _SHOWN)
    if verdict.kind is EvidenceKind.UNSUBSCRIBED:
        data["scope"] = "all"  # from the whole stream
    return data


def _as_record(name: str, event: Any, message_id: str) -> dict[str, Any]:
    """One of a message's events in the shape of the webhook that tells it."""
    details, record = at(event, "Details"), _RECORDS.get(name, _UNKNOWN_RECORD)
    return {
        "MessageID": message_id,
        record.recipient: at(event, "Recipient"),
        record.moment: at(event, "ReceivedAt"),
        "Details": at(details, "DeliveryMessage") or at(details, "Summary"),
        "OriginalLink": at(details, "Link"),
        "Origin": at(details, "Origin"),
        "SuppressSending": str(at(details, "SuppressSending")).lower() == "true",
    }


def _named_ours(attempt: AttemptRef, evidence: Evidence) -> Evidence:
    """What was asked about an attempt is about that attempt, though the answer does not repeat our reference."""
    return replace(evidence, delivery_id=attempt.delivery_id, attempt_no=attempt.attempt_no)


def _accepted(attempt: AttemptRef, message_id: str, received_at: datetime | None) -> Evidence:
    """A message that is to be found was taken."""
    return Evidence(
        kind=EvidenceKind.ACCEPTED,
        event_key=f"accepted:{message_id}",
        occurred_at=received_at or attempt.opened_at,
        delivery_id=attempt.delivery_id,
        attempt_no=attempt.attempt_no,
        provider_message_id=message_id or None,
        address=attempt.address,
    )


# -- failures ------------------------------------------------------------------------------------------------

#: Bounce types. What is not here is soft: this message is over, the address may be fine.
_BOUNCES: Final[Mapping[str, Verdict]] = {
    "Transient": DELAYED,  # "Message delayed", in Postmark's words: a delivery may follow, and would be the last word
    "HardBounce": HARD,
    "BadEmailAddress": HARD,
    "SpamComplaint": COMPLAINED,
    "ManuallyDeactivated": ON_ITS_LIST,
    "Unsubscribe": UNSUBSCRIBED,
    "Blocked": REPUTATION,
    "SpamNotification": CONTENT,
    "DMARCPolicy": REPUTATION,
    "VirusNotification": CONTENT,
    "SMTPApiError": REJECTED,
    "TemplateRenderingFailed": REJECTED,
    # Replies that are no failure: an absence note, a new address, a question whether we are human.
    "AutoResponder": NOTED,
    "AddressChange": NOTED,
    "ChallengeVerification": NOTED,
    "Subscribe": NOTED,
}

_SUPPRESSIONS: Final = {"HardBounce": "hard_bounce", "SpamComplaint": "complaint"}


def _verdict(kind: EvidenceKind, event: Mapping[str, Any]) -> Verdict:
    match kind:
        case EvidenceKind.BOUNCED:
            return _BOUNCES.get(text(event.get("Type"), 40), SOFT)
        case EvidenceKind.COMPLAINED:
            return COMPLAINED
        case EvidenceKind.UNSUBSCRIBED:
            return _subscription(event)
    return Verdict(kind)


def _subscription(event: Mapping[str, Any]) -> Verdict:
    """A change of Postmark's own suppression list. Only what the recipient did is an unsubscription; the rest is
    mirrored by its own name, should the bounce or the complaint itself not be told."""
    if event.get("SuppressSending") is not True:
        return NOTED
    reason = text(event.get("SuppressionReason"), 40)
    if reason in ("", "ManualSuppression"):
        by_recipient = text(event.get("Origin"), 40) == "Recipient"
        return UNSUBSCRIBED if by_recipient else Verdict(EvidenceKind.OTHER, None, "provider_suppressed")
    return Verdict(EvidenceKind.OTHER, None, _SUPPRESSIONS.get(reason, "provider_suppressed"))
