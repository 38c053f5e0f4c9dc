"""A pixel and tracked links put into a message's HTML, for providers that do not do it themselves (R-189, R-190).

The document is not parsed into a tree and written anew: that would resolve its entities, close its tags and drop what
email lives on, such as conditional comments. Its tags are found as the HTML standard finds them, and only the values of
``href`` are exchanged; every other character stays what it was. ``html.parser`` would find them too, but takes minutes
over a hostile document of 150 KB, and raises on some (Python 3.11); these patterns never look at a character twice.
"""

from __future__ import annotations

import html as markup
import re
from collections.abc import Callable, Iterator
from html.entities import html5
from urllib.parse import SplitResult, quote, urlsplit

from yarl import URL

from app.domain.tokens import is_target

# Attributes as browsers read them (WHATWG HTML, 13.2.5.32 to 13.2.5.38).
NAME = r"[^\s/>][^\s/>=]*+"
VALUE = r"""(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^\s>"'][^\s>]*+)"""
ATTRIBUTE = re.compile(rf"[\s/]*+(?P<name>{NAME})(?:\s*+=\s*+(?P<value>{VALUE})?)?+", re.ASCII)
# Comments of every kind, which hide what is in them, and tags. What the end of the document cuts off is matched as
# well, so that the search need not come back to it.
TAG = re.compile(
    rf"""<!--(?:-?>|.*?(?:--!?>|\Z))
       | <(?:[!?]|/(?![a-zA-Z]))[^>]*+>?
       | <(?P<slash>/?)(?P<name>[a-zA-Z][^\s/>]*+)
         (?P<attributes>(?:[\s/]*+{NAME}(?:\s*+=\s*+{VALUE}?)?+)*+)[\s/]*+(?P<end>>|\Z)""",
    re.ASCII | re.DOTALL | re.VERBOSE,
)
# Elements whose content is text, whatever it looks like, until they are closed (13.2.6.2).
TEXT = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.ASCII | re.IGNORECASE)
    for name in ("script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes")
}
# Without its semicolon, a reference before "=" or a letter is text (13.2.5.73): "?a=1&copy=2" holds no copyright sign.
REFERENCE = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[a-zA-Z][a-zA-Z0-9]*+(?:;|(?!=)))")

# What a browser takes away before it reads a URL (WHATWG URL, 4.4).
EDGE = "".join(map(chr, range(0x21)))
BREAK = re.compile(r"[\t\n\r]")
SAFE = "".join(map(chr, range(0x21, 0x7F)))  # all that is printable stands as it is: a signed URL must not change
UNSUBSCRIBE = re.compile(r"unsubscribe|\bopt-?out\b|/u/1\.", re.IGNORECASE)
UNTRACKED = "data-landed-untracked"

PIXEL = '<img src="{}" width="1" height="1" alt="" style="display:block;width:1px;height:1px;border:0">'


def instrument(
    html: str | None, *, opens: bool, clicks: bool, pixel: Callable[[], str], link: Callable[[str], str]
) -> str | None:
    """The document with a pixel at its end and its links led through ``link``; None where there is none.

    Left alone: links that are not absolute http(s) ones (mailto:, tel:, #), that end a subscription, that carry
    ``data-landed-untracked``, or that are too long for a tracked one to work everywhere.
    """
    if html is None or not (opens or clicks):
        return html
    changes = []
    end = len(html)
    for tag in _tags(html):
        name = tag["name"].lower()
        if clicks and name == "a" and not tag["slash"] and (change := _led_through(link, html, tag)):
            changes.append(change)
        elif name == "body" and tag["slash"]:
            end = tag.start()
    if opens:
        changes.append((end, end, PIXEL.format(markup.escape(pixel()))))
    return _spliced(html, sorted(changes))


def target_of(href: str) -> str | None:
    """Where a link leads, as a URL of printable ASCII; None for a link that is not to be tracked."""
    url = BREAK.sub("", href.strip(EDGE))
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in ("http", "https") or UNSUBSCRIBE.search(url):
        return None
    try:
        parts = urlsplit(url)
        place = _place(parts)
    except ValueError:  # UnicodeError is one
        return None
    if not parts.hostname or "\\" in place:
        return None
    target = f"{scheme.lower()}://{place}{quote(rest[len(parts.netloc) :], safe=SAFE)}"
    return target if is_target(target) else None


def _place(parts: SplitResult) -> str:
    """The host and port, a name in other letters in its ASCII form."""
    if parts.netloc.isascii():
        return parts.netloc
    host = URL.build(scheme="https", host=parts.hostname or "").raw_host or ""
    return host if parts.port is None else f"{host}:{parts.port}"


def _tags(html: str) -> Iterator[re.Match[str]]:
    """The tags of a document, in order."""
    at = 0
    while found := TAG.search(html, at):
        at = found.end()
        if not found["end"]:
            continue  # a comment, or cut off
        yield found
        if not found["slash"] and (text := TEXT.get(found["name"].lower())):
            closed = text.search(html, at)
            at = closed.start() if closed else len(html)


def _led_through(link: Callable[[str], str], html: str, tag: re.Match[str]) -> tuple[int, int, str] | None:
    """The change to one tag: from, to, what stands there instead."""
    attributes = list(ATTRIBUTE.finditer(html, *tag.span("attributes")))
    names = [found["name"].lower() for found in attributes]
    if "href" not in names or UNTRACKED in names:
        return None
    href = attributes[names.index("href")]  # of two, the first counts (13.2.5.33)
    value = href["value"] or ""
    target = target_of(_unescaped(value[1:-1] if value[:1] in ('"', "'") else value))
    if target is None:
        return None
    return (*href.span("value"), f'"{markup.escape(link(target))}"')


def _unescaped(value: str) -> str:
    """An attribute's value with its character references resolved."""
    return REFERENCE.sub(lambda found: _character(found[0]), value)


def _character(reference: str) -> str:
    return markup.unescape(reference) if reference[1] == "#" else html5.get(reference[1:], reference)


def _spliced(text: str, changes: list[tuple[int, int, str]]) -> str:
    parts, at = [], 0
    for start, end, instead in changes:
        parts += [text[at:start], instead]
        at = end
    return "".join([*parts, text[at:]])
