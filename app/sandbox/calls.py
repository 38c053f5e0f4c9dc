"""Letting a call in, and deciding what becomes of it; whatever a call came by, HTTP or not.

Each step is on the ledger before the caller can see it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from app.sandbox.faults import Faults, Mode
from app.sandbox.ledger import NOTHING, About, Kind, Ledger
from app.sandbox.scripting import Answer, Reason, Script
from app.sandbox.world import Body, Message, World

if TYPE_CHECKING:
    from app.sandbox.carrier import Carrier
    from app.sandbox.protocol import Protocol


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a provider. seq: its number on the ledger. fault: what the fault in force wants done to it."""

    provider: str
    seq: int
    fault: Mode


@dataclass(frozen=True, slots=True)
class Draft:
    """A message as a call asks for it, to one recipient; whether it is taken on is yet to be decided."""

    message: Message
    body: Body = Body()


class Do(StrEnum):
    """What the caller gets to see."""

    ANSWER = "answer"
    ANSWER_SLOWLY = "answer_slowly"
    HOLD = "hold"  # nothing, until the caller leaves or a release comes
    RESET = "reset"
    ERROR = "error"  # an answer of the kind Reason.BROKEN, although accepted
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided: the messages are on the ledger if ``accepted``, and ``do`` says what to tell the caller.

    reason: for a refusal. about: which message the answer's entry is to name. note: what it is to say.
    """

    do: Do
    accepted: bool
    about: About
    note: str | None = None
    reason: str = ""


#: What a fault of the whole provider does in place of the scripts of its recipients.
_OVERRULES: Final = {
    Mode.ACCEPT_THEN_HANG: Answer.ACCEPT_THEN_HANG,
    Mode.ACCEPT_THEN_RESET: Answer.ACCEPT_THEN_RESET,
    Mode.ACCEPT_THEN_ERROR: Answer.ACCEPT_THEN_ERROR,
}
_ACCEPTED: Final = {
    Answer.ACCEPT: (Do.ANSWER, None),
    Answer.ACCEPT_SLOWLY: (Do.ANSWER_SLOWLY, "answered late"),
    Answer.ACCEPT_THEN_HANG: (Do.HOLD, "accepted, then held"),
    Answer.ACCEPT_THEN_RESET: (Do.RESET, "accepted, then reset"),
    Answer.ACCEPT_THEN_ERROR: (Do.ERROR, "accepted, then error"),
}
#: Faults that end a call before it is read.
_TURNED_AWAY: Final = {
    Mode.REFUSE: Verdict(Do.RESET, False, NOTHING, "fault: reset without reading"),
    Mode.HANG: Verdict(Do.HOLD, False, NOTHING, "fault: held without accepting"),
    Mode.ERROR: Verdict(Do.REFUSE, False, NOTHING, "fault: error", Reason.UNAVAILABLE),
    Mode.RATE_LIMIT: Verdict(Do.REFUSE, False, NOTHING, "fault: rate limited", Reason.RATE_LIMITED),
    Mode.UNAUTHORIZED: Verdict(Do.REFUSE, False, NOTHING, "fault: unauthorized", Reason.UNAUTHORIZED),
}


class Door:
    """Where calls come in."""

    def __init__(self, ledger: Ledger, world: World, faults: Faults, carrier: Carrier) -> None:
        self._ledger = ledger
        self._world = world
        self._faults = faults
        self._carrier = carrier
        self._refused: Counter[tuple[str, str]] = Counter()  # calls turned away so far, by provider and recipient

    def admit(self, provider: str, method: str, path: str, *, is_send: bool) -> Call:
        """Write a call down before anything else happens, and draw what the fault in force does to it."""
        entry = self.record(provider, method, path)
        return Call(provider, entry, self._faults.draw(provider, is_send=is_send))

    def record(self, provider: str, method: str, path: str) -> int:
        """Write a call down that no fault can befall; its number."""
        return self._ledger.append(Kind.CALL, about=About(provider=provider), method=method, path=path).seq

    def turned_away(self, call: Call) -> Verdict | None:
        """What a fault does to a call before it is read; None lets it in."""
        return _TURNED_AWAY.get(call.fault)

    def respond(self, call: Call, status: int | None, *, about: About = NOTHING, note: str | None = None) -> None:
        """Write down what the caller is told, before it is told; a status of None is nothing at all."""
        about = about if about.provider else msgspec.structs.replace(about, provider=call.provider)
        self._ledger.append(Kind.RESPONSE, call=call.seq, status=status, about=about, note=note)

    def decide(self, protocol: Protocol, call: Call, drafts: Sequence[Draft]) -> Verdict:
        """Take the messages of one call on, or not, as the scripts of their recipients say.

        The first that refuses decides, then the first that is not a plain acceptance.
        """
        scripts = [self.script_for(protocol, draft.message.recipient) for draft in drafts]
        for draft, script in zip(drafts, scripts, strict=True):
            if refusal := self.refusal(protocol, draft.message.about, script):
                return refusal
        about = drafts[0].message.about
        answer = next((script.answer for script in scripts if script.answer is not Answer.ACCEPT), Answer.ACCEPT)
        if answer is Answer.HANG:
            return Verdict(Do.HOLD, False, about, "held without accepting")
        for draft, script in zip(drafts, scripts, strict=True):
            message = msgspec.structs.replace(draft.message, script=script.name)
            self._carrier.accept(message, draft.body, call=call.seq)
        do, note_of_answer = _ACCEPTED[_OVERRULES.get(call.fault, answer)]
        return Verdict(do, True, about, note_of_answer)

    def script_for(self, protocol: Protocol, recipient: str) -> Script:
        """What a recipient's own script or the suppression list it is on makes of a send."""
        script = protocol.script_for(recipient)
        listed = self._world.account(protocol.name).list_of(recipient)
        return script if script.refusal or listed is None else protocol.on_list.get(listed, script)

    def refusal(self, protocol: Protocol, about: About, script: Script) -> Verdict | None:
        """Turn a recipient away if its script does so this time; counts the times."""
        if script.refusal is None:
            return None
        if script.refusal.times is not None:
            key = (protocol.name, about.recipient or "")
            if self._refused[key] >= script.refusal.times:
                return None
            self._refused[key] += 1
        return Verdict(Do.REFUSE, False, about, f"refused by {script.name}", script.refusal.reason)
