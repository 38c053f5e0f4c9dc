"""The first twelve failure modes of docs/failure-modes.md: each is provoked for real, and the documented view is read.

One system serves all modes but those that take it apart; every mode leaves ``reporting.stuck`` empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import TEMPLATE, Cluster
from tests.sandbox_process import wait_until
from tests.system import System


@pytest.fixture(scope="module")
def shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    name = f"modes_{uuid4().hex[:8]}"
    with System(cluster.create(name, template=TEMPLATE), tmp_path_factory.mktemp("system")) as system:
        yield system
    cluster.drop(name)


@pytest.fixture
def system(shared: System) -> Iterator[System]:
    yield shared
    assert shared.stuck() == []


def to(script: str) -> str:
    """An address of this test's own that provokes the script."""
    return f"{script}+{uuid4().hex[:12]}@example.com"


def in_order(kinds: list[str], *expected: str) -> bool:
    """Whether these kinds occur in this order, whatever lies between them."""
    rest = iter(kinds)
    return all(kind in rest for kind in expected)


@pytest.mark.failure_mode("FM-01")
def test_fm01_a_timeout_after_accepting_is_looked_up_and_never_sent_again(system: System) -> None:
    scripts = ["timeout-after-accept", "reset-after-accept", "error-after-accept", "timeout-and-webhooks-lost"]
    sent = {script: system.send(to(script)) for script in scripts}
    for script, notification in sent.items():
        delivery = system.delivered_as(notification, "delivered")
        assert delivery["attempts"] == 1, script
        system.wait_for_kind(notification, "attempt_unknown")
        assert in_order(system.kinds(notification), "accepted", "planned", "attempt_opened")
        assert "provider_delivered" in system.kinds(notification)
        assert system.times_sent(notification) == 1, script
    only_lookup = system.timeline(sent["timeout-and-webhooks-lost"])
    assert "resolved_found" in [entry["kind"] for entry in only_lookup]
    assert {entry["source"] for entry in only_lookup if entry["kind"].startswith("provider_")} == {"lookup"}


@pytest.mark.failure_mode("FM-02")
@pytest.mark.parametrize(
    ("crash_at", "resolved", "attempts"),
    [("before_record", ("resolved_found", "provider_accepted"), 1), ("after_claim_commit", ("resolved_not_sent",), 2)],
)
def test_fm02_a_worker_that_dies_between_intent_and_record_loses_and_repeats_nothing(
    dsn: str, tmp_path: Path, crash_at: str, resolved: tuple[str, ...], attempts: int
) -> None:
    with System(dsn, tmp_path) as system:
        system.worker.kill()
        system.worker.start(LANDED_CRASH_AT=crash_at)
        notification = system.send(to("anybody"))
        wait_until(system.worker.crashed, what="the crash")
        system.worker.start()
        delivery = system.delivered_as(notification, "delivered")
        kinds = system.kinds(notification)
        assert delivery["attempts"] == attempts
        assert any(kind in kinds for kind in resolved)
        assert "lease_expired" in kinds or attempts == 1, "evidence may be quicker than the lease"
        assert system.times_sent(notification) == 1
        assert system.stuck() == []


