"""FM-18: a loop that runs away, by the whole service: what is too much waits and says so, and nobody else does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import System

pytestmark = pytest.mark.slow


@pytest.fixture
def system(dsn: str, tmp_path: Path) -> Iterator[System]:
    with System(dsn, tmp_path, environment={"LANDED_LIMITS__RECIPIENT_PER_HOUR__SMS": "3"}) as system:
        yield system


@pytest.mark.failure_mode("FM-18")
def test_fm18_a_loop_that_runs_away_sends_what_the_limit_allows_and_holds_up_nobody(system: System) -> None:
    ann, bob = system.reachable(phone="+12015550101"), system.reachable(phone="+12015550102")
    codes = system.category("codes", recipient_per_hour=5)
    loop = [system.notify(ann, "sms") for _ in range(10)]
    other, code = system.notify(bob, "sms"), system.notify(ann, "sms", category=codes)
    for notification in (*loop[:3], other, code):
        system.delivered_as(notification, "delivered")
    for notification in loop[3:]:
        delivery = system.delivered_as(notification, "queued")
        assert delivery["reason"] == "recipient_limit"
        assert delivery["attempts"] == 0
    [hit] = system.rows(
        "SELECT name, sum(hits)::int AS hits FROM reporting.rate_limit_hits WHERE level = 'recipient' GROUP BY name"
    )
    assert hit == {"name": "sms", "hits": 7}
    assert list(system.stuck()) == []
    system.rows("SELECT * FROM landed.release(%s, 'she asked for it')", loop[9])
    system.delivered_as(loop[9], "delivered")
    assert system.delivery(loop[8])["state"] == "queued"  # type: ignore[index]
