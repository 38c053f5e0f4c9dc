"""Access tokens that providers hand out for a while (OAuth): fetched once for all who wait, kept until they run out.

    token = await access.get(account, provider, now, deadline)     before a call; an Outcome in its place ends the call
    outcome = access.refused(account, token, outcome)              after an answer that says UNAUTHORIZED

A token endpoint is an ordinary HTTPS service and no send: whatever goes wrong there, nothing was sent, so no outcome
of ``get`` is ever UNKNOWN.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from app.domain.models import Outcome, OutcomeKind
from app.providers.base import AccessToken, AnyProvider, ProviderRequest, ProviderResponse
from app.providers.transport import TransportError

TOKEN_REFUSED: Final = "access_token_refused"  # noqa: S105 - what an adapter says when its token was not taken
REFRESH_EARLY: Final = timedelta(minutes=5)  # a token that runs out under way is refused
REFRESH_SHARE_MAX: Final = 0.25  # of a token's life, for those that live minutes
REFRESH_SECONDS_MAX: Final = 1.0  # what one call may lose to a refresh while the old token still serves
REFRESH_AGAIN: Final = timedelta(seconds=30)  # after a refresh that failed
PROVEN: Final = timedelta(minutes=2)  # by then whoever fetched a token has its answer, and it would have been dropped


class Sender(Protocol):
    """The transport that reaches the token endpoint."""

    async def send(self, request: ProviderRequest, deadline: float) -> ProviderResponse: ...


@dataclass(slots=True)
class _Entry:
    """What is known of one account.

    suspect: the token before this one was refused, and this one has not served for long.
    fetching: what the callers wait for that do not fetch themselves.
    """

    provider: AnyProvider
    token: AccessToken | None = None
    fetched_at: datetime = datetime.min.replace(tzinfo=UTC)
    refresh_at: datetime = datetime.min.replace(tzinfo=UTC)
    suspect: bool = False
    fetching: asyncio.Future[None] | None = None
    failure: Outcome | None = None


class AccessTokens:
    """One token for each provider account, shared by all lanes of a process."""

    def __init__(self, transport: Sender) -> None:
        self._transport = transport
        self._entries: dict[str, _Entry] = {}

    async def get(self, account: str, provider: AnyProvider, now: datetime, deadline: float) -> str | Outcome | None:
        """The account's token; None for a provider that has none; an Outcome when there is none to be had now.

        ``deadline`` is the loop's time. Whoever comes while the token is being fetched waits for that one.
        """
        while True:
            entry = self._entry(account, provider)
            token = entry.token if entry.token is not None and now < entry.token.expires_at else None
            if token is not None and (now < entry.refresh_at or entry.fetching is not None):
                entry.suspect = entry.suspect and now - entry.fetched_at < PROVEN
                return token.value  # young, or somebody refreshes it and it is good for minutes yet
            if entry.fetching is None:
                request = provider.build_access(now)
                return None if request is None else await self._fetch(entry, request, now, deadline, old=token)
            if not await _done_by(entry.fetching, deadline):
                return Outcome(OutcomeKind.TRANSIENT, "no access token before the deadline")
            if entry.failure is not None:
                return entry.failure

    def refused(self, account: str, token: str, outcome: Outcome) -> Outcome:
        """What an UNAUTHORIZED answer means for a call that was made with ``token``.

        A token may be revoked before its time: the next call gets a new one, and this one may be tried again, for
        nothing was accepted. When the new one is refused as well, it is not the token that is wrong; when it was
        taken for minutes, it may be revoked like any other.
        """
        if outcome.reason != TOKEN_REFUSED:
            return outcome
        entry = self._entries.get(account)
        if entry is None or entry.token is None or entry.token.value != token:
            return _once_more(outcome)  # a newer one is there or on its way: this call was under way before it
        again, entry.suspect, entry.token = entry.suspect, True, None
        return outcome if again else _once_more(outcome)

    def _entry(self, account: str, provider: AnyProvider) -> _Entry:
        """A provider that was made anew has a new key, so it gets a new token."""
        entry = self._entries.get(account)
        if entry is None or entry.provider is not provider:
            entry = self._entries[account] = _Entry(provider)
        return entry

    async def _fetch(
        self, entry: _Entry, request: ProviderRequest, now: datetime, deadline: float, *, old: AccessToken | None
    ) -> str | Outcome:
        """Fetches for everybody. While the old token serves, a refresh takes little time and may fail."""
        loop = asyncio.get_running_loop()
        fetching = entry.fetching = loop.create_future()
        own = min(deadline, loop.time() + (request.timeout_seconds if old is None else REFRESH_SECONDS_MAX))
        entry.failure = None
        try:
            answer = await self._ask(entry.provider, request, now, own)
            if isinstance(answer, AccessToken):
                self._keep(entry, answer, now)
                return answer.value
            if old is not None:
                entry.refresh_at = now + REFRESH_AGAIN
                return old.value
            entry.failure = answer
            return answer
        finally:
            entry.fetching = None
            fetching.set_result(None)  # after a cancellation too: one of those who wait then fetches itself

    def _keep(self, entry: _Entry, token: AccessToken, now: datetime) -> None:
        entry.suspect = entry.suspect and entry.token is None  # a token that ran out was not refused
        entry.token, entry.fetched_at = token, now
        entry.refresh_at = token.expires_at - min(REFRESH_EARLY, (token.expires_at - now) * REFRESH_SHARE_MAX)

    async def _ask(
        self, provider: AnyProvider, request: ProviderRequest, now: datetime, deadline: float
    ) -> AccessToken | Outcome:
        try:
            response = await self._transport.send(request, deadline)
        except TransportError as error:
            return Outcome(OutcomeKind.TRANSIENT, f"no access token: {error.detail}")
        answer = provider.interpret_access(response, now)
        if isinstance(answer, Outcome) and answer.kind is OutcomeKind.UNKNOWN:
            return replace(answer, kind=OutcomeKind.TRANSIENT)
        return answer


async def _done_by(future: asyncio.Future[None], deadline: float) -> bool:
    try:
        async with asyncio.timeout_at(deadline):
            await asyncio.shield(future)
    except TimeoutError:
        return False
    return True


def _once_more(outcome: Outcome) -> Outcome:
    return replace(outcome, kind=OutcomeKind.TRANSIENT)
