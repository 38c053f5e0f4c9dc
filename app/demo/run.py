"""``landed up``: one story from an empty directory to a served demo, and back to nothing running."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from app.commands.client import Access, Client
from app.commands.output import console, duration
from app.demo import seed
from app.demo.local import Addresses, Service, only_one, running
from app.demo.play import Play
from app.demo.scenarios import SCENARIOS
from app.demo.show import Show, table
from app.embedded import EmbeddedPostgres
from app.migrate import migrate
from app.settings import Settings, load_settings

T = TypeVar("T")
PICTURE_WIDTH = 164
FONTS = re.compile(r"@font-face \{.*?\}", re.DOTALL)
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Options:
    port: int | None
    sandbox_port: int
    with_demo: bool
    exit_after_demo: bool
    picture: Path | None


class Stopped(Exception):
    """Somebody asked us to stop while we were at something."""


class Stop:
    """The wish to stop: the first signal asks, the second does not wait for politeness."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.in_a_hurry: list[Any] = []

    def heard(self) -> None:
        if self.asked.is_set():
            for kill in self.in_a_hurry:
                kill()
        self.asked.set()

    async def unless(self, work: Coroutine[Any, Any, T]) -> T:
        """Does the work, unless we are to stop: then raises Stopped. Work in a thread is waited for."""
        task = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self.asked.wait())
        await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        raise Stopped


async def serve_until_stopped(options: Options) -> int:
    """The exit code: 0 after a stop that was asked for, 1 when the demo was not proven."""
    settings = load_settings()
    if options.port is not None:
        settings = settings.model_copy(update={"api": settings.api.model_copy(update={"port": options.port})})
    stop = Stop()
    with only_one(settings.data_dir), _signals(stop):
        try:
            return await _serve(settings, options, stop)
        except Stopped:
            return 0
        finally:
            console().print(
                "Stopped; nothing is left running." if stop.asked.is_set() else "Stopped.", style="dim"
            )


async def _serve(settings: Settings, options: Options, stop: Stop) -> int:
    faster = options.with_demo and not settings.providers
    async with _database(settings, stop) as dsn:
        await _step("Migrations", stop.unless(asyncio.to_thread(migrate, dsn)))
        at = Addresses.choose(settings, options.sandbox_port)
        _say_ports(settings, options, at)
        service = Service(settings, dsn, at, faster=faster, died=_died)
        stop.in_a_hurry.append(service.kill)
        access = await seed.tenant_and_key(dsn, settings.data_dir, at.api)
        async with _started(service, stop):
            await _step("Demo tenant", stop.unless(asyncio.to_thread(_set_up, access)))
            proven = True
            if faster:
                proven = await stop.unless(_demo(dsn, access, at, options.picture))
            elif options.with_demo:
                console().print(
                    "Providers are configured: the demo is left out, so that nobody real gets its mail."
                )
            if options.exit_after_demo:
                return 0 if proven else 1
            _where_to_look(settings, dsn, access, service)
            await stop.asked.wait()
            console().print("\nStopping: worker, API, sandbox, PostgreSQL.", style="dim")
            return 0


# The parts -----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _database(settings: Settings, stop: Stop) -> AsyncIterator[str]:
    """The configured database, or an embedded one that lives as long as we do."""
    if settings.database_url is not None:
        console().print("PostgreSQL       the one of LANDED_DATABASE_URL")
        yield settings.database_url.get_secret_value()
        return
    server = EmbeddedPostgres(settings.data_dir / "postgres")
    try:
        yield await _step("PostgreSQL", stop.unless(asyncio.to_thread(server.start)))
    finally:
        await asyncio.to_thread(server.stop)


@contextlib.asynccontextmanager
async def _started(service: Service, stop: Stop) -> AsyncIterator[None]:
    async with running(service):
        await _step("Processes", stop.unless(service.ready()))
        yield


def _set_up(access: Access) -> None:
    with Client(access.url, access.key) as client:
        seed.set_up(client)


async def _demo(dsn: str, access: Access, at: Addresses, picture: Path | None) -> bool:
    title = f"{len(SCENARIOS)} notifications on their way. Each must come to a proven end."
    console().print(Text(f"\n{title}\n", style="bold"))
    with Client(access.url, access.key) as client, Show(console()) as show:
        play = Play(dsn, client, at.sandbox)
        proven = await play.perform(show.update)
    summary = _summary(play)
    if console().is_terminal:
        console().print(table(play.standings, width=console().width))
    console().print(Text(), summary, sep="\n")
    if picture is not None:
        _draw(picture, play, Text(f"{title}\n", style="bold"), summary)
    return proven


