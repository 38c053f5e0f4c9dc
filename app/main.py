"""The API as one ASGI application: the one file that joins pool, caches, routes and error table."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ControllerRouterHandler, Message, Scope

from app.api import (
    categories,
    cors,
    dead_letters,
    devices,
    endpoints,
    errors,
    health,
    inbox,
    notifications,
    receipts,
    recipient_tokens,
    recipients,
    service_worker,
    suppressions,
    templates,
    tracking,
    unsubscribe,
    webhooks,
)
from app.api.auth import caller_of
from app.api.docs_page import DocsPage
from app.api.errors import answer_problem
from app.api.state import CHANNELS, ApiState, api_state
from app.db import HOT_PATH_OPTIONS, Database, listen
from app.errors import ConfigurationError
from app.settings import Settings

# One line a resource; each module names its handlers in ``routes``.
ROUTES: Sequence[ControllerRouterHandler] = [
    *notifications.routes,
    *templates.routes,
    *categories.routes,
    *recipients.routes,
    *recipient_tokens.routes,
    *inbox.routes,
    *suppressions.routes,
    *dead_letters.routes,
    *endpoints.routes,
    *devices.routes,
    *receipts.routes,
    *tracking.routes,
    *service_worker.routes,
    *unsubscribe.routes,
    *webhooks.routes,
    *health.routes,
    *errors.routes,
]

API_CONNECTIONS_MAX = 10

# A page of ours says what else it needs by a policy of its own.
SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


def create_app(settings: Settings) -> Litestar:
    """The API over the database that ``settings`` names. Raises ConfigurationError when it names none."""
    if settings.database_url is None:
        raise ConfigurationError("database_url is not set: give LANDED_DATABASE_URL, or run 'landed up'")
    db = Database(
        settings.database_url.get_secret_value(),
        name="landed api",
        size_max=API_CONNECTIONS_MAX,
        options=f"{HOT_PATH_OPTIONS} -c lock_timeout={settings.times.lock_timeout_seconds * 1000:.0f}",
    )
    return Litestar(
        route_handlers=ROUTES,
        lifespan=[_running, templates.rendering, unsubscribe.signing, receipts.gathering],
        state=State({"api": ApiState.of(settings, db)}),
        dependencies={
            "api": Provide(api_state, sync_to_thread=False),
            "caller": Provide(caller_of, sync_to_thread=False),
        },
        exception_handlers={Exception: answer_problem},
        before_send=[_secure, cors.allow],
        request_max_body_size=settings.api.body_bytes_max,
        openapi_config=_openapi(),
        logging_config=None,
    )


@contextlib.asynccontextmanager
async def _running(app: Litestar) -> AsyncIterator[None]:
    api: ApiState = app.state.api
    async with api.db:
        listener = asyncio.create_task(listen(api.db.dsn, CHANNELS, api.heard, name="landed api listen"))
        try:
            yield
        finally:
            await api.close()
            listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listener


async def _secure(message: Message, scope: Scope) -> None:
    if message["type"] == "http.response.start":
        headers = message["headers"] = list(message.get("headers", ()))
        own = [name for name, _ in headers]
        headers += [header for header in SECURITY_HEADERS if header[0] not in own]


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Landed",
        version=version("landed"),
        description="Transactional notifications that are proven to land.",
        path="/docs",
        render_plugins=[DocsPage(), JsonRenderPlugin(path="/openapi.json")],
        security=[{"key": []}],
        components=Components(
            security_schemes={
                "key": SecurityScheme(
                    type="http", scheme="bearer", description="An API key, lk_...; X-API-Key is read too"
                )
            }
        ),
        use_handler_docstrings=True,
    )
