"""What each scripted endpoint does, as data: a part of its path names the script. Delays are seconds at speed 1."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from app.sandbox.scripting import Answer, Book, Reason, Refusal, Script, Step

MERCHANT: Final = frozenset({"merchant"})

#: Refusals that only receivers know.
GONE: Final = "gone"
NOT_FOUND: Final = "not_found"
FORBIDDEN: Final = "forbidden"
FAILING: Final = "failing"
REDIRECT: Final = "redirect"

HUGE_ANSWER: Final = "huge-answer"

#: A message that was received before came once more.
COPIED: Final = Step("copied")

RECEIVED: Final = (Step("received"),)

DEFAULT: Final = Script("anything-else", "Received, and answered with success.", steps=RECEIVED)


def _answers(name: str, does: str, answer: Answer, at: frozenset[str] = frozenset()) -> Script:
    return Script(name, does, answer=answer, steps=() if answer is Answer.HANG else RECEIVED, at=at)


_ANSWERS: Final = (
    _answers("slow", "Received; the answer takes 3 seconds.", Answer.ACCEPT_SLOWLY),
    _answers(
        "timeout-after-accept", "Received and processed, but the caller never gets an answer.", Answer.ACCEPT_THEN_HANG
    ),
    _answers(
        "reset-after-accept",
        "Received and processed, but the connection is reset without an answer.",
        Answer.ACCEPT_THEN_RESET,
    ),
    _answers("error-after-accept", "Received and processed, but answered 500.", Answer.ACCEPT_THEN_ERROR),
    _answers("hang", "Never received, never answered.", Answer.HANG),
    Script(HUGE_ANSWER, "Received, and answered with 16 MB of success (merchants).", steps=RECEIVED, at=MERCHANT),
)


def _twice(name: str, does: str, reason: str) -> Script:
    words = f"{does} for the first two calls, then received."
    return Script(name, words, steps=RECEIVED, refusal=Refusal(reason, times=2))


def _always(name: str, does: str, reason: str) -> Script:
    return Script(name, does, refusal=Refusal(reason))


_REFUSALS: Final = (
    _twice("failing", "500, without receiving anything,", FAILING),
    _twice("outage", "503", Reason.UNAVAILABLE),
    _twice("rate-limited", "429 with Retry-After", Reason.RATE_LIMITED),
    _always("gone", "410, every time: the endpoint is to be disabled.", GONE),
    _always("not-found", "404, every time.", NOT_FOUND),
    _always("forbidden", "403, every time; 401 from Discord.", FORBIDDEN),
    _always("content-refused", "400, every time.", Reason.CONTENT_REFUSED),
    _always("redirect", "302 to an endpoint that would receive it; nobody must follow.", REDIRECT),
)

_GROUPS: Final = MappingProxyType({"What the caller is answered": _ANSWERS, "What an endpoint refuses": _REFUSALS})
_NAMES: Final = frozenset(script.name for group in _GROUPS.values() for script in group)


def scripted(recipient: str) -> str:
    """The first part of the path that is the name of a script."""
    return next((part for part in recipient.split("/") if part in _NAMES), "")


ENDPOINTS: Final = Book(
    title="Scripted endpoints",
    lead="A part of the path picks the script: /merchant/gone/acme, /slack/services/T1/B1/gone, "
    "/discord/api/webhooks/42/gone, /teams/workflows/gone. Any other receives.",
    key=scripted,
    default=DEFAULT,
    groups=_GROUPS,
)
