"""Event data as SES publishes it, and as GetMessageInsights tells it."""

from __future__ import annotations

import time
from typing import Any, Final

from app.sandbox.emails import iso_time
from app.sandbox.protocol import Happening
from app.sandbox.scripting import Failure, Step
from app.sandbox.world import EventData, Message

_READER: Final = {
    "ipAddress": "198.51.100.7",  # TEST-NET-2 (RFC 5737)
    "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.31",
}
_REPORTING_MTA: Final = "dsn; a1-1.smtp-out.eu-west-1.amazonses.com"

#: SES's type and subtype of a bounce, by why the message failed.
_BOUNCES: Final = {
    "bounce": ("Permanent", "General"),
    "full": ("Transient", "MailboxFull"),
    "blocked": ("Transient", "ContentRejected"),
    "suppress-bounce": ("Permanent", "OnAccountSuppressionList"),
}
_DELAYS: Final = {"full": "MailboxFull", "greylisted": "TransientCommunicationFailure"}


def event_data(message: Message, step: Step, happening: Happening) -> dict[str, Any] | None:
    """The event of one step; None where SES has none."""
    specific = _specific(message, step, happening)
    if specific is None:
        return None
    event_type, details = specific
    return {"eventType": event_type, "mail": _mail(message)} | details


def _mail(message: Message) -> dict[str, Any]:
    headers = message.headers
    return {
        "timestamp": iso_time(message.accepted_at),
        "source": message.sender,
        "sourceArn": f"arn:aws:ses:{message.details['region']}:123456789012:identity/{message.domain}",
        "sendingAccountId": "123456789012",
        "messageId": message.message_id,
        "destination": message.details["destination"],
        "headersTruncated": False,
        "headers": [{"name": name, "value": value} for name, value in headers.items()],
        "commonHeaders": {
            "from": [headers.get("From", message.sender)],
            "to": [message.to],
            "messageId": message.message_id,
            "subject": message.title,
        },
        "tags": {
            "ses:operation": ["SendEmail"],
            "ses:configuration-set": [message.details["configuration_set"]],
            "ses:source-ip": ["192.0.2.25"],
            "ses:from-domain": [message.domain],
            "ses:caller-identity": ["landed"],
        }
        | {name: [value] for name, value in message.variables.items()},
    }


def _specific(message: Message, step: Step, happening: Happening) -> tuple[str, dict[str, Any]] | None:
    """SES's name of the event, and its own object."""
    moment = iso_time(happening.timestamp)
    match step.event:
        case "accepted":
            return "Send", {"send": {}}
        case "delivered":
            return "Delivery", {"delivery": _delivery(message, happening)}
        case "failed" if step.failure:
            return _failed(message, step.failure, moment, happening.event_id)
        case "complained":
            return "Complaint", {"complaint": _complaint(message, moment, happening.event_id, None)}
        case "rejected":
            return "Reject", {"reject": {"reason": "Bad content"}}
        case "opened":
            return "Open", {"open": _READER | {"timestamp": moment}}
        case "clicked":
            return "Click", {"click": _READER | {"timestamp": moment, "link": "https://example.com/", "linkTags": None}}
        case "unsubscribed":
            return "Subscription", {"subscription": _subscription(message, moment)}
        case _:
            return None


def _delivery(message: Message, happening: Happening) -> dict[str, Any]:
    return {
        "timestamp": iso_time(happening.timestamp),
        "processingTimeMillis": max(1, round((happening.timestamp - message.accepted_at) * 1000)),
        "recipients": [message.recipient],
        "smtpResponse": "250 2.6.0 Message received",
        "reportingMTA": _REPORTING_MTA.removeprefix("dsn; "),
    }


