"""Reading an email the way Postmark does, limits and complaints included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from app.sandbox.emails import bare_addresses
from app.sandbox.world import Body

MAX_RECIPIENTS: Final = 50
MAX_BATCH: Final = 500
MAX_METADATA: Final = 10
MAX_METADATA_KEY: Final = 20
MAX_METADATA_VALUE: Final = 80
#: Message streams there are; Postmark makes these two with every server.
STREAMS: Final = ("outbound", "broadcast")


class Refused(Exception):
    """An email that Postmark answers with 422. ``code`` is its ErrorCode."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Header(msgspec.Struct, frozen=True):
    name: str = msgspec.field(name="Name")
    value: str = msgspec.field(name="Value")


class Email(msgspec.Struct, frozen=True, rename="pascal"):
    """The body of ``POST /email``, as far as it matters here."""

    from_: str = msgspec.field(default="", name="From")
    to: str = ""
    cc: str = ""
    bcc: str = ""
    subject: str = ""
    html_body: str | None = None
    text_body: str | None = None
    headers: list[Header] = []
    tag: str | None = None
    metadata: dict[str, str] = {}
    message_stream: str = "outbound"
    track_opens: bool = False
    track_links: str = "None"


@dataclass(frozen=True, slots=True)
class Submission:
    """An email, understood."""

    email: Email
    sender: str
    recipients: dict[str, list[str]]  # by To, Cc and Bcc
    body: Body

    @property
    def everybody(self) -> list[str]:
        return list(dict.fromkeys(address for group in self.recipients.values() for address in group))


def read_json(raw: bytes, kind: Any) -> Any:
    """A request body. Raises ``Refused`` in Postmark's words."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as exc:
        raise Refused(402, f"Invalid JSON: {exc}") from exc


def read_submission(email: Email) -> Submission:
    """The email as Postmark would understand it. Raises ``Refused``."""
    sender = _addresses("From", email.from_)
    if len(sender) != 1:
        raise Refused(300, "The 'From' address is required.")
    recipients = {name: _addresses(name, getattr(email, name.lower())) for name in ("To", "Cc", "Bcc")}
    count = sum(map(len, recipients.values()))
    if not recipients["To"]:
        raise Refused(300, "Zero recipients specified")
    if count > MAX_RECIPIENTS:
        raise Refused(300, f"Too many recipients: {count}. The maximum is {MAX_RECIPIENTS}.")
    if not (email.html_body or email.text_body):
        raise Refused(300, "Provide either email TextBody or HtmlBody or both.")
    if email.message_stream not in STREAMS:
        raise Refused(1235, "The message stream provided does not exist on this server.")
    _check_metadata(email.metadata)
    return Submission(email, sender[0], recipients, Body(html=email.html_body, text=email.text_body))


def _addresses(field: str, value: str) -> list[str]:
    try:
        return bare_addresses([value]) if value.strip() else []
    except ValueError as exc:
        raise Refused(
            300, f"Error parsing '{field}': Illegal email address '{exc}'. It must contain the '@' symbol."
        ) from exc


def _check_metadata(metadata: dict[str, str]) -> None:
    if len(metadata) > MAX_METADATA:
        raise Refused(300, f"Metadata may have {MAX_METADATA} fields at the most.")
    for name, value in metadata.items():
        if len(name) > MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            raise Refused(
                300, f"Metadata field '{name}': {MAX_METADATA_KEY} characters of name, {MAX_METADATA_VALUE} of value."
            )
