"""What people answer to text messages: STOP, START, HELP, and the facts these make (R-135)."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from app.domain.models import Evidence, EvidenceKind
from app.domain.sms import e164, masked


class Keyword(StrEnum):
    """What was asked for, by its best-known word."""

    STOP = "STOP"
    START = "START"
    HELP = "HELP"


#: Twilio's default words; the FCC's own (47 CFR 64.1200(a)(10): stop, quit, end, revoke, opt out, cancel, unsubscribe)
#: are among them.
_STOPS: Final = frozenset({"STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT"})
_STARTS: Final = frozenset({"START", "YES", "UNSTOP"})
_HELPS: Final = frozenset({"HELP", "INFO"})

_AROUND_LETTERS: Final = re.compile(r"[\W_]+")
_KINDS: Final = {Keyword.STOP: EvidenceKind.OPTED_OUT, Keyword.START: EvidenceKind.OPTED_IN}


def keyword_of(body: str) -> Keyword | None:
    """What the whole message asks for, None when it is just a message.

    The two ways are not alike. A wish to be left alone counts however it is typed ("Stop!", "opt-out", "Stop all",
    full-width letters): not to hear it costs more than to hear it wrongly. Consent comes back only by the very word.
    """
    word = body.strip().upper()
    if word in _STARTS:
        return Keyword.START
    if word in _HELPS:
        return Keyword.HELP
    letters = _AROUND_LETTERS.sub("", unicodedata.normalize("NFKC", word).upper())
    return Keyword.STOP if letters in _STOPS else None


def inbound_evidence(
    *, message_id: str, sender: str, receiver: str, keyword: Keyword | None, occurred_at: datetime
) -> Evidence:
    """The fact in a message that somebody sent to us; the message itself goes no further.

    sender, receiver: as the provider writes them. A keyword from what is no telephone number changes nothing, since
    nothing is ever sent there.
    """
    address = e164(sender)
    kind = _KINDS.get(keyword, EvidenceKind.OTHER) if keyword and address else EvidenceKind.OTHER
    data: dict[str, Any] = {"inbound": True, "keyword": keyword and keyword.value, "to": masked(receiver)}
    return Evidence(kind=kind, event_key=f"inbound:{message_id}", occurred_at=occurred_at, address=address, data=data)
