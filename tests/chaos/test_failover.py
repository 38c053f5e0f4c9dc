"""Two vendors for each channel, and one after the other is killed, hangs, or fails in every way it can, under load.

The judge reads the ledgers of all vendors together: what one of them took, no other may be given.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.load import Load
from tests.chaos.oracle import assert_all_is_well, findings, wait_until_quiet
from tests.chaos.test_chaos import SEED
from tests.sandbox_process import wait_until
from tests.system import PATIENCE_SECONDS, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROUTES: dict[str, Any] = {
    "email": ["postmark", "mailgun"],
    "sms": [
        {"provider": "sinch", "order": 1, "weight": 60},
        {"provider": "twilio", "order": 1, "weight": 40},
    ],
}
# Whose server can go away. Twilio's stays: it finds texts by their words, and its sandbox keeps those in memory only.
MORTAL = ("postmark", "mailgun", "sinch")
VENDORS = (*MORTAL, "twilio")
FIRST = ("postmark", "sinch")  # who gets most of each channel, so that load is sure to meet whatever befalls them
# What a vendor does to its callers, and the least share of the calls it does it to.
BLOWS = {
    "hang": 0.5,
    "error": 0.5,
    "refuse": 0.5,
    "accept_then_hang": 0.3,
    "accept_then_error": 0.3,
    "rate_limit": 0.3,
    "unauthorized": 0.3,
    "random": 0.3,
}
BREAKERS = {
    "LANDED_BREAKERS__WINDOW_SECONDS": "10",
    "LANDED_BREAKERS__COOL_OFF_SECONDS": "1",
    "LANDED_BREAKERS__COOL_OFF_MAX_SECONDS": "2",
    "LANDED_BREAKERS__SHIFT_SECONDS": "1",
    # What nobody may send again on hope is for people to decide after this.
    "LANDED_TIMES__AMBIGUOUS_MAX_SECONDS": "15",
}


def test_vendors_that_die_hang_and_fail_at_random_lose_and_repeat_nothing(dsn: str, tmp_path: Path) -> None:
    print(f"LANDED_CHAOS_SEED={SEED}")  # noqa: T201 - pytest shows it when the test fails
    chance = random.Random(SEED)
    with System(dsn, tmp_path, seed=SEED, apart=MORTAL, routes=ROUTES, environment=BREAKERS) as system:
        system.second_worker.start()
        careful = system.category("careful", ambiguity_policy="park")
        with Load(system, seed=SEED, categories=["orders", "orders", careful]) as load:
            for vendor in FIRST:
                _lost_and_back(system, load, vendor, chance)
            for blow in chance.sample(sorted(BLOWS), len(BLOWS)):
                _struck(system, load, chance, blow)
            wait_until(lambda: _all_are_called(system), seconds=PATIENCE_SECONDS, what="the last breaker's closing")
        wait_until_quiet(system)
        _until_each_is_called_again(system, load)
        wait_until_quiet(system)
        print(_ends(system), dict(_steps(system)))  # noqa: T201 - the same
        assert_all_is_well(system, load)
        _assert_the_views_tell(system)


def _lost_and_back(system: System, load: Load, vendor: str, chance: random.Random) -> None:
    """Its server is gone until its breaker has opened and others carry on; a worker is killed meanwhile."""
    opened = _steps(system)[vendor, "opened"]
    system.sandbox_of(vendor).kill()
    wait_until(
        lambda: _steps(system)[vendor, "opened"] > opened, seconds=PATIENCE_SECONDS, what=f"the breaker of {vendor}"
    )
    load.more(chance.randint(10, 40))
    chance.choice([system.worker, system.second_worker]).kill()
    system.sandbox_of(vendor).start()
    for worker in (system.worker, system.second_worker):
        if not worker.running:
            worker.start()
    load.more(chance.randint(10, 40))


def _struck(system: System, load: Load, chance: random.Random, blow: str) -> None:
    """One vendor suffers, or both of a channel at once; a third may lose its server meanwhile."""
    victims = chance.sample(VENDORS, chance.choice([1, 2, 2]))
    for victim in victims:
        system.set_fault(victim, blow, rate=chance.uniform(BLOWS[blow], 1), sends_only=chance.random() < 0.7)
    load.more(chance.randint(20, 40))
    if chance.random() < 0.4:
        system.worker.kill()
        system.worker.start()
    if chance.random() < 0.3:
        gone = chance.choice(MORTAL)
        system.sandbox_of(gone).kill()
        load.more(chance.randint(10, 20))
        system.sandbox_of(gone).start()  # with no fault any more
    load.more(chance.randint(10, 20))
    for victim in victims:
        system.set_fault(victim, "ok")


def _until_each_is_called_again(system: System, load: Load) -> None:
    """A call that hung until after the load may have opened one more breaker: what is sent next tries that vendor."""
    person, phone = system.recipient("last@example.com"), system.reachable(phone="+12015550199")

    def called() -> bool:
        steps = _steps(system)
        if all(steps[vendor, "opened"] == steps[vendor, "closed"] for vendor in VENDORS):
            return True
        load.also(system.notify(person, "email"))
        load.also(system.notify(phone, "sms"))
        return False

    try:
        wait_until(called, seconds=PATIENCE_SECONDS)
    except TimeoutError:
        raise AssertionError(f"some vendor is not called again: {dict(_steps(system))}") from None


def _steps(system: System) -> Counter[tuple[str, str]]:
    """How often each vendor took each step, by the view."""
    rows = system.rows("SELECT name, event FROM reporting.control_events WHERE subject = 'provider'")
    return Counter((row["name"], row["event"]) for row in rows)


def _all_are_called(system: System) -> bool:
    rows = system.rows("SELECT ready FROM reporting.providers WHERE provider = ANY (%s)", list(VENDORS))
    return all(row["ready"] for row in rows)


def _ends(system: System) -> dict[str, int]:
    rows = system.rows(
        "SELECT state, reason, count(*) AS n FROM reporting.deliveries GROUP BY state, reason ORDER BY 1, 2"
    )
    return {f"{row['state']}: {row['reason']}": row["n"] for row in rows}


def _assert_the_views_tell(system: System) -> None:
    """What happened is there to be read, by name."""
    steps = _steps(system)
    for vendor in FIRST:
        assert steps[vendor, "opened"], vendor
        assert steps[vendor, "closed"], vendor
    why = {
        row["why"]
        for row in system.rows("SELECT data ->> 'reason' AS why FROM reporting.control_events WHERE event = 'opened'")
    }
    assert "failing" in why
    assert why <= {"failing", "unauthorized"}
    over = system.rows(
        "SELECT (data ->> 'due_at')::timestamptz <= recorded_at AS at_once FROM reporting.timeline "
        "WHERE starts_with(kind, 'attempt_') AND data ->> 'reason' = 'failover'"
    )
    assert over, "some went to another vendor"
    assert all(row["at_once"] for row in over)
    parked = system.rows("SELECT reason FROM reporting.unconfirmed")
    assert {row["reason"] for row in parked} <= {"ambiguous_unresolved", "no_evidence"}
    assert {end.split(":")[0] for end in _ends(system)} <= {"delivered", "dead", "unconfirmed"}


def test_the_judge_catches_a_worker_that_asks_another_vendor_after_no_answer(dsn: str, tmp_path: Path) -> None:
    routes = {"email": ["mailgun", "postmark"]}
    with System(
        dsn, tmp_path, routes=routes, apart=["postmark"], worker_module="tests.chaos.blind_failover_worker"
    ) as system:
        load = Load(system, seed=SEED)
        load.also(notification := system.send("timeout-and-webhooks-lost@example.com"))
        wait_until(lambda: system.times_sent(notification) > 1, seconds=PATIENCE_SECONDS, what="a second copy")
        system.worker.kill()
        delivery = system.delivery(notification)
        assert delivery is not None
        assert set(system.accepted_by(delivery["delivery_id"])) == {"mailgun", "postmark"}
        assert findings(system, load)["sent twice"] == [str(delivery["delivery_id"])]
        with pytest.raises(AssertionError, match="sent twice"):
            assert_all_is_well(system, load)
