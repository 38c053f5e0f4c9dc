"""What providers tell us: taken in raw, verified and stored; nothing else happens before they are
answered.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from litestar import HttpMethod, Request, Response, route
from litestar.params import FromPath

from app.api.errors import problem_of
from app.api.schemas import read_body
from app.api.state import Api, ApiState
from app.errors import WebhookRefused
from app.providers.base import WebhookRequest


@route(
    "/api/v1/webhooks/{provider:str}",
    http_method=[HttpMethod.POST, HttpMethod.GET],  # Vonage may be set to GET
    status_code=200,
    request_max_body_size=None,  # webhook_bytes_max holds instead
    security=[{}],  # by the provider's own signature
    tags=["webhooks"],
)
async def take_webhook(provider: FromPath[str], request: Request[Any, Any, Any], api: Api) -> Response[Any]:
    """A provider's events, signed its way. ``provider`` is the name of the account in the configuration."""
    body = await read_body(request, bytes_max=api.settings.api.webhook_bytes_max)
    result = await api.receiver.receive(
        provider,
        WebhookRequest(
            method=request.method,
            url=_external_url(api, provider, request),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
            received_at=datetime.now(UTC),
        ),
    )
    if result.status >= 400:
        return problem_of(WebhookRefused(result.detail, reason="refused", status=result.status)).response()
    if result.stored:
        api.apply_waker.soon()
    if result.answer is not None:
        return Response(result.answer.body, status_code=result.status, media_type=result.answer.content_type)
    return Response({"detail": result.detail}, status_code=result.status)


def _external_url(api: ApiState, provider: str, request: Request[Any, Any, Any]) -> str:
    """The address the provider called, from our configuration: behind a proxy ``Host`` may be anything."""
    base = api.settings.webhook_url(provider) or str(request.base_url).rstrip("/") + request.url.path
    query = request.scope["query_string"].decode("latin-1")
    return f"{base}?{query}" if query else base


routes = [take_webhook]
