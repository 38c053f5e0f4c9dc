"""The send endpoints."""

from __future__ import annotations

import re
import secrets
import time
from typing import Final

from litestar import post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from app.sandbox.answers import Hold, Reset
from app.sandbox.faults import Mode
from app.sandbox.ledger import About
from app.sandbox.mailgun.answering import (
    Late,
    answer,
    as_json,
    as_text,
    call_of,
    hold,
    rate_limited,
    sandbox_of,
    silence,
)
from app.sandbox.mailgun.submission import AnyRequest, Invalid, Submission, read_submission
from app.sandbox.runtime import Sandbox
from app.sandbox.scripts import ON_LIST, SLOW_ANSWER_SECONDS, Answer, Refusal, Script, script_for
from app.sandbox.world import Message

#: Mailgun truncates user variables above this in its events.
MAX_VARIABLE_BYTES: Final = 4096

_PLACEHOLDER: Final = re.compile(r"%recipient\.([A-Za-z0-9_-]+)%")


@post(["/v3/{domain:str}/messages", "/v3/{domain:str}/messages.mime"])
async def send(request: AnyRequest, domain: str) -> ASGIApp:
    """Take a message on, or do to the caller what its first scripted recipient asks for."""
    sandbox = sandbox_of(request)
    try:
        submission = await read_submission(request, domain)
    except Invalid as exc:
        return answer(request, as_json({"message": str(exc)}, 400))
    scripts = {address: script_for(address) for address in submission.recipients}
    for address, script in scripts.items():
        if script.refusal and (refusal := _refuse(sandbox, address, script.refusal)):
            note = f"refused by {script.name}"
            return answer(request, refusal, about=_about(submission, address), note=note)
    reaction = next((s.answer for s in scripts.values() if s.answer is not Answer.ACCEPT), Answer.ACCEPT)
    if reaction is Answer.HANG:
        about = _about(submission, submission.recipients[0])
        return hold(request, about=about, note="held without accepting")
    _accept(sandbox, submission, scripts, call=call_of(request))
    return _react(request, submission, _overruled(request, reaction))


def _refuse(sandbox: Sandbox, address: str, refusal: Refusal) -> ASGIResponse | None:
    if refusal.times is not None:
        if sandbox.refused[address] >= refusal.times:
            return None
        sandbox.refused[address] += 1
    if refusal.status == 429:
        return rate_limited(sandbox)
    text = refusal.message.format(domain=sandbox.config.domain)
    return as_text(text, refusal.status) if refusal.plain_text else as_json({"message": text}, refusal.status)


def _accept(sandbox: Sandbox, submission: Submission, scripts: dict[str, Script], *, call: int) -> None:
    for address, script in scripts.items():
        listed = sandbox.world.list_of(address)
        message = _message(sandbox, submission, address, ON_LIST[listed] if listed else script)
        sandbox.carrier.accept(message, submission.body, call=call)


def _message(sandbox: Sandbox, submission: Submission, address: str, script: Script) -> Message:
    return Message(
        id=secrets.token_hex(8),
        message_id=submission.message_id,
        script=script.name,
        recipient=address,
        sender=submission.sender,
        to=submission.to,
        subject=submission.subject,
        domain=sandbox.config.domain,
        accepted_at=time.time(),
        size=submission.size,
        tags=submission.tags,
        variables=_variables(submission, address),
        headers=submission.headers,
        test_mode=submission.test_mode,
        attachments=submission.attachments,
    )


def _variables(submission: Submission, address: str) -> dict[str, str]:
    """The user variables of one recipient, with ``%recipient.x%`` filled in, cut as Mailgun cuts them."""
    own = submission.recipient_variables.get(address, {})

    def fill(match: re.Match[str]) -> str:
        return str(own.get(match[1], match[0]))

    return {
        name: (_PLACEHOLDER.sub(fill, value) if own else value)[:MAX_VARIABLE_BYTES]
        for name, value in submission.variables.items()
    }


def _about(submission: Submission, address: str) -> About:
    variables = _variables(submission, address)
    return About(
        recipient=address,
        message_id=submission.message_id,
        landed_delivery=variables.get("landed_delivery"),
        landed_attempt=variables.get("landed_attempt"),
    )


_OVERRULES: Final = {
    Mode.ACCEPT_THEN_HANG: Answer.ACCEPT_THEN_HANG,
    Mode.ACCEPT_THEN_RESET: Answer.ACCEPT_THEN_RESET,
    Mode.ACCEPT_THEN_ERROR: Answer.ACCEPT_THEN_ERROR,
}


def _overruled(request: AnyRequest, reaction: Answer) -> Answer:
    """A fault of the whole provider goes before the script of one address."""
    fault: Mode = request.scope["state"]["fault"]
    return _OVERRULES.get(fault, reaction)


def _react(request: AnyRequest, submission: Submission, reaction: Answer) -> ASGIApp:
    """Tell the caller of an accepted message what the script wants it to hear."""
    sandbox, about = sandbox_of(request), _about(submission, submission.recipients[0])
    queued = as_json({"id": f"<{submission.message_id}>", "message": "Queued. Thank you."})
    match reaction:
        case Answer.ACCEPT_SLOWLY:
            late = Late(request, queued, about=about, note="answered late")
            wait = sandbox.config.scaled(SLOW_ANSWER_SECONDS)
            return Hold(sandbox.faults, seconds=wait, released=late, expired=late)
        case Answer.ACCEPT_THEN_HANG:
            late = Late(request, queued, about=about, note="released")
            return hold(request, about=about, note="accepted, then held", released=late)
        case Answer.ACCEPT_THEN_RESET:
            return silence(request, Reset(), about=about, note="accepted, then reset")
        case Answer.ACCEPT_THEN_ERROR:
            error = as_json({"message": "Internal Server Error"}, 500)
            return answer(request, error, about=about, note="accepted, then error")
        case _:
            return answer(request, queued, about=about)
