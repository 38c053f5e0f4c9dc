"""Events as SendGrid's webhook posts them, and as the Email Logs API tells them."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from app.sandbox.protocol import Happening
from app.sandbox.scripting import Failure, Step
from app.sandbox.world import Message

_IP: Final = "192.0.2.25"  # TEST-NET-1 (RFC 5737)
_READER: Final = {
    "ip": "198.51.100.7",
    "useragent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.31 Chrome/26.0.1410.43 Safari/537.31",
}
#: SendGrid's class of a bounce, by why the message failed, and whether it is ``blocked`` rather than ``bounce``.
_BOUNCES: Final = {
    "bounce": ("bounce", "Invalid Address"),
    "full": ("blocked", "Mailbox Unavailable"),
    "blocked": ("blocked", "Reputation"),
}
_DROPS: Final = {
    "suppress-bounce": "Bounced Address",
    "suppress-complaint": "Spam Reporting Address",
    "suppress-unsubscribe": "Unsubscribed Address",
}


def event_data(message: Message, step: Step, happening: Happening) -> dict[str, Any] | None:
    """The event of one step, without what is merged into it; None where SendGrid has none.

    A bounce that came late lacks what only the server that sent the message knew.
    """
    specific = _specific(message, step, happening)
    if specific is None:
        return None
    event = {
        "email": message.recipient,
        "timestamp": int(happening.timestamp),
        "sg_event_id": happening.event_id,
    }
    if not (step.failure and step.failure.delayed):
        event |= {"sg_message_id": message.message_id, "smtp-id": message.details["smtp_id"]}
    if message.details["group_id"] is not None:
        event["asm_group_id"] = message.details["group_id"]
    return event | specific


class Logged(msgspec.Struct, frozen=True):
    """An event and what the webhook merges into it, apart, as the ledger keeps them."""

    event: dict[str, Any]
    custom_args: dict[str, str]
    categories: list[str]


def as_posted(logged: Logged) -> dict[str, Any]:
    """The event with categories and custom arguments at the top, as the webhook has it; SendGrid's own names win."""
    category: dict[str, Any] = {}
    if logged.categories:
        category["category"] = logged.categories[0] if len(logged.categories) == 1 else logged.categories
    return logged.custom_args | category | logged.event


def status_of(events: list[dict[str, Any]]) -> tuple[str, str]:
    """A message's status by its events, and the reason that goes with it."""
    statuses = {
        "processed": "processed",
        "dropped": "dropped",
        "deferred": "deferred",
        "bounce": "bounced",
        "delivered": "delivered",
    }
    status, reason = "processed", ""
    for event in events:
        if found := statuses.get(event["event"]):
            status = "blocked" if event.get("type") == "blocked" else found
            reason = event.get("reason") or event.get("response") or ""
    return status, reason


def _specific(message: Message, step: Step, happening: Happening) -> dict[str, Any] | None:
    match step.event:
        case "accepted":
            return {"event": "processed"}
        case "delivered":
            return {"event": "delivered", "response": "250 2.0.0 OK", "ip": _IP, "tls": 1}
        case "failed" if step.failure:
            return _failed(step.failure, happening)
        case "rejected":
            return {"event": "dropped", "reason": "Spam Content"}
        case "complained":
            return {"event": "spamreport"}
        case "unsubscribed":
            kind = "unsubscribe" if message.details["group_id"] is None else "group_unsubscribe"
            return {"event": kind} | (_READER if kind == "group_unsubscribe" else {})
        case "opened":
            return {"event": "open", "sg_machine_open": False, **_READER}
        case "clicked":
            where = {"index": 0, "type": "html"}
            return {"event": "click", "url": "https://example.com/", "url_offset": where, **_READER}
        case _:
            return None


def _failed(failure: Failure, happening: Happening) -> dict[str, Any]:
    response = f"{failure.code} {failure.message}"
    if failure.severity == "temporary":
        return {"event": "deferred", "response": response, "attempt": str(happening.attempt_no - 1)}
    if reason := _DROPS.get(failure.reason):
        return {"event": "dropped", "reason": reason}
    kind, classification = _BOUNCES.get(failure.reason, ("bounce", "Unclassified"))
    event = {
        "event": "bounce",
        "type": kind,
        "reason": response,
        "status": failure.enhanced_code,
        "bounce_classification": classification,
    }
    return event if failure.delayed else event | {"ip": _IP, "tls": 1}
