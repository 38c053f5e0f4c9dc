"""What one outcome of a call means for its delivery: for every kind of it, at any time, budget and chance."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.backoff import RetryPolicy, decide, next_lookup
from app.domain.lifecycle import LIVE, may_move
from app.domain.models import DeliveryState, Outcome, OutcomeKind

K, S = OutcomeKind, DeliveryState
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOMORROW = NOW + timedelta(days=1)
LADDER = (60.0, 300.0, 900.0, 3600.0)
POLICY = RetryPolicy(
    ladder=LADDER,
    jitter=0.1,
    retry_after_max_seconds=3600,
    unauthorized_pause_seconds=60,
    confirm_after_seconds=900,
    ambiguous_first_lookup_seconds=30,
)
FREE = frozenset({K.RATE_LIMITED, K.UNAUTHORIZED, K.RELEASED, K.ACCEPTED, K.UNKNOWN})

outcomes = st.builds(
    Outcome,
    kind=st.sampled_from(K),
    detail=st.just("as the provider said"),
    status_code=st.none() | st.integers(200, 599),
    retry_after_seconds=st.none() | st.floats(-10, 1e9),
)
chances = st.floats(0, 1, exclude_max=True)
expiries = st.integers(-3600, 86400).map(lambda seconds: NOW + timedelta(seconds=seconds))


def decided(outcome, *, failures=0, expires_at=TOMORROW, jitter=0.0):
    return decide(outcome, failures=failures, expires_at=expires_at, now=NOW, jitter=jitter, policy=POLICY)


@given(outcomes, st.integers(0, 10), expiries, chances)
def test_a_live_row_is_due_and_an_ended_one_is_not(outcome, failures, expires_at, jitter):
    decision = decided(outcome, failures=failures, expires_at=expires_at, jitter=jitter)
    assert (decision.due_at is not None) == (decision.state in LIVE)
    assert decision.state in LIVE or decision.reason
    assert may_move(S.SENDING, decision.state)


@given(outcomes, st.integers(0, 10), expiries, chances)
def test_a_row_that_waits_is_due_by_its_expiry_and_never_in_the_past(outcome, failures, expires_at, jitter):
    decision = decided(outcome, failures=failures, expires_at=expires_at, jitter=jitter)
    if decision.state == S.QUEUED:
        assert NOW <= decision.due_at <= max(expires_at, NOW)


@given(outcomes, st.integers(0, 10))
def test_only_a_failure_of_this_message_costs_budget(outcome, failures):
    decision = decided(outcome, failures=failures)
    assert decision.burns == (outcome.kind == K.TRANSIENT)
    if outcome.kind in FREE:
        assert decision.state in LIVE


@pytest.mark.parametrize("failures", range(len(LADDER)))
def test_the_ladder_is_climbed_rung_by_rung(failures):
    decision = decided(Outcome(K.TRANSIENT, "connection refused"), failures=failures)
    assert decision.due_at == NOW + timedelta(seconds=LADDER[failures])
    assert (decision.state, decision.reason, decision.attempt_state) == (S.QUEUED, "retry", "not_sent")


@given(st.none() | st.integers(500, 599), st.integers(0, 10), st.booleans())
def test_what_got_no_answer_is_never_called_not_sent(status, failures, probe):
    """A merchant may have taken it, whatever comes next (decision 13)."""
    outcome = Outcome(K.TRANSIENT, "no answer", status, unanswered=True)
    decision = decide(outcome, failures=failures, expires_at=TOMORROW, now=NOW, jitter=0.0, policy=POLICY, probe=probe)
    assert decision.attempt_state == "unanswered"
    assert decision.state == (S.QUEUED if probe or failures < len(LADDER) else S.DEAD)


@given(st.integers(0, len(LADDER) - 1), chances)
def test_jitter_only_ever_adds_and_adds_a_tenth_at_the_most(failures, jitter):
    wait = decided(Outcome(K.TRANSIENT, "refused"), failures=failures, jitter=jitter).due_at - NOW
    rung = timedelta(seconds=LADDER[failures])
    assert rung <= wait <= rung * 1.1


@given(st.integers(len(LADDER), 100))
def test_a_budget_that_is_spent_ends_in_the_dead_letters(failures):
    decision = decided(Outcome(K.TRANSIENT, "refused"), failures=failures)
    assert (decision.state, decision.reason) == (S.DEAD, "retries_exhausted")


@given(st.sampled_from([K.RATE_LIMITED, K.UNAUTHORIZED]), st.integers(0, 100), chances)
def test_what_is_about_the_account_never_exhausts_a_message(kind, failures, jitter):
    decision = decided(Outcome(kind, "no", 429), failures=failures, jitter=jitter)
    assert (decision.state, decision.burns) == (S.QUEUED, False)
    assert decision.due_at > NOW
    assert (decision.pause_provider_seconds is not None) == (kind is K.RATE_LIMITED)
    assert decision.attempt_state == "refused"


@pytest.mark.parametrize(("asked", "given_"), [(0, 1), (-5, 1), (120, 120), (1e9, 3600), (None, 30)])
def test_retry_after_is_honoured_between_a_second_and_the_longest_allowed(asked, given_):
    decision = decided(Outcome(K.RATE_LIMITED, "slow down", 429, retry_after_seconds=asked))
    assert decision.pause_provider_seconds == given_
    assert decision.due_at == NOW + timedelta(seconds=given_)


def test_retry_after_of_a_failure_lengthens_its_rung_and_never_shortens_it():
    longer = decided(Outcome(K.TRANSIENT, "busy", retry_after_seconds=200))
    shorter = decided(Outcome(K.TRANSIENT, "busy", retry_after_seconds=2))
    assert longer.due_at == NOW + timedelta(seconds=200)
    assert shorter.due_at == NOW + timedelta(seconds=60)


@given(st.integers(0, 10), expiries, chances)
def test_an_unknown_outcome_is_never_queued_again(failures, expires_at, jitter):
    decision = decided(Outcome(K.UNKNOWN, "timeout"), failures=failures, expires_at=expires_at, jitter=jitter)
    assert (decision.state, decision.attempt_state) == (S.AMBIGUOUS, "ambiguous")
    assert decision.due_at == NOW + timedelta(seconds=30)


def test_what_was_never_called_is_due_at_once_and_counts_as_not_sent():
    decision = decided(Outcome(K.RELEASED, "shutting down"))
    assert (decision.state, decision.attempt_state, decision.due_at) == (S.QUEUED, "not_sent", NOW)


@pytest.mark.parametrize(
    ("outcome", "state", "reason"),
    [
        (Outcome(K.RECIPIENT_INVALID, "no such address", 400), S.FAILED, "recipient_invalid"),
        (Outcome(K.REJECTED, "too large", 413), S.DEAD, "rejected"),
        (Outcome(K.REJECTED, "no such filter", reason="render_failed"), S.DEAD, "render_failed"),
    ],
)
def test_what_cannot_heal_by_itself_ends_at_once(outcome, state, reason):
    decision = decided(outcome)
    assert (decision.state, decision.reason, decision.due_at) == (state, reason, None)


@given(st.integers(0, 1000))
def test_questions_come_further_and_further_apart_up_to_a_bound(lookups):
    def wait(count: int) -> float:
        due = next_lookup(lookups=count, first_seconds=30, backoff=2, interval_max_seconds=3600, now=NOW)
        return (due - NOW).total_seconds()

    assert wait(0) == 30
    assert 30 <= wait(lookups) <= wait(lookups + 1) <= 3600


# -- elsewhere, and probes -------------------------------------------------------------------------------------


@given(outcomes, st.integers(0, 10), expiries, chances)
def test_only_what_was_definitely_not_taken_goes_elsewhere_and_costs_nothing(outcome, failures, expires_at, jitter):
    given_ = {"failures": failures, "expires_at": expires_at, "now": NOW, "jitter": jitter, "policy": POLICY}
    decision = decide(outcome, **given_, elsewhere=True)
    if outcome.kind in (K.TRANSIENT, K.RATE_LIMITED, K.UNAUTHORIZED):
        assert (decision.state, decision.reason, decision.burns) == (S.QUEUED, "failover", False)
        assert decision.failed_over
        assert decision.due_at == NOW, "at once"
        assert decision.attempt_state in ("refused", "not_sent")
        assert decision.pause_provider_seconds == decide(outcome, **given_).pause_provider_seconds
    else:
        assert decision == decide(outcome, **given_)
        assert not decision.failed_over


@given(outcomes, st.integers(0, 10), expiries, chances)
def test_a_probe_that_fails_costs_its_delivery_nothing_but_time(outcome, failures, expires_at, jitter):
    given_ = {"failures": failures, "expires_at": expires_at, "now": NOW, "jitter": jitter, "policy": POLICY}
    decision = decide(outcome, **given_, probe=True)
    if outcome.kind is K.TRANSIENT:
        assert (decision.state, decision.reason, decision.burns) == (S.QUEUED, "probe_failed", False)
        assert not decision.failed_over
    else:
        assert decision == decide(outcome, **given_)


@pytest.mark.parametrize(("asked", "given_"), [(float("nan"), 30), (float("inf"), 3600), (float("-inf"), 1)])
def test_what_is_no_number_of_seconds_is_understood_all_the_same(asked, given_):
    decision = decided(Outcome(K.RATE_LIMITED, "slow down", 429, retry_after_seconds=asked))
    assert decision.pause_provider_seconds == given_
