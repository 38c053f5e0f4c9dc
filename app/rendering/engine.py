"""Compile a template, render it, say what is wrong with it.

Runs in the child only: nothing here limits CPU or memory.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jinja2.environment import Template
from jinja2.exceptions import SecurityError, TemplateRuntimeError, TemplateSyntaxError, UndefinedError
from jinja2.meta import find_undeclared_variables

from app.errors import FieldError, TemplateRenderError
from app.rendering.environment import (
    PlainDataEnvironment,
    compile_part,
    html_environment,
    line_of,
    parse,
    text_environment,
)
from app.rendering.text_alternative import derive_text
from app.rendering.types import Rendered, RenderLimits, TemplateCheck, TemplateSource, content_hash

MESSAGE_CHARS_MAX = 300
UNSENDABLE = "holds a character that cannot be sent"
PIECES = 256  # more than an honest template has: nearly all of them are joined in one go
LINE_SEPARATORS = "\u2028\u2029"  # not control characters, and yet str.splitlines() makes two headers of one


@dataclass(frozen=True, slots=True)
class Compiled:
    """A template version ready to render, and the names it reads."""

    subject: Template
    html: Template | None
    text: Template
    variables: frozenset[str]
    text_source: str
    extras: Mapping[str, Template]


class Overran(BaseException):
    """A job used up its CPU time. No Exception, so that nothing inside Jinja takes it for one of its own"""

    part = "template"


class Problems:
    """Collects what is wrong, part by part (``with problems.of("html"):``), so one answer names it all."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self._part = ""

    def of(self, part: str) -> Problems:
        self._part = part
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> bool:
        """Whatever a template provokes is the template's error."""
        if isinstance(exc, Overran):
            exc.part = self._part
        if not isinstance(exc, Exception):
            return False
        if isinstance(exc, TemplateRenderError):
            self.errors.extend(exc.errors)
        else:
            self.errors.append(FieldError(self._part, explain(exc, self._part)))
        return True

    def settle(self) -> None:
        if self.errors:
            raise TemplateRenderError(*self.errors)


def compile_template(source: TemplateSource, limits: RenderLimits) -> Compiled:
    """Raises TemplateRenderError naming every part that does not compile."""
    problems = Problems()
    names: set[str] = set()

    def compiled(part: str, environment: PlainDataEnvironment, text: str, chars_max: int) -> Template | None:
        with problems.of(part):
            if len(text) > chars_max:
                raise TemplateRenderError(FieldError(part, f"the source is longer than {chars_max} characters"))
            tree = parse(environment, text)
            names.update(find_undeclared_variables(tree) - environment.globals.keys())
            return compile_part(environment, tree, part)
        return None

    subject = compiled("subject", text_environment(), source.subject, limits.subject_chars)
    html = None
    if source.html is not None:
        html = compiled("html", html_environment(), source.html, limits.source_chars)
    problems.settle()

    text_source = ""
    with problems.of("text"):
        text_source = text_part(source)
    problems.settle()
    text = compiled("text", text_environment(), text_source, limits.source_chars)
    extras = {
        name: compiled(f"extras.{name}", text_environment(), extra, limits.extra_chars) for name, extra in source.extras
    }
    problems.settle()
    assert subject is not None
    assert text is not None
    return Compiled(
        subject,
        html,
        text,
        frozenset(names),
        text_source,
        {name: extra for name, extra in extras.items() if extra is not None},
    )


def text_part(source: TemplateSource) -> str:
    """The text template: the given one, else derived from the HTML (R-122)."""
    if source.text is not None:
        return source.text
    if source.html is None:
        raise TemplateRenderError(FieldError("text", "missing; a template needs html, text or both"))
    return derive_text(source.html)


def check_template(source: TemplateSource, limits: RenderLimits) -> TemplateCheck:
    try:
        compiled = compile_template(source, limits)
    except TemplateRenderError as exc:
        return TemplateCheck(frozenset(), exc.errors)
    return TemplateCheck(compiled.variables, (), compiled.text_source)


def render(compiled: Compiled, variables: Mapping[str, Any], limits: RenderLimits) -> Rendered:
    """Raises TemplateRenderError naming every part that fails, with the template line."""
    problems = Problems()
    subject = text = ""
    html = None
    with problems.of("subject"):
        subject = one_line(generate(compiled.subject, variables, limits.output_chars), limits.subject_chars)
    if compiled.html is not None:
        with problems.of("html"):
            html = generate(compiled.html, variables, limits.output_chars)
    with problems.of("text"):
        text = generate(compiled.text, variables, limits.output_chars)
    extras: dict[str, str] = {}
    for name, template in compiled.extras.items():
        with problems.of(f"extras.{name}"):
            extras[name] = one_line(
                generate(template, variables, limits.output_chars), limits.extra_chars, f"extras.{name}"
            )
    problems.settle()
    try:
        return Rendered(subject, html, text, content_hash(subject, html, text, extras), extras)
    except UnicodeEncodeError as exc:  # a lone surrogate, which JSON can carry and UTF-8 cannot
        parts = {"subject": subject, "html": html, "text": text, **{f"extras.{n}": e for n, e in extras.items()}}
        part = next(name for name, value in parts.items() if value and exc.object in value)
        raise TemplateRenderError(FieldError(part, UNSENDABLE)) from exc


def generate(template: Template, variables: Mapping[str, Any], chars_max: int) -> str:
    """A handful of pieces at a time: an endless template stops at the limit and not when memory runs out."""
    result = ""
    pieces = template.generate(variables)
    while handful := list(islice(pieces, PIECES)):
        result += "".join(handful)
        if len(result) > chars_max:
            raise _refused(template, f"longer than {chars_max} characters")
    if "\0" in result:
        raise _refused(template, UNSENDABLE)
    return result


def _refused(template: Template, message: str) -> TemplateRenderError:
    return TemplateRenderError(FieldError(str(template.filename), message))


def one_line(value: str, chars_max: int, part: str = "subject") -> str:
    """A part as one header line. A line break in it would start a header of some variable's choosing."""
    value = value.strip()
    if not value.isprintable() and any(map(_breaks_header, value)):
        raise TemplateRenderError(FieldError(part, "holds a line break or another control character"))
    if len(value) > chars_max:
        raise TemplateRenderError(FieldError(part, f"longer than {chars_max} characters"))
    return value


def _breaks_header(char: str) -> bool:
    return char in LINE_SEPARATORS or unicodedata.category(char) == "Cc"


def explain(exc: Exception, part: str) -> str:
    """What went wrong, without a value of the context: the words are ours or the template's own."""
    line = exc.lineno if isinstance(exc, TemplateSyntaxError) else line_of(exc, part)
    message = _words(exc)
    return (f"line {line}: {message}" if line else message)[:MESSAGE_CHARS_MAX]


def _words(exc: Exception) -> str:
    for kind, words in EXPLANATIONS:
        if isinstance(exc, kind):
            return words(exc) if callable(words) else words
    return f"these values do not fit what the template does with them ({type(exc).__name__})"


EXPLANATIONS: tuple[tuple[type[Exception], str | Callable[[Any], str]], ...] = (
    (SecurityError, "not allowed in a template"),
    (UndefinedError, lambda exc: exc.message or "undefined"),
    (TemplateSyntaxError, lambda exc: exc.message or "not a template"),
    (TemplateRuntimeError, lambda exc: exc.message or "cannot be rendered"),
    (RecursionError, "nested too deeply"),
    (MemoryError, "needs too much memory"),
)
