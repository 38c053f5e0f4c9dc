"""dispatch: one lane, from claim to record.

    claim    lock due deliveries, give each a provider, write their intents, commit durably      (transaction)
    send     render, build, call the provider, classify             (no transaction, no lock held: I14; flows.line)
    record   all outcomes that have come in meanwhile, in one statement                          (transaction)

Only what a clean commit returned is sent (I1), only within the gate after that commit began (I6). An outcome that
cannot be recorded is not lost: its lease runs out, and ``reconcile`` resolves it. After a definite non-send another
provider of the lane's route may be asked at once (R-164); after an unknown outcome nobody is (I5).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import structlog

from app.crash import Step, crash_point
from app.db import Connection, Database
from app.domain.backoff import Decision, RetryPolicy, decide
from app.domain.models import Channel, Evidence, EvidenceKind, NotificationClass, Outcome, OutcomeKind
from app.domain.routing import NEGLIGIBLE, assign, weights
from app.errors import NotDurable, TemplateRenderError, Unavailable
from app.flows import targets
from app.flows.compose import data_only
from app.flows.control import Control
from app.flows.line import Finished, Job, Line
from app.flows.targets import Settled
from app.providers.access import AccessTokens
from app.providers.accounts import ProviderSet
from app.providers.base import RECIPIENT_LIMITED, AnyProvider
from app.providers.transports import AnyTransport
from app.rendering.pool import RenderPool
from app.rendering.types import Rendered, RenderJob, TemplateSource
from app.settings import Choice, Settings
from app.store import control as control_store
from app.store import dispatch as store
from app.store import inbound, inbox
from app.store.control import ProviderState, Slots
from app.store.dispatch import Claimed, Due, Recorded

log = structlog.get_logger()

RECORD_MAX = 500  # outcomes in one statement
TEMPLATES_KEPT_MAX = 5000  # versions never change, so they never go stale; a few KB each
DATABASE_RETRY_SECONDS = 0.5
RENDER_RETRY_SECONDS = 5.0
DETAIL_CHARS_MAX = 500
# What is locked to see whether it expired while no provider takes calls: the front of the queue, because looking
# through a whole backlog at each poll would cost more the longer the outage.
LOOK_AT_MAX = 50
CROWDED_SECONDS = 0.25  # when all that is due goes to providers that have no room, or somebody else has it locked
CROWDED_SECONDS_MAX = 30.0  # the most by which a delivery is put off because its provider has no room
LEASE_SECONDS_MAX = 1.0  # how long slots are asked for: the calls to other providers of the batch go first
SLOTS_LOOK_SECONDS = 0.05  # between two looks whether slots of a provider with a rate have come free


@dataclass(frozen=True, slots=True)
class Lane:
    """``channel.class.route``: the unit of isolation. choices: the providers that serve it."""

    name: str
    channel: str
    klass: NotificationClass
    choices: tuple[Choice, ...]


class Dispatcher:
    """Keeps one lane moving until it is told to stop; then finishes what is under way and releases the rest."""

    def __init__(
        self,
        lane: Lane,
        *,
        db: Database,
        providers: ProviderSet,
        transports: Mapping[str, AnyTransport],
        access: AccessTokens,
        renderer: RenderPool,
        control: Control,
        settings: Settings,
        worker_id: UUID,
        signing_key: bytes,
    ) -> None:
        """transports: this lane's own way to each of its providers."""
        self.lane = lane
        self.woken = asyncio.Event()
        self._db = db
        self._renderer = renderer
        self._control = control
        self._settings = settings
        self._sizes = settings.worker.share(lane.klass)
        self._worker_id = worker_id
        self._lines = {
            choice.provider: Line(
                choice,
                channel=lane.channel,
                sizes=self._sizes,
                providers=providers,
                transport=transports[choice.provider],
                access=access,
                control=control,
                settings=settings,
                signing_key=signing_key,
                policy=retry_policy(settings, lane, providers.get(choice.provider)),
                spawn=self._spawn,
                finish=self._finish,
            )
            for choice in lane.choices
        }
        self._states: list[ProviderState] = []
        self._states_at = 0.0
        self._waits_for_others = False
        self._templates: dict[tuple[int, str, int], TemplateSource] = {}
        self._freed = asyncio.Event()
        self._finished: list[Finished] = []
        self._to_record = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._all_finished = False

    # The life of a lane -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Claims and sends until ``stop``; returns when every outcome has been recorded."""
        recorder = asyncio.create_task(self._record_until_all_is_finished())
        recorder.add_done_callback(lambda _: self.stop())  # a lane that cannot record must not send
        try:
            while not self._stopping:
                try:
                    pause = 0.0 if await self._claim_and_start() else await self._idle_seconds()
                except (Unavailable, NotDurable, psycopg.Error) as error:
                    # Nothing of an uncertain commit is sent: its rows are still queued, or their leases run out.
                    log.warning("claim_failed", lane=self.lane.name, error=str(error))
                    pause = DATABASE_RETRY_SECONDS
                if pause:
                    await self._pause(pause)
        finally:
            self.stop()
            while self._tasks:
                await asyncio.wait(self._tasks)
            self._all_finished = True
            self._to_record.set()
            await recorder

    def stop(self) -> None:
        """No more claims: calls under way go on, what has not begun is released."""
        self._stopping = True
        for line in self._lines.values():
            line.stop()
        self.woken.set()
        self._freed.set()

    async def _idle_seconds(self) -> float:
        """Until the next row of this lane is due or a provider may be ready; at most the slow poll. A wake-up ends it
        sooner."""
        poll = self._sizes.poll_seconds
        if self._waits_for_others:
            return min(poll, CROWDED_SECONDS)
        if self._states and not self._usable(self._states):
            now = datetime.now(UTC)
            back = [state.ready_at for state in self._states if state.ready_at is not None and not state.shed]
            if not back:
                return poll
            if min(back) > now:
                return min(poll, max(0.01, (min(back) - now).total_seconds()))
        async with self._db.transaction() as conn:
            due_in = await store.next_due(conn, lane=self.lane.name, region=self._settings.region)
        if due_in is None:
            return poll
        # What is due and was not taken is locked by somebody, or may not be called: there is no hurry to look again.
        return min(poll, max(0.01, due_in) if due_in > 0 else CROWDED_SECONDS)

    async def _pause(self, seconds: float) -> None:
        if self._stopping:
            return
        try:
            async with asyncio.timeout(seconds):
                await self.woken.wait()
        except TimeoutError:
            return

    # Claim ------------------------------------------------------------------------------------------------------

    async def _claim_and_start(self) -> int:
        """Claims as much as there is room for and starts its calls. Answers how many rows were taken up."""
        limit = await self._room()
        self.woken.clear()
        if self._stopping:
            return 0
        began = time.monotonic()
        async with self._db.transaction(durable=True) as conn:
            due, self._states = await store.lock_due(
                conn,
                lane=self.lane.name,
                klass=self.lane.klass,
                providers=list(self._lines),
                region=self._settings.region,
                limit=limit,
                retry_share=self._sizes.retry_share,
            )
            self._states_at = time.monotonic()
            for state in self._states:
                self._lines[state.provider].saw(state)
            self._control.saw(self._states)
            put_off: set[UUID] = set()
            if due and self.lane.channel in targets.ENDPOINT_CHANNELS:
                put_off = await store.put_off_failing(conn, due)
                due = [d for d in due if d.id not in put_off]
            probe = await self._take_probe(conn, due)
            chosen = self._choose(due, probe)
            crowded = await self._put_off_crowded(conn, due, chosen, limit)
            self._waits_for_others = bool(due) and not chosen and not crowded and bool(self._usable(self._states))
            claimed = await self._open_attempts(conn, chosen)
            if probe is not None and all(c.provider != probe for c in claimed):  # its address was suppressed meanwhile
                await control_store.free_probe(conn, probe, worker_id=self._worker_id)
            found = await targets.load(conn, self.lane.channel, claimed)
            if claimed:
                crash_point(Step.BEFORE_CLAIM_COMMIT)
        if claimed:
            crash_point(Step.AFTER_CLAIM_COMMIT)
            for provider, deliveries in Counter(c.provider for c in claimed).items():
                self._lines[provider].hold(deliveries)
            self._spawn(self._send_batch(claimed, found, began, probe))
        return len(put_off) + crowded + len(chosen)

    async def _take_probe(self, conn: Connection, due: Sequence[Due]) -> str | None:
        """The provider that one of these deliveries is to try, if one is due and nobody else tries it."""
        open_ = [state.provider for state in self._states if state.probe_due and not state.shed]
        if not open_ or all(d.expired for d in due):
            return None
        await store.share_addresses(conn, due)  # addresses before providers, as everyone takes them
        times = self._settings.times
        seconds = times.gate_seconds + times.send_seconds + times.commit_max_seconds
        return await control_store.take_probe(conn, open_, worker_id=self._worker_id, probe_seconds=seconds)

    def _choose(self, due: Sequence[Due], probe: str | None) -> list[tuple[Due, str | None]]:
        """A provider for each delivery that has one; what expired has its end without. The rest wait."""
        chosen: list[tuple[Due, str | None]] = [(d, None) for d in due if d.expired]
        alive = [d for d in due if not d.expired]
        if probe is not None and alive:
            chosen.append((alive.pop(0), probe))
        usable = self._usable(self._states)
        if usable and alive:
            offers = [self._lines[state.provider].offer(state) for state in usable]
            taken = assign([d.tried or () for d in alive], offers)
            chosen += [(d, provider) for d, provider in zip(alive, taken, strict=True) if provider is not None]
        return chosen

    async def _put_off_crowded(
        self, conn: Connection, due: Sequence[Due], chosen: Sequence[tuple[Due, str | None]], limit: int
    ) -> int:
        """What one provider refused, and another has no room for, must not stand in the way of those behind it that the
        first has room for: put off for as long as the other needs for so many. Answers how many were."""
        if len(due) < limit * (1 - self._sizes.retry_share):
            return 0  # nobody is behind them
        taken = {d.id for d, _ in chosen}
        usable = {state.provider for state in self._usable(self._states)}
        roomy = {provider for provider in usable if self._lines[provider].room() > 0}
        crowded = [
            d
            for d in due
            if d.tried and d.id not in taken and usable.difference(d.tried) and roomy.intersection(d.tried)
        ]
        if crowded:
            wanted = {provider for d in crowded for provider in usable.difference(d.tried or ())}
            seconds = len(crowded) / sum(self._lines[provider].pace() for provider in wanted)
            await store.put_off_crowded(
                conn, crowded, over_seconds=min(max(seconds, CROWDED_SECONDS), CROWDED_SECONDS_MAX)
            )
        return len(crowded)

    async def _open_attempts(self, conn: Connection, chosen: Sequence[tuple[Due, str | None]]) -> list[Claimed]:
        if not chosen:
            return []
        return await store.open_attempts(
            conn,
            chosen,
            region=self._settings.region,
            worker_id=self._worker_id,
            lease_seconds=self._settings.times.lease_seconds,
        )

    @staticmethod
    def _usable(states: Sequence[ProviderState]) -> list[ProviderState]:
        return [state for state in states if state.ready and not state.shed]

    async def _room(self) -> int:
        """How many deliveries to claim. Waits until a fair part of somebody's hands is free: a claim of one row costs
        as much as one of a hundred. Whoever waits so for a whole poll looks at the front of the queue all the same:
        things may have changed, and what expires must not wait for a provider."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._sizes.poll_seconds):
                while not self._stopping:
                    lines = self._serving()
                    if not lines:
                        break
                    room = {provider: line.room(self._since_states()) for provider, line in lines.items()}
                    if any(room[provider] >= line.claim_min() for provider, line in lines.items()):
                        return min(sum(room.values()), self._sizes.claim_max)
                    self._freed.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(SLOTS_LOOK_SECONDS if self._has_rates() else None):
                            await self._freed.wait()
        return min(LOOK_AT_MAX, self._sizes.claim_max)

    def _serving(self) -> dict[str, Line]:
        """The lines that new deliveries go to, as things stood at the last claim; all, before the first."""
        usable = self._usable(self._states)
        if not self._states or len(self._lines) == len(usable) == 1:
            return self._lines
        offers = [self._lines[state.provider].offer(state) for state in usable]
        return {provider: self._lines[provider] for provider, part in weights(offers).items() if part > NEGLIGIBLE}

    def _has_rates(self) -> bool:
        return any(state.rate is not None for state in self._states)

    def _since_states(self) -> float:
        return time.monotonic() - self._states_at

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Send -------------------------------------------------------------------------------------------------------

    async def _send_batch(
        self, batch: Sequence[Claimed], found: targets.Found, began: float, probe: str | None
    ) -> None:
        by_line: defaultdict[str, list[Job]] = defaultdict(list)
        try:
            results = await self._render(batch)
            for claimed, rendered in zip(batch, results, strict=True):
                tries = claimed.provider == probe
                if isinstance(rendered, Rendered):
                    by_line[claimed.provider].append(Job(claimed, rendered, found.of(claimed), began, probe=tries))
        except Exception as error:  # whatever it was, nothing was sent: back to the queue, at no cost
            log.exception("render_failed", lane=self.lane.name, error=type(error).__name__)
            released = Outcome(
                OutcomeKind.RELEASED, "could not be rendered just now", retry_after_seconds=RENDER_RETRY_SECONDS
            )
            for claimed in batch:
                self._finish(Finished(claimed, released, probe=claimed.provider == probe))
            return
        for claimed, rendered in zip(batch, results, strict=True):
            if not isinstance(rendered, Rendered):
                self._finish(Finished(claimed, _render_failure(rendered), probe=claimed.provider == probe))
        limited = {state.provider for state in self._states if state.rate is not None}
        for provider in sorted(by_line, key=limited.__contains__):  # who has no rate waits for nobody's slots
            jobs = by_line[provider]
            slots = await self._lease_slots(provider, len(jobs), began) if provider in limited else None
            self._lines[provider].send(jobs, slots)

    async def _lease_slots(self, provider: str, n: int, began: float) -> Slots | None:
        """Slots for so many calls, as far as they come within the gate: one round trip for a batch. None when any time
        will do, for a provider without a rate."""
        left = began + self._settings.times.gate_seconds - time.monotonic()
        # A tenth is for the way from the database's clock to the call: a slot at the very gate would be missed.
        within = max(0.0, left * 0.9)
        try:
            async with asyncio.timeout(min(LEASE_SECONDS_MAX, within)), self._db.transaction() as conn:
                return await control_store.lease_slots(conn, provider, n, within_seconds=within)
        except Exception as error:  # whatever it was, there are no slots: all goes back to the queue, at no cost
            log.warning("slots_not_leased", lane=self.lane.name, provider=provider, error=repr(error))
            return Slots(first_in_seconds=0.0, step_seconds=0.0, n=0)

    async def _render(self, batch: Sequence[Claimed]) -> list[Rendered | TemplateRenderError]:
        wanted = {_template_key(claimed) for claimed in batch if claimed.template_version}
        await self._load_templates(wanted - self._templates.keys())
        missing = {_template_key(claimed) for claimed in batch} - self._templates.keys()
        jobs = [
            RenderJob(self._templates[_template_key(claimed)], claimed.variables)
            for claimed in batch
            if _template_key(claimed) not in missing
        ]
        rendered = iter(await self._renderer.render(jobs) if jobs else ())
        return [
            self._without_template(claimed) if _template_key(claimed) in missing else next(rendered)
            for claimed in batch
        ]

    def _without_template(self, claimed: Claimed) -> Rendered | TemplateRenderError:
        """What goes to an endpoint is data, and needs no words; anything else has lost its template."""
        if claimed.template_version == 0 or claimed.channel == Channel.WEBHOOK:
            return data_only(claimed.variables)
        return TemplateRenderError(detail=f"template {claimed.template_id} version {claimed.template_version} is gone")

    async def _load_templates(self, keys: set[tuple[int, str, int]]) -> None:
        if not keys:
            return
        if len(self._templates) + len(keys) > TEMPLATES_KEPT_MAX:
            self._templates.clear()
        async with self._db.transaction() as conn:
            rows = await store.load_templates(conn, keys, channel=self.lane.channel)
        for row in rows:
            self._templates[row.tenant_id, row.template_id, row.version] = TemplateSource(
                key=f"{row.tenant_id}/{row.template_id}/{row.version}",
                subject=row.subject or "",
                html=row.html,
                text=row.text,
                extras=tuple(row.extras.items()),
            )

    # Record -----------------------------------------------------------------------------------------------------

    def _finish(self, finished: Finished) -> None:
        self._lines[finished.claimed.provider].done()
        self._freed.set()
        self._finished.append(finished)
        self._to_record.set()

    async def _record_until_all_is_finished(self) -> None:
        """To the end of ``run``, and no sooner: a claim may still be under way when the last call is over."""
        while not (self._all_finished and not self._finished):
            await self._to_record.wait()
            self._to_record.clear()
            while self._finished:
                batch, self._finished = self._finished[:RECORD_MAX], self._finished[RECORD_MAX:]
                await self._record(batch)

    async def _record(self, batch: Sequence[Finished]) -> None:
        crash_point(Step.BEFORE_RECORD)
        now = datetime.now(UTC)
        decided = [(finished, self._decide(finished, now)) for finished in batch]
        await self._write(decided, now)
        if any(decision.failed_over for _, decision in decided):
            self.woken.set()  # another provider is asked at once, and not when this lane next looks
        crash_point(Step.AFTER_RECORD)

    async def _write(self, decided: Sequence[tuple[Finished, Decision]], decided_at: datetime) -> None:
        """Keeps trying while the database is away; if this process ends first, the leases run out."""
        began = time.monotonic()
        while True:
            try:
                return await self._record_once(decided, decided_at)
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                return await self._write_apart(decided, decided_at, error)
            except (Unavailable, psycopg.Error) as error:
                log.warning("record_failed", lane=self.lane.name, outcomes=len(decided), error=str(error))
                if self._stopping and time.monotonic() - began > self._settings.times.commit_max_seconds:
                    return
                await asyncio.sleep(DATABASE_RETRY_SECONDS)

    async def _write_apart(
        self, decided: Sequence[tuple[Finished, Decision]], decided_at: datetime, error: psycopg.Error
    ) -> None:
        """One outcome that cannot be stored must not keep its neighbours: its own lease runs out, theirs do not."""
        if len(decided) == 1:
            log.error("outcome_not_storable", delivery_id=str(decided[0][0].claimed.id), error=str(error))
            return
        middle = len(decided) // 2
        await self._write(decided[:middle], decided_at)
        await self._write(decided[middle:], decided_at)

    async def _record_once(self, decided: Sequence[tuple[Finished, Decision]], decided_at: datetime) -> None:
        items = [_item(f) for f, _ in decided if f.item is not None]
        by_provider: defaultdict[str, list[tuple[Finished, Decision]]] = defaultdict(list)
        for finished, decision in decided:
            by_provider[finished.claimed.provider].append((finished, decision))
        proven = False
        async with self._db.transaction() as conn:
            await store.record_outcomes(
                conn, [_recorded(f, decision) for f, decision in decided], decided_at=decided_at
            )
            await inbox.add_items(conn, items)
            await targets.settle(
                conn,
                self.lane.channel,
                [Settled(f.claimed, f.outcome, f.target) for f, _ in decided],
                settings=self._settings,
            )
            for provider in sorted(by_provider):
                if proofs := self._proofs(provider, [f for f, _ in by_provider[provider]]):
                    proven = True
                    await inbound.store_events(conn, provider=provider, source="provider", evidence=proofs, raw=b"")
                await self._mind_provider(conn, provider, by_provider[provider])
        if items:
            for hint in inbox.hints(items):
                await self._db.wake(inbox.CHANNEL, hint)
        if proven:
            await self._db.wake("landed_wake", "apply")

    async def _mind_provider(
        self, conn: Connection, provider: str, decided: Sequence[tuple[Finished, Decision]]
    ) -> None:
        await self._control.mind(
            conn,
            provider,
            [f.outcome for f, _ in decided],
            probe=next((_of_probe(f) for f, _ in decided if f.probe), None),
            pause=max((pause for f, d in decided if (pause := _pause_for_all(f, d))), default=None),
        )

    def _proofs(self, provider: str, finished: Sequence[Finished]) -> list[Evidence]:
        """What answers prove by themselves: the receiver's own 2xx is its receipt."""
        if not self._lines[provider].provider.capabilities.acceptance_is_delivery:
            return []
        return [
            Evidence(
                kind=EvidenceKind.DELIVERED,
                event_key=f"{f.claimed.id}.{f.claimed.attempt_no}.answered",
                occurred_at=datetime.now(UTC),
                delivery_id=f.claimed.id,
                attempt_no=f.claimed.attempt_no,
                data={"answered": f.outcome.status_code},
            )
            for f in finished
            if f.outcome.kind == OutcomeKind.ACCEPTED
        ]

    def _decide(self, finished: Finished, now: datetime) -> Decision:
        claimed = finished.claimed
        return decide(
            finished.outcome,
            failures=claimed.failures,
            expires_at=claimed.expires_at,
            now=now,
            jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
            policy=self._lines[claimed.provider].policy,
            elsewhere=finished.seconds is not None and self._has_other(claimed.provider, claimed.tried or ()),
            probe=finished.probe,
        )

    def _has_other(self, provider: str, tried: Collection[str]) -> bool:
        """Whether another provider of this lane takes calls and has not refused the delivery yet."""
        return any(other != provider and other not in tried and self._control.is_ready(other) for other in self._lines)


