"""The language templates are written in: Jinja, sandboxed down to plain data (R-143, R-144).

Jinja's sandbox lists what is forbidden. Here the list is of what is allowed, type by type: a template sees
the data it was given, a few methods of it, loops and its own macros, and there is no path from those to
anything else. Resources are not this module's concern, with one exception: an operator that runs for minutes
inside C cannot be interrupted, so ``*`` and ``**`` are kept small here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.environment import Template
from jinja2.exceptions import SecurityError, TemplateAssertionError
from jinja2.runtime import Context, LoopContext, Macro, StrictUndefined, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.rendering.filters import FILTERS, TESTS, TEXT_FILTERS, FilterError

RANGE_MAX = 1000  # rows of one email; a longer list belongs behind a link
REPEAT_CHARS_MAX = 1000
INTEGER_BITS_MAX = 256
NAME_CHARS_MAX = 64

ATTRIBUTES: dict[type, frozenset[str]] = {
    str: frozenset({"lower", "upper", "title", "capitalize", "strip", "startswith", "endswith", "split"}),
    dict: frozenset({"get", "items", "keys", "values"}),
    LoopContext: frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length"})
    | frozenset({"depth", "depth0", "previtem", "nextitem", "cycle", "changed"}),
}
CALLABLE = (
    Macro,
    LoopContext,
    BuiltinMethodType,
    MethodType,
    Undefined,
)  # Undefined raises, and says its name
PRINTABLE = (str, int, float, Undefined)  # Undefined raises when printed, and says its name

TAGS_ALONE = re.compile(
    r"""^[ \t]*
    ( (?: \{% (?:(?!%\}).)* %\} [ \t]* )*                    # tags before the last
      (?: \{% (?:(?!%\}).)*? | \{\# (?:(?!\#\}).)*? ) )      # the last tag, or a comment
    ( [-+]? [%\#]\} ) [ \t]* ( \n | \Z )""",
    re.MULTILINE | re.VERBOSE,
)

FORBIDDEN_NODES: dict[type[nodes.Node], str] = {
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "import",
    nodes.Extends: "extends",
    nodes.ScopedEvalContextModifier: "autoescape",
}


class UndefinedName(StrictUndefined):
    """A missing variable raises wherever it is used, and says which, never with what value."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        return f"{str(self._undefined_name)[:NAME_CHARS_MAX]!r} is undefined"


class PlainDataEnvironment(ImmutableSandboxedEnvironment):
    """Attribute and item access by allow-list, few operators, no globals but a short ``range``."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``obj.attribute``: an entry of a mapping first, so that ``order.items`` is the order's items."""
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        for kind, names in ATTRIBUTES.items():
            if isinstance(obj, kind) and attribute in names:
                return getattr(obj, attribute)
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        return self.undefined(
            f"{attribute[:NAME_CHARS_MAX]!r} is undefined: {describe(obj)} has no such entry",
            obj=obj,
            name=attribute,
        )

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``. The argument may be a value of the context, so no message repeats it."""
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        if isinstance(obj, dict | list | tuple | str):
            try:
                return obj[argument]
            except (TypeError, LookupError):
                pass
        return self.undefined(f"{describe(obj)} has no such entry", obj=obj, name="[]")

    def is_safe_callable(self, obj: Any) -> bool:
        return isinstance(obj, CALLABLE) or obj is short_range

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return OPERATORS[operator](left, right)


class TextEnvironment(PlainDataEnvironment):
    """A line that holds only block tags or a comment leaves no blank line behind, and no other line loses its
    end.

    Jinja's ``trim_blocks`` would also join the next line to one that ends with ``{% endif %}``, and its
    ``lstrip_blocks`` unindent a line that begins with a tag.
    """

    def preprocess(self, source: str, name: str | None = None, filename: str | None = None) -> str:
        # Inside the tag the line break means nothing, and the lines after it keep their numbers.
        return TAGS_ALONE.sub(r"\1\3\2", source)


def short_range(*args: int) -> range:
    numbers = range(*args)
    if len(numbers) > RANGE_MAX:
        raise FilterError(f"range is longer than {RANGE_MAX}")
    return numbers


def multiply(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, int):
        if len(left) * right > REPEAT_CHARS_MAX:
            raise FilterError(f"* makes a text longer than {REPEAT_CHARS_MAX} characters")
        return left * right
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        raise FilterError(f"* does not multiply {describe(left)} by {describe(right)}")
    if _bits(left) + _bits(right) > INTEGER_BITS_MAX:
        raise FilterError(f"* makes a number longer than {INTEGER_BITS_MAX} bits")
    return left * right


def power(left: Any, right: Any) -> Any:
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        raise FilterError(f"** does not raise {describe(left)} to {describe(right)}")
    if isinstance(left, int) and isinstance(right, int) and _bits(left) * abs(right) > INTEGER_BITS_MAX:
        raise FilterError(f"** makes a number longer than {INTEGER_BITS_MAX} bits")
    return left**right


def remainder(left: Any, right: Any) -> Any:
    """``%`` of numbers. Of a text it would format, which reads attributes and builds any width."""
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        raise SecurityError("% is for numbers only")
    return left % right


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {"*": multiply, "**": power, "%": remainder}


def _bits(number: int | float) -> int:
    return number.bit_length() if isinstance(number, int) else 0


def describe(value: Any) -> str:
    """A value's kind in the words of JSON, to speak of it without repeating it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    for kind, words in (
        (str, "a text"),
        (int | float, "a number"),
        (dict, "a mapping"),
        (list | tuple, "a list"),
    ):
        if isinstance(value, kind):
            return words
    return "this"


def printable(value: Any) -> Any:
    """What ``{{ }}`` may print. A null or a whole list is a mistake nobody sees until a customer does."""
    if isinstance(value, PRINTABLE):
        return value
    raise FilterError(f"{describe(value)} cannot be printed; choose what to show with default, join or if")


@cache
def html_environment() -> PlainDataEnvironment:
    return _restrict(PlainDataEnvironment(autoescape=True, undefined=UndefinedName, finalize=printable), FILTERS)


@cache
def text_environment() -> PlainDataEnvironment:
    """For subject and text, where nothing is escaped."""
    environment = TextEnvironment(autoescape=False, undefined=UndefinedName, finalize=printable)
    return _restrict(environment, TEXT_FILTERS)


def _restrict(environment: PlainDataEnvironment, filters: dict[str, Any]) -> PlainDataEnvironment:
    environment.filters = dict(filters)
    environment.tests = dict(TESTS)
    environment.globals = {"range": short_range}
    return environment


def parse(environment: PlainDataEnvironment, source: str) -> nodes.Template:
    """Raises ``jinja2.TemplateSyntaxError``, also for the tags that reach outside the template."""
    tree = environment.parse(source)
    for node in tree.find_all(tuple(FORBIDDEN_NODES)):
        _refuse(FORBIDDEN_NODES[type(node)], node.lineno)
    return tree


def _refuse(tag: str, lineno: int) -> NoReturn:
    raise TemplateAssertionError(f"{{% {tag} %}} is not available: a template stands alone", lineno)


def compile_part(environment: PlainDataEnvironment, tree: nodes.Template, part: str) -> Template:
    """``part`` becomes the file name in tracebacks, by which ``line_of`` finds the line."""
    code = environment.compile(tree, filename=part)
    return Template.from_code(environment, code, environment.make_globals(None))


def line_of(exc: BaseException, part: str) -> int | None:
    """The template line an exception came from, where Jinja could tell."""
    line = None
    traceback = exc.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == part:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
