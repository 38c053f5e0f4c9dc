"""The smallest push gateway there can be: answers every request over HTTP/2 and TLS as APNs does, and counts.

It reads the heads of frames (RFC 9113, 4.1) and nothing that is in them: a request is whatever ends a stream. So no
library's share of the work is measured on this side. Requests are told apart from each other only by their stream, and
each is answered ``200`` with an ``apns-id`` of its own.

``python -m app.bench.sink_h2 --port N --certificate FILE --count-port M`` serves until it is ended; ``FILE`` holds the
certificate and its key. ``GET /`` on the other port, in clear, answers how many requests came in.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import struct
from typing import cast

import uvloop

from app.bench import sink

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = struct.Struct(">HBBBL")  # length (24 bits, in two parts), type, flags, stream
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1

STREAMS_MAX = 1000  # what APNs allows
WINDOW = 2**30  # given to a connection at first, and again once as much of it has been used as below
WINDOW_REFILL = 2**20
# HPACK (RFC 7541): ":status: 200" from the static table, and a literal that no table keeps.
ACCEPTED = b"\x88\x00\x07apns-id\x24" + b"00000000-0000-4000-8000-%012x"
ACCEPTED_BYTES = len(ACCEPTED % 0)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def widen(size: int) -> bytes:
    """Lets the client send so many bytes more on the connection."""
    return frame(WINDOW_UPDATE, 0, 0, size.to_bytes(4, "big"))


HELLO = frame(SETTINGS, 0, 0, struct.pack(">HL", 3, STREAMS_MAX)) + widen(WINDOW)


class Gateway(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = b""
        self._used = 0
        self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.write(HELLO)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._greeted:
            if len(self._buffer) < len(PREFACE):
                return
            self._buffer, self._greeted = self._buffer.removeprefix(PREFACE), True
        answers: list[bytes] = []
        self._buffer = self._buffer[self._read(self._buffer, answers) :]
        if self._used >= WINDOW_REFILL:
            answers.append(widen(self._used))
            self._used = 0
        self._transport.write(b"".join(answers))

    def _read(self, buffer: bytes, answers: list[bytes]) -> int:
        """Answers every frame that is there; returns where the first unfinished one begins."""
        at = 0
        while len(buffer) - at >= HEAD.size:
            high, low, kind, flags, stream = HEAD.unpack_from(buffer, at)
            body, end = at + HEAD.size, at + HEAD.size + (high << 8 | low)
            if end > len(buffer):
                break
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                sink.Sink.accepted += 1
                answers.append(
                    HEAD.pack(0, ACCEPTED_BYTES, HEADERS, END_STREAM | END_HEADERS, stream)
                    + ACCEPTED % sink.Sink.accepted
                )
            elif kind in (SETTINGS, PING) and not flags & ACK:
                answers.append(frame(kind, ACK, 0, buffer[body:end] if kind == PING else b""))
            if kind == DATA:
                self._used += end - body
            at = end
        return at


async def serve(port: int, certificate: str, count_port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Gateway, "127.0.0.1", port, ssl=context, backlog=2048)
    async with server:
        await sink.serve(count_port)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--count-port", type=int, required=True)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.certificate, arguments.count_port))
