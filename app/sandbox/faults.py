"""Faults of one provider or of all of them, switched on and off while the sandbox runs."""

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
    UNAUTHORIZED = "unauthorized"  # the account is refused, nothing accepted
    ACCEPT_THEN_HANG = "accept_then_hang"
    ACCEPT_THEN_RESET = "accept_then_reset"
    ACCEPT_THEN_ERROR = "accept_then_error"  # 500 although accepted
    RANDOM = "random"  # one of the others, for a share of the calls


# An account is not refused now and then: that is no part of the mix.
MIX: Final = tuple(mode for mode in Mode if mode not in (Mode.OK, Mode.UNAUTHORIZED, Mode.RANDOM))


class FaultOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for a fault.

    seconds: how long it lasts, in real seconds; until changed when absent. rate: the share of calls it hits.
    sends_only: leaves lookups and the rest of the provider's API alone.
    provider: whom it befalls; everyone when absent.
    """

    mode: Mode
    seconds: float | None = None
    rate: float = 1.0
    sends_only: bool = False
    provider: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError("rate must be between 0 and 1")
        if self.seconds is not None and self.seconds < 0:
            raise ValueError("seconds must not be negative")


class _Running:
    """An order and the moment it ends."""

    def __init__(self, order: FaultOrder) -> None:
        self.order = order
        self._ends_at = None if order.seconds is None else time.monotonic() + order.seconds

    def is_over(self) -> bool:
        return self._ends_at is not None and time.monotonic() >= self._ends_at

    def seconds_left(self) -> float | None:
        return None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())


class Faults:
    """The faults in force, and the calls they keep waiting. The newest order that concerns a provider counts."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._orders: dict[str | None, _Running] = {}
        self._release = asyncio.Event()

    def set(self, order: FaultOrder) -> None:
        if order.provider is None:
            self._orders.clear()
        self._orders[order.provider] = _Running(order)

    def current(self, provider: str | None = None) -> FaultOrder:
        """What this provider suffers from; without one, what all suffer from that have no order of their own."""
        running = self._orders.get(provider) or self._orders.get(None)
        return running.order if running and not running.is_over() else FaultOrder(Mode.OK)

    def in_force(self) -> list[FaultOrder]:
        """Every fault there is, that of everybody first."""
        running = [found for found in self._orders.values() if not found.is_over() and found.order.mode is not Mode.OK]
        return sorted((found.order for found in running), key=lambda order: order.provider or "")

    def of_one_provider(self) -> dict[str, FaultOrder]:
        """The orders that concern a single provider."""
        return {name: self.current(name) for name in self._orders if name is not None}

    def seconds_left(self, provider: str | None = None) -> float | None:
        """Real seconds until the fault ends by itself; None when it does not."""
        running = self._orders.get(provider) or self._orders.get(None)
        return running.seconds_left() if running and not running.is_over() else None

    def draw(self, provider: str, *, is_send: bool) -> Mode:
        """What shall happen to the call that has just come in."""
        order = self.current(provider)
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
