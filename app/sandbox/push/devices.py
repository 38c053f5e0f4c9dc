"""The devices behind every push service: they show notifications, and tell the app's server about them.

An app with Landed's SDK posts ``{"token", "event"}`` to the receipt URL that came in the push. The token is a secret
of the sender's, so the ledger has it sealed.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from litestar import get, post
from litestar.exceptions import NotFoundException, ValidationException
from litestar.types import ControllerRouterHandler

from app.sandbox.calls import Draft
from app.sandbox.emails import events_of, landed_ids, message_at
from app.sandbox.httpapi import AnyRequest
from app.sandbox.keys import KeyFiles
from app.sandbox.protocol import Happening, Outgoing, Posting, Protocol
from app.sandbox.push.scripts import PUSH, REPLACED
from app.sandbox.runtime import Sandbox
from app.sandbox.scripting import Step
from app.sandbox.world import Body, Message

CHANNEL: Final = "push"
ACKNOWLEDGEMENTS: Final = frozenset({"received", "opened", "dismissed"})
#: What ends a notification's time on the screen.
_GONE: Final = frozenset({"opened", "dismissed", "replaced"})
MAX_TITLE: Final = 200
#: Notifications that a device shows at the most.
MAX_SHOWN: Final = 100


class Acknowledgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request that the device with this token acknowledge the newest notification it shows."""

    token: str
    event: str

    def __post_init__(self) -> None:
        if self.event not in ACKNOWLEDGEMENTS:
            raise ValueError(f"event must be one of {', '.join(sorted(ACKNOWLEDGEMENTS))}")


class PushService(Protocol):
    """What the push services have in common: their devices. They post no webhooks of their own."""

    channel = CHANNEL
    scripts = PUSH
    retry_seconds = (2, 10, 60)

    def __init__(self, sandbox: Sandbox, settings: Any) -> None:
        super().__init__(sandbox, settings)
        self.keys = KeyFiles(sandbox.config.ledger_path.with_suffix(".keys"))

    def handlers(self) -> Sequence[ControllerRouterHandler]:
        """Controls: what a device shows, and a person who opens or sweeps it away."""
        name = self.name

        @get(f"/sandbox/{name}/device")
        async def device(request: AnyRequest, token: str) -> dict[str, Any]:
            return {"notifications": [_shown(message) for message in tray(request.app.state.sandbox, name, token)]}

        @post(f"/sandbox/{name}/acknowledgements", status_code=204)
        async def acknowledge(request: AnyRequest) -> None:
            await acknowledged(request, name)

        return [*super().handlers(), device, acknowledge]

    def draft(
        self,
        token: str,
        *,
        message_id: str,
        notification: Mapping[str, Any],
        data: Mapping[str, Any],
        collapse: str | None,
    ) -> Draft:
        """A notification to one device; ``data`` is what the app finds in it beside what is shown."""
        title, text = (str(notification.get(name) or data.get(name) or "") for name in ("title", "body"))
        receipt_url, receipt = data.get("landed_receipt_url"), data.get("landed_receipt_token")
        delivery, attempt = _landed(data)
        message = Message(
            id=secrets.token_hex(8),
            provider=self.name,
            channel=CHANNEL,
            message_id=message_id,
            recipient=token,
            title=title[:MAX_TITLE],
            accepted_at=time.time(),
            landed_delivery=delivery,
            landed_attempt=attempt,
            callback=receipt_url if isinstance(receipt_url, str) and is_loopback(receipt_url) else None,
            details={"collapse": collapse, "receipt": self.keys.seal(receipt) if isinstance(receipt, str) else None},
        )
        return Draft(message, Body(text=text))

    def taken(self, message: Message) -> None:
        """A notification with the same collapse id as one that is shown takes its place."""
        if message.details["collapse"] is not None:
            for older in tray(self.sandbox, self.name, message.recipient):
                if older.id != message.id and older.details["collapse"] == message.details["collapse"]:
                    self.sandbox.carrier.play(older, REPLACED)

    def payload(self, message: Message, step: Step, happening: Happening) -> dict[str, str] | None:
        if step.event not in ACKNOWLEDGEMENTS or message.details["receipt"] is None:
            return None
        return {"event": step.event, "sealed": message.details["receipt"]}

    def is_posted(self, message: Message, step: Step) -> bool:
        """To the receipt URL that came in the push, and only on this machine."""
        return message.callback is not None

    def is_settled(self, status: int | None) -> bool:
        """An app tries again when its server was out of reach, busy or broken, and takes any other answer for one."""
        return status is not None and status < 500 and status != 429

    def outgoing(self, postings: Sequence[Posting]) -> Outgoing:
        [posting] = postings
        told = msgspec.json.decode(posting.payload, type=dict[str, str])
        body = {"token": self.keys.unseal(told["sealed"]) or "", "event": told["event"]}
        headers = {"Content-Type": "application/json", "User-Agent": "Shop/1.0 LandedSDK/1.0"}
        return Outgoing(headers, msgspec.json.encode(body))


def _landed(data: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Delivery and attempt as the push carries them: apart, or as one reference."""
    delivery, attempt = data.get("landed_delivery_id"), data.get("landed_attempt_no")
    if isinstance(delivery, str) and delivery:
        return delivery, str(attempt) if attempt else None
    return landed_ids(*(value for value in data.values() if isinstance(value, str)))


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine by its address alone; the sandbox posts nowhere else by itself."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return parts.scheme in ("http", "https") and (
            host == "localhost" or ipaddress.ip_address(host).is_loopback  # "127.1" and the like are no addresses here
        )
    except ValueError:
        return False


def tray(sandbox: Sandbox, provider: str, token: str) -> list[Message]:
    """The notifications that a device shows, oldest first."""
    messages = (message_at(sandbox, ref) for ref in sandbox.world.account(provider).messages_to(token)[-MAX_SHOWN:])
    return [message for message in messages if not _GONE & happened(sandbox, message)]


def happened(sandbox: Sandbox, message: Message) -> set[str]:
    return {event.event for _, event in events_of(sandbox, message)}


def _shown(message: Message) -> dict[str, Any]:
    return {
        "message_id": message.message_id,
        "title": message.title,
        "collapse_id": message.details["collapse"],
        "landed_delivery": message.landed_delivery,
    }


async def acknowledged(request: AnyRequest, provider: str) -> None:
    """Let the device acknowledge the newest notification that it shows."""
    sandbox: Sandbox = request.app.state.sandbox
    try:
        told = msgspec.json.decode(await request.body(), type=Acknowledgement)
    except msgspec.DecodeError as exc:
        raise ValidationException(str(exc)) from exc
    shown = tray(sandbox, provider, told.token)
    if not shown:
        raise NotFoundException("this device shows no notification")
    sandbox.carrier.play(shown[-1], Step(told.event))


def strings(values: object) -> dict[str, Any]:
    """An object's members; none for anything else."""
    return values if isinstance(values, dict) else {}


def first(values: Iterable[object]) -> str | None:
    """The first text that is not empty."""
    return next((value for value in values if isinstance(value, str) and value), None)
