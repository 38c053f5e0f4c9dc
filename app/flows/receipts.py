"""receipts: what devices and mail readers say of a message, with the token that came in it. Stored once, like a
provider's webhook; applying it is the worker's work.

A campaign's receipts come all at once, so those that arrive together are committed together.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlsplit

from app.db import Database
from app.domain.models import Evidence, EvidenceKind
from app.domain.tokens import SentAttempt, TrackedLink
from app.errors import Unavailable
from app.flows.group_commit import Acceptor
from app.settings import Settings
from app.store import devices
from app.store import inbound as store

DEVICE = "device"  # who tells, and how we know: flows.apply matches it by the attempt that the token names (I10)
GROUP_MAX = 500  # receipts in one commit; each has at most two facts
QUEUE_MAX = 4000  # about a second of work; beyond it a device is told to come again
LATELY_MAX = 20_000  # facts of the last minutes by their key: who repeats themselves costs no statement
AGENT_CHARS_MAX = 300
DAY_SECONDS = 86400

# Programs that fetch what is in a message before, or instead of, a person. Apple's mail privacy proxy says no more than
# "Mozilla/5.0" of itself; the image proxies of Gmail and Yahoo fetch for a person who opens the message.
MACHINE = re.compile(
    r"(?<!\bcu)bot\b|crawl|spider|slurp|prefetch|preview|scan|monitor|headless|python|curl|wget|java/|go-http|axios"
    r"|libwww|facebookexternalhit|barracuda|mimecast|proofpoint|^Mozilla/5\.0$",
    re.IGNORECASE,
)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class ReceiptEvent(StrEnum):
    """What a device may say of a push (R-109)."""

    RECEIVED = "received"
    OPENED = "opened"
    DISMISSED = "dismissed"


# Whatever becomes of a push on the device, it had come.
PROVES = {
    ReceiptEvent.RECEIVED: (EvidenceKind.DELIVERED,),
    ReceiptEvent.OPENED: (EvidenceKind.DELIVERED, EvidenceKind.OPENED),
    ReceiptEvent.DISMISSED: (EvidenceKind.DELIVERED, EvidenceKind.DISMISSED),
}


def of_push(attempt: SentAttempt, event: ReceiptEvent, now: datetime) -> tuple[Evidence, ...]:
    """The facts in a receipt. Their keys say nothing of the time, so one shown again is still the same (I16)."""
    return tuple(_evidence(kind, attempt, now) for kind in PROVES[event])


def of_open(attempt: SentAttempt, now: datetime, *, user_agent: str, machine: bool) -> tuple[Evidence, ...]:
    """An open is told once a day, for people and for machines."""
    who = _who(user_agent, machine)
    return (_evidence(EvidenceKind.OPENED, attempt, now, f"{_name(who)}:{now:%Y-%m-%d}", **who),)


def of_click(link: TrackedLink, now: datetime, *, user_agent: str, machine: bool) -> tuple[Evidence, ...]:
    """A click is told once a day for each link, for people and for machines. Of the URL only the host is kept: the rest
    may hold what is nobody's business."""
    who = _who(user_agent, machine)
    digest = hashlib.sha256(link.url.encode()).hexdigest()[:16]
    host = urlsplit(link.url).hostname
    detail = f"{digest}:{_name(who)}:{now:%Y-%m-%d}"
    return (_evidence(EvidenceKind.CLICKED, link.attempt, now, detail, host=host, **who),)


def _evidence(kind: EvidenceKind, attempt: SentAttempt, now: datetime, detail: str = "", **data: object) -> Evidence:
    key = f"{attempt.delivery_id}:{attempt.attempt_no}:{kind}"
    return Evidence(
        kind=kind,
        event_key=f"{key}:{detail}" if detail else key,
        occurred_at=now,
        delivery_id=attempt.delivery_id,
        attempt_no=attempt.attempt_no,
        data=data,
    )


def _who(user_agent: str, machine: bool) -> dict[str, object]:
    agent = CONTROL.sub(" ", user_agent).strip()[:AGENT_CHARS_MAX]
    return {"user_agent": agent, "machine": machine or MACHINE.search(agent) is not None}


def _name(who: dict[str, object]) -> str:
    return "machine" if who["machine"] else "person"


class Receipts:
    """Takes in what is told, and answers when it is durably stored."""

    def __init__(self, db: Database, settings: Settings, *, committed: Callable[[], None]) -> None:
        """committed: called after each group, to wake whoever applies it."""
        self._db = db
        self._days = math.ceil(settings.times.evidence_window_seconds / DAY_SECONDS)
        self._lately: dict[str, None] = {}
        self._acceptor: Acceptor[Sequence[Evidence], None] = Acceptor(
            self._store,
            identity=lambda _: None,
            committed=committed,
            group_max=GROUP_MAX,
            queue_max=QUEUE_MAX,
            budget_seconds=settings.times.request_budget_seconds,
        )

    async def tell(self, facts: Sequence[Evidence]) -> None:
        """Returns when they are stored, now or before. Raises Unavailable when that is not known: tell them again.

        Whoever stops waiting has not taken them back: they are stored as soon as that can be done.
        """
        if all(fact.event_key in self._lately for fact in facts):
            return
        try:
            await self._acceptor.accept(facts)
        except Unavailable as error:
            # The acceptor speaks of idempotency keys, which nobody has here.
            raise Unavailable("this could not be stored just now: tell it again", retry_after_seconds=1) from error
        self._remember(fact.event_key for fact in facts)

    async def close(self) -> None:
        """Waits for what is under way."""
        await self._acceptor.close()

    async def _store(self, told: Sequence[Sequence[Evidence]]) -> Sequence[None]:
        """Stores a group. In the order of the keys, so that two groups which share some wait for each other."""
        facts = {fact.event_key: fact for facts in told for fact in facts}
        async with self._db.transaction(durable=True) as conn:
            known = await devices.told(conn, provider=DEVICE, keys=list(facts), days=self._days)
            new = [facts[key] for key in sorted(facts.keys() - known)]
            await store.store_events(conn, provider=DEVICE, source=DEVICE, evidence=new, raw=b"")
        return [None] * len(told)

    def _remember(self, keys: Iterable[str]) -> None:
        if len(self._lately) >= LATELY_MAX:
            self._lately.clear()
        self._lately.update(dict.fromkeys(keys))
