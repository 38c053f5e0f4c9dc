"""Fields of requests that several resources share, each checked by the domain and named when it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.api.schemas import ERRORS_SHOWN_MAX, Line, unstorable
from app.domain import addresses
from app.errors import InvalidFields, NotFound

SLUG = r"^[a-z0-9][a-z0-9_.-]{0,99}$"  # as the tables check it


def checked(check: Callable[[str], str]) -> AfterValidator:
    """A validator that answers with the domain's words instead of "Value error, ..."."""

    def validate(value: str) -> str:
        try:
            return check(value)
        except ValueError as exc:
            raise PydanticCustomError("refused", "{why}", {"why": str(exc)}) from exc

    return AfterValidator(validate)


def attributes_of(value: dict[str, Any]) -> dict[str, Any]:
    """Raises InvalidFields naming the places that jsonb cannot hold."""
    if errors := list(unstorable("attributes", value)):
        raise InvalidFields(*errors[:ERRORS_SHOWN_MAX])
    return value


Slug = Annotated[str, Field(pattern=SLUG)]
"""The name of a template or a category."""
Email = Annotated[str, checked(addresses.email)]
Sender = Annotated[str, checked(addresses.sender)]
Phone = Annotated[str, checked(addresses.phone)]
Locale = Annotated[str, checked(addresses.locale)]
TimeZone = Annotated[str, checked(addresses.time_zone)]
Attributes = Annotated[dict[str, Any], AfterValidator(attributes_of)]
Reason = Annotated[Line, Field(min_length=1, max_length=500)]
"""Why a person did something, for whoever reads the audit log."""


def known_id(value: str) -> str:
    """A name from a path that is to be found. PostgreSQL knows no NUL, so nothing can have such a name."""
    if "\x00" in value:
        raise NotFound
    return value
