"""targets: where a delivery goes whose address is an id, and what its outcome means for that place.

A push names a device, an outbound webhook and a chat message an endpoint. What is behind the id is read in the very
transaction that writes the intent, so a token that was replaced while the delivery waited is not used. Afterwards the
outcome is minded where it belongs: a bad email address or number is suppressed, a dead token removed and only that
one, a gone endpoint disabled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from app.db import Connection
from app.domain.models import BounceClass, Channel, Outcome, OutcomeKind, Platform
from app.flows.compose import NOWHERE, Target
from app.providers.base import Device
from app.settings import Settings
from app.store import devices, endpoints, inbound
from app.store import dispatch as store
from app.store.dispatch import Claimed, RefusedAddress

log = structlog.get_logger()

ENDPOINT_CHANNELS: Final = frozenset({Channel.WEBHOOK, Channel.CHAT})


@dataclass(frozen=True, slots=True)
class Found:
    """The targets of one claim, by the delivery's address. Channels whose address is the target itself need none."""

    by_address: Mapping[str, Target] | None

    def of(self, claimed: Claimed) -> Target | None:
        return NOWHERE if self.by_address is None else self.by_address.get(claimed.address)


@dataclass(frozen=True, slots=True)
class Settled:
    """A delivery whose call is over."""

    claimed: Claimed
    outcome: Outcome
    target: Target | None


async def load(conn: Connection, channel: str, claimed: Sequence[Claimed]) -> Found:
    """What is behind the addresses of these deliveries, as it stands now."""
    if channel == Channel.PUSH and claimed:
        found = await devices.targets(conn, *_keys(claimed))
        return Found({str(id_): Target(device=_device(id_, target)) for id_, target in found.items()})
    if channel in ENDPOINT_CHANNELS and claimed:
        registered = await endpoints.targets(conn, *_keys(claimed))
        return Found({str(id_): _endpoint(target) for id_, target in registered.items()})
    return Found({} if channel == Channel.PUSH or channel in ENDPOINT_CHANNELS else None)


def missing(claimed: Claimed, target: Target | None) -> Outcome:
    """What becomes of a delivery whose target is no more: a named end, and nothing was sent."""
    if claimed.channel == Channel.PUSH:
        return Outcome(OutcomeKind.RECIPIENT_INVALID, "the device is no longer registered", reason="no_device")
    if target is not None and target.refusal is not None:
        return Outcome(OutcomeKind.REJECTED, target.refusal, reason="endpoint_disabled")
    return Outcome(OutcomeKind.REJECTED, "there is no such endpoint", reason="no_endpoint")


async def settle(conn: Connection, channel: str, settled: Sequence[Settled], *, settings: Settings) -> None:
    """What the outcomes mean for the places they went to. Called in the transaction that records them."""
    if channel == Channel.PUSH:
        await _settle_devices(conn, settled)
    elif channel in ENDPOINT_CHANNELS:
        await _settle_endpoints(conn, settled, settings)
    else:
        await _settle_addresses(conn, settled, settings)


async def _settle_addresses(conn: Connection, settled: Sequence[Settled], settings: Settings) -> None:
    """What the provider refused outright is suppressed; what it refused for now is counted towards that (R-114)."""
    refused = [
        RefusedAddress(
            *_address(s),
            "opted_out" if s.outcome.reason == "opted_out" else "hard_bounce",
            s.outcome.detail,
            s.claimed.id,
        )
        for s in settled
        if s.outcome.kind == OutcomeKind.RECIPIENT_INVALID
    ]
    soft = [(s, e) for s in settled for e in s.outcome.evidence if e.bounce_class == BounceClass.SOFT]
    if soft:
        await inbound.lock_soft_bounces(conn, [_address(s) for s, _ in soft])
        worn_out = await inbound.count_soft_bounces(
            conn,
            [(*_address(s), e.occurred_at) for s, e in soft],
            bounces_max=settings.bounces.soft_bounces_max,
            days_min=settings.bounces.soft_bounce_days_min,
        )
        ids = {_address(s): s.claimed.id for s, _ in soft}
        refused += [
            RefusedAddress(
                tenant,
                channel,
                address,
                "soft_bounces",
                f"{bounces} soft bounces in a row",
                ids.get((tenant, channel, address)),
            )
            for tenant, channel, address, bounces in worn_out
        ]
    if refused:
        await inbound.lock_addresses(conn, [(r.tenant_id, r.channel, r.address) for r in refused])
        await store.suppress_refused(conn, refused)


