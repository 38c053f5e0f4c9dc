"""Recipients: whom a tenant notifies, and where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from litestar import Controller, Request, Response, get, post, put
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED
from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.api.auth import CalledBy, requires
from app.api.fields import Attributes, Email, Locale, Phone, TimeZone, checked, known_id
from app.api.schemas import Body, RecipientId, read_model, refusal, takes
from app.api.state import Api
from app.domain import addresses
from app.domain.models import Channel
from app.errors import FieldError, InvalidFields, InvalidRequest, NotFound
from app.store import recipients
from app.store.recipients import Recipient, RecipientProfile, SoftBounces
from app.store.suppressions import Suppression

MANY_MAX = 1000  # more would hold their rows for longer than a send should wait


EndpointChannel = Literal["webhook", "chat"]
# Spelt out, so that the schema of one recipient can stand inside that of many.
ChannelName = Annotated[Channel, Field(strict=False), WithJsonSchema({"type": "string", "enum": [*Channel]})]
EndpointId = Annotated[str, checked(addresses.endpoint_id)]


def _reachable(recipient_id: str) -> str:
    if "/" in recipient_id:
        raise PydanticCustomError("slash", "must not contain '/', which divides the parts of a path")
    return recipient_id


class PutRecipient(Body):
    """All of a recipient: what is not given is not known any more."""

    email: Email | None = None
    phone: Phone | None = Field(default=None, description="E.164")
    locale: Locale | None = Field(default=None, description="language tag, such as de or pt-BR")
    time_zone: TimeZone | None = Field(default=None, description="IANA name")
    active: bool = Field(default=True, description="false: sends to them are refused")
    attributes: Attributes = Field(default_factory=dict)
    addresses: dict[EndpointChannel, EndpointId] = Field(
        default_factory=dict, description="the endpoints that webhook and chat go to, by channel"
    )
    channels: Annotated[list[ChannelName], Field(min_length=1)] | None = Field(
        default=None, description="the channels it prefers, where a request names none; default: any"
    )


class NamedRecipient(PutRecipient):
    """A recipient with its id."""

    id: Annotated[RecipientId, AfterValidator(_reachable)]

    def profile(self) -> RecipientProfile:
        return RecipientProfile(**self.model_dump())


class PutRecipients(Body):
    """Many recipients, each checked on its own."""

    items: list[Any] = Field(
        min_length=1,
        max_length=MANY_MAX,
        json_schema_extra={"items": NamedRecipient.model_json_schema()},
    )


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """What became of one item. index: its place in the request."""

    index: int
    id: str | None
    status: Literal["created", "updated", "invalid"]
    errors: list[FieldError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RecipientResults:
    items: list[RecipientResult]


@dataclass(frozen=True, slots=True)
class RecipientDetail(Recipient):
    """suppressions: why not every message goes to the present addresses. soft_bounces: how near one is."""

    suppressions: list[Suppression]
    soft_bounces: list[SoftBounces]


class RecipientsController(Controller):
    path = "/api/v1/recipients"
    tags = ("recipients",)

    @put(
        "/{recipient_id:str}",
        summary="Create or replace a recipient",
        guards=[requires("admin")],
        operation_class=takes(PutRecipient),
    )
    async def replace(
        self, request: Request[Any, Any, Any], recipient_id: FromPath[str], api: Api, caller: CalledBy
    ) -> Response[Recipient]:
        """A new address holds from the next intake on; deliveries already planned keep the old one."""
        body = await read_model(request, PutRecipient)
        profile = _profile({**body.model_dump(), "id": recipient_id})
        async with api.db.transaction(durable=True) as conn:
            created = await recipients.upsert(conn, caller.tenant_id, [profile])
            recipient = await recipients.get(conn, caller.tenant_id, recipient_id)
        assert recipient is not None
        return Response(recipient, status_code=HTTP_201_CREATED if created[recipient_id] else HTTP_200_OK)

    @post(
        summary="Create or replace many recipients",
        guards=[requires("admin")],
        operation_class=takes(PutRecipients),
        status_code=HTTP_200_OK,
        request_max_body_size=None,
    )
    async def replace_many(self, request: Request[Any, Any, Any], api: Api, caller: CalledBy) -> RecipientResults:
        """One status per item. An invalid item changes nothing and stops none of the others."""
        body = await read_model(request, PutRecipients, bytes_max=api.settings.api.batch_bytes_max)
        checked = list(_check_each(body.items))
        valid = [item for item in checked if isinstance(item, RecipientProfile)]
        created: dict[str, bool] = {}
        if valid:
            async with api.db.transaction(durable=True) as conn:
                created = await recipients.upsert(conn, caller.tenant_id, valid)
        return RecipientResults([_result(i, item, created) for i, item in enumerate(checked)])

    @get("/{recipient_id:str}", summary="Get a recipient", guards=[requires("read")])
    async def show(self, recipient_id: FromPath[str], api: Api, caller: CalledBy) -> RecipientDetail:
        """With the active suppressions and the soft bounces of their present addresses."""
        async with api.db.transaction() as conn:
            recipient = await recipients.get(conn, caller.tenant_id, known_id(recipient_id))
            if recipient is None:
                raise NotFound(f"there is no recipient {recipient_id!r}")
            return RecipientDetail(
                **asdict(recipient),
                suppressions=await recipients.suppressions(conn, caller.tenant_id, recipient_id),
                soft_bounces=await recipients.soft_bounces(conn, caller.tenant_id, recipient_id),
            )


def _check_each(items: list[Any]) -> Iterator[RecipientProfile | RecipientResult]:
    """Each item as what is to be stored, or as what is wrong with it. The first of two with one id wins."""
    seen: set[str] = set()
    for index, item in enumerate(items):
        try:
            profile = _profile(item)
        except (InvalidRequest, InvalidFields) as error:
            yield _invalid(index, item, getattr(error, "errors", [FieldError("body", error.detail)]))
            continue
        if profile.id in seen:
            yield _invalid(index, item, [FieldError("id", "came before in this request")])
            continue
        seen.add(profile.id)
        yield profile


def _profile(item: Any) -> RecipientProfile:
    try:
        return NamedRecipient.model_validate(item).profile()
    except ValidationError as error:
        raise refusal(NamedRecipient, error) from None


def _invalid(index: int, item: Any, errors: Any) -> RecipientResult:
    id = item.get("id") if isinstance(item, dict) else None
    return RecipientResult(index, id if isinstance(id, str) else None, "invalid", list(errors))


def _result(index: int, item: RecipientProfile | RecipientResult, created: dict[str, bool]) -> RecipientResult:
    if isinstance(item, RecipientResult):
        return item
    return RecipientResult(index, item.id, "created" if created[item.id] else "updated")


routes = [RecipientsController]
