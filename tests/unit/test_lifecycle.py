"""The state of a delivery is a join over evidence: no order and no repetition changes where it ends (I16)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.lifecycle import LIVE, MOVES, PROVEN, TERMINAL, Standing, join, join_all, may_move
from app.domain.models import BounceClass, DeliveryState, Evidence, EvidenceKind

S, K, B = DeliveryState, EvidenceKind, BounceClass
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

evidence = st.builds(
    Evidence,
    kind=st.sampled_from(K),
    event_key=st.uuids().map(str),
    occurred_at=st.integers(0, 20).map(lambda minutes: NOON + timedelta(minutes=minutes)),
    bounce_class=st.none() | st.sampled_from(B),
)
_REASONS = {S.AMBIGUOUS: "outcome_unknown", S.UNCONFIRMED: "no_evidence", S.DEAD: "retries_exhausted"}
# Where a delivery may stand through no evidence at all; evidence may find it in any of these.
unproven = st.sampled_from([state for state in S if state not in PROVEN] + [S.SENT]).map(
    lambda state: Standing(state, reason=_REASONS.get(state))
)


@st.composite
def told_twice_in_any_order(draw):
    """Some facts, and the same facts shuffled with repetitions."""
    facts = draw(st.lists(evidence, min_size=1, max_size=6))
    repeated = facts + draw(st.lists(st.sampled_from(facts), max_size=6))
    return facts, draw(st.permutations(repeated))


@given(unproven, told_twice_in_any_order())
def test_any_order_with_any_repetition_ends_in_the_same_standing(standing, told):
    facts, shuffled = told
    assert join_all(standing, shuffled) == join_all(standing, facts)


@given(unproven, evidence, evidence)
def test_a_fact_told_again_changes_nothing(standing, first, second):
    once = join_all(standing, [first, second])
    assert join(once, first) == once
    assert join(once, second) == once


@given(unproven, st.lists(evidence, min_size=1, max_size=8))
def test_evidence_makes_legal_moves_only_and_always_proves_the_send(standing, facts):
    for fact in facts:
        after = join(standing, fact)
        assert may_move(standing.state, after.state), f"{standing.state} -> {after.state}"
        standing = after
    assert standing.state in PROVEN


@given(unproven, st.lists(evidence, max_size=8))
def test_a_standing_that_has_ended_says_why(standing, facts):
    after = join_all(standing, facts)
    if facts and after.state in TERMINAL:
        assert after.reason


@given(st.lists(evidence, max_size=8))
def test_times_are_the_earliest_that_any_evidence_names(facts):
    after = join_all(Standing(S.SENT), facts)
    for kind, column in {K.DELIVERED: "delivered_at", K.BOUNCED: "bounced_at", K.OPENED: "opened_at"}.items():
        named = [fact.occurred_at for fact in facts if fact.kind == kind]
        assert getattr(after, column) == min(named, default=None)


@pytest.mark.parametrize(
    ("before", "kind", "after"),
    [
        (S.DEAD, K.DELIVERED, S.DELIVERED),
        (S.UNCONFIRMED, K.BOUNCED, S.BOUNCED),
        (S.CANCELLED, K.DELIVERED, S.DELIVERED),
        (S.AMBIGUOUS, K.ACCEPTED, S.SENT),
        (S.QUEUED, K.OPENED, S.SENT),
        (S.DELIVERED, K.BOUNCED, S.BOUNCED),
        (S.DELIVERED, K.COMPLAINED, S.DELIVERED),
        (S.BOUNCED, K.DELIVERED, S.BOUNCED),
        (S.DELIVERED, K.ACCEPTED, S.DELIVERED),
        (S.FAILED, K.DELIVERED, S.DELIVERED),
    ],
)
def test_late_evidence_wins_and_lesser_evidence_does_not(before, kind, after):
    standing = Standing(before, "why it stood there")
    assert join(standing, Evidence(kind, "key", NOON)).state == after


def test_of_two_bounces_the_graver_gives_the_reason():
    soft = Evidence(K.BOUNCED, "1", NOON, bounce_class=B.SOFT)
    hard = Evidence(K.BOUNCED, "2", NOON, bounce_class=B.HARD)
    assert join_all(Standing(S.SENT), [hard, soft]).reason == "hard_bounce"
    assert join_all(Standing(S.SENT), [soft, hard]).reason == "hard_bounce"


def test_every_state_has_its_moves_and_is_either_live_or_ended():
    assert MOVES.keys() == set(S)
    assert set(S) == LIVE | TERMINAL
    assert not LIVE & TERMINAL
