"""What each scripted address does, as data.

The part of the address before ``@`` and before any ``+`` picks the script, whatever the domain, so
``bounce+order-42@example.com`` bounces. Anything else is delivered. Delays are seconds at speed 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


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


@dataclass(frozen=True, slots=True)
class Failure:
    """The delivery status of a failed event, in Mailgun's words."""

    severity: str
    reason: str
    code: int
    enhanced_code: str
    message: str
    bounce_type: str
    delayed: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One event, ``after`` seconds after the one before; ``suppresses`` names the list its address joins."""

    event: str
    after: float = 0.0
    failure: Failure | None = None
    suppresses: str | None = None
    posted: bool = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that is not accepted: the first ``times`` calls for an address, or every call when None."""

    status: int
    message: str
    times: int | None = None
    plain_text: bool = False


SLOW_ANSWER_SECONDS: Final = 3.0
RATE_LIMIT_SECONDS: Final = 60.0

RATE_LIMITED: Final = "Domain {domain} is not allowed to send: request limit exceeded, try again after {wait} seconds"
MAGNIFICENT: Final = "Mailgun Magnificent API"

_ACCEPTED: Final = Step("accepted")
_DELIVERED: Final = Step("delivered", after=1)
_ON_ITS_WAY: Final = (_ACCEPTED, _DELIVERED)

_NO_SUCH_USER: Final = Failure(
    "permanent",
    "bounce",
    550,
    "5.1.1",
    "5.1.1 The email account that you tried to reach does not exist",
    "hard",
)
_HARD_BOUNCE: Final = Step("failed", after=1, failure=_NO_SUCH_USER, suppresses="bounces")
_LATE_BOUNCE: Final = Step(
    "failed",
    after=10,
    failure=Failure("permanent", "bounce", 550, "5.1.1", "5.1.1 Recipient address rejected", "hard", delayed=True),
    suppresses="bounces",
)
_FULL_FOR_NOW: Final = Step(
    "failed",
    after=1,
    failure=Failure("temporary", "generic", 452, "4.2.2", "4.2.2 The mailbox is over quota", "soft"),
)
_FULL: Final = Step(
    "failed",
    after=5,
    failure=Failure("permanent", "generic", 552, "5.2.2", "5.2.2 The mailbox is full", "soft"),
)
_GREYLISTED: Final = Step(
    "failed",
    after=1,
    failure=Failure("temporary", "greylisted", 451, "4.7.1", "4.7.1 Greylisted, please try again later", "soft"),
)
_BLOCKED: Final = Step(
    "failed",
    after=1,
    failure=Failure(
        "permanent", "espblock", 550, "5.7.1", "5.7.1 Message refused due to the sender's reputation", "soft"
    ),
)


@dataclass(frozen=True, slots=True)
class Script:
    """One address: what it does in words, what the caller gets, and what happens to the message."""

    name: str
    does: str
    answer: Answer = Answer.ACCEPT
    steps: tuple[Step, ...] = _ON_ITS_WAY
    posts: Posts = Posts.NORMAL
    refusal: Refusal | None = None


def _not_delivering(code: int, reason: str, message: str) -> tuple[Step, ...]:
    return (
        _ACCEPTED,
        Step("failed", after=1, failure=Failure("permanent", reason, code, "", message, "hard")),
    )


DEFAULT: Final = Script("anything-else", "Accepted, then delivered.")

_PREVIOUSLY_BOUNCED: Final = _not_delivering(605, "suppress-bounce", "Not delivering to previously bounced address")

#: What a send to a suppressed address comes to, by the list the address is on: a 200, then a failure.
ON_LIST: Final[Mapping[str, Script]] = MappingProxyType(
    {
        "bounces": Script("on-the-bounces-list", "Accepted, then dropped.", steps=_PREVIOUSLY_BOUNCED),
        "complaints": Script(
            "on-the-complaints-list",
            "Accepted, then dropped.",
            steps=_not_delivering(
                607, "suppress-complaint", "Not delivering to a user who marked your messages as spam"
            ),
        ),
        "unsubscribes": Script(
            "on-the-unsubscribes-list",
            "Accepted, then dropped.",
            steps=_not_delivering(606, "suppress-unsubscribe", "Not delivering to unsubscribed address"),
        ),
    }
)

