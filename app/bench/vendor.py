"""A vendor that has bad days, for whoever measures what those days cost.

``python -m app.bench.vendor --port N --control-port M`` serves until it is ended. It answers as the other sink does,
until ``PUT /<mood>`` at the control port makes it

    failing   every call gets a 503
    hanging   every call is taken and never answered
    dead      nobody listens, and every connection is cut

``GET /`` there tells every call that came, in order: when (Unix seconds), for which delivery where the request names
one, and whether it was accepted.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import ClassVar, Final, Literal

import msgspec
import uvloop

from app.bench.sink import DELIVERY, Sink

HOST: Final = "127.0.0.1"
Mood = Literal["well", "failing", "hanging", "dead"]


class Call(msgspec.Struct, array_like=True):
    at: float
    delivery: str | None
    accepted: bool


class Vendor(Sink):
    mood: ClassVar[Mood] = "well"
    calls: ClassVar[list[Call]] = []
    connected: ClassVar[set[Vendor]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.connected.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connected.discard(self)

    def cut(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def _answer(self, message: bytes) -> None:
        if not message.startswith(b"POST "):
            return self._write(b"404 Not Found", b"{}")  # it cannot be asked what became of a message
        found = DELIVERY.search(message)
        self.calls.append(Call(time.time(), found[1].decode() if found else None, self.mood == "well"))
        if self.mood == "failing":
            self._write(b"503 Service Unavailable", b"{}")
        elif self.mood == "well":
            super()._answer(message)


class Control(Sink):
    """Listens for it while it is well, and not while it is dead."""

    port: ClassVar[int]
    server: ClassVar[asyncio.Server | None] = None

    @classmethod
    async def turn(cls, mood: Mood) -> None:
        Vendor.mood = mood
        if mood == "dead" and cls.server is not None:
            cls.server.close()
            cls.server = None
            for connection in list(Vendor.connected):
                connection.cut()
        elif mood != "dead" and cls.server is None:
            loop = asyncio.get_running_loop()
            cls.server = await loop.create_server(Vendor, HOST, cls.port, backlog=2048, reuse_address=True)

    def _answer(self, message: bytes) -> None:
        if message.startswith(b"GET "):
            return self._write(b"200 OK", msgspec.json.encode(Vendor.calls))
        mood = msgspec.convert(message[len(b"PUT /") : message.index(b" ", len(b"PUT /"))].decode(), Mood)
        turned = asyncio.get_running_loop().create_task(self.turn(mood))
        turned.add_done_callback(lambda _: self._write(b"200 OK", b"{}"))


async def _serve(port: int, control_port: int) -> None:
    Control.port = port
    await Control.turn("well")
    control = await asyncio.get_running_loop().create_server(Control, HOST, control_port)
    await control.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--control-port", type=int, required=True)
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, arguments.control_port))
