"""Schema reporting about providers and lanes: who is called and who is not, what waits for whom, what can be proven."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from tests.factories import (
    DRAINED,
    OPEN,
    make_delivery,
    make_lane,
    make_provider_state,
    make_tenant,
    make_worker,
)
from tests.looking import view

LANE = "email.transactional.default"
CAMPAIGN = "email.promotional.default"
NOW = datetime.now(UTC)
LATER = NOW + timedelta(hours=1)
LONG_AGO = NOW - timedelta(minutes=6)
TODAY = NOW.date()


async def provider(conn: AsyncConnection, name: str) -> dict[str, Any]:
    (row,) = await view(conn, "providers", provider=name)
    return row


async def lane(conn: AsyncConnection, name: str = LANE) -> dict[str, Any]:
    (row,) = await view(conn, "lanes", lane=name)
    return row


async def shed(conn: AsyncConnection) -> None:
    await conn.execute(
        "UPDATE store.load_shedding SET active = true, lane = 'sms.alert.gb', oldest_seconds = 42, judged_at = now()"
    )


# -- providers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "status", "ready", "ready_at"),
    [
        ({}, "ok", True, None),
        ({"share": 0.5}, "ok", True, None),
        ({"recovering": True, "share": 0.1}, "recovering", True, None),
        ({"paused_until": LONG_AGO, "limited_at": LONG_AGO}, "ok", True, None),
        ({"paused_until": LATER, "limited_at": LONG_AGO}, "rate_limited", False, LATER),
        ({"paused_until": LATER, "recovering": True}, "rate_limited", False, LATER),
        (OPEN | {"retry_at": LATER}, "open", False, LATER),
        (OPEN | {"retry_at": LONG_AGO}, "open", False, LONG_AGO),
        (OPEN | {"retry_at": LONG_AGO, "paused_until": LATER}, "open", False, LATER),
        (
            OPEN | {"retry_at": LONG_AGO, "probe_owner": "00000000-0000-0000-0000-000000000001", "probe_until": LATER},
            "half_open",
            False,
            LATER,
        ),
        (
            OPEN | {"retry_at": LATER, "probe_owner": "00000000-0000-0000-0000-000000000001", "probe_until": LONG_AGO},
            "open",
            False,
            LATER,
        ),
        (DRAINED, "drained", False, None),
        (DRAINED | OPEN, "drained", False, None),
        (DRAINED | {"paused_until": LATER}, "drained", False, None),
    ],
)
async def test_a_provider_has_one_status_and_the_time_when_it_may_be_tried_again(conn, state, status, ready, ready_at):
    await make_provider_state(conn, "mail-a", **state)
    row = await provider(conn, "mail-a")
    assert (row["status"], row["ready"], row["ready_at"]) == (status, ready, ready_at)


async def test_a_provider_shows_since_when_and_why(conn):
    await make_provider_state(conn, "mail-a", since=LONG_AGO, **OPEN)
    row = await provider(conn, "mail-a")
    assert (row["reason"], row["detail"], row["since"]) == ("failing", "9 of 9 calls failed", LONG_AGO)
    await make_provider_state(conn, "mail-a", since=LONG_AGO, **DRAINED)
    row = await provider(conn, "mail-a")
    assert (row["drained_by"], row["drain_reason"], row["since"]) == ("ada", "maintenance", DRAINED["drained_at"])
    await make_provider_state(conn, "mail-a", since=LONG_AGO, paused_until=LATER, limited_at=NOW, hits=3)
    row = await provider(conn, "mail-a")
    assert (row["hits"], row["limited_at"], row["since"]) == (3, NOW, NOW)


async def test_a_provider_without_a_state_is_listed_as_ready_because_a_lane_has_it(conn):
    await make_lane(conn, LANE, "mail-a", "mail-b")
    await make_provider_state(conn, "mail-b")
    rows = sorted(await view(conn, "providers"), key=lambda row: row["provider"])
    assert [(row["provider"], row["status"], row["ready"]) for row in rows] == [
        ("mail-a", "ok", True),
        ("mail-b", "ok", True),
    ]
    assert (rows[0]["share"], rows[0]["hits"], rows[0]["calls"], rows[0]["error_rate"]) == (1, 0, 0, None)


async def test_a_provider_shows_its_rate_and_its_last_minute(conn):
    await make_provider_state(conn, "mail-a")
    await conn.execute("INSERT INTO store.provider_rates (provider, per_second, factor) VALUES ('mail-a', 20, 0.5)")
    outcomes = (
        "INSERT INTO store.provider_outcomes (provider, at, calls, failures) VALUES (%s, now() - %s::interval, %s, %s)"
    )
    await conn.execute(outcomes, ("mail-a", "10 seconds", 30, 1))
    await conn.execute(outcomes, ("mail-a", "20 seconds", 10, 9))
    await conn.execute(outcomes, ("mail-a", "2 minutes", 100, 100))
    await conn.execute(outcomes, ("mail-b", "10 seconds", 100, 100))
    row = await provider(conn, "mail-a")
    assert (row["per_second"], row["factor"]) == (20, 0.5)
    assert (row["calls"], float(row["error_rate"])) == (40, 0.25)


# -- lanes ---------------------------------------------------------------------------------------------------


async def test_a_lane_shows_its_providers_in_their_order_its_workers_and_its_oldest_delivery(conn):
    await conn.execute(
        "INSERT INTO store.lanes (name, channel, class, providers) VALUES (%s, 'email', 'transactional', %s)",
        (
            LANE,
            Jsonb(
                [
                    {"provider": "spare", "order": 10, "weight": 1},
                    {"provider": "mail-a", "order": 1, "weight": 3},
                    {"provider": "mail-b", "order": 1, "weight": 1},
                ]
            ),
        ),
    )
    await make_provider_state(conn, "mail-b", **DRAINED)
    await make_worker(conn, LANE)
    await make_worker(conn, LANE, CAMPAIGN)
    await make_worker(conn, CAMPAIGN)
    await make_worker(conn, LANE, last_seen_at=LONG_AGO)
    await make_worker(conn, LANE, stopped_at=NOW)
    await make_worker(conn, LANE, region="elsewhere")
    row = await lane(conn)
    assert (row["channel"], row["class"]) == ("email", "transactional")
    assert [(p["provider"], p["order"], p["weight"], p["status"]) for p in row["providers"]] == [
        ("mail-a", 1, 3, "ok"),
        ("mail-b", 1, 1, "drained"),
        ("spare", 10, 1, "ok"),
    ]
    assert row["workers"] == 2
    assert (row["oldest_due_at"], row["late_by"], row["waiting_for"]) == (None, None, None)
    assert "mail-b is drained" in row["detail"]
    assert "by ada (maintenance)" in row["detail"]
    await make_delivery(conn, due_at=LATER)
    row = await lane(conn)
    assert (row["oldest_due_at"], row["late_by"]) == (LATER, None)
    await make_delivery(conn, due_at=LONG_AGO, failures=1, reason="retry")
    await make_delivery(conn, due_at=NOW - timedelta(minutes=1))
    await make_delivery(conn, due_at=NOW - timedelta(hours=1), state="sent")
    row = await lane(conn)
    assert row["oldest_due_at"] == LONG_AGO
    assert row["late_by"] >= timedelta(minutes=6)


async def test_a_lane_waits_for_a_provider_when_none_is_ready_and_says_why_of_each(conn):
    await make_lane(conn, LANE, "mail-a", "mail-b", "mail-c", "mail-d", "mail-e")
    await make_worker(conn, LANE)
    await make_provider_state(conn, "mail-a", **OPEN)
    await make_provider_state(conn, "mail-b", **OPEN | {"reason": "unauthorized", "detail": "401"})
    await make_provider_state(conn, "mail-c", **DRAINED)
    await make_provider_state(conn, "mail-d", paused_until=LATER)
    await make_provider_state(
        conn, "mail-e", **OPEN, probe_owner="00000000-0000-0000-0000-000000000001", probe_until=LATER
    )
    row = await lane(conn)
    assert row["waiting_for"] == "no_provider"
    told = row["detail"].split("; ")
    assert told[0] == "mail-a is not called, because it fails (9 of 9 calls failed)"
    assert told[1].startswith("one delivery tries it at ")
    assert told[2] == "mail-b is not called, because it refuses our account (401)"
    assert told[4].startswith("mail-c is drained since ")
    assert told[5].startswith("mail-d said to slow down until ")
    assert told[6].startswith("mail-e is tried with one delivery, until ")
    await make_provider_state(conn, "mail-b", recovering=True, share=0.1)
    row = await lane(conn)
    assert row["waiting_for"] is None
    assert "mail-b is recovering and gets 10 % of its weight" in row["detail"]


async def test_a_lane_without_a_live_worker_waits_for_one(conn):
    await make_lane(conn, LANE, "mail-a")
    row = await lane(conn)
    assert (row["workers"], row["waiting_for"], row["detail"]) == (0, "no_worker", "no worker serves it")
    await make_worker(conn, LANE)
    row = await lane(conn)
    assert (row["workers"], row["waiting_for"], row["detail"]) == (1, None, None)


async def test_only_promotional_lanes_wait_under_load_shedding(conn):
    await make_lane(conn, LANE, "mail-a")
    await make_lane(conn, CAMPAIGN, "mail-a")
    await make_worker(conn, LANE, CAMPAIGN)
    await shed(conn)
    campaign = await lane(conn, CAMPAIGN)
    assert campaign["waiting_for"] == "load_shedding"
    assert campaign["detail"].startswith("promotional claims pause since ")
    assert campaign["detail"].endswith("because sms.alert.gb is 42 s late")
    assert (await lane(conn))["waiting_for"] is None
    (row,) = await view(conn, "load_shedding")
    assert (row["active"], row["lane"], row["late_by"]) == (True, "sms.alert.gb", timedelta(seconds=42))


async def test_load_shedding_that_was_never_judged_has_no_time(conn):
    (row,) = await view(conn, "load_shedding")
    assert (row["class"], row["active"], row["judged_at"]) == ("promotional", False, None)


async def test_a_lane_that_is_no_longer_configured_is_listed_while_something_waits_in_it(conn):
    await make_lane(conn, LANE, "mail-a")
    await make_delivery(conn, lane="sms.alert.fr", due_at=LONG_AGO)
    await make_delivery(conn, lane="sms.alert.nl", due_at=LATER, failures=1, reason="retry")
    await make_delivery(conn, lane="sms.alert.be", state="dead")
    assert {row["lane"] for row in await view(conn, "lanes")} == {LANE, "sms.alert.fr", "sms.alert.nl"}
    row = await lane(conn, "sms.alert.fr")
    assert (row["channel"], row["class"], row["providers"], row["waiting_for"]) == ("sms", "alert", [], "no_worker")
    assert row["detail"] == "no worker serves it; the configuration does not have it"
    await make_worker(conn, "sms.alert.fr")  # one of the previous release
    assert (await lane(conn, "sms.alert.fr"))["waiting_for"] is None


async def test_lanes_are_found_without_reading_what_waits_in_them(dsn):
    """Nor does stuck read a backlog that waits on purpose, but for its front."""
    async with await AsyncConnection.connect(dsn, autocommit=True) as conn:
        await make_lane(conn, LANE, "mail-a")
        await make_provider_state(conn, "mail-a", **OPEN)
        await make_delivery(conn, due_at=LONG_AGO)
        await conn.execute(
            """
            INSERT INTO store.deliveries (shard, id, notification_id, tenant_id, recipient_id, category, class, channel,
                                          lane, address, template_id, template_version, state, due_at, expires_at)
            SELECT d.shard, store.new_id(d.shard), d.notification_id, d.tenant_id, d.recipient_id, d.category, d.class,
                   d.channel, d.lane, d.address, d.template_id, 1, 'queued', d.due_at, d.expires_at
            FROM store.deliveries d, generate_series(1, 20000)
            """
        )
        await conn.execute("VACUUM ANALYZE store.deliveries")
        for statement in ("SELECT * FROM reporting.lanes", "SELECT * FROM reporting.stuck"):
            cursor = await conn.execute(f"EXPLAIN (ANALYZE, FORMAT json) {statement}")
            (plan,) = await cursor.fetchone()
            assert max(rows_read(plan[0]["Plan"])) <= 100, statement
        assert (await lane(conn))["waiting_for"] == "no_provider"
        assert await view(conn, "stuck") == []


def rows_read(node: dict[str, Any]) -> list[float]:
    """How many rows each scan of deliveries gave or threw away, in all of its loops."""
    inner = [rows for child in node.get("Plans", []) for rows in rows_read(child)]
    if str(node.get("Relation Name", "")).startswith("deliveries"):
        inner.append((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
    return inner or [0]


# -- waiting -------------------------------------------------------------------------------------------------


async def test_waiting_says_what_queued_and_due_rows_wait_for(conn):
    tenant = await make_tenant(conn)
    await make_lane(conn, LANE, "mail-a")
    await make_provider_state(conn, "mail-a", **OPEN)
    for reason, due_at in ((None, LONG_AGO), ("failover", LONG_AGO), ("held", LATER)):
        await make_delivery(conn, tenant_id=tenant.id, reason=reason, due_at=due_at)
    await make_delivery(conn, tenant_id=tenant.id, state="sent", due_at=LONG_AGO)
    rows = await view(conn, "waiting", tenant=tenant.name)
    assert {(row["state"], row["reason"]): row["waits_for"] for row in rows} == {
        ("queued", None): "no_provider",
        ("queued", "failover"): "no_provider",
        ("queued", "held"): None,
        ("sent", None): None,
    }


# -- what calls came to --------------------------------------------------------------------------------------


async def test_errors_are_counted_by_provider_and_minute(conn):
    minute = NOW.replace(second=0, microsecond=0)
    counted = (
        "INSERT INTO store.provider_outcomes"
        " (provider, at, calls, accepted, client_errors, server_errors, unknown, failures)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
    )
    await conn.execute(counted, ("mail-a", minute, 10, 8, 1, 1, 0, 1))
    await conn.execute(counted, ("mail-a", minute + timedelta(seconds=50), 10, 6, 0, 2, 2, 4))
    await conn.execute(counted, ("mail-a", minute + timedelta(seconds=60), 1, 1, 0, 0, 0, 0))
    await conn.execute(counted, ("mail-b", minute, 0, 0, 0, 0, 0, 0))
    first, second = sorted(await view(conn, "provider_errors", provider="mail-a"), key=lambda row: row["minute"])
    assert first == {
        "provider": "mail-a", "minute": minute, "calls": 20, "accepted": 14, "client_errors": 1, "server_errors": 3,
        "unknown": 2, "failures": 5, "error_rate": first["error_rate"],
    }  # fmt: skip
    assert (float(first["error_rate"]), float(second["error_rate"])) == (0.25, 0.0)
    (idle,) = await view(conn, "provider_errors", provider="mail-b")
    assert idle["error_rate"] is None


async def test_limits_are_counted_by_provider_and_hour(conn):
    hour = NOW.replace(minute=0, second=0, microsecond=0)
    event = "INSERT INTO store.control_events (at, subject, name, event, detail, data) VALUES (%s, %s, %s, %s, '', %s)"
    for at, name, what, data in (
        (hour, "mail-a", "limited", {"hits": 3}),
        (hour + timedelta(minutes=59), "mail-a", "limited", {"hits": 2}),
        (hour + timedelta(minutes=60), "mail-a", "limited", {}),
        (hour, "mail-b", "limited", {"hits": 7}),
        (hour, "mail-a", "opened", {"hits": 100}),
    ):
        await conn.execute(event, (at, "provider", name, what, Jsonb(data)))
    rows = await view(conn, "rate_limit_hits")
    assert {(row["name"], row["hour"]): row["hits"] for row in rows} == {
        ("mail-a", hour): 5,
        ("mail-a", hour + timedelta(hours=1)): 1,
        ("mail-b", hour): 7,
    }
    assert len(await view(conn, "control_events")) == 5


async def test_dead_letter_depth_counts_what_is_in_retry_and_what_was_given_up(conn):
    tenant, other = await make_tenant(conn), await make_tenant(conn)
    await make_delivery(conn, tenant_id=tenant.id, failures=1, reason="retry", created_at=LONG_AGO)
    await make_delivery(conn, tenant_id=tenant.id, failures=2, reason="retry")
    await make_delivery(conn, tenant_id=tenant.id, reason="failover")
    await make_delivery(conn, tenant_id=tenant.id, state="dead", ended_at=LONG_AGO)
    await make_delivery(conn, tenant_id=tenant.id, state="dead")
    await make_delivery(conn, tenant_id=tenant.id, state="unconfirmed")
    await make_delivery(conn, tenant_id=tenant.id, state="dead", lane="sms.alert.gb", channel="sms")
    await make_delivery(conn, tenant_id=other.id, state="dead")
    rows = {row["lane"]: row for row in await view(conn, "dead_letter_depth", tenant=tenant.name)}
    mail, texts = rows[LANE], rows["sms.alert.gb"]
    assert (mail["channel"], mail["in_retry"], mail["dead"]) == ("email", 2, 2)
    assert (mail["oldest_retry_at"], mail["oldest_dead_at"]) == (LONG_AGO, LONG_AGO)
    assert (texts["channel"], texts["in_retry"], texts["dead"], texts["oldest_retry_at"]) == ("sms", 0, 1, None)
    (row,) = await view(conn, "dead_letter_depth", tenant=other.name)
    assert row["dead"] == 1


# -- what can be proven --------------------------------------------------------------------------------------


async def capable(conn: AsyncConnection, country: str, *, provable: bool, provider: str = "texts-a") -> None:
    await conn.execute(
        "INSERT INTO store.route_capabilities (provider, channel, country, provable, source)"
        " VALUES (%s, 'sms', %s, %s, 'operator')",
        (provider, country, provable),
    )


async def texted(conn: AsyncConnection, tenant_id: int, country: str, provider: str = "texts-a", **states: int) -> None:
    for state, count in states.items():
        for _ in range(count):
            await make_delivery(
                conn, tenant_id=tenant_id, state=state, channel="sms", provider=provider, country=country, sent_at=NOW
            )


async def test_a_rate_is_delivered_over_provable_by_the_most_specific_capability(conn):
    tenant = await make_tenant(conn)
    await capable(conn, "*", provable=True)
    await capable(conn, "US", provable=False)
    await capable(conn, "*", provable=False, provider="texts-b")
    await capable(conn, "GB", provable=True, provider="texts-b")
    await texted(conn, tenant.id, "GB", delivered=3, sent=1, bounced=1)
    await texted(conn, tenant.id, "US", unconfirmed=2, delivered=1, bounced=1)
    await texted(conn, tenant.id, "GB", "texts-b", delivered=1)
    await texted(conn, tenant.id, "FR", "texts-b", failed=1)
    await texted(conn, tenant.id, "GB", "texts-c", unconfirmed=1)
    rows = {(r["provider"], r["country"]): r for r in await view(conn, "delivery_rates", tenant=tenant.name, day=TODAY)}
    counted = {
        key: (r["sent"], r["provable"], r["delivered"], r["bounced"], r["delivered_rate"]) for key, r in rows.items()
    }
    assert counted == {
        ("texts-a", "GB"): (5, 5, 3, 1, rows[("texts-a", "GB")]["delivered_rate"]),
        ("texts-a", "US"): (4, 0, 0, 1, None),
        ("texts-b", "GB"): (1, 1, 1, 0, 1),
        ("texts-b", "FR"): (1, 0, 0, 0, None),
        ("texts-c", "GB"): (1, 0, 0, 0, None),
    }
    assert float(counted[("texts-a", "GB")][4]) == 0.6


async def test_a_rate_counts_what_has_no_country_and_nothing_that_was_never_sent(conn):
    tenant = await make_tenant(conn)
    await conn.execute(
        "INSERT INTO store.route_capabilities (provider, channel, provable, source)"
        " VALUES ('mailgun', 'email', true, 'adapter')"
    )
    for state in ("queued", "sending", "ambiguous", "dead", "suppressed", "expired", "cancelled", "sent", "delivered"):
        await make_delivery(conn, tenant_id=tenant.id, state=state)
    (row,) = await view(conn, "delivery_rates", tenant=tenant.name)
    assert (row["country"], row["sent"], row["provable"], row["delivered"]) == (None, 2, 2, 1)
    (capability,) = await view(conn, "route_capabilities")
    assert (capability["provider"], capability["country"], capability["source"]) == ("mailgun", "*", "adapter")


async def test_a_delivery_shows_its_country_and_who_refused_it(conn):
    d = await make_delivery(conn, channel="sms", country="GB", reason="failover")
    await conn.execute("UPDATE store.deliveries SET tried = ARRAY['texts-a'] WHERE id = %s", (d.id,))
    (row,) = await view(conn, "deliveries", delivery_id=d.id)
    assert (row["country"], row["tried"]) == ("GB", ["texts-a"])
