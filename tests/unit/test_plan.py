"""plan() drops nothing: each channel asked for becomes a delivery, or one a device, sent or refused by name."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.lifecycle import TERMINAL
from app.domain.models import DeliveryState
from app.domain.plan import Subject, plan
from app.domain.routing import RouteKey, Routes

S = DeliveryState
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHANNELS = ("email", "sms", "push")
PLATFORMS = ("android", "ios", "web")
ROUTES = Routes(RouteKey.parse(key) for key in ("email", "sms", "push.ios", "push.android", "in_app", "webhook"))

subjects = st.builds(
    Subject,
    category=st.just("orders"),
    category_class=st.sampled_from(["transactional", "promotional", "alert"]),
    channels=st.lists(st.sampled_from(CHANNELS), min_size=1, unique=True).map(tuple),
    recipient_active=st.sampled_from([True, False, None]),
    addresses=st.dictionaries(st.sampled_from(CHANNELS), st.none() | st.just("") | st.just("a@example.com")),
    suppressed=st.dictionaries(st.sampled_from(CHANNELS), st.sampled_from(["hard_bounce", "complaint"])),
    expires_at=st.sampled_from([NOW - timedelta(hours=1), NOW, NOW + timedelta(hours=1)]),
    devices=st.dictionaries(st.sampled_from(PLATFORMS), st.lists(st.sampled_from(["d1", "d2", "d3"]), unique=True)),
    preferred=st.lists(st.sampled_from(CHANNELS), unique=True),
    channels_named=st.booleans(),
)


def subject(**overrides):
    values = {
        "category": "orders",
        "category_class": "transactional",
        "channels": ("email",),
        "recipient_active": True,
        "addresses": {"email": "a@example.com"},
        "suppressed": {},
        "expires_at": NOW + timedelta(hours=1),
    }
    return Subject(**values | overrides)


def asked(subject_):
    """(channel, address) of every delivery there must be."""
    for channel in subject_.channels:
        devices = [d for platform in sorted(subject_.devices) for d in subject_.devices[platform]]
        if channel == "push":
            yield from ((channel, device) for device in devices or [""])
        else:
            yield channel, subject_.addresses.get(channel) or ""


@given(subjects)
def test_every_channel_yields_its_deliveries_that_wait_or_say_why_not(given_):
    deliveries = plan(given_, NOW, ROUTES).deliveries
    assert [(d.channel, d.address) for d in deliveries] == list(asked(given_))
    for delivery in deliveries:
        assert (delivery.state == S.QUEUED) == (delivery.reason is None)
        assert delivery.state == S.QUEUED or delivery.state in TERMINAL
        channel, klass, route = delivery.lane.split(".")
        assert (channel, klass) == (delivery.channel, given_.category_class)
        assert route in (PLATFORMS if channel == "push" and delivery.address else ("default",))


@given(subjects)
def test_nothing_is_queued_against_a_rule(given_):
    for delivery in plan(given_, NOW, ROUTES).deliveries:
        if delivery.state == S.QUEUED:
            assert given_.recipient_active is True
            assert delivery.address
            assert delivery.channel not in given_.suppressed
            assert given_.expires_at > NOW
            assert given_.channels_named or not given_.preferred or delivery.channel in given_.preferred
            assert not delivery.lane.endswith(".web")


@given(subjects)
def test_the_trace_can_be_stored_and_names_the_verdict_on_every_refused_channel(given_):
    made = plan(given_, NOW, ROUTES)
    assert json.loads(json.dumps(made.trace)) == list(made.trace)
    for channel in given_.channels:
        told = [t["verdict"] for t in made.trace if t["rule"].startswith(f"{channel}.")]
        ends = [delivery.reason or "send" for delivery in made.deliveries if delivery.channel == channel]
        assert [verdict for verdict in told if verdict != "ok"] == ends


@pytest.mark.parametrize(
    ("overrides", "state", "reason"),
    [
        ({}, S.QUEUED, None),
        ({"recipient_active": False}, S.FAILED, "recipient_inactive"),
        ({"recipient_active": None}, S.FAILED, "recipient_inactive"),
        ({"addresses": {}}, S.FAILED, "no_address"),
        ({"addresses": {"email": None}}, S.FAILED, "no_address"),
        ({"suppressed": {"email": "complaint"}}, S.SUPPRESSED, "suppressed:complaint"),
        ({"suppressed": {"sms": "complaint"}}, S.QUEUED, None),
        ({"expires_at": NOW}, S.EXPIRED, "expired"),
        ({"channels": ("push",)}, S.FAILED, "no_device"),
        ({"channels": ("push",), "devices": {"ios": []}}, S.FAILED, "no_device"),
        ({"channels": ("push",), "devices": {"ios": ["d1"]}}, S.QUEUED, None),
        ({"channels": ("push",), "devices": {"web": ["d1"]}}, S.FAILED, "no_route"),
        ({"channels": ("chat",), "addresses": {"chat": "e1"}}, S.FAILED, "no_route"),
        ({"preferred": ["sms"]}, S.SUPPRESSED, "channel_not_preferred"),
        ({"preferred": ["sms"], "channels_named": True}, S.QUEUED, None),
    ],
)
def test_each_rule_has_its_verdict(overrides, state, reason):
    [delivery] = plan(subject(**overrides), NOW, ROUTES).deliveries
    assert (delivery.state, delivery.reason) == (state, reason)
