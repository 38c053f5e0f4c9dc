"""Suppressions: addresses that must not be sent to (I11), added by hand and lifted with a reason."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from litestar import Controller, Request, Response, get, post
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED
from pydantic import Field, TypeAdapter

from app.api.auth import CalledBy, Caller, requires
from app.api.fields import Reason, Slug
from app.api.paging import Page, Query, behind, lists, page, read_query
from app.api.schemas import Body, Line, Text, read_model, takes
from app.api.state import Api
from app.db import Connection
from app.domain import addresses
from app.errors import Conflict, FieldError, InvalidFields, NotFound
from app.store import categories, suppressions
from app.store.suppressions import SCOPE_ALL, Suppression

SuppressionId = Annotated[int, Field(le=2**63 - 1)]

# A STOP is heard, and not told by a tenant: it binds those that share the number.
GivenReason = Literal["manual", "hard_bounce", "soft_bounces", "complaint", "unsubscribe", "provider_suppressed"]
SuppressionReason = Literal[GivenReason, "opted_out"]
ChannelName = Literal["email", "push", "sms", "in_app", "webhook", "chat"]
Address = Annotated[Line, Field(min_length=1, max_length=1000)]
AFTER: TypeAdapter[tuple[SuppressionId]] = TypeAdapter(tuple[SuppressionId])


class AddSuppression(Body):
    """An address that must not be sent to. Reasons other than manual are for lists brought from elsewhere."""

    channel: ChannelName
    address: Address
    scope: Slug = Field(default=SCOPE_ALL, description="all, or the one category it covers")
    reason: GivenReason = "manual"
    detail: Annotated[Text, Field(max_length=500)] = ""


class LiftSuppression(Body):
    """Why the address may be sent to again; kept in the audit log."""

    reason: Reason


class SuppressionQuery(Query):
    channel: ChannelName | None = None
    address: Address | None = None
    reason: SuppressionReason | None = None
    active: bool | None = Field(default=None, description="false: those that were lifted; default: all")


class SuppressionsController(Controller):
    path = "/api/v1/suppressions"
    tags = ("suppressions",)

    @get(summary="List suppressions", guards=[requires("read")], operation_class=lists(SuppressionQuery))
    async def list_newest(self, request: Request[Any, Any, Any], api: Api, caller: CalledBy) -> Page[Suppression]:
        """Newest first, lifted ones included unless `active=true`."""
        query = read_query(request, SuppressionQuery)
        (after,) = behind(query.after, AFTER) or (None,)
        async with api.db.transaction() as conn:
            found = await suppressions.list_newest(
                conn,
                caller.tenant_id,
                channel=query.channel,
                address=query.address,
                reason=query.reason,
                active=query.active,
                after=after,
                limit=query.limit + 1,
            )
        return page(found, query.limit, lambda suppression: (suppression.id,))

    @post(summary="Suppress an address", guards=[requires("admin")], operation_class=takes(AddSuppression))
    async def add(self, request: Request[Any, Any, Any], api: Api, caller: CalledBy) -> Response[Suppression]:
        """Once this has answered, no new attempt goes to the address. 200 with the standing suppression when
        there is one for the same address and scope."""
        body = await read_model(request, AddSuppression)
        address = _normal(body.channel, body.address)
        async with api.db.transaction(durable=True) as conn:
            await _check_scope(conn, caller, body.scope)
            suppression, created = await suppressions.add(
                conn,
                caller.tenant_id,
                channel=body.channel,
                address=address,
                scope=body.scope,
                reason=body.reason,
                detail=body.detail,
                source="api",
                actor=caller.actor,
            )
        return Response(suppression, status_code=HTTP_201_CREATED if created else HTTP_200_OK)

    @post(
        "/{suppression_id:int}/lift",
        summary="Lift a suppression",
        guards=[requires("admin")],
        operation_class=takes(LiftSuppression),
        status_code=HTTP_200_OK,
    )
    async def lift(
        self, request: Request[Any, Any, Any], suppression_id: FromPath[int], api: Api, caller: CalledBy
    ) -> Suppression:
        """The address may be sent to again, and its soft bounces count from nothing. What was suppressed
        meanwhile stays so. A suppression already lifted answers 409."""
        body = await read_model(request, LiftSuppression)
        async with api.db.transaction(durable=True) as conn:
            found = await suppressions.get(conn, caller.tenant_id, suppression_id)
            if found is None:
                raise NotFound(f"there is no suppression {suppression_id}")
            lifted = await suppressions.lift(conn, caller.tenant_id, found, reason=body.reason, actor=caller.actor)
            if lifted is None:
                raise Conflict(f"suppression {suppression_id} was lifted before")
        return lifted


def _normal(channel: str, address: str) -> str:
    """The address as claims will look for it. Raises InvalidFields."""
    try:
        return addresses.normalise(channel, address)
    except ValueError as exc:
        raise InvalidFields(FieldError("address", str(exc))) from exc


async def _check_scope(conn: Connection, caller: Caller, scope: str) -> None:
    """A misspelt category would be an opt-out that nothing obeys. Raises InvalidFields."""
    if scope != SCOPE_ALL and await categories.get(conn, caller.tenant_id, scope) is None:
        raise InvalidFields(FieldError("scope", "is neither 'all' nor a category that exists"))


routes = [SuppressionsController]
