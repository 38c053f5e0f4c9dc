"""Every failure as problem+json (RFC 9457), rendered in this one place.

``type`` is the relative URI ``/problems/<code>``, served by ``problems``; a code never changes its meaning.
What a caller may know of an unexpected failure is its id, which the log carries beside the traceback.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import msgspec
import structlog
from litestar import MediaType, Request, Response, get
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from psycopg import InterfaceError, OperationalError
from psycopg.errors import LockNotAvailable
from psycopg_pool import PoolTimeout

from app.errors import (
    Forbidden,
    InvalidFields,
    InvalidRequest,
    LandedError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    WebhookRefused,
)

log = structlog.get_logger()

PROBLEM_JSON = "application/problem+json"
DATABASE_RETRY_AFTER_SECONDS = 1.0

# What the framework refuses before our code runs, as the same errors that our code raises.
FRAMEWORK_ERRORS: Mapping[int, type[LandedError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
    429: TooManyRequests,
    503: Unavailable,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A failure as the caller sees it: the JSON document, its status, and headers that go with it."""

    status: int
    document: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> Response[bytes]:
        return Response(
            msgspec.json.encode(self.document),
            status_code=self.status,
            headers=self.headers,
            media_type=PROBLEM_JSON,
        )


def problem_of(error: Exception) -> Problem:
    """The problem an exception comes to; anything that is not ours says nothing of its inside."""
    if isinstance(error, LandedError) and error.status != HTTPStatus.INTERNAL_SERVER_ERROR:
        return _of_ours(error)
    if isinstance(error, HTTPException):
        return _of_framework(error)
    if isinstance(error, LockNotAvailable):
        return _of_ours(Unavailable("another transaction is at work on this", retry_after_seconds=1))
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        return _of_ours(Unavailable("the database went away", retry_after_seconds=DATABASE_RETRY_AFTER_SECONDS))
    return _of_ours(LandedError("an unexpected error, logged under this instance"))


def answer_problem(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler for everything."""
    problem = problem_of(error)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        instance = f"urn:uuid:{uuid4()}"
        problem.document["instance"] = instance
        log.error("request_failed", instance=instance, path=request.scope.get("path_template"), exc_info=error)
    return problem.response()


def _of_ours(error: LandedError) -> Problem:
    status = error.http_status if isinstance(error, WebhookRefused) else error.status
    document: dict[str, Any] = {
        "type": f"/problems/{error.code}",
        "title": error.title(),
        "status": status,
        "detail": error.detail,
    }
    if isinstance(error, InvalidFields):
        document["errors"] = [{"field": e.field, "message": e.message} for e in error.errors]
    document.update(error.extra)
    return Problem(status, document, _headers_of(error))


def _headers_of(error: LandedError) -> dict[str, str]:
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))  # whole seconds: RFC 9110, 10.2.3
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, 11.6.1
    return headers


def _of_framework(error: HTTPException) -> Problem:
    kind = FRAMEWORK_ERRORS.get(error.status_code)
    if kind is None:
        known = error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR
        return _of_ours(InvalidRequest(error.detail) if known else LandedError())
    problem = _of_ours(kind(error.detail))
    problem.headers.update(error.headers or {})
    return problem


# -- the page behind every ``type`` ------------------------------------------------------------------------


def every_problem(kind: type[LandedError] = LandedError) -> Iterator[type[LandedError]]:
    """The tree of errors, parents first."""
    yield kind
    for child in kind.__subclasses__():
        yield from every_problem(child)


PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Problems: Landed</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}}
td,th{{text-align:left;padding:.3rem 1rem .3rem
0;vertical-align:top}}:target{{background:#ffd}}</style></head> <body><h1>Problems</h1><p>What the
<code>type</code> of an error response may be (RFC 9457).</p>
<table><tr><th>type</th><th>status</th><th>meaning</th></tr>{rows}</table></body></html>"""


def _page(kinds: list[type[LandedError]]) -> str:
    rows = "".join(
        f'<tr id="{kind.code}"><td><a href="/problems/{kind.code}">{kind.code}</a></td>'
        f"<td>{kind.status}</td><td>{html.escape(kind.title())}</td></tr>"
        for kind in kinds
    )
    return PAGE.format(rows=rows)


@get("/problems", media_type=MediaType.HTML, include_in_schema=False, sync_to_thread=False)
def list_problems() -> str:
    return _page(list(every_problem()))


@get("/problems/{code:str}", media_type=MediaType.HTML, include_in_schema=False, sync_to_thread=False)
def show_problem(code: FromPath[str]) -> str:
    kinds = [kind for kind in every_problem() if kind.code == code]
    if not kinds:
        raise NotFound(f"no problem is called {code!r}; /problems lists them")
    return _page(kinds)


routes = [list_problems, show_problem]
