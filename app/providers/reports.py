"""What comes back by mail: delivery reports (RFC 3464) and complaints (RFC 5965), read into evidence.

Pure functions over the raw message. Anybody may write to a bounce address, so everything here assumes the worst of what
it reads: sizes, parts and nesting are bounded, nothing is searched in more than linear time, and a report speaks of a
delivery only by a reference that we signed when we sent it. The stdlib reads the header blocks; the parts are cut
apart here, because its parser follows nesting as deep as a stranger likes.
"""

from __future__ import annotations

import binascii
import hashlib
import quopri
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import policy
from email.message import Message as Headers
from email.parser import BytesHeaderParser
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from app.domain.models import BounceClass, Evidence, EvidenceKind
from app.errors import WebhookRefused
from app.providers.smtp_codes import Refusal, classify, enhanced_code, redacted

REFERENCE_HEADER: Final = "X-Landed-Reference"

MESSAGE_BYTES_MAX: Final = 1024 * 1024  # the machine's part comes first; what follows is our own message again
HEADER_BYTES_MAX: Final = 64 * 1024
DEPTH_MAX: Final = 3  # a mailing list or a gateway may wrap a report once or twice
PARTS_MAX: Final = 20
RECIPIENTS_MAX: Final = 50  # we write to one; an alias may stand for a few
FIELD_CHARS_MAX: Final = 998  # RFC 5322's line
# The stdlib takes the square of their number to read parameters with a quote left open. A report has three or four.
CONTENT_TYPE_CHARS_MAX: Final = 2000
PARAMETERS_MAX: Final = 20
DATE_AGE_MAX: Final = timedelta(days=6)  # an MTA holds a report for 5 days at the most

MALFORMED_STATUS: Final = 422  # the sending MTA need not try again
NOT_OURS_STATUS: Final = 202  # nor need it return to somebody what only came to the wrong place


@dataclass(frozen=True, slots=True)
class Origin:
    """What a message of ours says of itself. attempt_no: None where only the Message-ID came back."""

    delivery_id: UUID
    attempt_no: int | None
    message_id: str


Identify = Callable[[str], Origin | None]
"""Finds a reference that we signed in a text."""


def read_report(
    raw: bytes, *, identify: Identify, received_at: datetime, relayed_is_delivered: bool = False
) -> tuple[Evidence, ...]:
    """The facts in one message that came to a bounce or complaint address; none in an automatic reply.

    relayed_is_delivered: whether ``Action: relayed`` proves delivery, as it does where the reporting server hands
    over to the recipients' own servers.
    Raises WebhookRefused: ``malformed`` for what is no message, or a broken report; ``unidentified`` for a report, and
    ``not_a_report`` for a message, that carries no reference of ours.
    """
    message = _part(_without_envelope_line(raw[:MESSAGE_BYTES_MAX]))
    if not message.headers.keys():
        raise _malformed("no message")
    parts = tuple(_parts(message, DEPTH_MAX))
    for part in parts:
        if part.kind in _DELIVERY_STATUS:
            return _delivery_report(message, part, parts, identify, received_at, relayed_is_delivered)
        if part.kind == "message/feedback-report":
            return (_complaint(message, part, parts, identify, received_at),)
    return _other_mail(message, identify, received_at)


# -- delivery reports ----------------------------------------------------------------------------------------

_DELIVERY_STATUS: Final = frozenset({"message/delivery-status", "message/global-delivery-status"})
_RETURNED: Final = frozenset({"message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers"})