def _summary(play: Play) -> Text:
    """The outside world's ledger against our claims; and by name, what is not as it must be."""
    proven = sum(standing.is_proven for standing in play.standings)
    arrived = sum(standing.outside.arrivals for standing in play.standings)
    twice = sum(standing.outside.arrivals > 1 for standing in play.standings)
    text = Text.assemble(
        (
            f"{proven} of {len(play.standings)} proven",
            "bold green" if proven == len(play.standings) else "bold red",
        ),
        f". The provider's own ledger: {arrived} accepted, {twice} accepted twice.",
    )
    for standing in play.standings:
        if not standing.is_proven:
            text.append(f"\n✗ {standing.scenario.name}: {'; '.join(standing.missing())}", style="red")
    return text


def _draw(path: Path, play: Play, *about: Text) -> None:
    """An SVG of what the terminal shows. Its font is the reader's own: fetching one would tell who reads."""
    recorder = Console(record=True, width=PICTURE_WIDTH, file=io.StringIO(), force_terminal=True)
    head, foot = about
    recorder.print(Group(head, table(play.standings, width=PICTURE_WIDTH), Text(), foot))
    path.write_text(FONTS.sub("", recorder.export_svg(title="make run")))


def _where_to_look(settings: Settings, dsn: str, access: Access, service: Service) -> None:
    at = service.at
    links = [f"[bold]API[/]       {at.api}/docs"]
    if service.with_sandbox:
        links.append(f"[bold]Mailbox[/]   {at.sandbox}/   what the outside world received")
    links.append(
        f"[bold]Logs[/]      {settings.data_dir}/log/   [bold]Key[/]  {settings.data_dir}/client.json"
    )
    console().print(
        Panel("\n".join(links), title="Landed is running; Ctrl-C stops it", title_align="left", expand=False)
    )
    # Plain, so that a line can be copied whole however wide the terminal is.
    for title, line in (
        ("Send by REST", _curl(access)),
        ("Ask by SQL", _psql(settings, dsn)),
        ("Follow", "landed status"),
    ):
        console().print(Text(f"\n{title}:", style="bold"))
        console().print(line, markup=False, soft_wrap=True)


def _curl(access: Access) -> str:
    body = (
        '{"recipient_id": "ada", "category": "security", "template_id": "password-reset", "variables": '
        '{"product": "Northwind", "reset_url": "https://northwind.example/reset", "valid_minutes": 30}}'
    )
    return (
        f"curl -s {access.url}/api/v1/notifications/send -H 'Authorization: Bearer {access.key}' "
        f"-H 'Idempotency-Key: '$(date +%s%N) -H 'Content-Type: application/json' -d '{body}'"
    )


def _psql(settings: Settings, dsn: str) -> str:
    query = (
        "SELECT recipient_id, state, reason, attempts "
        "FROM reporting.deliveries ORDER BY created_at DESC LIMIT 20"
    )
    if settings.database_url is not None:
        return f'psql "$LANDED_DATABASE_URL" -c "{query}"'  # its password is nobody's to print
    found = shutil.which("psql") or EmbeddedPostgres(settings.data_dir / "postgres").psql
    return f"{'psql' if shutil.which('psql') else found} '{dsn}' -c \"{query}\""


# What is said meanwhile ----------------------------------------------------------------------------------


async def _step(name: str, work: Coroutine[Any, Any, T]) -> T:
    began = time.monotonic()
    with console().status(f"{name} …"):
        result = await work
    console().print(f"{name:<16} ready after {duration(time.monotonic() - began)}")
    return result


def _say_ports(settings: Settings, options: Options, at: Addresses) -> None:
    for name, wanted, got in (
        ("API", settings.api.port, at.api_port),
        ("sandbox", options.sandbox_port, at.sandbox_port),
    ):
        if wanted != got:
            console().print(f"Port {wanted} is busy: the {name} listens on {got}.", style="yellow")


def _died(name: str, status: int) -> None:
    console().print(
        f"The {name} process ended with {status}; it is started again. See the log.", style="yellow"
    )


@contextlib.contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in STOPS:
        loop.add_signal_handler(number, stop.heard)
    try:
        yield
    finally:
        for number in STOPS:
            loop.remove_signal_handler(number)
