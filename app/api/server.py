"""The API as a process: ``landed api``, ``python -m app.api.server``."""

from __future__ import annotations

import gc
import math
import socket
import sys

import uvicorn
from uvicorn.importer import import_from_string

from app.api.state import ApiState
from app.errors import ConfigurationError
from app.settings import Settings, load_settings

YOUNG_OBJECTS_MAX = 10_000  # a request leaves hundreds behind, and nearly none of them in a cycle
BACKLOG = 2048  # connections the kernel holds while the loop is busy


class Server(uvicorn.Server):
    """uvicorn waits for every answer to be over before it tells the application to stop; a stream is never over."""

    def __init__(self, config: uvicorn.Config, api: ApiState) -> None:
        super().__init__(config)
        self._api = api

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._api.inbox.close_streams()
        await super().shutdown(sockets)


def server(settings: Settings) -> uvicorn.Server:
    """The configured server, not yet running."""
    # By name: the factory stands above this module and imports it.
    app = import_from_string("app.main:create_app")(settings)
    return Server(
        uvicorn.Config(
            app,
            host=settings.api.host,
            port=settings.api.port,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            backlog=BACKLOG,
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,  # nothing here asks where a request came from
            # A commit under way when we are told to stop must still be answered (RELIABILITY A.6, 10).
            timeout_graceful_shutdown=math.ceil(settings.times.shutdown_grace_seconds),
        ),
        app.state.api,
    )


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, finishes what it has begun, and returns; exits if it cannot start."""
    running = server(settings)
    _spare_the_collector()
    running.run()
    if not running.started:
        sys.exit("the API could not start: see the log above")


def _spare_the_collector() -> None:
    """What is imported by now stays for good. Walking it again and again cost every hundredth request 100 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 50)


if __name__ == "__main__":
    try:
        serve(load_settings())
    except ConfigurationError as error:
        sys.exit(f"landed api: {error.detail}")
