"""Faults of the whole provider, switched on and off while it runs."""

from __future__ import annotations

import asyncio
import random
import time
from enum import StrEnum
from typing import Final

import msgspec


class Mode(StrEnum):
    """What the provider does to calls while the fault lasts."""

    OK = "ok"
    REFUSE = "refuse"  # reset the connection without reading the request
    HANG = "hang"  # accept nothing, answer nothing
    ERROR = "error"  # 503, nothing accepted
    RATE_LIMIT = "rate_limit"  # 429, nothing accepted
    ACCEPT_THEN_HANG = "accept_then_hang"
    ACCEPT_THEN_RESET = "accept_then_reset"
    ACCEPT_THEN_ERROR = "accept_then_error"  # 500 although accepted
    RANDOM = "random"  # one of the others, for a share of the calls


MIX: Final = tuple(mode for mode in Mode if mode not in (Mode.OK, Mode.RANDOM))


class FaultOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for a fault.

    seconds: how long it lasts, in real seconds; until changed when absent. rate: the share of calls it hits.
    sends_only: leaves lookups and the rest of the provider's API alone.
    """

    mode: Mode
    seconds: float | None = None
    rate: float = 1.0
    sends_only: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError("rate must be between 0 and 1")
        if self.seconds is not None and self.seconds < 0:
            raise ValueError("seconds must not be negative")


class Faults:
    """The fault in force, and the calls it keeps waiting."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._order = FaultOrder(Mode.OK)
        self._ends_at: float | None = None
        self._release = asyncio.Event()

    def set(self, order: FaultOrder) -> None:
        self._order = order
        self._ends_at = None if order.seconds is None else time.monotonic() + order.seconds

    def current(self) -> FaultOrder:
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self._order, self._ends_at = FaultOrder(Mode.OK), None
        return self._order

    def seconds_left(self) -> float | None:
        """Real seconds until the fault ends by itself; None when it does not."""
        return None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())

    def draw(self, *, is_send: bool) -> Mode:
        """What shall happen to the call that has just come in."""
        order = self.current()
        if order.mode is Mode.OK or (order.sends_only and not is_send) or self._random.random() >= order.rate:
            return Mode.OK
        return self._random.choice(MIX) if order.mode is Mode.RANDOM else order.mode

    def release(self) -> None:
        """Let every call go that is being kept waiting now."""
        self._release.set()
        self._release = asyncio.Event()

    async def released(self) -> None:
        """Wait for the next release."""
        await self._release.wait()
