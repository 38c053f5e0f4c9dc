"""Two vendors for a channel, as real processes: who is asked, what it costs, and what can be seen of it.

Email goes to Mailgun first and to Postmark next, texts to Twilio and Sinch by weight.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.conftest import TEMPLATE, Cluster
from tests.sandbox_process import wait_until
from tests.system import PATIENCE_SECONDS, System

pytestmark = pytest.mark.slow

RUNG_SECONDS = 25.0
PACE_SECONDS = 0.1
LANE = "email.transactional.default"
ROUTES: dict[str, Any] = {
    "email": ["mailgun", "postmark"],
    "email@other": ["sendgrid"],
    "sms": [
        {"provider": "twilio", "order": 1, "weight": 70},
        {"provider": "sinch", "order": 1, "weight": 30},
    ],
    "sms.GB": ["vonage"],
}
ENVIRONMENT = {
    # Long, so that what went on at once can be told from what waited for a rung.
    "LANDED_RETRY__LADDERS": json.dumps(
        {klass: [RUNG_SECONDS] * 4 for klass in ("transactional", "promotional", "alert")}
    ),
    "LANDED_BREAKERS__WINDOW_SECONDS": "10",
    "LANDED_BREAKERS__COOL_OFF_SECONDS": "1",
    "LANDED_BREAKERS__COOL_OFF_MAX_SECONDS": "2",
    "LANDED_BREAKERS__SHIFT_SECONDS": "1",
    "LANDED_SHEDDING__TRANSACTIONAL_SECONDS": "2",
}
AS_NEW = """
    UPDATE store.provider_states
    SET breaker = 'closed', reason = NULL, detail = '', retry_at = NULL, cool_off_seconds = NULL, probe_owner = NULL,
        probe_until = NULL, paused_until = NULL, share = 1, recovering = false, judge_from = now(), drained_at = NULL,
        drained_by = NULL, drain_reason = NULL
    RETURNING provider
