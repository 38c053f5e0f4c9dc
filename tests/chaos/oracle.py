"""The judge: what clients were promised and what the outside world saw, against what the database says."""

from __future__ import annotations

from typing import Any

from tests.chaos.load import Load
from tests.sandbox_process import wait_until
from tests.system import System

QUIET_SECONDS = 90.0

UNFINISHED = """
SELECT (SELECT count(*) FROM store.notifications WHERE state = 'accepted')
     + (SELECT count(*) FROM store.deliveries WHERE ended_at IS NULL)
     + (SELECT count(*) FROM store.inbound_events WHERE state IN ('pending', 'parked')) AS rows
"""

DELIVERIES = """
SELECT n.id AS notification_id, d.delivery_id, d.state, d.reason, d.attempts,
       EXISTS (SELECT FROM reporting.attempts a
               WHERE a.delivery_id = d.delivery_id AND a.state = 'duplicate') AS alarmed
FROM store.notifications n
LEFT JOIN reporting.deliveries d ON d.notification_id = n.id
"""


def wait_until_quiet(system: System) -> None:
    """Once faults have stopped, everything must come to its end by itself."""

    def quiet() -> bool:
        summary = system.summary()
        under_way = summary["messages_under_way"] + summary["webhooks_owed"]
        return not under_way and system.rows(UNFINISHED)[0]["rows"] == 0

    try:
        wait_until(quiet, seconds=QUIET_SECONDS)
    except TimeoutError:
        live = system.rows(
            "SELECT state, reason, due_at - now() AS due_in, attempts, lookups FROM reporting.deliveries "
            "WHERE ended_at IS NULL LIMIT 10"
        )
        summary = {k: v for k, v in system.summary().items() if k != "deliveries"}
        raise AssertionError(f"not quiet after {QUIET_SECONDS} s: {live}, sandbox {summary}") from None


def findings(system: System, load: Load) -> dict[str, list[Any]]:
    """Everything that is not as promised, by name; each list must be empty."""
    seen: dict[str, int] = system.summary()["deliveries"]
    rows = system.rows(DELIVERIES)
    known = {row["notification_id"] for row in rows}
    sent = {str(row["delivery_id"]): seen.get(str(row["delivery_id"]), 0) for row in rows if row["delivery_id"]}
    return {
        "accepted and lost": sorted(load.ids - known),
        "accepted under two ids": [ids for ids in load.accepted.values() if len(ids) > 1],
        "taken in although no client was told so": sorted(known - load.ids),
        "planned not exactly once": [row for row in rows if row["delivery_id"] is None] + [*known][len(rows) :],
        "sent twice": [delivery for delivery, times in seen.items() if times > 1],
        "sent without a record": sorted(seen.keys() - sent.keys()),
        "sent by another vendor than we know of": sorted(_takers(system) ^ _known_takers(system)),
        "delivered but never sent, or sent and not known to be": [
            row for row in rows if (row["state"] == "delivered") != bool(sent.get(str(row["delivery_id"])))
        ],
        "ended without a reason": [row for row in rows if not row["reason"]],
        "alarms": [row for row in rows if row["alarmed"]],
        "stuck": list(system.stuck()),
        "answers no client should get": load.wrong,
    }


def _takers(system: System) -> set[tuple[str, str]]:
    """(delivery, vendor) of everything that was taken on, by the ledgers."""
    entries = [entry for sandbox in system.sandboxes for entry in sandbox.ledger(kind="accepted")]
    return {(entry["landed_delivery"], entry["provider"]) for entry in entries}


def _known_takers(system: System) -> set[tuple[str, str]]:
    rows = system.rows("SELECT delivery_id, provider FROM reporting.attempts WHERE state IN ('accepted', 'duplicate')")
    return {(str(row["delivery_id"]), row["provider"]) for row in rows}


def assert_all_is_well(system: System, load: Load) -> None:
    print(load)  # noqa: T201 - pytest shows it when the test fails
    wrong = {name: found[:5] for name, found in findings(system, load).items() if found}
    assert not wrong, f"{load}: {wrong}"
