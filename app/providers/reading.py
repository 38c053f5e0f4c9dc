"""Reading what a provider sent, which may be anything: these functions answer for any value and raise for none.

What they return is fit for every store: bounded, valid UTF-8, finite, without NUL.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

TEXT_CHARS_MAX: Final = 500  # of any one string that a provider's event puts before an operator
DETAIL_CHARS_MAX: Final = 300
DIGEST_CHARS: Final = 16  # 64 bits: what it tells apart are the few recipients and links of one message

_ADDRESS: Final = re.compile(r"[^\s<>\"'(),;:]+@[^\s<>\"'(),;:]+")
_YEAR_2000: Final = 946684800
_YEAR_2100: Final = 4102444800


def document(body: bytes) -> Any:
    """The JSON document, or None. One bad character in somebody's subject must not hide the fact around it."""
    try:
        return json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def at(value: Any, *path: str) -> Any:
    """What lies at the end of the path; None where it breaks off."""
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def items(value: Any, items_max: int = 1000) -> list[Any]:
    """The items of a list, nothing for anything else."""
    return value[:items_max] if isinstance(value, list) else []


def text(value: Any, chars_max: int = TEXT_CHARS_MAX) -> str:
    """A string, cut to size. Numbers become text, anything else nothing."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value) if number(value) is not None else ""
    if not isinstance(value, str):
        return ""
    return value[:chars_max].replace("\0", "").encode("utf-8", "replace").decode()


def number(value: Any) -> float | None:
    """A finite number, also when it is written as a string."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def plain(value: Any) -> str | int | float | bool | None:
    """A value for the timeline: short text, a finite number or a flag."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value if number(value) is not None and abs(value) < 2**53 else None
    return text(value).strip()


def shown(event: Any, fields: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """The parts of an event that the timeline shows: our name for each, and the path to it."""
    found = {name: plain(at(event, *path)) for name, path in fields.items()}
    return {name: value for name, value in found.items() if value not in (None, "")}


def moment(value: Any) -> datetime | None:
    """A time, from ISO 8601 (UTC unless it says otherwise) or seconds since 1970; None outside 2000 to 2099."""
    seconds = number(value)
    if seconds is None and isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value.strip())
            seconds = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    if seconds is None or not _YEAR_2000 <= seconds < _YEAR_2100:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def detail(words: Any, status: int) -> str:
    """For operators and logs: one line, bounded, without addresses."""
    line = _ADDRESS.sub("<address>", " ".join(text(words, 2000).split()))[:DETAIL_CHARS_MAX]
    return line or f"HTTP {status}"


def words_of(body: bytes) -> str:
    """An answer's body where it is not the JSON it should be."""
    return body[:2000].decode("utf-8", "replace")


def digest(value: str) -> str:
    """A short name for an address or a link in an event key: neither is to be read from a key."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_CHARS]


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait, by Retry-After (RFC 9110, 10.2.3: seconds or a date); None when it does not say."""
    return seconds_or_date(headers.get("retry-after"), now)


def rate_limit_reset(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds until the limit is set back, by X-RateLimit-Reset (seconds since 1970); None when it does not say."""
    reset = number(headers.get("x-ratelimit-reset"))
    return None if reset is None else max(0.0, reset - now.timestamp())


def seconds_or_date(value: str | None, now: datetime) -> float | None:
    """Seconds from now, never negative, from a number of them or from a date of RFC 2822; None for anything else."""
    if value is None:
        return None
    if (seconds := number(value)) is not None:
        return max(0.0, seconds)
    try:
        date = parsedate_to_datetime(value.strip())
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now.timestamp())
    except (ValueError, OverflowError):
        return None
