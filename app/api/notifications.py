"""Notifications: send one, send many, see what became of one, call one back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import MediaType, Request, Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive, Scope, Send
from psycopg import errors
from pydantic import Field

from app.api.auth import CalledBy, authenticate, requires
from app.api.errors import problem_of
from app.api.headers import headers
from app.api.idempotency import HEADER, RAW_HEADER, check_key, header_key, required_key
from app.api.schemas import (
    BatchAnswer,
    Body,
    CancelAnswer,
    Line,
    NotificationAnswer,
    SendAnswer,
    SendRequest,
    batch_items,
    parse,
    parse_item,
    read_json,
    read_model,
    takes,
)
from app.api.state import Api, ApiState
from app.errors import LandedError, NotFound
from app.flows.accept import Accepted, Answer, NotificationRequest, accept, accept_many
from app.store import notifications as store

BATCH_PAUSE_ITEMS = 100  # checked between two turns of the event loop, so that a batch delays nobody by its length

_json = msgspec.json.Encoder()


class BatchRequest(Body):
    """Up to 1,000 notifications, each with a fate of its own."""

    items: list[SendRequest]


class CancelRequest(Body):
    reason: Annotated[Line, Field(min_length=1, max_length=500)] | None = None


@post(
    "/api/v1/notifications/send",
    status_code=202,
    media_type=MediaType.JSON,
    operation_class=takes(SendRequest, header=HEADER),
    responses={202: ResponseSpec(SendAnswer, description="Accepted, durably")},
    tags=["notifications"],
)
async def send(request: Request[Any, Any, Any]) -> ASGIApp:
    """Accept one notification to one recipient. Needs the scope send, and an idempotency key."""
    api: ApiState = request.app.state.api
    caller = await authenticate(request, "send")
    await api.limiter.take(caller)
    body = parse(SendRequest, await read_json(request, bytes_max=api.settings.api.body_bytes_max))
    key = required_key(header_key(headers(request.scope, RAW_HEADER)), body.idempotency_key)
    accepted = await accept(api.desk, body.wanted(), tenant_id=caller.tenant_id, key=key)
    return _as_stored(accepted)


def _as_stored(accepted: Accepted) -> ASGIApp:
    """The stored answer, byte for byte; sent as it is, because what a response class adds costs more
    than it gives.
    """
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(accepted.response))]
    if accepted.replayed:
        headers.append((b"idempotent-replayed", b"true"))

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": accepted.status, "headers": headers})
        await send({"type": "http.response.body", "body": accepted.response, "more_body": False})

    return answer


@post(
    "/api/v1/notifications/send-batch",
    status_code=200,
    media_type=MediaType.JSON,
    request_max_body_size=None,  # batch_bytes_max holds instead
    operation_class=takes(BatchRequest, header=HEADER),
    responses={200: ResponseSpec(BatchAnswer, description="One status per item, in order")},
    tags=["notifications"],
)
async def send_batch(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Accept up to 1,000 notifications. The answer is 200 with one status per item: a bad item fails
    alone.
    """
    api: ApiState = request.app.state.api
    caller = await authenticate(request, "send")
    raw = await read_json(request, bytes_max=api.settings.api.batch_bytes_max)
    batch_key = header_key(headers(request.scope, RAW_HEADER))
    items = batch_items(raw)
    await api.limiter.take(caller, len(items))
    checked = []
    for index, item in enumerate(items):
        checked.append(_checked_item(item, batch_key, index))
        if index % BATCH_PAUSE_ITEMS == 0:
            await asyncio.sleep(0)
    wanted = [one for one in checked if not isinstance(one, LandedError)]
    answers = iter(await accept_many(api.desk, wanted, tenant_id=caller.tenant_id))
    results = [
        _result(index, one if isinstance(one, LandedError) else next(answers)) for index, one in enumerate(checked)
    ]
    accepted = sum("id" in result for result in results)
    answer = {"accepted": accepted, "refused": len(results) - accepted, "items": results}
    return Response(_json.encode(answer), media_type=MediaType.JSON)


def _checked_item(item: object, batch_key: str | None, index: int) -> tuple[NotificationRequest, str] | LandedError:
    """An item with its key: its own, or the batch's with its index."""
    try:
        body = parse_item(SendRequest, item)
        own = None if batch_key is None or body.idempotency_key is not None else f"{batch_key}/{index}"
        if own is not None:
            check_key(HEADER, own)
        return body.wanted(), required_key(own, body.idempotency_key)
    except LandedError as refusal:
        return refusal


