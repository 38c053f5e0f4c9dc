"""SMTP submission to any mail server (RFC 5321, 6409), with bounces and complaints taken in as raw messages.

What shaped this file:

- Nothing can be asked for afterwards. Between the last byte of a message and the reply to it, an outcome is unknown for
  good (RFC 1047), so a resend keeps its Message-ID: many mailbox systems show a second copy once.
- What becomes of a message comes back by mail, to an envelope sender that names the attempt (VERP), with the envelope
  id repeated where servers know DSN (RFC 3461), and with the headers we sent. All three carry a reference that is
  signed: anybody may write to a bounce address, only who had the message can speak of it.
- Everything about an answer is in its phase, its code and its words; ``smtp_codes`` reads them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b32encode, b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email import policy
from email.header import Header
from email.message import EmailMessage as MimeMessage
from email.utils import format_datetime, formataddr
from typing import ClassVar, Final, Literal
from uuid import UUID

from app.domain.addresses import CONTROL, NAMED
from app.domain.models import BounceClass, Channel, Evidence, EvidenceKind, Outcome, OutcomeKind
from app.errors import FieldError, InvalidFields, WebhookRefused
from app.providers.base import (
    SENDER_REFUSED,
    Capabilities,
    EmailMessage,
    Provider,
    ProviderResponse,
    SendContext,
    SmtpRequest,
    WebhookRequest,
)
from app.providers.reports import REFERENCE_HEADER, Origin, read_report
from app.providers.smtp_codes import Refusal, classify, enhanced_code, redacted
from app.providers.smtp_transport import CONNECTIONS_MAX

PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

LINE_CHARS: Final = 78  # RFC 5322, 2.1.1: should
LINE_CHARS_MAX: Final = 998  # must
ADDRESS_CHARS_MAX: Final = 254
DETAIL_CHARS_MAX: Final = 300

GREYLIST_SECONDS: Final = 300.0  # the usual delay; sooner is refused again, and starts it anew in some
SLOW_DOWN_SECONDS: Final = 300.0  # SMTP has no way to say for how long
CONNECTIONS_SECONDS: Final = 30.0  # those that are open end soon

MAILBOX_FULL: Final = "mailbox_full"
BOUNCES: Final = "bounces+"  # before the reference in our envelope sender

_DOMAIN: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_HOST: Final = re.compile(r"[A-Za-z0-9.:_-]{1,255}")
_TOKEN: Final = re.compile(r"[!-~]{16,}")  # it travels in a header


@dataclass(frozen=True, slots=True)
class SmtpAccount:
    """One mail server that takes our mail, and the domain its reports come back to. Raises ValueError for nonsense.

    bounce_domain: of the envelope sender, ``bounces+<reference>@bounce_domain``. Mail to it must reach us.
    webhook_token: what the bounce endpoint asks for; also signs references. previous_webhook_token: still honoured, so
        that neither a pipe nor a report under way is lost when the token is changed.
    receipts: ask for reports of success too; without them nothing is ever ``delivered``.
    relayed_is_delivered: the server hands over to the recipients' own servers, so that its "relayed" proves delivery.
    trust: a CA bundle in place of the system's.
    """

    host: str
    bounce_domain: str
    webhook_token: str = field(repr=False)
    port: int | None = None
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    previous_webhook_token: str | None = field(default=None, repr=False)
    receipts: bool = True
    relayed_is_delivered: bool = False
    trust: str | None = None
    local_hostname: str | None = None

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise ValueError(f"host {self.host!r} is not a host name or address")
        if self.port is not None and not 0 < self.port < 65536:
            raise ValueError("port must be 1 to 65535")
        if not _DOMAIN.fullmatch(self.bounce_domain):
            raise ValueError(f"bounce_domain {self.bounce_domain!r} is not a domain name")
        if self.local_hostname is not None and not _DOMAIN.fullmatch(self.local_hostname):
            raise ValueError(f"local_hostname {self.local_hostname!r} is not a domain name")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if self.password is not None and self.security == "none" and self.host not in LOOPBACK:
            raise ValueError("security must be starttls or tls where a password is sent beyond this machine")
        tokens = (self.webhook_token, self.previous_webhook_token)
        if not all(token is None or _TOKEN.fullmatch(token) for token in tokens):
            raise ValueError("webhook_token must have 16 characters at least, in ASCII and without blanks")


class Smtp(Provider[EmailMessage]):
    """One mail server behind the Provider protocol."""

    name: ClassVar[str] = "smtp"

    def __init__(self, account: SmtpAccount) -> None:
        self.account = account
        self.capabilities = Capabilities(
            channel=Channel.EMAIL,
            confirms_delivery=account.receipts,
            can_look_up=False,
            accepts_client_id=True,
            transport="smtp",
            concurrency_max=CONNECTIONS_MAX,
        )
        tokens = (account.webhook_token, account.previous_webhook_token)
        self._tokens = tuple(token.encode() for token in tokens if token is not None)

    # -- sending ---------------------------------------------------------------------------------------------

    def build(self, message: EmailMessage, context: SendContext) -> SmtpRequest:
        """The message and its envelope. Raises InvalidFields for what must never leave, as line breaks in a header."""
        _refuse(message)
        token = self._tokens[0]
        signed = _signed(message.reference, token)
        account = self.account
        return SmtpRequest(
            host=account.host,
            port=account.port or PORTS[account.security],
            security=account.security,
            envelope_from=f"{BOUNCES}{signed}@{account.bounce_domain}",
            recipient=message.to,
            message=_composed(message, self._message_id(message.delivery_id, token), signed, context.now),
            username=account.username,
            password=account.password,
            envelope_id=signed,
            receipts=account.receipts,
            trust=account.trust,
            local_hostname=account.local_hostname or account.bounce_domain,
        )

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What a reply means: its ``phase`` says to what, its ``envelope-id`` about which message. Only a 2xx to the
        message itself accepts it.
        """
        phase, code = response.headers.get("phase", ""), response.status
        words = response.body.decode("utf-8", "replace")
        if phase == "final" and 200 <= code < 300:
            return self._accepted(response, words)
        detail = redacted(f"{phase}: {code} {words}", DETAIL_CHARS_MAX)
        if not 400 <= code < 600:
            kind, said = _MEANINGLESS.get(phase, (OutcomeKind.TRANSIENT, detail))
            return Outcome(kind, said or detail, code)
        refusal = classify(code, enhanced_code(words), words)
        kind, reason, wait = _verdict(phase, code, refusal)
        # Up to the message itself it is about the envelope's sender, which is the account's own for every message.
        if refusal is Refusal.SENDER and phase == "final" and BOUNCES not in words:
            reason = SENDER_REFUSED
        evidence = self._mailbox_full(response, now) if reason == MAILBOX_FULL else ()
        return Outcome(kind, detail, code, retry_after_seconds=wait, reason=reason, evidence=evidence)

    def _accepted(self, response: ProviderResponse, words: str) -> Outcome:
        """Known by our Message-ID, which reports bring back; the server's queue id is reused, and for people only."""
        found = _QUEUED.search(words)
        origin = self._identify(response.headers.get("envelope-id", ""))
        return Outcome(
            OutcomeKind.ACCEPTED,
            f"queued as {next(filter(None, found.groups()))}" if found else "queued",
            response.status,
            provider_message_id=origin.message_id if origin else None,
        )

    def _mailbox_full(self, response: ProviderResponse, now: datetime) -> tuple[Evidence, ...]:
        """A full mailbox is a soft bounce (R-113), told at once in place of by a report: as evidence it counts towards
        suppression like any other (R-114).
        """
        envelope_id = response.headers.get("envelope-id", "")
        origin = self._identify(envelope_id)
        if origin is None:
            return ()
        return (
            Evidence(
                kind=EvidenceKind.BOUNCED,
                event_key=f"answer:{envelope_id}",
                occurred_at=now,
                delivery_id=origin.delivery_id,
                attempt_no=origin.attempt_no,
                provider_message_id=origin.message_id,
                bounce_class=BounceClass.SOFT,
                data={"code": response.status, "diagnostic": redacted(response.body.decode("utf-8", "replace"))},
            ),
        )

    # -- what comes back -------------------------------------------------------------------------------------

    def verify(self, request: WebhookRequest, now: datetime, key: bytes | None = None) -> None:
        """The token, as a bearer's or as the password of anybody."""
        given = _credential(request.headers.get("authorization", ""))
        if given is None or not any(hmac.compare_digest(given, token) for token in self._tokens):
            raise WebhookRefused("not with this account's webhook_token", reason="forged", status=401)

    def parse(self, request: WebhookRequest) -> Sequence[Evidence]:
        """The facts in one raw message, whatever its content type says."""
        return read_report(
            request.body,
            identify=self._identify,
            received_at=request.received_at,
            relayed_is_delivered=self.account.relayed_is_delivered,
        )

    # -- references ------------------------------------------------------------------------------------------

    def _message_id(self, delivery_id: UUID, token: bytes) -> str:
        """The same for every attempt; bare."""
        return f"{_signed(str(delivery_id), token)}@{self.account.bounce_domain}"

    def _identify(self, text: str) -> Origin | None:
        """The first reference in a text that is signed by us."""
        for found in _SIGNED.finditer(text.lower()):
            for token in self._tokens:
                if hmac.compare_digest(_signed(found["text"], token), found[0]):
                    delivery_id = UUID(found["delivery"])
                    attempt_no = int(found["attempt"]) if found["attempt"] else None
                    return Origin(delivery_id, attempt_no, self._message_id(delivery_id, token))
        return None


