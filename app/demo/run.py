"""``landed up``: one story from an empty directory to a served demo, and back to nothing running."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.text import Text

from app.commands.client import Access, Client
from app.commands.output import console, duration
from app.demo import seed
from app.demo.local import Addresses, Service, only_one, running
from app.demo.outro import where_to_look
from app.demo.play import Play
from app.demo.scenarios import SCENARIOS
from app.demo.show import Show, draw, summary, table
from app.embedded import EmbeddedPostgres
from app.migrate import migrate
from app.settings import Settings, load_settings

T = TypeVar("T")
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
        self.in_a_hurry: list[Callable[[], None]] = []

    def heard(self) -> None:
        if self.asked.is_set():
            for kill in self.in_a_hurry:
                kill()
        self.asked.set()

    async def unless(self, work: Coroutine[Any, Any, T]) -> T:
        """Does the work, unless we are to stop: then it is cancelled, and Stopped raised."""
        task = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self.asked.wait())
        await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # whatever it says of that no longer matters
        raise Stopped

    async def after(self, work: Callable[..., T], *arguments: object) -> T:
        """Does blocking work in a thread. A thread cannot be called off: it is waited for, then Stopped raised."""
        result = await asyncio.to_thread(work, *arguments)
        if self.asked.is_set():
            raise Stopped
        return result


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
            console().print("Stopped; nothing is left running." if stop.asked.is_set() else "Stopped.", style="dim")


async def _serve(settings: Settings, options: Options, stop: Stop) -> int:
    has_demo = options.with_demo and not settings.vendors
    async with _database(settings, stop) as dsn:
        await _step("Migrations", stop.after(migrate, dsn))
        at = Addresses.choose(settings, options.sandbox_port)
        _say_ports(settings, options, at)
        service = Service(settings, dsn, at, faster=has_demo, died=_died)
        stop.in_a_hurry.append(service.kill)
        access = await seed.tenant_and_key(dsn, settings.data_dir, at.api)
        async with _started(service, stop):
            await _step("Demo tenant", stop.after(_set_up, access))
            proven = True
            if has_demo:
                proven = await stop.unless(_demo(dsn, access, at, options.picture))
            elif options.with_demo:
                console().print("Providers are configured: the demo is left out, so that nobody real gets its mail.")
            if options.exit_after_demo:
                return 0 if proven else 1
            where_to_look(settings, dsn, access, service)
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
        yield await _step("PostgreSQL", stop.after(server.start))
    finally:
        await asyncio.to_thread(server.stop)


@contextlib.asynccontextmanager
async def _started(service: Service, stop: Stop) -> AsyncIterator[None]:
    async with running(service):
        await _step("Processes", stop.unless(service.start()))
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
    if console().is_terminal:
        console().print(table(play.standings, width=console().width))
    console().print(Text(), summary(play.standings), sep="\n")
    if picture is not None:
        draw(picture, title, play.standings)
    return proven


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
    console().print(f"The {name} process ended with {status}; it is started again. See the log.", style="yellow")


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