def _result(index: int, answer: Answer) -> dict[str, Any]:
    if isinstance(answer, Accepted):
        replayed = {"replayed": True} if answer.replayed else {}
        return {"index": index, "status": answer.status, "id": answer.notification_id, **replayed}
    problem = problem_of(answer)
    return {"index": index, "status": problem.status, "problem": problem.document}


# -- what became of it -------------------------------------------------------------------------------------


@get(
    "/api/v1/notifications/{notification_id:uuid}",
    guards=[requires("read")],
    media_type=MediaType.JSON,
    responses={200: ResponseSpec(NotificationAnswer, description="The whole story")},
    tags=["notifications"],
)
async def show(notification_id: FromPath[UUID], api: Api, caller: CalledBy) -> Response[bytes]:
    """A notification's state, its deliveries with their attempts, its timeline, and why it was decided so."""
    async with api.db.transaction() as conn:
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        found = await store.find(conn, tenant_id=caller.tenant_id, notification_id=notification_id)
        if found is None:
            raise _no_such(notification_id)
        deliveries = await store.deliveries(conn, notification_id)
        attempts = await store.attempts(conn, notification_id, [delivery.id for delivery in deliveries])
        events = await store.events(conn, notification_id)
    return Response(_json.encode(_story(found, deliveries, attempts, events)), media_type=MediaType.JSON)


def _story(
    notification: store.Notification,
    deliveries: Sequence[store.Delivery],
    attempts: Sequence[store.Attempt],
    events: Sequence[store.Event],
) -> dict[str, Any]:
    story: dict[str, Any] = msgspec.to_builtins(notification, builtin_types=(UUID, datetime))
    story["class"] = story.pop("class_")
    story["deliveries"] = [
        {
            **msgspec.to_builtins(delivery, builtin_types=(UUID, datetime)),
            "attempts": [attempt for attempt in attempts if attempt.delivery_id == delivery.id],
        }
        for delivery in deliveries
    ]
    story["timeline"] = _timeline(notification, attempts, events)
    return story


def _timeline(
    notification: store.Notification, attempts: Sequence[store.Attempt], events: Sequence[store.Event]
) -> list[dict[str, Any]]:
    """Births, which are rows of their own, among the events, in the order of their happening."""
    entries = [{"at": notification.accepted_at, "kind": "accepted", "source": "landed"}]
    if notification.planned_at is not None:
        entries.append({"at": notification.planned_at, "kind": "planned", "source": "landed"})
    entries += [
        {
            "at": attempt.opened_at,
            "kind": "attempt_opened",
            "source": "landed",
            "delivery_id": attempt.delivery_id,
            "attempt_no": attempt.no,
            "data": {"provider": attempt.provider},
        }
        for attempt in attempts
    ]
    entries += [
        {
            "at": event.occurred_at,
            "recorded_at": event.recorded_at,
            "kind": event.kind,
            "source": event.source,
            "delivery_id": event.delivery_id,
            "attempt_no": event.attempt_no,
            "data": event.data,
        }
        for event in events
    ]
    return sorted(entries, key=itemgetter("at"))


@post(
    "/api/v1/notifications/{notification_id:uuid}/cancel",
    status_code=200,
    guards=[requires("send")],
    media_type=MediaType.JSON,
    operation_class=takes(CancelRequest),
    responses={200: ResponseSpec(CancelAnswer, description="What was stopped, and what was too late")},
    tags=["notifications"],
)
async def cancel(
    notification_id: FromPath[UUID], request: Request[Any, Any, Any], api: Api, caller: CalledBy
) -> Response[bytes]:
    """Stop what has not been sent. Each delivery is told: cancelled, or why it is too late."""
    body = await read_model(request, CancelRequest)
    try:
        async with api.db.transaction(durable=True) as conn:
            stopped = await store.cancel(
                conn,
                tenant=caller.tenant,
                notification_id=notification_id,
                reason=body.reason or "cancelled through the API",
                actor=caller.actor,
            )
    except errors.NoDataFound:
        raise _no_such(notification_id) from None
    answer = {
        "id": notification_id,
        "cancelled": all(map(attrgetter("cancelled"), stopped)),
        "deliveries": stopped,
    }
    return Response(_json.encode(answer), media_type=MediaType.JSON)


def _no_such(notification_id: UUID) -> NotFound:
    return NotFound(f"there is no notification {notification_id}")


routes = [send, send_batch, show, cancel]
