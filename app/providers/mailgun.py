"""Mailgun: the Messages, Webhooks and Events APIs as pure functions.

Sources: Mailgun's OpenAPI description and user manual. What shaped this file:

- Sending has no idempotency key. The Message-Id is ours and follows from the attempt alone, so an attempt of
  unknown outcome can be asked for without anything the provider told us.
- A 5xx has been seen for mail that was sent, so it is *unknown*, never *failed*.
- A webhook's signature covers its timestamp and token, not its body: see ``replay_token``.
- Webhooks are retried until they are answered 200 or 406, for 8 hours; ``delivered`` is not retried at all.
- Event ids are unique within a day only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parseaddr
from typing import Any, ClassVar, Final, Literal, NamedTuple
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from yarl import URL

from app.domain.models import BounceClass, Channel, Evidence, EvidenceKind, Outcome, OutcomeKind
from app.errors import FieldError, InvalidFields, WebhookRefused
from app.providers.base import (
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
from app.providers.email_fields import SENDER_CODES, kind_of_status
from app.providers.reading import rate_limit_reset, retry_after, seconds_or_date

HOSTS: Final = {"us": "https://api.mailgun.net", "eu": "https://api.eu.mailgun.net"}

OPTION_BYTES_MAX: Final = 16 * 1024  # all o:, h: and v: parameters of a message together
TAGS_MAX: Final = 3
TAG_CHARS_MAX: Final = 128
EVENTS_PAGE_MAX: Final = 300  # the largest page the Events API gives

WEBHOOK_MAX_AGE_SECONDS: Final = 9 * 3600.0  # a retry comes up to 8 h later, perhaps with its first timestamp
WEBHOOK_FUTURE_SECONDS: Final = 300.0  # how far ahead of ours the provider's clock may run
CLOCK_SKEW: Final = timedelta(minutes=5)

LOOKUP_SETTLE_SECONDS: Final = 30 * 60.0  # events are indexed late; only older ones are to be trusted
# The free plan keeps events for a day, paid ones for up to 30; an hour for clocks. Past it, absence proves nothing.
LOOKUP_RETENTION_SECONDS: Final = 86400.0 - 3600.0

DETAIL_CHARS_MAX: Final = 300
TEXT_CHARS_MAX: Final = 500  # of any one string that a provider's event puts before an operator

# Answering 406 tells Mailgun to give the webhook up. A forgery is not Mailgun's, so its answer may be the
# usual one; a genuine webhook that is too old or unreadable would be no younger or clearer the next time.
FORGED_STATUS: Final = 401
GIVE_UP_STATUS: Final = 406


@dataclass(frozen=True, slots=True)
class MailgunAccount:
    """One sending domain and its keys. Raises ValueError for what could not work.

    lookup_api_key: needed when ``api_key`` is a Domain Sending Key, which may send but not read events.
    base_url: in place of the region's host; for a proxy or the sandbox.
    lookup_settle_seconds: in place of what Mailgun documents.
    lookup_retention_seconds: how long the plan keeps events, where that is longer than the free one's day.
    """

    domain: str
    api_key: str = field(repr=False)
    webhook_signing_key: str = field(repr=False)
    region: Literal["us", "eu"] = "us"
    base_url: str | None = None
    test_mode: bool = False
    lookup_api_key: str | None = field(default=None, repr=False)
    lookup_settle_seconds: float | None = None
    lookup_retention_seconds: float | None = None
    webhook_max_age_seconds: float = WEBHOOK_MAX_AGE_SECONDS

    def __post_init__(self) -> None:
        if not _DOMAIN.fullmatch(self.domain):  # a slash would be answered 200 by another page altogether
            raise ValueError(f"domain {self.domain!r} is not a domain name")
        if not (self.api_key and self.webhook_signing_key):
            raise ValueError("api_key and webhook_signing_key must not be empty")
        if self.base_url is not None and not _BASE_URL.fullmatch(self.base_url):
            raise ValueError("base_url must be http(s)://host[:port], without a path")
        durations = (self.lookup_settle_seconds, self.lookup_retention_seconds, self.webhook_max_age_seconds)
        if any(seconds is not None and seconds < 0 for seconds in durations):
            raise ValueError("durations must not be negative")

    @property
    def url(self) -> str:
        """The domain's part of the API: every request goes to this host."""
        return f"{self.base_url or HOSTS[self.region]}/v3/{self.domain}"


