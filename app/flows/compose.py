"""compose: a claimed delivery and its rendered content become the message an adapter builds a request from. Pure.

What is found wrong here (a link that is no link, a badge that is no number) is the content's fault: InvalidFields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

import msgspec

from app.domain.engagement import instrument
from app.domain.models import Channel, NotificationClass
from app.domain.tokens import Subscription, click_url, open_url, receipt_token, sign, unsubscribe_headers
from app.errors import FieldError, InvalidFields
from app.providers.base import (
    AnyProvider,
    Device,
    EmailMessage,
    EndpointMessage,
    Message,
    PushMessage,
    SmsMessage,
)
from app.rendering.types import Rendered, content_hash
from app.settings import Settings
from app.store.dispatch import Claimed

# A link an app or a browser may be told to open: the web, or the app's own scheme; never script or data.
LINK: Final = re.compile(
    r"(?!(?i:javascript|data|vbscript|file|blob|filesystem):)[A-Za-z][A-Za-z0-9+.-]*://?[^\s\x00-\x1f<>\"]+"
)
IMAGE: Final = re.compile(r"https?://[^\s\x00-\x1f<>\"]+")
DATA_PREFIX: Final = "data."
_COMMON: Final = tuple(f.name for f in fields(Message))


@dataclass(frozen=True, slots=True)
class Target:
    """Where a delivery goes whose address is an id: a device, or an endpoint with what signs its events.

    refusal: why nothing may be sent there now, although it is there.
    """

    device: Device | None = None
    url: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    format: str = "standard"
    refusal: str | None = None


NOWHERE: Final = Target()


def compose(
    claimed: Claimed,
    rendered: Rendered,
    target: Target,
    *,
    provider: AnyProvider,
    settings: Settings,
    signing_key: bytes,
) -> Message:
    """The message of this delivery's channel. Raises InvalidFields naming the part that cannot be sent."""
    composer = _COMPOSERS[Channel(claimed.channel)]
    return composer(_Parts(claimed, rendered, target, provider, settings, signing_key))


@dataclass(frozen=True, slots=True)
class _Parts:
    claimed: Claimed
    rendered: Rendered
    target: Target
    provider: AnyProvider
    settings: Settings
    signing_key: bytes

    def common(self) -> dict[str, Any]:
        claimed = self.claimed
        known = {
            "delivery_id": claimed.id,
            "attempt_no": claimed.attempt_no,
            "notification_id": claimed.notification_id,
            "tenant": claimed.tenant,
            "category": claimed.category,
            "klass": claimed.klass,
            "to": claimed.address,
            "expires_at": claimed.expires_at,
            "test_mode": claimed.test_mode,
        }
        return {name: known[name] for name in _COMMON}


def _email(parts: _Parts) -> EmailMessage:
    claimed, rendered = parts.claimed, parts.rendered
    return EmailMessage(
        **parts.common(),
        sender=claimed.sender,
        reply_to=claimed.reply_to,
        subject=rendered.subject,
        html=_instrumented(parts),
        text=rendered.text,
        headers=_unsubscribe_headers(parts),
        tags=(claimed.category,),
        track_opens=claimed.track_opens,
        track_clicks=claimed.track_clicks,
    )


def _unsubscribe_headers(parts: _Parts) -> dict[str, str]:
    """One-click unsubscribe for what people did not ask for (RFC 8058); a receipt has no such link."""
    claimed, public_url = parts.claimed, parts.settings.api.public_url
    if claimed.klass != NotificationClass.PROMOTIONAL or public_url is None:
        return {}
    subscription = Subscription(claimed.tenant_id, claimed.channel, claimed.address, claimed.category)
    return unsubscribe_headers(public_url, sign(parts.signing_key, subscription))


def _instrumented(parts: _Parts) -> str | None:
    """Our own pixel and links where the provider has none of its own (R-189, R-190)."""
    claimed, html, public_url = parts.claimed, parts.rendered.html, parts.settings.api.public_url
    if parts.provider.capabilities.tracks_engagement or public_url is None:
        return html
    if html is None or not (claimed.track_opens or claimed.track_clicks):
        return html
    key, delivery, no = parts.signing_key, claimed.id, claimed.attempt_no
    return instrument(
        html,
        opens=claimed.track_opens,
        clicks=claimed.track_clicks,
        pixel=lambda: open_url(key, public_url, delivery, no),
        link=lambda url: click_url(key, public_url, delivery, no, url),
    )