#: What each action means (RFC 3464, 2.3.3). ``relayed`` and ``expanded``: taken, and nothing more will be heard.
_ACTIONS: Final[Mapping[str, EvidenceKind]] = {
    "failed": EvidenceKind.BOUNCED,
    "delayed": EvidenceKind.DEFERRED,
    "delivered": EvidenceKind.DELIVERED,
    "relayed": EvidenceKind.ACCEPTED,
    "expanded": EvidenceKind.ACCEPTED,
}
#: The class a status code must have for its action to be believed.
_STATUS_CLASSES: Final[Mapping[EvidenceKind, str]] = {
    EvidenceKind.BOUNCED: "45",
    EvidenceKind.DEFERRED: "45",
    EvidenceKind.DELIVERED: "2",
    EvidenceKind.ACCEPTED: "2",
}
_BOUNCE_CLASSES: Final[Mapping[Refusal, BounceClass]] = {
    Refusal.RECIPIENT: BounceClass.HARD,
    Refusal.CONTENT: BounceClass.CONTENT,
    Refusal.PROTOCOL: BounceClass.CONTENT,
    Refusal.POLICY: BounceClass.REPUTATION,
    Refusal.SENDER: BounceClass.REPUTATION,
    Refusal.RELAY: BounceClass.REPUTATION,
    Refusal.CREDENTIALS: BounceClass.REPUTATION,
    Refusal.TOO_FAST: BounceClass.REPUTATION,
    Refusal.TOO_MANY_CONNECTIONS: BounceClass.REPUTATION,
}  # anything else is soft: it counts, and enough of it in a row suppresses
_STATUS: Final = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])")
_BASIC: Final = re.compile(r"\s*([245]\d\d)(?!\d)")


def _delivery_report(
    report: _Part,
    status: _Part,
    parts: Sequence[_Part],
    identify: Identify,
    received_at: datetime,
    relayed_is_delivered: bool,
) -> tuple[Evidence, ...]:
    blocks = list(_blocks(status))
    recipients = [block for block in blocks if "final-recipient" in block or "action" in block]
    if not recipients:
        raise _malformed("a delivery report that names no recipient")
    about = blocks[0]
    origin = _origin(identify, [about.get("original-envelope-id")], report, parts)
    return tuple(
        _outcome(report.headers, about, recipient, origin, received_at, relayed_is_delivered)
        for recipient in recipients
    )


def _outcome(
    report: Headers,
    about: Headers,
    recipient: Headers,
    origin: Origin,
    received_at: datetime,
    relayed_is_delivered: bool,
) -> Evidence:
    """What became of the message for one recipient."""
    action, found = _word(recipient["action"]), _STATUS.search(_text(recipient["status"]))
    status = found[1] if found else ""
    kind = _ACTIONS.get(action, EvidenceKind.OTHER)
    if status and status[0] not in _STATUS_CLASSES.get(kind, "245"):
        kind = EvidenceKind.OTHER  # "delivered" with a failure's code, and the like: worth a line, not a verdict
    if action == "relayed" and kind is EvidenceKind.ACCEPTED and relayed_is_delivered:
        kind = EvidenceKind.DELIVERED
    final, original = _address(recipient["final-recipient"]), _address(recipient["original-recipient"])
    bounce = _bounce_class(status, _text(recipient["diagnostic-code"])) if kind is EvidenceKind.BOUNCED else None
    if bounce is BounceClass.HARD and original and final and not _same(original, final):
        # The address we wrote to is good, it only leads to one that is not. It counts, and may wear out.
        bounce = BounceClass.SOFT
    times = (report["date"], recipient["last-attempt-date"], about["arrival-date"])
    return Evidence(
        kind=kind,
        event_key=_key("dsn", report, about, recipient, (origin, final, action, status)),
        occurred_at=_occurred_at(times, received_at),
        delivery_id=origin.delivery_id,
        attempt_no=origin.attempt_no,
        provider_message_id=origin.message_id,
        address=original or final or None,
        bounce_class=bounce,
        suppress_reason="hard_bounce" if bounce is BounceClass.HARD else None,
        data=_shown(
            report="delivery",
            action=action,
            status=status,
            diagnostic=_text(recipient["diagnostic-code"]),
            remote_mta=_after_type(recipient["remote-mta"]),
            reporting_mta=_after_type(about["reporting-mta"]),
            will_retry_until=_text(recipient["will-retry-until"]),
        ),
    )