@pytest.mark.failure_mode("FM-03")
def test_fm03_an_outage_is_waited_out_and_what_it_outlasts_is_kept_for_a_replay(dsn: str, tmp_path: Path) -> None:
    # One message alone opens no breaker on a ladder of minutes. On this one of seconds it would, and wait.
    alone = {"LANDED_BREAKERS__FAILURES_MIN": "1000"}
    with System(dsn, tmp_path, environment=alone) as system:
        failing = system.send(to("outage"))
        system.delivered_as(failing, "delivered")
        kinds = system.kinds(failing)
        assert in_order(kinds, *["attempt_opened", "attempt_unknown", "resolved_not_sent"] * 2, "attempt_opened")
        assert system.times_sent(failing) == 1

        system.sandbox.kill()
        refused = system.send(to("anybody"))
        waiting = system.delivered_as(refused, "queued")
        assert waiting["due_at"]
        dead = system.delivered_as(refused, "dead")
        assert in_order(system.kinds(refused), *["attempt_transient"] * 5, "dead")
        assert (dead["reason"], dead["attempts"], dead["failures"]) == ("retries_exhausted", 5, 5)
        [letter] = system.rows("SELECT delivery_id, reason, last_outcome FROM reporting.dead_letters")
        assert letter == {
            "delivery_id": dead["delivery_id"],
            "reason": "retries_exhausted",
            "last_outcome": "transient",
        }

        system.sandbox.start()
        [replayed] = system.rows(
            "SELECT verdict FROM landed.replay(%s, commit => true, reason => 'the outage is over')", dead["delivery_id"]
        )
        assert replayed["verdict"] == "requeued"
        system.delivered_as(refused, "delivered")
        assert "replayed" in system.kinds(refused)
        assert system.times_sent(refused) == 1
        assert system.stuck() == []


@pytest.mark.failure_mode("FM-04")
def test_fm04_a_rate_limit_is_waited_out_at_no_cost_to_the_budget(system: System) -> None:
    notification = system.send(to("rate-limited"))
    delivery = system.delivered_as(notification, "delivered")
    assert (delivery["attempts"], delivery["failures"]) == (3, 0)
    limited = [entry for entry in system.timeline(notification) if entry["kind"] == "attempt_rate_limited"]
    assert [entry["data"]["state"] for entry in limited] == ["queued", "queued"]
    assert all(entry["data"]["due_at"] for entry in limited), "the story says when it comes back"
    assert system.times_sent(notification) == 1


@pytest.mark.failure_mode("FM-05")
def test_fm05_a_lost_webhook_is_made_up_for_by_asking(system: System) -> None:
    notification = system.send(to("webhook-lost"))
    system.delivered_as(notification, "delivered")
    story = system.timeline(notification)
    assert in_order(
        [entry["kind"] for entry in story], "attempt_accepted", "confirmation_overdue", "provider_delivered"
    )
    assert {entry["source"] for entry in story if entry["kind"] == "provider_delivered"} == {"lookup"}
    assert system.times_sent(notification) == 1


@pytest.mark.failure_mode("FM-05")
def test_fm05_silence_ends_as_unconfirmed_and_late_evidence_still_wins(dsn: str, tmp_path: Path) -> None:
    patience = {"LANDED_FOLLOW__CONFIRM_GIVE_UP_SECONDS": "2"}
    with System(dsn, tmp_path, speed=0.15, environment=patience) as system:  # delivered after 7 s
        notification = system.send(to("anybody"))
        silent = system.delivered_as(notification, "unconfirmed")
        [shown] = system.rows("SELECT delivery_id, reason FROM reporting.unconfirmed")
        assert shown == {"delivery_id": silent["delivery_id"], "reason": "no_evidence"}
        system.delivered_as(notification, "delivered")
        assert system.rows("SELECT FROM reporting.unconfirmed") == []
        assert in_order(system.kinds(notification), "confirmation_overdue", "unconfirmed", "provider_delivered")
        assert system.times_sent(notification) == 1
        assert system.stuck() == []


@pytest.mark.failure_mode("FM-06")
@pytest.mark.parametrize("script", ["duplicate-webhook", "out-of-order-webhook"])
def test_fm06_order_and_number_of_webhooks_change_nothing(system: System, script: str) -> None:
    notification = system.send(to(script))
    delivery = system.delivered_as(notification, "delivered")
    expected = {"provider_accepted", "provider_delivered"}
    if script == "out-of-order-webhook":
        expected.add("provider_opened")
    for kind in expected:
        system.wait_for_kind(notification, kind)
    posts = lambda: _webhooks(system, delivery)  # noqa: E731
    wait_until(lambda: len(posts()) >= (6 if script == "duplicate-webhook" else 3), what="every post of every webhook")
    kinds = [kind for kind in system.kinds(notification) if kind.startswith("provider_")]
    assert sorted(kinds) == sorted(expected), "each fact once"
    assert {post["status"] for post in posts()} == {200}
    assert system.times_sent(notification) == 1


