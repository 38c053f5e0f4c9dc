"""The pixel and the links in messages whose provider tells nothing of opens and clicks (R-056, R-189, R-190).

Whoever follows a link wants to get there: they do, whether or not we could write it down.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from litestar import HttpMethod, MediaType, Request, Response, route
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK, HTTP_302_FOUND, HTTP_404_NOT_FOUND

from app.api.headers import header
from app.domain.models import Evidence
from app.domain.tokens import BadToken, read_click, read_open
from app.errors import LandedError
from app.flows.receipts import Receipts, of_click, of_open

log = structlog.get_logger()

PATIENCE_SECONDS = 1.0  # longer, and a person thinks that the link is broken
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")  # one transparent pixel
SUFFIX = ".gif"
HEADERS = {"x-robots-tag": "noindex"}
NOT_A_LINK = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>This link is not complete</title></head><body><h1>This link is not complete</h1>
<p>Please use the whole link from the message.</p></body></html>"""

READING = [HttpMethod.GET, HttpMethod.HEAD]


@route("/o/{name:str}", http_method=READING, include_in_schema=False)
async def opened(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes] | Response[str]:
    """The pixel. It is never kept by anybody on the way, so that each open is seen."""
    try:
        attempt = read_open(request.app.state.signing_secret, name.removesuffix(SUFFIX))
    except BadToken:
        return _not_a_link()
    await _tell(request, of_open(attempt, datetime.now(UTC), user_agent=_agent(request), machine=_is_machine(request)))
    return Response(GIF, media_type="image/gif", status_code=HTTP_200_OK, headers=HEADERS)


@route("/c/{token:str}", http_method=READING, include_in_schema=False)
async def clicked(request: Request[Any, Any, Any], token: FromPath[str]) -> Response[str]:
    """Leads on to where the link of the message led: the signed URL, and no other."""
    try:
        link = read_click(request.app.state.signing_secret, token)
    except BadToken:
        return _not_a_link()
    await _tell(request, of_click(link, datetime.now(UTC), user_agent=_agent(request), machine=_is_machine(request)))
    return Response(
        "", media_type=MediaType.TEXT, status_code=HTTP_302_FOUND, headers={**HEADERS, "location": link.url}
    )


async def _tell(request: Request[Any, Any, Any], facts: Sequence[Evidence]) -> None:
    """Waits a moment until it is stored. What takes longer is stored later; the log names it, should it be lost."""
    receipts: Receipts = request.app.state.receipts
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await receipts.tell(facts)
    except (TimeoutError, LandedError) as error:
        for fact in facts:
            log.warning(
                "engagement_not_stored_yet",
                kind=str(fact.kind),
                delivery_id=str(fact.delivery_id),
                attempt_no=fact.attempt_no,
                error=type(error).__name__,
            )


def _agent(request: Request[Any, Any, Any]) -> str:
    return header(request.scope, b"user-agent") or ""


def _is_machine(request: Request[Any, Any, Any]) -> bool:
    """What says of itself that nobody is looking: a HEAD, or a browser's prefetch (Fetch Metadata, Sec-Purpose)."""
    purpose = header(request.scope, b"sec-purpose") or header(request.scope, b"purpose") or ""
    return request.method == HttpMethod.HEAD or "prefetch" in purpose or "preview" in purpose


def _not_a_link() -> Response[str]:
    return Response(NOT_A_LINK, media_type=MediaType.HTML, status_code=HTTP_404_NOT_FOUND, headers=HEADERS)


routes = [opened, clicked]
