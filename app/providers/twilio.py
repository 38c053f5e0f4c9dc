"""Twilio: the Messages resource, its status callbacks and inbound messages as pure functions.

Sources: Twilio's OpenAPI description and its pages on the Message resource, status callbacks, webhook security and
Advanced Opt-Out. What shaped this file:

- Sending has no idempotency key, and a message has no field for an id of ours. So ours travels in the query of the
  status callback's URL, which the signature covers; whatever Twilio says of a message, it says with our id.
- A callback is tried once more, and only when it could not connect, unless the URL's fragment asks for more.
- No callback tells of the initial status. Until the next one comes, or where none can, the list of messages to the
  same number is asked; it cannot be searched by our id, only compared with the text that was sent.
- Signatures cover the URL as Twilio spells it, with or without the port, and every parameter, known or not. They carry
  no time: what comes twice is told by message, status and error code.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from yarl import URL

from app.domain.keywords import Keyword, inbound_evidence, keyword_of
from app.domain.models import Channel, Evidence, Outcome, OutcomeKind
from app.domain.sms import content_hash, e164
from app.providers import sms
from app.providers.base import (
    SENDER_REFUSED,
    AttemptRef,
    Capabilities,
    Lookup,
    LookupVerdict,
    Provider,
    ProviderRequest,
    ProviderResponse,
    SendContext,
    SmsMessage,
    WebhookAnswer,
    WebhookRequest,
    absent,
)
from app.providers.reading import retry_after, text
from app.providers.sms import ACCEPTED, CONTENT, DELIVERED, GAVE_UP, HARD, OPTED_OUT, OTHER, REPUTATION, SOFT, Verdict

HOST: Final = "https://api.twilio.com"

TEXT_CHARS_MAX: Final = 1600
VALIDITY_SECONDS_MAX: Final = 36000

# Tried again up to five times, on whatever kept a callback from being taken (Twilio, "Connection overrides").
RETRY_OVERRIDE: Final = "rc=5&rp=all&ct=2000&rt=5000&tt=15000"

LOOKUP_PAGE_MAX: Final = 300  # a message of 1,600 characters, each escaped, takes 10 kB: such a page can still be read
LOOKUP_RETENTION_SECONDS: Final = 3 * 86400.0  # messages are kept for far longer; nothing is asked about so late
WINDOW_BEFORE: Final = timedelta(seconds=5)  # how far Twilio's clock may be behind ours
CLOCKS_APART: Final = timedelta(minutes=5)  # what is like it and this much too early leaves a doubt
WINDOW_AFTER: Final = timedelta(minutes=5)  # how much later than we meant to call it the message can have been made


@dataclass(frozen=True, slots=True)
class TwilioAccount:
    """One account and who it sends as. Raises ValueError for what could not work.

    auth_token: signs the webhooks, also where an API key (``api_key_sid``, ``api_key_secret``) sends.
    sender, messaging_service_sid: one of them, or a service together with the one of its senders to use.
    previous_auth_token, previous_shared_key: accepted on webhooks too, while they are being rotated out.
    shared_key: the secret that signs webhooks in place of the auth token where a Webhooks Rule says so.
    base_url: in place of ``https://api.twilio.com``; for another region or the sandbox.
    test_credentials: the account delivers nothing, so a test message may go out through it.
    lookup_settle_seconds: after this long, a message that is in no list was never made. None: absence proves nothing.
    """

    account_sid: str
    auth_token: str = field(repr=False)
    sender: str | None = None
    messaging_service_sid: str | None = None
    api_key_sid: str | None = None
    api_key_secret: str | None = field(default=None, repr=False)
    previous_auth_token: str | None = field(default=None, repr=False)
    shared_key: str | None = field(default=None, repr=False)
    previous_shared_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    test_credentials: bool = False
    lookup_settle_seconds: float | None = None

    def __post_init__(self) -> None:
        if not _ACCOUNT_SID.fullmatch(self.account_sid):  # it becomes part of every URL
            raise ValueError("account_sid must be AC and 32 hexadecimal digits")
        if not self.auth_token:
            raise ValueError("auth_token must not be empty")
        if self.sender is None and self.messaging_service_sid is None:
            raise ValueError("one of sender and messaging_service_sid is needed")
        if self.sender is not None and not sms.SENDER.fullmatch(self.sender):
            raise ValueError(sms.SENDER_RULE)
        if self.messaging_service_sid is not None and not _SERVICE_SID.fullmatch(self.messaging_service_sid):
            raise ValueError("messaging_service_sid must be MG and 32 hexadecimal digits")
        if (self.api_key_sid is None) != (self.api_key_secret is None):
            raise ValueError("api_key_sid and api_key_secret belong together")
        sms.check_account(base_url=self.base_url, lookup_settle_seconds=self.lookup_settle_seconds)


class Twilio(Provider[SmsMessage]):
    """One Twilio account behind the Provider protocol."""

    name: ClassVar[str] = "twilio"
    webhook_answer: ClassVar[WebhookAnswer | None] = WebhookAnswer(
        "text/xml", b'<?xml version="1.0" encoding="UTF-8"?><Response/>'
    )

    def __init__(self, account: TwilioAccount) -> None:
        self.account = account
        self.capabilities = Capabilities(
            channel=Channel.SMS,
            confirms_delivery=True,
            can_look_up=True,
            accepts_client_id=False,
            lookup_settle_seconds=account.lookup_settle_seconds,
            lookup_retention_seconds=LOOKUP_RETENTION_SECONDS,
            finds_by_content=True,
            takes_tests=account.test_credentials,
        )
        self._origin = account.base_url or HOST
        self._messages = f"/2010-04-01/Accounts/{account.account_sid}/Messages"
        user = account.api_key_sid or account.account_sid
        password = account.api_key_secret or account.auth_token
        self._lookup_headers = {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}
        self._send_headers = {**self._lookup_headers, "Content-Type": sms.FORM}
        self._auth_tokens = _present(account.auth_token, account.previous_auth_token)
        self._shared_keys = _present(account.shared_key, account.previous_shared_key)

    # -- sending -----------------------------------------------------------------------------------------------------

    def build(self, message: SmsMessage, context: SendContext) -> ProviderRequest:
        """The send request. Raises InvalidFields for what must never leave."""
        sms.refuse_unsendable(message, chars_max=TEXT_CHARS_MAX)
        # The text is sent as it was written: its segments were counted so, and a look-up knows it by its words.
        fields = {"To": message.to, "Body": message.text, "SmartEncoded": "false"}
        if self.account.sender is not None:
            fields["From"] = self.account.sender
        if self.account.messaging_service_sid is not None:
            fields["MessagingServiceSid"] = self.account.messaging_service_sid
        if context.webhook_url is not None:
            joint = "&" if "?" in context.webhook_url else "?"
            fields["StatusCallback"] = f"{context.webhook_url}{joint}mid={message.reference}#{RETRY_OVERRIDE}"
        left = int((message.expires_at - context.now).total_seconds())
        fields["ValidityPeriod"] = str(min(max(left, 1), VALIDITY_SECONDS_MAX))
        body = URL.build(query=fields).raw_query_string.encode()
        return ProviderRequest("POST", f"{self._origin}{self._messages}.json", self._send_headers, body)

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer to a send means. Only an answer with a sid counts as accepted."""
        payload = sms.json_object(response.body)
        sid = text(payload.get("sid"), 64)
        if 200 <= response.status < 300 and _SID.fullmatch(sid):
            status = sms.words(payload.get("status")) or "accepted"
            return Outcome(OutcomeKind.ACCEPTED, status, response.status, provider_message_id=sid)
        code = sms.code(payload.get("code"))
        kind, reason = _refusal(response.status, code)
        said = sms.words(payload.get("message")) or f"HTTP {response.status}"
        return Outcome(
            kind,
            f"{code}: {said}" if code else said,
            response.status,
            retry_after_seconds=retry_after(response.headers, now) if kind is OutcomeKind.RATE_LIMITED else None,
            reason=reason,
        )

    # -- webhooks ----------------------------------------------------------------------------------------------------

    def verify(self, request: WebhookRequest, now: datetime, key: bytes | None = None) -> None:
        """Refuses what Twilio did not sign, with the auth token or with a shared key."""
        keys, algorithm = self._signed_with(request.headers.get("x-twilio-webhooks-signature-settings", ""))
        params = _signed_params(request)
        expected = [_signature(key, f"{url}{params}", algorithm) for key in keys for url in _spellings(request.url)]
        if not sms.is_one_of(request.headers.get("x-twilio-signature", ""), expected):
            raise sms.forged("the signature is not Twilio's")

    def _signed_with(self, settings: str) -> tuple[Sequence[bytes], str]:
        """The keys and the algorithm that a signature was made with: ``key=<id>,algorithm=HMAC_SHA256``."""
        if not settings.strip():
            return self._auth_tokens, "sha1"
        named = dict(part.strip().split("=", 1) for part in settings.split(",") if "=" in part)
        algorithm = _ALGORITHMS.get(named.get("algorithm", "HMAC_SHA1").upper())
        if algorithm is None:
            raise sms.forged("signed by an algorithm that is not known")
        if not self._shared_keys:
            raise sms.forged("signed with a shared key, and the account has no shared_key")
        return self._shared_keys, algorithm

    def parse(self, request: WebhookRequest) -> Sequence[Evidence]:
        """The fact in a status callback, or in a message that somebody sent to us."""
        params = _params(request)
        sid = text(params.get("MessageSid") or params.get("SmsSid"), 64)
        status = text(params.get("MessageStatus") or params.get("SmsStatus"), 40).lower()
        inbound = status in ("received", "receiving") or ("Body" in params and "MessageStatus" not in params)
        if not _SID.fullmatch(sid) or not (status or inbound):
            raise sms.malformed("no MessageSid with a MessageStatus")
        if inbound:
            return (_inbound(sid, params, request.received_at),)
        ids = sms.correlation(dict(sms.query_pairs(request.url)).get("mid"))
        return (
            _evidence(
                sid,
                status,
                ids=ids,
                code=sms.code(params.get("ErrorCode")),
                words=sms.words(params.get("ErrorMessage") or params.get("ChannelStatusMessage")),
                to=text(params.get("To"), 60),
                occurred_at=request.received_at,
            ),
        )

    # -- looking up --------------------------------------------------------------------------------------------------

    def build_lookup(self, attempt: AttemptRef, now: datetime) -> ProviderRequest:
        """Asks for the message where its sid is known, else for all messages to the number.

        Without a filter by day: whether that finds messages that were not sent on yet is not documented.
        """
        if (known := _known_sid(attempt)) is not None:
            return self._get(f"{self._messages}/{known}.json")
        query = urlencode({"To": attempt.address, "PageSize": LOOKUP_PAGE_MAX})
        return self._get(f"{self._messages}.json?{query}")

    def interpret_lookup(self, attempt: AttemptRef, response: ProviderResponse, now: datetime) -> Lookup:
        """What one page says; without a sid, a message is recognised by number, time and text."""
        payload = sms.json_object(response.body)
        known = _known_sid(attempt)
        if response.status == 404 and known is not None:
            return Lookup(LookupVerdict.UNANSWERABLE, detail="Twilio no longer has the message")
        if response.status == 200 and known is not None and payload.get("sid") == known:
            return Lookup(LookupVerdict.FOUND, (_found(attempt, payload, now),))
        if response.status == 200 and known is None and isinstance(payload.get("messages"), list):
            return self._search(attempt, payload, now)
        words = sms.words(payload.get("message"))
        return Lookup(LookupVerdict.UNAVAILABLE, detail=f"HTTP {response.status} {words}".strip())

    def _search(self, attempt: AttemptRef, payload: Mapping[str, Any], now: datetime) -> Lookup:
        """Whether exactly one of the messages to this number can only be the one that was asked about."""
        page = sms.objects(payload["messages"])
        if len(page) < len(payload["messages"]) or not all(_is_readable(attempt, message) for message in page):
            return Lookup(LookupVerdict.UNAVAILABLE, detail="an answer that cannot be read")
        near = [message for message in page if _may_be(attempt, message)]
        same = [message for message in near if _hash(message) == attempt.content_hash]
        if not same and any(
            _may_be(attempt, message, early=CLOCKS_APART) and _hash(message) == attempt.content_hash for message in page
        ):
            return _undecided(attempt, now, "a message like it, made a little earlier")
        if len(same) > 1 or any(_hash(message) is None for message in near) or (near and attempt.content_hash is None):
            return _undecided(attempt, now, "messages to this number that cannot be told apart")
        if same and not _holds_all(page, payload, attempt):
            return _undecided(attempt, now, "there may be another such message on another page")
        if same:
            return Lookup(LookupVerdict.FOUND, (_found(attempt, same[0], now),))
        if payload.get("next_page_uri") is None:
            return absent(attempt, self.capabilities, now)
        if (more := self._next_page(payload)) is None:
            return Lookup(LookupVerdict.UNAVAILABLE, detail="the page leads nowhere")
        return Lookup(LookupVerdict.TOO_EARLY, detail="only other messages on this page", next_request=more)

    def _next_page(self, payload: Mapping[str, Any]) -> ProviderRequest | None:
        """The page Twilio points to, if it is one of this very list: our credentials must go nowhere else."""
        uri = payload.get("next_page_uri")
        if not isinstance(uri, str) or not _PRINTABLE.fullmatch(uri) or not uri.startswith(f"{self._messages}.json?"):
            return None
        return self._get(uri)

    def _get(self, path: str) -> ProviderRequest:
        return ProviderRequest("GET", f"{self._origin}{path}", self._lookup_headers)