def _webhooks(system: System, delivery: dict[str, Any]) -> list[dict[str, Any]]:
    return system.sandbox.ledger(kind="webhook", landed_delivery=str(delivery["delivery_id"]))


@pytest.mark.failure_mode("FM-07")
def test_fm07_forged_and_replayed_webhooks_are_refused_and_counted(system: System) -> None:
    notification = system.send(to("forged-webhook"))
    delivery = system.delivered_as(notification, "bounced")

    def refusals() -> set[str]:
        return {row["reason"] for row in system.rows("SELECT reason FROM reporting.webhook_refusals")}

    wait_until(lambda: refusals() >= {"forged", "replayed", "stale"}, what="three kinds of refusals")
    after = system.delivered_as(notification, "bounced")
    assert (after["reason"], after["delivered_at"]) == ("hard_bounce", None)
    assert "provider_delivered" not in system.kinds(notification)
    answers = {post["status"] for post in _webhooks(system, delivery)}
    assert answers == {200, 401, 406}


@pytest.mark.failure_mode("FM-08")
@pytest.mark.parametrize(
    ("script", "state", "why"),
    [("bounce", "bounced", "hard_bounce"), ("suppressed", "failed", "provider_suppressed")],
)
def test_fm08_a_dead_address_is_not_sent_to_again(system: System, script: str, state: str, why: str) -> None:
    address = to(script).replace("example.com", f"{script}.example")
    first = system.send(address)
    assert system.delivered_as(first, state)["reason"] == why
    assert system.suppressions(address) == [(why, "all")]
    [shown] = system.rows(
        "SELECT reason FROM reporting.suppressions WHERE delivery_id = %s", system.delivery(first)["delivery_id"]
    )
    assert shown["reason"] == why
    again = system.send(address)
    stopped = system.delivered_as(again, "suppressed")
    assert (stopped["reason"], stopped["attempts"]) == (f"suppressed:{why}", 0)
    assert "suppressed" in system.kinds(again)
    assert (system.times_sent(first), system.times_sent(again)) == (1, 0)
    [rate] = system.rows("SELECT * FROM reporting.bounce_rate_by_domain WHERE domain = %s", f"{script}.example")
    assert (rate["accepted"], rate["bounced_hard"], rate["failed"]) == (
        1,
        int(state == "bounced"),
        int(state == "failed"),
    )


@pytest.mark.failure_mode("FM-08")
def test_fm08_a_block_of_our_reputation_never_suppresses_the_address(system: System) -> None:
    address = to("blocked")
    assert system.delivered_as(system.send(address), "bounced")["reason"] == "reputation"
    assert system.suppressions(address) == []
    assert system.delivered_as(system.send(address), "bounced")["attempts"] == 1


@pytest.mark.failure_mode("FM-09")
def test_fm09_a_deferral_is_the_providers_business_and_a_full_mailbox_is_counted(system: System) -> None:
    deferred, full_address = system.send(to("deferred")), to("soft-bounce")
    full = system.send(full_address)
    assert system.delivered_as(deferred, "delivered")["attempts"] == 1
    system.wait_for_kind(deferred, "provider_deferred", times=2)
    assert system.delivered_as(full, "bounced")["reason"] == "soft_bounce"
    system.wait_for_kind(full, "provider_deferred")
    assert system.suppressions(full_address) == []
    [count] = system.rows("SELECT bounces FROM store.soft_bounces WHERE address = %s", full_address)
    assert count["bounces"] == 1
    assert (system.times_sent(deferred), system.times_sent(full)) == (1, 1)


