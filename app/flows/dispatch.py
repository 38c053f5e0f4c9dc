"""dispatch: one lane, from claim to record.

    claim    lock due deliveries, write their intents, commit durably           (transaction)
    send     render, build, call the provider, classify                         (no transaction, no lock held: I14)
    record   all outcomes that have come in meanwhile, in one statement         (transaction)

Only what a clean commit returned is sent (I1), only within the gate after that commit began (I6). An outcome that
cannot be recorded is not lost: its lease runs out, and ``reconcile`` resolves it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import structlog

from app.crash import Step, crash_point
from app.db import Database
from app.domain.backoff import Decision, RetryPolicy, decide
from app.domain.models import NotificationClass, Outcome, OutcomeKind
from app.domain.tokens import Subscription, sign, unsubscribe_headers
from app.errors import InvalidFields, NotDurable, TemplateRenderError, Unavailable
from app.providers.accounts import ProviderSet
from app.providers.base import EmailMessage, Provider
from app.providers.transport import Transport, TransportError, classify_transport_error
from app.rendering.pool import RenderPool
from app.rendering.types import Rendered, RenderJob, TemplateSource
from app.settings import Settings
from app.store import dispatch as store
from app.store import inbound
from app.store.dispatch import Claimed, Recorded

log = structlog.get_logger()

RECORD_MAX = 500  # outcomes in one statement
TEMPLATES_KEPT_MAX = 5000  # versions never change, so they never go stale; a few KB each
DATABASE_RETRY_SECONDS = 0.5
CALL_SECONDS_FIRST = 0.1  # what a call is thought to take until calls have been made
CALL_SECONDS_WEIGHT = 0.05  # of the newest call in the running average: some twenty calls change one's mind
RENDER_RETRY_SECONDS = 5.0
DETAIL_CHARS_MAX = 500


@dataclass(frozen=True, slots=True)
class Lane:
    """``channel.class.route``: the unit of isolation, served by one provider account."""

    name: str
    channel: str
    klass: NotificationClass
    provider: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A call that is over, waiting to be recorded."""

    claimed: Claimed
    outcome: Outcome
    content_hash: bytes | None


