"""Endpoints: where a tenant has events sent, merchants' webhooks and chat rooms (R-023 to R-025)."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from litestar import Controller, Request, delete, get, patch, post
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED
from psycopg.errors import InvalidParameterValue
from pydantic import Field, TypeAdapter

from app.api.auth import CalledBy, Caller, requires
from app.api.fields import Email, Reason, checked
from app.api.paging import Page, Query, behind, lists, page, read_query
from app.api.schemas import Body, Line, Moment, read_model, takes
from app.api.state import Api, ApiState
from app.db import Connection
from app.domain.models import Channel
from app.errors import Conflict, FieldError, InvalidFields, NotFound
from app.flows.fan_out import FILTERS, TEST
from app.flows.wake import CHANNEL as WAKE
from app.providers.chat import Chat
from app.providers.guarded import URL_CHARS_MAX, Forbidden, check_url, resolve_allowed
from app.providers.registry import make_provider
from app.providers.standard_webhooks import Algorithm, algorithm_of, new_secret, public_key
from app.store import endpoints as store
from app.store.endpoints import Endpoint, EndpointDelivery, EndpointReplay, EndpointReplayVerdict, NewEndpoint

ENDPOINTS_MAX = 200  # of one tenant: every status event is looked at for each of them
RESOLVE_SECONDS = 2.0  # registering waits no longer for a name; whether it may be called, each send finds out again
DELIVERIES_SINCE = timedelta(days=7)
REPLAY_MAX = 1000  # rows locked in one transaction; whoever has more goes on behind `next`
DONE = ("requeued", "sent_again", "would_requeue", "would_send_again")

Format = Literal["standard", "slack", "discord", "teams"]
Status = Literal["enabled", "disabled"]
AFTER: TypeAdapter[tuple[UUID]] = TypeAdapter(tuple[UUID])


def _filter(value: str) -> str:
    """A misspelt filter would be an endpoint that hears nothing."""
    if value not in FILTERS:
        raise ValueError(f"must be one of {', '.join(FILTERS)}")
    return value


Name = Annotated[Line, Field(min_length=1, max_length=200)]
Url = Annotated[Line, Field(min_length=1, max_length=URL_CHARS_MAX)]
Events = Annotated[list[Annotated[str, checked(_filter)]], Field(max_length=len(FILTERS))]


class CreateEndpoint(Body):
    """Where events are to be sent. events: which status events; none for one that is only a target of notifications."""

    name: Name
    url: Url = Field(description="https; of a chat room, the whole incoming-webhook URL")
    format: Format = "standard"
    events: Events = Field(default_factory=list, description="delivery.delivered, delivery.*, *")
    algorithm: Algorithm | None = Field(default=None, description="what signs; default: hmac-sha256. Not for chat")
    owner_email: Email | None = Field(default=None, description="who is told when it is disabled")


class UpdateEndpoint(Body):
    """What is to change; what is not given stays."""

    name: Name = ""
    url: Url = ""
    events: Events = Field(default_factory=list)
    owner_email: Email | None = None


class RotateSecret(Body):
    """revoke_old: the secret so far has leaked, and is to stop signing at once."""

    algorithm: Algorithm | None = Field(default=None, description="default: as before")
    revoke_old: bool = False


class DisableEndpoint(Body):
    """Why, for whoever looks at it later."""

    reason: Reason


class ReplayEndpoint(Body):
    """One delivery, or what is ``since`` a time: what did not arrive, and with ``arrived`` what did as well."""

    delivery_id: UUID | None = None
    since: Moment | None = Field(default=None, description="of notifications accepted then or later")
    until: Moment | None = Field(default=None, description="of notifications accepted before")
    arrived: bool = Field(default=False, description="also what was delivered; not for chat")
    after: UUID | None = Field(default=None, description="`next` of the answer before")
    max_rows: int = Field(default=REPLAY_MAX, ge=1, le=REPLAY_MAX)
    dry_run: bool = Field(default=False, description="only say what would be done")
    reason: Reason = "asked for through the API"


class EndpointQuery(Query):
    status: Status | None = None
    format: Format | None = None


class DeliveryQuery(Query):
    since: Moment | None = Field(
        default=None, description="of notifications accepted then or later; default: 7 days ago"
    )
    state: Annotated[Line, Field(max_length=20)] | None = None


@dataclass(frozen=True, slots=True)
class EndpointAnswer:
    """url: of a chat room, only its host: the rest is the secret. public_key: what ed25519 signatures verify with.

    previous_secret_until: until when the secret before the present one signs as well.
    """

    id: UUID
    name: str
    url: str
    format: str
    events: list[str]
    algorithm: Algorithm | None
    public_key: str | None
    previous_secret_until: datetime | None
    owner_email: str | None
    status: str
    disabled_reason: str | None
    disabled_at: datetime | None
    failing_since: datetime | None
    last_success_at: datetime | None
    last_failure: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class EndpointWithSecret(EndpointAnswer):
    """secret: shown this once; null where it never leaves us, because the public key is enough."""

    secret: str | None


@dataclass(frozen=True, slots=True)
class TestAnswer:
    """test_id: in the ``data`` of the event that goes out."""

    test_id: UUID
    status: Literal["queued"] = "queued"


@dataclass(frozen=True, slots=True)
class ReplayEndpointReport:
    """counts: verdict -> how many. next: give it as ``after`` to go on; null when that was all."""

    dry_run: bool
    counts: dict[str, int]
    items: list[EndpointReplayVerdict]
    next: UUID | None


class EndpointsController(Controller):
    path = "/api/v1/endpoints"
    tags = ("endpoints",)

    @post(summary="Register an endpoint", guards=[requires("admin")], operation_class=takes(CreateEndpoint))
    async def create(self, request: Request[Any, Any, Any], api: Api, caller: CalledBy) -> EndpointWithSecret:
        """Its secret is in this answer and in no other."""
        body = await read_model(request, CreateEndpoint)
        if body.format != "standard" and body.algorithm is not None:
            raise InvalidFields(
                FieldError("algorithm", "is for format standard: nothing signs what goes to a chat room")
            )
        await _check_address(api, body.url, body.format)
        secret = new_secret(body.algorithm or "hmac-sha256") if body.format == "standard" else None
        new = NewEndpoint(body.name, body.url, body.format, _distinct(body.events), secret, body.owner_email)
        async with api.db.transaction(durable=True) as conn:
            if await store.count(conn, caller.tenant_id) >= ENDPOINTS_MAX:
                raise Conflict(f"a tenant has {ENDPOINTS_MAX} endpoints at most")
            endpoint = await store.insert(conn, caller.tenant_id, new)
            await _audit(conn, caller, endpoint, "endpoint_created")
        return _with_secret(endpoint)

    @get(summary="List endpoints", guards=[requires("read")], operation_class=lists(EndpointQuery))
    async def list_newest(self, request: Request[Any, Any, Any], api: Api, caller: CalledBy) -> Page[EndpointAnswer]:
        """Newest first."""
        query = read_query(request, EndpointQuery)
        (after,) = behind(query.after, AFTER) or (None,)
        async with api.db.transaction() as conn:
            found = await store.list_newest(
                conn,
                caller.tenant_id,
                status=query.status,
                format=query.format,
                after=after,
                limit=query.limit + 1,
            )
        return page([_answer(endpoint) for endpoint in found], query.limit, lambda endpoint: (endpoint.id,))

    @get("/{endpoint_id:uuid}", summary="Get an endpoint", guards=[requires("read")])
    async def show(self, endpoint_id: FromPath[UUID], api: Api, caller: CalledBy) -> EndpointAnswer:
        async with api.db.transaction() as conn:
            return _answer(_found(await store.get(conn, caller.tenant_id, endpoint_id), endpoint_id))

    @patch(
        "/{endpoint_id:uuid}",
        summary="Change an endpoint",
        guards=[requires("admin")],
        operation_class=takes(UpdateEndpoint),
    )
    async def change(
        self, request: Request[Any, Any, Any], endpoint_id: FromPath[UUID], api: Api, caller: CalledBy
    ) -> EndpointAnswer:
        """A new URL holds for everything that has not been sent yet."""
        changes = (await read_model(request, UpdateEndpoint)).model_dump(exclude_unset=True)
        if "url" in changes:
            async with api.db.transaction() as conn:
                before = _found(await store.get(conn, caller.tenant_id, endpoint_id), endpoint_id)
            await _check_address(api, changes["url"], before.format)  # may ask a resolver: no transaction meanwhile
        async with api.db.transaction(durable=True) as conn:
            now = _found(await store.get(conn, caller.tenant_id, endpoint_id, lock=True), endpoint_id)
            changed = await store.update(
                conn,
                caller.tenant_id,
                endpoint_id,
                name=changes.get("name", now.name),
                url=changes.get("url", now.url),
                events=_distinct(changes.get("events", now.events)),
                owner_email=changes.get("owner_email", now.owner_email),
            )
            await _audit(conn, caller, _found(changed, endpoint_id), "endpoint_changed", fields=sorted(changes))
        return _answer(_found(changed, endpoint_id))

    @delete("/{endpoint_id:uuid}", summary="Delete an endpoint", guards=[requires("admin")])
    async def remove(self, endpoint_id: FromPath[UUID], api: Api, caller: CalledBy) -> None:
        """What is on its way to it ends undelivered."""
        async with api.db.transaction(durable=True) as conn:
            endpoint = _found(await store.get(conn, caller.tenant_id, endpoint_id, lock=True), endpoint_id)
            await store.delete(conn, caller.tenant_id, endpoint_id)
            await _audit(conn, caller, endpoint, "endpoint_deleted")

    @post(
        "/{endpoint_id:uuid}/rotate-secret",
        summary="Give an endpoint a new secret",
        guards=[requires("admin")],
        operation_class=takes(RotateSecret),
        status_code=HTTP_200_OK,
    )
    async def rotate_secret(
        self, request: Request[Any, Any, Any], endpoint_id: FromPath[UUID], api: Api, caller: CalledBy
    ) -> EndpointWithSecret:
        """The secret so far signs as well for `endpoints.secret_overlap_seconds`, unless it is revoked."""
        body = await read_model(request, RotateSecret)
        async with api.db.transaction(durable=True) as conn:
            before = _found(await store.get(conn, caller.tenant_id, endpoint_id, lock=True), endpoint_id)
            if before.secret is None:
                raise Conflict("a chat room has no secret but its URL: change that")
            after = await store.rotate(
                conn,
                caller.tenant_id,
                endpoint_id,
                secret=new_secret(body.algorithm or algorithm_of(before.secret)),
                overlap_seconds=0.0 if body.revoke_old else api.settings.endpoints.secret_overlap_seconds,
            )
            await _audit(conn, caller, before, "endpoint_secret_rotated", revoke_old=body.revoke_old)
        return _with_secret(_found(after, endpoint_id))

    @post(
        "/{endpoint_id:uuid}/enable",
        summary="Enable an endpoint",
        guards=[requires("admin")],
        status_code=HTTP_200_OK,
    )
    async def enable(self, endpoint_id: FromPath[UUID], api: Api, caller: CalledBy) -> EndpointAnswer:
        """Its failures count from nothing. What it missed is sent again by a replay."""
        async with api.db.transaction(durable=True) as conn:
            endpoint = _found(await store.enable(conn, caller.tenant_id, endpoint_id), endpoint_id)
            await _audit(conn, caller, endpoint, "endpoint_enabled")
        return _answer(endpoint)

    @post(
        "/{endpoint_id:uuid}/disable",
        summary="Disable an endpoint",
        guards=[requires("admin")],
        operation_class=takes(DisableEndpoint),
        status_code=HTTP_200_OK,
    )
    async def disable(
        self, request: Request[Any, Any, Any], endpoint_id: FromPath[UUID], api: Api, caller: CalledBy
    ) -> EndpointAnswer:
        """Nothing is sent to it any more: what is on its way becomes a dead letter, events that come are not kept."""
        body = await read_model(request, DisableEndpoint)
        async with api.db.transaction(durable=True) as conn:
            endpoint = await store.disable(conn, caller.tenant_id, endpoint_id, reason=body.reason)
            await _audit(conn, caller, _found(endpoint, endpoint_id), "endpoint_disabled", body.reason)
        return _answer(_found(endpoint, endpoint_id))

    @post(
        "/{endpoint_id:uuid}/test",
        summary="Send an endpoint a test event",
        guards=[requires("admin")],
        status_code=HTTP_202_ACCEPTED,
    )
    async def test(self, endpoint_id: FromPath[UUID], api: Api, caller: CalledBy) -> TestAnswer:
        """A `landed.test` event goes the way of all others, whatever the endpoint listens to."""
        test_id = uuid4()
        data = {"endpoint_id": str(endpoint_id), "test_id": str(test_id), "asked_by": f"api key {caller.key_id}"}
        async with api.db.transaction(durable=True) as conn:
            endpoint = _found(await store.get(conn, caller.tenant_id, endpoint_id), endpoint_id)
            _check_enabled(endpoint)
            await store.tell(conn, caller.tenant_id, type=TEST, data=data)
        await api.db.wake(WAKE, "fan_out")
        return TestAnswer(test_id)

    @get(
        "/{endpoint_id:uuid}/deliveries",
        summary="List what was sent to an endpoint",
        guards=[requires("read")],
        operation_class=lists(DeliveryQuery),
    )
    async def deliveries(
        self, request: Request[Any, Any, Any], endpoint_id: FromPath[UUID], api: Api, caller: CalledBy
    ) -> Page[EndpointDelivery]:
        """The newest events first, a replay beside its original; each with its attempts."""
        query = read_query(request, DeliveryQuery)
        (after,) = behind(query.after, AFTER) or (None,)
        async with api.db.transaction() as conn:
            _found(await store.get(conn, caller.tenant_id, endpoint_id), endpoint_id)
            found = await store.deliveries(
                conn,
                caller.tenant_id,
                endpoint_id,
                since=query.since or datetime.now(UTC) - DELIVERIES_SINCE,
                state=query.state,
                after=after,
                limit=query.limit + 1,
            )
        return page(found, query.limit, lambda delivery: (delivery.delivery_id,))

    @post(
        "/{endpoint_id:uuid}/replay",
        summary="Send an endpoint again what it missed",
        guards=[requires("admin")],
        operation_class=takes(ReplayEndpoint),
        status_code=HTTP_200_OK,
    )
    async def replay(
        self, request: Request[Any, Any, Any], endpoint_id: FromPath[UUID], api: Api, caller: CalledBy
    ) -> ReplayEndpointReport:
        """Each event under the id it had, so that the receiver drops what it has seen. One delivery that is refused
        answers 409."""
        body = await read_model(request, ReplayEndpoint)
        wanted = EndpointReplay(
            endpoint_id=endpoint_id,
            commit=not body.dry_run,
            valid_for_seconds=api.settings.endpoints.span_seconds,
            **body.model_dump(exclude={"dry_run"}),
        )
        verdicts = await _replay(api, caller, wanted)
        if body.delivery_id is not None:
            _check_one(verdicts[0])
        more = body.delivery_id is None and len(verdicts) == body.max_rows
        counts = dict(Counter(v.verdict for v in verdicts))
        return ReplayEndpointReport(body.dry_run, counts, verdicts, verdicts[-1].delivery_id if more else None)


# -- checks --------------------------------------------------------------------------------------------------


async def _check_address(api: ApiState, url: str, format: str) -> None:
    """Raises InvalidFields for an address that would not be called. One that does not resolve yet may do so later."""
    try:
        check_url(url, api.settings.endpoints)
        if format != "standard":
            _chat(api).check_url(url, format)
        split = urlsplit(url)
        async with asyncio.timeout(RESOLVE_SECONDS):
            await resolve_allowed(split.hostname or "", split.port or 443, api.settings.endpoints)
    except ValueError as error:
        raise InvalidFields(FieldError("url", str(error))) from error
    except Forbidden as error:
        raise InvalidFields(FieldError("url", error.detail.removeprefix("the address "))) from error
    except (OSError, TimeoutError):
        return


def _chat(api: ApiState) -> Chat:
    for account in api.settings.accounts(Channel.CHAT):
        provider = make_provider(account, api.settings.providers[account])
        if isinstance(provider, Chat):
            return provider
    raise InvalidFields(FieldError("format", "must be standard: this service has no route for chat"))


def _found(endpoint: Endpoint | None, endpoint_id: UUID) -> Endpoint:
    if endpoint is None:
        raise NotFound(f"there is no endpoint {endpoint_id}")
    return endpoint


def _check_enabled(endpoint: Endpoint) -> None:
    if endpoint.status != "enabled":
        raise Conflict("the endpoint is disabled: enable it first")


def _check_one(verdict: EndpointReplayVerdict) -> None:
    if verdict.verdict == "refused_unknown":
        raise NotFound(verdict.explanation)
    if verdict.verdict not in DONE:
        raise Conflict(verdict.explanation, verdict=verdict.verdict)


async def _replay(api: ApiState, caller: Caller, wanted: EndpointReplay) -> list[EndpointReplayVerdict]:
    try:
        async with api.db.transaction(durable=True) as conn:
            endpoint = _found(await store.get(conn, caller.tenant_id, wanted.endpoint_id), wanted.endpoint_id)
            if wanted.commit:
                _check_enabled(endpoint)
            return await store.replay(conn, caller.tenant, wanted, actor=caller.actor)
    except InvalidParameterValue as error:
        field = error.diag.column_name or "body"
        message = (error.diag.message_primary or "is refused").removeprefix(f"{field}: ")
        raise InvalidFields(FieldError(field, message)) from error


async def _audit(
    conn: Connection,
    caller: Caller,
    endpoint: Endpoint,
    action: str,
    reason: str = "asked for through the API",
    **data: Any,
) -> None:
    """Where a tenant's data goes is worth a record, whoever changes it."""
    known = {"name": endpoint.name, "format": endpoint.format, "host": urlsplit(endpoint.url).netloc}
    await store.audit(
        conn, caller.tenant_id, endpoint.id, action=action, actor=caller.actor, reason=reason, data=known | data
    )


