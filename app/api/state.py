"""What every handler may ask for: ``api: ApiState`` as a dependency, or ``request.app.state.api``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, TypeAlias

from litestar import Request
from litestar.di import NamedDependency

from app.api.auth import KEY_TTL_SECONDS, KEYS_CACHED_MAX, Keys, keys_in
from app.api.rate_limit import RateLimiter
from app.cache import Cache
from app.db import Database
from app.flows.accept import Desk, desk
from app.flows.inbox import Hub
from app.flows.receive import Receiver
from app.flows.wake import Waker
from app.migrate import pending
from app.providers.accounts import ProviderSet
from app.settings import Settings
from app.store import inbox, recipient_secrets
from app.store.recipient_secrets import SigningSecrets

MIGRATIONS_TTL_SECONDS = 10.0  # looking reads the migrations' files; a probe comes every few seconds
CONFIG_CHANNEL = "landed_config"  # store.notify_config: a tenant, key, category or template changed
CHANNELS = (CONFIG_CHANNEL, inbox.CHANNEL)


@dataclass(frozen=True, slots=True)
class ApiState:
    settings: Settings
    db: Database
    keys: Keys
    signing_secrets: Cache[str, SigningSecrets | None]
    limiter: RateLimiter
    desk: Desk
    providers: ProviderSet
    receiver: Receiver
    apply_waker: Waker
    inbox: Hub
    pending_migrations: Cache[str, list[str]]

    @classmethod
    def of(cls, settings: Settings, db: Database) -> ApiState:
        providers = ProviderSet(settings.providers)
        return cls(
            settings=settings,
            db=db,
            keys=keys_in(db),
            signing_secrets=_signing_secrets_in(db),
            limiter=RateLimiter(db),
            desk=desk(db, settings),
            providers=providers,
            receiver=Receiver(db, providers, evidence_window_seconds=settings.times.evidence_window_seconds),
            apply_waker=Waker(db, "apply"),
            inbox=Hub(db, followers_max=settings.inbox.streams_max),
            pending_migrations=Cache(_pending, ttl_seconds=MIGRATIONS_TTL_SECONDS, size_max=1),
        )

    def heard(self, channel: str, payload: str) -> None:
        """A hint arrived: what was cached may no longer be true, or somebody's inbox has changed."""
        if channel == CONFIG_CHANNEL:
            self.keys.clear()
            self.signing_secrets.clear()
            self.desk.terms.clear()
        elif channel == inbox.CHANNEL:
            self.inbox.heard(payload)

    async def close(self) -> None:
        """Waits for what is under way."""
        await self.desk.close()
        await self.apply_waker.close()
        await self.inbox.close()


Api: TypeAlias = NamedDependency[ApiState]
"""What a handler writes: ``api: Api``."""


def _signing_secrets_in(db: Database) -> Cache[str, SigningSecrets | None]:
    """By the name of the tenant, cached as keys are."""

    async def find(tenant: str) -> SigningSecrets | None:
        async with db.transaction() as conn:
            return await recipient_secrets.find(conn, tenant)

    return Cache(find, ttl_seconds=KEY_TTL_SECONDS, size_max=KEYS_CACHED_MAX)


async def _pending(dsn: str) -> list[str]:
    return await asyncio.to_thread(pending, dsn)


def api_state(request: Request[Any, Any, Any]) -> ApiState:
    """The dependency ``api``."""
    state: ApiState = request.app.state.api
    return state
