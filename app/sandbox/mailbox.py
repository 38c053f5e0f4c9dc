"""The mailbox page: what was sent on every channel, what became of it, and which recipients script what.

Message HTML is somebody else's: it is shown only in a sandboxed frame, under a policy that lets it load
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request, Response, get
from litestar.types import ControllerRouterHandler

from app.sandbox.ledger import Kind
from app.sandbox.runtime import Sandbox
from app.sandbox.scripting import Book
from app.sandbox.world import EventData, Mail

#: Messages on the page; the ledger has the rest.
MAX_LISTED: Final = 200
REFRESH_SECONDS: Final = 3
MAX_TITLE: Final = 120

_HERE: Final = Path(__file__).parent
_STYLE: Final = (_HERE / "static" / "sandbox.css").read_bytes()

_COMMON_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PAGE_HEADERS: Final = {
    **_COMMON_HEADERS,
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
}
MESSAGE_HEADERS: Final = {
    **_COMMON_HEADERS,
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
    ),
}

#: How the last event of a message reads, and the tone it is shown in.
_STATES: Final = {
    "accepted": ("accepted", "waiting"),
    "queued": ("queued", "waiting"),
    "sent": ("sent", "waiting"),
    "temporary": ("deferred", "waiting"),
    "delivered": ("delivered", "good"),
    "opened": ("opened", "good"),
    "clicked": ("clicked", "good"),
    "read": ("read", "good"),
    "replied": ("answered", "good"),
    "dismissed": ("dismissed", "good"),
    "received": ("received", "good"),
    "replaced": ("replaced", "waiting"),
    "permanent": ("failed", "bad"),
    "rejected": ("rejected", "bad"),
    "complained": ("complained", "bad"),
    "unsubscribed": ("unsubscribed", "bad"),
}

AnyRequest = Request[Any, Any, Any]
Page = Response[str]


def _clock(at: datetime | float) -> str:
    moment = datetime.fromtimestamp(at, UTC) if isinstance(at, float) else at.astimezone(UTC)
    return moment.strftime("%H:%M:%S.%f")[:-3]


def _what(mail: Mail) -> str:
    """A line that says what the message was: its title, else the beginning of its text while that is kept."""
    if mail.message.title:
        return mail.message.title
    text = (mail.body.text or "") if mail.body else ""
    return " ".join(text.split())[:MAX_TITLE] or (
        "(no subject)" if mail.message.channel == "email" else "(text not kept)"
    )


_templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_templates.filters.update(clock=_clock, what=_what)
_templates.globals.update(states=_STATES)


@get("/")
async def mailbox(request: AnyRequest, to: str = "", provider: str = "", pause: bool = False) -> Page:
    """The messages, newest first; ``to`` narrows them to recipients that contain it."""
    sandbox = _sandbox(request)
    wanted = to.strip().lower()
    fitting = (
        mail
        for mail in sandbox.world.newest_first()
        if wanted in mail.message.recipient.lower() and provider in ("", mail.message.provider)
    )
    listed = [mail for mail, _ in zip(fitting, range(MAX_LISTED), strict=False)]
    return _page(
        "mailbox.html",
        sandbox,
        mails=listed,
        to=to,
        provider=provider,
        providers=sorted(sandbox.protocols),
        refresh=None if pause or wanted or provider else REFRESH_SECONDS,
        accepted=sandbox.world.counts[Kind.ACCEPTED],
        under_way=len(sandbox.world.unfinished),
        webhooks_posted=sandbox.world.counts[Kind.WEBHOOK],
        webhooks_owed=sum(posts for _, posts in sandbox.world.owed.values()),
        books=_books(sandbox),
        mailgun=sandbox.protocols["mailgun"].settings,
    )


@get("/messages/{message_id:str}")
async def message(request: AnyRequest, message_id: str) -> Page:
    """One message: its headers, its body, and everything that happened to it."""
    sandbox = _sandbox(request)
    mail = sandbox.world.mailbox.get(message_id)
    if mail is None:
        return page_not_found_for(sandbox)
    return _page("message.html", sandbox, mail=mail, lines=_timeline(mail))


@get("/messages/{message_id:str}/html")
async def message_html(request: AnyRequest, message_id: str) -> Page:
    """The message's own HTML, for the frame."""
    mail = _sandbox(request).world.mailbox.get(message_id)
    if mail is None or mail.body is None or mail.body.html is None:
        return Response("This message has no HTML.", status_code=404, media_type="text/plain", headers=MESSAGE_HEADERS)
    return Response(mail.body.html, media_type="text/html", headers=MESSAGE_HEADERS)


@get("/static/sandbox.css")
async def style() -> Response[bytes]:
    return Response(_STYLE, media_type="text/css", headers={"X-Content-Type-Options": "nosniff"})


def page_not_found() -> Page:
    """For a path that is neither a page nor a provider's."""
    return Response("Not found", status_code=404, media_type="text/plain")


def page_not_found_for(sandbox: Sandbox) -> Page:
    response = _page("gone.html", sandbox)
    response.status_code = 404
    return response


def _books(sandbox: Sandbox) -> list[Book]:
    """The books of scripts that the protocols play, each once."""
    books: list[Book] = []
    for protocol in sandbox.protocols.values():
        if protocol.scripts not in books:
            books.append(protocol.scripts)
    return books


def _timeline(mail: Mail) -> list[dict[str, Any]]:
    """Events and webhooks in the order they happened, as the template shows them."""
    lines = []
    for entry, data in mail.timeline:
        is_event = isinstance(data, EventData)
        lines.append({"at": entry.at, "is_event": is_event, "status": entry.status, "note": entry.note, "data": data})
    return lines


def _page(template: str, sandbox: Sandbox, **values: Any) -> Page:
    faults = sandbox.faults.in_force()
    html = _templates.get_template(template).render(config=sandbox.config, faults=faults, **values)
    return Response(html, media_type="text/html", headers=PAGE_HEADERS)


def _sandbox(request: AnyRequest) -> Sandbox:
    sandbox: Sandbox = request.app.state.sandbox
    return sandbox


def mailbox_handlers() -> Sequence[ControllerRouterHandler]:
    """Each by itself: a router would claim every method of ``/``, where Amazon's JSON services are posted to."""
    return (mailbox, message, message_html, style)