# -- what is shown -------------------------------------------------------------------------------------------


def _distinct(events: list[str]) -> list[str]:
    return list(dict.fromkeys(events))


def _shown(endpoint: Endpoint) -> dict[str, Any]:
    secret, overlapping = endpoint.secret, endpoint.previous_secret_until
    split = urlsplit(endpoint.url)
    return {
        "id": endpoint.id,
        "name": endpoint.name,
        "url": endpoint.url if endpoint.format == "standard" else f"{split.scheme}://{split.netloc}/…",
        "format": endpoint.format,
        "events": endpoint.events,
        "algorithm": secret and algorithm_of(secret),
        "public_key": secret and public_key(secret),
        "previous_secret_until": overlapping if overlapping and overlapping > datetime.now(UTC) else None,
        "owner_email": endpoint.owner_email,
        "status": endpoint.status,
        "disabled_reason": endpoint.disabled_reason,
        "disabled_at": endpoint.disabled_at,
        "failing_since": endpoint.failing_since,
        "last_success_at": endpoint.last_success_at,
        "last_failure": endpoint.last_failure,
        "created_at": endpoint.created_at,
        "updated_at": endpoint.updated_at,
    }


def _answer(endpoint: Endpoint) -> EndpointAnswer:
    return EndpointAnswer(**_shown(endpoint))


def _with_secret(endpoint: Endpoint) -> EndpointWithSecret:
    """A private key stays with us: whoever has it could sign in our name."""
    private = endpoint.secret is None or algorithm_of(endpoint.secret) == "ed25519"
    return EndpointWithSecret(**_shown(endpoint), secret=None if private else endpoint.secret)


routes = [EndpointsController]
