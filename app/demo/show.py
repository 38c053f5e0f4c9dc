"""The demo in a terminal: a table that is alive, or plain lines where nobody watches."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from app.commands.output import STYLES, duration
from app.demo.verdict import Standing
from app.store.demo import Story

REFRESH_PER_SECOND = 8
PICTURE_WIDTH = 164
FONTS = re.compile(r"@font-face \{.*?\}", re.DOTALL)


class Show:
    """Shows standings as they change; used as a context manager around the demo."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=REFRESH_PER_SECOND, transient=True)
        self._said: dict[str, str] = {}
        self._began = time.monotonic()

    def __enter__(self) -> Show:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, standings: Sequence[Standing]) -> None:
        if self._console.is_terminal:
            self._live.update(table(standings, width=self._console.width))
            return
        for standing in standings:
            self._say(standing)

    def _say(self, standing: Standing) -> None:
        line = f"{standing.scenario.name:<20} {standing.state}"
        if standing.is_proven:
            line = f"{line}  ✓ {standing.proof()}"
        if self._said.get(standing.scenario.name) != line:
            self._said[standing.scenario.name] = line
            self._console.print(f"{time.monotonic() - self._began:6.1f} s  {line}", markup=False)


def table(standings: Sequence[Standing], *, width: int) -> Table:
    """One line a scenario; on a narrow terminal what it meets is left out."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    columns = [column for column in COLUMNS if width >= column.width_min]
    for column in columns:
        shown.add_column(column.title, justify=column.justify, no_wrap=not column.gives_way)
    for standing in standings:
        shown.add_row(*(column.cell(standing) for column in columns))
    return shown


def summary(standings: Sequence[Standing]) -> Text:
    """The outside world's ledger against our claims; and by name, what is not as it must be."""
    proven = sum(standing.is_proven for standing in standings)
    arrived = sum(standing.outside.arrivals for standing in standings)
    twice = sum(standing.outside.arrivals > 1 for standing in standings)
    text = Text.assemble(
        (
            f"{proven} of {len(standings)} proven",
            "bold green" if proven == len(standings) else "bold red",
        ),
        f". The provider's own ledger: {arrived} accepted, {twice} accepted twice.",
    )
    for standing in standings:
        if not standing.is_proven:
            text.append(f"\n✗ {standing.scenario.name}: {'; '.join(standing.missing())}", style="red")
    return text


def draw(path: Path, title: str, standings: Sequence[Standing]) -> None:
    """An SVG of what the terminal shows. Its font is the reader's own: fetching one would tell who reads."""
    recorder = Console(record=True, width=PICTURE_WIDTH, file=io.StringIO(), force_terminal=True)
    recorder.print(Text(f"{title}\n", style="bold"))
    recorder.print(Group(table(standings, width=PICTURE_WIDTH), Text(), summary(standings)))
    path.write_text(FONTS.sub("", recorder.export_svg(title="make run")))


@dataclass(frozen=True, slots=True)
class Column:
    """width_min: the terminal's, below which it is left out. gives_way: it is cut short first."""

    title: str
    cell: Callable[[Standing], RenderableType]
    justify: Literal["left", "right"] = "left"
    width_min: int = 0
    gives_way: bool = False


def _mark(standing: Standing) -> RenderableType:
    if standing.is_proven:
        return Text("✓", style="bold green")
    return Spinner("dots", style="cyan") if standing.sent else Text("·", style="dim")


def _state(standing: Standing) -> Text:
    return Text(standing.state, style=STYLES.get(standing.state.partition(":")[0], "dim"))


def _one_line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _of_story(tell: Callable[[Standing, Story], str]) -> Callable[[Standing], str]:
    return lambda standing: tell(standing, standing.story) if standing.story else ""


def _arrived(standing: Standing, story: Story) -> str:
    end = standing.scenario.end
    return "–" if end is not None and end.arrivals is None else str(standing.outside.arrivals)


def _took(standing: Standing, story: Story) -> str:
    return duration(story.took.total_seconds()) if standing.has_ended else ""


COLUMNS = (
    Column("", _mark),
    Column("sent", lambda standing: standing.scenario.name),
    Column("what it meets", lambda standing: Text(standing.scenario.meets, style="dim"), width_min=130),
    Column("state", _state),
    Column("calls", _of_story(lambda _, story: str(story.attempts)), "right"),
    Column("arrived", _of_story(_arrived), "right", width_min=100),
    Column("proven by", lambda standing: _one_line(standing.proof()), gives_way=True),
    Column("after", _of_story(_took), "right"),
)
