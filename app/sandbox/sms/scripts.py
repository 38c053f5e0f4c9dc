"""What each scripted phone number does, as data.

Numbers from 555-0130 to 555-0199 in any area code of North America are scripts: +1 415 555 0130 is known to no
network, and so is +1 212 555 0130, so that each test can have a number of its own. 555-01xx belongs to nobody (it is
kept for fiction), and a number that is no script is delivered. Delays are seconds at speed 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from app.sandbox.scripting import Answer, Book, Failure, Posts, Reason, Refusal, Script, Step

#: The list of people who answered STOP.
OPTED_OUT: Final = "opted-out"

#: Refusals that only text messages know.
NOT_MOBILE: Final = "not_mobile"
RECIPIENT_OPTED_OUT: Final = "recipient_opted_out"

TWILIO: Final = frozenset({"twilio"})
NOT_SINCH: Final = frozenset({"twilio", "vonage", "aws_sms"})
NOT_TWILIO: Final = frozenset({"sinch", "vonage", "aws_sms"})

QUEUED: Final = Step("queued")
SENT: Final = Step("sent", after=1)
DELIVERED: Final = Step("delivered", after=1)
TO_THE_PHONE: Final = (QUEUED, SENT, DELIVERED)

_NUMBER: Final = re.compile(r"\+?1\d{3}555(01\d\d)")


def _fails(reason: str, code: int) -> tuple[Step, ...]:
    """Handed to the carrier, which then says that it did not get through; ``code`` is Twilio's."""
    return QUEUED, SENT, Step("failed", after=1, failure=Failure("permanent", reason, code))


def _answers(text: str, *, after: float = 2, **more: Any) -> Step:
    return Step("replied", after=after, text=text, **more)


STOP: Final = _answers("STOP", suppresses=OPTED_OUT)
START: Final = _answers("START", after=30, relieves=OPTED_OUT)

DEFAULT: Final = Script("anything-else", "Delivered.", steps=TO_THE_PHONE)

#: What Twilio and Amazon make of a send to somebody who answered STOP.
REFUSED: Final[Mapping[str, Script]] = MappingProxyType(
    {OPTED_OUT: Script("on-the-opted-out-list", "Refused.", refusal=Refusal(RECIPIENT_OPTED_OUT))}
)


def _numbered(first: int, scripts: Iterable[Script]) -> tuple[Script, ...]:
    """Give the scripts the numbers from ``first`` on."""
    return tuple(replace(script, asked_by=f"…555{number:04}") for number, script in enumerate(scripts, first))


_OUTCOMES: Final = _numbered(
    130,
    (
        Script("unknown-number", "Sent, but no such subscriber.", steps=_fails("unknown", 30005)),
        Script("landline", "Sent, but the number is a landline.", steps=_fails("landline", 30006)),
        Script("filtered", "Filtered by the carrier as spam.", steps=_fails("filtered", 30007)),
        Script("unreachable", "Switched off or without signal until given up.", steps=_fails("unreachable", 30003)),
        Script("blocked", "Blocked by the carrier or the subscriber.", steps=_fails("blocked", 30004)),
        Script("failed", "Failed, and nobody knows why.", steps=_fails("failed", 30008)),
        Script(
            "expired",
            "Not delivered while it was valid (Sinch, Vonage, Amazon).",
            steps=_fails("expired", 0),
            at=NOT_TWILIO,
        ),
        Script("never-confirmed", "Sent; the carrier never says what became of it.", steps=(QUEUED, SENT)),
    ),
)

_ANSWERS: Final = _numbered(
    140,
    (
        Script("slow", "Accepted; the answer takes 3 seconds.", answer=Answer.ACCEPT_SLOWLY, steps=TO_THE_PHONE),
        Script(
            "timeout-after-accept",
            "Accepted and delivered, but the caller never gets an answer.",
            answer=Answer.ACCEPT_THEN_HANG,
            steps=TO_THE_PHONE,
        ),
        Script(
            "reset-after-accept",
            "Accepted and delivered, but the connection is reset without an answer.",
            answer=Answer.ACCEPT_THEN_RESET,
            steps=TO_THE_PHONE,
        ),
        Script(
            "error-after-accept",
            "Accepted and delivered, but answered 500.",
            answer=Answer.ACCEPT_THEN_ERROR,
            steps=TO_THE_PHONE,
        ),
        Script("hang", "Never accepted, never answered.", answer=Answer.HANG),
        Script(
            "timeout-and-callbacks-lost",
            "Accepted and delivered, no answer and no callback: only asking the provider can tell.",
            answer=Answer.ACCEPT_THEN_HANG,
            steps=TO_THE_PHONE,
            posts=Posts.NEVER,
        ),
    ),
)

