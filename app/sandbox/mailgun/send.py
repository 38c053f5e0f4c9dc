"""The send endpoints."""

from __future__ import annotations

import re
import secrets
import time
from typing import Final

from litestar import post
from litestar.types import ASGIApp

from app.sandbox.calls import Draft
from app.sandbox.httpapi import AnyRequest, answer, as_json, settings_of, take
from app.sandbox.mailgun.settings import MailgunSettings
from app.sandbox.mailgun.submission import Invalid, Submission, read_submission
from app.sandbox.world import Message

#: Mailgun truncates user variables above this in its events.
MAX_VARIABLE_BYTES: Final = 4096

_PLACEHOLDER: Final = re.compile(r"%recipient\.([A-Za-z0-9_-]+)%")


@post(["/v3/{domain:str}/messages", "/v3/{domain:str}/messages.mime"])
async def send(request: AnyRequest, domain: str) -> ASGIApp:
    """Take a message on, or do to the caller what its first scripted recipient asks for."""
    try:
        submission = await read_submission(request, domain)
    except Invalid as exc:
        return answer(request, as_json({"message": str(exc)}, 400))
    drafts = [Draft(_message(request, submission, address), submission.body) for address in submission.recipients]
    return take(request, drafts, as_json({"id": f"<{submission.message_id}>", "message": "Queued. Thank you."}))


def _message(request: AnyRequest, submission: Submission, address: str) -> Message:
    return Message(
        id=secrets.token_hex(8),
        message_id=submission.message_id,
        recipient=address,
        sender=submission.sender,
        to=submission.to,
        title=submission.subject,
        domain=settings_of(request, MailgunSettings).domain,
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
