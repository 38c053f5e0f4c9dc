"""SendGrid: the Mail Send, Event Webhook and Email Logs APIs as pure functions.

Sources: SendGrid's OpenAPI descriptions (mail, logs) and its documentation ("Event Webhook Reference", "Event Webhook
Security Features", "X-Message-ID", "Sandbox Mode"). What shaped this file:

- Sending has no idempotency key, and a Message-ID of ours does not come back reliably. Our ids travel as custom
  arguments, which every event carries at its top level.
- One webhook holds up to some thousands of events, of many messages. One that cannot be read must not cost the others.
- ``sg_event_id`` changes when an event is told again, so it cannot tell that two are the same (``_event_key``).
- The Email Logs can be searched by recipient and time only; which message is ours, its details tell.
- Custom arguments and categories are kept by SendGrid for good and must name no person: ids and labels only.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote
from uuid import UUID

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from app.domain.models import BounceClass, Channel, Evidence, EvidenceKind, Outcome, OutcomeKind
from app.errors import FieldError, InvalidFields, WebhookRefused
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
    CONTENT,
    HARD,
    ON_ITS_LIST,
    REJECTED,
    REPUTATION,
    SENDER_CODES,
    SOFT,
    Verdict,
    check_base_url,
    check_durations,
    kind_of_status,
    labels,
    named_address,
    our_ids,
    refuse_injection,
)
from app.providers.reading import (
    at,
    detail,
    digest,
    document,
    items,
    moment,
    rate_limit_reset,
    retry_after,
    shown,
    text,
    words_of,
)

HOSTS: Final = {"us": "https://api.sendgrid.com", "eu": "https://api.eu.sendgrid.com"}

CATEGORIES_MAX: Final = 10
CATEGORY_CHARS_MAX: Final = 255
EVENTS_MAX: Final = 10_000  # of one webhook, which is 768 KB at the most: some 2,000 in practice

WEBHOOK_MAX_AGE_SECONDS: Final = 25 * 3600.0  # retried for a rolling day; no tolerance is documented
WEBHOOK_FUTURE_SECONDS: Final = 300.0

LOOKUP_RETENTION_SECONDS: Final = 30 * 86400.0
LOOKUP_BEFORE: Final = timedelta(minutes=1)  # how far SendGrid's clock may lag ours
LOOKUP_AFTER: Final = timedelta(minutes=5)  # a call lasts seconds; the rest is for the clocks
CANDIDATES_MAX: Final = 1000  # the most the logs list at once, and they have no pages

# SendGrid retries whatever is not answered 2xx, for a day. A forgery is not SendGrid's.
FORGED_STATUS: Final = 401
MALFORMED_STATUS: Final = 400


@dataclass(frozen=True, slots=True)
class SendGridAccount:
    """One SendGrid account, or subuser. Raises ValueError for what could not work.

    webhook_public_key: of the signed event webhook: base64 of its DER form, as SendGrid shows it, or PEM.
    lookup_api_key: where ``api_key`` may only send.
    base_url: in place of the region's host; for a proxy or the sandbox.
    test_mode: every message goes in sandbox mode. Only such an account takes messages of a category in test mode.
    lookup_settle_seconds: how old a message must be before its absence from the logs proves that it was never sent.
        SendGrid documents no such time, so None: absence never proves.
    """

    api_key: str = field(repr=False)
    webhook_public_key: str
    region: Literal["us", "eu"] = "us"
    base_url: str | None = None
    test_mode: bool = False
    lookup_api_key: str | None = field(default=None, repr=False)
    lookup_settle_seconds: float | None = None
    lookup_retention_seconds: float = LOOKUP_RETENTION_SECONDS
    webhook_max_age_seconds: float = WEBHOOK_MAX_AGE_SECONDS

    def __post_init__(self) -> None:
        if not self.api_key:
            raise ValueError("api_key must not be empty")
        check_base_url(self.base_url)
        check_durations(
            lookup_settle_seconds=self.lookup_settle_seconds,
            lookup_retention_seconds=self.lookup_retention_seconds,
            webhook_max_age_seconds=self.webhook_max_age_seconds,
        )
        _public_key(self.webhook_public_key)

    @property
    def url(self) -> str:
        return self.base_url or HOSTS[self.region]


class SendGrid(Provider[EmailMessage]):
    """One SendGrid account behind the Provider protocol."""

    name: ClassVar[str] = "sendgrid"

    def __init__(self, account: SendGridAccount) -> None:
        self.account = account
        self.capabilities = Capabilities(
            channel=Channel.EMAIL,
            confirms_delivery=True,
            can_look_up=True,
            accepts_client_id=False,
            lookup_settle_seconds=account.lookup_settle_seconds,
            lookup_retention_seconds=account.lookup_retention_seconds,
            tracks_engagement=True,
            takes_tests=account.test_mode,  # see ``interpret``
        )
        self._public_key = _public_key(account.webhook_public_key)
        self._send_headers = _headers(account.api_key)
        self._lookup_headers = _headers(account.lookup_api_key or account.api_key)

    # -- sending ---------------------------------------------------------------------------------------------

    def build(self, message: EmailMessage, context: SendContext) -> ProviderRequest:
        """The send request. Raises InvalidFields for what must never leave, as line breaks in a header."""
        refuse_injection(message)
        payload: dict[str, Any] = {
            "personalizations": [{"to": [{"email": message.to}]}],
            "from": _person(message.sender, "sender"),
            "subject": message.subject,
            "content": _content(message),
            "categories": labels(message, count_max=CATEGORIES_MAX, chars_max=CATEGORY_CHARS_MAX),
            "custom_args": {"landed_delivery": str(message.delivery_id), "landed_attempt": str(message.attempt_no)},
            "tracking_settings": _tracking(message),
        }
        if message.reply_to is not None:
            payload["reply_to"] = _person(message.reply_to, "reply_to")
        if message.headers:
            payload["headers"] = _own_headers(message)
        if message.test_mode or self.account.test_mode:
            payload["mail_settings"] = {"sandbox_mode": {"enable": True}}
        return self._post("/v3/mail/send", payload, self._send_headers)

    def _post(self, path: str, payload: Mapping[str, Any], headers: Mapping[str, str]) -> ProviderRequest:
        body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        return ProviderRequest("POST", self.account.url + path, headers, body)

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer to a send means. A message is accepted with 202 and an id.

        Sandbox mode is answered with a bare 200. An answer does not say what was asked, so that counts only with an
        account for tests: with any other it is somebody else's (a proxy's), and what became of a message is unknown.
        """
        message_id = _message_id(response.headers.get("x-message-id"))
        if 200 <= response.status < 300 and message_id:
            return Outcome(OutcomeKind.ACCEPTED, "accepted", response.status, provider_message_id=message_id)
        if self.account.test_mode and response.status == 200 and not response.body.strip():
            return Outcome(OutcomeKind.ACCEPTED, "sandbox mode: checked, not sent", response.status)
        errors = items(at(document(response.body), "errors"))
        kind = _refusal(response.status, errors)
        words = "; ".join(filter(None, (text(at(error, "message")) for error in errors))) or words_of(response.body)
        wait = None
        if kind is OutcomeKind.RATE_LIMITED:
            said = retry_after(response.headers, now)
            wait = rate_limit_reset(response.headers, now) if said is None else said
        reason = SENDER_REFUSED if _is_about_the_sender(response.status, errors) else None
        return Outcome(kind, detail(words, response.status), response.status, retry_after_seconds=wait, reason=reason)

    # -- webhooks --------------------------------------------------------------------------------------------

    def verify(self, request: WebhookRequest, now: datetime, key: bytes | None = None) -> None:
        """Refuses what SendGrid did not sign: the timestamp's bytes, then the body's, as they came."""
        timestamp = request.headers.get("x-twilio-email-event-webhook-timestamp", "")
        signature = request.headers.get("x-twilio-email-event-webhook-signature", "")
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12 and signature):
            raise _forged("not signed: the signed event webhook is to be turned on in SendGrid")
        try:
            signed = timestamp.encode() + request.body
            self._public_key.verify(b64decode(signature, validate=True), signed, ec.ECDSA(hashes.SHA256()))
        except (binascii.Error, ValueError, InvalidSignature) as error:
            raise _forged("the signature is not SendGrid's") from error
        age = now.timestamp() - int(timestamp)
        if not -WEBHOOK_FUTURE_SECONDS <= age <= self.account.webhook_max_age_seconds:
            raise WebhookRefused(f"signed {age:.0f} s ago", reason="stale", status=MALFORMED_STATUS)

    def parse(self, request: WebhookRequest) -> Sequence[Evidence]:
        """The facts in one webhook. What cannot be read among them is left out; if nothing can, it is refused."""
        events = document(request.body)
        if not isinstance(events, list):
            raise _malformed("not a JSON array")
        evidence = [found for event in events[:EVENTS_MAX] if (found := _evidence(event, event)) is not None]
        if events and not evidence:
            raise _malformed("no event that can be read")
        return evidence

    # -- looking up ------------------------------------------------------------------------------------------

    def build_lookup(self, attempt: AttemptRef, now: datetime) -> ProviderRequest:
        """Asks the Email Logs for what was sent to this address about then."""
        begin, end = attempt.opened_at - LOOKUP_BEFORE, attempt.opened_at + LOOKUP_AFTER
        conditions = [f'sg_message_id_created_at >= TIMESTAMP "{_stamp(begin)}"']
        conditions.append(f'sg_message_id_created_at <= TIMESTAMP "{_stamp(end)}"')
        # Queries mind the case, and an address may be kept in another than it was sent in: then time alone must do.
        if _QUERYABLE.fullmatch(attempt.address):
            conditions.append(f'to_email = "{attempt.address}"')
        query = {"query": " AND ".join(conditions), "limit": CANDIDATES_MAX}
        return self._post("/v3/logs", query, self._lookup_headers)

    def interpret_lookup(self, attempt: AttemptRef, response: ProviderResponse, now: datetime) -> Lookup:
        """First the list of candidates, then the details of one of them, which hold our ids."""
        payload = document(response.body)
        if response.status == 200 and isinstance(at(payload, "messages"), list):
            return self._candidates(attempt, items(payload["messages"]), now)
        if response.status == 200 and text(at(payload, "sg_message_id")):
            return self._details(attempt, payload)
        if response.status == 404:  # a candidate that went past retention meanwhile: it is nobody's proof
            return Lookup(LookupVerdict.TOO_EARLY, detail="the logs no longer have this message")
        words = text(at(next(iter(items(at(payload, "errors"))), None), "message")) or words_of(response.body)
        return Lookup(LookupVerdict.UNAVAILABLE, detail=detail(words, response.status))

    def _candidates(self, attempt: AttemptRef, messages: Sequence[Any], now: datetime) -> Lookup:
        """Which message to look at: the one SendGrid gave us the id of, else one of those that may be ours."""
        address, known = attempt.address.lower(), attempt.provider_message_id
        ids = sorted(
            sg_id
            for message in messages
            if text(at(message, "to_email"), 320).lower() == address and (sg_id := text(at(message, "sg_message_id")))
            if known is None or _message_id(sg_id) == known
        )
        if not ids and len(messages) >= CANDIDATES_MAX:
            return Lookup(LookupVerdict.TOO_EARLY, detail="too many messages about that time to find one among them")
        if not ids:
            return absent(attempt, self.capabilities, now)
        # An answer is all that is handed from one page to the next, so one is looked at per lookup: seldom does one
        # person get two messages within minutes. Lookups come at regular times, by which alone the same few would be
        # chosen again and again; by the hash of a time each is chosen sooner or later.
        turn = hashlib.sha256(f"{attempt.reference} {int(now.timestamp())}".encode()).digest()
        chosen = ids[int.from_bytes(turn) % len(ids)]
        url = f"{self.account.url}/v3/logs/{quote(chosen, safe='')}"
        more = ProviderRequest("GET", url, self._lookup_headers)
        return Lookup(LookupVerdict.TOO_EARLY, detail=f"one of {len(ids)} to look at", next_request=more)

    def _details(self, attempt: AttemptRef, payload: Mapping[str, Any]) -> Lookup:
        """All events of one message, if it is this attempt's."""
        message_id = _message_id(text(payload.get("sg_message_id")))
        ours = _correlation(payload.get("custom_args"))
        if ours != (attempt.delivery_id, attempt.attempt_no) and message_id != attempt.provider_message_id:
            return Lookup(LookupVerdict.TOO_EARLY, detail="another message to the same address; there may be more")
        shared = {"sg_message_id": message_id, "email": payload.get("to_email"), "category": payload.get("category")}
        args = {"landed_delivery": str(attempt.delivery_id), "landed_attempt": str(attempt.attempt_no)}
        evidence = [
            found
            for event in items(payload.get("events"))
            if isinstance(event, dict) and (found := _evidence({**shared, **event}, args)) is not None
        ]
        return Lookup(LookupVerdict.FOUND, evidence or [_accepted(attempt, message_id)])


