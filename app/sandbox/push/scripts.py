"""What each scripted device does, as data.

A device is scripted by its token: APNs tokens are hexadecimal, so the first four digits are a code; an FCM token names
its script before a colon (``opens:anything``), and a Web Push endpoint in its path (``/push/opens/anything``).
Delays are seconds at speed 1.
"""

from __future__ import annotations

import re
from dataclasses import replace
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from app.sandbox.scripting import Answer, Book, Posts, Reason, Refusal, Script, Step

APNS: Final = frozenset({"apns"})
FCM: Final = frozenset({"fcm"})
HTTP: Final = frozenset({"fcm", "web_push"})

#: Refusals that only push services know.
SERVER_ERROR: Final = "server_error"
UNREGISTERED: Final = "unregistered"
UNREGISTERED_BEFORE: Final = "unregistered_before"
GO_AWAY: Final = "go_away"
THIRD_PARTY_AUTH: Final = "third_party_auth"
TOKEN_UPDATES: Final = "token_updates"  # noqa: S105 - a reason

#: A later notification took the place of this one on the device.
REPLACED: Final = Step("replaced")

SENT: Final = Step("sent")
RECEIVED: Final = Step("received", after=1)
SHOWN: Final = (SENT, RECEIVED)

_HEX: Final = re.compile(r"[0-9a-fA-F]{8,}")

DEFAULT: Final = Script("anything-else", "Received, and acknowledged as received.", steps=SHOWN)


def _coded(first: int, *scripts: Script) -> tuple[Script, ...]:
    """Give the scripts the codes from ``first`` on."""
    return tuple(replace(script, asked_by=f"{script.name} {code:04x}…") for code, script in enumerate(scripts, first))


_DEVICES: Final = _coded(
    0x5A00,
    Script("silent", "Received, and never acknowledged.", steps=(SENT,)),
    Script("opens", "Received and acknowledged, then opened.", steps=(*SHOWN, Step("opened", after=5))),
    Script("dismisses", "Received and acknowledged, then swept away.", steps=(*SHOWN, Step("dismissed", after=5))),
    Script("acknowledges-thrice", "Received, and acknowledged three times.", steps=SHOWN, posts=Posts.THRICE),
    Script(
        "acknowledges-backwards",
        "Opened; the acknowledgements arrive backwards: opened, then received.",
        steps=(*SHOWN, Step("opened", after=5)),
        posts=Posts.REVERSED,
    ),
)

_ANSWERS: Final = _coded(
    0x5A10,
    Script("slow", "Accepted; the answer takes 3 seconds.", answer=Answer.ACCEPT_SLOWLY, steps=SHOWN),
    Script(
        "timeout-after-accept",
        "Accepted and received, but the caller never gets an answer.",
        answer=Answer.ACCEPT_THEN_HANG,
        steps=SHOWN,
    ),
    Script(
        "reset-after-accept",
        "Accepted and received, but the connection (APNs: the stream) is reset without an answer.",
        answer=Answer.ACCEPT_THEN_RESET,
        steps=SHOWN,
    ),
    Script(
        "error-after-accept",
        "Accepted and received, but answered 500.",
        answer=Answer.ACCEPT_THEN_ERROR,
        steps=SHOWN,
    ),
    Script("hang", "Never accepted, never answered.", answer=Answer.HANG),
    Script(
        "silent-timeout-after-accept",
        "Accepted and received, no answer and no acknowledgement: nobody can tell.",
        answer=Answer.ACCEPT_THEN_HANG,
        steps=(SENT,),
    ),
)


def _twice(name: str, does: str, reason: str, at: frozenset[str] = frozenset()) -> Script:
    words = f"{does} for the first two calls, then received."
    return Script(name, words, steps=SHOWN, refusal=Refusal(reason, times=2), at=at)


def _always(name: str, does: str, reason: str, at: frozenset[str] = frozenset()) -> Script:
    return Script(name, does, refusal=Refusal(reason), at=at)


_REFUSALS: Final = _coded(
    0x5A20,
    _twice("rate-limited", "Refused as too many", Reason.RATE_LIMITED),
    _twice("outage", "Out of service, without accepting,", Reason.UNAVAILABLE),
    _twice("server-error", "Refused with 500, without accepting,", SERVER_ERROR),
    _twice("unauthorized", "Refused for its credentials", Reason.UNAUTHORIZED),
    _always("bad-token", "Refused: no such token.", Reason.INVALID_RECIPIENT),
    _always("unregistered", "Refused: the app is gone from the device since now.", UNREGISTERED),
    _always(
        "unregistered-before",
        "Refused: the app was gone from the device a month ago (APNs).",
        UNREGISTERED_BEFORE,
        APNS,
    ),
    _always("wrong-app", "Refused: the token belongs to another app or sender.", Reason.SENDER_REFUSED),
    _always("too-large", "Refused as too large.", Reason.CONTENT_REFUSED),
    _twice("go-away", "Sent away with GOAWAY, unprocessed, (APNs)", GO_AWAY, APNS),
    _twice("too-many-provider-tokens", "Refused for too many new provider tokens (APNs)", TOKEN_UPDATES, APNS),
    _always("third-party-auth", "Refused for the APNs credential that FCM has (FCM).", THIRD_PARTY_AUTH, FCM),
    _always(
        "wrong-response",
        "Success, with a body that no API would give: nothing was accepted (FCM, Web Push).",
        Reason.WRONG_RESPONSE,
        HTTP,
    ),
)

_GROUPS: Final = MappingProxyType(
    {
        "What the device does": _DEVICES,
        "What the caller of a push service is told": _ANSWERS,
        "What a push service refuses": _REFUSALS,
    }
)
_NAMES: Final = {script.asked_by.split()[1].rstrip("…"): script.name for group in _GROUPS.values() for script in group}


def scripted(recipient: str) -> str:
    """The name of the script that a device asks for: a code, a word before a colon, or a part of a path."""
    if _HEX.fullmatch(recipient):
        return _NAMES.get(recipient[:4].lower(), "")
    if recipient.startswith(("http://", "https://")):
        parts = urlsplit(recipient).path.split("/")
        return parts[2] if len(parts) > 3 else ""
    return recipient.partition(":")[0]


PUSH: Final = Book(
    title="Scripted devices",
    lead="An APNs token begins with the code of its script (5a01…), an FCM token with its name and a colon (opens:42), "
    "and a Web Push endpoint has it in its path (/push/opens/42). Any other device acknowledges what it receives.",
    key=scripted,
    default=DEFAULT,
    groups=_GROUPS,
)
