"""The small endpoints: the signing key, and messages as they were sent."""

from __future__ import annotations

from litestar import get
from litestar.types import ASGIApp

from app.sandbox.httpapi import AnyRequest, answer, as_json, sandbox_of, settings_of
from app.sandbox.mailgun.settings import MailgunSettings


@get("/v5/accounts/http_signing_key")
async def signing_key(request: AnyRequest) -> ASGIApp:
    """The key that webhooks are signed with."""
    key = settings_of(request, MailgunSettings).signing_key
    return answer(request, as_json({"message": "success", "http_signing_key": key}))


@get("/v3/domains/{domain:str}/messages/{key:str}")
async def stored_message(request: AnyRequest, domain: str, key: str) -> ASGIApp:
    """A message as it was sent, while its body is still kept: what an event's ``storage.url`` points at."""
    mail = sandbox_of(request).world.mailbox.get(key)
    if mail is None or mail.body is None or mail.message.provider != "mailgun":
        return answer(request, as_json({"message": "Message not found"}, 404))
    message = mail.message
    stored = message.headers | {
        "sender": message.sender,
        "recipients": message.recipient,
        "To": message.to,
        "Subject": message.title,
        "subject": message.title,
        "Message-Id": f"<{message.message_id}>",
        "body-plain": mail.body.text or "",
        "body-html": mail.body.html or "",
    }
    return answer(request, as_json(stored))
