"""plan() drops nothing: each channel asked for becomes exactly one delivery, sent or refused by name."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.lifecycle import TERMINAL
from app.domain.models import DeliveryState
from app.domain.plan import Subject, plan

S = DeliveryState
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHANNELS = ("email", "sms", "push")

subjects = st.builds(
    Subject,
    category=st.just("orders"),
    category_class=st.sampled_from(["transactional", "promotional", "alert"]),
    channels=st.lists(st.sampled_from(CHANNELS), min_size=1, unique=True).map(tuple),
    recipient_active=st.sampled_from([True, False, None]),
    addresses=st.dictionaries(st.sampled_from(CHANNELS), st.none() | st.just("") | st.just("a@example.com")),
    suppressed=st.dictionaries(st.sampled_from(CHANNELS), st.sampled_from(["hard_bounce", "complaint"])),
    expires_at=st.sampled_from([NOW - timedelta(hours=1), NOW, NOW + timedelta(hours=1)]),
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


@given(subjects)
def test_every_channel_yields_one_delivery_that_waits_or_says_why_not(given_):
    deliveries = plan(given_, NOW).deliveries
    assert tuple(d.channel for d in deliveries) == given_.channels
    for delivery in deliveries:
        assert (delivery.state == S.QUEUED) == (delivery.reason is None)
        assert delivery.state == S.QUEUED or delivery.state in TERMINAL
        assert delivery.lane == f"{delivery.channel}.{given_.category_class}.default"


@given(subjects)
def test_nothing_is_queued_against_a_rule(given_):
    for delivery in plan(given_, NOW).deliveries:
        if delivery.state == S.QUEUED:
            assert given_.recipient_active is True
            assert delivery.address
            assert delivery.channel not in given_.suppressed
            assert given_.expires_at > NOW


@given(subjects)
def test_the_trace_can_be_stored_and_names_the_verdict_on_every_refused_channel(given_):
    made = plan(given_, NOW)
    assert json.loads(json.dumps(made.trace)) == list(made.trace)
    for delivery in made.deliveries:
        verdicts = [t["verdict"] for t in made.trace if t["rule"].startswith(f"{delivery.channel}.")]
        assert verdicts[-1] == (delivery.reason or "send")


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
    ],
)
def test_each_rule_has_its_verdict(overrides, state, reason):
    [delivery] = plan(subject(**overrides), NOW).deliveries
    assert (delivery.state, delivery.reason) == (state, reason)