def retry_policy(settings: Settings, lane: Lane, provider: AnyProvider) -> RetryPolicy:
    follow = settings.follow
    return RetryPolicy(
        ladder=settings.ladder(lane.channel, lane.klass),
        jitter=settings.retry.jitter,
        retry_after_max_seconds=settings.retry_after_max_seconds(lane.channel),
        unauthorized_pause_seconds=settings.retry.unauthorized_pause_seconds,
        # Asking a provider that cannot be asked would be work for nothing, once for every message.
        confirm_after_seconds=follow.confirm_after_seconds
        if provider.capabilities.can_look_up
        else follow.confirm_give_up_seconds,
        ambiguous_first_lookup_seconds=follow.ambiguous_first_lookup_seconds,
    )


def _pause_for_all(finished: Finished, decision: Decision) -> float | None:
    return None if finished.outcome.reason == RECIPIENT_LIMITED else decision.pause_provider_seconds


def _of_probe(finished: Finished) -> Outcome:
    """What a probe showed: nothing when its delivery ended before its provider was called."""
    if finished.seconds is None and finished.outcome.kind != OutcomeKind.UNKNOWN:
        return Outcome(OutcomeKind.RELEASED, "the probe was never made")
    return finished.outcome


def _item(finished: Finished) -> inbox.NewItem:
    claimed, item = finished.claimed, finished.item
    assert item is not None
    return inbox.NewItem(
        tenant_id=claimed.tenant_id,
        recipient_id=claimed.recipient_id,
        id=claimed.id,
        attempt_no=claimed.attempt_no,
        notification_id=claimed.notification_id,
        category=claimed.category,
        title=item.title,
        body=item.body,
        data=item.data,
    )


