"""Make the plain-text part of an email out of its HTML part, as a template (R-122).

Derived once, when a version is created: the result is immutable like the version, can be read before anything
is sent, and costs nothing per message. Jinja's tokens are replaced by single characters from Unicode's
private use area, the HTML around them is laid out as text, and the tokens are put back. They need no
rewriting: in a text part the escaping filters do nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import lxml.etree  # type: ignore[import-untyped]
import lxml.html  # type: ignore[import-untyped]
from inscriptis import Inscriptis  # type: ignore[import-untyped]
from inscriptis.css_profiles import CSS_PROFILES  # type: ignore[import-untyped]
from inscriptis.html_properties import Display  # type: ignore[import-untyped]
from inscriptis.model.config import ParserConfig  # type: ignore[import-untyped]
from inscriptis.model.html_element import HtmlElement  # type: ignore[import-untyped]
from jinja2.exceptions import TemplateSyntaxError
from jinja2.meta import find_undeclared_variables

from app.errors import FieldError, TemplateRenderError
from app.rendering.environment import html_environment, parse, text_environment

# Supplementary Private Use Area-A: no font, no meaning, and one character per token, so no layout rule can
# split one.
PRIVATE_FIRST = 0xF0000
PRIVATE_LAST = 0xFFFFD
GAP = chr(0x100000)  # between two cells; a space would be collapsed
PRIVATE = re.compile(f"[{chr(PRIVATE_FIRST)}-{chr(PRIVATE_LAST)}]")
RESERVED = re.compile(f"[{chr(PRIVATE_FIRST)}-{chr(PRIVATE_LAST)}{GAP}]")

OPENERS = {"variable_begin": "variable_end", "block_begin": "block_end", "comment_begin": "comment_end"}
DROPPED = ("comment_end", "raw_begin", "raw_end")  # raw text needs no marker: restore() defuses every brace

XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")  # it may name an encoding, and a str has none

# A table in an email is layout: its cells in a line, its rows below each other, padded to nothing, because
# the width of a placeholder says nothing about the width of what will stand there.
ROWS = ("table", "thead", "tbody", "tfoot", "tr", "caption")
CELLS = ("td", "th")


def derive_text(html_source: str) -> str:
    """The text template for an HTML template. Takes the same variables; links read ``words (address)``.

    Raises TemplateRenderError for the field ``text`` when the HTML does not allow it, for instance when a
    block opens in a hidden element and closes in a visible one: then the text part has to be written by hand.
    """
    if RESERVED.search(html_source):
        raise _underivable("it holds characters of a private use area")
    try:
        tokens, marked = protect(html_source)
        text = restore(lay_out(marked), tokens)
        _check(html_source, text)
    except TemplateSyntaxError as exc:
        raise _underivable(f"line {exc.lineno}: {exc.message}") from exc
    except (lxml.etree.LxmlError, RecursionError) as exc:
        raise _underivable("it is not HTML that can be read") from exc
    return text


def protect(source: str) -> tuple[list[str], str]:
    """The tokens of the template, and the template with each replaced by a private character of its own."""
    numbers: dict[str, int] = {}
    marked = []
    for is_token, piece in _pieces(source):
        if is_token:
            number = PRIVATE_FIRST + numbers.setdefault(piece, len(numbers))
            if number > PRIVATE_LAST:
                raise _underivable("it holds too many expressions")
            piece = chr(number)
        marked.append(piece)
    return list(numbers), "".join(marked)


def _pieces(source: str) -> Iterator[tuple[bool, str]]:
    """(is a token, text) by Jinja's own lexer, which alone knows where ``{{ "}}" }}`` ends."""
    closer, held = None, ""
    for _line, kind, value in html_environment().lexer.tokeniter(source, name=None):
        if closer is None and kind not in OPENERS:
            if kind not in DROPPED:
                yield False, value
            continue
        closer = closer or OPENERS[kind]
        held += value
        if kind == closer:
            if kind not in DROPPED:
                yield True, held
            closer, held = None, ""


def lay_out(marked: str) -> str:
    """HTML to text. Raises lxml.etree.LxmlError or RecursionError on what cannot be laid out."""
    if not marked.strip():
        return ""
    # Without huge_tree what is nested deeper than 256 elements would be cut off in silence.
    parser = lxml.html.HTMLParser(huge_tree=True)
    tree = lxml.html.document_fromstring(XML_DECLARATION.sub("", marked), parser=parser)
    for element in tree.iter("img", *ROWS, *CELLS):
        _flatten(element)
    for link in tree.iter("a"):
        _name_address(link)
    return str(Inscriptis(tree, ParserConfig(css=CSS_PROFILES["strict"] | CSS)).get_text())


CSS = {
    "ol": HtmlElement(display=Display.block, margin_before=1, margin_after=1),
    "ul": HtmlElement(display=Display.block, margin_before=1, margin_after=1),
    "head": HtmlElement(display=Display.none),
    "script": HtmlElement(display=Display.none),
    "style": HtmlElement(display=Display.none),
}


def _flatten(element: lxml.html.HtmlElement) -> None:
    """Tables become lines, a picture its words."""
    if element.tag in ROWS:
        element.tag = "div"
    elif element.tag in CELLS:
        element.tag = "span"
        element.tail = GAP + (element.tail or "").lstrip()
    else:
        element.tag = "span"
        element.text = element.get("alt")


def _name_address(link: lxml.html.HtmlElement) -> None:
    """``words (address)``, or the address alone where the words say nothing more."""
    address = (link.get("href") or "").strip()
    words = "".join(link.itertext()).strip()
    if not address or words == address or address.startswith(("#", "mailto:")):
        return
    named = lxml.html.Element("span")
    named.text = f" ({address})" if words else address
    link.append(named)


def restore(text: str, tokens: list[str]) -> str:
    """Put the tokens back, and defuse what else would read as one: ``&#123;`` is a brace by now."""
    text = text.replace("\xa0", " ").replace(GAP, "  ")
    text = text.replace("{", "{{ '{' }}")
    blocks = {chr(PRIVATE_FIRST + number) for number, token in enumerate(tokens) if token.startswith("{%")}
    text = "\n".join(_tidy(text.splitlines(), blocks)).strip() + "\n"
    return PRIVATE.sub(lambda match: tokens[ord(match[0]) - PRIVATE_FIRST], text)


def _tidy(lines: list[str], blocks: set[str]) -> Iterator[str]:
    """Block tags that stand alone get a line each, gone once rendered; one blank line around."""
    blank_before = True
    for line in map(str.rstrip, lines):
        if line and set(line) <= blocks | {" "}:
            yield from (char for char in line if char != " ")
        elif line or not blank_before:
            blank_before = not line
            yield line


def _check(html_source: str, text: str) -> None:
    """The text must be a template over the same variables: a lost ``{% set %}`` would show as a new name."""
    names = find_undeclared_variables(parse(text_environment(), text))
    strangers = names - find_undeclared_variables(parse(html_environment(), html_source))
    if strangers:
        raise _underivable(f"{', '.join(sorted(strangers))} would be undefined")


def _underivable(reason: str) -> TemplateRenderError:
    return TemplateRenderError(FieldError("text", f"cannot be derived from the html: {reason}; write the text part"))