def _sms(parts: _Parts) -> SmsMessage:
    return SmsMessage(**parts.common(), text=parts.rendered.text)


def _push(parts: _Parts) -> PushMessage:
    claimed, rendered, extras = parts.claimed, parts.rendered, parts.rendered.extras
    assert parts.target.device is not None
    public_url = parts.settings.api.public_url
    return PushMessage(
        **parts.common(),
        device=parts.target.device,
        title=rendered.subject,
        body=rendered.text,
        subtitle=extras.get("subtitle"),
        badge=_badge(extras.get("badge")),
        sound=extras.get("sound"),
        url=_link("url", extras.get("url"), LINK),
        image=_link("image", extras.get("image"), IMAGE),
        data={name.removeprefix(DATA_PREFIX): v for name, v in extras.items() if name.startswith(DATA_PREFIX)},
        receipt_token=receipt_token(parts.signing_key, claimed.id, claimed.attempt_no),
        receipt_url=None if public_url is None else f"{public_url.rstrip('/')}/api/v1/receipts",
    )


def data_only(variables: Mapping[str, Any]) -> Rendered:
    """The content of what goes to an endpoint without words: its data, known by their hash."""
    return Rendered("", None, "", content_hash("", None, msgspec.json.encode(variables, order="sorted").decode()))


def _badge(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise InvalidFields(FieldError("extras.badge", "must come out as a number from 0 to 999999"))
    return int(text)


def _link(part: str, text: str | None, allowed: re.Pattern[str]) -> str | None:
    if not text:
        return None
    if not allowed.fullmatch(text):
        raise InvalidFields(
            FieldError(f"extras.{part}", "must come out as a link, such as https://example.com/order/1")
        )
    return text


def _endpoint(parts: _Parts) -> EndpointMessage:
    """The event's id outlives attempts and replays: by it the receiver drops copies."""
    claimed, rendered, target = parts.claimed, parts.rendered, parts.target
    return EndpointMessage(
        **parts.common(),
        url=target.url,
        secrets=target.secrets,
        format=target.format,
        event_id=str(claimed.event_id),
        event_type=claimed.category,
        occurred_at=claimed.accepted_at,
        data=_event_data(claimed),
        title=rendered.subject,
        text=rendered.text or _status_words(claimed),
    )


def _event_data(claimed: Claimed) -> Mapping[str, Any]:
    """A status event is its own data; a notification says who it is for and what it is about."""
    if claimed.template_version == 0:
        return claimed.variables
    return {
        "notification_id": str(claimed.notification_id),
        "recipient_id": claimed.recipient_id,
        "category": claimed.category,
        "template_id": claimed.template_id,
        "template_version": claimed.template_version,
        "variables": claimed.variables,
    }


def _status_words(claimed: Claimed) -> str:
    """What a chat room reads of a status event."""
    data = claimed.variables
    told = [f"{name} {data[name]}" for name in ("channel", "category", "reason", "delivery_id") if data.get(name)]
    return f"{claimed.category}: {', '.join(told)}" if told else claimed.category


_COMPOSERS: Final[Mapping[Channel, Callable[[_Parts], Message]]] = {
    Channel.EMAIL: _email,
    Channel.SMS: _sms,
    Channel.PUSH: _push,
    Channel.WEBHOOK: _endpoint,
    Channel.CHAT: _endpoint,
}


@dataclass(frozen=True, slots=True)
class InboxContent:
    """What an inbox item shows: its words, and what the app needs to act on it."""

    title: str
    body: str
    data: Mapping[str, str]


def compose_inbox(rendered: Rendered) -> InboxContent:
    """Raises InvalidFields for a link that is none."""
    extras = rendered.extras
    data = {name.removeprefix(DATA_PREFIX): v for name, v in extras.items() if name.startswith(DATA_PREFIX)}
    for part, allowed in (("url", LINK), ("image", IMAGE)):
        if (link := _link(part, extras.get(part), allowed)) is not None:
            data[part] = link
    return InboxContent(rendered.subject, rendered.text, data)
