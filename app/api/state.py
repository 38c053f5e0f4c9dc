"""What every handler may ask for: ``api: ApiState`` as a dependency, or ``request.app.state.api``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestar import Request

from app.api.auth import Keys, keys_in
from app.db import Database
from app.settings import Settings

CONFIG_CHANNEL = "landed_config"  # store.notify_config: a tenant, key, category or template changed


@dataclass(frozen=True, slots=True)
class ApiState:
    settings: Settings
    db: Database
    keys: Keys

    @classmethod
    def of(cls, settings: Settings, db: Database) -> ApiState:
        return cls(settings=settings, db=db, keys=keys_in(db))

    def heard(self, channel: str, payload: str) -> None:
        """A hint arrived: what was cached may no longer be true."""
        if channel == CONFIG_CHANNEL:
            self.keys.clear()


def api_state(request: Request[Any, Any, Any]) -> ApiState:
    """The dependency ``api``."""
    state: ApiState = request.app.state.api
    return state
