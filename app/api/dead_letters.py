"""Dead letters: what ran out of tries, and another chance for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from litestar import Controller, Request, get, post
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK
from psycopg.errors import InvalidParameterValue
from pydantic import AwareDatetime, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from app.api.auth import CalledBy, Caller, requires
from app.api.fields import Reason
from app.api.paging import Page, Query, behind, lists, page, read_query
from app.api.schemas import Body, Line, Moment, Name, RecipientId, read_model, takes
from app.api.state import Api, ApiState
from app.errors import Conflict, FieldError, InvalidFields, NotFound
from app.store import dead_letters
from app.store.dead_letters import DeadLetter, Filter, Replay, ReplayVerdict

REPLAY_MAX = 1000  # rows locked in one transaction; whoever has more asks again
DONE = ("requeued", "sent_again")

AFTER: TypeAdapter[tuple[AwareDatetime, UUID]] = TypeAdapter(tuple[AwareDatetime, UUID])


class DeadLetterQuery(Query):
    category: Name | None = None
    channel: Literal["email", "push", "sms", "in_app", "webhook", "chat"] | None = None
    provider: Name | None = None
    reason: Annotated[Line, Field(max_length=100)] | None = Field(
        default=None, description="retries_exhausted, rejected, render_failed"
    )
    template_id: Name | None = None
    recipient_id: RecipientId | None = None
    since: Moment | None = Field(default=None, description="died then or later")
    until: Moment | None = Field(default=None, description="died before")


class ReplayOne(Body):
    """Why it is worth another try, and for how long."""

    reason: Reason
    force: bool = Field(default=False, description="also what may have arrived: sends a second message")
    expires_at: Moment | None = Field(
        default=None, description="worthless after; default: as long as a new one of its category"
    )


class ReplayMany(Body):
    """Which dead letters; without a filter, all of the tenant's."""

    category: Name | None = None
    template_id: Name | None = None
    provider: Name | None = None
    since: Moment | None = Field(default=None, description="died then or later")
    until: Moment | None = Field(default=None, description="died before")
    max_rows: int = Field(default=REPLAY_MAX, ge=1, le=REPLAY_MAX)
    dry_run: bool = Field(default=True, description="only say what would be done")
    reason: Reason | None = Field(default=None, description="required unless dry_run; kept in the audit log")
    expires_at: Moment | None = Field(
        default=None, description="worthless after; default: as long as new ones of their categories"
    )

    @model_validator(mode="after")
    def says_why(self) -> ReplayMany:
        if not self.dry_run and self.reason is None:
            raise PydanticCustomError("reason", "a replay needs a reason: it is kept in the audit log")
        return self


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """counts: verdict -> how many; items: each delivery's verdict."""

    dry_run: bool
    counts: dict[str, int]
    items: list[ReplayVerdict]


class DeadLettersController(Controller):
    path = "/api/v1/dead-letters"
    tags = ("dead letters",)

    @get(summary="List dead letters", guards=[requires("read")], operation_class=lists(DeadLetterQuery))
    async def list_newest(self, request: Request[Any, Any, Any], api: Api, caller: CalledBy) -> Page[DeadLetter]:
        """Those that died last come first."""
        query = read_query(request, DeadLetterQuery)
        wanted = Filter(**query.model_dump(exclude={"limit", "after"}))
        async with api.db.transaction() as conn:
            found = await dead_letters.list_newest(
                conn, caller.tenant_id, wanted, after=behind(query.after, AFTER), limit=query.limit + 1
            )
        return page(found, query.limit, _place)

    @post(
        "/{delivery_id:uuid}/replay",
        summary="Replay one delivery",
        guards=[requires("admin")],
        operation_class=takes(ReplayOne),
        status_code=HTTP_200_OK,
    )
    async def replay_one(
        self, request: Request[Any, Any, Any], delivery_id: FromPath[UUID], api: Api, caller: CalledBy
    ) -> ReplayVerdict:
        """It is sent again, unless that is refused: then 409, with the verdict and its explanation."""
        body = await read_model(request, ReplayOne)
        wanted = Replay(delivery_id=delivery_id, commit=True, **body.model_dump())
        (verdict,) = await _replay(api, caller, wanted)
        if verdict.verdict == "refused_unknown":
            raise NotFound(verdict.explanation)
        if verdict.verdict not in DONE:
            raise Conflict(verdict.explanation, verdict=verdict.verdict)
        return verdict

    @post(
        "/replay",
        summary="Replay the dead letters that match",
        guards=[requires("admin")],
        operation_class=takes(ReplayMany),
        status_code=HTTP_200_OK,
    )
    async def replay_many(self, request: Request[Any, Any, Any], api: Api, caller: CalledBy) -> ReplayReport:
        """Says what it would do, and does it with `dry_run: false`. One verdict per delivery."""
        body = await read_model(request, ReplayMany)
        wanted = Replay(commit=not body.dry_run, **body.model_dump(exclude={"dry_run"}))
        verdicts = await _replay(api, caller, wanted)
        return ReplayReport(body.dry_run, dict(Counter(v.verdict for v in verdicts)), verdicts)


async def _replay(api: ApiState, caller: Caller, wanted: Replay) -> list[ReplayVerdict]:
    """Raises InvalidFields for what only the database can judge, such as an expiry that has passed."""
    try:
        async with api.db.transaction(durable=True) as conn:
            return await dead_letters.replay(conn, caller.tenant, wanted, actor=caller.actor)
    except InvalidParameterValue as error:
        field = error.diag.column_name or "body"
        message = (error.diag.message_primary or "is refused").removeprefix(f"{field}: ")
        raise InvalidFields(FieldError(field, message)) from error


def _place(letter: DeadLetter) -> tuple[datetime, UUID]:
    return letter.ended_at, letter.delivery_id


routes = [DeadLettersController]