_SIGNED: Final = re.compile(
    r"(?<![0-9a-f-])(?P<text>(?P<delivery>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\.(?P<attempt>[1-9]\d{0,4}))?)"
    r"\.[a-z2-7]{12}(?![a-z0-9])"
)


def _signed(text: str, token: bytes) -> str:
    """``<text>.<signature>``: at most 55 characters that survive any mail server, whatever case it likes. With
    ``bounces+`` before it, 63 of the 64 that a local part may have (RFC 5321, 4.5.3.1.1).

    60 bits of signature: whoever guesses has one try with each mail that they send us.
    """
    digest = hmac.new(token, b"landed smtp reference\0" + text.encode(), hashlib.sha256).digest()
    return f"{text}.{b32encode(digest).decode().lower()[:12]}"


def _credential(authorization: str) -> bytes | None:
    scheme, _, value = authorization.strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip().encode("utf-8", "replace")
        case "basic":
            try:
                return b64decode(value.strip(), validate=True).partition(b":")[2]
            except ValueError:
                return None
    return None


# -- answers to a send ---------------------------------------------------------------------------------------

#: The server's own id, in the words of Postfix and Exim, then of Sendmail and OpenSMTPD. RFC 5321 leaves them free.
_QUEUED: Final = re.compile(r"\b(?:queued as:? |id=)([\w.:-]{3,100})|\b2\.0\.0 ([\w.:-]{3,100}) message accepted", re.I)

