"""The smallest provider there can be: answers every POST as Mailgun does, and counts. The far side of the drain.

It parses no more HTTP than it must, so that a benchmark measures the sender. ``python -m app.bench.sink --port N``
prints ``ready`` and serves until it is ended; ``GET /count`` answers how many messages came in.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from typing import cast

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
ACCEPTED = b'{"id":"<sink@sandbox.landed.test>","message":"Queued. Thank you."}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
ANSWER = HEAD % (len(ACCEPTED), ACCEPTED)


class Sink(asyncio.Protocol):
    accepted = 0

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            match = LENGTH.search(head)
            size = end + 4 + (int(match[1]) if match else 0)
            if len(self._buffer) < size:
                return
            self._buffer = self._buffer[size:]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        assert self._transport is not None
        if head.startswith(b"POST "):
            Sink.accepted += 1
            self._transport.write(ANSWER)
        else:
            count = b'{"accepted":%d}' % Sink.accepted
            self._transport.write(HEAD % (len(count), count))


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port)
    print("ready", flush=True)  # noqa: T201 - the parent waits for this line
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
