"""What the sandbox knows, as a fold over its ledger.

An entry is appended to the ledger, and applying it changes the state. A restarted sandbox applies the same
entries, and so answers the Events API, honours its suppression lists and finishes its scripts as if it had
never stopped. Message bodies are the exception: they may hold secrets, so they live in memory only.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from app.sandbox.ledger import About, Entry, Kind

#: Whose an entry is that does not say so: it was written when there was no other provider.
FIRST_PROVIDER = "mailgun"


class Attachment(msgspec.Struct, frozen=True):
    filename: str
    content_type: str
    size: int


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted message to one recipient.

    id: the sandbox's own. message_id: the provider's, as it answered it (an email's without angle brackets).
    script: set when the message is taken on. title: an email's is its subject, a push's its title.
    landed_delivery, landed_attempt: the sender's own ids, from wherever the protocol carries them.
    callback: where the message itself asked its events to be posted. details: whatever else the protocol wants to
    know again when it writes events; no body and no secret.
    """

    id: str
    provider: str = FIRST_PROVIDER
    channel: str = "email"
    message_id: str
    script: str = ""
    recipient: str
    sender: str = ""
    to: str = ""
    title: str = msgspec.field(default="", name="subject")
    domain: str = ""
    accepted_at: float
    size: int = 0
    tags: list[str] = msgspec.field(default_factory=list)
    variables: dict[str, str] = msgspec.field(default_factory=dict)
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    test_mode: bool = False
    attachments: list[Attachment] = msgspec.field(default_factory=list)
    landed_delivery: str | None = None
    landed_attempt: str | None = None
    callback: str | None = None
    details: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def about(self) -> About:
        return About(
            provider=self.provider,
            recipient=self.recipient,
            message_id=self.message_id,
            landed_delivery=self.landed_delivery or self.variables.get("landed_delivery"),
            landed_attempt=self.landed_attempt or self.variables.get("landed_attempt"),
        )


class EventData(msgspec.Struct, frozen=True, kw_only=True):
    """The details of an EVENT entry.

    posts: how many webhooks it owes. callback: where they go, if not to the provider's webhook URL.
    payload: the vendor's words for it; null when the vendor has none. scripted: it is a step of the message's script.
    """

    id: str
    message: str
    event: str
    timestamp: float
    posts: int
    severity: str | None = None
    reason: str | None = None
    code: int | None = None
    callback: str | None = None
    payload: msgspec.Raw = msgspec.Raw(b"null")
    scripted: bool = True


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


class SubscriptionData(msgspec.Struct, frozen=True, kw_only=True):
    """The details of a SUBSCRIPTION entry: whether ``url`` is now known to want webhooks."""

    url: str
    confirmed: bool


@dataclass(frozen=True, slots=True)
class EventRef:
    """Where an event is in the ledger, with the fields that are searched most."""

    seq: int
    timestamp: float
    event: str
    recipient: str
    message_id: str


@dataclass(frozen=True, slots=True)
class MessageRef:
    """Where an accepted message is in the ledger, with the fields that are searched most."""

    seq: int
    accepted_at: float
    recipient: str
    message_id: str
    landed_delivery: str | None


@dataclass(frozen=True, slots=True)
class Body:
    """What the mailbox page shows of a message's content; never on the ledger."""

    html: str | None = None
    text: str | None = None


@dataclass(slots=True)
class Mail:
    """One message as the mailbox page shows it: what became of it, and each event and webhook on the way."""

    message: Message
    state: str = "accepted"
    body: Body | None = None
    timeline: list[tuple[Entry, EventData | WebhookData]] = field(default_factory=list)


@dataclass(slots=True)
class Progress:
    """How far a message is in its script. posted: events among ``steps_done`` that were for the webhooks."""

    message: Message
    steps_done: int = 0
    posted: int = 0


@dataclass(slots=True)
class Account:
    """What one provider knows: its messages and events in order, and its suppression lists by name."""

    messages: list[MessageRef] = field(default_factory=list)
    events: list[EventRef] = field(default_factory=list)
    events_by_message_id: dict[str, list[EventRef]] = field(default_factory=dict)
    messages_by_message_id: dict[str, list[MessageRef]] = field(default_factory=dict)
    messages_by_recipient: dict[str, list[MessageRef]] = field(default_factory=dict)
    suppressions: dict[str, dict[str, Suppression]] = field(default_factory=lambda: defaultdict(dict))
    confirmed: set[str] = field(default_factory=set)

    def list_of(self, recipient: str) -> str | None:
        """The first suppression list that holds this recipient."""
        key = recipient.lower()
        return next((name for name, recipients in self.suppressions.items() if key in recipients), None)

    def messages_to(self, recipient: str) -> list[MessageRef]:
        return self.messages_by_recipient.get(recipient.lower(), [])


