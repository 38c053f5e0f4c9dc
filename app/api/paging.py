"""Lists in pages: ``?limit=&after=`` and an answer of ``items`` and ``next``.

A cursor holds the sort keys of the last item shown, so pages neither skip nor repeat what stays, whatever is
added or removed meanwhile.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from litestar import Request
from litestar.openapi.spec import Operation, Parameter, Schema
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.api.schemas import refusal
from app.errors import FieldError, InvalidFields

PAGE_DEFAULT = 50
PAGE_MAX = 200

T = TypeVar("T")
Q = TypeVar("Q", bound=BaseModel)


class Query(BaseModel):
    """The base of every list's query: closed, so that a misspelt filter is refused and not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(default=PAGE_DEFAULT, ge=1, le=PAGE_MAX, description="how many items")
    after: str | None = Field(default=None, max_length=1000, description="`next` of the page before")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """next: give it as ``after`` to go on; null on the last page."""

    items: list[T]
    next: str | None


def read_query(request: Request[Any, Any, Any], model: type[Q]) -> Q:
    """The query string as ``model``. Raises InvalidFields naming each parameter that is wrong."""
    given = request.query_params.dict()
    twice = [FieldError(name, "is given more than once") for name, values in given.items() if len(values) > 1]
    if twice:
        raise InvalidFields(*twice)
    try:
        return model.model_validate({name: values[0] for name, values in given.items()})
    except ValidationError as error:
        raise refusal(model, error) from None


def page(found: Sequence[T], limit: int, key: Callable[[T], Sequence[Any]]) -> Page[T]:
    """The first ``limit`` of what was found by asking for one more."""
    items = list(found[:limit])
    return Page(items, _cursor(key(items[-1])) if len(found) > limit else None)


def behind(after: str | None, keys: TypeAdapter[T]) -> T | None:
    """The sort keys in a cursor. Raises InvalidFields on one that this list did not make."""
    if after is None:
        return None
    try:
        padded = after + "=" * (-len(after) % 4)
        return keys.validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as exc:  # pydantic's ValidationError is a ValueError
        raise InvalidFields(FieldError("after", "is not the `next` of a page of this list")) from exc


def _cursor(keys: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(keys, default=str).encode()).rstrip(b"=").decode()


def lists(model: type[BaseModel]) -> type[Operation]:
    """``@get(..., operation_class=lists(Model))``: documents the query that ``read_query`` reads."""

    @dataclass
    class WithQuery(Operation):
        def __post_init__(self) -> None:
            schema = model.model_json_schema()
            self.parameters = [
                *(self.parameters or []),
                *(
                    Parameter(
                        name=name,
                        param_in="query",
                        description=member.get("description"),
                        schema=PropertySchema(name, member),
                    )
                    for name, member in schema["properties"].items()
                ),
            ]

    return WithQuery


class PropertySchema(Schema):
    """A member of a schema that pydantic wrote, put into the document as it is."""

    def __init__(self, name: str, member: dict[str, Any]) -> None:
        super().__init__(title=name)
        self._member = member

    def to_schema(self) -> dict[str, Any]:
        return {key: value for key, value in self._member.items() if key != "description"}
