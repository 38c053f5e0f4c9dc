"""What a request may say: reading a body within bounds, and the models it is checked against.

Models are strict and closed: a wrong type or an unknown field is refused by name, never guessed at. Every
text is free of NUL and lone surrogates, which PostgreSQL's ``jsonb`` cannot hold; texts that reach a header
or a log line (ids, keys, addresses) are free of all control characters, CR and LF above all.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, TypeVar, cast
from uuid import UUID

from litestar import Request
from litestar.openapi.spec import OpenAPIMediaType, Operation, Parameter, RequestBody, Schema
from litestar.types import HTTPReceiveMessage
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from app.api.headers import header
from app.domain.models import Channel
from app.errors import FieldError, InvalidFields, InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from app.flows.accept import NotificationRequest

BATCH_ITEMS_MAX = 1000  # more only makes the answer slower to come and dearer to lose
ERRORS_SHOWN_MAX = 20  # a body of a million wrong fields needs no answer of a million lines
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)")
INTEGER_MAX = 2**64 - 1
INTEGER_MIN = -(2**63)
SURROGATE = re.compile("[\ud800-\udfff]")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

M = TypeVar("M", bound=BaseModel)


class Body(BaseModel):
    """The base of every request model: strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _one_line(text: str) -> str:
    if CONTROL.search(text):
        raise PydanticCustomError("control_characters", "must not contain control characters such as CR or LF")
    return text


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul", "must not contain NUL")
    return text


def _storable(variables: dict[str, Any]) -> dict[str, Any]:
    """Whatever of a JSON document cannot be kept in jsonb. Raises InvalidFields, which names each place."""
    check_storable("variables", variables)
    return variables


def _moment(value: object) -> datetime:
    if isinstance(value, str) and MOMENT.fullmatch(value):
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise PydanticCustomError("moment", "should be a time with its offset, such as 2026-01-31T08:00:00Z")


Line = Annotated[str, AfterValidator(_one_line)]
"""A text without control characters: safe in a header."""
Text = Annotated[str, AfterValidator(_no_nul)]
"""A text that may have several lines."""
Document = Annotated[dict[str, Any], AfterValidator(_storable)]
"""A JSON object that is stored as it is."""
Moment = Annotated[datetime, BeforeValidator(_moment)]
"""An instant as RFC 3339 writes it, in UTC from here on."""
Name = Annotated[Line, Field(min_length=1, max_length=100)]
"""Of a template or a category."""
RecipientId = Annotated[Line, Field(min_length=1, max_length=200)]


class SendRequest(Body):
    """One notification to one recipient (R-057)."""

    recipient_id: RecipientId
    category: Name
    template_id: Name
    template_version: int | None = Field(default=None, ge=1, le=2**31 - 1, description="default: the newest published")
    channel: Channel | None = Field(default=None, strict=False, description="short for channels with one element")
    channels: list[Annotated[Channel, Field(strict=False)]] | None = Field(
        default=None, min_length=1, max_length=len(Channel), description="default: the category's"
    )
    variables: Document = Field(default_factory=dict)
    send_at: Moment | None = Field(default=None, description="not before; default: now")
    expires_at: Moment | None = Field(default=None, description="worthless after; default: the category's")
    idempotency_key: str | None = Field(default=None, description="instead of the Idempotency-Key header")

    def wanted(self) -> NotificationRequest:
        """What is asked for, less how it was asked."""
        return NotificationRequest(
            recipient_id=self.recipient_id,
            category=self.category,
            template_id=self.template_id,
            variables=self.variables,
            template_version=self.template_version,
            channels=self.channels if self.channel is None else [self.channel],
            send_at=self.send_at,
            expires_at=self.expires_at,
        )

    @model_validator(mode="after")
    def _one_way_to_name_channels(self) -> Self:
        if self.channel is not None and self.channels is not None:
            raise InvalidFields(FieldError("channel", "is short for channels: give one of them"))
        return self


# -- reading -----------------------------------------------------------------------------------------------


async def read_body(request: Request[Any, Any, Any], *, bytes_max: int) -> bytes:
    """The raw body. Raises PayloadTooLarge as soon as the length says so, announced or counted."""
    announced = header(request.scope, b"content-length")
    if announced is not None and announced.isdecimal() and int(announced) > bytes_max:
        raise _too_large(bytes_max)
    parts, size, more = [], 0, True
    while more:
        message = cast(HTTPReceiveMessage, await request.receive())
        if message["type"] == "http.disconnect":
            raise InvalidRequest("the connection was closed before the body had come")
        part = message.get("body", b"")
        size += len(part)
        if size > bytes_max:
            raise _too_large(bytes_max)
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def _too_large(bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body may have {bytes_max} bytes", bytes_max=bytes_max)


async def read_json(request: Request[Any, Any, Any], *, bytes_max: int) -> bytes:
    """The raw body of a request that must say it is JSON. Raises UnsupportedMediaType, PayloadTooLarge."""
    content_type = header(request.scope, b"content-type") or ""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"Content-Type is {media_type or 'missing'}; it must be application/json")
    return await read_body(request, bytes_max=bytes_max)


