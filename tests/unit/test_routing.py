"""Routes: which one a delivery takes, and which of its providers."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.routing import Offer, RouteKey, Routes, assign, weights

KEYS = ("email", "email@acme", "sms", "sms.GB", "sms@acme", "sms.DE@acme", "push.ios", "push.ios@acme")
ROUTES = Routes(RouteKey.parse(key) for key in KEYS)


def offer(provider: str, order: int = 1, weight: float = 1, share: float = 1, room: int = 10_000) -> Offer:
    return Offer(provider, order, weight, share, room)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("email", "default"),
        ("push.ios", "ios"),
        ("sms.GB", "gb"),
        ("sms@acme", "default@acme"),
        ("sms.GB@acme", "gb@acme"),
        ("in_app", "default"),
    ],
)
def test_a_route_is_named_by_what_it_is_for(text, name):
    assert RouteKey.parse(text).name == name


@pytest.mark.parametrize(
    "text", ["", "fax", "push", "push.IOS", "push.windows", "sms.gb", "sms.GBR", "email.GB", "sms@", "sms@A"]
)
def test_what_is_no_route_is_refused_in_words(text):
    with pytest.raises(ValueError, match="is not a route"):
        RouteKey.parse(text)


@pytest.mark.parametrize(
    ("channel", "part", "tenant", "found"),
    [
        ("email", None, "shop", "email"),
        ("email", None, "acme", "email@acme"),
        ("sms", "gb", "shop", "sms.GB"),
        ("sms", "fr", "shop", "sms"),
        ("sms", "gb", "acme", "sms@acme"),
        ("sms", "de", "acme", "sms.DE@acme"),
        ("push", "ios", "acme", "push.ios@acme"),
        ("push", "ios", "shop", "push.ios"),
        ("push", "web", "shop", None),
        ("webhook", None, "shop", None),
    ],
)
def test_the_most_specific_route_is_taken_and_a_tenants_own_goes_first(channel, part, tenant, found):
    assert ROUTES.find(channel, part, tenant) == (RouteKey.parse(found) if found else None)


def test_everything_goes_to_the_first_in_order_while_it_takes_calls():
    assert assign([()] * 50, [offer("b", order=2), offer("a", order=1)]) == ["a"] * 50


def test_who_waits_behind_is_not_used_only_because_the_first_is_busy():
    assert assign([()] * 5, [offer("a", order=1, room=3), offer("b", order=2)]) == ["a"] * 3 + [None] * 2


def test_peers_share_by_weight():
    taken = Counter(assign([()] * 10_000, [offer("a", weight=70), offer("b", weight=30)], draw=random.Random(1)))
    assert 6_700 < taken["a"] < 7_300


def test_a_peer_without_room_leaves_its_part_to_the_others():
    assert Counter(assign([()] * 20, [offer("a", weight=99, room=4), offer("b")])) == {"a": 4, "b": 16}


def test_what_a_provider_is_held_back_from_goes_to_the_next_in_order():
    parts = weights([offer("a", order=1, share=0.25), offer("b", order=2)])
    assert parts == pytest.approx({"a": 0.25, "b": 0.75})


def test_when_all_are_held_back_alike_nothing_moves_away_from_all():
    assert weights([offer("a", weight=3, share=0.1), offer("b", share=0.1)]) == pytest.approx({"a": 0.75, "b": 0.25})


def test_a_delivery_that_was_refused_is_taken_to_the_others_first():
    offers = [offer("a", order=1), offer("b", order=2), offer("c", order=3)]
    assert assign([("a",), ("a", "b"), ("a", "b", "c"), ()], offers) == ["b", "c", "a", "a"]


offers_given = st.lists(
    st.builds(
        Offer,
        provider=st.sampled_from("abcdef"),
        order=st.integers(1, 3),
        weight=st.floats(0.01, 100),
        share=st.floats(0.05, 1),
        room=st.integers(0, 20),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one.provider,
)


@given(offers_given)
def test_the_parts_add_up_and_only_a_held_back_order_leaves_any(offers):
    parts = weights(offers)
    assert sum(parts.values()) == pytest.approx(1)
    assert all(part >= 0 for part in parts.values())
    first = min(one.order for one in offers)
    if all(one.share == 1 for one in offers if one.order == first):
        assert sum(parts[one.provider] for one in offers if one.order == first) == pytest.approx(1)


@given(offers_given, st.lists(st.sets(st.sampled_from("abcdef")), max_size=30))
def test_nobody_is_given_more_than_there_is_room_for(offers, tried):
    taken = Counter(assign(tried, offers))
    for one in offers:
        assert taken[one.provider] <= one.room
