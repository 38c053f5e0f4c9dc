"""What every email vendor's adapter checks and shapes before a message may leave."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import parseaddr
from typing import Final

from app.errors import FieldError, InvalidFields
from app.providers.base import EmailMessage

BASE_URL: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-fA-F:]+\](:[0-9]{1,5})?")
#: Headers the adapters write themselves, or that would redirect or rename a message.
OWN_HEADERS: Final = frozenset(
    {"message-id", "from", "sender", "to", "cc", "bcc", "subject", "reply-to", "date", "return-path"}
    | {"content-type", "content-transfer-encoding", "mime-version", "received", "dkim-signature"}
)

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # CR and LF above all; a tab may fold a header
_HEADER_NAME: Final = re.compile(r"[!-9;-~]+")  # RFC 5322, 3.6.8: printable ASCII except the colon


def refuse_injection(message: EmailMessage) -> None:
    """The last line of defence: no value becomes a second header, a second recipient, another message id.

    Raises InvalidFields naming every field that is wrong.
    """
    for name in message.headers:
        if not _HEADER_NAME.fullmatch(name) or name.lower() in OWN_HEADERS:
            raise InvalidFields(FieldError(f"headers.{name!r}", "not a header that may be set"))
    if "," in message.to or ";" in message.to:
        raise InvalidFields(FieldError("to", "exactly one address"))
    fields = (message.to, message.sender, message.subject, message.reply_to or "", message.category)
    if _CONTROL.search("".join((*fields, *message.headers.values(), *message.tags))):
        raise InvalidFields(*_with_control_characters(message))


def named_address(value: str, field: str) -> tuple[str, str]:
    """The name and the address of ``Name <address>``. Raises InvalidFields when there is no address in it."""
    name, address = parseaddr(value)
    if "@" not in address:
        raise InvalidFields(FieldError(field, "an address, or a name and an address in angle brackets"))
    return name, address


def labels(message: EmailMessage, *, count_max: int, chars_max: int) -> list[str]:
    """The category first, then the message's own tags. Only labels: an odd one must not cost the message."""
    given = (message.category, *message.tags)
    cut = (label.encode("ascii", "replace").decode()[:chars_max].strip() for label in given)
    return list(dict.fromkeys(label for label in cut if label))[:count_max]


def check_base_url(value: str | None, field: str = "base_url") -> None:
    """Raises ValueError for what is not an origin."""
    if value is not None and not BASE_URL.fullmatch(value):
        raise ValueError(f"{field} must be http(s)://host[:port], without a path")


def check_durations(**seconds: float | None) -> None:
    """Raises ValueError naming a duration that is negative."""
    for name, value in seconds.items():
        if value is not None and value < 0:
            raise ValueError(f"{name} must not be negative")


def _with_control_characters(message: EmailMessage) -> Iterator[FieldError]:
    fields = {
        "to": message.to,
        "sender": message.sender,
        "subject": message.subject,
        "reply_to": message.reply_to or "",
        "category": message.category,
        "tags": "".join(message.tags),
        **{f"headers.{name}": value for name, value in message.headers.items()},
    }
    for name, value in fields.items():
        if _CONTROL.search(value):
            yield FieldError(name, "no line breaks or other control characters")
