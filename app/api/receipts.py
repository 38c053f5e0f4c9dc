"""What devices say of the pushes they were sent (R-055, R-109, R-191). Without it no push is ever ``delivered``: no
gateway tells what became of one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from litestar import Litestar, Request, post
from litestar.status_codes import HTTP_202_ACCEPTED
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from app.api.devices import asker
from app.api.schemas import Body, read_model, takes
from app.api.state import Api, ApiState
from app.domain.tokens import TOKEN_CHARS_MAX, BadToken, SentAttempt, read_receipt
from app.errors import NotFound, Unauthenticated
from app.flows.receipts import ReceiptEvent, Receipts, of_push
from app.store import devices

RECEIPT_BYTES_MAX = 4096  # a token and a word; a browser's app may send a few more fields of nothing

Token = Annotated[str, Field(max_length=TOKEN_CHARS_MAX)]
Id = Annotated[UUID, Field(strict=False)]


class Receipt(Body):
    """What became of a push on its device."""

    token: Token = Field(description="`landed_receipt_token` of the push")
    event: Annotated[ReceiptEvent, Field(strict=False)]


class PushOpened(Body):
    """Which push was opened: by its token, or by the notification and the device."""

    notification_id: Id | None = None
    device_id: Id | None = Field(default=None, description="as the registration answered it")
    token: Token | None = Field(default=None, description="`landed_receipt_token` of the push, in place of both")

    @model_validator(mode="after")
    def says_which(self) -> Self:
        by_ids = self.notification_id is not None and self.device_id is not None
        if (self.token is not None) == by_ids:
            raise PydanticCustomError("which", "should have notification_id and device_id, or token in their place")
        return self


@dataclass(frozen=True, slots=True)
class Recorded:
    status: Literal["recorded"] = "recorded"


@contextlib.asynccontextmanager
async def gathering(app: Litestar) -> AsyncIterator[None]:
    """Lifespan: what was told is stored before the database is closed."""
    api: ApiState = app.state.api
    app.state.receipts = Receipts(api.db, api.settings, committed=api.apply_waker.soon)
    yield
    await app.state.receipts.close()


@post(
    "/api/v1/receipts",
    summary="Acknowledge a push",
    status_code=HTTP_202_ACCEPTED,
    operation_class=takes(Receipt),
    security=[{}],  # by the token in the body
    tags=["devices"],
)
async def acknowledge(request: Request[Any, Any, Any]) -> Recorded:
    """From the device, with the token that came in the push and nothing else. It may be repeated, and events may come
    in any order: `opened` and `dismissed` also prove that the push was received."""
    body = await read_model(request, Receipt, bytes_max=RECEIPT_BYTES_MAX)
    await _tell(request, _attempt(request, body.token), body.event)
    return Recorded()


@post(
    "/api/v1/analytics/push-opened",
    summary="Report that a push was opened",
    status_code=HTTP_202_ACCEPTED,
    operation_class=takes(PushOpened),
    tags=["devices"],
)
async def push_opened(request: Request[Any, Any, Any], api: Api) -> Recorded:
    """With a recipient's token, or a key with scope `send`; with `token` in the body, neither is needed."""
    body = await read_model(request, PushOpened, bytes_max=RECEIPT_BYTES_MAX)
    if body.token is not None:
        attempt = _attempt(request, body.token)
    else:
        assert body.notification_id is not None
        assert body.device_id is not None
        attempt = await _find(request, api, body.notification_id, body.device_id)
    await _tell(request, attempt, ReceiptEvent.OPENED)
    return Recorded()


def _attempt(request: Request[Any, Any, Any], token: str) -> SentAttempt:
    try:
        return read_receipt(request.app.state.signing_secret, token)
    except BadToken:
        raise Unauthenticated("this is no receipt token: send landed_receipt_token as it came in the push") from None


async def _find(request: Request[Any, Any, Any], api: ApiState, notification_id: UUID, device_id: UUID) -> SentAttempt:
    """Raises NotFound: nobody may speak for a device that the notification cannot have reached, nor for another's."""
    who = await asker(request, api, "send")
    async with api.db.transaction() as conn:
        found = await devices.find_push(conn, who.tenant_id, notification_id=notification_id, device_id=device_id)
    if found is None or who.recipient_id not in (None, found.recipient_id):
        raise NotFound("there is no push of this notification to this device")
    return SentAttempt(found.delivery_id, found.attempt_no)


async def _tell(request: Request[Any, Any, Any], attempt: SentAttempt, event: ReceiptEvent) -> None:
    receipts: Receipts = request.app.state.receipts
    await receipts.tell(of_push(attempt, event, datetime.now(UTC)))


routes = [acknowledge, push_opened]
