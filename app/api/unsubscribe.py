"""The links in List-Unsubscribe (RFC 8058): no key, no cookie; the signed token says who opts out of what."""

from __future__ import annotations

import contextlib
import html
from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK, HTTP_404_NOT_FOUND

from app.api.state import Api
from app.domain.tokens import BadToken, Subscription, verify
from app.secrets import signing_secret
from app.store import suppressions

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-robots-tag": "noindex",
}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>body{{font:18px/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem}}
button{{font:inherit;padding:.5rem 1.5rem}}</style></head><body><h1>{title}</h1>{content}</body></html>"""


@contextlib.asynccontextmanager
async def signing(app: Litestar) -> AsyncIterator[None]:
    """Lifespan: the secret is read, or made, before the first request. Raises ConfigurationError."""
    app.state.signing_secret = signing_secret(app.state.api.settings)
    yield


@get("/u/{token:str}", include_in_schema=False, sync_to_thread=False)
def ask(request: Request[Any, Any, Any], token: FromPath[str]) -> Response[str]:
    """A page with a button. Looking at it changes nothing: programs follow links in mail before people do."""
    try:
        subscription = verify(request.app.state.signing_secret, token)
    except BadToken:
        return _not_a_link()
    what = _what(subscription)
    return _page(
        "Unsubscribe?",
        f'<p>Stop {what}?</p><form method="post"><button type="submit">Unsubscribe</button></form>',
    )


@post("/u/{token:str}", include_in_schema=False, status_code=HTTP_200_OK)
async def unsubscribe(request: Request[Any, Any, Any], token: FromPath[str], api: Api) -> Response[str]:
    """Acts at once, on the page's button and on a mail client's (``List-Unsubscribe=One-Click``) alike: the
    token is the authority, so no body is asked for and none can be wrong."""
    try:
        subscription = verify(request.app.state.signing_secret, token)
    except BadToken:
        return _not_a_link()
    async with api.db.transaction(durable=True) as conn:
        await suppressions.add(
            conn,
            subscription.tenant_id,
            channel=subscription.channel,
            address=subscription.address,
            scope=subscription.category,
            reason="unsubscribe",
            source="recipient",
            actor="recipient",
        )
    return _page("Unsubscribed", f"<p>You will get no more {_what(subscription)}.</p>")


def _what(subscription: Subscription) -> str:
    category, address = html.escape(subscription.category), html.escape(subscription.address)
    return f"{html.escape(subscription.channel)} of the kind <b>{category}</b> to <b>{address}</b>"


def _not_a_link() -> Response[str]:
    content = "<p>Please use the whole link from the message, or reply to it.</p>"
    return _page("This link is not complete", content, HTTP_404_NOT_FOUND)


def _page(title: str, content: str, status_code: int = HTTP_200_OK) -> Response[str]:
    return Response(
        PAGE.format(title=title, content=content),
        media_type=MediaType.HTML,
        status_code=status_code,
        headers=HEADERS,
    )


routes = [ask, unsubscribe]
