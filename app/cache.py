"""What rarely changes, kept for a moment: loaded once however many ask, dropped at a hint or after its
time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Values by key, at most ``size_max`` of them, each for at most ``ttl_seconds``.

    A value whose loading began before ``clear()`` is never kept: what a revocation made untrue cannot come
    back.
    """

    def __init__(self, load: Callable[[K], Awaitable[V]], *, ttl_seconds: float, size_max: int) -> None:
        self._load = load
        self._ttl_seconds = ttl_seconds
        self._size_max = size_max
        self._kept: dict[K, tuple[float, V]] = {}
        self._loading: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        kept = self._kept.get(key)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load_and_keep(key))
            task.add_done_callback(_observe)
        # Shielded: one caller who hangs up must not take the answer from the others.
        return await asyncio.shield(task)

    def clear(self) -> None:
        self._kept.clear()
        self._loading.clear()

    async def _load_and_keep(self, key: K) -> V:
        task = asyncio.current_task()
        try:
            value = await self._load(key)
            if self._loading.get(key) is task:
                self._keep(key, value)
            return value
        finally:
            if self._loading.get(key) is task:
                del self._loading[key]

    def _keep(self, key: K, value: V) -> None:
        self._kept.pop(key, None)
        while len(self._kept) >= self._size_max:
            del self._kept[next(iter(self._kept))]  # the one loaded longest ago
        self._kept[key] = (time.monotonic() + self._ttl_seconds, value)


def _observe(task: asyncio.Task[V]) -> None:
    """An error nobody waited for any more is not a stray one."""
    if not task.cancelled():
        task.exception()
