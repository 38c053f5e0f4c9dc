"""What a command prints: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 200  # what is not a terminal has no width; a log or a file reads best without folded cells

STYLES = {
    "delivered": "green",
    "ok": "green",
    "bounced": "yellow",
    "suppressed": "yellow",
    "failed": "yellow",
    "warn": "yellow",
    "recovering": "yellow",
    "rate_limited": "yellow",
    "half_open": "yellow",
    "drained": "yellow",
    "load_shedding": "yellow",
    "dead": "red",
    "fail": "red",
    "open": "red",
    "no_provider": "red",
    "no_worker": "red",
    "expired": "red",
    "unconfirmed": "magenta",
    "ambiguous": "magenta",
    "sent": "cyan",
    "sending": "cyan",
    "queued": "cyan",
}

NOTHING: tuple[object, ...] = (None, "", [], {})  # what a table leaves out

json_option: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@cache
def console() -> Console:
    """Standard output."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)


@cache
def notes() -> Console:
    """Standard error: what is said beside the result."""
    return Console(stderr=True, highlight=False)


def print_json(document: object) -> None:
    click.echo(json.dumps(document, default=_plain, indent=2, ensure_ascii=False))


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case UUID() | Path():
            return str(value)
        case bytes():
            return value.hex()
        case _ if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(title: str, rows: Sequence[Mapping[str, Any]], *columns: str, empty: str = "none") -> None:
    """The named columns of the rows; a column in which no row has a value is left out."""
    if not rows:
        console().print(Text.assemble((f"{title}: ", "bold"), (empty, "dim")))
        return
    shown = [column for column in columns if any(row[column] not in NOTHING for row in rows)]
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False
    )
    for column in shown:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(cell(row[column]) for column in shown))
    console().print(table, "")


def cell(value: object) -> Text:
    text = words(value)
    return Text(text, style=STYLES.get(text.partition(":")[0], ""))


def words(value: object) -> str:
    """A value as people read it."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        case timedelta():
            return duration(value.total_seconds())
        case dict():
            told = {key: inner for key, inner in value.items() if inner not in NOTHING and inner is not False}
            return ", ".join(f"{key}={words(inner)}" for key, inner in told.items())
        case list():
            return ", ".join(map(words, value))
        case bytes():
            return value.hex()
        case float():
            return f"{value:.3f}"
    return str(value)


def duration(seconds: float) -> str:
    """Seconds as ``420 ms``, ``4.2 s``, ``7 min``, ``3 h`` or ``2 d``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < limit * size:
            return f"{seconds / size:.1f} {unit}" if unit == "s" else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