class Mailgun(Provider[EmailMessage]):
    """One Mailgun account behind the Provider protocol."""

    name: ClassVar[str] = "mailgun"

    def __init__(self, account: MailgunAccount) -> None:
        settle, retention = account.lookup_settle_seconds, account.lookup_retention_seconds
        self.account = account
        self.capabilities = Capabilities(
            channel=Channel.EMAIL,
            confirms_delivery=True,
            can_look_up=True,
            accepts_client_id=True,
            lookup_settle_seconds=LOOKUP_SETTLE_SECONDS if settle is None else settle,
            lookup_retention_seconds=LOOKUP_RETENTION_SECONDS if retention is None else retention,
            tracks_engagement=True,
            takes_tests=True,
        )
        self._messages_url = f"{account.url}/messages"
        self._events_url = f"{account.url}/events"
        self._signing_key = account.webhook_signing_key.encode()
        self._send_headers: Mapping[str, str] = {
            "Authorization": _basic(account.api_key),
            "Content-Type": "application/x-www-form-urlencoded",
        }
        self._lookup_headers: Mapping[str, str] = {"Authorization": _basic(account.lookup_api_key or account.api_key)}

    # -- sending ---------------------------------------------------------------------------------------------

    def build(self, message: EmailMessage, context: SendContext) -> ProviderRequest:
        """The send request. Raises InvalidFields for what must never leave, as line breaks in a header."""
        _refuse_injection(message)
        options = self._options(message)
        if _size(options) > OPTION_BYTES_MAX:
            raise InvalidFields(FieldError("headers", f"with tags, {OPTION_BYTES_MAX} bytes at the most"))
        content = {"from": message.sender, "to": message.to, "subject": message.subject, "text": message.text}
        if message.html is not None:
            content["html"] = message.html
        # yarl encodes forms in C, ten times faster than urllib: this is the costliest step of a send.
        body = URL.build(query={**content, **options}).raw_query_string.encode()
        return ProviderRequest("POST", self._messages_url, self._send_headers, body)

    def _options(self, message: EmailMessage) -> dict[str, str | Sequence[str]]:
        """Everything that counts towards Mailgun's limit on options."""
        opens, clicks = _yes(message.track_opens), _yes(message.track_clicks)
        options: dict[str, str | Sequence[str]] = {f"h:{k}": v for k, v in message.headers.items()}
        if message.reply_to is not None:
            options["h:Reply-To"] = message.reply_to
        # A single scalar of the shape <unique@domain>: anything else is ignored, or becomes a junk header.
        options["h:Message-Id"] = f"<{message.reference}@{self.account.domain}>"
        options["v:landed_delivery"] = str(message.delivery_id)
        options["v:landed_attempt"] = str(message.attempt_no)
        options["o:tag"] = _tags(message)
        # Said outright, since the domain's own settings would otherwise decide.
        options["o:tracking"] = _yes(message.track_opens or message.track_clicks)
        options["o:tracking-opens"] = opens
        options["o:tracking-clicks"] = clicks
        options["o:suppress-headers"] = "X-Mailgun-Variables"  # else recipients see our ids
        if message.test_mode or self.account.test_mode:
            options["o:testmode"] = "yes"
        return options

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer to a send means. Only an answer with an id counts as accepted."""
        payload = _json(response.body)
        message_id = payload.get("id") if isinstance(payload, dict) else None
        if 200 <= response.status < 300 and isinstance(message_id, str) and (found := _bare(message_id)):
            return Outcome(OutcomeKind.ACCEPTED, "queued", response.status, provider_message_id=found)
        words = _words(payload, response.body)
        kind = _refusal(response.status, words)
        wait = _retry_after(response, payload, words, now) if kind is OutcomeKind.RATE_LIMITED else None
        detail = _redact(words) or f"HTTP {response.status}"
        return Outcome(kind, detail, response.status, retry_after_seconds=wait)

    # -- webhooks --------------------------------------------------------------------------------------------

    def verify(self, request: WebhookRequest, now: datetime, key: bytes | None = None) -> None:
        """Refuses what Mailgun did not sign: forged 401; stale or malformed 406, which ends its retries."""
        signature = _signature(request.body)
        signed = f"{signature.timestamp}{signature.token}".encode()
        expected = hmac.new(self._signing_key, signed, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), signature.signature.encode()):
            raise WebhookRefused("the signature is not Mailgun's", reason="forged", status=FORGED_STATUS)
        age = now.timestamp() - int(signature.timestamp)
        if not -WEBHOOK_FUTURE_SECONDS <= age <= self.account.webhook_max_age_seconds:
            raise WebhookRefused(f"signed {age:.0f} s ago", reason="stale", status=GIVE_UP_STATUS)

    def replay_token(self, request: WebhookRequest) -> str | None:
        """What the signature covers in place of the body: it may only carry the event it first came with."""
        return _signature(request.body).token

    def parse(self, request: WebhookRequest) -> Sequence[Evidence]:
        """The fact in a webhook, or in a bare event as the Events API lists them."""
        payload = _json(request.body)
        if not isinstance(payload, dict):
            raise _malformed("not a JSON object")
        return (_evidence(payload.get("event-data", payload)),)

    # -- looking up ------------------------------------------------------------------------------------------

    def build_lookup(self, attempt: AttemptRef, now: datetime) -> ProviderRequest:
        """Asks the Events API for everything about this attempt's message; ids go without angle brackets."""
        query = {
            "message-id": " OR ".join(self._message_ids(attempt)),
            "begin": math.floor((attempt.opened_at - CLOCK_SKEW).timestamp()),
            "end": math.ceil(now.timestamp()),
            "ascending": "yes",
            "limit": EVENTS_PAGE_MAX,
        }
        return ProviderRequest("GET", f"{self._events_url}?{urlencode(query)}", self._lookup_headers)

    def interpret_lookup(self, attempt: AttemptRef, response: ProviderResponse, now: datetime) -> Lookup:
        """What one page says. Absence proves something only after the settle time, and inside retention."""
        payload = _json(response.body)
        items = payload.get("items") if isinstance(payload, dict) else None
        if response.status != 200 or not isinstance(items, list):
            words = _redact(_words(payload, response.body))
            return Lookup(LookupVerdict.UNAVAILABLE, detail=f"HTTP {response.status} {words}".strip())
        evidence = tuple(self._about(attempt, items))
        more = self._next_page(payload)
        if evidence:
            return Lookup(LookupVerdict.FOUND, evidence, next_request=more if _full(items) else None)
        if not items:
            return absent(attempt, self.capabilities, now)
        if more is None:
            return Lookup(LookupVerdict.UNAVAILABLE, detail="the page leads nowhere")
        return Lookup(LookupVerdict.TOO_EARLY, detail="only other events on this page", next_request=more)

    def _message_ids(self, attempt: AttemptRef) -> list[str]:
        """Ours, and the one the provider answered with should it ever differ."""
        ours = f"{attempt.reference}@{self.account.domain}"
        theirs = attempt.provider_message_id
        return [ours] if theirs is None or theirs == ours else [ours, theirs]

    def _about(self, attempt: AttemptRef, items: Sequence[Any]) -> Iterator[Evidence]:
        """The readable events that speak of this very attempt, whatever else the page holds."""
        ids = self._message_ids(attempt)
        for item in items:
            try:
                evidence = _evidence(item)
            except WebhookRefused:
                continue
            ours = evidence.delivery_id == attempt.delivery_id and evidence.attempt_no == attempt.attempt_no
            if ours or evidence.provider_message_id in ids:
                yield evidence

    def _next_page(self, payload: Mapping[str, Any]) -> ProviderRequest | None:
        """The page the provider points to, if it is really the provider's: our key must go nowhere else."""
        url = _at(payload, "paging", "next")
        if not isinstance(url, str) or not _same_origin(url, self._events_url):
            return None
        return ProviderRequest("GET", url, self._lookup_headers)


