"""The worker: one dispatcher per lane, an intake per class, apply, and procrastinate for the rest.

Any number of workers may run; one that joins or leaves causes no pause, no reassignment and no duplicate, because
they share nothing but rows (R-167). On SIGTERM it claims no more, finishes or releases what it holds, and goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from uuid import UUID, uuid4

import psycopg
import structlog
import uvloop

from app.db import HOT_PATH_OPTIONS, Database, listen
from app.domain.models import NotificationClass
from app.domain.plan import lane_of
from app.domain.routing import RouteKey
from app.errors import ConfigurationError, LandedError, Unavailable
from app.flows.apply import apply
from app.flows.control import Control
from app.flows.dispatch import Dispatcher, Lane
from app.flows.fan_out import fan_out
from app.flows.intake import intake
from app.flows.upkeep import ensure_partitions
from app.log import configure
from app.providers.access import AccessTokens
from app.providers.accounts import ProviderSet
from app.providers.transport import Transport
from app.providers.transports import open_transport
from app.queue import QUEUES, make_queue
from app.rendering.pool import RenderPool
from app.secrets import signing_secret
from app.settings import Settings, load_settings
from app.store import upkeep as store
from app.store.control import PublishedLane
from jobs.tasks import Tools, register

log = structlog.get_logger()

LOOP_RETRY_SECONDS = 0.5
FAN_OUT_BATCH = 500  # status events in one transaction
QUEUE_RESTART_SECONDS = 2.0
CONNECTIONS_PER_LANE = 3  # claim, record, look ahead
CONNECTIONS_MAX = 24  # for all lanes together
CONNECTIONS_APART = 6  # the loops, control, the heartbeat


def lanes_of(settings: Settings) -> list[Lane]:
    """Every lane this configuration serves: each route in each class."""
    return [
        Lane(lane_of(key, klass), key.channel, klass, choices)
        for route, choices in settings.routes.items()
        if choices
        for key in [RouteKey.parse(route)]
        for klass in NotificationClass
    ]


def matching(lanes: Sequence[Lane], patterns: Sequence[str]) -> list[Lane]:
    """Those that any of the patterns names, as a shell would read them; all without patterns (R-046, R-071)."""
    for pattern in patterns:
        if not any(fnmatchcase(lane.name, pattern) for lane in lanes):
            raise ConfigurationError(
                f"--lanes {pattern} matches no lane; lanes are {', '.join(sorted(lane.name for lane in lanes))}"
            )
    return [lane for lane in lanes if not patterns or any(fnmatchcase(lane.name, pattern) for pattern in patterns)]


def _published(lane: Lane) -> PublishedLane:
    choices = [choice.model_dump() for choice in lane.choices]
    return PublishedLane(lane.name, lane.channel, lane.klass, choices)


def _check_channels(lanes: Sequence[Lane], providers: ProviderSet) -> None:
    """A provider serves the channel it was written for."""
    for lane in lanes:
        for choice in lane.choices:
            channel = providers.get(choice.provider).capabilities.channel
            if channel != lane.channel:
                raise ConfigurationError(
                    f"routes: {choice.provider} delivers {channel}, so it cannot serve lane {lane.name}"
                )


class Worker:
    def __init__(self, settings: Settings, dsn: str, patterns: Sequence[str] = ()) -> None:
        """Raises ConfigurationError for a pattern that no lane matches."""
        self.id: UUID = uuid4()
        self.settings = settings
        self.dsn = dsn
        self.lanes = matching(lanes_of(settings), patterns)
        self.providers = ProviderSet(settings.providers)
        _check_channels(self.lanes, self.providers)
        self.signing_key = signing_secret(settings)
        # Most lanes are idle most of the time: a server takes a hundred connections, and is not ours alone.
        size = min(CONNECTIONS_PER_LANE * len(self.lanes), CONNECTIONS_MAX) + len(NotificationClass) + CONNECTIONS_APART
        self.db = Database(dsn, name="landed worker", size_max=size, options=HOT_PATH_OPTIONS, check=False)
        self._control = Control(self.db, self.providers, settings, self.id)
        self._loops: dict[str, asyncio.Event] = {}
        self._woken: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)  # by lane
        self._stopping = asyncio.Event()
        self._renderers: dict[NotificationClass, RenderPool] = {}

    async def run(self) -> None:
        """Works until ``stop``; then winds down within the grace the settings give."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.db)
            await ensure_partitions(self.db, self.settings)
            await self._open_shared(stack)
            await self._control.publish([_published(lane) for lane in self.lanes])
            dispatchers = [await self._dispatcher(lane, stack) for lane in self.lanes]
            await self._beat()
            judging = asyncio.create_task(self._control.run())
            background = [
                asyncio.create_task(listen(self.dsn, ["landed_wake"], self._heard(dispatchers))),
                asyncio.create_task(self._beat_for_ever()),
                asyncio.create_task(self._run_queue()),
                judging,
            ]
            working = [asyncio.create_task(d.run()) for d in dispatchers] + [
                asyncio.create_task(self._loop(name, step)) for name, step in self._steps().items()
            ]
            log.info("worker_started", worker_id=str(self.id), lanes=[lane.name for lane in self.lanes])
            try:
                await self._until_stopped([*working, judging])
            finally:
                await self._wind_down(dispatchers, working, background)

    def stop(self) -> None:
        self._stopping.set()

    async def _until_stopped(self, working: Sequence[asyncio.Task[None]]) -> None:
        """A loop that ends by itself is a defect: better to stop loudly and be restarted than to limp on."""
        stopped = asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait([stopped, *working], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in done - {stopped}:
            task.result()

    async def _wind_down(
        self,
        dispatchers: Sequence[Dispatcher],
        working: Sequence[asyncio.Task[None]],
        background: Sequence[asyncio.Task[None]],
    ) -> None:
        self._stopping.set()
        for dispatcher in dispatchers:
            dispatcher.stop()
        for woken in self._loops.values():
            woken.set()
        _, late = await asyncio.wait(working, timeout=self.settings.times.shutdown_grace_seconds)
        for task in [*late, *background]:
            task.cancel()
        await asyncio.gather(*working, *background, return_exceptions=True)
        with contextlib.suppress(LandedError, psycopg.Error):
            await self._beat(stopping=True)
        log.info("worker_stopped", worker_id=str(self.id), abandoned=len(late))

    # Lanes ------------------------------------------------------------------------------------------------------

    async def _dispatcher(self, lane: Lane, stack: contextlib.AsyncExitStack) -> Dispatcher:
        """Each lane has its own connections to each of its providers: one that hangs keeps only its own."""
        transports = {
            choice.provider: await stack.enter_async_context(
                open_transport(
                    self.providers.get(choice.provider).capabilities.transport,
                    connections_max=self.settings.worker.share(lane.klass).concurrency,
                    endpoints=self.settings.endpoints,
                )
            )
            for choice in lane.choices
        }
        return Dispatcher(
            lane,
            db=self.db,
            providers=self.providers,
            transports=transports,
            access=self._access,
            renderer=self._renderers[lane.klass],
            control=self._control,
            settings=self.settings,
            worker_id=self.id,
            signing_key=self.signing_key,
        )

    async def _open_shared(self, stack: contextlib.AsyncExitStack) -> None:
        """A renderer for each class: a template bomb in a campaign holds up no password reset, whatever its channel."""
        for klass in NotificationClass:
            renderer = RenderPool(self.settings.worker.render_processes)
            await renderer.start()
            stack.push_async_callback(renderer.stop)
            self._renderers[klass] = renderer
        self._access = AccessTokens(await stack.enter_async_context(Transport()))

    # Loops ------------------------------------------------------------------------------------------------------

    def _steps(self) -> dict[str, Callable[[], Awaitable[int]]]:
        """The batch loops by name. A step answers how much it found; one that found nothing waits to be woken."""
        steps: dict[str, Callable[[], Awaitable[int]]] = {"apply": self._apply, "fan_out": self._fan_out}
        for klass in NotificationClass:
            steps[f"intake.{klass}"] = lambda klass=klass: self._intake(klass)  # type: ignore[misc]
        self._loops = {name: asyncio.Event() for name in steps}
        return steps

    async def _intake(self, klass: NotificationClass) -> int:
        limit = self.settings.worker.share(klass).intake_batch
        planned, lanes = await intake(self.db, self.settings, klass=klass, limit=limit)
        await self._wake_lanes(lanes)
        return planned

    async def _fan_out(self) -> int:
        told, lanes = await fan_out(self.db, self.settings, limit=FAN_OUT_BATCH)
        await self._wake_lanes(lanes)
        return told

    async def _wake_lanes(self, lanes: Iterable[str]) -> None:
        for lane in lanes:
            self._woken[lane].set()  # here at once; elsewhere by a hint
            await self.db.wake("landed_wake", lane)

    async def _apply(self) -> int:
        return await apply(self.db, self.settings, limit=self.settings.worker.apply_batch)

    async def _loop(self, name: str, step: Callable[[], Awaitable[int]]) -> None:
        woken = self._loops[name]
        while not self._stopping.is_set():
            woken.clear()
            try:
                if await step():
                    continue
                pause = self.settings.worker.poll_seconds
            except (Unavailable, psycopg.Error) as error:
                log.warning("loop_failed", loop=name, error=str(error))
                pause = LOOP_RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await woken.wait()

    def _heard(self, dispatchers: Sequence[Dispatcher]) -> Callable[[str, str], None]:
        """A hint names a lane, a loop, or nothing in particular (hints may have been missed)."""
        self._woken.update({d.lane.name: d.woken for d in dispatchers})

        def heard(_: str, payload: str) -> None:
            for name, woken in (self._woken | self._loops).items():
                if not payload or name == payload or name.startswith(f"{payload}."):
                    woken.set()

        return heard

    # Liveness and the queue -------------------------------------------------------------------------------------

    async def _beat(self, *, stopping: bool = False) -> None:
        async with self.db.transaction() as conn:
            await store.beat(
                conn,
                worker_id=self.id,
                region=self.settings.region,
                host=socket.gethostname(),
                pid=os.getpid(),
                lanes=[lane.name for lane in self.lanes],
                stopping=stopping,
            )

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.settings.worker.heartbeat_seconds)
            with contextlib.suppress(Unavailable, psycopg.Error):
                await self._beat()

    async def _run_queue(self) -> None:
        """procrastinate's worker ends when the database is away for long: it is started again, for ever."""
        while True:
            try:
                await self._run_queue_once()
            except Exception as error:  # a border: whatever ends the maintenance worker must not end the deliveries
                log.warning("queue_restarting", error=repr(error), cause=repr(error.__cause__))
            await asyncio.sleep(QUEUE_RESTART_SECONDS)

    async def _run_queue_once(self) -> None:
        async with Database(self.dsn, name="landed jobs", size_max=4, options=HOT_PATH_OPTIONS) as db:
            queue = make_queue(self.dsn)
            register(queue, self.settings)
            async with queue.open_async():
                await queue.run_worker_async(
                    queues=QUEUES,
                    concurrency=len(QUEUES),
                    install_signal_handlers=False,
                    delete_jobs="always",
                    additional_context={
                        "tools": Tools(
                            db, self.providers, self.settings, self._renderers[NotificationClass.TRANSACTIONAL]
                        )
                    },
                )


@contextlib.asynccontextmanager
async def _signals(worker: Worker) -> AsyncIterator[None]:
    """The first SIGTERM or SIGINT winds down; a second one ends the process at once: leases cover what is lost."""
    loop = asyncio.get_running_loop()
    asked = False

    def on_signal() -> None:
        nonlocal asked
        if asked:
            os._exit(1)
        asked = True
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _serve(settings: Settings, dsn: str, patterns: Sequence[str]) -> None:
    worker = Worker(settings, dsn, patterns)
    async with _signals(worker):
        await worker.run()


def serve(settings: Settings, dsn: str, patterns: Sequence[str] = ()) -> None:
    """Runs a worker in this process until it is told to stop. patterns: of the lanes it serves; none for all."""
    # Every delivery makes a few hundred short-lived objects and no cycles: looking for cycles less often is a tenth of
    # the worker's time back, and what was loaded at the start is never looked at again.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    uvloop.run(_serve(settings, dsn, patterns))


if __name__ == "__main__":
    _settings = load_settings()
    configure(_settings.log_level)
    if _settings.database_url is None:
        raise SystemExit("LANDED_DATABASE_URL is not set; `landed up` runs everything on an embedded server")
    serve(_settings, _settings.database_url.get_secret_value())