def _failed(message: Message, failure: Failure, moment: str, feedback_id: str) -> tuple[str, dict[str, Any]]:
    if failure.severity == "temporary":
        return "DeliveryDelay", {"deliveryDelay": _delay(message, failure, moment)}
    if failure.reason == "rendering":
        return "Rendering Failure", {"failure": {"errorMessage": failure.message, "templateName": "sandbox"}}
    if failure.reason == "suppress-complaint":
        complaint = _complaint(message, moment, feedback_id, "OnAccountSuppressionList")
        return "Complaint", {"complaint": complaint}
    kind, subtype = _BOUNCES.get(failure.reason, ("Undetermined", "Undetermined"))
    recipient = {"emailAddress": message.recipient}
    if failure.enhanced_code:
        diagnostic = f"smtp; {failure.code} {failure.message}"
        recipient |= {"action": "failed", "status": failure.enhanced_code, "diagnosticCode": diagnostic}
    bounce = {
        "feedbackId": feedback_id,
        "bounceType": kind,
        "bounceSubType": subtype,
        "bouncedRecipients": [recipient],
        "timestamp": moment,
        "reportingMTA": _REPORTING_MTA,
    }
    return "Bounce", {"bounce": bounce}


def _delay(message: Message, failure: Failure, moment: str) -> dict[str, Any]:
    return {
        "timestamp": moment,
        "delayType": _DELAYS.get(failure.reason, "Undetermined"),
        "expirationTime": iso_time(time.time() + 50_400),
        "reportingMTA": _REPORTING_MTA.removeprefix("dsn; "),
        "delayedRecipients": [
            {
                "emailAddress": message.recipient,
                "status": failure.enhanced_code,
                "diagnosticCode": f"smtp; {failure.code} {failure.message}",
            }
        ],
    }


def _complaint(message: Message, moment: str, feedback_id: str, subtype: str | None) -> dict[str, Any]:
    return {
        "complainedRecipients": [{"emailAddress": message.recipient}],
        "timestamp": moment,
        "feedbackId": feedback_id,
        "complaintSubType": subtype,
        "userAgent": "Sandbox/1.0",
        "complaintFeedbackType": "abuse",
        "arrivalDate": moment,
    }


def _subscription(message: Message, moment: str) -> dict[str, Any]:
    def preferences(status: str, *, all_topics: bool) -> dict[str, Any]:
        topics = [{"topicName": "orders", "subscriptionStatus": status}]
        return {
            "unsubscribeAll": all_topics,
            "topicSubscriptionStatus": topics,
            "topicDefaultSubscriptionStatus": topics,
        }

    return {
        "contactList": "sandbox",
        "timestamp": moment,
        "source": "UnsubscribeHeader",
        "newTopicPreferences": preferences("OptOut", all_topics=True),
        "oldTopicPreferences": preferences("OptIn", all_topics=False),
    }


# GetMessageInsights ---------------------------------------------------------------------------------------------------


def insights(message: Message, events: list[EventData]) -> dict[str, Any]:
    """What GetMessageInsights answers about a message; times in Unix seconds."""
    return {
        "MessageId": message.message_id,
        "FromEmailAddress": message.sender,
        "Subject": message.title,
        "EmailTags": [{"Name": name, "Value": value} for name, value in message.variables.items()],
        "Insights": [
            {
                "Destination": message.recipient,
                "Isp": "UNKNOWN_ISP",
                "Events": [told for event in events if (told := _insight(event))],
            }
        ],
    }


_INSIGHTS: Final = {
    "accepted": "SEND",
    "delivered": "DELIVERY",
    "complained": "COMPLAINT",
    "rejected": "REJECT",
    "opened": "OPEN",
    "clicked": "CLICK",
}


def _insight(event: EventData) -> dict[str, Any] | None:
    told: dict[str, Any] = {"Timestamp": event.timestamp}
    if event.event == "failed" and event.severity == "temporary":
        return told | {"Type": "DELIVERY_DELAY"}
    if event.event == "failed" and event.reason == "rendering":
        return told | {"Type": "RENDERING_FAILURE"}
    if event.event == "failed":
        kind, subtype = _BOUNCES.get(event.reason or "", ("Undetermined", "Undetermined"))
        bounce = {"BounceType": kind.upper(), "BounceSubType": subtype, "DiagnosticCode": f"smtp; {event.code}"}
        return told | {"Type": "BOUNCE", "Details": {"Bounce": bounce}}
    kind = _INSIGHTS.get(event.event, "")
    return told | {"Type": kind} if kind else None