#: Replies that are no refusal, and yet no message was taken. Before its last phase nothing of it has been written.
_MEANINGLESS: Final[Mapping[str, tuple[OutcomeKind, str]]] = {
    "starttls": (OutcomeKind.UNAUTHORIZED, "the server offers no STARTTLS, and nothing is sent in clear"),
    "auth": (OutcomeKind.UNAUTHORIZED, "the server offers no way to log in that we know"),
    "final": (OutcomeKind.UNKNOWN, ""),
}
_TEMPORARY: Final[Mapping[Refusal, tuple[OutcomeKind, float | None]]] = {
    Refusal.GREYLISTED: (OutcomeKind.TRANSIENT, GREYLIST_SECONDS),
    Refusal.TOO_FAST: (OutcomeKind.RATE_LIMITED, SLOW_DOWN_SECONDS),
    Refusal.TOO_MANY_CONNECTIONS: (OutcomeKind.RATE_LIMITED, CONNECTIONS_SECONDS),
    Refusal.RELAY: (OutcomeKind.UNAUTHORIZED, None),
}
#: What a permanent refusal of the recipient or of the message comes to, and the name of its end.
_PERMANENT: Final[Mapping[Refusal, tuple[OutcomeKind, str | None]]] = {
    Refusal.CREDENTIALS: (OutcomeKind.UNAUTHORIZED, None),
    Refusal.SENDER: (OutcomeKind.UNAUTHORIZED, None),
    Refusal.RELAY: (OutcomeKind.UNAUTHORIZED, None),
    Refusal.RECIPIENT: (OutcomeKind.RECIPIENT_INVALID, None),
    Refusal.MAILBOX_FULL: (OutcomeKind.REJECTED, MAILBOX_FULL),
    Refusal.CONTENT: (OutcomeKind.REJECTED, "content"),
    Refusal.POLICY: (OutcomeKind.REJECTED, "reputation"),
}
_BEFORE_RCPT: Final = frozenset({"connect", "ehlo", "starttls", "auth", "mail"})
_ABOUT_SIZE: Final = frozenset({Refusal.CONTENT, Refusal.MAILBOX_FULL})  # a 552 to MAIL is about the announced SIZE