# -- requests ------------------------------------------------------------------------------------------------

_QUERYABLE: Final = re.compile(r"[a-z0-9.!#$%&*+/=?^_`{|}~@-]+")  # no quote that would end the string in a query
_FORBIDDEN_HEADERS: Final = frozenset({"x-sg-id", "x-sg-eid"})


def _public_key(value: str) -> ec.EllipticCurvePublicKey:
    """The key of the signed webhook. Raises ValueError for anything but one on P-256."""
    encoded = re.sub(r"-----[A-Z ]+-----|\s", "", value)
    try:
        key = load_der_public_key(b64decode(encoded, validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("webhook_public_key must be the public key that SendGrid shows for the webhook") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("webhook_public_key must be an elliptic curve key on P-256")
    return key


def _headers(api_key: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}


def _person(value: str, name: str) -> dict[str, str]:
    person, address = named_address(value, name)
    return {"email": address, "name": person} if person else {"email": address}


def _content(message: EmailMessage) -> list[dict[str, str]]:
    """Plain text comes first; a part must not be empty."""
    parts = (("text/plain", message.text), ("text/html", message.html))
    return [{"type": kind, "value": value} for kind, value in parts if value]


def _tracking(message: EmailMessage) -> dict[str, Any]:
    """Said outright, since the account's own settings would otherwise decide."""
    return {
        "click_tracking": {"enable": message.track_clicks, "enable_text": False},
        "open_tracking": {"enable": message.track_opens},
        "subscription_tracking": {"enable": False},
    }


def _own_headers(message: EmailMessage) -> dict[str, str]:
    for name in message.headers:
        if name.lower() in _FORBIDDEN_HEADERS:
            raise InvalidFields(FieldError(f"headers.{name!r}", "not a header that may be set"))
    return dict(message.headers)


def _stamp(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


# -- answers to a send ---------------------------------------------------------------------------------------

_SENDER_WORDS: Final = re.compile(r"verified sender identity", re.I)
_RECIPIENT_FIELD: Final = re.compile(r"personalizations\.0\.to(\.0(\.email)?)?")


def _refusal(status: int, errors: Sequence[Any]) -> OutcomeKind:
    """The outcome of an answer that carries no message id."""
    if status == 400 and any(_RECIPIENT_FIELD.fullmatch(text(at(error, "field"))) for error in errors):
        return OutcomeKind.RECIPIENT_INVALID
    return OutcomeKind.UNAUTHORIZED if status == 405 else kind_of_status(status)


def _is_about_the_sender(status: int, errors: Sequence[Any]) -> bool:
    """Whether it is the address in ``from`` that may not send, and not the account."""
    return status == 403 and any(
        text(at(error, "field")) == "from" or _SENDER_WORDS.search(text(at(error, "message"))) for error in errors
    )


# -- events --------------------------------------------------------------------------------------------------


def _message_id(given: str | None) -> str:
    """X-Message-Id; events append to it, after a point, which machine handled the message."""
    return text(given, 200).strip().partition(".")[0]


_KINDS: Final[Mapping[str, EvidenceKind]] = {
    "processed": EvidenceKind.ACCEPTED,
    "received": EvidenceKind.ACCEPTED,  # only in the Email Logs
    "deferred": EvidenceKind.DEFERRED,
    "delivered": EvidenceKind.DELIVERED,
    "bounce": EvidenceKind.BOUNCED,
    "dropped": EvidenceKind.FAILED,
    "cancel_drop": EvidenceKind.FAILED,
    "spamreport": EvidenceKind.COMPLAINED,
    "unsubscribe": EvidenceKind.UNSUBSCRIBED,
    "group_unsubscribe": EvidenceKind.UNSUBSCRIBED,
    "open": EvidenceKind.OPENED,
    "click": EvidenceKind.CLICKED,
}
_SUPPRESSING: Final = {EvidenceKind.UNSUBSCRIBED: "unsubscribe", EvidenceKind.COMPLAINED: "complaint"}

#: What the timeline shows of an event. No person's IP address.
_SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "type": ("type",),
    "classification": ("bounce_classification",),
    "enhanced_code": ("status",),
    "reason": ("reason",),
    "message": ("response",),
    "attempt": ("attempt",),
    "tls": ("tls",),
    "user_agent": ("useragent",),
    "machine_open": ("sg_machine_open",),
    "url": ("url",),
    "group": ("asm_group_id",),
}


def _evidence(event: Any, args: Any) -> Evidence | None:
    """One event in our words; None when it is not an event. ``args``: where our custom arguments are."""
    name, occurred_at = text(at(event, "event"), 40), moment(at(event, "timestamp"))
    if not name or occurred_at is None:
        return None
    verdict = _verdict(name, event)
    message_id = _message_id(text(at(event, "sg_message_id")) or text(at(event, "recv_msgid")))
    delivery_id, attempt_no = _correlation(args)
    return Evidence(
        kind=verdict.kind,
        event_key=_event_key(name, event, message_id, occurred_at),
        occurred_at=occurred_at,
        delivery_id=delivery_id,
        attempt_no=attempt_no,
        provider_message_id=message_id or None,
        address=text(at(event, "email"), 320) or None,
        bounce_class=verdict.bounce_class,
        suppress_reason=verdict.suppress_reason,
        data=_data(name, verdict, event),
    )


def _event_key(name: str, event: Any, message_id: str, occurred_at: datetime) -> str:
    """What happened to which message, when and to whom: ``sg_event_id`` is another one when SendGrid tells it again.

    A bounce that comes late may lack the message's id; then ours tells it from another's, and only where that is
    lacking too, SendGrid's id of the event.
    """
    ours = text(at(event, "landed_delivery"), 60)
    whose = message_id or ours or text(at(event, "sg_event_id"), 100)
    key = [name, whose, str(int(occurred_at.timestamp())), digest(text(at(event, "email"), 320).lower())]
    if link := text(at(event, "url"), 2000):
        key.append(digest(link))
    return ":".join(key)


def _correlation(args: Any) -> tuple[UUID | None, int | None]:
    """Our ids, from the arguments we sent along."""
    return our_ids(f"{text(at(args, 'landed_delivery'), 60)}.{text(at(args, 'landed_attempt'), 60)}")


def _accepted(attempt: AttemptRef, message_id: str) -> Evidence:
    """A message that is in the logs was taken, though no event of it is known yet."""
    return Evidence(
        kind=EvidenceKind.ACCEPTED,
        event_key=f"logged:{message_id}",
        occurred_at=attempt.opened_at,
        delivery_id=attempt.delivery_id,
        attempt_no=attempt.attempt_no,
        provider_message_id=message_id,
        address=attempt.address,
    )


def _data(name: str, verdict: Verdict, event: Any) -> dict[str, Any]:
    data = shown(event, _SHOWN)
    if verdict.kind is EvidenceKind.UNSUBSCRIBED:
        # A group is of the sender's making; the first category is ours. Without either it is from everything.
        category = at(event, "category")
        first = next(iter(items(category)), category if isinstance(category, str) else "")
        data["scope"] = (text(first, CATEGORY_CHARS_MAX) if name == "group_unsubscribe" else "") or "all"
    return data


# -- failures ------------------------------------------------------------------------------------------------


_INVALID: Final = Verdict(EvidenceKind.FAILED, BounceClass.HARD, "hard_bounce")
_NOT_SENT: Final = Verdict(EvidenceKind.FAILED)

_DROPS: Final[Mapping[str, Verdict]] = {
    "bounced address": ON_ITS_LIST,
    "unsubscribed address": ON_ITS_LIST,
    "spam reporting address": ON_ITS_LIST,
    "invalid": _INVALID,
    "spam content": REJECTED,
    "invalid smtpapi header": REJECTED,
    "recipient list over package quota": _NOT_SENT,  # the account's fault, nobody's address
}
#: ``bounce_classification`` where it says more than the code. Too much too fast is held against the sender.
_CLASSES: Final[Mapping[str, Verdict]] = {
    "Content": CONTENT,
    "Reputation": REPUTATION,
    "Frequency or Volume Too High": REPUTATION,
    "Mailbox Unavailable": SOFT,
    "Technical": SOFT,
}
_BLOCK_WORDS: Final = re.compile(r"spam|block|reputation|dnsbl|\brbl\b|policy|dmarc|\bspf\b", re.I)
_NO_MAILBOX: Final = re.compile(r"\s*55[013]\b")  # RFC 5321, 4.2.3; R-112


def _verdict(name: str, event: Any) -> Verdict:
    if name == "bounce":
        return _bounce(event)
    if name == "dropped":
        return _DROPS.get(text(at(event, "reason")).strip().lower(), _NOT_SENT)
    kind = _KINDS.get(name, EvidenceKind.OTHER)
    return Verdict(kind, suppress_reason=_SUPPRESSING.get(kind))


def _bounce(event: Any) -> Verdict:
    """Why a message came back; the address is blamed only on plain signs, and never for a block."""
    code, reason = text(at(event, "status"), 20), text(at(event, "reason"))
    classified = text(at(event, "bounce_classification"), 60)
    if text(at(event, "type"), 20) == "blocked":
        return _CLASSES.get(classified, SOFT if code.startswith("4.") else REPUTATION)
    if code.startswith(SENDER_CODES):
        return REPUTATION
    if classified == "Invalid Address" or code.startswith("5.1."):
        return HARD
    if classified in _CLASSES:
        return _CLASSES[classified]
    if _BLOCK_WORDS.search(reason):
        return REPUTATION
    no_mailbox = _NO_MAILBOX.match(reason) or _NO_MAILBOX.match(code)
    return HARD if no_mailbox and code in ("", "5.0.0", "550", "551", "553") else SOFT


def _forged(why: str) -> WebhookRefused:
    return WebhookRefused(why, reason="forged", status=FORGED_STATUS)


def _malformed(why: str) -> WebhookRefused:
    return WebhookRefused(why, reason="malformed", status=MALFORMED_STATUS)
