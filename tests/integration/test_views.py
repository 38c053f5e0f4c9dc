"""Schema reporting: what people and dashboards read, about rows in every state they speak of."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection, errors, sql
from psycopg.types.json import Jsonb

from tests.factories import (
    DRAINED,
    OPEN,
    make_attempt,
    make_delivery,
    make_event,
    make_lane,
    make_notification,
    make_provider_state,
    make_suppression,
    make_tenant,
)
from tests.looking import rows, view

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reporting.md"
LONG_AGO = datetime.now(UTC) - timedelta(minutes=6)


def just_now() -> datetime:
    """Within the grace when the test runs, not when its module was loaded."""
    return datetime.now(UTC) - timedelta(minutes=1)


ALL_STATES = [
    "queued", "sending", "sent", "ambiguous", "delivered", "bounced", "failed", "unconfirmed", "suppressed",
    "cancelled", "expired", "dead",
]  # fmt: skip


async def plan_of(conn: AsyncConnection, statement: str) -> str:
    plan = await rows(conn, "EXPLAIN " + statement)
    return "\n".join(row["QUERY PLAN"] for row in plan)


# -- the interface itself ------------------------------------------------------------------------------------

COLUMNS = """
    SELECT c.relname AS view, a.attname AS "column", col_description(c.oid, a.attnum) AS comment,
           obj_description(c.oid, 'pg_class') AS view_comment
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = 'reporting'::regnamespace AND c.relkind = 'v'
"""


async def test_every_view_and_every_column_says_what_it_means(conn):
    columns = await rows(conn, COLUMNS)
    assert len({c["view"] for c in columns}) == 22
    assert [(c["view"], c["column"]) for c in columns if not c["comment"] or not c["view_comment"]] == []


async def test_every_view_and_every_column_is_documented(conn):
    """docs/reporting.md has a section per view with a table of its columns, in order."""
    documented = {}
    for section in re.split(r"^## ", DOCS.read_text(), flags=re.M)[1:]:
        if heading := re.match(r"`reporting\.(\w+)`", section):
            documented[heading[1]] = re.findall(r"^\| `(\w+)` \|", section, flags=re.M)
    existing: dict[str, list[str]] = {}
    for column in await rows(conn, COLUMNS + " ORDER BY c.relname, a.attnum"):
        existing.setdefault(column["view"], []).append(column["column"])
    assert documented == existing


async def test_a_reporter_reads_every_view_and_nothing_else(conn):
    names = [c["relname"] for c in await rows(
        conn, "SELECT relname FROM pg_class WHERE relnamespace = 'reporting'::regnamespace AND relkind = 'v'"
    )]  # fmt: skip
    await make_delivery(conn)
    await conn.execute("SET LOCAL ROLE landed_reporter")
    for name in names:
        await view(conn, name)
    with pytest.raises(errors.InsufficientPrivilege):
        async with conn.transaction():
            await conn.execute("SELECT FROM store.tenants")
    with pytest.raises(errors.InsufficientPrivilege):
        async with conn.transaction():
            await conn.execute("DELETE FROM reporting.control_events")
    await conn.execute("RESET ROLE")


async def test_a_producer_reads_no_report(conn):
    await conn.execute("SET LOCAL ROLE landed_producer")
    with pytest.raises(errors.InsufficientPrivilege):
        async with conn.transaction():
            await conn.execute("SELECT FROM reporting.deliveries")
    await conn.execute("RESET ROLE")


@pytest.mark.parametrize(
    ("channel", "address", "masked"),
    [
        ("email", "bob@Example.com", "b…@example.com"),
        ("email", '"a@b"@example.com', '"…@example.com'),
        ("sms", "+4915112345678", "…5678"),
        ("sms", "12", "…2"),
        ("push", "token", "…en"),
        ("email", "", None),
        ("email", None, None),
    ],
)
async def test_an_address_is_masked_but_its_domain(conn, channel, address, masked):
    (row,) = await rows(conn, "SELECT reporting.masked_address(%s, %s) AS masked", channel, address)
    assert row["masked"] == masked


async def test_no_view_shows_an_address(conn):
    d = await make_delivery(conn, state="dead", address="secret.person@example.com")
    await make_delivery(conn, state="unconfirmed", address="secret.person@example.com")
    await make_suppression(conn, tenant_id=d.tenant_id, address="secret.person@example.com")
    for name in ("deliveries", "dead_letters", "unconfirmed", "suppressions", "timeline", "attempts"):
        assert "secret.person" not in str(await view(conn, name))


# -- deliveries, attempts, timeline --------------------------------------------------------------------------


@pytest.mark.parametrize("state", ALL_STATES)
async def test_a_delivery_shows_its_state_and_reason(conn, state):
    d = await make_delivery(conn, state=state)
    (row,) = await view(conn, "deliveries", delivery_id=d.id)
    assert (row["state"], row["reason"], row["due_at"]) == (state, d.reason, d.due_at)
    assert (row["attempts"], row["domain"], row["address"]) == (d.attempt_no, "example.com", "u…@example.com")
    assert row["tenant"].startswith("tenant-")


async def test_an_attempt_shows_how_it_went(conn):
    d = await make_delivery(conn)
    closed = datetime.now(UTC)
    await make_attempt(
        conn, d, state="refused", outcome="transient", status_code=503, content_hash=b"\xab" * 32,
        opened_at=closed - timedelta(seconds=2), closed_at=closed,
    )  # fmt: skip
    (row,) = await view(conn, "attempts", delivery_id=d.id)
    assert (row["state"], row["outcome"], row["status_code"]) == ("refused", "transient", 503)
    assert (row["took_seconds"], row["content_hash"]) == (2.0, "ab" * 32)


async def test_the_timeline_has_births_and_events_once_each(conn):
    d = await make_delivery(conn, state="delivered")
    await make_event(conn, d, kind="attempt_accepted", attempt_no=1)
    rows = await view(conn, "timeline", notification_id=d.notification_id)
    assert sorted(row["kind"] for row in rows) == [
        "accepted", "attempt_accepted", "attempt_opened", "planned", "provider_delivered",
    ]  # fmt: skip
    assert {row["tenant"] for row in rows if row["tenant"]} == {rows[0]["tenant"]}
    assert {row["channel"] for row in rows} == {None, "email"}


# -- ends that need people -----------------------------------------------------------------------------------


async def test_what_nothing_could_prove_is_listed(conn):
    d = await make_delivery(conn, state="unconfirmed", ended_at=LONG_AGO)
    (row,) = await view(conn, "unconfirmed", delivery_id=d.id)
    assert (row["reason"], row["unconfirmed_for"] >= timedelta(minutes=6)) == ("no_evidence", True)
    other = await make_delivery(conn, state="delivered")
    assert await view(conn, "unconfirmed", delivery_id=other.id) == []


async def test_a_dead_letter_shows_what_its_last_attempt_said(conn):
    d = await make_delivery(conn, state="dead", attempt=False, attempt_no=2)
    await make_attempt(conn, d, no=1, state="refused", outcome="transient", detail="first")
    await make_attempt(conn, d, no=2, state="refused", outcome="rejected", detail="bad sender", status_code=400)
    (row,) = await view(conn, "dead_letters", delivery_id=d.id)
    assert (row["last_outcome"], row["last_detail"], row["last_status_code"]) == (
        "rejected",
        "bad sender",
        400,
    )
    assert row["attempts"] == 2


# -- rates ---------------------------------------------------------------------------------------------------


async def test_bounce_rate_counts_what_was_accepted_by_domain(conn):
    tenant = await make_tenant(conn)
    for state, count in {"delivered": 6, "bounced": 2, "failed": 1, "unconfirmed": 1}.items():
        for _ in range(count):
            await make_delivery(conn, tenant_id=tenant.id, state=state, address="jo@Busy.example")
    await make_delivery(conn, tenant_id=tenant.id, state="bounced", reason="soft_bounce", address="a@quiet.example")
    for never_sent in ("queued", "suppressed", "dead", "expired", "cancelled"):
        await make_delivery(conn, tenant_id=tenant.id, state=never_sent, address="jo@busy.example")
    rows = {row["domain"]: row for row in await view(conn, "bounce_rate_by_domain", tenant=tenant.name)}
    busy, quiet = rows["busy.example"], rows["quiet.example"]
    assert (busy["accepted"], busy["delivered"], busy["bounced"], busy["bounced_hard"]) == (10, 6, 2, 2)
    assert (busy["failed"], busy["unconfirmed"], busy["waiting"]) == (1, 1, 0)
    assert (float(busy["bounce_rate"]), float(busy["complaint_rate"])) == (0.2, 0.0)
    assert (quiet["bounced"], quiet["bounced_hard"], float(quiet["bounce_rate"])) == (1, 0, 1.0)


async def test_what_failed_before_the_provider_took_it_is_no_denominator(conn):
    d = await make_delivery(conn, state="failed", attempt=False, attempt_no=0, reason="recipient_inactive")
    (row,) = await view(conn, "deliveries", delivery_id=d.id)
    assert await view(conn, "bounce_rate_by_domain", tenant=row["tenant"]) == []


async def test_bounce_rate_leaves_older_days_alone(conn):
    (bounds,) = await rows(conn, "SELECT store.id_floor('2020-01-01') AS low, store.id_floor('2020-01-02') AS high")
    await conn.execute(
        sql.SQL("CREATE TABLE store.old_day PARTITION OF store.deliveries FOR VALUES FROM ({low}) TO ({high})").format(
            low=sql.Literal(str(bounds["low"])), high=sql.Literal(str(bounds["high"]))
        )
    )
    plan = await plan_of(conn, "SELECT * FROM reporting.bounce_rate_by_domain")
    assert "on deliveries_p" in plan
    assert "old_day" not in plan


# -- stuck ---------------------------------------------------------------------------------------------------


async def stuck(conn: AsyncConnection) -> list[tuple[str, str]]:
    return [(row["what"], row["state"]) for row in await view(conn, "stuck")]


async def make_inbound(conn: AsyncConnection, **overrides: Any) -> None:
    values = {
        "occurred_on": "today", "provider": "mailgun", "event_key": "k", "source": "provider",
        "kind": "delivered", "evidence": Jsonb({}), "raw": b"", "state": "pending", "due_at": LONG_AGO,
    } | overrides  # fmt: skip
    await conn.execute(
        sql.SQL("INSERT INTO store.inbound_events ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Placeholder, values))
        ),
        values,
    )


async def test_nothing_that_is_on_time_or_has_ended_is_stuck(conn):
    for state in ALL_STATES:
        await make_delivery(conn, state=state)
    for state in ("queued", "sending", "sent", "ambiguous"):
        await make_delivery(conn, state=state, due_at=just_now())
    await make_notification(conn, due_at=just_now())
    await make_notification(conn, state="cancelled")
    await make_inbound(conn, due_at=just_now())
    await make_inbound(conn, event_key="done", state="applied", due_at=None)
    assert await stuck(conn) == []


@pytest.mark.parametrize("urgency", ["alert", "transactional", "promotional"])
async def test_a_notification_that_intake_forgot_is_stuck(conn, urgency):
    await make_notification(conn, due_at=LONG_AGO, **{"class": urgency})
    assert await stuck(conn) == [("notification", "accepted")]


@pytest.mark.parametrize("state", ["queued", "sending", "sent", "ambiguous"])
async def test_a_delivery_that_was_forgotten_is_stuck_and_says_what_is_missing(conn, state):
    d = await make_delivery(conn, state=state, due_at=LONG_AGO)
    (row,) = await view(conn, "stuck")
    assert (row["what"], row["state"], row["delivery_id"]) == ("delivery", state, d.id)
    assert row["notification_id"] == d.notification_id
    assert row["overdue_for"] >= timedelta(minutes=6)
    assert row["missing"]
    assert row["tenant"]


@pytest.mark.parametrize("state", ["pending", "parked"])
async def test_a_providers_event_that_apply_forgot_is_stuck(conn, state):
    d = await make_delivery(conn, state="sent")
    await make_inbound(conn, state=state, delivery_id=d.id)
    (row,) = await view(conn, "stuck")
    assert (row["what"], row["state"], row["delivery_id"]) == ("inbound_event", state, d.id)


def ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


async def test_what_waits_for_a_provider_is_not_stuck_until_one_has_been_ready_for_the_grace(conn):
    await make_lane(conn, "email.transactional.default", "mail-a", "mail-b")
    await make_delivery(conn, due_at=LONG_AGO)
    await make_delivery(conn, due_at=LONG_AGO, provider="mail-a", failures=1, reason="retry")
    await make_provider_state(conn, "mail-a", since=ago(60), **DRAINED)
    await make_provider_state(conn, "mail-b", since=ago(60), **OPEN)
    assert await stuck(conn) == []
    await make_provider_state(conn, "mail-b", since=ago(4))
    assert await stuck(conn) == []
    await make_provider_state(conn, "mail-b", since=ago(60), paused_until=ago(4))
    assert await stuck(conn) == []
    await make_provider_state(conn, "mail-b", since=ago(6), paused_until=ago(6))
    assert len(await stuck(conn)) == 2


async def test_a_provider_that_is_away_excuses_neither_what_has_expired_nor_other_lanes(conn):
    await make_lane(conn, "email.transactional.default", "mail-a")
    await make_provider_state(conn, "mail-a", since=ago(60), **OPEN)
    expired = await make_delivery(conn, due_at=LONG_AGO, expires_at=LONG_AGO)
    await make_delivery(conn, due_at=LONG_AGO, expires_at=just_now())
    other = await make_delivery(conn, due_at=LONG_AGO, lane="email.transactional.other")
    assert {row["delivery_id"] for row in await view(conn, "stuck")} == {expired.id, other.id}


async def test_promotional_work_that_makes_way_is_not_stuck(conn):
    """Until load shedding has been over for the grace."""
    await make_lane(conn, "email.promotional.default", "mail-a")
    await make_delivery(conn, due_at=LONG_AGO, lane="email.promotional.default", **{"class": "promotional"})
    shed = "UPDATE store.load_shedding SET active = %s, since = %s"
    await conn.execute(shed, (True, ago(60)))
    assert await stuck(conn) == []
    await conn.execute(shed, (False, ago(4)))
    assert await stuck(conn) == []
    await conn.execute(shed, (False, ago(6)))
    assert len(await stuck(conn)) == 1


# -- the rest ------------------------------------------------------------------------------------------------


async def test_waiting_counts_why_things_wait(conn):
    tenant = await make_tenant(conn)
    await make_notification(conn, tenant_id=tenant.id)
    for reason in (None, "retry", "retry"):
        await make_delivery(conn, tenant_id=tenant.id, reason=reason)
    later = datetime.now(UTC) + timedelta(hours=1)
    await make_delivery(conn, tenant_id=tenant.id, reason="held", due_at=later)
    await make_delivery(conn, tenant_id=tenant.id, state="sent", due_at=later)
    await make_delivery(conn, tenant_id=tenant.id, state="dead")
    rows = {
        (row["lane"], row["state"], row["reason"]): (row["rows"], row["overdue"])
        for row in await view(conn, "waiting", tenant=tenant.name)
    }
    # A row that is due "now" by the test's clock is due after the transaction's now().
    assert {key: counted for key, (counted, _) in rows.items()} == {
        ("intake.transactional", "accepted", None): 1,
        ("email.transactional.default", "queued", None): 1,
        ("email.transactional.default", "queued", "retry"): 2,
        ("email.transactional.default", "queued", "held"): 1,
        ("email.transactional.default", "sent", None): 1,
    }
    assert rows[("email.transactional.default", "queued", "held")] == (1, 0)


async def test_suppressions_show_whether_they_hold(conn):
    tenant = await make_tenant(conn)
    await make_suppression(conn, tenant_id=tenant.id, address="jo@example.com", reason="complaint")
    await make_suppression(
        conn,
        tenant_id=tenant.id,
        address="al@example.com",
        lifted_at=LONG_AGO,
        lift_reason="asked",
        lifted_by="op",
    )
    rows = await view(conn, "suppressions", tenant=tenant.name)
    assert {row["address"]: row["active"] for row in rows} == {
        "j…@example.com": True,
        "a…@example.com": False,
    }


async def test_workers_show_who_is_alive(conn):
    insert = (
        "INSERT INTO store.workers (id, region, host, pid, lanes, last_seen_at, stopped_at)"
        " VALUES (gen_random_uuid(), 'local', %s, 1, '{}', now() - %s::interval, %s)"
    )
    await conn.execute(insert, ("here", "5 seconds", None))
    await conn.execute(insert, ("silent", "31 seconds", None))
    await conn.execute(insert, ("stopped", "5 seconds", datetime.now(UTC)))
    rows = await view(conn, "workers")
    assert {row["host"]: row["alive"] for row in rows} == {"here": True, "silent": False, "stopped": False}


async def test_webhook_refusals_are_counted_by_day(conn):
    await conn.execute("INSERT INTO store.webhook_refusals (provider, reason) VALUES ('mailgun', 'forged')")
    (row,) = await view(conn, "webhook_refusals")
    assert (row["provider"], row["reason"], row["refusals"]) == ("mailgun", "forged", 1)


EXAMPLES = re.findall(r"^```sql\n(SELECT.*?)```", DOCS.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
async def test_the_documented_queries_run_for_a_reporter(conn, example):
    await conn.execute("SET LOCAL ROLE landed_reporter")
    await conn.execute(example)
    await conn.execute("RESET ROLE")