_OUTCOMES: Final = (
    Script(
        "bounce",
        "Hard bounce, 550 5.1.1; the address joins the bounces list, so the next send to it is dropped.",
        steps=(_ACCEPTED, _HARD_BOUNCE),
    ),
    Script(
        "soft-bounce",
        "One temporary failure, then a permanent one, 552 5.2.2 mailbox full. The address joins no list.",
        steps=(_ACCEPTED, _FULL_FOR_NOW, _FULL),
    ),
    Script(
        "deferred",
        "Two temporary failures, then delivered.",
        steps=(_ACCEPTED, _GREYLISTED, _GREYLISTED, _DELIVERED),
    ),
    Script(
        "blocked",
        "Permanent failure because of the sender's reputation, espblock 5.7.1.",
        steps=(_ACCEPTED, _BLOCKED),
    ),
    Script("async-bounce", "Delivered, then a hard bounce that came late.", steps=(*_ON_ITS_WAY, _LATE_BOUNCE)),
    Script(
        "complaint",
        "Delivered, then marked as spam; the address joins the complaints list.",
        steps=(*_ON_ITS_WAY, Step("complained", after=10, suppresses="complaints")),
    ),
    Script(
        "unsubscribe",
        "Delivered, then unsubscribed; the address joins the unsubscribes list.",
        steps=(*_ON_ITS_WAY, Step("unsubscribed", after=10, suppresses="unsubscribes")),
    ),
    Script("open", "Delivered, then opened.", steps=(*_ON_ITS_WAY, Step("opened", after=5))),
    Script(
        "click",
        "Delivered, opened, then a link is clicked.",
        steps=(*_ON_ITS_WAY, Step("opened", after=5), Step("clicked", after=2)),
    ),
    Script(
        "suppressed",
        "Accepted with 200, then dropped as previously bounced (605, suppress-bounce).",
        steps=_PREVIOUSLY_BOUNCED,
    ),
    Script(
        "rejected",
        "Accepted with 200, then rejected. Only the Events API says so: no webhook is sent.",
        steps=(Step("rejected", posted=False),),
    ),
)

_ANSWERS: Final = (
    Script("slow", "Accepted; the answer takes 3 seconds.", answer=Answer.ACCEPT_SLOWLY),
    Script(
        "timeout-after-accept",
        "Accepted and delivered, but the caller never gets an answer.",
        answer=Answer.ACCEPT_THEN_HANG,
    ),
    Script(
        "reset-after-accept",
        "Accepted and delivered, but the connection is reset without an answer.",
        answer=Answer.ACCEPT_THEN_RESET,
    ),
    Script("error-after-accept", "Accepted and delivered, but answered 500.", answer=Answer.ACCEPT_THEN_ERROR),
    Script("hang", "Never accepted, never answered.", answer=Answer.HANG, steps=()),
    Script(
        "timeout-and-webhooks-lost",
        "Accepted and delivered, no answer and no webhook: only the Events API can tell.",
        answer=Answer.ACCEPT_THEN_HANG,
        posts=Posts.NEVER,
    ),
)

_WEBHOOKS: Final = (
    Script("webhook-lost", "Delivered, but no webhook is ever posted.", posts=Posts.NEVER),
    Script("duplicate-webhook", "Delivered; every webhook is posted three times.", posts=Posts.THRICE),
    Script(
        "out-of-order-webhook",
        "Delivered and opened; the webhooks arrive backwards: opened, delivered, accepted.",
        steps=(*_ON_ITS_WAY, Step("opened", after=5)),
        posts=Posts.REVERSED,
    ),
    Script(
        "forged-webhook",
        "Bounces, while forged webhooks claim it was delivered: one with a replayed token, one with a bad "
        "signature, one signed correctly but two days old.",
        steps=(_ACCEPTED, _HARD_BOUNCE),
        posts=Posts.WITH_FORGERIES,
    ),
)

_REFUSALS: Final = (
    Script(
        "rate-limited",
        "429 for the first two calls, then delivered.",
        refusal=Refusal(429, RATE_LIMITED, times=2),
    ),
    Script(
        "outage",
        "503 without accepting for the first two calls, then delivered.",
        refusal=Refusal(503, "Service Unavailable", times=2),
    ),
    Script(
        "unauthorized",
        "401 for the first two calls, then delivered.",
        refusal=Refusal(401, "Forbidden", times=2, plain_text=True),
    ),
    Script(
        "domain-disabled",
        "400, domain not allowed to send, for the first two calls, then delivered.",
        refusal=Refusal(
            400,
            "Domain {domain} is not allowed to send: The domain is unverified and requires DNS "
            "configuration. Log in to your control panel to view required DNS records.",
            times=2,
        ),
    ),
    Script(
        "invalid-address",
        "400, not a valid address, every time.",
        refusal=Refusal(400, "to parameter is not a valid address. please check documentation"),
    ),
    Script(
        "permanent-4xx",
        "400 because of the content, every time.",
        refusal=Refusal(400, "Need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified"),
    ),
    Script(
        "wrong-response",
        "200 with the words Mailgun Magnificent API: nothing was accepted.",
        refusal=Refusal(200, MAGNIFICENT, plain_text=True),
    ),
)

#: Every scripted address, grouped by what the script is about.
GROUPS: Final[Mapping[str, tuple[Script, ...]]] = MappingProxyType(
    {
        "What becomes of the message": _OUTCOMES,
        "What the caller is told": _ANSWERS,
        "How the webhooks travel": _WEBHOOKS,
        "What is refused": _REFUSALS,
    }
)

SCRIPTS: Final[Mapping[str, Script]] = MappingProxyType(
    {script.name: script for group in GROUPS.values() for script in group}
)

_BY_NAME: Final = {**SCRIPTS, DEFAULT.name: DEFAULT, **{script.name: script for script in ON_LIST.values()}}


def script_for(address: str) -> Script:
    """The script an address asks for; ``DEFAULT`` when it asks for none."""
    return SCRIPTS.get(address.partition("@")[0].partition("+")[0].lower(), DEFAULT)


def script_named(name: str) -> Script:
    """A script by the name the ledger remembers; ``DEFAULT`` for one this release no longer has."""
    return _BY_NAME.get(name, DEFAULT)
