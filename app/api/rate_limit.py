"""How fast a key may go: its token bucket lies in Postgres, one for all processes; tokens are leased in
small batches, so that it is a round trip every tenth of a second and not one for every request.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from app.api.auth import Caller
from app.db import Database
from app.errors import TooManyRequests
from app.store import api_keys

LEASE_SECONDS = 0.1  # of a key's rate: what a process may hold unused, and how long it takes no for an answer
KEYS_LEASED_MAX = 10_000


@dataclass(slots=True)
class Lease:
    """Tokens of one key in this process's hand. refused: requests answered 429 that are not on record yet."""

    tokens: int = 0
    empty_until: float = 0.0  # time.monotonic()
    refused: int = 0
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock)


class RateLimiter:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._leases: dict[int, Lease] = {}

    async def take(self, caller: Caller, wanted: int = 1) -> None:
        """Takes ``wanted`` tokens. Raises TooManyRequests, saying when to come back; Unavailable."""
        lease = self._leases.get(caller.key_id) or self._lease(caller)
        if lease.tokens >= wanted:
            lease.tokens -= wanted
            return
        async with lease.renewing:
            if lease.tokens < wanted:
                await self._renew(lease, caller, wanted)
            lease.tokens -= wanted

    def _lease(self, caller: Caller) -> Lease:
        if len(self._leases) >= KEYS_LEASED_MAX:
            self._leases.clear()  # the tokens in hand are lost, which errs on the slow side
        return self._leases.setdefault(caller.key_id, Lease())

    async def _renew(self, lease: Lease, caller: Caller, wanted: int) -> None:
        """Brings the lease to at least ``wanted``, or raises TooManyRequests; what was granted stays in
        hand.
        """
        missing = wanted - lease.tokens
        now = time.monotonic()
        if lease.empty_until > now:
            lease.refused += 1
            raise _too_many(max(lease.empty_until - now, missing / caller.rate_per_second))
        refused = lease.refused
        async with self._db.transaction() as conn:
            if refused:
                await api_keys.note_refused(conn, key_id=caller.key_id, hits=refused)
            tokens = await api_keys.take_tokens(
                conn,
                f"api_key.{caller.key_id}",
                wanted=max(missing, int(caller.rate_per_second * LEASE_SECONDS)),
                rate=caller.rate_per_second,
                burst=caller.burst,
            )
        lease.refused -= refused
        lease.tokens += tokens.granted
        if lease.tokens < wanted:
            lease.refused += 1
            lease.empty_until = time.monotonic() + max(tokens.retry_after_seconds, LEASE_SECONDS)
            raise _too_many(max(tokens.retry_after_seconds, (wanted - lease.tokens) / caller.rate_per_second))


def _too_many(retry_after_seconds: float) -> TooManyRequests:
    return TooManyRequests(
        "this API key has used up its rate; nothing of this request was accepted",
        retry_after_seconds=round(retry_after_seconds, 3),
    )
