"""Text messages as networks carry them: which alphabet, how many units, how many segments are paid for.

Sources: 3GPP TS 23.038 (the GSM 7-bit default alphabet with its extension table, UCS-2) and 23.040 (concatenation: a
header of six octets takes the room of seven septets, or of three UCS-2 units, from every segment).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

from gsm0338 import charset  # type: ignore[import-untyped]  # ships no types

from app.domain import addresses

Encoding = Literal["gsm7", "ucs2"]

#: Units that fit into a message on its own, and into each segment of a longer one.
LIMITS: Final[dict[Encoding, tuple[int, int]]] = {"gsm7": (160, 153), "ucs2": (70, 67)}

_ESCAPE: Final = "\x1b"  # announces the extension table on the air; as a character of a text it stands for nothing
_SEPTETS: Final[dict[str, int]] = {
    **{unicodedata.lookup(name): 2 for name in charset.BASIC_CHARACTER_SET_EXTENSION.values()},
    **{unicodedata.lookup(name): 1 for name in charset.BASIC_CHARACTER_SET.values()},
}
del _SEPTETS[_ESCAPE]

_DIGITS: Final = re.compile(r"\+?[0-9]{3,}")
_E164: Final = re.compile(r"\+?([1-9][0-9]{6,14})")
_A_NUMBER: Final = re.compile(r"\+?[0-9](?:[ ()./\u00a0\u2010-\u2015-]*[0-9]){6,}")


@dataclass(frozen=True, slots=True)
class Size:
    """units: septets (an extended character takes two), or UTF-16 code units, of the text without segment headers."""

    encoding: Encoding
    units: int
    segments: int


def encoding_of(text: str) -> Encoding:
    """One character beyond GSM 7-bit makes the whole message UCS-2."""
    return "gsm7" if _SEPTETS.keys() >= set(text) else "ucs2"


def size(text: str) -> Size:
    """What sending this text takes."""
    encoding = encoding_of(text)
    return Size(encoding, _units(text, encoding), len(split(text)))


def split(text: str) -> tuple[str, ...]:
    """The text of each segment, in order. An escape sequence or a surrogate pair is never split; neither need fill the
    segment it does not fit into, so there can be more segments than the units alone would ask for.
    """
    encoding = encoding_of(text)
    alone, each = LIMITS[encoding]
    if _units(text, encoding) <= alone:
        return (text,)
    return tuple(_segments(text, encoding, each))


def _segments(text: str, encoding: Encoding, units_max: int) -> Iterator[str]:
    begin = used = 0
    for at, character in enumerate(text):
        cost = _units(character, encoding)
        if used + cost > units_max:
            yield text[begin:at]
            begin, used = at, 0
        used += cost
    yield text[begin:]


def _units(text: str, encoding: Encoding) -> int:
    if encoding == "gsm7":
        return sum(map(_SEPTETS.__getitem__, text))
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def content_hash(text: str) -> bytes:
    """What ``app.rendering.types.content_hash("", None, text)`` gives, for those who may not import it."""
    encoded = text.encode()
    parts = (bytes(8), b"\xff" * 8, len(encoded).to_bytes(8, "big"), encoded)
    return sha256(b"".join(parts)).digest()


# -- numbers as others write them ------------------------------------------------------------------------------------


def e164(number: str) -> str | None:
    """A number as a provider writes it, with or without its plus, in the form we keep addresses in.

    None for what is no telephone number: a short code, a name, an address of another channel. A number that the
    numbering plans do not know is still taken: whoever says STOP from it has one.
    """
    found = _E164.fullmatch(number.strip())
    if found is None:
        return None
    try:
        return addresses.phone(f"+{found[1]}")
    except ValueError:
        return f"+{found[1]}"


def masked(number: str) -> str:
    """Enough of a number to tell ours apart; a name is no secret."""
    return f"…{number[-4:]}" if _DIGITS.fullmatch(number) else number


def without_numbers(words: str) -> str:
    """Words of a provider that may name the recipient."""
    return _A_NUMBER.sub("<number>", words)
