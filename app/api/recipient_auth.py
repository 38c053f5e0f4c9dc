"""Who is asking, where recipients ask for themselves: a browser or an app with the token of one recipient.

A token says which recipient it is of; nothing else in a request can. The tenant's own backend may come with an API key
instead where a route allows it, and then names the recipient: ``?recipient_id=``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers.base import BaseRouteHandler

from app.api.auth import Scope, authenticate
from app.api.fields import known_id
from app.api.headers import header
from app.api.state import ApiState
from app.domain import recipient_tokens
from app.domain.recipient_tokens import BadToken
from app.errors import FieldError, InvalidFields, Unauthenticated

IN_QUERY = "access_token"  # RFC 6750, 2.3: for EventSource, which sends no headers of ours; never logged
API_KEY = "lk_"


@dataclass(frozen=True, slots=True)
class RecipientCaller:
    """The one recipient that a request is about. expires_at: of its token (UTC); None with an API key."""

    tenant_id: int
    recipient_id: str
    expires_at: datetime | None = None


OfRecipient: TypeAlias = NamedDependency[RecipientCaller]
"""What a handler writes: ``recipient: OfRecipient``."""


async def recipient_of(
    connection: ASGIConnection[Any, Any, Any, Any],
    api: ApiState,
    *,
    or_key: Scope | None = None,
    in_query: bool = False,
) -> RecipientCaller:
    """The recipient whose token came with the request.

    or_key: an API key with this scope will do as well, with ``?recipient_id=``. in_query: the token may come as
    ``?access_token=``.
    Raises Unauthenticated, Forbidden for a key without the scope, InvalidFields without ``recipient_id``.
    """
    if or_key is not None and presents_key(connection):
        caller = await authenticate(connection, or_key)
        return RecipientCaller(caller.tenant_id, _named(connection))
    return await _of_token(_presented(connection, in_query), api)


def presents_key(connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
    """Whether the request carries an API key, good or not, rather than a recipient's token."""
    authorization = header(connection.scope, b"authorization") or ""
    return authorization[7:].lstrip().startswith(API_KEY) or header(connection.scope, b"x-api-key") is not None


def requires_recipient(
    *, or_key: Scope, in_query: bool = False
) -> Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]:
    """A guard: the request must be a recipient's. Handlers then take ``recipient: OfRecipient``."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        api: ApiState = connection.app.state.api
        connection.scope["user"] = await recipient_of(connection, api, or_key=or_key, in_query=in_query)

    return guard


def guarded(request: Request[Any, Any, Any]) -> RecipientCaller:
    """The dependency ``recipient``; the handler must have a guard made by ``requires_recipient``."""
    recipient: RecipientCaller = request.user
    return recipient


async def _of_token(token: str, api: ApiState) -> RecipientCaller:
    now = datetime.now(UTC)
    try:
        tenant = recipient_tokens.claimed_tenant(token)
        found = await api.signing_secrets.get(tenant)
        claims = recipient_tokens.verify(
            token,
            () if found is None else found.good_at(now),
            tenant=tenant,
            now=now,
            ttl_max_seconds=api.settings.inbox.token_ttl_max_seconds,
        )
    except BadToken as bad:
        raise Unauthenticated(str(bad)) from None
    assert found is not None
    return RecipientCaller(found.tenant_id, claims.recipient_id, claims.expires_at)


def _presented(connection: ASGIConnection[Any, Any, Any, Any], in_query: bool) -> str:
    """The token in the header, or in the query. Raises Unauthenticated."""
    authorization = header(connection.scope, b"authorization")
    queried = connection.query_params.getall(IN_QUERY, []) if in_query else []
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("the Authorization header must read 'Bearer <recipient token>'")
        if queried:
            raise Unauthenticated(f"the token came in the Authorization header and as {IN_QUERY}; send it once")
        return token.strip()
    if len(queried) == 1:
        return str(queried[0])
    also = f", or give it as ?{IN_QUERY}=" if in_query else ""
    raise Unauthenticated(f"send a recipient token: 'Authorization: Bearer <token>'{also}")


def _named(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The recipient that a request with an API key is about. Raises InvalidFields, NotFound."""
    named = connection.query_params.getall("recipient_id", [])
    if len(named) != 1 or not named[0]:
        raise InvalidFields(FieldError("recipient_id", "is required once with an API key: whose inbox"))
    return known_id(named[0])
