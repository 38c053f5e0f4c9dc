"""What the sandbox knows, as a fold over its ledger.

An entry is appended to the ledger, and applying it changes the state. A restarted sandbox applies the same
entries, and so answers the Events API, honours its suppression lists and finishes its scripts as if it had
never stopped. Message bodies are the exception: they may hold secrets, so they live in memory only.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from app.sandbox.ledger import About, Entry, Kind

LISTS = ("bounces", "complaints", "unsubscribes")


class Attachment(msgspec.Struct, frozen=True):
    filename: str
    content_type: str
    size: int


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted message to one recipient. ``message_id`` is without angle brackets."""

    id: str
    message_id: str
    script: str
    recipient: str
    sender: str
    to: str
    subject: str
    domain: str
    accepted_at: float
    size: int
    tags: list[str]
    variables: dict[str, str]
    headers: dict[str, str]
    test_mode: bool = False
    attachments: list[Attachment] = msgspec.field(default_factory=list)

    @property
    def about(self) -> About:
        return About(
            recipient=self.recipient,
            message_id=self.message_id,
            landed_delivery=self.variables.get("landed_delivery"),
            landed_attempt=self.variables.get("landed_attempt"),
        )


class EventData(msgspec.Struct, frozen=True, kw_only=True):
    """The details of an EVENT entry. ``posts`` is how many webhooks it owes; ``payload`` is the wire form."""

    id: str
    message: str
    event: str
    timestamp: float
    posts: int
    severity: str | None = None
    reason: str | None = None
    code: int | None = None
    payload: msgspec.Raw = msgspec.Raw(b"null")


class WebhookData(msgspec.Struct, frozen=True, kw_only=True):
    """The details of a WEBHOOK entry.

    settled: it will not be tried again. forgery: what is wrong with it, where it is not a real event.
    """

    event_id: str
    message: str
    event: str
    attempt: int
    settled: bool
    forgery: str | None = None


class SuppressionData(msgspec.Struct, frozen=True, kw_only=True):
    list: str
    address: str
    removed: bool = False
    code: str | None = None
    error: str | None = None


class Suppression(msgspec.Struct, frozen=True):
    address: str
    created_at: datetime
    code: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class EventRef:
    """Where an event is in the ledger, with the fields that are searched most."""

    seq: int
    timestamp: float
    event: str
    recipient: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Body:
    html: str | None
    text: str | None


@dataclass(slots=True)
class Mail:
    """One message as the mailbox page shows it: what became of it, and each event and webhook on the way."""

    message: Message
    state: str = "accepted"
    body: Body | None = None
    timeline: list[tuple[Entry, EventData | WebhookData]] = field(default_factory=list)


@dataclass(slots=True)
class Progress:
    message: Message
    steps_done: int = 0


class World:
    """The state of the outside world, as far as this sandbox plays it."""

    def __init__(self, mailbox_limit: int) -> None:
        self._mailbox_limit = mailbox_limit
        self.counts: Counter[Kind] = Counter()
        self.accepted_by_delivery: Counter[str] = Counter()
        self.accepted_without_reference = 0
        self.events: list[EventRef] = []
        self.events_by_message_id: dict[str, list[EventRef]] = {}
        self.suppressions: dict[str, dict[str, Suppression]] = {name: {} for name in LISTS}
        self.unfinished: dict[str, Progress] = {}
        self.owed: dict[str, tuple[int, int]] = {}  # event id -> (seq of its entry, posts still to settle)
        self.mailbox: OrderedDict[str, Mail] = OrderedDict()

    def apply(self, entry: Entry) -> None:
        """Take one entry into account."""
        self.counts[entry.kind] += 1
        match entry.kind:
            case Kind.ACCEPTED:
                self._accepted(entry, _message.decode(entry.data))
            case Kind.EVENT:
                self._event(entry, _event.decode(entry.data))
            case Kind.WEBHOOK:
                self._webhook(entry, _webhook.decode(entry.data))
            case Kind.SUPPRESSION:
                self._suppression(entry, _suppression.decode(entry.data))
            case Kind.CLEARED:
                self.mailbox.clear()
            case Kind.CALL | Kind.RESPONSE:
                pass

    def finish(self, message_id: str) -> None:
        """The script of this message has no further step."""
        self.unfinished.pop(message_id, None)

    def list_of(self, address: str) -> str | None:
        """The first suppression list that holds this address."""
        key = address.lower()
        return next((name for name in LISTS if key in self.suppressions[name]), None)

    def newest_first(self) -> Iterator[Mail]:
        return reversed(self.mailbox.values())

    def _accepted(self, entry: Entry, message: Message) -> None:
        if entry.landed_delivery is None:
            self.accepted_without_reference += 1
        else:
            self.accepted_by_delivery[entry.landed_delivery] += 1
        self.unfinished[message.id] = Progress(message)
        self.mailbox[message.id] = Mail(message)
        if len(self.mailbox) > self._mailbox_limit:
            self.mailbox.popitem(last=False)

    def _event(self, entry: Entry, event: EventData) -> None:
        ref = EventRef(entry.seq, event.timestamp, event.event, entry.recipient or "", entry.message_id or "")
        self.events.append(ref)
        self.events_by_message_id.setdefault(ref.message_id, []).append(ref)
        if progress := self.unfinished.get(event.message):
            progress.steps_done += 1
        if event.posts:
            self.owed[event.id] = (entry.seq, event.posts)
        if mail := self.mailbox.get(event.message):
            mail.state = event.severity or event.event
            mail.timeline.append((entry, event))

    def _webhook(self, entry: Entry, webhook: WebhookData) -> None:
        if mail := self.mailbox.get(webhook.message):
            mail.timeline.append((entry, webhook))
        if not webhook.settled or webhook.forgery:
            return
        seq, posts = self.owed.get(webhook.event_id, (0, 0))
        if posts > 1:
            self.owed[webhook.event_id] = (seq, posts - 1)
        else:
            self.owed.pop(webhook.event_id, None)

    def _suppression(self, entry: Entry, change: SuppressionData) -> None:
        addresses = self.suppressions[change.list]
        if change.removed:
            addresses.pop(change.address, None)
        else:
            addresses[change.address] = Suppression(change.address, entry.at, change.code, change.error)


_message = msgspec.json.Decoder(Message)
_event = msgspec.json.Decoder(EventData)
_webhook = msgspec.json.Decoder(WebhookData)
_suppression = msgspec.json.Decoder(SuppressionData)
