"""What the push adapters share: the app's own keys, JSON as small as it gets, and whom to name when it is too large."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from app.domain.models import NotificationClass
from app.errors import FieldError, InvalidFields
from app.providers.base import PushMessage

TIMEOUT_SECONDS: Final = 5.0  # R-027, for push
TTL_SECONDS_MAX: Final = 28 * 86400  # FCM's longest; RFC 8030, 5.2 lets any push service keep it shorter


def custom_keys(message: PushMessage) -> dict[str, str]:
    """The app's own keys, where a tap leads, and ours, which nobody overrides."""
    keys = dict(message.data)
    if message.url is not None:
        keys["url"] = message.url
    return keys | message.landed_data()


def encode(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def urgent(message: PushMessage) -> bool:
    """Whether a sleeping device should be woken for it."""
    return message.klass != NotificationClass.PROMOTIONAL


def check_size(message: PushMessage, size: int, size_max: int) -> None:
    """Raises InvalidFields naming the part that takes most of a payload that is too large."""
    if size <= size_max:
        return
    parts: Mapping[str, str] = {
        "title": message.title,
        "subtitle": message.subtitle or "",
        "body": message.body,
        "url": message.url or "",
        "image": message.image or "",
        "data": "".join((*message.data, *message.data.values())),
    }
    sizes = {name: len(part.encode("utf-8", "replace")) for name, part in parts.items()}
    largest = max(sizes, key=lambda name: sizes[name])
    told = f"takes {sizes[largest]} bytes of a payload of {size}, which may have {size_max}"
    raise InvalidFields(FieldError(largest, told))
