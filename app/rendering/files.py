"""Templates as files under version control, next to the code that sends them (R-140).

    DIR/<template_id>/template.toml     subject, and optionally description, [variables], [push], [in_app], [chat]
    DIR/<template_id>/body.html         the email's HTML part
    DIR/<template_id>/body.txt          its text part; derived from the HTML where it is absent
    DIR/<template_id>/sms.txt           what a text message says; push.txt, in_app.txt, chat.txt, webhook.txt likewise

A table [push] holds the title as ``subject`` and the extras: url, image, sound, badge, subtitle, [push.data].
At least one of the bodies is there.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domain.models import Channel
from app.domain.variables import parse_declared
from app.errors import FieldError, InvalidFields

TEMPLATE_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
FILE_BYTES_MAX = 1024 * 1024  # the API has its own, tighter limit; this one keeps a wrong directory out of memory
MANIFEST = "template.toml"
KEYS = frozenset({"channel", "subject", "description", "variables", "push", "in_app", "chat"})
TITLED = (Channel.PUSH, Channel.IN_APP, Channel.CHAT)  # what is shown on a screen has a title and extras


@dataclass(frozen=True, slots=True)
class TemplateFile:
    """One template directory, as the fields of a request to create a version."""

    template_id: str
    channel: Channel
    subject: str | None
    html: str | None
    text: str | None
    variables: Mapping[str, Mapping[str, Any]]
    description: str
    channels: Mapping[str, Mapping[str, Any]]


def load_templates(directory: Path) -> list[TemplateFile]:
    """Every template under ``directory``, in the order of their ids.

    Raises InvalidFields with all that is wrong; each field reads ``<file>: <key>``.
    """
    if not directory.is_dir():
        raise InvalidFields(FieldError(str(directory), "is not a directory"))
    folders = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    templates: list[TemplateFile] = []
    errors: list[FieldError] = []
    for folder in folders:
        try:
            templates.append(load_template(folder))
        except InvalidFields as exc:
            errors.extend(exc.errors)
    if not folders:
        errors.append(FieldError(str(directory), f"holds no templates; expected <template_id>/{MANIFEST}"))
    if errors:
        raise InvalidFields(*errors)
    return templates


def load_template(folder: Path) -> TemplateFile:
    """One template directory. Raises InvalidFields as ``load_templates`` does."""
    manifest = folder / MANIFEST
    if not TEMPLATE_ID.fullmatch(folder.name):
        raise InvalidFields(FieldError(str(folder), "a template id is of a-z, 0-9, - and _, up to 100 characters"))
    content = _manifest(manifest)
    html, text = _read(folder / "body.html"), _read(folder / "body.txt")
    channels = {channel: _content(content, channel, words) for channel, words in _words(folder).items()}
    has_email = "subject" in content or html is not None or text is not None or not channels
    errors = _manifest_errors(content, has_email=has_email)
    if has_email and html is None and text is None:
        errors.append(FieldError("body", "missing; add body.html, body.txt or both beside it"))
    errors += [
        FieldError(c, f"has no text; add {c}.txt beside it") for c in TITLED if c in content and c not in channels
    ]
    variables: dict[str, dict[str, Any]] = {}
    try:
        variables = parse_declared(content.get("variables", {}))
    except InvalidFields as exc:
        errors.extend(exc.errors)
    if errors:
        raise InvalidFields(*(FieldError(f"{manifest}: {error.field}", error.message) for error in errors))
    return TemplateFile(
        template_id=folder.name,
        channel=Channel(content.get("channel", Channel.EMAIL)),
        subject=content.get("subject"),
        html=html,
        text=text,
        variables=variables,
        description=content.get("description", ""),
        channels=channels,
    )


def _words(folder: Path) -> dict[str, str]:
    """What each channel but email says."""
    found = {str(channel): _read(folder / f"{channel}.txt") for channel in Channel if channel != Channel.EMAIL}
    return {channel: words.removesuffix("\n") for channel, words in found.items() if words is not None}


def _content(manifest: Mapping[str, Any], channel: str, words: str) -> dict[str, Any]:
    """The fields of one channel's content; what is wrong with them the API says."""
    table = manifest.get(channel, {})
    if channel not in TITLED or not isinstance(table, Mapping) or not isinstance(table.get("data", {}), Mapping):
        return {"text": words}
    data = {f"data.{key}": value for key, value in table.get("data", {}).items()}
    extras = {key: value for key, value in table.items() if key not in ("subject", "data")} | data
    return {"text": words, "subject": table.get("subject", ""), "extras": extras}


def _manifest(path: Path) -> dict[str, Any]:
    source = _read(path)
    if source is None:
        raise InvalidFields(FieldError(str(path), "missing"))
    try:
        return tomllib.loads(source)
    except tomllib.TOMLDecodeError as exc:
        raise InvalidFields(FieldError(str(path), f"not TOML: {exc}")) from exc


def _manifest_errors(content: Mapping[str, Any], *, has_email: bool) -> list[FieldError]:
    known = ", ".join(sorted(KEYS))
    errors = [FieldError(key, f"unknown; the keys are {known}") for key in content if key not in KEYS]
    for key in ("subject", "description"):
        if not isinstance(content.get(key, ""), str):
            errors.append(FieldError(key, "must be a text"))
    channel = content.get("channel", Channel.EMAIL)
    if channel not in list(Channel):
        errors.append(FieldError("channel", f"must be one of {', '.join(Channel)}"))
    for name in TITLED:
        table = content.get(name, {})
        if not isinstance(table, dict) or not isinstance(table.get("data", {}), dict):
            errors.append(FieldError(name, "must be a table: subject, url, image, sound, badge, subtitle, [data]"))
    if channel == Channel.EMAIL and has_email and not content.get("subject"):
        errors.append(FieldError("subject", "missing; an email needs one"))
    return errors


def _read(path: Path) -> str | None:
    """The file's text, None where there is no file."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise InvalidFields(FieldError(str(path), f"larger than {FILE_BYTES_MAX} bytes"))
        return content.decode()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise InvalidFields(FieldError(str(path), f"cannot be read: {exc.strerror}")) from exc
    except UnicodeDecodeError as exc:
        raise InvalidFields(FieldError(str(path), "not UTF-8")) from exc
