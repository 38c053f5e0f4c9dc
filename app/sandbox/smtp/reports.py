"""What a mail server sends back: delivery status notifications, complaints, and somebody's automatic reply."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from app.sandbox.protocol import Happening
from app.sandbox.scripting import Failure, Step
from app.sandbox.world import Message

_MTA: Final = "mail.sandbox.landed.test"
_REMOTE_MTA: Final = "mx.example.com"
_RETRY_FOR_SECONDS: Final = 4 * 86_400

_REJECTED: Final = Failure("permanent", "rejected", 554, "5.7.1", "5.7.1 Message contains a virus")


def report(message: Message, step: Step, happening: Happening) -> str | None:
    """The raw message that a step makes the mail server send back; None where nobody asked for one."""
    wanted: list[str] = message.details["notify"]
    match step.event:
        case "delivered" if "SUCCESS" in wanted:
            return _dsn(message, happening, "delivered", "2.0.0", "250 2.0.0 OK")
        case "failed" if step.failure:
            return _failed(message, step.failure, happening, wanted)
        case "rejected":
            return _failed(message, _REJECTED, happening, wanted)
        case "complained":
            return _complaint(message, happening)
        case "auto-replied":
            return _auto_reply(message, happening)
        case _:
            return None


def _failed(message: Message, failure: Failure, happening: Happening, wanted: list[str]) -> str | None:
    """RFC 3461: without NOTIFY a server reports failures and may report delays; NEVER says neither."""
    is_delay = failure.severity == "temporary"
    if wanted and ("DELAY" if is_delay else "FAILURE") not in wanted:
        return None
    action = "delayed" if is_delay else "failed"
    status = failure.enhanced_code or "5.0.0"
    return _dsn(message, happening, action, status, f"{failure.code} {failure.message}")


_SUBJECTS: Final = {
    "delivered": "Successful Mail Delivery Report",
    "delayed": "Delayed Mail (still being retried)",
    "failed": "Undelivered Mail Returned to Sender",
}


def _dsn(message: Message, happening: Happening, action: str, status: str, diagnostic: str) -> str:
    """A report by RFC 3464 about one recipient, with the headers of the original."""
    moment = _rfc2822(happening.timestamp)
    of_message = [
        f"Reporting-MTA: dns; {_MTA}",
        *([f"Original-Envelope-Id: {message.details['envelope_id']}"] if message.details["envelope_id"] else []),
        f"Arrival-Date: {_rfc2822(message.accepted_at)}",
    ]
    original = message.details["original_recipient"]
    of_recipient = [
        *([f"Original-Recipient: {original}"] if original else []),
        f"Final-Recipient: rfc822; {message.recipient}",
        f"Action: {action}",
        f"Status: {status}",
        f"Remote-MTA: dns; {_REMOTE_MTA}",
        f"Diagnostic-Code: smtp; {diagnostic}",
        f"Last-Attempt-Date: {moment}",
        *([f"Will-Retry-Until: {_rfc2822(happening.timestamp + _RETRY_FOR_SECONDS)}"] if action == "delayed" else []),
    ]
    words = f"This is the mail system at host {_MTA}.\n\n<{message.recipient}>: {action}: {diagnostic}\n"
    parts = [
        ("text/plain; charset=us-ascii", words),
        ("message/delivery-status", "\n".join(of_message) + "\n\n" + "\n".join(of_recipient) + "\n"),
        ("text/rfc822-headers", message.details["headers"]),
    ]
    return _multipart(
        "delivery-status", _headers(message, happening, _SUBJECTS[action], "MAILER-DAEMON"), parts, happening
    )


def _complaint(message: Message, happening: Happening) -> str:
    """A complaint by RFC 5965. Who complained is struck out, as the large mailbox providers do."""
    redacted = message.details["headers"].replace(message.recipient, "redacted@example.com")
    fields = [
        "Feedback-Type: abuse",
        "User-Agent: SandboxFeedback/1.0",
        "Version: 1",
        f"Original-Mail-From: <{message.sender}>",
        *([f"Original-Envelope-Id: {message.details['envelope_id']}"] if message.details["envelope_id"] else []),
        f"Arrival-Date: {_rfc2822(message.accepted_at)}",
        "Source-IP: 192.0.2.25",
        f"Reported-Domain: {message.domain}",
    ]
    parts = [
        ("text/plain; charset=us-ascii", "This is an email abuse report for an email message.\n"),
        ("message/feedback-report", "\n".join(fields) + "\n"),
        ("message/rfc822", f"{redacted}\n\n[body left out]\n"),
    ]
    return _multipart("feedback-report", _headers(message, happening, "Abuse report", "feedback"), parts, happening)


def _auto_reply(message: Message, happening: Happening) -> str:
    """A vacation notice by RFC 3834: no bounce, and nothing to answer."""
    headers = [
        *_headers(message, happening, "Out of office", None),
        f"From: <{message.recipient}>",
        "Auto-Submitted: auto-replied",
        f"In-Reply-To: <{message.message_id}>",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
    ]
    return _crlf("\n".join(headers) + "\n\nI am away until Monday.\n")


def _headers(message: Message, happening: Happening, subject: str, sender: str | None) -> list[str]:
    """To whoever the envelope named as its sender, from the null sender."""
    return [
        "Return-Path: <>",
        f"Delivered-To: {message.sender}",
        *([f"From: Mail Delivery System <{sender}@{_MTA}>", "Auto-Submitted: auto-replied"] if sender else []),
        f"To: <{message.sender}>",
        f"Subject: {subject}",
        f"Date: {_rfc2822(happening.timestamp)}",
        f"Message-ID: <{happening.event_id}@{_MTA}>",
    ]


def _multipart(kind: str, headers: list[str], parts: list[tuple[str, str]], happening: Happening) -> str:
    boundary = f"report-{happening.event_id}"
    body = "".join(f"--{boundary}\nContent-Type: {content_type}\n\n{text}\n" for content_type, text in parts)
    content_type = f'Content-Type: multipart/report; report-type={kind};\n boundary="{boundary}"'
    return _crlf("\n".join([*headers, "MIME-Version: 1.0", content_type]) + f"\n\n{body}--{boundary}--\n")


def _crlf(text: str) -> str:
    return "\r\n".join(text.splitlines()) + "\r\n"


def _rfc2822(timestamp: float) -> str:
    return format_datetime(datetime.fromtimestamp(timestamp, UTC))
