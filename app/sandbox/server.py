"""The sandbox as a web application, and as a process."""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Final

import uvicorn
from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.status_codes import HTTP_404_NOT_FOUND

from app.sandbox.answers import SandboxProtocol
from app.sandbox.config import SandboxConfig
from app.sandbox.control import control_router
from app.sandbox.httpapi import HttpProtocol, turned_down
from app.sandbox.mailbox import mailbox_handlers, page_not_found
from app.sandbox.registry import PROTOCOLS
from app.sandbox.runtime import Sandbox

#: Mailgun takes messages of up to 25 MB; the rest is room for encoding.
MAX_REQUEST_BYTES: Final = 52_400_000
#: Held calls are let go first, so nothing should need longer.
SHUTDOWN_SECONDS: Final = 2


@get("/health")
async def health(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Answers while the sandbox can serve."""
    return {"status": "ok", "providers": sorted(request.app.state.sandbox.protocols)}


def _turned_down(request: Request[Any, Any, Any], exc: HTTPException) -> Response[Any]:
    """A path or method that no handler is for, as the provider would put it whose path it looks like."""
    protocol = _owner(request.app.state.sandbox, request.url.path)
    if protocol:
        return turned_down(request, protocol, protocol.problem(exc.status_code, exc.detail), note=exc.detail)
    if exc.status_code == HTTP_404_NOT_FOUND:
        return page_not_found()
    return Response({"detail": exc.detail}, status_code=exc.status_code, headers=exc.headers)


def _owner(sandbox: Sandbox, path: str) -> HttpProtocol | None:
    """The provider with the longest path that this one begins with."""
    owners = [
        (len(prefix), protocol)
        for protocol in sandbox.protocols.values()
        if isinstance(protocol, HttpProtocol)
        for prefix in protocol.paths
        if path.startswith(prefix)
    ]
    return max(owners, key=lambda owner: owner[0])[1] if owners else None


def create_sandbox(config: SandboxConfig) -> Litestar:
    """The application over one ledger; it resumes unfinished scripts and webhooks when it is served."""
    sandbox = Sandbox(config, PROTOCOLS)
    theirs = [handler for protocol in sandbox.protocols.values() for handler in protocol.handlers()]
    return Litestar(
        route_handlers=[*theirs, control_router(), *mailbox_handlers(), health],
        exception_handlers={NotFoundException: _turned_down, MethodNotAllowedException: _turned_down},
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