def _template_key(claimed: Claimed) -> tuple[int, str, int]:
    return claimed.tenant_id, claimed.template_id, claimed.template_version


def _render_failure(error: TemplateRenderError) -> Outcome:
    """A template that breaks will break again: dead letter at once, for a person to mend. One that was only refused
    because its like had just overrun is tried again later."""
    if error.retry_after_seconds is not None:
        return Outcome(OutcomeKind.TRANSIENT, error.detail, retry_after_seconds=error.retry_after_seconds)
    return Outcome(OutcomeKind.REJECTED, error.detail, reason="render_failed")


def _recorded(finished: Finished, decision: Decision) -> Recorded:
    claimed, outcome = finished.claimed, finished.outcome
    return Recorded(
        shard=claimed.shard,
        id=claimed.id,
        no=claimed.attempt_no,
        tenant_id=claimed.tenant_id,
        notification_id=claimed.notification_id,
        attempt_state=decision.attempt_state,
        outcome=outcome.kind,
        status_code=outcome.status_code,
        detail=_storable(outcome.detail),
        message_id=outcome.provider_message_id,
        hash=finished.content_hash.hex() if finished.content_hash else None,
        state=decision.state,
        reason=decision.reason,
        due_at=decision.due_at,
        burns=decision.burns,
        facts=finished.facts,
        failed_over=claimed.provider if decision.failed_over else None,
    )


def _storable(detail: str) -> str:
    """A template's author may put anything into an error: bounded, valid UTF-8, no NUL."""
    return detail[:DETAIL_CHARS_MAX].replace("\0", "").encode("utf-8", "replace").decode()
