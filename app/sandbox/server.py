"""The sandbox as a web application, and as a process."""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Final

import uvicorn
from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.exceptions import MethodNotAllowedException, NotFoundException

from app.sandbox.answers import SandboxProtocol
from app.sandbox.config import SandboxConfig
from app.sandbox.control import control_router
from app.sandbox.mailbox import mailbox_router, page_not_found
from app.sandbox.mailgun.answering import failed, not_found
from app.sandbox.mailgun.endpoints import mailgun_router
from app.sandbox.runtime import Sandbox

#: Mailgun takes messages of up to 25 MB; the rest is room for encoding.
MAX_REQUEST_BYTES: Final = 52_400_000
#: Held calls are let go first, so nothing should need longer.
SHUTDOWN_SECONDS: Final = 2

_PROVIDER_PATHS: Final = ("/v1/", "/v3/", "/v4/", "/v5/")


@get("/health")
async def health(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Answers while the sandbox can serve."""
    return {"status": "ok", "domain": request.app.state.sandbox.config.domain}


def _unknown_path(request: Request[Any, Any, Any], exc: NotFoundException) -> Response[str]:
    return not_found(request) if request.url.path.startswith(_PROVIDER_PATHS) else page_not_found()


def _wrong_method(request: Request[Any, Any, Any], exc: MethodNotAllowedException) -> Response[Any]:
    if request.url.path.startswith(_PROVIDER_PATHS):
        return failed(request, exc)
    return Response({"detail": exc.detail}, status_code=exc.status_code, headers=exc.headers)


def create_sandbox(config: SandboxConfig) -> Litestar:
    """The application over one ledger; it resumes unfinished scripts and webhooks when it is served."""
    sandbox = Sandbox(config)
    return Litestar(
        route_handlers=[mailgun_router(), control_router(), mailbox_router(), health],
        exception_handlers={NotFoundException: _unknown_path, MethodNotAllowedException: _wrong_method},
        on_startup=[sandbox.start],
        on_shutdown=[sandbox.stop],
        state=State({"sandbox": sandbox}),
        request_max_body_size=MAX_REQUEST_BYTES,
        openapi_config=None,
        logging_config=None,
    )


class _Server(uvicorn.Server):
    """Lets held calls go before it waits for the running ones to end."""

    def __init__(self, settings: uvicorn.Config, sandbox: Sandbox) -> None:
        super().__init__(settings)
        self._sandbox = sandbox

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._sandbox.faults.release()
        await super().shutdown(sockets)


def serve(config: SandboxConfig) -> None:
    """Serve until SIGINT or SIGTERM."""
    app = create_sandbox(config)
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        http=SandboxProtocol,
        loop="uvloop",
        ws="none",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    with contextlib.suppress(KeyboardInterrupt):
        _Server(settings, app.state.sandbox).run()
