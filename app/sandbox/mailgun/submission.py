"""Reading a send request the way Mailgun does, limits and complaints included."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.utils import getaddresses, parsedate_to_datetime
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
from litestar.datastructures import UploadFile

from app.sandbox.httpapi import AnyRequest
from app.sandbox.world import Attachment, Body

#: Mailgun's limits: recipients of one call, bytes of all options together.
MAX_RECIPIENTS: Final = 1000
MAX_OPTION_BYTES: Final = 16_384
#: More form fields than any send needs; bounds the work of parsing one.
MAX_FIELDS: Final = 10_000

_SPECIALS = r"\s<>()\[\]\\,;:@\""
_ADDRESS: Final = re.compile(rf"[^{_SPECIALS}]+@[^{_SPECIALS}.]+(?:\.[^{_SPECIALS}.]+)+")
_MESSAGE_ID: Final = re.compile(r"<[^<>@\s]+@[^<>@\s]+>")

Fields = dict[str, list[str]]


class Invalid(Exception):
    """A send that Mailgun answers with 400"""


@dataclass(frozen=True, slots=True)
class Submission:
    """A send request, understood. ``message_id`` is without angle brackets."""

    message_id: str
    recipients: Sequence[str]
    sender: str
    to: str
    subject: str
    body: Body
    headers: dict[str, str]
    variables: dict[str, str]
    tags: list[str]
    test_mode: bool
    attachments: list[Attachment]
    recipient_variables: dict[str, dict[str, Any]]
    size: int


async def read_form(request: AnyRequest) -> tuple[Fields, list[tuple[str, UploadFile]], int]:
    """The form's fields by name, its files, and its size in bytes."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        form = list((await request.form()).multi_items())
        fields: Fields = {}
        for name, value in form:
            if isinstance(value, str):
                fields.setdefault(name, []).append(value)
        files = [(name, value) for name, value in form if isinstance(value, UploadFile)]
        return fields, files, int(request.headers.get("content-length", "0"))
    body = await request.body()
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS), [], len(body)
    except ValueError as exc:
        raise Invalid("malformed request body") from exc


async def read_submission(request: AnyRequest, domain: str) -> Submission:
    """The send request as Mailgun would understand it. Raises ``Invalid`` with Mailgun's words."""
    fields, files, size = await read_form(request)
    if request.url.path.endswith(".mime"):
        await _unpack_mime(fields, files)
    attachments = [await _attachment(file) for name, file in files if name in ("attachment", "inline")]
    sender, to = _required(fields, "from"), fields.get("to", [])
    headers = {name[2:]: values[-1] for name, values in fields.items() if name[:2].lower() == "h:"}
    _check_options(fields)
    return Submission(
        message_id=_message_id(fields, domain),
        sender=_addresses([sender], "from")[0],
        recipients=_recipients(fields),
        to=", ".join(to),
        subject=_one(fields, "subject"),
        body=_body(fields),
        headers=headers | {"From": sender},
        variables={name[2:]: values[-1] for name, values in fields.items() if name.startswith("v:")},
        tags=_tags(fields),
        test_mode=_one(fields, "o:testmode").lower() in ("yes", "true"),
        attachments=attachments,
        recipient_variables=_recipient_variables(fields),
        size=size,
    )


def _one(fields: Fields, name: str) -> str:
    return fields.get(name, [""])[-1]


def _required(fields: Fields, name: str) -> str:
    if not (value := _one(fields, name).strip()):
        raise Invalid(f"{name} parameter is missing")
    return value


def _recipients(fields: Fields) -> list[str]:
    _required(fields, "to")
    addresses = [address for name in ("to", "cc", "bcc") for address in _addresses(fields.get(name, []), name)]
    unique = list(dict.fromkeys(addresses))
    if len(unique) > MAX_RECIPIENTS:
        raise Invalid(f"Too many recipients: {len(unique)}, at most {MAX_RECIPIENTS} are allowed")
    return unique


def _addresses(values: Sequence[str], field: str) -> list[str]:
    """The bare addresses in header values like ``Ann <ann@example.com>, bob@example.com``."""
    addresses = []
    for value in values:
        if '"' in value or "(" in value:
            addresses += [address for _, address in getaddresses([value])]
        else:
            parts = filter(str.strip, value.split(","))
            addresses += [part[part.rfind("<") + 1 :].strip().removesuffix(">") for part in parts]
    if any(not _ADDRESS.fullmatch(address) for address in addresses):
        raise Invalid(f"{field} parameter is not a valid address. please check documentation")
    return addresses


def _body(fields: Fields) -> Body:
    html, text = _one(fields, "html"), _one(fields, "text")
    if not (html or text or _one(fields, "amp-html") or _one(fields, "template")):
        raise Invalid("Need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified")
    return Body(html=html or None, text=text or None)


def _check_options(fields: Fields) -> None:
    options = [(name, value) for name, values in fields.items() if name[1:2] == ":" for value in values]
    if sum(len(name) + len(value.encode()) for name, value in options if name[0] in "ohvt") > MAX_OPTION_BYTES:
        raise Invalid("Send options (parameters starting with o:, h:, v: or t:) are limited to 16 kB total")
    if (when := _one(fields, "o:deliverytime")) and not _is_rfc2822(when):
        raise Invalid("o:deliverytime parameter is not an RFC-2822 compliant date")


def _is_rfc2822(value: str) -> bool:
    try:
        parsedate_to_datetime(value)
    except ValueError:
        return False
    return True


def _tags(fields: Fields) -> list[str]:
    tags = fields.get("o:tag", [])
    if not all(tag.isascii() for tag in tags):
        raise Invalid("o:tag parameter must be pure ASCII")
    return tags


def _message_id(fields: Fields, domain: str) -> str:
    """The caller's own id if it gave exactly one of the right shape; else one in Mailgun's style."""
    given = [value for name, values in fields.items() if name.lower() == "h:message-id" for value in values]
    if len(given) == 1 and _MESSAGE_ID.fullmatch(given[0].strip()):
        return given[0].strip()[1:-1]
    return f"{time.strftime('%Y%m%d%H%M%S', time.gmtime())}.{secrets.token_hex(8)}@{domain}"


def _recipient_variables(fields: Fields) -> dict[str, dict[str, Any]]:
    if not (raw := _one(fields, "recipient-variables")):
        return {}
    try:
        return msgspec.json.decode(raw, type=dict[str, dict[str, Any]])
    except msgspec.DecodeError as exc:
        raise Invalid("recipient-variables parameter is not a valid JSON") from exc


async def _attachment(file: UploadFile) -> Attachment:
    size = len(await file.read())
    await file.close()
    return Attachment(file.filename, file.content_type, size)


async def _unpack_mime(fields: Fields, files: Sequence[tuple[str, UploadFile]]) -> None:
    """Turn the MIME message of ``messages.mime`` into the fields of an ordinary send."""
    mime = next((file for name, file in files if name == "message"), None)
    if mime is None:
        raise Invalid("message parameter is missing")
    parsed = message_from_bytes(await mime.read(), policy=policy.default)
    await mime.close()
    for header, name in (("From", "from"), ("Subject", "subject"), ("Message-Id", "h:Message-Id")):
        if value := parsed.get(header):
            fields.setdefault(name, [str(value)])
    for kind, name in (("html", "html"), ("plain", "text")):
        if part := parsed.get_body(preferencelist=(kind,)):
            fields[name] = [part.get_content()]
