"""Kill, stop and cut real processes under load; then compare what the world saw with what the database says.

``make test`` makes the same choices each time, so that it judges the change and not the dice; ``make chaos`` makes new
ones. ``LANDED_CHAOS_SEED`` repeats a run's; every failure prints its seed.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from app.crash import Step
from app.embedded import scratch_postgres
from app.migrate import migrate
from tests.chaos.load import Load
from tests.chaos.oracle import assert_all_is_well, findings, wait_until_quiet
from tests.conftest import TEST_SETTINGS
from tests.sandbox_process import wait_until
from tests.system import PATIENCE_SECONDS, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEED = int(os.environ.get("LANDED_CHAOS_SEED") or 13)
API_STEPS = [Step.BEFORE_ACCEPT_COMMIT, Step.AFTER_ACCEPT_COMMIT, Step.AFTER_WEBHOOK_STORED]
WORKER_STEPS = [step for step in Step if step not in API_STEPS]
RANDOM_KILLS = 8
RESTARTS = 3


@pytest.fixture(autouse=True)
def _seed_shown() -> None:
    print(f"LANDED_CHAOS_SEED={SEED}")  # noqa: T201 - pytest shows it when the test fails


def test_a_process_killed_at_any_step_loses_and_repeats_nothing(dsn: str, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with System(dsn, tmp_path) as system:
        with Load(system, seed=SEED, addresses=["slow@example.com"]) as load:
            for step in WORKER_STEPS:
                system.worker.kill()
                system.worker.start(LANDED_CRASH_AT=f"{step}:{chance.randint(1, 3)}")
                wait_until(system.worker.crashed, seconds=PATIENCE_SECONDS, what=f"the crash at {step}")
            system.worker.start()
            for script in ("timeout-after-accept", "hang"):
                load.also(_killed_on_the_wire(system, f"{script}@example.com"))
            for step in API_STEPS:
                system.api.kill()
                system.api.start(LANDED_CRASH_AT=f"{step}:{chance.randint(1, 3)}")
                wait_until(system.api.crashed, seconds=PATIENCE_SECONDS, what=f"the crash at {step}")
            system.api.start()
            load.more(20)
        wait_until_quiet(system)
        assert_all_is_well(system, load)
        assert load.answers["no answer"], "the clients met the crashes"


def _killed_on_the_wire(system: System, address: str) -> object:
    """The worker is killed while the provider holds this call."""
    notification = system.send(address)
    wait_until(
        lambda: [e for e in system.sandbox.ledger(recipient=address) if e["kind"] in ("accepted", "response")],
        seconds=PATIENCE_SECONDS,
        what="the call on the wire",
    )
    system.worker.kill()
    system.worker.start()
    return notification


def test_kills_at_random_and_a_provider_that_fails_at_random_lose_and_repeat_nothing(dsn: str, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with System(dsn, tmp_path, seed=SEED) as system:
        system.second_worker.start()
        with Load(system, seed=SEED) as load:
            system.sandbox.set_fault("random", rate=0.15, sends_only=True)
            for _ in range(RANDOM_KILLS):
                load.more(chance.randint(10, 100))
                victim = chance.choice([system.worker, system.worker, system.second_worker, system.api])
                victim.kill()
                victim.start()
            load.more(40)
            system.sandbox.set_fault("ok")
        wait_until_quiet(system)
        assert_all_is_well(system, load)


# What got no answer in all of its time is ambiguous, as it is without a stop: the machine is slow.
CUT_SHORT = """
    SELECT state, detail FROM reporting.attempts
    WHERE state IN ('open', 'ambiguous') AND detail IS DISTINCT FROM 'no answer before the deadline'
"""


def test_workers_told_to_stop_under_load_leave_nothing_open(dsn: str, tmp_path: Path) -> None:
    with System(dsn, tmp_path) as system:
        with Load(system, seed=SEED, addresses=["slow@example.com"]) as load:
            for _ in range(2):
                load.more(50)
                system.worker.stop()
                assert system.rows(CUT_SHORT) == []
                system.worker.start()
            load.more(50)
        wait_until_quiet(system)
        assert_all_is_well(system, load)
        assert system.rows("SELECT FROM reporting.timeline WHERE kind = 'lease_expired'") == []


def test_a_database_that_crashes_under_load_costs_time_and_nothing_else(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with scratch_postgres(TEST_SETTINGS) as server:
        migrate(server.dsn())
        with System(server.dsn(), tmp_path) as system:
            pids = system.worker.pid, system.api.pid
            with Load(system, seed=SEED) as load:
                for _ in range(RESTARTS):
                    load.more(chance.randint(50, 150))
                    server.restart("immediate")
                load.more(50)
                server.stop("immediate")
                wait_until(lambda: load.answers[503] >= 5, seconds=PATIENCE_SECONDS, what="an outage that shows")
                server.start()
                load.more(50)
            wait_until_quiet(system)
            assert_all_is_well(system, load)
            assert (system.worker.pid, system.api.pid) == pids
            assert system.worker.running
            assert system.api.running


def test_the_judge_catches_a_worker_that_sends_again_what_timed_out(dsn: str, tmp_path: Path) -> None:
    with System(dsn, tmp_path, worker_module="tests.chaos.blind_worker") as system:
        load = Load(system, seed=SEED)
        load.also(notification := system.send("timeout-and-webhooks-lost@example.com"))
        wait_until(lambda: system.times_sent(notification) > 1, seconds=PATIENCE_SECONDS, what="a second copy")
        system.worker.kill()
        delivery = system.delivery(notification)
        assert delivery is not None
        assert findings(system, load)["sent twice"] == [str(delivery["delivery_id"])]
        with pytest.raises(AssertionError, match="sent twice"):
            assert_all_is_well(system, load)
