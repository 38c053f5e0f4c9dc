"""Messages of every channel to build requests from, and webhooks as they arrive."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from app.domain.models import Platform
from app.providers.base import (
    Device,
    EmailMessage,
    EndpointMessage,
    PushMessage,
    SendContext,
    SmsMessage,
    WebhookRequest,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DELIVERY = UUID("01920000-0000-7000-8000-00000000002a")
NOTIFICATION = UUID("01920000-0000-7000-8000-00000000001a")
DEVICE = UUID("01920000-0000-7000-8000-00000000003a")
CONTEXT = SendContext(now=NOW, account="account", webhook_url="https://notify.example.com/api/v1/webhooks/account")
COMMON: Mapping[str, Any] = {
    "delivery_id": DELIVERY,
    "attempt_no": 2,
    "notification_id": NOTIFICATION,
    "tenant": "acme",
    "category": "order_shipped",
    "klass": "transactional",
    "expires_at": datetime(2026, 3, 2, 12, 0, 0, tzinfo=UTC),
}


def email_message(**changes: Any) -> EmailMessage:
    fields: dict[str, Any] = {
        **COMMON,
        "to": "zoë@example.com",
        "sender": "Acme & Söhne <shop@mg.example.com>",
        "subject": "Ihre Bestellung: 50% + Versand",
        "html": "<p>a&b = c; d + e %41 \r\n</p>",
        "text": "a&b = c; d + e %41\r\n",
    }
    return EmailMessage(**fields | changes)


def sms_message(**changes: Any) -> SmsMessage:
    return SmsMessage(**{**COMMON, "to": "+14155550101", "text": "Your code is 123456"} | changes)


def device(**changes: Any) -> Device:
    return Device(**{"id": DEVICE, "platform": Platform.IOS, "token": "a1" * 32} | changes)


def push_message(**changes: Any) -> PushMessage:
    fields: dict[str, Any] = {
        **COMMON,
        "to": str(DEVICE),
        "device": device(),
        "title": "Shipped",
        "body": "Your order A-1 is on its way",
    }
    return PushMessage(**fields | changes)


def endpoint_message(**changes: Any) -> EndpointMessage:
    fields: dict[str, Any] = {
        **COMMON,
        "to": "ep_1",
        "url": "https://merchant.example.com/hooks",
        "secrets": ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",),
        "event_id": str(DELIVERY),
        "event_type": "order_shipped",
        "occurred_at": NOW,
        "data": {"order_id": "A-1"},
    }
    return EndpointMessage(**fields | changes)


def posted(
    body: bytes | str = b"",
    headers: Mapping[str, str] | None = None,
    *,
    url: str = "https://notify.example.com/api/v1/webhooks/account",
    method: str = "POST",
    received_at: datetime = NOW,
) -> WebhookRequest:
    """A webhook; header names in any case."""
    raw = body.encode() if isinstance(body, str) else body
    lower = {name.lower(): value for name, value in (headers or {}).items()}
    return WebhookRequest(method, url, lower, raw, received_at)