async def read_model(request: Request[Any, Any, Any], model: type[M], *, bytes_max: int | None = None) -> M:
    """The body as ``model``: what every handler but the hottest uses. ``bytes_max``: default
    api.body_bytes_max.
    """
    limit = bytes_max or request.app.state.api.settings.api.body_bytes_max
    return parse(model, await read_json(request, bytes_max=limit))


def parse(model: type[M], body: bytes) -> M:
    """Raises InvalidRequest when the body is no JSON, InvalidFields naming each wrong field by its path."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise refusal(model, error, body) from None


def refusal(model: type[BaseModel], error: ValidationError, body: bytes = b"") -> InvalidRequest | InvalidFields:
    """A failed validation in our words."""
    details = error.errors(include_url=False, include_context=True)
    if details[0]["type"] == "json_invalid":
        return _not_json(body, details[0]["msg"])
    return InvalidFields(*(_field_error(model, detail) for detail in details[:ERRORS_SHOWN_MAX]))


def path_of(location: tuple[int | str, ...]) -> str:
    """``('items', 3, 'channel')`` reads ``items[3].channel``; the whole body reads ``body``."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return path.removeprefix(".") or "body"


def check_storable(path: str, value: Any) -> None:
    """Raises InvalidFields naming each place of a JSON document that jsonb cannot hold as what it is."""
    if not _is_storable(value):
        raise InvalidFields(*itertools.islice(unstorable(path, value), ERRORS_SHOWN_MAX))


def _is_storable(value: Any) -> bool:
    """One quick look at every value of every request; what is wrong with one is worked out only then."""
    kind = type(value)
    if kind is str:
        return "\x00" not in value and (value.isascii() or not SURROGATE.search(value))
    if kind is dict:
        return all(map(_is_storable, value)) and all(map(_is_storable, value.values()))
    if kind is list:
        return all(map(_is_storable, value))
    if kind is int:
        return bool(INTEGER_MIN <= value <= INTEGER_MAX)
    return kind is not float or math.isfinite(value)


