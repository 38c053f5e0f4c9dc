"""line: one provider's part of a lane, with hands, connections and a pace of its own.

A provider that hangs keeps its own line busy, and nobody else's: what a lane has for its other providers goes on
(R-163). A call begins only within the gate after its intent's commit began (I6), and where the provider has a rate,
only in the slot that was leased for it (R-155).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from app.domain import sms
from app.domain.backoff import RetryPolicy
from app.domain.models import Channel, Outcome, OutcomeKind
from app.domain.routing import Offer
from app.errors import InvalidFields
from app.flows import targets
from app.flows.compose import InboxContent, Target, compose, compose_inbox
from app.flows.control import Control
from app.providers.access import AccessTokens
from app.providers.accounts import ProviderSet
from app.providers.base import AnyProvider, SendContext
from app.providers.guarded import Forbidden
from app.providers.transport import TransportError, classify_transport_error
from app.providers.transports import AnyTransport
from app.rendering.types import Rendered
from app.settings import Choice, Settings
from app.settings import Worker as WorkerSizes
from app.store.control import ProviderState, Slots
from app.store.dispatch import Claimed

log = structlog.get_logger()

CALL_SECONDS_FIRST = 0.1  # what a call is thought to take until calls have been made
CALL_SECONDS_WEIGHT = 0.05  # of the newest call in the running average: some twenty calls change one's mind
SLOTS_AHEAD_SECONDS = 1.0  # how far ahead a lane may lease the slots of a provider with a rate
NOT_A_TEST = Outcome(OutcomeKind.REJECTED, "this provider takes no message without delivering it", reason="test_mode")
TOO_LATE = Outcome(OutcomeKind.RELEASED, "too late after its intent")
NOT_NOW = Outcome(OutcomeKind.RELEASED, "its provider takes no calls just now")
# So many wait for its slots that asking again at once would only be asking more often.
NO_SLOT = Outcome(
    OutcomeKind.RELEASED, "no slot of its provider's rate came in time", retry_after_seconds=SLOTS_AHEAD_SECONDS
)
STOPPING = Outcome(OutcomeKind.RELEASED, "shutting down")
Spawn = Callable[[Coroutine[None, None, None]], None]


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed delivery with its content, on its way to be sent. slot: when its call may begin (monotonic clock)."""

    claimed: Claimed
    rendered: Rendered
    target: Target | None
    began: float
    slot: float = 0.0
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """A call that is over, waiting to be recorded.

    item: what goes into the inbox with it. seconds: how long the call took, None when none was made.
    probe: it tried whether its provider is back.
    """

    claimed: Claimed
    outcome: Outcome
    content_hash: bytes | None = None
    target: Target | None = None
    item: InboxContent | None = None
    facts: Mapping[str, Any] | None = None
    seconds: float | None = None
    probe: bool = False


