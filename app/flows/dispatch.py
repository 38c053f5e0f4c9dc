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
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import structlog

from app.crash import Step, crash_point
from app.db import Connection, Database
from app.domain import sms
from app.domain.backoff import Decision, RetryPolicy, decide
from app.domain.models import Channel, Evidence, EvidenceKind, NotificationClass, Outcome, OutcomeKind
from app.errors import InvalidFields, NotDurable, TemplateRenderError, Unavailable
from app.flows import targets
from app.flows.compose import InboxContent, Target, compose, compose_inbox, data_only
from app.flows.targets import Settled
from app.providers.access import AccessTokens
from app.providers.accounts import ProviderSet
from app.providers.base import AnyProvider, SendContext
from app.providers.guarded import Forbidden
from app.providers.transport import TransportError, classify_transport_error
from app.providers.transports import AnyTransport
from app.rendering.pool import RenderPool
from app.rendering.types import Rendered, RenderJob, TemplateSource
from app.settings import Settings
from app.settings import Worker as WorkerSizes
from app.store import dispatch as store
from app.store import inbound, inbox
from app.store.dispatch import Claimed, Recorded

log = structlog.get_logger()

RECORD_MAX = 500  # outcomes in one statement
TEMPLATES_KEPT_MAX = 5000  # versions never change, so they never go stale; a few KB each
DATABASE_RETRY_SECONDS = 0.5
CALL_SECONDS_FIRST = 0.1  # what a call is thought to take until calls have been made
CALL_SECONDS_WEIGHT = 0.05  # of the newest call in the running average: some twenty calls change one's mind
RENDER_RETRY_SECONDS = 5.0
DETAIL_CHARS_MAX = 500
NOT_A_TEST = Outcome(OutcomeKind.REJECTED, "this provider takes no message without delivering it", reason="test_mode")


@dataclass(frozen=True, slots=True)
class Lane:
    """``channel.class.route``: the unit of isolation, served by one provider account."""

    name: str
    channel: str
    klass: NotificationClass
    provider: str


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed delivery with its content, on its way to be sent."""

    claimed: Claimed
    rendered: Rendered
    target: Target | None
    provider: AnyProvider
    began: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A call that is over, waiting to be recorded. item: what goes into the inbox with it."""

    claimed: Claimed
    outcome: Outcome
    content_hash: bytes | None = None
    target: Target | None = None
    item: InboxContent | None = None
    facts: Mapping[str, Any] | None = None


