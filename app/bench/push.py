"""How fast requests go out over HTTP/2, with nothing before or behind them: our transport against httpx.

The requests are the APNs adapter's own, built beforehand and the same for both; so many callers wait for an answer
each. Both run in this process, on the loop the worker uses, and call the far side that the drain of pushes calls.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import uvloop

from app.bench import lines, stage
from app.domain.models import NotificationClass, Platform
from app.providers.base import Device, ProviderRequest, PushMessage, SendContext
from app.providers.http2 import Http2Transport
from app.providers.registry import make_provider

Send = Callable[[ProviderRequest], Awaitable[int]]
"""Makes the call and answers its status."""


@dataclass(frozen=True, slots=True)
class Carried:
    """cpu_us: of this process, for one request."""

    requests: int
    seconds: float
    cpu_us: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Transports:
    ours: list[Carried]
    httpx: list[Carried]


def measure(*, requests: int, streams: int, rounds: int) -> Transports:
    """Rounds alternate, so that what else the machine does meets both."""
    return uvloop.run(_measure(requests, streams, rounds))


async def _measure(requests: int, streams: int, rounds: int) -> Transports:
    measured = Transports([], [])
    async with stage.http2() as far:
        pushes = _pushes(far, requests)
        async with _ours() as ours, _httpx(far) as theirs:
            for _ in range(rounds):
                measured.ours.append(await _drive(ours, pushes, streams))
                measured.httpx.append(await _drive(theirs, pushes[: max(streams, requests // 4)], streams))
    return measured


@asynccontextmanager
async def _ours() -> AsyncIterator[Send]:
    loop = asyncio.get_running_loop()
    async with Http2Transport() as transport:

        async def send(request: ProviderRequest) -> int:
            return (await transport.send(request, loop.time() + lines.TIMEOUT_SECONDS)).status

        yield send


@asynccontextmanager
async def _httpx(far: stage.FarSide) -> AsyncIterator[Send]:
    trust = ssl.create_default_context(cafile=far.trust)
    async with httpx.AsyncClient(http2=True, verify=trust, timeout=lines.TIMEOUT_SECONDS) as client:

        async def send(request: ProviderRequest) -> int:
            return (await client.post(request.url, headers=dict(request.headers), content=request.body)).status_code

        yield send


async def _drive(send: Send, requests: Sequence[ProviderRequest], streams: int) -> Carried:
    """All of them, ``streams`` at a time. The first goes alone: connecting is not what is measured."""
    left = iter(requests)

    async def caller() -> None:
        for request in left:
            if (status := await send(request)) != 200:
                raise RuntimeError(f"the far side answered {status}")

    await send(requests[0])
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(streams)))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Carried(len(requests), seconds, cpu / len(requests) * 1e6)


def _pushes(far: stage.FarSide, count: int) -> list[ProviderRequest]:
    """The APNs adapter's requests, each to a device of its own."""
    apns, now = make_provider("apns", lines.Push(far).account()), datetime.now(UTC)
    built = (apns.build(_message(n, now), SendContext(now, "apns")) for n in range(count))
    return [request for request in built if isinstance(request, ProviderRequest)]


def _message(n: int, now: datetime) -> PushMessage:
    device = Device(uuid4(), Platform.IOS, f"{n:064x}")
    return PushMessage(
        delivery_id=uuid4(),
        attempt_no=1,
        notification_id=uuid4(),
        tenant="bench",
        category="transactional",
        klass=NotificationClass.TRANSACTIONAL,
        to=str(device.id),
        expires_at=now + timedelta(days=1),
        device=device,
        title=f"Order {n}",
        body=f"Hello Ann, order {n} is on its way.",
        url=f"https://example.com/orders/{n}",
        data={"order": str(n)},
        receipt_token="a" * 64,
        receipt_url="https://landed.example.com/api/v1/receipts",
    )
