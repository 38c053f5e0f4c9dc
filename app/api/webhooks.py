"""What providers tell us: taken in raw, verified and stored; nothing else happens before they are
answered.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from litestar import Request, Response, post
from litestar.params import FromPath

from app.api.errors import problem_of
from app.api.schemas import read_body
from app.api.state import Api
from app.errors import WebhookRefused
from app.flows.receive import receive


@post(
    "/api/v1/webhooks/{provider:str}",
    status_code=200,
    request_max_body_size=None,  # webhook_bytes_max holds instead
    security=[{}],  # by the provider's own signature
    tags=["webhooks"],
)
async def take_webhook(provider: FromPath[str], request: Request[Any, Any, Any], api: Api) -> Response[Any]:
    """A provider's events, signed its way. ``provider`` is the name of the account in the configuration."""
    body = await read_body(request, bytes_max=api.settings.api.webhook_bytes_max)
    result = await receive(
        api.db,
        api.providers,
        provider=provider,
        headers=dict(request.headers),
        body=body,
        now=datetime.now(UTC),
        evidence_window_seconds=api.settings.times.evidence_window_seconds,
    )
    if result.status >= 400:
        return problem_of(WebhookRefused(result.detail, reason="refused", status=result.status)).response()
    if result.stored:
        api.apply_waker.soon()
    return Response({"detail": result.detail}, status_code=result.status)


routes = [take_webhook]
