"""Render batches of jobs in child processes, so that a poison template fails its own delivery alone."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from app.errors import FieldError, TemplateRenderError
from app.rendering import wire
from app.rendering.process import ChildDied, ChildProcess
from app.rendering.types import Rendered, RenderJob, RenderLimits, TemplateCheck, TemplateSource

BATCH_JOBS_MAX = 1000
BATCH_BYTES_MAX = 8 * 1024 * 1024  # of variables, so that one request stays in memory

Result = Rendered | TemplateRenderError

KILLED = FieldError("template", "ended the process that rendered it: it needs too much time or memory")


class RenderPool:
    """A fixed number of rendering children. One call uses one child; calls beyond their number wait."""

    def __init__(self, processes: int = 1, limits: RenderLimits = RenderLimits()) -> None:  # noqa: B008  (immutable)
        self._limits = limits
        self._strikes = Strikes(limits)
        self._children = [ChildProcess(limits) for _ in range(processes)]
        self._idle: asyncio.Queue[ChildProcess] = asyncio.Queue()
        for child in self._children:
            self._idle.put_nowait(child)

    async def start(self) -> None:
        """Start the children. Raises Unavailable when they do not start."""
        try:
            await asyncio.gather(*(child.start() for child in self._children))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the children, whatever they are doing. Calls that were running raise Unavailable."""
        await asyncio.gather(*(child.close() for child in self._children))

    @property
    def pids(self) -> list[int]:
        """The running children."""
        return [child.pid for child in self._children if child.pid is not None]

    async def render(self, jobs: Sequence[RenderJob]) -> list[Result]:
        """One result per job, in order. A bad template is a result, not an exception.

        A TemplateRenderError with ``retry_after_seconds`` says that the job was refused without a try,
        because its template has just overrun several times. Raises Unavailable only when no child can be
        started.
        """
        child = await self._idle.get()
        try:
            return await BatchRun(child, jobs, self._limits, self._strikes).run()
        finally:
            self._idle.put_nowait(child)

    async def check(self, template: TemplateSource) -> TemplateCheck:
        """Compile a template and find the names it reads. Never raises for a bad template."""
        child = await self._idle.get()
        try:
            request = wire.encode(wire.Check(template))
            for _attempt in ("with whatever befell the child before", "on a fresh child"):
                try:
                    return wire.decode_check(await child.ask(request))
                except ChildDied:
                    continue
            return TemplateCheck(frozenset(), (KILLED,))
        finally:
            self._idle.put_nowait(child)


class BatchRun:
    """One batch on its way through one child.

    The child answers a prefix of what it is asked, so the rest is asked again. If it dies instead, one of the
    jobs killed it: from then on they go one at a time, and the job during which it dies again is the one.
    """

    def __init__(self, child: ChildProcess, jobs: Sequence[RenderJob], limits: RenderLimits, strikes: Strikes) -> None:
        self._child = child
        self._jobs = jobs
        self._limits = limits
        self._strikes = strikes
        self._variables: dict[int, bytes] = {}
        self._results: dict[int, Result] = {}

    async def run(self) -> list[Result]:
        pending = self._encode()
        alone = False
        while pending := self._refuse_struck(pending):
            batch = pending[:1] if alone else self._fitting(pending)
            try:
                answers = wire.decode_answers(await self._ask(batch))
            except ChildDied:
                if alone:
                    self._fail(pending.pop(0), KILLED)
                alone = True
                continue
            for index, answer in zip(batch, answers, strict=False):
                self._settle(index, answer)
            pending = pending[len(answers) :]
        return [self._results[index] for index in range(len(self._jobs))]

    def _encode(self) -> list[int]:
        """The jobs whose variables can be sent at all."""
        for index, job in enumerate(self._jobs):
            try:
                self._variables[index] = wire.encode_variables(job.variables, self._limits.variables_bytes)
            except TemplateRenderError as exc:
                self._results[index] = exc
        return list(self._variables)

    def _refuse_struck(self, pending: list[int]) -> list[int]:
        if not self._strikes:
            return pending
        passed = []
        for index in pending:
            seconds = self._strikes.seconds_left(self._jobs[index].template.key)
            if seconds is None:
                passed.append(index)
            else:
                error = FieldError("template", f"overran its limits repeatedly; refused for {seconds:.0f} s more")
                self._results[index] = TemplateRenderError(error, retry_after_seconds=seconds)
        return passed

    def _fitting(self, pending: list[int]) -> list[int]:
        size = 0
        for count, index in enumerate(pending[:BATCH_JOBS_MAX]):
            size += len(self._variables[index])
            if size > BATCH_BYTES_MAX:
                return pending[: max(count, 1)]
        return pending[:BATCH_JOBS_MAX]

    async def _ask(self, batch: list[int]) -> bytes:
        await self._child.ensure_started()
        shelf = self._child.shelf
        forget, learn = shelf.place(self._jobs[index].template for index in batch)
        jobs = [wire.Job(shelf.number(self._jobs[index].template), self._variables[index]) for index in batch]
        return await self._child.ask(wire.encode(wire.Batch(forget, learn, jobs)))

    def _settle(self, index: int, answer: wire.Answer) -> None:
        if answer.overran:
            self._fail(index, *answer.errors)
        else:
            self._results[index] = answer.rendered or TemplateRenderError(*answer.errors)

    def _fail(self, index: int, *errors: FieldError) -> None:
        self._strikes.add(self._jobs[index].template.key)
        self._results[index] = TemplateRenderError(*errors)


class Strikes:
    """Templates that overran lately. Empty, and free of cost, when none did."""

    def __init__(self, limits: RenderLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._times: dict[str, deque[float]] = {}

    def __bool__(self) -> bool:
        return bool(self._times)

    def add(self, key: str) -> None:
        self._times.setdefault(key, deque(maxlen=self._limits.strikes)).append(self._clock())

    def seconds_left(self, key: str) -> float | None:
        """How long the template is still refused; None when it may be tried."""
        times = self._times.get(key)
        if times is None:
            return None
        now = self._clock()
        while times and times[0] <= now - self._limits.probation_seconds:
            times.popleft()
        if not times:
            del self._times[key]
        return times[0] + self._limits.probation_seconds - now if len(times) == self._limits.strikes else None