def _address(settled: Settled) -> tuple[int, str, str]:
    return settled.claimed.tenant_id, settled.claimed.channel, settled.claimed.address


async def _settle_devices(conn: Connection, settled: Sequence[Settled]) -> None:
    """Acceptances first: that others got through is what makes a doubtful refusal believable."""
    accepted: defaultdict[str, set[str]] = defaultdict(set)
    for s in settled:
        if _accepted(s) and s.target is not None and s.target.device is not None:
            accepted[s.claimed.provider].add(s.target.device.environment)
    for provider in sorted(accepted):
        await devices.note_accepted(conn, provider, sorted(accepted[provider]))
    refusals = [
        devices.Refusal(
            provider=s.claimed.provider,
            tenant_id=s.claimed.tenant_id,
            device_id=s.target.device.id,
            token_sent=s.target.device.token,
            reason=s.outcome.reason or s.outcome.detail[:100],
            invalid_since=s.outcome.invalid_since,
            doubtful=s.outcome.doubtful,
        )
        for s in settled
        if s.outcome.kind == OutcomeKind.RECIPIENT_INVALID and s.target is not None and s.target.device is not None
    ]
    if refusals:
        retired = await devices.retire(conn, refusals)
        log.info("devices_retired", refused=len(refusals), retired=len(retired))


async def _settle_endpoints(conn: Connection, settled: Sequence[Settled], settings: Settings) -> None:
    results = [
        endpoints.EndpointResult(
            tenant_id=s.claimed.tenant_id,
            endpoint_id=UUID(s.claimed.address),
            url=s.target.url,
            ok=_accepted(s),
            gone=s.outcome.kind == OutcomeKind.RECIPIENT_INVALID and not s.outcome.doubtful,
            detail=s.outcome.detail,
            wait_seconds=_wait_seconds(s, settings),
        )
        for s in settled
        if s.target is not None and s.target.refusal is None and s.outcome.kind != OutcomeKind.RELEASED
    ]
    if results:
        disabled = await endpoints.note_outcomes(
            conn, results, disable_after_seconds=settings.endpoints.disable_after_seconds
        )
        for endpoint in disabled:
            log.warning("endpoint_disabled", endpoint_id=str(endpoint))


def _wait_seconds(settled: Settled, settings: Settings) -> float | None:
    wait = settled.outcome.retry_after_seconds
    return None if wait is None else min(wait, settings.retry_after_max_seconds(settled.claimed.channel))


def _accepted(settled: Settled) -> bool:
    return settled.outcome.kind == OutcomeKind.ACCEPTED


def _keys(claimed: Sequence[Claimed]) -> tuple[list[int], list[UUID]]:
    """What is no id leads nowhere, and keeps nothing else from its target."""
    ids = [(c.tenant_id, id_) for c in claimed if (id_ := _id(c.address)) is not None]
    return [tenant_id for tenant_id, _ in ids], [id_ for _, id_ in ids]


def _id(address: str) -> UUID | None:
    try:
        return UUID(address)
    except ValueError:
        return None


def _device(id_: UUID, target: devices.Target) -> Device:
    return Device(id_, Platform(target.platform), target.token, target.environment, target.p256dh, target.auth)


def _endpoint(target: endpoints.Target) -> Target:
    refusal = None if target.status == "enabled" else "the endpoint is disabled"
    return Target(url=target.url, secrets=tuple(target.secrets), format=target.format, refusal=refusal)
