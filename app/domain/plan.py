"""plan(): from an accepted notification to its deliveries, and the trace of why. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.domain.models import Channel, DeliveryState
from app.domain.routing import RouteKey, Routes


@dataclass(frozen=True, slots=True)
class Subject:
    """Everything the rules look at for one notification, read in one sweep for the whole batch (R-067, R-068).

    addresses: channel -> address. devices: platform -> ids of the recipient's live devices.
    preferred: the channels the recipient prefers; empty for any. channels_named: by the request itself.
    """

    category: str
    category_class: str
    channels: tuple[str, ...]
    recipient_active: bool | None  # None: the recipient is gone
    addresses: Mapping[str, str | None]
    suppressed: Mapping[str, str]  # channel -> why its address must not be sent to
    expires_at: datetime
    devices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    preferred: Sequence[str] = ()
    channels_named: bool = False
    tenant: str = ""
    country: str | None = None  # of the phone number, ISO 3166-1


@dataclass(frozen=True, slots=True)
class Planned:
    """One delivery to be. A state other than queued is an end that is recorded, never a silent drop (R-131)."""

    channel: str
    lane: str
    address: str
    state: DeliveryState
    reason: str | None
    country: str | None = None
    due_at: datetime | None = None  # None: at once


@dataclass(frozen=True, slots=True)
class Plan:
    deliveries: tuple[Planned, ...]
    trace: tuple[dict[str, Any], ...]


def lane_of(key: RouteKey, category_class: str) -> str:
    return f"{key.channel}.{category_class}.{key.name}"


def plan(subject: Subject, now: datetime, routes: Routes) -> Plan:
    """The deliveries of one notification and the decision trace: each rule, its input, its verdict (R-069, R-070).

    Every requested channel yields at least one delivery, so whatever the rules refuse is still there to be seen; push
    yields one for each device. routes: what this configuration has providers for.
    """
    trace: list[dict[str, Any]] = [rule("recipient", subject.recipient_active, _recipient_verdict(subject))]
    if subject.expires_at <= now:
        trace.append(rule("validity", subject.expires_at.isoformat(), "expired"))
    deliveries = tuple(
        _Delivery(subject, channel, address, platform, _route(subject, channel, platform, routes), trace).plan(now)
        for channel in subject.channels
        for platform, address in _targets(subject, channel)
    )
    return Plan(deliveries, tuple(trace))


def _targets(subject: Subject, channel: str) -> Iterator[tuple[str | None, str | None]]:
    """Where a channel leads: (platform, address). No address is a target too: the one that is recorded as missing."""
    if channel != Channel.PUSH:
        yield None, subject.addresses.get(channel)
    elif not any(subject.devices.values()):
        yield None, None
    else:
        yield from ((platform, device) for platform, devices in sorted(subject.devices.items()) for device in devices)


def _route(subject: Subject, channel: str, platform: str | None, routes: Routes) -> RouteKey | None:
    country = subject.country.lower() if subject.country and channel == Channel.SMS else None
    return routes.find(channel, platform or country, subject.tenant)


@dataclass(frozen=True, slots=True)
class _Delivery:
    """One delivery in the making: its first rule that refuses decides. route: None where no provider serves it."""

    subject: Subject
    channel: str
    address: str | None
    platform: str | None
    route: RouteKey | None
    trace: list[dict[str, Any]]

    def plan(self, now: datetime) -> Planned:
        subject, channel = self.subject, self.channel
        if not subject.recipient_active:
            return self._end("recipient", subject.recipient_active, DeliveryState.FAILED, "recipient_inactive")
        if subject.preferred and not subject.channels_named and channel not in subject.preferred:
            return self._end("preference", list(subject.preferred), DeliveryState.SUPPRESSED, "channel_not_preferred")
        if not self.address:
            missing = "no_device" if channel == Channel.PUSH else "no_address"
            return self._end("address", None, DeliveryState.FAILED, missing)
        if why := subject.suppressed.get(channel):
            return self._end("suppression", why, DeliveryState.SUPPRESSED, f"suppressed:{why}")
        if subject.expires_at <= now:
            return self._end("validity", subject.expires_at.isoformat(), DeliveryState.EXPIRED, "expired")
        if self.route is None:
            named = channel if self.platform is None else f"{channel}.{self.platform}"
            return self._end("route", named, DeliveryState.FAILED, "no_route")
        self._trace("address", "known" if self.platform is None else f"{self.platform} device", "ok")
        self._trace("suppression", "none", "ok")
        self._trace("lane", self._lane, "send")
        return self._planned(DeliveryState.QUEUED, None)

    @property
    def _lane(self) -> str:
        return lane_of(self.route or RouteKey(self.channel, self.platform), self.subject.category_class)

    def _end(self, name: str, given: Any, state: DeliveryState, reason: str) -> Planned:
        self._trace(name, given, reason)
        return self._planned(state, reason)

    def _planned(self, state: DeliveryState, reason: str | None) -> Planned:
        country = self.subject.country if self.channel == Channel.SMS else None
        return Planned(self.channel, self._lane, self.address or "", state, reason, country)

    def _trace(self, name: str, given: Any, verdict: str) -> None:
        self.trace.append(rule(f"{self.channel}.{name}", given, verdict))


def _recipient_verdict(subject: Subject) -> str:
    match subject.recipient_active:
        case None:
            return "unknown"
        case True:
            return "ok"
        case False:
            return "inactive"


def rule(name: str, given: Any, verdict: str) -> dict[str, Any]:
    """One step of a decision trace."""
    return {"rule": name, "input": given, "verdict": verdict}
