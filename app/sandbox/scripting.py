"""What a script is: what the caller gets to see, and what happens to the message afterwards.

The words are the sandbox's own. Each protocol says them in its vendor's, or leaves them out where the vendor has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

SLOW_ANSWER_SECONDS: Final = 3.0
RATE_LIMIT_SECONDS: Final = 60.0


class Answer(StrEnum):
    """What the caller of the send endpoint gets to see."""

    ACCEPT = "accept"
    ACCEPT_SLOWLY = "accept_slowly"
    ACCEPT_THEN_HANG = "accept_then_hang"
    ACCEPT_THEN_RESET = "accept_then_reset"
    ACCEPT_THEN_ERROR = "accept_then_error"
    HANG = "hang"


class Posts(StrEnum):
    """How the webhooks of a message travel."""

    NORMAL = "normal"
    NEVER = "never"
    THRICE = "thrice"
    REVERSED = "reversed"
    WITH_FORGERIES = "with_forgeries"


class Reason(StrEnum):
    """Why a call is refused, as far as every protocol knows; a protocol may have reasons of its own beside these.

    The first four are also what a fault of the whole provider looks like, so every protocol must know them.
    """

    RATE_LIMITED = "rate_limited"  # 429
    UNAVAILABLE = "unavailable"  # 503, nothing accepted
    BROKEN = "broken"  # 500 although accepted
    UNAUTHORIZED = "unauthorized"  # the account is refused
    SENDER_REFUSED = "sender_refused"
    INVALID_RECIPIENT = "invalid_recipient"
    CONTENT_REFUSED = "content_refused"
    WRONG_RESPONSE = "wrong_response"  # success, with a body no API would give
    SUPPRESSED = "suppressed"  # the recipient is on one of the vendor's lists


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a message failed.

    severity: ``temporary`` or ``permanent``. reason: one word. code: the vendor's or an SMTP code. delayed: the
    failure came after the message had been delivered.
    """

    severity: str
    reason: str
    code: int
    enhanced_code: str = ""
    message: str = ""
    bounce_type: str = ""
    delayed: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One event, ``after`` seconds after the one before.

    suppresses: the list its recipient joins. relieves: the list its recipient leaves.
    text: what a person answered, for channels where people can.
    """

    event: str
    after: float = 0.0
    failure: Failure | None = None
    suppresses: str | None = None
    relieves: str | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that is not accepted: the first ``times`` calls for a recipient, or every call when None.

    reason: a ``Reason``, or a word of the protocol's own; it goes to ``Protocol.refused``.
    """

    reason: str
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """One scripted recipient: what it does in words, what the caller gets, and what happens to the message.

    at: the protocols that play it; all that use its book when empty. asked_by: the recipient that asks for it, where
    that is not the name.
    """

    name: str
    does: str
    answer: Answer = Answer.ACCEPT
    steps: tuple[Step, ...] = ()
    posts: Posts = Posts.NORMAL
    refusal: Refusal | None = None
    at: frozenset[str] = frozenset()
    asked_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """The scripts of one channel.

    title, lead: how the mailbox page introduces them. key: finds a script's name in a recipient. default: what any
    other recipient gets. groups: by what the scripts are about; scripts: all of them by name.
    unlisted: known to the ledger, not to be asked for.
    """

    title: str
    lead: str
    key: Callable[[str], str]
    default: Script
    groups: Mapping[str, tuple[Script, ...]]
    unlisted: tuple[Script, ...] = ()
    scripts: Mapping[str, Script] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        scripts = {script.name: script for group in self.groups.values() for script in group}
        object.__setattr__(self, "scripts", MappingProxyType(scripts))

    def script_for(self, recipient: str, provider: str) -> Script:
        """The script a recipient asks for at this provider; the default when it asks for none."""
        script = self.scripts.get(self.key(recipient), self.default)
        return script if not script.at or provider in script.at else self.default

    def script_named(self, name: str) -> Script:
        """A script by the name the ledger remembers; the default for one this release no longer has."""
        return next((script for script in self.unlisted if script.name == name), self.scripts.get(name, self.default))