# -- requests ------------------------------------------------------------------------------------------------

_DOMAIN: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_BASE_URL: Final = re.compile(r"https?://[^/?#@\s]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # CR and LF above all; a tab may fold a header
_HEADER_NAME: Final = re.compile(r"[!-9;-~]+")  # RFC 5322, 3.6.8: printable ASCII except the colon
_OWN_HEADERS: Final = frozenset({"message-id", "from", "to", "cc", "bcc", "subject", "reply-to"})


def _basic(key: str) -> str:
    return "Basic " + b64encode(f"api:{key}".encode()).decode()


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _size(options: Mapping[str, str | Sequence[str]]) -> int:
    """Bytes of the names and values of options, as Mailgun counts them."""
    values = (value if isinstance(value, str) else "".join(value) for value in options.values())
    return len("".join((*options, *values)).encode("utf-8", "surrogatepass"))


def _tags(message: EmailMessage) -> list[str]:
    """The category first, then the message's own. Only labels: an odd one must not cost the message."""
    given = (message.category, *message.tags)
    tags = (tag.encode("ascii", "replace").decode()[:TAG_CHARS_MAX] for tag in given)
    return list(dict.fromkeys(tag for tag in tags if tag))[:TAGS_MAX]


def _refuse_injection(message: EmailMessage) -> None:
    """The last line of defence: no value becomes a second header, a second recipient, another message id."""
    for name in message.headers:
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS:
            raise InvalidFields(FieldError(f"headers.{name!r}", "not a header that may be set"))
    if "," in message.to or ";" in message.to:
        raise InvalidFields(FieldError("to", "exactly one address"))
    fields = (message.to, message.sender, message.subject, message.reply_to or "", message.category)
    if _CONTROL.search("".join((*fields, *message.headers.values(), *message.tags))):
        raise InvalidFields(*_with_control_characters(message))


def _with_control_characters(message: EmailMessage) -> Iterator[FieldError]:
    fields = {
        "to": message.to,
        "sender": message.sender,
        "subject": message.subject,
        "reply_to": message.reply_to or "",
        "category": message.category,
        "tags": "".join(message.tags),
        **{f"headers.{name}": value for name, value in message.headers.items()},
    }
    for name, value in fields.items():
        if _CONTROL.search(value):
            yield FieldError(name, "no line breaks or other control characters")


# -- answers to a send ---------------------------------------------------------------------------------------

_AFTER: Final = re.compile(r"\bafter (?:(?P<seconds>\d{1,9}(?:\.\d+)?) ?s|(?P<date>[^.;]{10,40}))", re.I)
_ADDRESS: Final = re.compile(r"[^\s<>\"'(),;:]+@[^\s<>\"'(),;:]+")


def _refusal(status: int, words: str) -> OutcomeKind:
    """The outcome of an answer that carries no message id."""
    if 200 <= status < 300:
        # A wrong path is greeted, and nothing was taken. Of any other 2xx nobody can say what it took.
        return OutcomeKind.UNAUTHORIZED if "Magnificent API" in words else OutcomeKind.UNKNOWN
    if status == 400:
        if "not allowed to send" in words:
            # It speaks of the account's own domain, by which all its messages go, whoever their sender.
            return OutcomeKind.RATE_LIMITED if "limit exceeded" in words else OutcomeKind.UNAUTHORIZED
        if "to parameter is not a valid address" in words.replace("'", ""):
            return OutcomeKind.RECIPIENT_INVALID
    if status == 402:  # "parameters were valid but the request failed"
        return OutcomeKind.TRANSIENT
    return kind_of_status(status)  # 404: the domain is unknown, or lives in the other region


def _words(payload: Any, body: bytes) -> str:
    """The message of an answer, which is JSON or plain text as Mailgun pleases."""
    message = payload.get("message") if isinstance(payload, dict) else None
    return message if isinstance(message, str) else body[:2000].decode("utf-8", "replace")


def _redact(words: str) -> str:
    """For operators and logs: one line, bounded, without addresses."""
    return _ADDRESS.sub("<address>", " ".join(_text(words, 2000).split()))[:DETAIL_CHARS_MAX]


def _retry_after(response: ProviderResponse, payload: Any, words: str, now: datetime) -> float | None:
    """Seconds to wait, from wherever Mailgun put it this time; None when it did not say."""
    found = _AFTER.search(words)
    seconds = _number(_at(payload, "retry-seconds"))
    candidates = (
        retry_after(response.headers, now),
        seconds_or_date(found["seconds"] or found["date"], now) if found else None,
        None if seconds is None else max(0.0, seconds),
        rate_limit_reset(response.headers, now),
    )
    return next((wait for wait in candidates if wait is not None), None)


# -- webhooks and events -------------------------------------------------------------------------------------


class _Signature(NamedTuple):
    timestamp: str
    token: str
    signature: str


def _signature(body: bytes) -> _Signature:
    payload = _json(body)
    parts = [_at(payload, "signature", part) for part in _Signature._fields]
    timestamp, token, signature = (part if isinstance(part, str) else "" for part in parts)
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise _malformed("no signature with a timestamp")
    if not (token.isascii() and 0 < len(token) <= 200 and signature.isascii() and signature):
        raise _malformed("no signature with a token")
    return _Signature(timestamp, token, signature)


_KINDS: Final[Mapping[str, EvidenceKind]] = {
    "accepted": EvidenceKind.ACCEPTED,
    "delivered": EvidenceKind.DELIVERED,
    "rejected": EvidenceKind.FAILED,
    "opened": EvidenceKind.OPENED,
    "clicked": EvidenceKind.CLICKED,
    "unsubscribed": EvidenceKind.UNSUBSCRIBED,
    "complained": EvidenceKind.COMPLAINED,
}
_SUPPRESSING: Final = {EvidenceKind.UNSUBSCRIBED: "unsubscribe", EvidenceKind.COMPLAINED: "complaint"}
_REFERENCE: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.([0-9]{1,5})@")

#: What the timeline shows of an event: our name for it, and where Mailgun keeps it. No person's IP address.
_SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "reason": ("reason",),
    "severity": ("severity",),
    "code": ("delivery-status", "code"),
    "enhanced_code": ("delivery-status", "enhanced-code"),
    "message": ("delivery-status", "message"),
    "description": ("delivery-status", "description"),
    "attempt": ("delivery-status", "attempt-no"),
    "mx_host": ("delivery-status", "mx-host"),
    "retry_seconds": ("delivery-status", "retry-seconds"),
    "bounce_type": ("delivery-status", "bounce-type"),
    "last_code": ("delivery-status", "last-code"),
    "last_message": ("delivery-status", "last-message"),
    "tls": ("delivery-status", "tls"),
    "delayed_bounce": ("flags", "is-delayed-bounce"),
    "test_mode": ("flags", "is-test-mode"),
    "recipient_provider": ("recipient-provider",),
    "reject_reason": ("reject", "reason"),
    "reject_description": ("reject", "description"),
    "client": ("client-info", "client-name"),
    "device": ("client-info", "device-type"),
    "bot": ("client-info", "bot"),
    "country": ("geolocation", "country"),
    "url": ("url",),
}