_ACCOUNT_SID: Final = re.compile(r"AC[0-9a-fA-F]{32}")
_SERVICE_SID: Final = re.compile(r"MG[0-9a-fA-F]{32}")
_SID: Final = re.compile(r"[A-Za-z0-9]{2,64}")
_PRINTABLE: Final = re.compile(r"[!-~]+")


def _present(*keys: str | None) -> tuple[bytes, ...]:
    return tuple(key.encode() for key in keys if key)


# -- answers to a send -------------------------------------------------------------------------------------------------

CODE_OPTED_OUT: Final = 21610
CODE_MAINTENANCE: Final = 21730  # a 5xx, and yet it says that nothing was taken

#: What each error code means where the status alone would not tell.
_REFUSALS: Final[Mapping[int, OutcomeKind]] = {
    20003: OutcomeKind.UNAUTHORIZED,
    20404: OutcomeKind.UNAUTHORIZED,
    20429: OutcomeKind.RATE_LIMITED,
    21211: OutcomeKind.RECIPIENT_INVALID,
    21212: OutcomeKind.UNAUTHORIZED,  # the From is no sender, whoever is written to
    # The country is not enabled. UNAUTHORIZED would hold up everybody, for as long as one such number is tried.
    21408: OutcomeKind.REJECTED,
    21602: OutcomeKind.REJECTED,
    21604: OutcomeKind.REJECTED,
    21605: OutcomeKind.REJECTED,
    21606: OutcomeKind.UNAUTHORIZED,  # the From cannot send texts, or not there
    21608: OutcomeKind.UNAUTHORIZED,  # a trial account
    CODE_OPTED_OUT: OutcomeKind.RECIPIENT_INVALID,
    21611: OutcomeKind.RATE_LIMITED,  # the sender's queue is full
    21612: OutcomeKind.REJECTED,  # not reachable from this sender
    21614: OutcomeKind.RECIPIENT_INVALID,  # not a mobile
    21617: OutcomeKind.REJECTED,
    21703: OutcomeKind.UNAUTHORIZED,  # the service has no sender
    21704: OutcomeKind.UNAUTHORIZED,
    30034: OutcomeKind.UNAUTHORIZED,  # the sender is not registered for A2P 10DLC
}
#: The sender is the account's, and yet these depend on where the message goes: a short code is good for one country,
#: only texts to the US need a registration, and a trial account may text its own numbers. All others still get theirs.
_REASONS: Final[Mapping[int, str]] = {
    CODE_OPTED_OUT: "opted_out",
    21606: SENDER_REFUSED,
    21608: SENDER_REFUSED,
    30034: SENDER_REFUSED,
}