class Dispatcher:
    """Keeps one lane moving until it is told to stop; then finishes what is under way and releases the rest."""

    def __init__(
        self,
        lane: Lane,
        *,
        db: Database,
        providers: ProviderSet,
        transport: AnyTransport,
        access: AccessTokens,
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
        self._access = access
        self._renderer = renderer
        self._settings = settings
        self._sizes = _sizes(settings, lane, providers.get(lane.provider))
        self._worker_id = worker_id
        self._signing_key = signing_key
        self._policy = retry_policy(settings, lane, providers.get(lane.provider))
        self._templates: dict[tuple[int, str, int], TemplateSource] = {}
        self._in_hand = 0
        self._call_seconds = CALL_SECONDS_FIRST
        self._ready: deque[Job] = deque()
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
                to_endpoints=self.lane.channel in targets.ENDPOINT_CHANNELS,
            )
            found = await targets.load(conn, self.lane.channel, claimed)
            if claimed:
                crash_point(Step.BEFORE_CLAIM_COMMIT)
        if claimed:
            crash_point(Step.AFTER_CLAIM_COMMIT)
            self._in_hand += len(claimed)
            self._spawn(self._send_batch(claimed, found, began))
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

    async def _send_batch(self, batch: Sequence[Claimed], found: targets.Found, began: float) -> None:
        try:
            results = await self._render(batch)
        except Exception as error:  # whatever it was, nothing was sent: back to the queue, at no cost
            log.exception("render_failed", lane=self.lane.name, error=type(error).__name__)
            released = Outcome(
                OutcomeKind.RELEASED, "could not be rendered just now", retry_after_seconds=RENDER_RETRY_SECONDS
            )
            for claimed in batch:
                self._finish(Finished(claimed, released))
            return
        provider = self._providers.get(self.lane.provider)
        for claimed, rendered in zip(batch, results, strict=True):
            if not isinstance(rendered, Rendered):
                self._finish(Finished(claimed, _render_failure(rendered)))
            elif claimed.test_mode and not provider.capabilities.takes_tests:
                self._finish(Finished(claimed, NOT_A_TEST, rendered.content_hash))
            elif provider.capabilities.transport == "local":
                self._finish(_kept(claimed, rendered))
            else:
                self._ready.append(Job(claimed, rendered, found.of(claimed), provider, began))
        for _ in range(min(len(self._ready), self._sizes.concurrency - self._senders)):
            self._senders += 1
            self._spawn(self._send_while_ready())

    async def _send_while_ready(self) -> None:
        """One of the few that send: a task for every message, each waiting for its turn, would cost a tenth more."""
        try:
            while self._ready:
                await self._send(self._ready.popleft())
        finally:
            self._senders -= 1

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

    async def _send(self, job: Job) -> None:
        outcome = Outcome(OutcomeKind.UNKNOWN, "the call ended without an outcome")
        try:
            outcome = await self._call(job)
        except Exception as error:
            # A mistake of ours after the intent: what left the socket is not known, so it is resolved, not resent.
            log.exception("send_failed", delivery_id=str(job.claimed.id), error=type(error).__name__)
        finally:
            facts = asdict(sms.size(job.rendered.text)) if self.lane.channel == Channel.SMS else None
            self._finish(Finished(job.claimed, outcome, job.rendered.content_hash, job.target, facts=facts))

    async def _call(self, job: Job) -> Outcome:
        claimed, provider = job.claimed, job.provider
        if job.target is None or job.target.refusal is not None:
            return targets.missing(claimed, job.target)
        now = time.monotonic()
        if self._stopping or now - job.began > self._settings.times.gate_seconds:
            return Outcome(OutcomeKind.RELEASED, "shutting down" if self._stopping else "too late after its intent")
        loop = asyncio.get_running_loop()
        try:
            message = compose(
                claimed,
                job.rendered,
                job.target,
                provider=provider,
                settings=self._settings,
                signing_key=self._signing_key,
            )
            token = await self._access.get(
                self.lane.provider, provider, datetime.now(UTC), loop.time() + self._settings.times.send_seconds
            )
            if isinstance(token, Outcome):
                return token
            request = provider.build(message, self._context(token))
        except InvalidFields as error:
            return Outcome(OutcomeKind.REJECTED, error.detail)
        if token is not None and time.monotonic() - job.began > self._settings.times.gate_seconds:
            return Outcome(OutcomeKind.RELEASED, "too late after its intent")  # the token took its time
        deadline = loop.time() + min(request.timeout_seconds, self._settings.times.send_seconds)
        began = time.monotonic()
        try:
            response = await self._transport.send(request, deadline)
        except Forbidden as error:
            return Outcome(OutcomeKind.REJECTED, error.detail, reason="forbidden_address")
        except TransportError as error:
            return self._safe_to_repeat(classify_transport_error(error), provider)
        finally:
            self._call_seconds += CALL_SECONDS_WEIGHT * (time.monotonic() - began - self._call_seconds)
        outcome = provider.interpret(response, datetime.now(UTC))
        if outcome.kind == OutcomeKind.UNAUTHORIZED and token is not None:
            outcome = self._access.refused(self.lane.provider, token, outcome)
        return self._safe_to_repeat(outcome, provider)

    def _context(self, token: str | None) -> SendContext:
        account = self.lane.provider
        return SendContext(datetime.now(UTC), account, self._settings.webhook_url(account), token)

    def _safe_to_repeat(self, outcome: Outcome, provider: AnyProvider) -> Outcome:
        """Where the receiver drops copies by our id, an unknown outcome is a failure like any other: sent again under
        the same id, which is the receiver's designed way to settle it (Standard Webhooks)."""
        if outcome.kind == OutcomeKind.UNKNOWN and provider.capabilities.resend_is_safe:
            return replace(outcome, kind=OutcomeKind.TRANSIENT)
        return outcome

    # Record -----------------------------------------------------------------------------------------------------

    def _finish(self, finished: Finished) -> None:
        self._in_hand -= 1
        self._freed.set()
        self._finished.append(finished)
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
        finished = [f for f, _ in decided]
        proofs = self._proofs(finished)
        items = [_item(f) for f in finished if f.item is not None]
        async with self._db.transaction() as conn:
            await store.record_outcomes(conn, [_recorded(f, decision) for f, decision in decided])
            await inbox.add_items(conn, items)
            await targets.settle(
                conn,
                self.lane.channel,
                [Settled(f.claimed, f.outcome, f.target) for f in finished],
                provider=self.lane.provider,
                settings=self._settings,
            )
            if proofs:
                await inbound.store_events(
                    conn, provider=self.lane.provider, source="provider", evidence=proofs, raw=b""
                )
            await self._mind_provider(conn, decided)
        if items:
            for hint in inbox.hints(items):
                await self._db.wake(inbox.CHANNEL, hint)
        if proofs:
            await self._db.wake("landed_wake", "apply")

    async def _mind_provider(self, conn: Connection, decided: Sequence[tuple[Finished, Decision]]) -> None:
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

    def _proofs(self, finished: Sequence[Finished]) -> list[Evidence]:
        """What answers prove by themselves: the receiver's own 2xx is its receipt."""
        if not self._providers.get(self.lane.provider).capabilities.acceptance_is_delivery:
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
        return decide(
            finished.outcome,
            failures=finished.claimed.failures,
            expires_at=finished.claimed.expires_at,
            now=now,
            jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
            policy=self._policy,
        )


def _sizes(settings: Settings, lane: Lane, provider: AnyProvider) -> WorkerSizes:
    """What this lane may do at once: its class's share, and no more calls than the provider takes."""
    sizes = settings.worker.share(lane.klass)
    at_once = provider.capabilities.concurrency_max
    return sizes if at_once is None else sizes.model_copy(update={"concurrency": min(sizes.concurrency, at_once)})


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


def _kept(claimed: Claimed, rendered: Rendered) -> Finished:
    """What never leaves the database: it is in the inbox when this is recorded, in the same transaction."""
    try:
        item = compose_inbox(rendered)
    except InvalidFields as error:
        return Finished(claimed, Outcome(OutcomeKind.REJECTED, error.detail), rendered.content_hash)
    outcome = Outcome(OutcomeKind.ACCEPTED, "in the inbox", provider_message_id=str(claimed.id))
    return Finished(claimed, outcome, rendered.content_hash, item=item)


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
    )


def _storable(detail: str) -> str:
    """A template's author may put anything into an error: bounded, valid UTF-8, no NUL."""
    return detail[:DETAIL_CHARS_MAX].replace("\0", "").encode("utf-8", "replace").decode()