def _evidence(event: Any) -> Evidence:
    """One event in our words. Raises WebhookRefused when it is not an event at all."""
    name = _text(_at(event, "event"), 40)
    if not name:
        raise _malformed("no event")
    occurred_at = _occurred_at(_at(event, "timestamp"))
    verdict = _verdict(name, event)
    message_id = _bare(_text(_at(event, "message", "headers", "message-id")))
    delivery_id, attempt_no = _correlation(event, message_id)
    return Evidence(
        kind=verdict.kind,
        event_key=f"{name}:{_event_id(event)}:{occurred_at:%Y-%m-%d}",
        occurred_at=occurred_at,
        delivery_id=delivery_id,
        attempt_no=attempt_no,
        provider_message_id=message_id or None,
        address=_recipient(event),
        bounce_class=verdict.bounce_class,
        suppress_reason=verdict.suppress_reason,
        data=_shown(verdict.kind, event),
    )


def _event_id(event: Mapping[str, Any]) -> str:
    """Mailgun's id of the event; should one come without, the digest of it all."""
    given = _text(event.get("id"), 200)
    return given or hashlib.sha256(json.dumps(event, sort_keys=True).encode()).hexdigest()[:32]


def _occurred_at(timestamp: Any) -> datetime:
    seconds = _number(timestamp)
    if seconds is None or not 946684800 <= seconds < 4102444800:  # the years 2000 to 2099
        raise _malformed("no timestamp")
    return datetime.fromtimestamp(seconds, UTC)


