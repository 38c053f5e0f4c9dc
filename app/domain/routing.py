"""Routes and who takes what on them: pure.

A route is a channel's list of providers, in order and with weights; the most specific one that fits a delivery is its
own: of its tenant, of its phone number's country, or the channel's. Each route has lanes of its own, so every delivery
of a lane has the same providers to choose from.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from app.domain.models import Channel, Platform

DEFAULT = "default"
NEGLIGIBLE = 1e-9  # what rounding leaves of nothing
KEY = re.compile(r"(?P<channel>[a-z_]+)(\.(?P<part>[A-Za-z]+))?(@(?P<tenant>[a-z0-9][a-z0-9_-]{0,62}))?")
CHANNELS = frozenset(str(channel) for channel in Channel)
PLATFORMS = frozenset(str(platform) for platform in Platform)
COUNTRY = re.compile(r"[A-Z]{2}")


@dataclass(frozen=True, slots=True)
class RouteKey:
    """``channel[.part][@tenant]``: ``email``, ``push.ios``, ``sms.GB``, ``sms@acme``, ``sms.GB@acme``.

    part: a push route's platform, or the country (ISO 3166-1) of phone numbers, in lower case.
    """

    channel: str
    part: str | None = None
    tenant: str | None = None

    @classmethod
    def parse(cls, text: str) -> RouteKey:
        """Raises ValueError saying what a route may be called."""
        found = KEY.fullmatch(text)
        if found is None or found["channel"] not in CHANNELS:
            raise ValueError(f"{text} is not a route; a route begins with a channel: {', '.join(Channel)}")
        channel, part, tenant = found["channel"], found["part"], found["tenant"]
        if channel == Channel.PUSH and part not in PLATFORMS:
            raise ValueError(f"{text} is not a route; a push route names its platform: push.{', push.'.join(Platform)}")
        if channel == Channel.SMS and part is not None and not COUNTRY.fullmatch(part):
            raise ValueError(f"{text} is not a route; a country is two capitals (ISO 3166-1), such as sms.GB")
        if channel not in (Channel.PUSH, Channel.SMS) and part is not None:
            raise ValueError(f"{text} is not a route; only push and sms have parts")
        return cls(channel, part.lower() if part else None, tenant)

    @property
    def name(self) -> str:
        """The third part of its lanes' names."""
        part = self.part or DEFAULT
        return part if self.tenant is None else f"{part}@{self.tenant}"


class Routes:
    """The routes that have a provider."""

    def __init__(self, keys: Iterable[RouteKey]) -> None:
        self._keys = frozenset(keys)

    def find(self, channel: str, part: str | None, tenant: str) -> RouteKey | None:
        """The most specific that fits; what is the tenant's own goes before what is the country's."""
        for key in (
            RouteKey(channel, part, tenant),
            RouteKey(channel, None, tenant),
            RouteKey(channel, part),
            RouteKey(channel),
        ):
            if key in self._keys:
                return key
        return None


@dataclass(frozen=True, slots=True)
class Offer:
    """What one provider of a lane would take just now.

    order: who is asked first. weight: its part beside others of the same order. share: how much of that it gets while
    it recovers or is slow, in (0, 1]. room: how many deliveries it can take.
    """

    provider: str
    order: int
    weight: float
    share: float
    room: int


def weights(offers: Sequence[Offer]) -> dict[str, float]:
    """The part of a lane's traffic that goes to each; the parts add up to 1.

    What a provider does not get of its part goes to the next in order. When all are held back alike nobody is left to
    take it, and all get it back: traffic moves away from a provider that is worse than others, never from all of them.
    """
    parts: dict[str, float] = {}
    left = 1.0
    for _, group in groupby(sorted(offers, key=lambda offer: offer.order), key=lambda offer: offer.order):
        peers = list(group)
        total = sum(offer.weight for offer in peers)
        for offer in peers:
            parts[offer.provider] = left * offer.weight / total * offer.share
        left *= 1 - sum(offer.weight / total * offer.share for offer in peers)
    taken = sum(parts.values())
    return {provider: part / taken for provider, part in parts.items()}


def assign(
    tried: Sequence[Collection[str]], offers: Sequence[Offer], *, draw: random.Random | None = None
) -> list[str | None]:
    """A provider for each delivery, by its weight and the room it has; None where nobody has room.

    tried: for each delivery the providers that refused it since it last waited. Others are asked before them, in order.
    """
    room = {offer.provider: offer.room for offer in offers}
    if len(offers) == 1:  # as most lanes have it, thousands of times a second
        [only] = offers
        return [only.provider if place < only.room else None for place in range(len(tried))]
    parts = weights(offers)
    ordinary = {provider: part for provider, part in parts.items() if part > NEGLIGIBLE}
    chosen: list[str | None] = []
    for refused in tried:
        rest = [offer for offer in offers if offer.provider not in refused] if refused else []
        provider = _first(rest, room) if rest else _by_weight(ordinary, room, draw)
        if provider is not None:
            room[provider] -= 1
        chosen.append(provider)
    return chosen


def _first(offers: Sequence[Offer], room: Mapping[str, int]) -> str | None:
    able = [offer for offer in offers if room[offer.provider] > 0]
    return min(able, key=lambda offer: (offer.order, -offer.weight)).provider if able else None


def _by_weight(parts: Mapping[str, float], room: Mapping[str, int], draw: random.Random | None) -> str | None:
    able = [provider for provider in parts if room[provider] > 0]
    if len(able) < 2:
        return able[0] if able else None
    choose = draw.choices if draw is not None else random.choices
    return choose(able, [parts[provider] for provider in able])[0]