@pytest.mark.failure_mode("FM-09")
def test_fm09_a_bounce_after_delivered_wins_and_suppresses(system: System) -> None:
    address = to("async-bounce")
    notification = system.send(address)
    delivery = system.delivered_as(notification, "bounced")
    assert delivery["delivered_at"] <= delivery["bounced_at"]
    assert "provider_delivered" in system.kinds(notification)
    assert system.suppressions(address) == [("hard_bounce", "all")]


@pytest.mark.failure_mode("FM-10")
def test_fm10_a_complaint_suppresses_at_once_and_the_delivery_stays_delivered(system: System) -> None:
    address = to("complaint")
    first = system.send(address)
    system.wait_for_kind(first, "provider_complained")
    delivery = system.delivered_as(first, "delivered")
    assert delivery["complained_at"]
    assert system.suppressions(address) == [("complaint", "all")]
    again = system.send(address, category=system.category(f"other-{uuid4().hex[:8]}"))
    assert system.delivered_as(again, "suppressed")["attempts"] == 0
    assert "suppressed" in system.kinds(again)
    assert (system.times_sent(first), system.times_sent(again)) == (1, 0)


@pytest.mark.failure_mode("FM-11")
def test_fm11_a_broken_template_fails_its_own_message_only(system: System) -> None:
    missing = system.post(to("anybody"), key=(key := str(uuid4())), variables={})
    assert missing.status_code == 422
    assert [error["field"] for error in missing.json()["errors"]] == ["variables.order_id"]
    assert system.rows("SELECT FROM store.idempotency_keys WHERE key = %s", key) == []

    endless = system.send(to("anybody"), template_id="endless")
    neighbour = system.send(to("anybody"))
    system.delivered_as(neighbour, "delivered")
    dead = system.delivered_as(endless, "dead")
    assert dead["reason"] == "render_failed"
    assert in_order(system.kinds(endless), "attempt_opened", "attempt_rejected", "dead")
    assert system.times_sent(endless) == 0
    refused = system.send(to("permanent-4xx"))
    assert system.delivered_as(refused, "dead")["reason"] == "rejected"
    letters = system.rows("SELECT notification_id, last_detail FROM reporting.dead_letters")
    assert {endless, refused} <= {letter["notification_id"] for letter in letters}
    assert not any("@" in letter["last_detail"] for letter in letters)


@pytest.mark.failure_mode("FM-12")
@pytest.mark.parametrize("script", ["unauthorized", "domain-disabled"])
def test_fm12_a_refused_account_pauses_and_costs_no_message_its_budget(system: System, script: str) -> None:
    notification = system.send(to(script))
    system.wait_for_kind(notification, "attempt_unauthorized")
    [provider] = system.rows("SELECT status FROM reporting.providers WHERE provider = 'mailgun'")
    assert provider["status"] in ("open", "half_open", "recovering", "ok")
    delivery = system.delivered_as(notification, "delivered")
    assert (delivery["attempts"], delivery["failures"]) == (3, 0)
    refused = [entry for entry in system.timeline(notification) if entry["kind"] == "attempt_unauthorized"]
    assert [(entry["data"]["reason"], bool(entry["data"]["due_at"])) for entry in refused] == [
        ("unauthorized", True)
    ] * 2
    assert system.times_sent(notification) == 1


@pytest.mark.failure_mode("FM-12")
def test_fm12_a_greeting_is_no_acceptance_and_what_expires_meanwhile_says_so(system: System) -> None:
    short = system.category(f"short-{uuid4().hex[:8]}", validity_seconds=2)
    notification = system.send(to("wrong-response"), category=short)
    delivery = system.delivered_as(notification, "expired")
    assert (delivery["reason"], delivery["failures"]) == ("expired", 0)
    assert in_order(system.kinds(notification), "attempt_unauthorized", "expired")
    assert system.times_sent(notification) == 0