def unstorable(path: str, value: object) -> Iterator[FieldError]:
    """The places of a JSON document that jsonb cannot hold, or not as what they are."""
    if isinstance(value, str):
        if "\x00" in value:
            yield FieldError(path, "must not contain NUL (\\u0000)")
        if SURROGATE.search(value):
            yield FieldError(path, "must not contain half of a surrogate pair")
    elif isinstance(value, int):
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            yield FieldError(path, "must be a number of at most 64 bits; longer ones go as text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield FieldError(path, "must be a finite number; numbers beyond 1e308 go as text")
    elif isinstance(value, dict):
        for key, member in value.items():
            shown = key.encode(errors="backslashreplace").decode()
            deeper = f"{path}.{shown}" if path else shown
            yield from unstorable(deeper, key)
            yield from unstorable(deeper, member)
    elif isinstance(value, list):
        for index, element in enumerate(value):
            yield from unstorable(f"{path}[{index}]", element)


def _not_json(body: bytes, message: str) -> InvalidRequest | InvalidFields:
    """Half a surrogate pair is JSON by the grammar (RFC 8259, 8.2), so there the field is named; else
    the place is.
    """
    if b"\\ud" in body.lower():
        with contextlib.suppress(ValueError, RecursionError):
            check_storable("", json.loads(body))
    return InvalidRequest(message[:1].lower() + message[1:])


def _field_error(model: type[BaseModel], detail: ErrorDetails) -> FieldError:
    return FieldError(path_of(detail["loc"]), _what_would_be_right(model, detail))


def _what_would_be_right(model: type[BaseModel], detail: ErrorDetails) -> str:
    match detail["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden" if len(detail["loc"]) == 1:
            names = (field.alias or name for name, field in model.model_fields.items())
            return f"is not a field of this request; fields are {', '.join(names)}"
        case "extra_forbidden":
            return "is not a field here"
        case _:
            message = detail["msg"].replace("Input should", "should")
            return message[:1].lower() + message[1:]


# -- batches -----------------------------------------------------------------------------------------------


def batch_items(body: bytes) -> list[Any]:
    """The items of a batch, not yet looked at. Raises InvalidRequest, InvalidFields."""
    document = _any_json(body)
    if not isinstance(document, dict) or not isinstance(document.get("items"), list):
        raise InvalidFields(FieldError("items", f"is required: a list of 1 to {BATCH_ITEMS_MAX} notifications"))
    if unknown := document.keys() - {"items"}:
        raise InvalidFields(
            *(
                FieldError(name, "is not a field of a batch; its field is items")
                for name in sorted(unknown)[:ERRORS_SHOWN_MAX]
            )
        )
    items: list[Any] = document["items"]
    if not 1 <= len(items) <= BATCH_ITEMS_MAX:
        raise InvalidFields(FieldError("items", f"must have 1 to {BATCH_ITEMS_MAX} elements; it has {len(items)}"))
    return items


def parse_item(model: type[M], item: object) -> M:
    """One item of a batch. Raises InvalidFields, with paths that begin in the item."""
    check_storable("", item)
    try:
        return model.model_validate(item)
    except ValidationError as error:
        raise refusal(model, error) from None


def _any_json(body: bytes) -> Any:
    """The document, with half surrogate pairs let through: they are the fault of one item, not of its
    neighbours.
    """
    try:
        return from_json(body)
    except ValueError as error:
        if b"\\ud" in body.lower():
            with contextlib.suppress(ValueError, RecursionError):
                return json.loads(body)
        raise _not_json(b"", str(error)) from None


# -- answers, for the OpenAPI document ---------------------------------------------------------------------


class SendAnswer(BaseModel):
    id: UUID
    status: Literal["queued"]


class ItemAnswer(BaseModel):
    index: int
    status: int
    id: UUID | None = None
    replayed: bool = False
    problem: dict[str, Any] | None = None


class BatchAnswer(BaseModel):
    accepted: int
    refused: int
    items: list[ItemAnswer]


class CancelledDelivery(BaseModel):
    delivery_id: UUID | None
    channel: str | None
    state: str
    cancelled: bool
    explanation: str


class CancelAnswer(BaseModel):
    id: UUID
    cancelled: bool
    deliveries: list[CancelledDelivery]


class AttemptAnswer(BaseModel):
    no: int
    provider: str
    state: str
    outcome: str | None
    status_code: int | None
    detail: str | None
    opened_at: datetime
    closed_at: datetime | None
    facts: dict[str, Any] | None = None


class DeliveryAnswer(BaseModel):
    id: UUID
    channel: str
    address: str
    state: str
    reason: str | None
    due_at: datetime | None
    provider: str | None
    provider_message_id: str | None
    sent_at: datetime | None
    delivered_at: datetime | None
    bounced_at: datetime | None
    ended_at: datetime | None
    attempts: list[AttemptAnswer]


class TimelineEntry(BaseModel):
    at: datetime
    kind: str
    source: str
    delivery_id: UUID | None = None
    attempt_no: int | None = None
    data: dict[str, Any] = {}


class NotificationAnswer(BaseModel):
    id: UUID
    recipient_id: str
    category: str
    state: str
    reason: str | None
    template_id: str
    template_version: int
    accepted_at: datetime
    expires_at: datetime
    deliveries: list[DeliveryAnswer]
    timeline: list[TimelineEntry]
    trace: list[dict[str, Any]] | None


# -- for the OpenAPI document ------------------------------------------------------------------------------


class JsonSchema(Schema):
    """A schema that pydantic wrote, put into the document as it is."""

    def __init__(self, model: type[BaseModel]) -> None:
        super().__init__(title=model.__name__)
        self._model = model

    def to_schema(self) -> dict[str, Any]:
        schema = self._model.model_json_schema()
        inlined: dict[str, Any] = _inline(schema, schema.pop("$defs", {}))
        return inlined


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    """A schema without references: pydantic's point at a root that is not the OpenAPI document's."""
    if isinstance(node, dict):
        if "$ref" in node:
            return _inline(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {key: _inline(member, definitions) for key, member in node.items()}
    if isinstance(node, list):
        return [_inline(element, definitions) for element in node]
    return node


def takes(model: type[BaseModel], *, header: str | None = None) -> type[Operation]:
    """``@post(..., operation_class=takes(Model))``: documents the body that the handler reads with
    ``read_model``.
    """

    @dataclass  # else the inherited __init__ would not call __post_init__
    class WithBody(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody(
                required=True, content={"application/json": OpenAPIMediaType(schema=JsonSchema(model))}
            )
            if header is not None:
                self.parameters = [*(self.parameters or ()), Parameter(name=header, param_in="header")]

    return WithBody
