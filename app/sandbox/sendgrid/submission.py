"""Reading a mail send the way SendGrid does, limits and complaints included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from app.sandbox.emails import ADDRESS
from app.sandbox.world import Body

MAX_PERSONALIZATIONS: Final = 1000
MAX_RECIPIENTS: Final = 1000
MAX_CATEGORIES: Final = 10
MAX_CATEGORY_CHARS: Final = 255
MAX_CUSTOM_ARGS_BYTES: Final = 10_000

_RESERVED: Final = frozenset(
    (
        *("x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding"),
        *("to", "from", "subject", "reply-to", "cc", "bcc"),
    )
)


class Wrong(Exception):
    """A send that SendGrid answers with 400. ``field`` says where."""

    def __init__(self, message: str, where: str | None = None) -> None:
        super().__init__(message)
        self.field = where


class Person(msgspec.Struct, frozen=True):
    email: str
    name: str = ""


class Content(msgspec.Struct, frozen=True):
    type: str
    value: str


class Personalization(msgspec.Struct, frozen=True):
    to: list[Person] = msgspec.field(default_factory=list)
    cc: list[Person] = msgspec.field(default_factory=list)
    bcc: list[Person] = msgspec.field(default_factory=list)
    subject: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    custom_args: dict[str, str] = msgspec.field(default_factory=dict)


class Toggle(msgspec.Struct, frozen=True):
    enable: bool = False


class MailSettings(msgspec.Struct, frozen=True):
    sandbox_mode: Toggle = Toggle()


class Group(msgspec.Struct, frozen=True):
    group_id: int


class MailSend(msgspec.Struct, frozen=True):
    """The body of ``POST /v3/mail/send``, as far as it matters here."""

    personalizations: list[Personalization] = msgspec.field(default_factory=list)
    sender: Person | None = msgspec.field(default=None, name="from")
    subject: str | None = None
    content: list[Content] = msgspec.field(default_factory=list)
    template_id: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    categories: list[str] = msgspec.field(default_factory=list)
    custom_args: dict[str, str] = msgspec.field(default_factory=dict)
    asm: Group | None = None
    mail_settings: MailSettings = MailSettings()


@dataclass(frozen=True, slots=True)
class Addressee:
    """One recipient with what its personalization says."""

    address: str
    subject: str
    headers: Mapping[str, str]
    custom_args: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Submission:
    """A send, understood."""

    sender: str
    body: Body
    addressees: list[Addressee]
    categories: list[str] = field(default_factory=list)
    group_id: int | None = None
    only_validated: bool = False


def read_submission(raw: bytes) -> Submission:
    """The send as SendGrid would understand it. Raises ``Wrong``."""
    request = _decoded(raw)
    if request.sender is None:
        raise Wrong("The from object must be provided for every email send.", "from.email")
    _check_address(request.sender.email, "from.email")
    _check_categories(request.categories)
    body = _body(request)
    return Submission(
        sender=request.sender.email,
        body=body,
        addressees=_addressees(request),
        categories=request.categories,
        group_id=request.asm.group_id if request.asm else None,
        only_validated=request.mail_settings.sandbox_mode.enable,
    )


def _decoded(raw: bytes) -> MailSend:
    try:
        return msgspec.json.decode(raw, type=MailSend)
    except msgspec.ValidationError as exc:
        where = str(exc).partition("`$.")[2].rstrip("`").replace("[...]", ".0")
        raise Wrong(f"Bad Request: {exc}", where or None) from exc
    except msgspec.DecodeError as exc:
        raise Wrong("Bad Request") from exc


def _check_address(address: str, where: str) -> None:
    if not ADDRESS.fullmatch(address):
        raise Wrong("Does not contain a valid address.", where)


def _check_categories(categories: list[str]) -> None:
    if len(categories) > MAX_CATEGORIES or len(set(categories)) != len(categories):
        raise Wrong(f"The categories parameter takes up to {MAX_CATEGORIES} unique categories.", "categories")
    if any(len(category) > MAX_CATEGORY_CHARS for category in categories):
        raise Wrong(f"A category may not exceed {MAX_CATEGORY_CHARS} characters.", "categories")


def _body(request: MailSend) -> Body:
    if request.template_id:
        return Body()
    if not request.content:
        raise Wrong("Unless a valid template_id is provided, the content parameter is required.", "content")
    for number, content in enumerate(request.content):
        if not content.value:
            raise Wrong(
                "The content value must be a string at least one character in length.", f"content.{number}.value"
            )
    kinds = [content.type for content in request.content]
    if "text/plain" in kinds[1:] or ("text/html" in kinds and kinds.index("text/html") > 1):
        raise Wrong(
            "If present, text/plain and text/html may only be provided once, text/plain first.", "content.0.type"
        )
    texts = {content.type: content.value for content in request.content}
    return Body(html=texts.get("text/html"), text=texts.get("text/plain"))


def _addressees(request: MailSend) -> list[Addressee]:
    if not 1 <= len(request.personalizations) <= MAX_PERSONALIZATIONS:
        raise Wrong(
            "The personalizations field is required and must have at least one personalization.", "personalizations"
        )
    found = [
        addressee
        for number, personalization in enumerate(request.personalizations)
        for addressee in _of_one(request, personalization, f"personalizations.{number}")
    ]
    if len(found) > MAX_RECIPIENTS:
        raise Wrong(f"The total number of recipients may not exceed {MAX_RECIPIENTS}.", "personalizations")
    return found


def _of_one(request: MailSend, personalization: Personalization, where: str) -> list[Addressee]:
    if not personalization.to:
        raise Wrong("The to array is required for all personalization objects.", f"{where}.to")
    people = {kind: getattr(personalization, kind) for kind in ("to", "cc", "bcc")}
    for kind, group in people.items():
        for number, person in enumerate(group):
            _check_address(person.email, f"{where}.{kind}.{number}.email")
    addresses = [person.email for group in people.values() for person in group]
    if len({address.lower() for address in addresses}) != len(addresses):
        raise Wrong("Each email address in the personalization block should be unique between to, cc, and bcc.", where)
    subject = personalization.subject or request.subject or ""
    if not (subject or request.template_id):
        raise Wrong("The subject is required. You can get around this requirement if you use a template.", "subject")
    headers = _headers({**request.headers, **personalization.headers})
    arguments = {**request.custom_args, **personalization.custom_args}
    if len(msgspec.json.encode(arguments)) > MAX_CUSTOM_ARGS_BYTES:
        raise Wrong(f"The custom arguments may not exceed {MAX_CUSTOM_ARGS_BYTES} bytes.", "custom_args")
    return [Addressee(address, subject, headers, arguments) for address in addresses]


def _headers(headers: dict[str, Any]) -> dict[str, str]:
    for name, value in headers.items():
        if name.lower() in _RESERVED:
            raise Wrong(f"The header {name} is reserved and cannot be set.", "headers")
        if not name.isascii() or any(sign in f"{name}{value}" for sign in "\r\n"):
            raise Wrong("Headers must be plain ASCII without line breaks.", "headers")
    return headers
