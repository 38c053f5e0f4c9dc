"""Hints to the workers that there is something to do, however many come, a few a second (DESIGN, section
3).
"""

from __future__ import annotations

import asyncio

from app.db import Database

CHANNEL = "landed_wake"
WAKES_PER_SECOND_MAX = 20  # each holds a database-wide lock for a moment while it commits


class Waker:
    """One kind of hint. Correctness never depends on it: the workers also look by themselves."""

    def __init__(self, db: Database, what: str) -> None:
        self._db = db
        self._what = what
        self._wanted = False
        self._task: asyncio.Task[None] | None = None

    def soon(self) -> None:
        """After a commit: a hint goes out at once, or when the last one is old enough."""
        self._wanted = True
        if self._task is None:
            self._task = asyncio.create_task(self._send())

    async def close(self) -> None:
        """Waits until what was wanted has been sent."""
        if self._task is not None:
            await self._task

    async def _send(self) -> None:
        try:
            while self._wanted:
                self._wanted = False
                await self._db.wake(CHANNEL, self._what)
                await asyncio.sleep(1 / WAKES_PER_SECOND_MAX)
        finally:
            self._task = None