def _bounce_class(status: str, diagnostic: str) -> BounceClass:
    """Whose fault a failure is. The refusing server's own words go before the reporting server's summary of them."""
    kind, _, words = diagnostic.partition(";")
    if kind.strip().lower() != "smtp":  # a local failure in words of the system's own, such as x-postfix or x-unix
        return _BOUNCE_CLASSES.get(classify(0, status, words or diagnostic), BounceClass.SOFT)
    basic = _BASIC.match(words)
    enhanced = enhanced_code(words)
    if not enhanced or enhanced.endswith(".0.0"):
        enhanced = status
    return _BOUNCE_CLASSES.get(classify(int(basic[1]) if basic else 0, enhanced, words), BounceClass.SOFT)


# -- complaints ----------------------------------------------------------------------------------------------

# RFC 5965, 3.1, and 7.3. A virus was found by a machine, ``not-spam`` takes a complaint back.
_COMPLAINTS: Final = frozenset({"abuse", "fraud"})


def _complaint(
    report: _Part, feedback: _Part, parts: Sequence[_Part], identify: Identify, received_at: datetime
) -> Evidence:
    about = next(_blocks(feedback), None)
    if about is None or "feedback-type" not in about:
        raise _malformed("a feedback report that does not say which type it is")
    origin = _origin(identify, [about["original-envelope-id"], about["original-mail-from"]], report, parts)
    kind = _word(about["feedback-type"])
    complained = kind in _COMPLAINTS
    address = _address(about["original-rcpt-to"])
    times = (report.headers["date"], about["arrival-date"], about["received-date"])
    return Evidence(
        kind=EvidenceKind.COMPLAINED if complained else EvidenceKind.OTHER,
        event_key=_key("arf", report.headers, about, about, (origin, kind)),
        occurred_at=_occurred_at(times, received_at),
        delivery_id=origin.delivery_id,
        attempt_no=origin.attempt_no,
        provider_message_id=origin.message_id,
        address=address or None,
        suppress_reason="complaint" if complained else None,
        data=_shown(
            report="feedback",
            feedback_type=kind,
            user_agent=_text(about["user-agent"]),
            reporting_mta=_after_type(about["reporting-mta"]),
            reported_domain=_text(about["reported-domain"]),
            authentication_results=_text(about["authentication-results"]),
        ),
    )


# -- other mail ----------------------------------------------------------------------------------------------


def _other_mail(message: _Part, identify: Identify, received_at: datetime) -> tuple[Evidence, ...]:
    """A holiday notice says nothing of a delivery; what else answers one of ours goes on its timeline for people."""
    headers = message.headers
    if message.kind == "multipart/report":
        report_type = _word(headers.get_param("report-type"))
        if report_type in ("delivery-status", "feedback-report"):
            raise _malformed(f"a {report_type} report without its machine-readable part")
        return ()
    if _is_automatic(headers):
        return ()
    try:
        origin = _origin(identify, (), message, ())
    except WebhookRefused:
        raise WebhookRefused("not a report", reason="not_a_report", status=NOT_OURS_STATUS) from None
    return (
        Evidence(
            kind=EvidenceKind.OTHER,
            event_key=_key("mail", headers, headers, headers, (origin,)),
            occurred_at=_occurred_at((headers["date"],), received_at),
            delivery_id=origin.delivery_id,
            attempt_no=origin.attempt_no,
            provider_message_id=origin.message_id,
            data=_shown(report="unknown", subject=_text(headers["subject"])),
        ),
    )


def _is_automatic(headers: Headers) -> bool:
    """RFC 3834, and what was in use before it."""
    automatic = _word(headers["auto-submitted"])
    return (
        bool(automatic and automatic != "no")
        or "x-autoreply" in headers
        or _word(headers["precedence"])
        in (
            "auto_reply",
            "auto-reply",
        )
    )


# -- whose it is ---------------------------------------------------------------------------------------------