def _verdict(phase: str, code: int, refusal: Refusal) -> tuple[OutcomeKind, str | None, float | None]:
    """Kind, named end, seconds to wait."""
    if code < 500:
        kind, wait = _TEMPORARY.get(refusal, (OutcomeKind.TRANSIENT, None))
        return kind, None, wait
    if refusal is Refusal.TOO_FAST:
        return OutcomeKind.RATE_LIMITED, None, SLOW_DOWN_SECONDS
    if phase == "mail" and refusal in _ABOUT_SIZE:
        return OutcomeKind.REJECTED, "content", None
    if phase in _BEFORE_RCPT:
        # No recipient was named yet: however it sounds, it is about us, and the next message would fare no better.
        return OutcomeKind.UNAUTHORIZED, None, None
    kind, reason = _PERMANENT.get(refusal, (OutcomeKind.REJECTED, None))
    return kind, reason, None


# -- composing -----------------------------------------------------------------------------------------------

_POLICY: Final = policy.SMTP.clone(cte_type="7bit", max_line_length=76)  # RFC 2045, 6.7: 76, not 78
_ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@" + _DOMAIN.pattern)
_HEADER_NAME: Final = re.compile(r"[!-9;-~]{1,76}")  # RFC 5322, 3.6.8: printable ASCII except the colon
_WORD: Final = re.compile(r" *[^ ]+")
_OWN_HEADERS: Final = frozenset(
    {
        "bcc", "cc", "date", "from", "message-id", "mime-version", "received", "reply-to", "return-path", "sender",
        "subject", "to", REFERENCE_HEADER.lower(),
    }
)  # fmt: skip
_OWN_PREFIXES: Final = ("content-", "resent-")


def _refuse(message: EmailMessage) -> None:
    """The last line of defence: no value becomes a second header, a second recipient, another message id."""
    errors = list(_wrong(message))
    if errors:
        raise InvalidFields(*errors)


