"""The parent's end of one rendering child: start it, ask it, end it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from app.errors import Unavailable
from app.rendering import wire
from app.rendering.types import RenderLimits, TemplateSource

START_SECONDS_MAX = 30.0  # imports take 0.3 s; a machine that needs longer than this is not rendering today
PATIENCE_SECONDS = 1.0  # past the moment the kernel ends a stuck child, until the parent does
BUFFER_BYTES = 1024 * 1024
SOURCE_ROOT = Path(__file__).resolve().parents[2]


class ChildDied(Exception):
    """The child ended, or was ended, before it answered"""


class Shelf:
    """The templates a child holds, least recently used first, and the numbers it knows them by.

    Keyed by the whole source and not by its name, so that two sources under one key are never confused.
    """

    def __init__(self, chars_max: int) -> None:
        self._chars_max = chars_max
        self._chars = 0
        self._next = 0
        self._numbers: OrderedDict[TemplateSource, int] = OrderedDict()

    def place(self, templates: Iterable[TemplateSource]) -> tuple[list[int], dict[int, TemplateSource]]:
        """Make room, then add what is missing. Returns what the child must forget and learn."""
        wanted = dict.fromkeys(templates)
        learn = {}
        for template in wanted:
            if template in self._numbers:
                self._numbers.move_to_end(template)
            else:
                self._numbers[template] = self._next
                learn[self._next] = template
                self._chars += _chars(template)
                self._next += 1
        return self._make_room(len(wanted)), learn

    def _make_room(self, wanted: int) -> list[int]:
        """Evicts from the old end, never one of the ``wanted`` that now stand at the new end."""
        forget = []
        while self._chars > self._chars_max and len(self._numbers) > wanted:
            template, number = self._numbers.popitem(last=False)
            self._chars -= _chars(template)
            forget.append(number)
        return forget

    def number(self, template: TemplateSource) -> int:
        return self._numbers[template]


def _chars(template: TemplateSource) -> int:
    return len(template.subject) + len(template.html or "") + len(template.text or "")


class ChildProcess:
    """One child, started again whenever it is asked and not there."""

    def __init__(self, limits: RenderLimits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._closed = False
        self.shelf = Shelf(limits.cache_chars)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Raises Unavailable when no child can be started: that is the machine's fault and no template's."""
        if self._closed:
            raise Unavailable("rendering has been stopped")
        self.shelf = Shelf(self._limits.cache_chars)
        try:
            self._process, connection = _spawn()
            self._reader, self._writer = await asyncio.open_connection(sock=connection, limit=BUFFER_BYTES)
            ready = await self._exchange(wire.encode(self._limits), START_SECONDS_MAX)
        except (OSError, ChildDied) as exc:
            await self.end()
            raise Unavailable("the rendering process does not start") from exc
        except BaseException:
            await self.end()
            raise
        assert ready == wire.READY

    async def ensure_started(self) -> None:
        if self._writer is None:
            await self.start()

    async def ask(self, payload: bytes) -> bytes:
        """The answer. Raises ChildDied if there is none in time: a new child starts at the next call."""
        await self.ensure_started()
        try:
            return await self._exchange(payload, self._limits.hang_seconds + PATIENCE_SECONDS)
        except BaseException:  # also when cancelled: an answer nobody reads would be taken for the next one
            await self.end()
            raise

    async def _exchange(self, payload: bytes, seconds: float) -> bytes:
        assert self._reader is not None
        assert self._writer is not None
        try:
            async with asyncio.timeout(seconds):
                self._writer.write(wire.frame(payload))
                await self._writer.drain()
                length = int.from_bytes(await self._reader.readexactly(wire.LENGTH_BYTES), "big")
                return await self._reader.readexactly(length)
        except (OSError, EOFError, TimeoutError) as exc:
            raise ChildDied from exc

    async def end(self) -> None:
        """Kill the child and wait until it is gone. Doing so twice does no harm."""
        process, self._process = self._process, None
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
        if process is not None:
            process.kill()
            await asyncio.shield(asyncio.to_thread(process.wait))

    async def close(self) -> None:
        """End it for good."""
        self._closed = True
        await self.end()


def _spawn() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A child in a session of its own and without our environment: no terminal signal, no secret reaches it.

    ``Popen`` and not asyncio's, which before Python 3.12 loses a child that ends while it is being killed.
    """
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-m", "app.rendering.child"]
    environment = {"PYTHONPATH": str(SOURCE_ROOT), "LANG": "C.UTF-8"}
    try:
        process = subprocess.Popen(
            command,
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    return process, ours
