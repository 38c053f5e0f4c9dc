"""Event payloads as Mailgun writes them, in webhooks and in the Events API alike."""

from __future__ import annotations

from typing import Any, Final

from app.sandbox.protocol import Happening
from app.sandbox.scripting import Failure, Step
from app.sandbox.world import Message

_LOG_LEVELS: Final = {"accepted": "info", "delivered": "info", "opened": "info", "clicked": "info"}
_SENDING_IP: Final = "192.0.2.25"  # TEST-NET-1 (RFC 5737): never a real host
_READER_IP: Final = "198.51.100.7"  # TEST-NET-2

_READER: Final[dict[str, Any]] = {
    "ip": _READER_IP,
    "geolocation": {"country": "US", "region": "CA", "city": "San Francisco"},
    "client-info": {
        "client-name": "Chrome",
        "client-os": "Linux",
        "client-type": "browser",
        "device-type": "desktop",
        "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.31 Chrome/26.0.1410.43 Safari/537.31",
        "bot": "",
    },
}


#: Mailgun's words for why a message failed, where they are not ours.
_REASONS: Final = {"full": "generic", "blocked": "espblock"}


def event_payload(message: Message, step: Step, happening: Happening) -> dict[str, Any]:
    """The ``event-data`` of one step."""
    payload = _common(message, step, happening) | _specific(message, step, happening.attempt_no)
    if step.event == "rejected":
        del payload["recipient"], payload["recipient-domain"]
    return payload


def _common(message: Message, step: Step, happening: Happening) -> dict[str, Any]:
    domain = message.recipient.partition("@")[2]
    return {
        "event": step.event,
        "id": happening.event_id,
        "timestamp": happening.timestamp,
        "log-level": "error" if step.failure and step.failure.severity == "permanent" else _level(step),
        "recipient": message.recipient,
        "recipient-domain": domain,
        "recipient-provider": "Other",
        "tags": message.tags,
        "campaigns": [],
        "user-variables": message.variables,
        "flags": {
            "is-authenticated": True,
            "is-routed": False,
            "is-system-test": False,
            "is-test-mode": message.test_mode,
            "is-delayed-bounce": bool(step.failure and step.failure.delayed),
        },
        "envelope": {
            "sender": message.sender,
            "transport": "smtp",
            "sending-ip": _SENDING_IP,
            "targets": message.recipient,
        },
        "message": {
            "headers": {
                "to": message.to,
                "from": message.headers.get("From", message.sender),
                "subject": message.title,
                "message-id": message.message_id,
            },
            "attachments": [
                {"filename": a.filename, "content-type": a.content_type, "size": a.size} for a in message.attachments
            ],
            "recipients": [message.recipient],
            "size": message.size,
        },
        "storage": {
            "url": f"{happening.base_url}/v3/domains/{message.domain}/messages/{message.id}",
            "key": message.id,
            "region": "us-east4",
            "env": "production",
        },
    }


def _level(step: Step) -> str:
    return _LOG_LEVELS.get(step.event, "warn")


def _specific(message: Message, step: Step, attempt_no: int) -> dict[str, Any]:
    match step.event:
        case "accepted":
            return {"method": "HTTP", "originating-ip": "127.0.0.1", "api-key-id": "sandbox"}
        case "delivered":
            return {"delivery-status": _delivered(message, attempt_no)}
        case "failed" if step.failure:
            return {
                "severity": step.failure.severity,
                "reason": _REASONS.get(step.failure.reason, step.failure.reason),
                "delivery-status": _failed(message, step.failure, attempt_no),
            }
        case "opened" | "unsubscribed":
            return _READER
        case "clicked":
            return _READER | {"url": "https://example.com/"}
        case "rejected":
            return {"reject": {"reason": "Sandbox refuses this message", "description": "Scripted rejection"}}
        case _:
            return {}


def _connection(message: Message, attempt_no: int) -> dict[str, Any]:
    return {
        "attempt-no": attempt_no,
        "mx-host": f"mx.{message.recipient.partition('@')[2]}",
        "session-seconds": 0.42,
        "tls": True,
        "utf8": True,
        "certificate-verified": True,
    }


def _delivered(message: Message, attempt_no: int) -> dict[str, Any]:
    return _connection(message, attempt_no) | {
        "code": 250,
        "message": "OK",
        "description": "",
        "first-delivery-attempt-seconds": 0.9,
    }


def _failed(message: Message, failure: Failure, attempt_no: int) -> dict[str, Any]:
    status = _connection(message, attempt_no) | {
        "code": failure.code,
        "enhanced-code": failure.enhanced_code,
        "message": failure.message,
        "description": "",
        "bounce-type": failure.bounce_type,
    }
    if failure.severity == "temporary":
        status["retry-seconds"] = 600
    else:
        status |= {"last-code": failure.code, "last-message": failure.message}
    if failure.delayed:
        status["bounce-code"] = failure.enhanced_code
    return status
