"""What the SMS vendors have in common: numbers, lengths, the texts they keep, and people who answer."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import gsm0338  # type: ignore[import-untyped]  # ships no types
import msgspec
from litestar import post
from litestar.exceptions import NotFoundException, ValidationException
from litestar.types import ControllerRouterHandler

from app.sandbox.emails import message_at
from app.sandbox.httpapi import AnyRequest, HttpProtocol
from app.sandbox.runtime import Sandbox
from app.sandbox.scripting import Step
from app.sandbox.sms.scripts import OPTED_OUT, SMS
from app.sandbox.world import Message

#: Texts kept to be read back over a vendor's API.
MAX_TEXTS: Final = 10_000

_E164: Final = re.compile(r"\+[1-9]\d{6,14}")
_STOP: Final = frozenset({"STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT"})
_START: Final = frozenset({"START", "YES", "UNSTOP"})
_HELP: Final = frozenset({"HELP", "INFO"})
_GSM: Final = gsm0338.Codec()


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request that the person behind ``recipient`` answer the newest text it got with ``text``."""

    recipient: str
    text: str


class Sms(HttpProtocol):
    """A vendor of text messages. Texts are kept in memory only, as bodies are everywhere."""

    channel = "sms"
    scripts = SMS

    def __init__(self, sandbox: Sandbox, settings: Any) -> None:
        super().__init__(sandbox, settings)
        self._texts: OrderedDict[str, str] = OrderedDict()

    def handlers(self) -> Sequence[ControllerRouterHandler]:
        """The vendor's API, and a control through which a person answers."""
        name = self.name

        @post(f"/sandbox/{name}/replies", status_code=204)
        async def reply(request: AnyRequest) -> None:
            await answered(request, name)

        return [*super().handlers(), reply]

    def remember(self, message: Message, text: str) -> None:
        """Keep a text to read it back; the oldest are forgotten."""
        self._texts[message.id] = text
        if len(self._texts) > MAX_TEXTS:
            self._texts.popitem(last=False)

    def text_of(self, message: Message) -> str:
        """The text as it was sent; empty once it is forgotten, as after a restart."""
        return self._texts.get(message.id, "")


async def answered(request: AnyRequest, provider: str) -> None:
    """Let the person behind a number answer the newest text that this provider sent it."""
    sandbox: Sandbox = request.app.state.sandbox
    try:
        reply = msgspec.json.decode(await request.body(), type=Reply)
    except msgspec.DecodeError as exc:
        raise ValidationException(str(exc)) from exc
    refs = sandbox.world.account(provider).messages_to(reply.recipient)
    if not refs:
        raise NotFoundException(f"{provider} has sent nothing to {reply.recipient}")
    kind = keyword(reply.text)
    step = Step(
        "replied",
        text=reply.text,
        suppresses=OPTED_OUT if kind == "STOP" else None,
        relieves=OPTED_OUT if kind == "START" else None,
    )
    sandbox.carrier.play(message_at(sandbox, refs[-1]), step)


def keyword(text: str) -> str | None:
    """STOP, START or HELP when the whole text is a word that carriers take for it."""
    word = text.strip().upper()
    words = {"STOP": _STOP, "START": _START, "HELP": _HELP}
    return next((kind for kind, meant in words.items() if word in meant), None)


def e164(number: str) -> str | None:
    """A number as ``+14155550100``, with or without the sign; None for what is no international number."""
    number = number if number.startswith("+") else f"+{number}"
    return number if _E164.fullmatch(number) else None


def is_gsm(text: str) -> bool:
    """Whether a text is written in the GSM 03.38 alphabet alone."""
    try:
        _GSM.encode(text)
    except UnicodeError:
        return False
    return True


def parts(text: str) -> int:
    """How many messages a text travels as: 160 septets or 70 UTF-16 units, or 153 and 67 when it must be divided."""
    if is_gsm(text):
        return _divided(len(_GSM.encode(text)[0]), whole=160, part=153)
    return _divided(len(text.encode("utf-16-be")) // 2, whole=70, part=67)


def _divided(length: int, *, whole: int, part: int) -> int:
    return 1 if length <= whole else math.ceil(length / part)
