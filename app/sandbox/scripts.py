"""What each scripted address of the email protocols does, as data.

The part of the address before ``@`` and before any ``+`` picks the script, whatever the domain, so
``bounce+order-42@example.com`` bounces. Anything else is delivered. Delays are seconds at speed 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.sandbox.scripting import Answer, Book, Failure, Posts, Reason, Refusal, Script, Step

#: Scripts that only SMTP can play, or all but SMTP.
SMTP: Final = frozenset({"smtp"})
VENDORS: Final = frozenset({"mailgun", "ses", "sendgrid", "postmark"})

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
_NOT_RENDERED: Final = Failure(
    "permanent", "rendering", 0, "", "Attribute 'name' is not present in the rendering data."
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
        "Permanent failure because of the sender's reputation, 550 5.7.1.",
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
        "Accepted, then dropped as previously bounced; Postmark refuses it as inactive.",
        steps=DROPPED["bounces"].steps,
        at=VENDORS,
    ),
    Script(
        "rejected",
        "Accepted, then rejected because of its content; Mailgun says so in its Events API alone.",
        steps=(Step("rejected"),),
    ),
    Script(
        "rendering-failure",
        "Accepted, then the vendor cannot fill in its template (SES, Postmark).",
        steps=(ACCEPTED, Step("failed", after=1, failure=_NOT_RENDERED)),
        at=frozenset({"ses", "postmark"}),
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
        "Accepted and delivered, but answered 500; SMTP, which has no such answer, cuts the connection.",
        answer=Answer.ACCEPT_THEN_ERROR,
        steps=ON_ITS_WAY,
    ),
    Script("hang", "Never accepted, never answered.", answer=Answer.HANG),
    Script(
        "timeout-and-webhooks-lost",
        "Accepted and delivered, no answer and no webhook: only asking the provider can tell.",
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
        "Bounces, while forged webhooks claim it was delivered: one of each kind that a receiver must catch.",
        steps=(ACCEPTED, _HARD_BOUNCE),
        posts=Posts.WITH_FORGERIES,
    ),
)

_AT_THE_DOOR: Final = (
    Script(
        "greylisted",
        "451 4.7.1 at RCPT for the first two calls, then delivered.",
        steps=ON_ITS_WAY,
        refusal=Refusal("greylisted", times=2),
        at=SMTP,
    ),
    Script(
        "mailbox-full",
        "452 4.2.2 at RCPT, every time.",
        refusal=Refusal("mailbox_full"),
        at=SMTP,
    ),
    Script(
        "unknown-user",
        "550 5.1.1 at RCPT, every time.",
        refusal=Refusal(Reason.INVALID_RECIPIENT),
        at=SMTP,
    ),
    Script(
        "silent-at-rcpt",
        "No answer to RCPT: nothing was sent.",
        refusal=Refusal("silent_at_rcpt"),
        at=SMTP,
    ),
    Script(
        "closed-at-data",
        "The connection is closed at DATA, before the message: nothing was sent.",
        refusal=Refusal("closed_at_data"),
        at=SMTP,
    ),
    Script(
        "policy",
        "554 5.7.1 after the message, for reasons of policy, every time.",
        refusal=Refusal("policy"),
        at=SMTP,
    ),
    Script(
        "vacation",
        "Delivered, and an automatic reply comes back, which is no bounce.",
        steps=(*ON_ITS_WAY, Step("auto-replied", after=2)),
        at=SMTP,
    ),
)

_REFUSALS: Final = (
    Script(
        "rate-limited",
        "Refused as too fast for the first two calls, then delivered.",
        steps=ON_ITS_WAY,
        refusal=Refusal(Reason.RATE_LIMITED, times=2),
    ),
    Script(
        "outage",
        "Out of service for the first two calls, without accepting; then delivered.",
        steps=ON_ITS_WAY,
        refusal=Refusal(Reason.UNAVAILABLE, times=2),
    ),
    Script(
        "unauthorized",
        "Refused for its credentials for the first two calls, then delivered.",
        steps=ON_ITS_WAY,
        refusal=Refusal(Reason.UNAUTHORIZED, times=2),
    ),
    Script(
        "domain-disabled",
        "Refused because of the sender for the first two calls, then delivered.",
        steps=ON_ITS_WAY,
        refusal=Refusal(Reason.SENDER_REFUSED, times=2),
    ),
    Script(
        "invalid-address",
        "Refused as not a valid address, every time.",
        refusal=Refusal(Reason.INVALID_RECIPIENT),
    ),
    Script(
        "permanent-4xx",
        "Refused because of the content, every time.",
        refusal=Refusal(Reason.CONTENT_REFUSED),
    ),
    Script(
        "wrong-response",
        "Success, with a body that no API would give: nothing was accepted.",
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
            "At the door of the mail server, for SMTP": _AT_THE_DOOR,
        }
    ),
    unlisted=tuple(DROPPED.values()),
)

#: Every scripted address by its name.
SCRIPTS: Final = EMAIL.scripts
