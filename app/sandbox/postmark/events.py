"""Postmark's webhooks, one record each, and the events in a message's details."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from typing import Any, Final

from app.sandbox.protocol import Happening
from app.sandbox.scripting import Failure, Step
from app.sandbox.world import EventData, Message

SERVER_ID: Final = 23

_READER: Final = {
    "Client": {"Name": "Chrome", "Company": "Google", "Family": "Chrome"},
    "OS": {"Name": "Linux", "Company": "", "Family": "Linux"},
    "Platform": "Desktop",
    "UserAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.31 Chrome/26.0.1410.43 Safari/537.31",
    "Geo": {"IP": "198.51.100.7", "Country": "United States", "CountryISOCode": "US"},
}
#: Postmark's type of a bounce with its code and name, by why the message failed.
_BOUNCES: Final = {
    "bounce": ("HardBounce", 1, "Hard bounce"),
    "full": ("SoftBounce", 4096, "Soft bounce"),
    "blocked": ("Blocked", 100_006, "ISP block"),
    "rendering": ("TemplateRenderingFailed", 100_010, "Template rendering failed"),
    "virus": ("VirusNotification", 8192, "Virus notification"),
}
_DELAYED: Final = ("Transient", 2, "Message delayed/Undeliverable")
_VIRUS: Final = Failure("permanent", "virus", 554, "5.7.1", "The message contains a virus")


def postmark_time(timestamp: float) -> str:
    """Seven digits of a second, as .NET writes them."""
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%dT%H:%M:%S.%f}0Z"


def record(message: Message, step: Step, happening: Happening) -> dict[str, Any] | None:
    """The webhook for one step; None where Postmark posts none, as for a message it has just taken on."""
    moment = postmark_time(happening.timestamp)
    specific = _specific(message, step, moment, happening.event_id)
    if specific is None:
        return None
    common = {
        "MessageID": message.message_id,
        "ServerID": SERVER_ID,
        "MessageStream": message.details["stream"],
        "Tag": message.tags[0] if message.tags else "",
        "Metadata": message.variables,
    }
    return specific | common


def _specific(message: Message, step: Step, moment: str, event_id: str) -> dict[str, Any] | None:
    recipient = {"Recipient": message.recipient}
    match step.event:
        case "delivered":
            details = "smtp;250 2.0.0 OK"
            return {"RecordType": "Delivery", **recipient, "DeliveredAt": moment, "Details": details}
        case "failed" if step.failure:
            return _bounce("Bounce", message, step.failure, moment, event_id)
        case "rejected":
            return _bounce("Bounce", message, _VIRUS, moment, event_id)
        case "complained":
            return _complaint(message, moment, event_id)
        case "unsubscribed":
            change = {"SuppressSending": True, "SuppressionReason": "ManualSuppression", "Origin": "Recipient"}
            return {"RecordType": "SubscriptionChange", **recipient, "ChangedAt": moment, **change}
        case "opened":
            return {"RecordType": "Open", **recipient, "ReceivedAt": moment, "FirstOpen": True, **_READER}
        case "clicked":
            link = {"ClickLocation": "HTML", "OriginalLink": "https://example.com/"}
            return {"RecordType": "Click", **recipient, "ReceivedAt": moment, **link, **_READER}
        case _:
            return None


def _bounce(record_type: str, message: Message, failure: Failure, moment: str, event_id: str) -> dict[str, Any]:
    kind, code, name = _BOUNCES.get(failure.reason, ("Unknown", 2048, "Unknown"))
    if failure.severity == "temporary":
        kind, code, name = _DELAYED
    return {
        "RecordType": record_type,
        "ID": zlib.crc32(event_id.encode()),
        "Type": kind,
        "TypeCode": code,
        "Name": name,
        "Description": f"{name}.",
        "Details": f"smtp;{failure.code} {failure.message}",
        "Email": message.recipient,
        "From": message.sender,
        "BouncedAt": moment,
        "DumpAvailable": False,
        "Inactive": kind == "HardBounce",
        "CanActivate": kind == "HardBounce",
        "Subject": message.title,
    }


def _complaint(message: Message, moment: str, event_id: str) -> dict[str, Any]:
    complaint = _bounce("SpamComplaint", message, Failure("permanent", "complaint", 0), moment, event_id)
    words = {"Type": "SpamComplaint", "TypeCode": 100_001, "Name": "Spam complaint"}
    return complaint | words | {"Description": "Marked as spam.", "Details": "", "Inactive": True, "CanActivate": False}


_IN_DETAILS: Final = {
    "delivered": "Delivered",
    "opened": "Opened",
    "clicked": "LinkClicked",
    "unsubscribed": "SubscriptionChanged",
    "complained": "SubscriptionChanged",
    "rejected": "Bounced",
}


def detail(message: Message, event: EventData, posted: dict[str, Any] | None) -> dict[str, Any] | None:
    """One of the ``MessageEvents`` of a message's details; ``posted`` is the record of the same event."""
    kind = _IN_DETAILS.get(event.event)
    if event.event == "failed":
        kind = "Transient" if event.severity == "temporary" else "Bounced"
    if kind is None or posted is None:
        return None
    details: dict[str, Any] = {}
    match kind:
        case "Delivered":
            details = {"DeliveryMessage": posted["Details"], "DestinationServer": "mx.example.com"}
        case "Bounced":
            details = {"Summary": posted["Details"], "BounceID": str(posted["ID"])}
        case "Transient":
            details = {"DeliveryMessage": posted["Details"]}
        case "LinkClicked":
            details = {"Summary": "Clicked", "Link": posted["OriginalLink"], "ClickLocation": "HTML"}
        case "SubscriptionChanged":
            details = {"Origin": "Recipient", "SuppressSending": "True"}
    return {
        "Recipient": message.recipient,
        "Type": kind,
        "ReceivedAt": postmark_time(event.timestamp),
        "Details": details,
    }
