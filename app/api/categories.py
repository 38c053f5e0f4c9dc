"""Categories: what kinds of notification a tenant sends, and the policies of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from litestar import Controller, Request, get, put
from litestar.params import FromPath
from pydantic import AfterValidator, Field, TypeAdapter
from pydantic_core import PydanticCustomError

from app.api.auth import CalledBy, requires
from app.api.fields import SLUG, Sender, known_id
from app.api.paging import Page, Query, behind, lists, page, read_query
from app.api.schemas import Body, Line, Text, read_model, takes
from app.api.state import Api
from app.domain.models import Channel, NotificationClass
from app.errors import FieldError, InvalidFields, NotFound
from app.store import categories
from app.store.categories import Category, CategoryRules

AFTER: TypeAdapter[tuple[Line]] = TypeAdapter(tuple[Line])
NAME: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(pattern=SLUG)])


def _no_two_alike(channels: list[Channel]) -> list[Channel]:
    if len(set(channels)) < len(channels):
        raise PydanticCustomError("twice", "must not name a channel twice")
    return channels


class PutCategory(Body):
    """All of a category: what is not given goes back to its default."""

    class_: Annotated[NotificationClass, Field(strict=False)] = Field(
        alias="class", description="how urgent it is, and which lane it takes"
    )
    channels: Annotated[list[Annotated[Channel, Field(strict=False)]], AfterValidator(_no_two_alike)] = Field(
        default=[Channel.EMAIL], min_length=1, description="where it goes unless a send says otherwise"
    )
    sender: Sender | None = Field(default=None, description="From; default: the tenant's (R-117)")
    reply_to: Sender | None = Field(default=None, description="Reply-To; default: the tenant's")
    ambiguity_policy: Literal["park", "resend_if_absent", "at_least_once"] = Field(
        default="resend_if_absent",
        description="when nobody can say whether a message went out: leave it for people (park), send again "
        "once the provider shows that it has none (resend_if_absent), or send again in any case",
    )
    validity_seconds: int | None = Field(
        default=None, ge=1, description="how long after it is due it is worth sending; default: a day"
    )
    recipient_per_hour: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="how much of it one recipient gets on a channel in an hour, counted by itself; what is more waits. "
        "0: any number. Default: it counts with the others, against the limit of the channel",
    )
    track_opens: bool = False
    track_clicks: bool = False
    test_mode: bool = Field(default=False, description="the provider accepts it and delivers nothing")
    description: Annotated[Text, Field(max_length=500)] = ""


class CategoriesController(Controller):
    path = "/api/v1/categories"
    tags = ("categories",)

    @put(
        "/{name:str}",
        summary="Create or replace a category",
        guards=[requires("admin")],
        operation_class=takes(PutCategory),
    )
    async def replace(
        self, request: Request[Any, Any, Any], name: FromPath[str], api: Api, caller: CalledBy
    ) -> Category:
        """Holds for what is accepted from now on; deliveries already planned keep their class and sender."""
        body = await read_model(request, PutCategory)
        _check(name, body, validity_seconds_max=api.settings.times.validity_seconds)
        async with api.db.transaction(durable=True) as conn:
            return await categories.upsert(conn, caller.tenant_id, name, CategoryRules(**body.model_dump(mode="json")))

    @get(summary="List categories", guards=[requires("read")], operation_class=lists(Query))
    async def list_all(self, request: Request[Any, Any, Any], api: Api, caller: CalledBy) -> Page[Category]:
        """By name."""
        query = read_query(request, Query)
        (after,) = behind(query.after, AFTER) or (None,)
        async with api.db.transaction() as conn:
            found = await categories.list_all(conn, caller.tenant_id, after=after, limit=query.limit + 1)
        return page(found, query.limit, lambda category: (category.name,))

    @get("/{name:str}", summary="Get a category", guards=[requires("read")])
    async def show(self, name: FromPath[str], api: Api, caller: CalledBy) -> Category:
        async with api.db.transaction() as conn:
            category = await categories.get(conn, caller.tenant_id, known_id(name))
        if category is None:
            raise NotFound(f"there is no category {name!r}")
        return category


def _check(name: str, body: PutCategory, *, validity_seconds_max: float) -> None:
    """Raises InvalidFields for what one field alone cannot show."""
    errors = []
    try:
        NAME.validate_python(name)
    except ValueError:
        errors.append(FieldError("name", f"must match {SLUG}"))
    if (body.validity_seconds or 0) > validity_seconds_max:
        message = f"must not be more than the {validity_seconds_max:g} that are configured"
        errors.append(FieldError("validity_seconds", message))
    if errors:
        raise InvalidFields(*errors)


routes = [CategoriesController]
