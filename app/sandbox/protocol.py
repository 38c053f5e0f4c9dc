"""What a wire protocol is to the sandbox: the one class that a provider's folder or file writes.

The sandbox keeps the ledger, the faults, the scripts and the queue of webhooks. A protocol reads its vendor's
requests, writes its vendor's answers, events and webhooks, and decides nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final

from app.sandbox.ledger import About
from app.sandbox.scripting import Book, Script, Step
from app.sandbox.world import Message

if TYPE_CHECKING:
    import msgspec
    from litestar.types import ControllerRouterHandler

    from app.sandbox.runtime import Sandbox


class Forgery(StrEnum):
    """Ways in which a post is not what it claims to be."""

    REPLAYED = "replayed"  # under the signature of a genuine post
    BAD_SIGNATURE = "bad_signature"
    STALE = "stale"  # signed correctly, two days ago
    FOREIGN = "foreign"  # signed correctly, for somebody else's account


#: Older than any retry a vendor could make, so no receiver should believe it.
STALE_SECONDS: Final = 2 * 86_400


@dataclass(frozen=True, slots=True)
class Happening:
    """One step of one message as it takes place.

    event_id: unique. timestamp: Unix seconds. attempt_no: counts the steps before it, from 1. base_url: the sandbox's.
    """

    event_id: str
    timestamp: float
    attempt_no: int
    base_url: str


@dataclass(slots=True)
class Posting:
    """One event to be posted once, with as many tries as that takes.

    url: where to. payload: what ``Protocol.payload`` said. replays: the genuine posting whose signature a replayed
    forgery steals. signed: the protocol's own note of what it signed with at the last try.
    """

    provider: str
    event_id: str
    event: str
    message: str
    about: About
    payload: msgspec.Raw
    url: str
    forgery: Forgery | None = None
    replays: Posting | None = None
    tries: int = 0
    signed: Any = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A webhook as it goes over the wire. ``url`` replaces the posting's where given."""

    headers: Mapping[str, str]
    body: bytes
    url: str | None = None
    method: str = "POST"


class Protocol:
    """One provider's wire protocol; ``HttpProtocol`` is the one for providers that are called over HTTP.

    name: the provider's, on the ledger and at the end of its webhook URL. channel: email, sms, push, endpoint.
    settings_type: a frozen dataclass of ``config.setting`` fields. option_prefix: put before their names on the
    command line; the provider's name and a hyphen when None.
    scripts: its book. instead: scripts of the book that this vendor can only play in its own way, by their name.
    on_list: what a send to a recipient on a suppression list comes to, by the list's name.
    forgeries: the lies that a receiver of its webhooks must catch.
    retry_seconds: waits between the tries of one webhook. never_retried: events that get one try.
    webhook_timeout_seconds: how long a receiver may take. batch_seconds: events are gathered for so long (scaled) and
    posted together; 0 posts each on its own.
    """

    name: ClassVar[str]
    channel: ClassVar[str]
    settings_type: ClassVar[type]
    option_prefix: ClassVar[str | None] = None
    scripts: ClassVar[Book]
    instead: ClassVar[Mapping[str, Script]] = {}
    on_list: ClassVar[Mapping[str, Script]] = {}
    forgeries: ClassVar[Sequence[Forgery]] = ()
    retry_seconds: ClassVar[Sequence[float]] = ()
    never_retried: ClassVar[frozenset[str]] = frozenset()
    webhook_timeout_seconds: ClassVar[float] = 15.0
    batch_seconds: ClassVar[float] = 0.0

    def __init__(self, sandbox: Sandbox, settings: Any) -> None:
        self.sandbox = sandbox
        self.settings = settings

    def handlers(self) -> Sequence[ControllerRouterHandler]:
        """What it adds to the sandbox's HTTP server."""
        return ()

    async def start(self) -> None:
        """Open listeners, ask for subscriptions. The ledger is open and the webhook sender runs."""

    async def stop(self) -> None:
        """Close what ``start`` opened."""

    def script_for(self, recipient: str) -> Script:
        """The script a recipient asks for, as this vendor plays it."""
        script = self.scripts.script_for(recipient, self.name)
        return self.instead.get(script.name, script)

    def script_named(self, name: str) -> Script:
        """A script by the name the ledger remembers."""
        own = (script for script in (*self.instead.values(), *self.on_list.values()) if script.name == name)
        return next(own, self.scripts.script_named(name))

    def taken(self, message: Message) -> None:
        """A message was taken on, and is on the ledger; its script is about to begin."""

    # Events and their webhooks ---------------------------------------------------------------------------------------

    def payload(self, message: Message, step: Step, happening: Happening) -> object | None:
        """The vendor's event for this step, anything JSON can hold; None when the vendor has no word for it."""
        return None

    def is_posted(self, message: Message, step: Step) -> bool:
        """Whether the vendor posts this event, rather than only answer for it when asked."""
        return True

    def callback(self, message: Message, step: Step) -> str | None:
        """Where this event goes instead of the provider's webhook URL."""
        return message.callback

    def outgoing(self, postings: Sequence[Posting]) -> Outgoing:
        """One try of these events, signed now; a single one unless ``batch_seconds`` is set."""
        raise NotImplementedError

    def is_settled(self, status: int | None) -> bool:
        """Whether the vendor takes this answer for an end of the matter; None is no answer."""
        return status is not None and 200 <= status < 300

    def settles(self, posting: Posting, status: int | None) -> bool:
        """``is_settled`` for vendors whom a webhook's own URL tells when to try again."""
        return self.is_settled(status)

    def waits(self, posting: Posting) -> Sequence[float]:
        """Seconds between the tries of this webhook, at speed 1; none when it gets one try."""
        return () if posting.event in self.never_retried else self.retry_seconds

    def may_post(self, posting: Posting) -> bool:
        """False keeps a post waiting until ``WebhookSender.resume`` is called, as before a confirmed subscription."""
        return True