_ENVELOPE_RECIPIENTS: Final = ("x-original-to", "delivered-to", "envelope-to", "to")
_OUR_HEADERS: Final = (REFERENCE_HEADER, "return-path", "message-id")
_XTEXT: Final = re.compile(r"\+([0-9A-F]{2})")


def _origin(identify: Identify, fields: Sequence[Any], report: _Part, parts: Sequence[_Part]) -> Origin:
    """Most telling place first. Our own Message-ID, alike for every attempt, only where nothing names one."""
    candidates = [text for field in fields for text in (_text(field), _from_xtext(_text(field)))]
    candidates += _values(report.headers, _ENVELOPE_RECIPIENTS)
    for part in parts:
        if part.kind in _RETURNED:
            candidates += _values(_part(part.content()).headers, _OUR_HEADERS)
    found = [origin for text in candidates if (origin := identify(text)) is not None]
    if not found:
        raise WebhookRefused(
            "a report that carries no reference of this account", reason="unidentified", status=NOT_OURS_STATUS
        )
    return next((origin for origin in found if origin.attempt_no is not None), found[0])


def _values(headers: Headers, names: Sequence[str]) -> list[str]:
    return [_text(value) for name in names for value in headers.get_all(name, ())[:RECIPIENTS_MAX]]


def _from_xtext(text: str) -> str:
    return _XTEXT.sub(lambda found: chr(int(found[1], 16)), text)


def _key(kind: str, report: Headers, about: Headers, recipient: Headers, said: Sequence[Any]) -> str:
    """The same report told twice has the same key: it keeps its Message-ID however often an MTA tries."""
    told = _text(report["message-id"]) or "\n".join(
        map(_text, (about["reporting-mta"], about["arrival-date"], recipient["last-attempt-date"], report["date"]))
    )
    return f"{kind}:{hashlib.sha256(repr((told, *said)).encode()).hexdigest()[:40]}"


def _occurred_at(dates: Sequence[Any], received_at: datetime) -> datetime:
    """The first date that can be true. A report cannot be younger than its arrival nor, much, older than it: then its
    clock is wrong, and a fact must not be lost or misplaced for that.
    """
    for date in dates:
        try:
            told = parsedate_to_datetime(_text(date))
        except (ValueError, OverflowError, TypeError, IndexError):
            continue
        told = told.replace(tzinfo=UTC) if told.tzinfo is None else told
        try:
            if received_at - DATE_AGE_MAX <= told <= received_at:
                return told.astimezone(UTC)
        except OverflowError:
            continue
    return received_at


# -- reading what may be anything ----------------------------------------------------------------------------

_headers = BytesHeaderParser(policy=policy.compat32)  # the newer policies trip over hostile headers
_HEAD_ENDS: Final = re.compile(rb"\r?\n\r?\n")
_BLOCK_ENDS: Final = re.compile(rb"\r?\n[ \t]*\r?\n")
_ENVELOPE_LINE: Final = re.compile(rb"\A(?:From |>From )[^\n]*\n")


class _Part(NamedTuple):
    headers: Headers
    body: bytes
    kind: str  # content type, lower-case

    def content(self) -> bytes:
        """The body without its transfer encoding. A report is 7bit by its standard, and encoded by some gateways."""
        match _word(self.headers["content-transfer-encoding"]):
            case "quoted-printable":
                return quopri.decodestring(self.body)
            case "base64":
                return _from_base64(self.body)
            case _:
                return self.body


def _part(raw: bytes) -> _Part:
    """Header block and body, as far as they came."""
    if raw.startswith((b"\n", b"\r\n")):
        head, body = b"", raw.lstrip(b"\r\n")
    else:
        end = _HEAD_ENDS.search(raw)
        head, body = (raw[: end.start() + 1], raw[end.end() :]) if end else (raw, b"")
    headers = _headers.parsebytes(head[:HEADER_BYTES_MAX])
    return _Part(headers, body, _kind(headers))