def _refusal(status: int, code: int | None) -> tuple[OutcomeKind, str | None]:
    """The outcome of an answer without a sid, and the name of its end."""
    if code == CODE_MAINTENANCE and status >= 400:
        return OutcomeKind.TRANSIENT, None
    if code is not None and code in _REFUSALS and 400 <= status < 500:
        return _REFUSALS[code], _REASONS.get(code)
    return sms.kind_of_status(status), None


# -- signatures --------------------------------------------------------------------------------------------------------

_ALGORITHMS: Final = {"HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}


def _signature(key: bytes, signed: str, algorithm: str) -> str:
    return b64encode(hmac.new(key, signed.encode("utf-8", "surrogatepass"), algorithm).digest()).decode()


def _signed_params(request: WebhookRequest) -> str:
    """What the signature covers beside the URL. Raises WebhookRefused for a body that it does not cover.

    Form parameters are taken as sets, in order; any other body is covered by its hash in the URL.
    """
    if sms.media_type(request) == sms.FORM:
        return "".join(f"{name}{value}" for name, value in sorted(set(sms.form_pairs(request.body))))
    if request.body:
        given = dict(sms.query_pairs(request.url)).get("bodySHA256", "").lower()
        if not sms.is_one_of(given, [hashlib.sha256(request.body).hexdigest()]):
            raise sms.forged("the signature does not cover the body")
    return ""


def _spellings(url: str) -> Iterator[str]:
    """The URL as Twilio may have signed it: with the port or without, and perhaps with the fragment we gave it."""
    for spelling in {url, *_with_and_without_port(url)}:
        yield spelling
        yield f"{spelling}#{RETRY_OVERRIDE}"


def _with_and_without_port(url: str) -> tuple[str, ...]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ()
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return ()
    start = len(parts.scheme) + len("://")
    rest = url[start + len(parts.netloc) :]
    bare = parts.netloc if port is None else parts.netloc.rpartition(":")[0]
    usual = 443 if parts.scheme == "https" else 80
    return tuple(f"{url[:start]}{host}{rest}" for host in (bare, f"{bare}:{usual if port is None else port}"))


# -- webhooks and messages ---------------------------------------------------------------------------------------------

_STATUSES: Final[Mapping[str, Verdict]] = {
    "accepted": ACCEPTED,
    "scheduled": ACCEPTED,
    "queued": ACCEPTED,
    "sending": ACCEPTED,
    "sent": ACCEPTED,  # the carrier has it, and some never say more
    "partially_delivered": ACCEPTED,
    "delivered": DELIVERED,
    "read": DELIVERED,
    "canceled": GAVE_UP,
}
#: Why a message failed: what it means, and in words, since a callback brings the number only.
_FAILURES: Final[Mapping[int, tuple[Verdict, str]]] = {
    21211: (HARD, "not a phone number"),
    21408: (GAVE_UP, "the country is not enabled for the account"),
    21602: (CONTENT, "no text"),
    21605: (CONTENT, "text too long"),
    CODE_OPTED_OUT: (OPTED_OUT, "the recipient replied STOP"),
    21612: (GAVE_UP, "not reachable from this sender"),
    21614: (HARD, "not a mobile number"),
    21617: (CONTENT, "text too long"),
    30001: (GAVE_UP, "the queue overflowed"),
    30002: (REPUTATION, "the account is suspended"),
    30003: (SOFT, "handset unreachable"),
    30004: (SOFT, "blocked by the carrier or the recipient"),
    30005: (HARD, "unknown handset or inactive number"),
    30006: (HARD, "landline or unreachable carrier"),
    30007: (REPUTATION, "filtered as spam or against policy"),
    30008: (SOFT, "unknown error"),
    30009: (GAVE_UP, "a segment went missing"),
    30022: (GAVE_UP, "A2P 10DLC rate exceeded"),
    30023: (GAVE_UP, "A2P 10DLC daily cap reached"),
    30032: (REPUTATION, "toll-free number not verified"),
    30034: (REPUTATION, "sender not registered for A2P 10DLC"),
    30036: (GAVE_UP, "expired before it could be sent on"),
}


def _params(request: WebhookRequest) -> Mapping[str, Any]:
    if sms.media_type(request) == sms.FORM and request.body:
        return dict(sms.form_pairs(request.body))
    return sms.json_object(request.body) if request.body else dict(sms.query_pairs(request.url))


def _inbound(sid: str, params: Mapping[str, Any], received_at: datetime) -> Evidence:
    """A message to us. Where Twilio has judged it (Advanced Opt-Out), its judgement is what it acts upon."""
    judged = text(params.get("OptOutType"), 20).strip().upper()
    body = text(params.get("Body"), 2000)
    return inbound_evidence(
        message_id=sid,
        sender=text(params.get("From"), 60),
        receiver=text(params.get("To"), 60),
        keyword=Keyword(judged) if judged in Keyword.__members__ else keyword_of(body),
        occurred_at=received_at,
    )


def _evidence(
    sid: str,
    status: str,
    *,
    ids: tuple[UUID | None, int | None],
    code: int | None,
    words: str,
    to: str,
    occurred_at: datetime,
) -> Evidence:
    """A message's status in our words; the same however we came to know of it."""
    verdict, meaning = _STATUSES.get(status, OTHER), ""
    if status in ("failed", "undelivered"):
        unknown = SOFT if status == "undelivered" else GAVE_UP
        verdict, meaning = _FAILURES.get(code or 0, (unknown, ""))
    return Evidence(
        kind=verdict.kind,
        event_key=f"{sid}:{status}:{code or ''}",
        occurred_at=occurred_at,
        delivery_id=ids[0],
        attempt_no=ids[1],
        provider_message_id=sid,
        address=e164(to),
        bounce_class=verdict.bounce_class,
        suppress_reason=verdict.suppress_reason,
        data=sms.told(status=status, error_code=code, meaning=meaning, message=words),
    )


def _known_sid(attempt: AttemptRef) -> str | None:
    sid = attempt.provider_message_id
    return sid if sid is not None and _SID.fullmatch(sid) else None


def _undecided(attempt: AttemptRef, now: datetime, detail: str) -> Lookup:
    """The list cannot tell. The callback, which names our attempt, still may: so nothing is given up at once."""
    late = now - attempt.opened_at > WINDOW_AFTER
    return Lookup(LookupVerdict.UNANSWERABLE if late else LookupVerdict.TOO_EARLY, detail=detail)


def _found(attempt: AttemptRef, message: Mapping[str, Any], now: datetime) -> Evidence:
    dates = (sms.mail_date(message.get(name)) for name in ("date_updated", "date_sent", "date_created"))
    return _evidence(
        text(message.get("sid"), 64),
        text(message.get("status"), 40).lower(),
        ids=(attempt.delivery_id, attempt.attempt_no),
        code=sms.code(message.get("error_code")),
        words=sms.words(message.get("error_message")),
        to=attempt.address,
        occurred_at=next((date for date in dates if date is not None), now),
    )


def _is_readable(attempt: AttemptRef, message: Mapping[str, Any]) -> bool:
    """Whether it is a message of the number that was asked about, as far as is needed to tell it from others."""
    return message.get("to") == attempt.address and bool(text(message.get("direction"), 40))


def _may_be(attempt: AttemptRef, message: Mapping[str, Any], *, early: timedelta = WINDOW_BEFORE) -> bool:
    """Whether a message was made by an API call at about that time; the benefit of every doubt."""
    created = sms.mail_date(message.get("date_created"))
    return message.get("direction") == "outbound-api" and (
        created is None or attempt.opened_at - early <= created <= attempt.opened_at + WINDOW_AFTER
    )


def _hash(message: Mapping[str, Any]) -> bytes | None:
    """Of its text; None where Twilio does not keep it (``ContentRetention``), since nothing can be compared then."""
    body = message.get("body")
    if not isinstance(body, str) or not body:
        return None
    try:
        return content_hash(body)
    except UnicodeEncodeError:
        return b""


def _holds_all(page: Sequence[Mapping[str, Any]], payload: Mapping[str, Any], attempt: AttemptRef) -> bool:
    """Whether no message of that time can be on another page: this is the only one, or goes beyond at both ends."""
    dates = [sms.mail_date(message.get("date_created")) for message in page]
    known = [date for date in dates if date is not None]
    newest_first = len(known) == len(dates) and known == sorted(known, reverse=True)
    begins = payload.get("previous_page_uri") is None or (newest_first and known[0] > attempt.opened_at + WINDOW_AFTER)
    ends = payload.get("next_page_uri") is None or (newest_first and known[-1] < attempt.opened_at - WINDOW_BEFORE)
    return begins and ends