def _correlation(event: Mapping[str, Any], message_id: str) -> tuple[UUID | None, int | None]:
    """Our ids, from the variables we sent along; else from the Message-Id, which we made."""
    variables = event.get("user-variables")
    if isinstance(variables, str):  # as the Logs API writes them
        variables = _json(variables.encode("utf-8", "replace"))
    given = f"{_text(_at(variables, 'landed_delivery'))}.{_text(_at(variables, 'landed_attempt'))}@"
    found = _REFERENCE.fullmatch(given) or _REFERENCE.match(message_id)
    if found is None or not 0 < int(found[2]) <= 32767:
        return None, None
    return UUID(found[1]), int(found[2])


def _recipient(event: Mapping[str, Any]) -> str | None:
    """A rejected message names no recipient, only its To header."""
    given = _text(event.get("recipient"), 320) or parseaddr(_text(_at(event, "message", "headers", "to")))[1]
    return given or None


def _shown(kind: EvidenceKind, event: Mapping[str, Any]) -> dict[str, Any]:
    data = {name: _plain(_at(event, *path)) for name, path in _SHOWN.items()}
    shown = {name: value for name, value in data.items() if value not in (None, "")}
    if kind is EvidenceKind.UNSUBSCRIBED:
        # The first tag is the category. Without tags nobody can tell from what, so it is from everything.
        tags = event.get("tags")
        shown["scope"] = (_text(tags[0], TAG_CHARS_MAX) if isinstance(tags, list) and tags else "") or "all"
    return shown


