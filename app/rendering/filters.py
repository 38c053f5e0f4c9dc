"""What a template may call: a short list of filters and tests, each total, deterministic and bounded (R-141,
R-142).

Everything not named here is absent, so a filter that a later Jinja adds is not available until someone has
looked at it. Left out on purpose: what calls its argument or reaches attributes by a computed name (``map``,
``attr``, ``select``, ``groupby``), what formats (``format``), what is not the same twice (``random``), what
builds sizes out of small arguments (``batch``, ``center``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_datetime
from babel.numbers import format_currency, get_currency_precision
from jinja2 import filters as jinja_filters
from jinja2 import tests as jinja_tests
from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import Undefined

AMOUNT_MAX = Decimal(10) ** 15  # beyond any invoice, and short enough to print
PATTERN_CHARS_MAX = 64
ROUND_DIGITS_MAX = 15  # a double has no more; Python's own round computes 10**digits
DATE_STYLES = frozenset({"short", "medium", "long", "full"})

JINJA_FILTERS = """
    abs capitalize count dictsort e escape filesizeformat first float forceescape indent int items join last
    length list lower max min replace reverse safe sort string striptags sum title tojson trim truncate unique
    upper urlencode wordcount wordwrap
"""
JINJA_TESTS = """
    != < <= == > >= boolean defined divisibleby eq equalto even false float ge greaterthan gt in integer
    iterable le lessthan lower lt mapping ne none number odd sameas sequence string true undefined upper
"""

CURRENCY = re.compile(r"[A-Z]{3}")


class FilterError(TemplateRuntimeError):
    """A filter's own refusal. Its words are fixed: they never contain a value."""


def money(amount: Any, currency: Any, locale: Any = "en") -> str:
    """An amount in major units (``"129.90"``, 129) as people of ``locale`` write it: ``€129.90``, ``129,90
    €``.

    Give amounts as strings or integers; a float is taken at its shortest decimal form.
    """
    if not isinstance(amount, str | int | float) or isinstance(amount, bool):
        raise FilterError("money: the amount is not a number")
    if not isinstance(currency, str) or not CURRENCY.fullmatch(currency):
        raise FilterError("money: the currency is not a three-letter ISO 4217 code")
    return _money(str(amount), currency, _locale("money", locale))


@lru_cache(maxsize=4096)
def _money(amount: str, currency: str, locale: Locale) -> str:
    try:
        number = Decimal(amount)
    except InvalidOperation as exc:
        raise FilterError("money: the amount is not a number") from exc
    if not number.is_finite() or abs(number) >= AMOUNT_MAX:
        raise FilterError("money: the amount is not a number below 10^15")
    number = number.quantize(Decimal(1).scaleb(-get_currency_precision(currency)))
    return format_currency(number, currency, locale=locale)


def format_day(value: Any, style: Any = "medium", locale: Any = "en", timezone: Any = "UTC") -> str:
    """The ``date`` filter: an ISO 8601 date or time in a style (short, medium, long, full) or a CLDR pattern.

    A time with an offset is shown in ``timezone``; one without is taken as UTC.
    """
    moment = _moment(value)
    if isinstance(moment, datetime):
        moment = moment.astimezone(_zone(timezone))
    where = _locale("date", locale)
    if style in DATE_STYLES:
        return format_date(moment, style, locale=where)
    if not isinstance(style, str) or not 0 < len(style) <= PATTERN_CHARS_MAX:
        raise FilterError("date: the style is not short, medium, long, full or a CLDR pattern")
    if not isinstance(moment, datetime):
        return format_date(moment, style, locale=where)
    return format_datetime(moment, style, tzinfo=_zone(timezone), locale=where)


def _moment(value: Any) -> date | datetime:
    if not isinstance(value, str):
        raise FilterError("date: the value is not an ISO 8601 string")
    try:
        if len(value) == len("2026-01-31"):
            return date.fromisoformat(value)
        moment = datetime.fromisoformat(value)
    except ValueError as exc:
        raise FilterError("date: the value is not an ISO 8601 date or time") from exc
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@lru_cache(maxsize=256)
def _locale(filter_name: str, name: Any) -> Locale:
    try:
        return Locale.parse(str(name).replace("-", "_"))
    except (UnknownLocaleError, ValueError) as exc:
        raise FilterError(f"{filter_name}: the locale is not known") from exc


@lru_cache(maxsize=256)
def _zone(name: Any) -> ZoneInfo:
    try:
        return ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise FilterError("date: the time zone is not known") from exc


def default(value: Any, fallback: Any = "", boolean: bool = False) -> Any:
    """Jinja's ``default``, which here also stands in for null: in an email both would be a blank."""
    missing = value is None or isinstance(value, Undefined) or (boolean and not value)
    return fallback if missing else value


def rounded(value: Any, precision: Any = 0) -> float:
    if not isinstance(precision, int) or abs(precision) > ROUND_DIGITS_MAX:
        raise FilterError(f"round: the precision is not between -{ROUND_DIGITS_MAX} and {ROUND_DIGITS_MAX}")
    return float(round(float(value), precision))


OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "money": money,
    "date": format_day,
    "default": default,
    "d": default,
    "round": rounded,
}

FILTERS = {name: jinja_filters.FILTERS[name] for name in JINJA_FILTERS.split()} | OWN_FILTERS

# Plain text has nothing to escape: `&amp;` in it would be read as five characters. The same template
# expression thus works in both parts, and a text part may be derived from the HTML without rewriting its
# expressions.
TEXT_FILTERS = FILTERS | dict.fromkeys(("e", "escape", "forceescape", "safe"), FILTERS["string"])

TESTS = {name: jinja_tests.TESTS[name] for name in JINJA_TESTS.split()}
