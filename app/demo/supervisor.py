"""Child processes that are started again when they die, and that never outlive us."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.5, 10.0
STEADY_SECONDS = 30.0  # one that lived this long died of something new: the pauses begin anew
LOG_BYTES_MAX = 16 * 1024 * 1024
TAIL_LINES = 15
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. grace_seconds: from the polite signal to the one that cannot be ignored."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    grace_seconds: float

    def tail(self) -> str:
        """The end of its log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


@dataclass(slots=True)
class Supervised:
    """One program, kept running. died: told of each death that nobody asked for, with the exit status."""

    program: Program
    died: Callable[[str, int], None]
    process: Process | None = None
    deaths: int = 0
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.process = await _spawn(self.program)
        self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        pause = PAUSE_SECONDS
        while self.process is not None:
            began = time.monotonic()
            status = await self.process.wait()
            if self._stopping.is_set():
                return
            self.deaths += 1
            self.died(self.program.name, status)
            pause = PAUSE_SECONDS if time.monotonic() - began > STEADY_SECONDS else min(2 * pause, PAUSE_SECONDS_MAX)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
                return
            self.process = await _spawn(self.program)

    async def stop(self) -> bool:
        """Ends it: politely, and if that is ignored, surely. Answers whether it went by itself."""
        self._stopping.set()
        process, keeper = self.process, self._keeper
        if process is None or keeper is None:
            return True
        polite = True
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), self.program.grace_seconds)
            except TimeoutError:
                polite = False
                self.kill()
        await keeper
        return polite

    def kill(self) -> None:
        """At once, with all that it started: it leads a process group of its own."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


async def _spawn(program: Program) -> Process:
    """In a session of its own: Ctrl-C reaches us alone, and we say in which order things stop."""
    program.log.parent.mkdir(parents=True, exist_ok=True)
    if program.log.exists() and program.log.stat().st_size > LOG_BYTES_MAX:
        program.log.replace(program.log.with_suffix(".log.1"))
    with program.log.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *program.arguments,
            env=dict(program.environment),
            stdin=DEVNULL,
            stdout=log,
            stderr=STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )


def _die_with_parent() -> None:
    """If we are killed, nobody is left to stop them: the kernel then asks them to stop."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
