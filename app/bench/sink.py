"""The smallest provider there can be, the far side of a drain: answers every POST as Mailgun or Twilio do, and counts.

It parses no more HTTP than it must, so that a benchmark measures the sender. ``python -m app.bench.sink --port N``
prints ``ready`` and serves until it is ended. ``GET /`` answers how many messages came in; with ``--track``, also when
each delivery's first byte did (Unix seconds).
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from typing import ClassVar, cast

import msgspec
import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
DELIVERY = re.compile(rb"v(?:%3A|:)landed_delivery=([0-9a-f-]{36})")
ANSWER = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
MAILGUN = b'{"id":"<sink@sandbox.landed.test>","message":"Queued. Thank you."}'
TWILIO_PATH = b"POST /2010-04-01/"
TWILIO = b'{"sid":"SM%032x","status":"queued"}'


class Sink(asyncio.Protocol):
    accepted = 0
    tracking = False
    arrivals: ClassVar[dict[str, float]] = {}

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            match = LENGTH.search(self._buffer, 0, end + 2)
            size = end + 4 + (int(match[1]) if match else 0)
            if len(self._buffer) < size:
                return
            message, self._buffer = self._buffer[:size], self._buffer[size:]
            self._answer(message)

    def _answer(self, message: bytes) -> None:
        if not message.startswith(b"POST "):
            return self._write(b"200 OK", msgspec.json.encode({"accepted": Sink.accepted, "arrivals": Sink.arrivals}))
        Sink.accepted += 1
        if message.startswith(TWILIO_PATH):
            return self._write(b"201 CREATED", TWILIO % Sink.accepted)
        if Sink.tracking and (match := DELIVERY.search(message)):
            Sink.arrivals.setdefault(match[1].decode(), time.time())
        self._write(b"200 OK", MAILGUN)

    def _write(self, status: bytes, body: bytes) -> None:
        assert self._transport is not None
        self._transport.write(ANSWER % (status, len(body), body))


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port, backlog=2048)
    print("ready", flush=True)  # noqa: T201 - the parent waits for this line
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--track", action="store_true")
    arguments = parser.parse_args()
    Sink.tracking = arguments.track
    uvloop.run(serve(arguments.port))
