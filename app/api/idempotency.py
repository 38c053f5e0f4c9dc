"""The idempotency key of a request: a header, or a field of the body (RELIABILITY, A.5)."""

from __future__ import annotations

import re

from app.errors import FieldError, InvalidFields, InvalidRequest

HEADER = "Idempotency-Key"
RAW_HEADER = HEADER.lower().encode()
KEY_LENGTH_MAX = 255
PRINTABLE = re.compile(r"[\x20-\x7e]+")
# RFC 8941, 3.3.3: a quoted string in which only the quote and the backslash are escaped.
QUOTED = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
ESCAPED = re.compile(r'\\(["\\])')


def header_key(values: list[str]) -> str | None:
    """The key of the header, quoted (RFC 8941) or bare; None when the header is absent."""
    if not values:
        return None
    if len(values) > 1:
        raise InvalidRequest(f"{HEADER} came {len(values)} times; send it once")
    value = values[0].strip()
    if value.startswith('"'):
        quoted = QUOTED.fullmatch(value)
        if quoted is None:
            raise InvalidRequest(f"{HEADER} begins with a quote but is no quoted string (RFC 8941)")
        value = ESCAPED.sub(r"\1", quoted[1])
    return check_key(HEADER, value)


def required_key(header: str | None, body: str | None) -> str:
    """The one key of a request. Raises InvalidRequest when there is none, or two that differ."""
    if body is not None:
        check_key("idempotency_key", body)
    if header is not None and body is not None and header != body:
        raise InvalidRequest(f"{HEADER} and idempotency_key differ; give one of them, or the same twice")
    key = body if header is None else header
    if key is None:
        raise InvalidRequest(
            f"an idempotency key is needed: the header {HEADER}, or idempotency_key in the body; derive it "
            "from the event (order_confirmation:12345), so that a retry carries the same one"
        )
    return key


def check_key(field: str, key: str) -> str:
    """Raises InvalidFields unless the key can be kept."""
    if not 1 <= len(key) <= KEY_LENGTH_MAX or not PRINTABLE.fullmatch(key):
        raise InvalidFields(
            FieldError(field, f"must be 1 to {KEY_LENGTH_MAX} printable ASCII characters; it has {len(key)}")
        )
    return key
