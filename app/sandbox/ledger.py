"""The append-only record of everything the outside world saw.

One JSON object a line. A line is handed to the operating system before the sandbox answers or acts, so a
killed sandbox has forgotten nothing it told anyone. Memory holds only where each line starts; what an entry
means for the sandbox's state is a fold over the lines (``world``), which a restart repeats.
"""

from __future__ import annotations

import fcntl
import os
from array import array
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec


class LedgerError(Exception):
    """The ledger cannot be used"""


class Kind(StrEnum):
    """What an entry records."""

    CALL = "call"  # a provider endpoint was called
    ACCEPTED = "accepted"  # one message to one recipient was taken on: the outside world will see it
    RESPONSE = "response"  # what the caller was told; status null when it was told nothing
    EVENT = "event"  # something happened to a message
    WEBHOOK = "webhook"  # one post of one event and how it was answered
    SUPPRESSION = "suppression"  # an address joined or left a suppression list
    SUBSCRIPTION = "subscription"  # the receiver was asked to confirm that it wants webhooks, or has confirmed it
    CLEARED = "cleared"  # the mailbox page was emptied


class About(msgspec.Struct, frozen=True):
    """Which message of which provider an entry is about."""

    provider: str | None = None
    recipient: str | None = None
    message_id: str | None = None
    landed_delivery: str | None = None
    landed_attempt: str | None = None


NOTHING = About()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the ledger.

    accepted: true on exactly one entry per message and recipient, so counting them counts what was sent.
    call: the seq of the call this entry answers or follows from.
    provider: whose protocol it was; null in ledgers from when there was Mailgun alone.
    landed_delivery, landed_attempt: the sender's own ids, from wherever the protocol carries them.
    data: the kind's own details; never a key and never a message body.
    """

    seq: int
    at: datetime
    kind: Kind
    call: int | None = None
    method: str | None = None
    path: str | None = None
    status: int | None = None
    provider: str | None = None
    recipient: str | None = None
    message_id: str | None = None
    landed_delivery: str | None = None
    landed_attempt: str | None = None
    accepted: bool = False
    note: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


_decoder = msgspec.json.Decoder(Entry)
_encoder = msgspec.json.Encoder()


class Ledger:
    """The file, opened for appending by one process at a time."""

    def __init__(self, path: Path, on_entry: Callable[[Entry], None]) -> None:
        """Open or create ``path`` and hand every entry in it, and every later one, to ``on_entry``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._starts = array("Q", [0])
        self._on_entry = on_entry
        self._lock(path)
        self._reload(path)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(
        self,
        kind: Kind,
        *,
        about: About = NOTHING,
        call: int | None = None,
        method: str | None = None,
        path: str | None = None,
        status: int | None = None,
        accepted: bool = False,
        note: str | None = None,
        data: object = None,
    ) -> Entry:
        """Write one entry; on return the operating system has it."""
        entry = Entry(
            seq=len(self) + 1,
            at=datetime.now(UTC),
            kind=kind,
            call=call,
            method=method,
            path=path,
            status=status,
            provider=about.provider,
            recipient=about.recipient,
            message_id=about.message_id,
            landed_delivery=about.landed_delivery,
            landed_attempt=about.landed_attempt,
            accepted=accepted,
            note=note,
            data=msgspec.Raw(_encoder.encode(data)),
        )
        self._write(_encoder.encode(entry) + b"\n")
        self._on_entry(entry)
        return entry

    def read(self, seq: int) -> Entry:
        """One entry by its number, counted from 1."""
        return _decoder.decode(self.read_lines(seq, 1)[0])

    def entries(self, since: int = 0) -> Iterator[tuple[Entry, bytes]]:
        """Every entry after ``since`` in order, with its line as written."""
        for first in range(since + 1, len(self) + 1, 1000):
            for line in self.read_lines(first, 1000):
                yield _decoder.decode(line), line

    def read_lines(self, first: int, count: int) -> list[bytes]:
        """Up to ``count`` lines from entry ``first`` on."""
        last = min(first - 1 + count, len(self))
        start, end = self._starts[first - 1], self._starts[last]
        return os.pread(self._file, end - start, start).splitlines()

    def close(self) -> None:
        os.close(self._file)

    def _write(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written != len(line):
            # A full disk. The torn line goes, and the caller gets no answer that the ledger does not hold.
            os.ftruncate(self._file, self._starts[-1])
            raise LedgerError(f"only {written} of {len(line)} bytes of a ledger entry were written")
        self._starts.append(self._starts[-1] + len(line))

    def _lock(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(self._file)
            raise LedgerError(f"another sandbox is writing {path}") from exc

    def _reload(self, path: Path) -> None:
        with path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    # Killed in the middle of a line: nobody was told anything on the strength of it.
                    os.ftruncate(self._file, self._starts[-1])
                    break
                self._starts.append(self._starts[-1] + len(line))
                self._on_entry(_decoder.decode(line))
