"""Every endpoint of the protocol, behind one door."""

from __future__ import annotations

from litestar import Router, get
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp

from app.sandbox.mailgun.answering import admit, answer, as_json, failed, sandbox_of
from app.sandbox.mailgun.events import events, events_page
from app.sandbox.mailgun.send import send
from app.sandbox.mailgun.submission import AnyRequest
from app.sandbox.mailgun.suppressions import delete_suppression, get_suppression, list_suppressions


@get("/v5/accounts/http_signing_key")
async def signing_key(request: AnyRequest) -> ASGIApp:
    """The key that webhooks are signed with."""
    key = sandbox_of(request).config.signing_key
    return answer(request, as_json({"message": "success", "http_signing_key": key}))


@get("/v3/domains/{domain:str}/messages/{key:str}")
async def stored_message(request: AnyRequest, domain: str, key: str) -> ASGIApp:
    """A message as it was sent, while its body is still kept: what an event's ``storage.url`` points at."""
    mail = sandbox_of(request).world.mailbox.get(key)
    if mail is None or mail.body is None:
        return answer(request, as_json({"message": "Message not found"}, 404))
    message = mail.message
    stored = message.headers | {
        "sender": message.sender,
        "recipients": message.recipient,
        "To": message.to,
        "Subject": message.subject,
        "subject": message.subject,
        "Message-Id": f"<{message.message_id}>",
        "body-plain": mail.body.text or "",
        "body-html": mail.body.html or "",
    }
    return answer(request, as_json(stored))


def mailgun_router() -> Router:
    """Mailgun's API, each call admitted by ``admit`` and written down."""
    return Router(
        path="/",
        before_request=admit,
        exception_handlers={HTTPException: failed},
        route_handlers=[
            send,
            events,
            events_page,
            list_suppressions,
            get_suppression,
            delete_suppression,
            stored_message,
            signing_key,
        ],
    )