"""

_areas = itertools.count(random.randrange(201, 400))


@pytest.fixture(scope="module")
def shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    name = f"failover_{uuid4().hex[:8]}"
    with System(
        cluster.create(name, template=TEMPLATE),
        tmp_path_factory.mktemp("system"),
        routes=ROUTES,
        environment=ENVIRONMENT,
    ) as system:
        yield system
    cluster.drop(name)


@pytest.fixture
def system(shared: System) -> Iterator[System]:
    """Whatever the test before did to the vendors, they are as new."""
    shared.rows(AS_NEW)
    yield shared
    shared.sandbox.set_fault("ok")
    assert shared.stuck() == []


# -- what can be seen of it --------------------------------------------------------------------------------------------


def to(script: str = "anybody") -> str:
    return f"{script}+{uuid4().hex[:12]}@example.com"


def tries(system: System, notification: UUID) -> list[tuple[str, str]]:
    """(vendor, outcome) of each attempt."""
    rows = system.rows(
        "SELECT a.provider, a.outcome FROM reporting.attempts a JOIN reporting.deliveries d USING (delivery_id) "
        "WHERE d.notification_id = %s ORDER BY a.attempt_no",
        notification,
    )
    return [(row["provider"], row["outcome"]) for row in rows]


def takers(system: System, notification: UUID) -> list[str]:
    """Which vendors took it on, by their ledgers."""
    delivery = system.delivery(notification)
    return [] if delivery is None else system.accepted_by(delivery["delivery_id"])


def status(system: System, vendor: str) -> dict[str, Any]:
    [row] = system.rows("SELECT * FROM reporting.providers WHERE provider = %s", vendor)
    return row


def steps(system: System, vendor: str, since: int) -> list[dict[str, Any]]:
    return system.rows(
        "SELECT event, detail, data FROM store.control_events WHERE name = %s AND id > %s ORDER BY id", vendor, since
    )


def now(system: System) -> int:
    """The last step so far."""
    [row] = system.rows("SELECT coalesce(max(id), 0) AS id FROM store.control_events")
    last: int = row["id"]
    return last


def send_until(system: System, condition: Callable[[], Any], what: str) -> list[UUID]:
    """Sends one message after the other until that comes true: there is always one to judge by, and to probe with."""
    sent: list[UUID] = []
    begun = time.monotonic()

    def done() -> bool:
        if time.monotonic() - begun >= len(sent) * PACE_SECONDS:
            sent.append(system.send(to()))
        return bool(condition())

    wait_until(done, seconds=PATIENCE_SECONDS, what=what)
    return sent


def all_delivered(system: System, sent: Sequence[UUID]) -> Counter[str]:
    """Waits until all are; how many came through each vendor."""
    found = [system.delivered_as(notification, "delivered") for notification in sent]
    assert [takers(system, notification) for notification in sent] == [[one["provider"]] for one in found]
    return Counter(one["provider"] for one in found)


def events_of(steps_: Sequence[dict[str, Any]]) -> list[str]:
    return [step["event"] for step in steps_]


# -- a definite refusal ------------------------------------------------------------------------------------------------


@pytest.mark.failure_mode("FM-13")
def test_fm13_what_a_dead_vendor_cannot_take_goes_to_the_next_at_once(dsn: str, tmp_path: Path) -> None:
    with System(dsn, tmp_path, routes=ROUTES, apart=["mailgun"], environment=ENVIRONMENT) as system:
        system.sandbox_of("mailgun").kill()
        notification = system.send(to())
        delivery = system.delivered_as(notification, "delivered")
        assert tries(system, notification) == [("mailgun", "transient"), ("postmark", "accepted")]
        assert delivery["failures"] == 0, "it cost nothing of its budget"
        [refused] = [entry for entry in system.timeline(notification) if entry["kind"] == "attempt_transient"]
        assert (refused["data"]["reason"], refused["data"]["state"]) == ("failover", "queued")
        first, second = system.rows(
            "SELECT opened_at, closed_at FROM reporting.attempts WHERE delivery_id = %s ORDER BY attempt_no",
            delivery["delivery_id"],
        )
        assert (second["opened_at"] - first["closed_at"]).total_seconds() < RUNG_SECONDS, "it waited for no rung"

        others = send_until(system, lambda: "opened" in events_of(steps(system, "mailgun", 0)), "the breaker's opening")
        for other in others:
            assert system.delivered_as(other, "delivered")["provider"] == "postmark"
        [opened] = [step for step in steps(system, "mailgun", 0) if step["event"] == "opened"]
        assert opened["data"]["reason"] == "failing"
        shown = status(system, "mailgun")
        assert (shown["ready"], shown["reason"]) == (False, "failing")
        [lane] = system.rows("SELECT waiting_for, detail FROM reporting.lanes WHERE lane = %s", LANE)
        assert lane["waiting_for"] is None, "somebody takes its messages"
        assert "mailgun" in lane["detail"]

        system.sandbox_of("mailgun").start()
        assert all_delivered(system, [notification, *others]) == {"postmark": len(others) + 1}
        send_until(system, lambda: "closed" in events_of(steps(system, "mailgun", 0)), "the breaker's closing")
        assert system.stuck() == []


@pytest.mark.failure_mode("FM-14")
@pytest.mark.failure_mode("FM-17")
def test_fm14_fm17_a_vendor_that_refuses_our_account_is_left_alone_and_comes_back_in_steps(system: System) -> None:
    since = now(system)
    system.set_fault("mailgun", "unauthorized")
    first = system.send(to())
    assert system.delivered_as(first, "delivered")["failures"] == 0
    assert tries(system, first) == [("mailgun", "unauthorized"), ("postmark", "accepted")]
    [opened, *_] = steps(system, "mailgun", since)
    assert (opened["event"], opened["data"]["reason"]) == ("opened", "unauthorized")
    assert status(system, "mailgun")["reason"] == "unauthorized"
    sent = send_until(
        system, lambda: "probe_failed" in events_of(steps(system, "mailgun", since)), "a probe that is refused"
    )
    assert all_delivered(system, sent) == {"postmark": len(sent)}
    probes = events_of(steps(system, "mailgun", since)).count("probe_failed")
    refused = [outcome for notification in sent for _, outcome in tries(system, notification)].count("unauthorized")
    assert refused == probes, "nobody but the probes went there"

    system.set_fault("mailgun", "ok")
    send_until(system, lambda: "closed" in events_of(steps(system, "mailgun", since)), "the breaker's closing")
    wait_until(lambda: status(system, "mailgun")["status"] == "ok", seconds=PATIENCE_SECONDS, what="all of its share")
    story = steps(system, "mailgun", since)
    after = story[events_of(story).index("closed") + 1 :]
    assert {step["event"] for step in after} == {"share_raised"}
    assert [step["data"]["share"] for step in after] == [0.2, 0.4, 0.8, 1.0], "it begins with a tenth"
    assert all_delivered(system, [system.send(to()) for _ in range(5)]) == {"mailgun": 5}


# -- no answer ---------------------------------------------------------------------------------------------------------


@pytest.mark.failure_mode("FM-15")
@pytest.mark.parametrize("script", ["timeout-after-accept", "timeout-and-webhooks-lost", "reset-after-accept"])
def test_fm15_what_a_vendor_took_without_an_answer_is_found_there_and_goes_to_no_other(
    system: System, script: str
) -> None:
    notification = system.send(to(script))
    system.delivered_as(notification, "delivered")
    system.wait_for_kind(notification, "attempt_unknown")
    assert tries(system, notification) == [("mailgun", "unknown")]
    assert takers(system, notification) == ["mailgun"]
    if script == "timeout-and-webhooks-lost":
        assert "resolved_found" in system.kinds(notification)


@pytest.mark.failure_mode("FM-15")
def test_fm15_what_a_vendor_that_hangs_was_shown_not_to_have_goes_to_the_next(system: System) -> None:
    system.set_fault("mailgun", "hang", sends_only=True)
    notification = system.send(to())
    delivery = system.delivered_as(notification, "delivered")
    assert tries(system, notification) == [("mailgun", "unknown"), ("postmark", "accepted")]
    assert takers(system, notification) == ["postmark"]
    assert delivery["failures"] == 1, "what was in doubt costs a rung"
    story = [entry["kind"] for entry in system.timeline(notification)]
    rest = iter(story)
    wanted = ["attempt_opened", "attempt_unknown", "resolved_not_sent", "attempt_opened", "attempt_accepted"]
    assert all(kind in rest for kind in wanted), story


# -- nobody left, and back ---------------------------------------------------------------------------------------------


@pytest.mark.failure_mode("FM-16")
def test_fm16_what_no_vendor_takes_waits_at_no_cost_and_says_so(system: System) -> None:
    since = now(system)
    vendors = ("mailgun", "postmark")
    for vendor in vendors:
        system.set_fault(vendor, "unauthorized")
    sent = send_until(
        system, lambda: all("opened" in events_of(steps(system, v, since)) for v in vendors), "both breakers' opening"
    )
    sent.append(last := system.send(to()))

    def waits() -> Any:
        return system.rows(
            "SELECT d.failures, l.detail FROM reporting.deliveries d JOIN reporting.lanes l USING (lane) "
            "WHERE d.notification_id = %s AND d.state = 'queued' AND d.due_at < now() "
            "AND l.waiting_for = 'no_provider' AND l.late_by > interval '0'",
            last,
        )

    [shown] = wait_until(waits, seconds=PATIENCE_SECONDS, what="the wait, by the view")
    assert shown["failures"] == 0
    assert all(vendor in shown["detail"] for vendor in vendors)
    assert system.stuck() == []
    spent = (
        "SELECT FROM reporting.deliveries WHERE notification_id = ANY (%s) AND (failures > 0 OR ended_at IS NOT NULL)"
    )
    assert system.rows(spent, sent) == [], "an account that is refused costs no message its budget"
    for vendor in vendors:
        system.set_fault(vendor, "ok")
    assert sum(all_delivered(system, sent).values()) == len(sent)


@pytest.mark.failure_mode("FM-17")
def test_fm17_people_take_a_vendor_out_and_give_it_back(system: System) -> None:
    since = now(system)
    assert all_delivered(system, [system.send(to())]) == {"mailgun": 1}
    [done] = system.rows("SELECT landed.drain_provider('mailgun', 'they do maintenance') AS done")
    assert done["done"]
    assert status(system, "mailgun")["status"] == "drained"
    assert all_delivered(system, [system.send(to()) for _ in range(5)]) == {"postmark": 5}
    [done] = system.rows("SELECT landed.restore_provider('mailgun', 'they are back') AS done")
    assert done["done"]
    assert status(system, "mailgun")["status"] == "recovering"
    wait_until(lambda: status(system, "mailgun")["status"] == "ok", seconds=PATIENCE_SECONDS, what="all of its share")
    assert all_delivered(system, [system.send(to()) for _ in range(5)]) == {"mailgun": 5}
    assert events_of(steps(system, "mailgun", since)) == ["drained", "restored", *["share_raised"] * 4]


# -- load --------------------------------------------------------------------------------------------------------------


def test_a_campaign_waits_while_urgent_work_is_late_and_says_so(system: System) -> None:
    """Texts to Britain wait for their vendor's rate, of which others have an hour's: that is our own doing."""
    pauses = "SELECT lane FROM reporting.load_shedding WHERE active"
    wait_until(lambda: not system.rows(pauses), seconds=PATIENCE_SECONDS, what="the end of what was late before")
    since = now(system)
    system.rows(
        "INSERT INTO store.provider_rates (provider, per_second, next_at) "
        "VALUES ('vonage', 1000, now() + interval '1 hour') RETURNING provider"
    )
    urgent = system.notify(system.reachable(phone="+447410120101"), "sms")
    late = [{"lane": "sms.transactional.gb"}]
    wait_until(lambda: system.rows(pauses) == late, seconds=PATIENCE_SECONDS, what="the pause of campaigns")

    news = system.category(f"news-{uuid4().hex[:8]}", **{"class": "promotional"})
    campaign = system.send(to(), category=news)
    waits = (
        "SELECT l.detail FROM reporting.deliveries d JOIN reporting.lanes l USING (lane) "
        "WHERE d.notification_id = %s AND d.state = 'queued' AND d.attempts = 0 "
        "AND l.waiting_for = 'load_shedding' AND l.late_by > interval '0'"
    )
    [shown] = wait_until(lambda: system.rows(waits, campaign), seconds=PATIENCE_SECONDS, what="the campaign's wait")
    assert "sms.transactional.gb" in shown["detail"]
    assert all_delivered(system, [system.send(to())]) == {"mailgun": 1}, "what is no campaign goes on"
    assert system.rows(waits, campaign), "and overtakes it"

    system.rows("DELETE FROM store.provider_rates WHERE provider = 'vonage' RETURNING provider")
    assert all_delivered(system, [urgent, campaign]) == {"vonage": 1, "mailgun": 1}
    began, ended, *_ = steps(system, "promotional", since)
    assert (began["event"], ended["event"]) == ("shedding_began", "shedding_ended")


# -- routes ------------------------------------------------------------------------------------------------------------


def test_texts_are_shared_by_weight(system: System) -> None:
    recipients = [system.reachable(phone=f"+1{next(_areas)}5550101") for _ in range(30)]
    texts = 300
    sent = [system.notify(recipients[n % 30], "sms", variables={"order_id": str(n)}) for n in range(texts)]
    went = all_delivered(system, sent)
    # Six standard deviations of a binomial to either side: once in five hundred million runs.
    assert went.keys() == {"twilio", "sinch"}
    assert abs(went["twilio"] - 0.7 * texts) < 6 * (texts * 0.7 * 0.3) ** 0.5, went


def test_a_country_has_a_route_of_its_own(system: System) -> None:
    notification = system.notify(system.reachable(phone="+447400120101"), "sms")
    delivery = system.delivered_as(notification, "delivered")
    assert (delivery["lane"], delivery["country"]) == ("sms.transactional.gb", "GB")
    assert takers(system, notification) == ["vonage"]


def test_a_tenant_has_a_route_of_its_own(system: System) -> None:
    _, key = system.add_tenant("other")
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": str(uuid4())}
    with httpx.Client(base_url=f"{system.url}/api/v1", headers=headers, timeout=30) as other:
        other.put("/recipients/ada", json={"email": to()}).raise_for_status()
        body = {"recipient_id": "ada", "category": "orders", "template_id": "order", "variables": {"order_id": "A-1"}}
        notification = UUID(other.post("/notifications/send", json=body).raise_for_status().json()["id"])
    delivery = system.delivered_as(notification, "delivered")
    assert delivery["lane"] == "email.transactional.default@other"
    assert takers(system, notification) == ["sendgrid"]
    assert all_delivered(system, [system.send(to())]) == {"mailgun": 1}, "and nobody else's"