class World:
    """The state of the outside world, as far as this sandbox plays it."""

    def __init__(self, mailbox_limit: int) -> None:
        self._mailbox_limit = mailbox_limit
        self.counts: Counter[Kind] = Counter()
        self.accepted_by_delivery: Counter[str] = Counter()
        self.accepted_without_reference = 0
        self.unfinished: dict[str, Progress] = {}
        self.owed: dict[str, tuple[int, int]] = {}  # event id -> (seq of its entry, posts still to settle)
        self.mailbox: OrderedDict[str, Mail] = OrderedDict()
        self._accounts: dict[str, Account] = defaultdict(Account)

    def account(self, provider: str) -> Account:
        """What this provider knows."""
        return self._accounts[provider]

    @property
    def accepted_by_provider(self) -> Mapping[str, int]:
        return {name: len(account.messages) for name, account in self._accounts.items() if account.messages}

    def apply(self, entry: Entry) -> None:
        """Take one entry into account."""
        self.counts[entry.kind] += 1
        account = self._accounts[entry.provider or FIRST_PROVIDER]
        match entry.kind:
            case Kind.ACCEPTED:
                self._accepted(account, entry, _message.decode(entry.data))
            case Kind.EVENT:
                self._event(account, entry, _event.decode(entry.data))
            case Kind.WEBHOOK:
                self._webhook(entry, _webhook.decode(entry.data))
            case Kind.SUPPRESSION:
                _suppress(account, entry, _suppression.decode(entry.data))
            case Kind.SUBSCRIPTION:
                _subscribe(account, _subscription.decode(entry.data))
            case Kind.CLEARED:
                self.mailbox.clear()
            case Kind.CALL | Kind.RESPONSE:
                pass

    def finish(self, message_id: str) -> None:
        """The script of this message has no further step."""
        self.unfinished.pop(message_id, None)

    def newest_first(self) -> Iterator[Mail]:
        return reversed(self.mailbox.values())

    def _accepted(self, account: Account, entry: Entry, message: Message) -> None:
        if entry.landed_delivery is None:
            self.accepted_without_reference += 1
        else:
            self.accepted_by_delivery[entry.landed_delivery] += 1
        ref = MessageRef(entry.seq, message.accepted_at, message.recipient, message.message_id, entry.landed_delivery)
        account.messages.append(ref)
        account.messages_by_message_id.setdefault(ref.message_id, []).append(ref)
        account.messages_by_recipient.setdefault(ref.recipient.lower(), []).append(ref)
        self.unfinished[message.id] = Progress(message)
        self.mailbox[message.id] = Mail(message)
        if len(self.mailbox) > self._mailbox_limit:
            self.mailbox.popitem(last=False)

    def _event(self, account: Account, entry: Entry, event: EventData) -> None:
        ref = EventRef(entry.seq, event.timestamp, event.event, entry.recipient or "", entry.message_id or "")
        account.events.append(ref)
        account.events_by_message_id.setdefault(ref.message_id, []).append(ref)
        if event.scripted and (progress := self.unfinished.get(event.message)):
            progress.steps_done += 1
            progress.posted += event.posts > 0
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


def _suppress(account: Account, entry: Entry, change: SuppressionData) -> None:
    recipients = account.suppressions[change.list]
    if change.removed:
        recipients.pop(change.address, None)
    else:
        recipients[change.address] = Suppression(change.address, entry.at, change.code, change.error)


def _subscribe(account: Account, change: SubscriptionData) -> None:
    if change.confirmed:
        account.confirmed.add(change.url)
    else:
        account.confirmed.discard(change.url)


_message = msgspec.json.Decoder(Message)
_event = msgspec.json.Decoder(EventData)
_webhook = msgspec.json.Decoder(WebhookData)
_suppression = msgspec.json.Decoder(SuppressionData)
_subscription = msgspec.json.Decoder(SubscriptionData)