def _wrong(message: EmailMessage) -> Iterator[FieldError]:
    named = {"to": message.to, "sender": message.sender, "subject": message.subject, "reply_to": message.reply_to or ""}
    for name, value in {**named, **{f"headers.{key}": value for key, value in message.headers.items()}}.items():
        if CONTROL.search(value):
            yield FieldError(name, "no line breaks or other control characters")
    if not _is_address(message.to):
        yield FieldError("to", "exactly one address, in ASCII")
    for name, value in (("sender", message.sender), ("reply_to", message.reply_to or message.sender)):
        if not _is_address(_name_and_address(value)[1]):
            yield FieldError(name, "exactly one address, in ASCII, with or without a name before it")
    for key in message.headers:
        if not _HEADER_NAME.fullmatch(key) or key.lower() in _OWN_HEADERS or key.lower().startswith(_OWN_PREFIXES):
            yield FieldError(f"headers.{key!r}", "not a header that may be set")


def _is_address(text: str) -> bool:
    return len(text) <= ADDRESS_CHARS_MAX and _ADDRESS.fullmatch(text) is not None


def _composed(message: EmailMessage, message_id: str, signed: str, now: datetime) -> bytes:
    """The message as it goes over the wire: CRLF, no line longer than may be, nothing beyond ASCII."""
    fields = {
        "From": _mailbox(message.sender),
        "To": message.to,
        "Reply-To": _mailbox(message.reply_to) if message.reply_to else "",
        "Subject": _encoded(message.subject),
        "Date": format_datetime(now),
        "Message-ID": f"<{message_id}>",
        "Auto-Submitted": "auto-generated",  # RFC 3834: no holiday notices, please
        **{name: _encoded(value) for name, value in message.headers.items()},
        REFERENCE_HEADER: signed,  # survives where a complaint is redacted
    }
    head = "".join(_field(name, value) for name, value in fields.items() if value or name == "Subject")
    return head.encode("ascii") + _body(message)


def _body(message: EmailMessage) -> bytes:
    """The body with the headers that describe it. Both encodings rule the boundary out, for it holds ``=_``."""
    mime = MimeMessage(policy=_POLICY)
    mime.set_content(message.text, charset="utf-8", cte=_transfer_encoding(message.text))
    if message.html is not None:
        mime.add_alternative(message.html, subtype="html", charset="utf-8", cte=_transfer_encoding(message.html))
        mime.set_boundary(f"=_{message.delivery_id.hex}")
    return mime.as_bytes()


def _transfer_encoding(text: str) -> str:
    """The shorter one: quoted-printable triples what is not ASCII, base64 makes 4 of every 3."""
    size = len(text.encode())
    plain = len(text.encode("ascii", "ignore"))
    return "base64" if 6 * (size - plain) > size else "quoted-printable"


def _name_and_address(text: str) -> tuple[str, str]:
    """``Name <address>`` or an address alone, in the grammar of ``addresses.sender``."""
    named = NAMED.fullmatch(text.strip())
    return (named["quoted"] or named["plain"] or "", named["address"]) if named else ("", text)


def _mailbox(text: str) -> str:
    name, address = _name_and_address(text)
    return formataddr((name, address)) if name.isascii() and "=?" not in name else f"{_encoded(name)} <{address}>"


def _encoded(text: str) -> str:
    """Encoded words (RFC 2047) for what is not plain ASCII, or looks like one of them."""
    if text.isascii() and "=?" not in text:
        return text
    return Header(text, "utf-8", maxlinelen=LINE_CHARS - 2).encode(linesep="")


def _field(name: str, value: str) -> str:
    """A header field, folded where it has blanks. The stdlib would encode a word that is too long for a line, and so
    break an address in List-Unsubscribe.
    """
    lines = [f"{name}:"]
    for word in _WORD.findall(f" {value.strip()}"):
        if len(lines[-1]) + len(word) > LINE_CHARS and lines[-1] != f"{name}:":
            lines.append("")
        lines[-1] += word
    if max(map(len, lines)) > LINE_CHARS_MAX:
        raise InvalidFields(FieldError(name.lower(), f"a word longer than a line's {LINE_CHARS_MAX} characters"))
    return "\r\n".join(lines) + "\r\n"
