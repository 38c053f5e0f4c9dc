"""Reading a SendEmail request the way SES does, limits and complaints included."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from app.sandbox.emails import bare_addresses, body_of, parse_mime
from app.sandbox.ses.settings import SesSettings
from app.sandbox.world import Body

MAX_RECIPIENTS: Final = 50
_TAG: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_HEADER_NAME: Final = re.compile(r"[!-9;-~]{1,126}")
_TAGS_HEADER: Final = "X-SES-MESSAGE-TAGS"


class Rejected(Exception):
    """A send that SES answers with an error. ``kind`` is SES's word for it."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class Destination(msgspec.Struct, frozen=True):
    to: list[str] = msgspec.field(default_factory=list, name="ToAddresses")
    cc: list[str] = msgspec.field(default_factory=list, name="CcAddresses")
    bcc: list[str] = msgspec.field(default_factory=list, name="BccAddresses")


class Text(msgspec.Struct, frozen=True):
    data: str = msgspec.field(name="Data")


class SimpleBody(msgspec.Struct, frozen=True):
    text: Text | None = msgspec.field(default=None, name="Text")
    html: Text | None = msgspec.field(default=None, name="Html")


class Pair(msgspec.Struct, frozen=True):
    name: str = msgspec.field(name="Name")
    value: str = msgspec.field(name="Value")


class Simple(msgspec.Struct, frozen=True):
    subject: Text = msgspec.field(name="Subject")
    body: SimpleBody = msgspec.field(name="Body")
    headers: list[Pair] = msgspec.field(default_factory=list, name="Headers")


class Raw(msgspec.Struct, frozen=True):
    data: str = msgspec.field(name="Data")


class Content(msgspec.Struct, frozen=True):
    simple: Simple | None = msgspec.field(default=None, name="Simple")
    raw: Raw | None = msgspec.field(default=None, name="Raw")
    template: dict[str, Any] | None = msgspec.field(default=None, name="Template")


class SendEmail(msgspec.Struct, frozen=True):
    """The body of ``POST /v2/email/outbound-emails``, as far as it matters here."""

    content: Content = msgspec.field(name="Content")
    sender: str = msgspec.field(default="", name="FromEmailAddress")
    destination: Destination = msgspec.field(default_factory=Destination, name="Destination")
    tags: list[Pair] = msgspec.field(default_factory=list, name="EmailTags")
    configuration_set: str | None = msgspec.field(default=None, name="ConfigurationSetName")


@dataclass(frozen=True, slots=True)
class Submission:
    """A send, understood."""

    sender: str
    recipients: list[str]
    subject: str
    body: Body
    headers: dict[str, str]
    tags: dict[str, str]
    configuration_set: str


def read_submission(raw: bytes, settings: SesSettings) -> Submission:
    """The send as SES would understand it. Raises ``Rejected``."""
    try:
        request = msgspec.json.decode(raw, type=SendEmail)
    except msgspec.DecodeError as exc:
        raise Rejected(400, "BadRequestException", f"1 validation error detected: {exc}") from exc
    subject, body, headers = _content(request.content)
    sender = request.sender or headers.get("From", "")
    return Submission(
        sender=_one(sender),
        recipients=_recipients(request, headers),
        subject=subject,
        body=body,
        headers={"From": sender} | headers,
        tags=_tags(request.tags, headers),
        configuration_set=_configuration_set(request, headers, settings),
    )


def _content(content: Content) -> tuple[str, Body, dict[str, str]]:
    """Subject, texts and headers."""
    if content.simple:
        return _simple(content.simple)
    if content.raw:
        return _raw(content.raw)
    if content.template:
        return str(content.template.get("TemplateName", "")), Body(), {}
    raise Rejected(400, "BadRequestException", "Content must contain one of Simple, Raw or Template.")


def _simple(simple: Simple) -> tuple[str, Body, dict[str, str]]:
    if not (simple.body.text or simple.body.html):
        raise Rejected(400, "BadRequestException", "Body must contain Text or Html.")
    for header in simple.headers:
        value = header.value
        if not _HEADER_NAME.fullmatch(header.name) or len(value) > 995 or not (value.isascii() and value.isprintable()):
            raise Rejected(400, "BadRequestException", f"Invalid header: {header.name}")
    body = Body(
        html=simple.body.html.data if simple.body.html else None,
        text=simple.body.text.data if simple.body.text else None,
    )
    return simple.subject.data, body, {header.name: header.value for header in simple.headers}


def _raw(raw: Raw) -> tuple[str, Body, dict[str, str]]:
    try:
        message = parse_mime(b64decode(raw.data, validate=True))
    except binascii.Error as exc:
        raise Rejected(400, "BadRequestException", "Raw Data must be base64.") from exc
    headers = {name: str(value) for name, value in message.items()}
    return headers.get("Subject", ""), body_of(message), headers


def _recipients(request: SendEmail, headers: Mapping[str, str]) -> list[str]:
    destination = request.destination
    given = [*destination.to, *destination.cc, *destination.bcc]
    if not given:
        given = [headers[name] for name in ("To", "Cc", "Bcc") if name in headers]
    recipients = list(dict.fromkeys(_addresses(given)))
    if not recipients:
        raise Rejected(400, "BadRequestException", "Destination must contain at least one recipient.")
    if len(recipients) > MAX_RECIPIENTS:
        raise Rejected(400, "BadRequestException", f"Recipient count exceeds {MAX_RECIPIENTS}.")
    return recipients


def _addresses(values: list[str]) -> list[str]:
    """Bare addresses. SES takes 7-bit local parts only, and domains in punycode."""
    try:
        addresses = bare_addresses(values)
    except ValueError as exc:
        raise Rejected(400, "BadRequestException", "Illegal address") from exc
    if any(not address.isascii() for address in addresses):
        raise Rejected(400, "BadRequestException", "Local address contains control or whitespace")
    return addresses


def _one(sender: str) -> str:
    if len(addresses := _addresses([sender])) != 1:
        raise Rejected(400, "BadRequestException", "FromEmailAddress must be one address.")
    return addresses[0]


def _tags(tags: list[Pair], headers: Mapping[str, str]) -> dict[str, str]:
    header = next((value for name, value in headers.items() if name.upper() == _TAGS_HEADER), "")
    pairs = [part.strip().partition("=") for part in header.split(",") if part.strip()]
    found = {name.strip(): value.strip() for name, _, value in pairs} | {tag.name: tag.value for tag in tags}
    for name, value in found.items():
        if not (_TAG.fullmatch(name) and _TAG.fullmatch(value)):
            raise Rejected(
                400, "BadRequestException", f"Invalid tag <{name}>: names and values are [A-Za-z0-9_-]{{1,256}}"
            )
    return found


def _configuration_set(request: SendEmail, headers: Mapping[str, str], settings: SesSettings) -> str:
    header = next((value for name, value in headers.items() if name.upper() == "X-SES-CONFIGURATION-SET"), None)
    name = request.configuration_set or header or settings.known_sets[0]
    if name not in settings.known_sets:
        raise Rejected(404, "NotFoundException", f"Configuration set <{name}> does not exist.")
    return name
