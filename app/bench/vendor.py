"""A vendor that has bad days, for whoever measures what those days cost.

``python -m app.bench.vendor --port N`` prints ``ready`` and serves until it is ended. It answers as the other sink does,
until ``PUT /<mood>`` tells it to fail (503) or to hang (it takes each request and never answers). ``GET /`` tells every
call that came, in order: when (Unix seconds), for which delivery where the request names one, and whether it was accepted.
"""

from __future__ import annotations

import argparse
import time
from typing import ClassVar, Literal

import msgspec
import uvloop

from app.bench.sink import DELIVERY, Sink, serve

Mood = Literal["well", "failing", "hanging"]


class Call(msgspec.Struct, array_like=True):
    at: float
    delivery: str | None
    accepted: bool


class Vendor(Sink):
    mood: ClassVar[Mood] = "well"
    calls: ClassVar[list[Call]] = []

    def _answer(self, message: bytes) -> None:
        if message.startswith(b"GET "):
            return self._write(b"200 OK", msgspec.json.encode(self.calls))
        if message.startswith(b"PUT /"):
            Vendor.mood = msgspec.convert(message[5 : message.index(b" ", 5)].decode(), Mood)
            return self._write(b"200 OK", b"{}")
        found = DELIVERY.search(message)
        self.calls.append(Call(time.time(), found[1].decode() if found else None, self.mood == "well"))
        if self.mood == "failing":
            return self._write(b"503 Service Unavailable", b"{}")
        if self.mood == "well":
            super()._answer(message)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port, Vendor))