# -- failures ------------------------------------------------------------------------------------------------


class _Verdict(NamedTuple):
    kind: EvidenceKind
    bounce_class: BounceClass | None = None
    suppress_reason: str | None = None


_ON_ITS_LIST: Final = _Verdict(EvidenceKind.FAILED, BounceClass.PROVIDER_SUPPRESSED, "provider_suppressed")
_HARD: Final = _Verdict(EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce")
_SOFT: Final = _Verdict(EvidenceKind.BOUNCED, BounceClass.SOFT)
_REPUTATION: Final = _Verdict(EvidenceKind.BOUNCED, BounceClass.REPUTATION)
_CONTENT: Final = _Verdict(EvidenceKind.BOUNCED, BounceClass.CONTENT)
_REJECTED: Final = _Verdict(EvidenceKind.FAILED, BounceClass.CONTENT)
_GAVE_UP: Final = _Verdict(EvidenceKind.FAILED, BounceClass.SOFT)
_ITS_OWN_FAULT: Final = _Verdict(EvidenceKind.FAILED)
_DEFERRED: Final = _Verdict(EvidenceKind.DEFERRED)

# Mailgun's own codes, where no receiving server spoke.
_CODES_ON_ITS_LIST: Final = frozenset({605, 606, 607})  # previously bounced, unsubscribed, complained
_CODES_GAVE_UP: Final = frozenset({498, 499, 602})  # no MX, cannot connect, too old
_CODE_INTERNAL: Final = 680

_CODES_NO_MAILBOX: Final = frozenset({550, 551, 553})  # RFC 5321, 4.2.3; R-112
_ENHANCED: Final = re.compile(r"(?<![\d.])([45]\.\d{1,3}\.\d{1,3})(?![\d.]*\d)")
_BLOCK_WORDS: Final = re.compile(r"spam|block|reputation|dnsbl|\brbl\b|policy|dmarc|\bspf\b", re.I)
_NO_MAILBOX_WORDS: Final = re.compile(
    r"(unknown|no such|invalid|non-?existent) (user|recipient|mailbox|address)|(does not|doesn't) exist|"
    r"(user|recipient|mailbox|address) (is )?(unknown|not found|disabled|inactive|rejected)",
    re.I,
)


def _verdict(name: str, event: Mapping[str, Any]) -> _Verdict:
    if name == "failed":
        # Only what is said to be permanent may end a delivery or suppress an address.
        return _permanent(event) if event.get("severity") == "permanent" else _DEFERRED
    if name == "rejected":
        return _REJECTED
    kind = _KINDS.get(name, EvidenceKind.OTHER)
    return _Verdict(kind, suppress_reason=_SUPPRESSING.get(kind))


def _permanent(event: Mapping[str, Any]) -> _Verdict:
    """Why a message failed for good, most telling sign first; the address is blamed only on plain signs."""
    reason = _text(event.get("reason"))
    status = event.get("delivery-status")
    code = int(_number(_at(status, "code")) or 0)
    message = _text(_at(status, "message"))
    enhanced = _enhanced_code(status, message)
    if reason.startswith("suppress-") or code in _CODES_ON_ITS_LIST:
        return _ON_ITS_LIST
    if code == _CODE_INTERNAL:
        return _ITS_OWN_FAULT
    if reason in ("espblock", "blacklisted") or enhanced.startswith(SENDER_CODES):
        return _REPUTATION
    if enhanced.startswith("5.6."):
        return _CONTENT
    if enhanced.startswith("5.1.") or enhanced == "5.2.1":
        return _HARD
    if reason in ("old", "greylisted") or code in _CODES_GAVE_UP or code // 100 == 4 or enhanced[:2] == "4.":
        return _GAVE_UP
    if not enhanced and _BLOCK_WORDS.search(message):
        return _REPUTATION
    if code in _CODES_NO_MAILBOX and (not enhanced or _NO_MAILBOX_WORDS.search(message)):
        return _HARD
    return _SOFT


def _enhanced_code(status: Any, message: str) -> str:
    """RFC 3463's code, from its own field or else from the server's words."""
    found = _ENHANCED.search(_text(_at(status, "enhanced-code"))) or _ENHANCED.search(message)
    return found[1] if found else ""


# -- reading what may be anything ----------------------------------------------------------------------------


def _malformed(detail: str) -> WebhookRefused:
    return WebhookRefused(detail, reason="malformed", status=GIVE_UP_STATUS)


def _json(body: bytes) -> Any:
    """The document, or None. One bad character in somebody's subject must not hide the fact around it."""
    try:
        return json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _at(value: Any, *path: str) -> Any:
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _text(value: Any, chars_max: int = TEXT_CHARS_MAX) -> str:
    """A string any store takes: bounded, valid UTF-8, no NUL. Numbers become text, anything else nothing."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return ""
    return value[:chars_max].replace("\0", "").encode("utf-8", "replace").decode()


def _number(value: Any) -> float | None:
    """A finite number, also when it is written as a string."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _plain(value: Any) -> str | int | float | bool | None:
    """A value for the timeline: short text, a finite number or a flag."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value if _number(value) is not None and abs(value) < 2**53 else None
    return _text(value)


def _bare(message_id: str) -> str:
    """Answers carry a message id in angle brackets, events without: everywhere here it goes without."""
    return _text(message_id.strip().removeprefix("<").removesuffix(">"))


def _full(items: Sequence[Any]) -> bool:
    """Whether more may follow; a page with room to spare holds all there is of one message."""
    return len(items) >= EVENTS_PAGE_MAX


def _same_origin(url: str, ours: str) -> bool:
    try:
        theirs, own = urlsplit(url), urlsplit(ours)
        return (theirs.scheme, theirs.hostname, theirs.port) == (own.scheme, own.hostname, own.port) and (
            theirs.username is None and theirs.path.startswith(own.path)
        )
    except ValueError:
        return False