class Line:
    """Sends what its lane hands it over one provider account, and hands back what each call came to."""

    def __init__(
        self,
        choice: Choice,
        *,
        channel: str,
        sizes: WorkerSizes,
        providers: ProviderSet,
        transport: AnyTransport,
        access: AccessTokens,
        control: Control,
        settings: Settings,
        signing_key: bytes,
        policy: RetryPolicy,
        spawn: Spawn,
        finish: Callable[[Finished], None],
    ) -> None:
        self.choice = choice
        self.account = choice.provider
        self.policy = policy
        self._channel = channel
        self._providers = providers
        self._transport = transport
        self._access = access
        self._control = control
        self._settings = settings
        self._signing_key = signing_key
        self._spawn = spawn
        self._finish = finish
        at_once = self.provider.capabilities.concurrency_max
        self._concurrency = sizes.concurrency if at_once is None else min(sizes.concurrency, at_once)
        self._in_hand_max = sizes.in_hand_max
        # A campaign asks for slots a shorter time ahead, so whatever is urgent comes before it.
        self._slots_ahead = SLOTS_AHEAD_SECONDS * (sizes.concurrency / settings.worker.concurrency)
        self._call_seconds = CALL_SECONDS_FIRST
        self._in_hand = 0
        self._state: ProviderState | None = None
        self._ready: deque[Job] = deque()
        self._senders = 0
        self._stopped = asyncio.Event()

    @property
    def provider(self) -> AnyProvider:
        """As its credentials are now."""
        return self._providers.get(self.account)

    def stop(self) -> None:
        """What has not begun is released; what has goes on."""
        self._stopped.set()

    # Room ---------------------------------------------------------------------------------------------------------

    def saw(self, state: ProviderState) -> None:
        """What a claim read of this provider."""
        self._state = state

    def offer(self, state: ProviderState) -> Offer:
        """What this provider takes just now."""
        self._state = state
        return Offer(self.account, self.choice.order, self.choice.weight, state.share, self.room())

    def room(self, age_seconds: float = 0.0) -> int:
        """How many deliveries can be claimed for it. age_seconds: how long ago its state was read."""
        return min(max(0, self.hands() - self._in_hand), self._slots_free(age_seconds))

    def hands(self) -> int:
        """How many deliveries to hold: enough to keep every line busy while the next claim is made, but no more than
        can be called within half the gate at the pace the provider keeps, nor than have their slot ahead or their call
        under way."""
        state = self._state
        part = state.share if state is not None and state.recovering else 1.0
        at_once = max(1, int(self._concurrency * part))
        paced = int(at_once * self._settings.times.gate_seconds / 2 / self._call_seconds)
        hands = max(at_once, min(int(self._in_hand_max * part), paced))
        if state is None or state.rate is None:
            return hands
        return min(hands, max(1, int(state.rate * (self._slots_ahead + self._call_seconds))))

    def claim_min(self) -> int:
        """From how much room on a claim is worth its while: a fair part of all that one could be for."""
        state = self._state
        most = self.hands()
        if state is not None and state.rate is not None:
            most = min(most, int(state.rate * self._slots_ahead))
        return max(1, most // 4)

    def pace(self) -> float:
        """How many calls a second it makes at most, as things stand."""
        at_once = self._concurrency / self._call_seconds
        return at_once if self._state is None or self._state.rate is None else min(at_once, self._state.rate)

    def _slots_free(self, age_seconds: float) -> int:
        """How many slots of its rate are not given away yet, as far ahead as this lane may lease them."""
        state = self._state
        if state is None or state.rate is None:
            return self._in_hand_max
        ahead = self._slots_ahead - max(0.0, state.backlog_seconds - age_seconds)
        return max(1, int(state.rate * ahead)) if ahead > 0 else 0

    # Send ---------------------------------------------------------------------------------------------------------

    def hold(self, deliveries: int) -> None:
        """Counts deliveries that were claimed for this provider: each comes back through ``finish``."""
        self._in_hand += deliveries

    def done(self) -> None:
        self._in_hand -= 1

    def send(self, jobs: Sequence[Job], slots: Slots | None) -> None:
        """Begins the calls, each in its slot where the provider has a rate; those without one are given back."""
        provider = self.provider
        times = None if slots is None else iter(_times(slots))
        for job in jobs:
            if job.claimed.test_mode and not provider.capabilities.takes_tests:
                self._finish(Finished(job.claimed, NOT_A_TEST, job.rendered.content_hash, probe=job.probe))
            elif provider.capabilities.transport == "local":
                self._finish(_kept(job))
            elif times is None:
                self._ready.append(job)
            elif (slot := next(times, None)) is not None:
                self._ready.append(replace(job, slot=slot))
            else:
                self._finish(Finished(job.claimed, NO_SLOT, probe=job.probe))
        for _ in range(min(len(self._ready), self._concurrency - self._senders)):
            self._senders += 1
            self._spawn(self._send_while_ready())

    async def _send_while_ready(self) -> None:
        """One of the few that send: a task for every message, each waiting for its turn, would cost a tenth more."""
        try:
            while self._ready:
                await self._send(self._ready.popleft())
        finally:
            self._senders -= 1

    async def _send(self, job: Job) -> None:
        outcome, seconds = Outcome(OutcomeKind.UNKNOWN, "the call ended without an outcome"), None
        try:
            outcome, seconds = await self._call(job)
        except Exception as error:
            # A mistake of ours after the intent: what left the socket is not known, so it is resolved, not resent.
            log.exception("send_failed", delivery_id=str(job.claimed.id), error=type(error).__name__)
        finally:
            if seconds is not None:
                self._control.count(self.account, outcome, seconds)
            facts = asdict(sms.size(job.rendered.text)) if self._channel == Channel.SMS else None
            self._finish(
                Finished(
                    job.claimed,
                    outcome,
                    job.rendered.content_hash,
                    job.target,
                    facts=facts,
                    seconds=seconds,
                    probe=job.probe,
                )
            )

    async def _call(self, job: Job) -> tuple[Outcome, float | None]:
        """What came of it, and how long the provider took; None when it was not called."""
        claimed, provider = job.claimed, self.provider
        if job.target is None or job.target.refusal is not None:
            return targets.missing(claimed, job.target), None
        # Looked at before its slot and in it: nothing is slept through that ends in no call, least of all its lease.
        while (why_not := self._why_not(job)) is None and (early := job.slot - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(early):
                    await self._stopped.wait()
        if why_not is not None:
            return why_not, None
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
                self.account, provider, datetime.now(UTC), loop.time() + self._settings.times.send_seconds
            )
            if isinstance(token, Outcome):
                return token, 0.0
            request = provider.build(message, self._context(token))
        except InvalidFields as error:
            return Outcome(OutcomeKind.REJECTED, error.detail), None
        if token is not None and self._is_late(job):
            return TOO_LATE, None  # the token took its time
        deadline = loop.time() + min(request.timeout_seconds, self._settings.times.send_seconds)
        began = time.monotonic()
        try:
            response = await self._transport.send(request, deadline)
        except Forbidden as error:
            return Outcome(OutcomeKind.REJECTED, error.detail, reason="forbidden_address"), None
        except TransportError as error:
            return self._safe_to_repeat(classify_transport_error(error), provider), time.monotonic() - began
        finally:
            self._call_seconds += CALL_SECONDS_WEIGHT * (time.monotonic() - began - self._call_seconds)
        seconds = time.monotonic() - began
        outcome = provider.interpret(response, datetime.now(UTC))
        if outcome.kind == OutcomeKind.UNAUTHORIZED and token is not None:
            outcome = self._access.refused(self.account, token, outcome)
        return self._safe_to_repeat(outcome, provider), seconds

    def _why_not(self, job: Job) -> Outcome | None:
        """Why this call may not begin; None if it may, in its slot."""
        if self._stopped.is_set():
            return STOPPING
        if not job.probe and not self._control.is_ready(self.account):
            return NOT_NOW  # it was claimed before its provider's breaker opened
        return TOO_LATE if self._is_late(job) else None

    def _is_late(self, job: Job) -> bool:
        """Past the gate, now or when its slot comes; or so far past its slot that it would crowd those of others."""
        now = time.monotonic()
        return max(now, job.slot) - job.began > self._settings.times.gate_seconds or (
            job.slot > 0 and now - job.slot > SLOTS_AHEAD_SECONDS
        )

    def _context(self, token: str | None) -> SendContext:
        return SendContext(datetime.now(UTC), self.account, self._settings.webhook_url(self.account), token)

    def _safe_to_repeat(self, outcome: Outcome, provider: AnyProvider) -> Outcome:
        """Where the receiver drops copies by our id, an unknown outcome is a failure like any other: sent again under
        the same id, which is the receiver's designed way to settle it (Standard Webhooks)."""
        if outcome.kind == OutcomeKind.UNKNOWN and provider.capabilities.resend_is_safe:
            return replace(outcome, kind=OutcomeKind.TRANSIENT, unanswered=True)
        return outcome


def _times(slots: Slots) -> list[float]:
    """When each call may begin, by the monotonic clock."""
    first = time.monotonic() + slots.first_in_seconds
    return [first + n * slots.step_seconds for n in range(slots.n)]


def _kept(job: Job) -> Finished:
    """What never leaves the database: it is in the inbox when this is recorded, in the same transaction."""
    claimed, rendered = job.claimed, job.rendered
    try:
        item = compose_inbox(rendered)
    except InvalidFields as error:
        return Finished(claimed, Outcome(OutcomeKind.REJECTED, error.detail), rendered.content_hash)
    outcome = Outcome(OutcomeKind.ACCEPTED, "in the inbox", provider_message_id=str(claimed.id))
    return Finished(claimed, outcome, rendered.content_hash, item=item)