class Dispatcher:
    """Keeps one lane moving until it is told to stop; then finishes what is under way and releases the rest."""

    def __init__(
        self,
        lane: Lane,
        *,
        db: Database,
        providers: ProviderSet,
        transport: Transport,
        renderer: RenderPool,
        settings: Settings,
        worker_id: UUID,
        signing_key: bytes,
    ) -> None:
        self.lane = lane
        self.woken = asyncio.Event()
        self._db = db
        self._providers = providers
        self._transport = transport
        self._renderer = renderer
        self._settings = settings
        self._sizes = settings.worker.share(lane.klass)
        self._worker_id = worker_id
        self._signing_key = signing_key
        self._policy = retry_policy(settings, lane.klass)
        self._templates: dict[tuple[int, str, int], TemplateSource] = {}
        self._in_hand = 0
        self._call_seconds = CALL_SECONDS_FIRST
        self._ready: deque[tuple[Claimed, Rendered, Provider, float]] = deque()
        self._senders = 0
        self._freed = asyncio.Event()
        self._finished: list[Finished] = []
        self._to_record = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    # The life of a lane -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Claims and sends until ``stop``; returns when every outcome has been recorded."""
        recorder = asyncio.create_task(self._record_until_stopped())
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
            self._stopping = True
            while self._tasks:
                await asyncio.wait(self._tasks)
            self._to_record.set()
            await recorder

    def stop(self) -> None:
        """No more claims: calls under way go on, what has not begun is released."""
        self._stopping = True
        self.woken.set()
        self._freed.set()

    async def _idle_seconds(self) -> float:
        """Until the next row of this lane is due, at most the slow poll; a wake-up ends it sooner."""
        poll = self._sizes.poll_seconds
        async with self._db.transaction() as conn:
            due_at = await store.next_due(
                conn, lane=self.lane.name, provider=self.lane.provider, region=self._settings.region
            )
        if due_at is None:
            return poll
        return min(poll, max(0.01, (due_at - datetime.now(UTC)).total_seconds()))

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
        await self._room()
        self.woken.clear()
        limit = min(self._free(), self._sizes.claim_max)
        if self._stopping or limit == 0:
            return 0
        began = time.monotonic()
        async with self._db.transaction(durable=True) as conn:
            taken, claimed = await store.claim(
                conn,
                lane=self.lane.name,
                provider=self.lane.provider,
                region=self._settings.region,
                worker_id=self._worker_id,
                limit=limit,
                retry_share=self._sizes.retry_share,
                lease_seconds=self._settings.times.lease_seconds,
            )
            if claimed:
                crash_point(Step.BEFORE_CLAIM_COMMIT)
        if claimed:
            crash_point(Step.AFTER_CLAIM_COMMIT)
            self._in_hand += len(claimed)
            self._spawn(self._send_batch(claimed, began))
        return taken

    async def _room(self) -> None:
        """Waits until a fair part of our hands is free: a claim of one row costs as much as one of a hundred."""
        while self._free() < max(1, self._hands() // 4) and not self._stopping:
            self._freed.clear()
            await self._freed.wait()

    def _free(self) -> int:
        return max(0, self._hands() - self._in_hand)

    def _hands(self) -> int:
        """How many deliveries to hold: enough to keep every line busy while the next claim is made, but no more than
        can be called within half the gate at the pace the provider keeps."""
        sizes = self._sizes
        paced = int(sizes.concurrency * self._settings.times.gate_seconds / 2 / self._call_seconds)
        return max(sizes.concurrency, min(sizes.in_hand_max, paced))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Send -------------------------------------------------------------------------------------------------------

    async def _send_batch(self, batch: Sequence[Claimed], began: float) -> None:
        try:
            results = await self._render(batch)
        except Exception as error:  # whatever it was, nothing was sent: back to the queue, at no cost
            log.exception("render_failed", lane=self.lane.name, error=type(error).__name__)
            released = Outcome(
                OutcomeKind.RELEASED, "could not be rendered just now", retry_after_seconds=RENDER_RETRY_SECONDS
            )
            for claimed in batch:
                self._finish(claimed, released, None)
            return
        provider = self._providers.get(self.lane.provider)
        for claimed, rendered in zip(batch, results, strict=True):
            if isinstance(rendered, Rendered):
                self._ready.append((claimed, rendered, provider, began))
            else:
                self._finish(claimed, _render_failure(rendered), None)
        for _ in range(min(len(self._ready), self._sizes.concurrency - self._senders)):
            self._senders += 1
            self._spawn(self._send_while_ready())

    async def _send_while_ready(self) -> None:
        """One of the few that send: a task for every message, each waiting for its turn, would cost a tenth more."""
        try:
            while self._ready:
                await self._send(*self._ready.popleft())
        finally:
            self._senders -= 1

    async def _render(self, batch: Sequence[Claimed]) -> list[Rendered | TemplateRenderError]:
        wanted = {_template_key(claimed) for claimed in batch}
        await self._load_templates(wanted - self._templates.keys())
        missing = wanted - self._templates.keys()
        jobs = [
            RenderJob(self._templates[_template_key(claimed)], claimed.variables)
            for claimed in batch
            if _template_key(claimed) not in missing
        ]
        rendered = iter(await self._renderer.render(jobs))
        return [
            TemplateRenderError(detail=f"template {c.template_id} version {c.template_version} is gone")
            if _template_key(c) in missing
            else next(rendered)
            for c in batch
        ]

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
            )

    async def _send(self, claimed: Claimed, rendered: Rendered, provider: Provider, began: float) -> None:
        outcome = Outcome(OutcomeKind.UNKNOWN, "the call ended without an outcome")
        try:
            outcome = await self._call(claimed, rendered, provider, began)
        except Exception as error:
            # A mistake of ours after the intent: what left the socket is not known, so it is resolved, not resent.
            log.exception("send_failed", delivery_id=str(claimed.id), error=type(error).__name__)
        finally:
            self._finish(claimed, outcome, rendered.content_hash)

    async def _call(self, claimed: Claimed, rendered: Rendered, provider: Provider, began: float) -> Outcome:
        try:
            request = provider.build(self._message(claimed, rendered))
        except InvalidFields as error:
            return Outcome(OutcomeKind.REJECTED, error.detail)
        now = time.monotonic()
        if self._stopping or now - began > self._settings.times.gate_seconds:
            return Outcome(OutcomeKind.RELEASED, "shutting down" if self._stopping else "too late after its intent")
        budget = min(request.timeout_seconds, self._settings.times.send_seconds)
        deadline = asyncio.get_running_loop().time() + budget
        try:
            response = await self._transport.send(request, deadline)
        except TransportError as error:
            return classify_transport_error(error)
        finally:
            self._call_seconds += CALL_SECONDS_WEIGHT * (time.monotonic() - now - self._call_seconds)
        return provider.interpret(response, datetime.now(UTC))

    def _message(self, claimed: Claimed, rendered: Rendered) -> EmailMessage:
        return EmailMessage(
            delivery_id=claimed.id,
            attempt_no=claimed.attempt_no,
            tenant=claimed.tenant,
            category=claimed.category,
            to=claimed.address,
            sender=claimed.sender,
            reply_to=claimed.reply_to,
            subject=rendered.subject,
            html=rendered.html,
            text=rendered.text,
            headers=self._headers(claimed),
            tags=(claimed.category,),
            test_mode=claimed.test_mode,
            track_opens=claimed.track_opens,
            track_clicks=claimed.track_clicks,
        )

    def _headers(self, claimed: Claimed) -> dict[str, str]:
        """One-click unsubscribe for what people did not ask for (RFC 8058); a receipt has no such link."""
        public_url = self._settings.api.public_url
        if claimed.klass != NotificationClass.PROMOTIONAL or public_url is None:
            return {}
        subscription = Subscription(claimed.tenant_id, claimed.channel, claimed.address, claimed.category)
        return unsubscribe_headers(public_url, sign(self._signing_key, subscription))

    # Record -----------------------------------------------------------------------------------------------------

    def _finish(self, claimed: Claimed, outcome: Outcome, content_hash: bytes | None) -> None:
        self._in_hand -= 1
        self._freed.set()
        self._finished.append(Finished(claimed, outcome, content_hash))
        self._to_record.set()

    async def _record_until_stopped(self) -> None:
        while not (self._stopping and not self._tasks and not self._finished):
            await self._to_record.wait()
            self._to_record.clear()
            while self._finished:
                batch, self._finished = self._finished[:RECORD_MAX], self._finished[RECORD_MAX:]
                await self._record(batch)

    async def _record(self, batch: Sequence[Finished]) -> None:
        crash_point(Step.BEFORE_RECORD)
        now = datetime.now(UTC)
        await self._write([(finished, self._decide(finished, now)) for finished in batch])
        crash_point(Step.AFTER_RECORD)

    async def _write(self, decided: Sequence[tuple[Finished, Decision]]) -> None:
        """Keeps trying while the database is away; if this process ends first, the leases run out."""
        began = time.monotonic()
        while True:
            try:
                return await self._record_once(decided)
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                return await self._write_apart(decided, error)
            except (Unavailable, psycopg.Error) as error:
                log.warning("record_failed", lane=self.lane.name, outcomes=len(decided), error=str(error))
                if self._stopping and time.monotonic() - began > self._settings.times.commit_max_seconds:
                    return
                await asyncio.sleep(DATABASE_RETRY_SECONDS)

    async def _write_apart(self, decided: Sequence[tuple[Finished, Decision]], error: psycopg.Error) -> None:
        """One outcome that cannot be stored must not keep its neighbours: its own lease runs out, theirs do not."""
        if len(decided) == 1:
            log.error("outcome_not_storable", delivery_id=str(decided[0][0].claimed.id), error=str(error))
            return
        middle = len(decided) // 2
        await self._write(decided[:middle])
        await self._write(decided[middle:])

    async def _record_once(self, decided: Sequence[tuple[Finished, Decision]]) -> None:
        records = [_recorded(finished, decision) for finished, decision in decided]
        refused = [(f.claimed, f.outcome.detail) for f, _ in decided if f.outcome.kind == OutcomeKind.RECIPIENT_INVALID]
        async with self._db.transaction() as conn:
            await store.record_outcomes(conn, records)
            if refused:
                await inbound.lock_addresses(
                    conn, [(claimed.tenant_id, claimed.channel, claimed.address) for claimed, _ in refused]
                )
                await store.suppress_refused(conn, refused)
            pauses = [(f, d.pause_provider_seconds) for f, d in decided if d.pause_provider_seconds]
            if pauses:
                finished, seconds = max(pauses, key=lambda pause: pause[1] or 0)
                await store.pause_provider(
                    conn,
                    provider=self.lane.provider,
                    status=finished.outcome.kind,
                    detail=finished.outcome.detail,
                    seconds=seconds or 0,
                    hits=len(pauses),
                )
            elif any(f.outcome.kind == OutcomeKind.ACCEPTED for f, _ in decided):
                await store.provider_ok(conn, provider=self.lane.provider)

    def _decide(self, finished: Finished, now: datetime) -> Decision:
        return decide(
            finished.outcome,
            failures=finished.claimed.failures,
            expires_at=finished.claimed.expires_at,
            now=now,
            jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
            policy=self._policy,
        )


def retry_policy(settings: Settings, klass: NotificationClass) -> RetryPolicy:
    return RetryPolicy(
        ladder=settings.retry.ladders[klass],
        jitter=settings.retry.jitter,
        retry_after_max_seconds=settings.retry.retry_after_max_seconds,
        unauthorized_pause_seconds=settings.retry.unauthorized_pause_seconds,
        confirm_after_seconds=settings.follow.confirm_after_seconds,
        ambiguous_first_lookup_seconds=settings.follow.ambiguous_first_lookup_seconds,
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
    )


def _storable(detail: str) -> str:
    """A template's author may put anything into an error: bounded, valid UTF-8, no NUL."""
    return detail[:DETAIL_CHARS_MAX].replace("\0", "").encode("utf-8", "replace").decode()
