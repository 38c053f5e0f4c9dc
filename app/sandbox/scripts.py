"""What each scripted address of the email protocols does, as data.

The part of the address before ``@`` and before any ``+`` picks the script, whatever the domain, so
``bounce+order-42@example.com`` bounces. Anything else is delivered. Delays are seconds at speed 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.sandbox.scripting import Answer, Book, Failure, Posts, Reason, Refusal, Script, Step

ACCEPTED: Final = Step("accepted")
DELIVERED: Final = Step("delivered", after=1)
ON_ITS_WAY: Final = (ACCEPTED, DELIVERED)

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
    failure=Failure("temporary", "full", 452, "4.2.2", "4.2.2 The mailbox is over quota", "soft"),
)
_FULL: Final = Step(
    "failed",
    after=5,
    failure=Failure("permanent", "full", 552, "5.2.2", "5.2.2 The mailbox is full", "soft"),
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
        "permanent", "blocked", 550, "5.7.1", "5.7.1 Message refused due to the sender's reputation", "soft"
    ),
)


def _dropped(name: str, code: int, reason: str, message: str) -> Script:
    step = Step("failed", after=1, failure=Failure("permanent", reason, code, "", message, "hard"))
    return Script(f"on-the-{name}-list", "Accepted, then dropped.", steps=(ACCEPTED, step))


DEFAULT: Final = Script("anything-else", "Accepted, then delivered.", steps=ON_ITS_WAY)

#: What a send to a suppressed address comes to where the vendor takes it on and drops it, by the list it is on.
DROPPED: Final[Mapping[str, Script]] = MappingProxyType(
    {
        "bounces": _dropped("bounces", 605, "suppress-bounce", "Not delivering to previously bounced address"),
        "complaints": _dropped(
            "complaints", 607, "suppress-complaint", "Not delivering to a user who marked your messages as spam"
        ),
        "unsubscribes": _dropped("unsubscribes", 606, "suppress-unsubscribe", "Not delivering to unsubscribed address"),
    }
)

_OUTCOMES: Final = (
    Script(
        "bounce",
        "Hard bounce, 550 5.1.1; the address joins the bounces list, so the next send to it is dropped.",
        steps=(ACCEPTED, _HARD_BOUNCE),
    ),
    Script(
        "soft-bounce",
        "One temporary failure, then a permanent one, 552 5.2.2 mailbox full. The address joins no list.",
        steps=(ACCEPTED, _FULL_FOR_NOW, _FULL),
    ),
    Script(
        "deferred",
        "Two temporary failures, then delivered.",
        steps=(ACCEPTED, _GREYLISTED, _GREYLISTED, DELIVERED),
    ),
    Script(
        "blocked",
        "Permanent failure because of the sender's reputation, espblock 5.7.1.",
        steps=(ACCEPTED, _BLOCKED),
    ),
    Script("async-bounce", "Delivered, then a hard bounce that came late.", steps=(*ON_ITS_WAY, _LATE_BOUNCE)),
    Script(
        "complaint",
        "Delivered, then marked as spam; the address joins the complaints list.",
        steps=(*ON_ITS_WAY, Step("complained", after=10, suppresses="complaints")),
    ),
    Script(
        "unsubscribe",
        "Delivered, then unsubscribed; the address joins the unsubscribes list.",
        steps=(*ON_ITS_WAY, Step("unsubscribed", after=10, suppresses="unsubscribes")),
    ),
    Script("open", "Delivered, then opened.", steps=(*ON_ITS_WAY, Step("opened", after=5))),
    Script(
        "click",
        "Delivered, opened, then a link is clicked.",
        steps=(*ON_ITS_WAY, Step("opened", after=5), Step("clicked", after=2)),
    ),
    Script(
        "suppressed",
        "Accepted with 200, then dropped as previously bounced (605, suppress-bounce).",
        steps=DROPPED["bounces"].steps,
    ),
    Script(
        "rejected",
        "Accepted with 200, then rejected. Only the Events API says so: no webhook is sent.",
        steps=(Step("rejected"),),
    ),
)

_ANSWERS: Final = (
    Script("slow", "Accepted; the answer takes 3 seconds.", answer=Answer.ACCEPT_SLOWLY, steps=ON_ITS_WAY),
    Script(
        "timeout-after-accept",
        "Accepted and delivered, but the caller never gets an answer.",
        answer=Answer.ACCEPT_THEN_HANG,
        steps=ON_ITS_WAY,
    ),
    Script(
        "reset-after-accept",
        "Accepted and delivered, but the connection is reset without an answer.",
        answer=Answer.ACCEPT_THEN_RESET,
        steps=ON_ITS_WAY,
    ),
    Script(
        "error-after-accept",
        "Accepted and delivered, but answered 500.",
        answer=Answer.ACCEPT_THEN_ERROR,
        steps=ON_ITS_WAY,
    ),
    Script("hang", "Never accepted, never answered.", answer=Answer.HANG),
    Script(
        "timeout-and-webhooks-lost",
        "Accepted and delivered, no answer and no webhook: only the Events API can tell.",
        answer=Answer.ACCEPT_THEN_HANG,
        steps=ON_ITS_WAY,
        posts=Posts.NEVER,
    ),
)

_WEBHOOKS: Final = (
    Script("webhook-lost", "Delivered, but no webhook is ever posted.", steps=ON_ITS_WAY, posts=Posts.NEVER),
    Script(
        "duplicate-webhook", "Delivered; every webhook is posted three times.", steps=ON_ITS_WAY, posts=Posts.THRICE
    ),
    Script(
        "out-of-order-webhook",
        "Delivered and opened; the webhooks arrive backwards: opened, delivered, accepted.",
        steps=(*ON_ITS_WAY, Step("opened", after=5)),
        posts=Posts.REVERSED,
    ),
    Script(
        "forged-webhook",
        "Bounces, while forged webhooks claim it was delivered: one with a replayed token, one with a bad "
        "signature, one signed correctly but two days old.",
        steps=(ACCEPTED, _HARD_BOUNCE),
        posts=Posts.WITH_FORGERIES,
    ),
)

_REFUSALS: Final = (
    Script(
        "rate-limited",
        "429 for the first two calls, then delivered.",
        steps=ON_ITS_WAY,
        refusal=Refusal(Reason.RATE_LIMITED, times=2),
    ),
    Script(
        "outage",
        "503 without accepting for the first two calls, then delivered.",
        steps=ON_ITS_WAY,
        refusal=Refusal(Reason.UNAVAILABLE, times=2),
    ),
    Script(
        "unauthorized",
        "401 for the first two calls, then delivered.",
        steps=ON_ITS_WAY,
        refusal=Refusal(Reason.UNAUTHORIZED, times=2),
    ),
    Script(
        "domain-disabled",
        "400, domain not allowed to send, for the first two calls, then delivered.",
        steps=ON_ITS_WAY,
        refusal=Refusal(Reason.SENDER_REFUSED, times=2),
    ),
    Script(
        "invalid-address",
        "400, not a valid address, every time.",
        refusal=Refusal(Reason.INVALID_RECIPIENT),
    ),
    Script(
        "permanent-4xx",
        "400 because of the content, every time.",
        refusal=Refusal(Reason.CONTENT_REFUSED),
    ),
    Script(
        "wrong-response",
        "200 with the words Mailgun Magnificent API: nothing was accepted.",
        refusal=Refusal(Reason.WRONG_RESPONSE),
    ),
)


def local_part(address: str) -> str:
    """The part of an address that picks its script."""
    return address.partition("@")[0].partition("+")[0].lower()


EMAIL: Final = Book(
    title="Scripted addresses",
    lead="The part before @, or before a +, picks the script. The domain does not matter: bounce+42@example.com "
    "bounces. Any other address is delivered.",
    key=local_part,
    default=DEFAULT,
    groups=MappingProxyType(
        {
            "What becomes of the message": _OUTCOMES,
            "What the caller is told": _ANSWERS,
            "How the webhooks travel": _WEBHOOKS,
            "What is refused": _REFUSALS,
        }
    ),
    unlisted=tuple(DROPPED.values()),
)

#: Every scripted address by its name.
SCRIPTS: Final = EMAIL.scripts