_CALLBACKS: Final = _numbered(
    150,
    (
        Script("callback-lost", "Delivered, but no callback is ever posted.", steps=TO_THE_PHONE, posts=Posts.NEVER),
        Script(
            "callback-thrice",
            "Delivered; every callback is posted three times.",
            steps=TO_THE_PHONE,
            posts=Posts.THRICE,
        ),
        Script(
            "callbacks-out-of-order",
            "Delivered; the callbacks arrive backwards: delivered, then sent.",
            steps=TO_THE_PHONE,
            posts=Posts.REVERSED,
        ),
        Script(
            "callback-forged",
            "No such subscriber, while forged callbacks claim it was delivered: one of each kind that a receiver "
            "must catch.",
            steps=_fails("unknown", 30005),
            posts=Posts.WITH_FORGERIES,
        ),
    ),
)

_REFUSALS: Final = _numbered(
    160,
    (
        Script(
            "rate-limited",
            "Refused as too fast for the first two calls, then delivered.",
            steps=TO_THE_PHONE,
            refusal=Refusal(Reason.RATE_LIMITED, times=2),
        ),
        Script(
            "outage",
            "Out of service for the first two calls, without accepting; then delivered.",
            steps=TO_THE_PHONE,
            refusal=Refusal(Reason.UNAVAILABLE, times=2),
        ),
        Script(
            "unauthorized",
            "Refused for its credentials for the first two calls, then delivered.",
            steps=TO_THE_PHONE,
            refusal=Refusal(Reason.UNAUTHORIZED, times=2),
        ),
        Script(
            "sender-refused",
            "Refused because of the sender for the first two calls, then delivered.",
            steps=TO_THE_PHONE,
            refusal=Refusal(Reason.SENDER_REFUSED, times=2),
        ),
        Script("invalid-number", "Refused as not a valid number.", refusal=Refusal(Reason.INVALID_RECIPIENT)),
        Script("not-mobile", "Refused as not a mobile number (Twilio).", refusal=Refusal(NOT_MOBILE), at=TWILIO),
        Script("content-refused", "Refused because of the content.", refusal=Refusal(Reason.CONTENT_REFUSED)),
        Script(
            "wrong-response",
            "Success, with a body that no API would give: nothing was accepted.",
            refusal=Refusal(Reason.WRONG_RESPONSE),
        ),
        Script(
            "opted-out",
            "Refused: the person has opted out (Twilio, Vonage, Amazon).",
            refusal=Refusal(RECIPIENT_OPTED_OUT),
            at=NOT_SINCH,
        ),
    ),
)

_PEOPLE: Final = _numbered(
    170,
    (
        Script(
            "answers-stop",
            "Delivered, and answered STOP. Twilio and Amazon refuse what is sent from then on.",
            steps=(*TO_THE_PHONE, STOP),
        ),
        Script(
            "answers-stop-then-start",
            "Delivered, answered STOP, and half a minute later START.",
            steps=(*TO_THE_PHONE, STOP, START),
        ),
        Script("answers-help", "Delivered, and answered HELP.", steps=(*TO_THE_PHONE, _answers("HELP"))),
        Script(
            "answers-in-words",
            "Delivered, and answered in words: Thank you, please stop by at 5 pm.",
            steps=(*TO_THE_PHONE, _answers("Thank you, please stop by at 5 pm")),
        ),
    ),
)

_GROUPS: Final = MappingProxyType(
    {
        "What becomes of the text": _OUTCOMES,
        "What the caller is told": _ANSWERS,
        "How the callbacks travel": _CALLBACKS,
        "What is refused": _REFUSALS,
        "Phones that answer": _PEOPLE,
    }
)
_NAMES: Final = {script.asked_by[-4:]: script.name for group in _GROUPS.values() for script in group}


def scripted(recipient: str) -> str:
    """The name of the script a number asks for; nothing when it asks for none."""
    found = _NUMBER.fullmatch(recipient)
    return _NAMES.get(found[1], "") if found else ""


SMS: Final = Book(
    title="Scripted phone numbers",
    lead="In any area code of North America: +1 415 555 0130 is a number nobody has, and so is +1 212 555 0130. "
    "Any other number is delivered.",
    key=scripted,
    default=DEFAULT,
    groups=_GROUPS,
    unlisted=tuple(REFUSED.values()),
)
