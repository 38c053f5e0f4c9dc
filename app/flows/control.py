"""control: what the workers tell each other about providers, once a second and in one short transaction.

    count     what each call came to                                            (in memory, no round trip)
    report    the counts of the last second                                     (one statement)
    judge     breakers, shares, rates, and whether promotional work waits       (one statement each)

Breakers are rows that all workers share: whoever's report tips the scale opens one, and the claims of all see it in
their own transaction. One worker in all tries whether a provider is back (RELIABILITY, E).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import psycopg
import structlog

from app.db import Connection, Database
from app.domain.models import Outcome, OutcomeKind
from app.errors import Unavailable
from app.flows.targets import ENDPOINT_CHANNELS
from app.providers.accounts import ProviderSet
from app.providers.base import SENDER_REFUSED
from app.settings import Settings
from app.store import control as store
from app.store.control import ControlEvent, ProviderState, PublishedLane, PublishedProvider, Tally

log = structlog.get_logger()

JUDGE_EVERY_SECONDS: Final = 1.0
JUDGE_AT_ONCE_SECONDS: Final = 0.1  # between two reports when failures come in fast
JUDGE_LOAD_EVERY_SECONDS: Final = 2.0
RATE_FACTOR_MIN: Final = 0.1
SMTP_CLOSING: Final = 421  # the whole service, where other 4xx speak of one message or one mailbox (RFC 5321, 4.2.1)


class Control:
    """One for each worker, shared by its lanes."""

    def __init__(self, db: Database, providers: ProviderSet, settings: Settings, worker_id: UUID) -> None:
        self._db = db
        self._providers = providers
        self._settings = settings
        self._worker_id = worker_id
        self._breakable = sorted(name for name in providers if providers.get(name).capabilities.breaks)
        self._tallies: dict[str, Tally] = {}
        self._failing = asyncio.Event()
        self._ready: dict[str, bool] = {}
        self._changed: set[str] = set()  # whose credentials were replaced, and no breaker was told yet

    async def publish(self, lanes: Sequence[PublishedLane]) -> None:
        """What this worker's configuration says of lanes, providers, rates and what can be proven."""
        async with self._db.transaction() as conn:
            await store.publish(conn, lanes, [self._published(name) for name in sorted(self._providers)])

    def _published(self, name: str) -> PublishedProvider:
        capabilities = self._providers.get(name).capabilities
        return PublishedProvider(name, capabilities.channel, self._providers.rate(name), capabilities.confirms_delivery)

    # Count --------------------------------------------------------------------------------------------------------

    def count(self, account: str, outcome: Outcome, seconds: float) -> None:
        """Notes one call and how long it took."""
        tally = self._tallies.get(account)
        if tally is None:
            tally = self._tallies[account] = Tally(account)
        tally.calls += 1
        if outcome.kind == OutcomeKind.ACCEPTED:
            tally.accepted += 1
        elif outcome.kind == OutcomeKind.RATE_LIMITED:
            tally.limited += 1
        elif _is_failure(outcome):
            tally.failures += 1
            tally.unknown += outcome.kind == OutcomeKind.UNKNOWN
            if tally.failures >= self._settings.breakers.failures_min:
                self._failing.set()
        if outcome.status_code is not None:
            tally.client_errors += 400 <= outcome.status_code < 500
            tally.server_errors += 500 <= outcome.status_code < 600
        tally.slow += seconds > self._settings.breakers.slow_seconds

    # See ----------------------------------------------------------------------------------------------------------

    def saw(self, states: Sequence[ProviderState]) -> None:
        """What a claim read: good enough for a guess whether another provider would take a delivery."""
        for state in states:
            self._ready[state.provider] = state.ready

    def is_ready(self, account: str) -> bool:
        return self._ready.get(account, True)

    # Judge --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reports and judges until it is cancelled. The database may be away; what was counted is kept meanwhile."""
        while True:
            try:
                async with asyncio.timeout(JUDGE_EVERY_SECONDS):
                    await self._failing.wait()
            except TimeoutError:
                pass
            self._failing.clear()
            try:
                await self.report()
            except (Unavailable, psycopg.Error) as error:
                log.warning("control_failed", error=str(error))
            await asyncio.sleep(JUDGE_AT_ONCE_SECONDS)

    async def report(self) -> None:
        """One round."""
        await self._try_new_credentials()
        events = await self._judge_providers()
        self._ready.update({event.name: False for event in events if event.event == "opened"})
        _tell(events)
        await self._speed_up()
        _tell(await self._judge_load())

    async def _judge_providers(self) -> list[ControlEvent]:
        tallies, self._tallies = self._tallies, {}
        breakers = self._settings.breakers
        try:
            async with self._db.transaction() as conn:
                if tallies:
                    await store.report_outcomes(conn, tallies.values())
                return await store.judge_providers(
                    conn,
                    sorted(self._providers),
                    self._breakable,
                    {
                        "window": breakers.window_seconds,
                        "failures_min": breakers.failures_min,
                        "failure_rate": breakers.failure_rate,
                        "cool_off": breakers.cool_off_seconds,
                        "calls_min": breakers.calls_min,
                        "degraded_rate": breakers.degraded_rate,
                        "slow_rate": breakers.slow_rate,
                        "share_min": breakers.share_min,
                        "shift_seconds": breakers.shift_seconds,
                    },
                )
        except (Unavailable, psycopg.Error):
            self._take_back(tallies)
            raise

    async def _try_new_credentials(self) -> None:
        """Who was refused for its credentials need not cool off once they are changed (R-193)."""
        self._changed |= self._providers.changed()  # asked again it would not say so again: kept until the commit
        if self._changed:
            async with self._db.transaction() as conn:
                await store.try_at_once(conn, sorted(self._changed))
            self._changed.clear()

    async def _speed_up(self) -> None:
        async with self._db.transaction() as conn:
            await store.speed_up(conn, sorted(self._providers))

    async def _judge_load(self) -> list[ControlEvent]:
        shedding = self._settings.shedding
        async with self._db.transaction() as conn:
            return await store.judge_load(
                conn,
                region=self._settings.region,
                every_seconds=JUDGE_LOAD_EVERY_SECONDS,
                transactional_seconds=shedding.transactional_seconds,
                alert_seconds=shedding.alert_seconds,
                apart=sorted(ENDPOINT_CHANNELS),
            )

    def _take_back(self, tallies: dict[str, Tally]) -> None:
        """Counts that could not be reported are reported with the next ones."""
        for account, old in tallies.items():
            new = self._tallies.setdefault(account, Tally(account))
            for name in Tally.__slots__:
                if name != "provider":
                    setattr(new, name, getattr(new, name) + getattr(old, name))

    # What a record tells --------------------------------------------------------------------------------------------

    async def mind(
        self, conn: Connection, account: str, outcomes: Sequence[Outcome], *, probe: Outcome | None, pause: float | None
    ) -> None:
        """What the outcomes of one batch mean for their provider, in the transaction that records them.

        probe: what became of the delivery that tried whether it is back. pause: the longest that it asked for, seconds;
        None when nobody but the recipients meant has to wait.
        """
        events: list[ControlEvent] = []
        if probe is not None:
            events += await self._mind_probe(conn, account, probe)
        if hits := [outcome for outcome in outcomes if outcome.kind == OutcomeKind.RATE_LIMITED]:
            # Of an account that never breaks, one of many receivers said it: only that one must wait.
            slows = pause is not None and account in self._breakable
            await store.limit(
                conn,
                account,
                detail=hits[-1].detail,
                seconds=pause if slows and pause else 0,
                hits=len(hits),
                factor_min=RATE_FACTOR_MIN if slows else None,
            )
        refused = next((outcome for outcome in outcomes if _is_refusal(outcome)), None)
        if refused is not None and account in self._breakable:
            cool_off = self._settings.retry.unauthorized_pause_seconds
            events += await store.trip(conn, account, detail=refused.detail, cool_off=cool_off)
        _tell(events)

    async def _mind_probe(self, conn: Connection, account: str, outcome: Outcome) -> list[ControlEvent]:
        breakers = self._settings.breakers
        if outcome.kind == OutcomeKind.RELEASED:
            await store.free_probe(conn, account, worker_id=self._worker_id)
            return []
        if not _is_failure(outcome) and not _is_refusal(outcome):
            return await store.close_breaker(
                conn,
                account,
                worker_id=self._worker_id,
                share_min=breakers.share_min,
                detail=f"it took a call again: {outcome.kind}",
            )
        return await store.keep_open(
            conn,
            account,
            worker_id=self._worker_id,
            reason="unauthorized" if outcome.kind == OutcomeKind.UNAUTHORIZED else "failing",
            detail=outcome.detail,
            cool_off_max=breakers.cool_off_max_seconds,
        )


def _is_failure(outcome: Outcome) -> bool:
    """Of the provider: no connection, no answer, an error of its own. What it says of one recipient is none."""
    if outcome.kind == OutcomeKind.TRANSIENT:
        status = outcome.status_code
        return status is None or status >= 500 or status == SMTP_CLOSING
    return outcome.kind == OutcomeKind.UNKNOWN


def _is_refusal(outcome: Outcome) -> bool:
    """Of our account; what is wrong with one sender alone stops nobody else."""
    return outcome.kind == OutcomeKind.UNAUTHORIZED and outcome.reason != SENDER_REFUSED


def _tell(events: Sequence[ControlEvent]) -> None:
    for event in events:
        log.warning("control", name=event.name, step=event.event, detail=event.detail)
