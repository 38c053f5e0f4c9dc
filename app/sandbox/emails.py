"""What the email protocols have in common: addresses, times, and messages to look up again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import getaddresses
from typing import TYPE_CHECKING, Final

import msgspec

from app.sandbox.world import Body, EventData, EventRef, Message, MessageRef

if TYPE_CHECKING:
    from app.sandbox.runtime import Sandbox

_SPECIALS = r"\s<>()\[\]\\,;:@\""
ADDRESS: Final = re.compile(rf"[^{_SPECIALS}]+@[^{_SPECIALS}.]+(?:\.[^{_SPECIALS}.]+)+")

_message = msgspec.json.Decoder(Message)
_event = msgspec.json.Decoder(EventData)


def bare_addresses(values: Iterable[str]) -> list[str]:
    """The addresses in values like ``Ann <ann@example.com>, bob@example.com``. Raises ValueError naming a wrong one."""
    found = [(value, address) for value in values for _, address in getaddresses([value])]
    for value, address in found:
        if not ADDRESS.fullmatch(address):
            raise ValueError(value)
    return [address for _, address in found]


def iso_time(timestamp: float, *, milliseconds: bool = True) -> str:
    """Unix seconds as ``2026-01-31T12:00:00.000Z``."""
    moment = datetime.fromtimestamp(timestamp, UTC)
    return moment.isoformat(timespec="milliseconds" if milliseconds else "seconds").replace("+00:00", "Z")


def parse_mime(raw: bytes) -> EmailMessage:
    """A MIME message, its line ends either way."""
    return message_from_bytes(raw, policy=policy.default)


def body_of(message: EmailMessage) -> Body:
    """The texts of a MIME message, as the mailbox page shows them."""
    parts = {kind: message.get_body(preferencelist=(kind,)) for kind in ("html", "plain")}
    html, text = (part.get_content() if part else None for part in (parts["html"], parts["plain"]))
    return Body(html=html, text=text)


def message_at(sandbox: Sandbox, ref: MessageRef) -> Message:
    """An accepted message as the ledger has it."""
    return _message.decode(sandbox.ledger.read(ref.seq).data)


def event_at(sandbox: Sandbox, ref: EventRef) -> EventData:
    """An event as the ledger has it."""
    return _event.decode(sandbox.ledger.read(ref.seq).data)


def events_of(sandbox: Sandbox, message: Message) -> Iterator[tuple[EventRef, EventData]]:
    """What has happened to a message, in order."""
    for ref in sandbox.world.account(message.provider).events_by_message_id.get(message.message_id, []):
        if ref.recipient == message.recipient:
            yield ref, event_at(sandbox, ref)


_REFERENCE: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(\d{1,9})", re.IGNORECASE)


def landed_ids(*texts: str | None) -> tuple[str | None, str | None]:
    """Delivery and attempt from the first text that holds a reference like ``<uuid>.<number>``."""
    for text in texts:
        if text and (found := _REFERENCE.search(text)):
            return found[1].lower(), found[2]
    return None, None