def _kind(headers: Headers) -> str:
    """The content type, if its field can be read at little cost; else it is of no kind that we look into."""
    field = str(headers["content-type"] or "")
    if len(field) > CONTENT_TYPE_CHARS_MAX or field.count(";") > PARAMETERS_MAX:
        return "application/octet-stream"
    return headers.get_content_type()


def _without_envelope_line(raw: bytes) -> bytes:
    """Pipes may put mbox's "From " line before the message."""
    return _ENVELOPE_LINE.sub(b"", raw.lstrip(b"\r\n"))


def _parts(part: _Part, depth: int) -> Iterator[_Part]:
    """A message's parts in order, without what is inside of a returned message."""
    if not part.kind.startswith("multipart/"):
        yield part
        return
    try:
        boundary = part.headers.get_boundary()
    except (ValueError, TypeError):  # of parameters in pieces (RFC 2231) whose numbers or charset are nonsense
        raise _malformed("a content type that cannot be read") from None
    if boundary and depth:
        for raw in _split(part.body, boundary):
            yield from _parts(_part(raw), depth - 1)


def _split(body: bytes, boundary: str) -> Iterator[bytes]:
    """What stands between the delimiter lines (RFC 2046, 5.1.1). The last part may have been cut short."""
    delimiter = re.compile(
        rb"(?:\A|\r?\n)--" + re.escape(boundary.encode("ascii", "replace")) + rb"(--)?[ \t]*(?=\r?\n|\Z)"
    )
    begin: int | None = None
    count = 0
    for found in delimiter.finditer(body):
        if begin is not None:
            yield body[begin : found.start()]
            count += 1
        begin = None if found[1] else _after_newline(body, found.end())
        if begin is None or count == PARTS_MAX:
            return
    if begin is not None:
        yield body[begin:]


def _after_newline(body: bytes, at: int) -> int:
    return at + (2 if body.startswith(b"\r\n", at) else 1 if body.startswith(b"\n", at) else 0)


def _blocks(part: _Part) -> Iterator[Headers]:
    """The groups of fields of a machine-readable part, blank lines between them."""
    text = part.content()[:HEADER_BYTES_MAX].strip(b"\r\n")
    for block in _BLOCK_ENDS.split(text, RECIPIENTS_MAX + 1)[: RECIPIENTS_MAX + 1]:
        fields = _headers.parsebytes(block.lstrip(b"\r\n"))
        if fields.keys():
            yield fields


def _from_base64(body: bytes) -> bytes:
    try:
        return binascii.a2b_base64(body)
    except binascii.Error:
        return b""


def _text(value: Any) -> str:
    """A field on one line, as any store takes it: bounded, valid UTF-8, no NUL."""
    if value is None:
        return ""
    line = " ".join(str(value)[: FIELD_CHARS_MAX * 2].replace("\0", "").split())
    return line[:FIELD_CHARS_MAX].encode("utf-8", "replace").decode()


def _word(value: Any) -> str:
    """The keyword of a field, without parameters or a comment."""
    return re.split(r"[;\s(]", _text(value).lower().lstrip(), maxsplit=1)[0][:40]


def _after_type(value: Any) -> str:
    """``dns; mx.example.com`` names a host, ``rfc822; a@example.com`` an address."""
    text = _text(value)
    return (text.partition(";")[2] if ";" in text else text).strip()


def _address(value: Any) -> str:
    """Bounded, without brackets."""
    return _after_type(value).strip("<> ")[:320]


def _same(original: str, final: str) -> bool:
    """ORCPT went out in xtext, and not every server decodes it."""
    return final.lower() in (original.lower(), _from_xtext(original).lower())


def _shown(**fields: str) -> dict[str, str]:
    """What the timeline shows: words of servers, without addresses."""
    return {name: shown for name, value in fields.items() if (shown := redacted(value))}


def _malformed(detail: str) -> WebhookRefused:
    return WebhookRefused(detail, reason="malformed", status=MALFORMED_STATUS)
