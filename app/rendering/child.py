"""The process that renders: ``python -m app.rendering.child``, its socket to the parent as file descriptor 0.

Templates are other people's programs, so they run where they can be stopped: a cap on memory, a CPU timer
that interrupts one job, and a timer of the kernel's that ends the process when even that cannot get through.
The process ends when its parent does, because the socket then reads as closed.
"""

from __future__ import annotations

import gc
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import msgspec

from app.errors import FieldError, TemplateRenderError
from app.rendering import wire
from app.rendering.engine import Compiled, Overran, check_template, compile_template, render
from app.rendering.types import RenderLimits, TemplateCheck, TemplateSource


class Allowance:
    """CPU time for one job: ``with allowance: ...`` raises ``Overran`` inside, and never outside.

    A job is stopped after ``TICKS`` ticks of a CPU timer, so that starting one costs no system call. C code
    that runs on and on lets no Python handler in; SIGVTALRM, put off at each tick, then ends the process. So
    does SIGALRM when an exchange hangs by the clock. Neither has a handler, so neither needs anybody's help.
    """

    TICKS = 4

    def __init__(self, limits: RenderLimits) -> None:
        self._limits = limits
        self._ticks = 0
        self._running = False
        signal.signal(signal.SIGPROF, self._tick)

    def arm(self) -> None:
        tick = self._limits.job_seconds / self.TICKS
        signal.setitimer(signal.ITIMER_REAL, self._limits.hang_seconds)
        signal.setitimer(signal.ITIMER_PROF, tick, tick)
        self._put_off()

    def disarm(self) -> None:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF, signal.ITIMER_VIRTUAL):
            signal.setitimer(timer, 0)

    def __enter__(self) -> None:
        self._ticks = 0
        self._running = True

    def __exit__(self, *_exc: object) -> None:
        self._running = False

    def _tick(self, _signal: int, _frame: FrameType | None) -> None:
        self._put_off()
        self._ticks += 1
        if self._running and self._ticks >= self.TICKS:
            self._running = False
            raise Overran

    def _put_off(self) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, self._limits.job_seconds * 1.5)


class Child:
    """Answers requests one at a time; keeps what templates the parent tells it to, compiled at first use."""

    def __init__(self, limits: RenderLimits, allowance: Allowance) -> None:
        self._limits = limits
        self._allowance = allowance
        self._sources: dict[int, TemplateSource] = {}
        self._compiled: dict[int, Compiled | TemplateRenderError] = {}

    def answer(self, request: wire.Batch | wire.Check) -> bytes:
        if isinstance(request, wire.Check):
            return wire.encode(self._check(request.template))
        for number in request.forget:
            del self._sources[number]
            self._compiled.pop(number, None)
        self._sources.update(request.learn)
        return wire.encode(self._render_all(request.jobs))

    def _render_all(self, jobs: list[wire.Job]) -> list[wire.Answer]:
        """Answers from the first job on. Stops after one that overran: going on is the parent's decision."""
        answers = []
        size = 0
        deadline = time.monotonic() + self._limits.batch_seconds
        for job in jobs:
            answer = self._render(job)
            answers.append(answer)
            if answer.rendered is not None:
                size += len(answer.rendered.html or "") + len(answer.rendered.text)
            if answer.overran or size > self._limits.answer_bytes or time.monotonic() > deadline:
                break
        return answers

    def _render(self, job: wire.Job) -> wire.Answer:
        try:
            with self._allowance:
                compiled = self._compile(job.template)
                variables = wire.decode_variables(job.variables)
                return wire.Answer(render(compiled, variables, self._limits))
        except TemplateRenderError as exc:
            return wire.Answer(None, exc.errors)
        except (msgspec.MsgspecError, RecursionError):
            return wire.Answer(None, (FieldError("variables", "not plain JSON data"),))
        except Overran as exc:
            return wire.Answer(None, (self._overran(exc),), overran=True)

    def _compile(self, number: int) -> Compiled:
        compiled = self._compiled.get(number)
        if compiled is None:
            try:
                compiled = compile_template(self._sources[number], self._limits)
            except TemplateRenderError as exc:
                compiled = exc
            self._compiled[number] = compiled
        if isinstance(compiled, TemplateRenderError):
            raise TemplateRenderError(*compiled.errors)
        return compiled

    def _check(self, source: TemplateSource) -> TemplateCheck:
        try:
            with self._allowance:
                return check_template(source, self._limits)
        except Overran as exc:
            return TemplateCheck(frozenset(), (self._overran(exc),))

    def _overran(self, exc: Overran) -> FieldError:
        return FieldError(exc.part, f"needs more than {self._limits.job_seconds:g} s of computing")


def confine(limits: RenderLimits) -> None:
    """Cap the address space above what is in use now, and leave no core file with people's data in it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        cap = pages * resource.getpagesize() + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (cap, cap))


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame; None when the parent is gone, even in the middle of one."""
    header = stream.read(wire.LENGTH_BYTES)
    length = int.from_bytes(header, "big")
    payload = stream.read(length)
    return payload if len(header) == wire.LENGTH_BYTES and len(payload) == length else None


def serve(connection: socket.socket) -> None:
    requests = connection.makefile("rb")
    first = read_frame(requests)
    if first is None:
        return
    limits = wire.decode_limits(first)
    allowance = Allowance(limits)
    child = Child(limits, allowance)
    confine(limits)
    gc.freeze()  # the modules just loaded stay for good; no collection need look at them again
    connection.sendall(wire.frame(wire.READY))
    while (payload := read_frame(requests)) is not None:
        request = wire.decode_request(payload)
        allowance.arm()
        answer = child.answer(request)
        allowance.disarm()
        connection.sendall(wire.frame(answer))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; it closes the socket when done
    with socket.socket(fileno=0) as connection:
        try:
            serve(connection)
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main()
