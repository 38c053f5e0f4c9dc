"""The database's own guards, attacked with raw SQL: code may be wrong for a day, rows stay right."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection, errors, sql
from psycopg.types.json import Jsonb

from tests.factories import (
    make_attempt,
    make_delivery,
    make_event,
    make_notification,
    make_template,
    make_tenant,
)


async def attack(conn: AsyncConnection, error: type[psycopg.Error], statement: Any, *parameters: Any) -> psycopg.Error:
    """The statement must be refused with this error; the transaction goes on."""
    with pytest.raises(error) as caught:
        async with conn.transaction():
            await conn.execute(statement, parameters)
    return caught.value


async def change(conn: AsyncConnection, table: str, id: Any, **columns: Any) -> None:
    """Sets columns of one row, by its id, with nothing in between."""
    statement = sql.SQL("UPDATE {} SET {} WHERE id = {}").format(
        sql.Identifier("store", table),
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in columns.items()
        ),
        sql.Literal(id),
    )
    await conn.execute(statement)


async def attack_row(conn: AsyncConnection, constraint: str, table: str, id: Any, **columns: Any) -> None:
    with pytest.raises(errors.CheckViolation) as caught:
        async with conn.transaction():
            await change(conn, table, id, **columns)
    assert caught.value.diag.constraint_name == constraint


# -- I3, I4: one open attempt, one accepted --------------------------------------------------------------

UNSETTLED = [("open", None), ("ambiguous", "unknown")]


@pytest.mark.parametrize("first", UNSETTLED)
@pytest.mark.parametrize("second", UNSETTLED)
async def test_i3_a_second_attempt_cannot_open_while_one_is_unsettled(conn, first, second):
    d = await make_delivery(conn, attempt_no=2)
    await make_attempt(conn, d, no=1, state=first[0], outcome=first[1])
    with pytest.raises(errors.UniqueViolation, match="delivery_id"):
        async with conn.transaction():
            await make_attempt(conn, d, no=2, state=second[0], outcome=second[1])


async def test_i3_a_settled_attempt_lets_the_next_one_open(conn):
    d = await make_delivery(conn, attempt_no=3)
    await make_attempt(conn, d, no=1, state="refused", outcome="transient")
    await make_attempt(conn, d, no=2, state="not_sent", outcome="released")
    await make_attempt(conn, d, no=3)


async def test_i4_a_second_attempt_cannot_be_accepted(conn):
    d = await make_delivery(conn, attempt_no=2)
    await make_attempt(conn, d, no=1, state="accepted", outcome="accepted")
    with pytest.raises(errors.UniqueViolation, match="delivery_id"):
        async with conn.transaction():
            await make_attempt(conn, d, no=2, state="accepted", outcome="accepted")
    await make_attempt(conn, d, no=2)
    await attack(
        conn,
        errors.UniqueViolation,
        "UPDATE store.attempts SET state = 'accepted', outcome = 'accepted', closed_at = now()"
        " WHERE delivery_id = %s AND no = 2",
        d.id,
    )


async def test_an_attempt_is_settled_and_classified_or_neither(conn):
    d = await make_delivery(conn, attempt_no=1)
    for wrong in (
        {"state": "open", "closed_at": "now"},
        {"state": "ambiguous", "outcome": None},
        {"state": "open", "outcome": "unknown"},
        {"state": "accepted", "outcome": "accepted", "closed_at": None},
    ):
        with pytest.raises(errors.CheckViolation):
            async with conn.transaction():
                await make_attempt(conn, d, **wrong)


# -- I9: nothing without a due time or a named end -------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "sending", "sent", "ambiguous"])
async def test_i9_a_live_delivery_cannot_lose_its_due_time(conn, state):
    d = await make_delivery(conn, state=state)
    await attack_row(conn, "deliveries_never_dropped", "deliveries", d.id, due_at=None)


@pytest.mark.parametrize("state", ["bounced", "failed", "unconfirmed", "suppressed", "cancelled", "expired", "dead"])
async def test_i9_an_ended_delivery_has_a_reason_and_an_end(conn, state):
    d = await make_delivery(conn, state=state)
    await attack_row(conn, "deliveries_end_named", "deliveries", d.id, reason=None)
    await attack_row(conn, "deliveries_end_named", "deliveries", d.id, ended_at=None)
    await attack_row(conn, "deliveries_never_dropped", "deliveries", d.id, due_at="now")


async def test_i9_ending_a_delivery_takes_its_due_time_away(conn):
    d = await make_delivery(conn)
    await attack_row(conn, "deliveries_never_dropped", "deliveries", d.id, state="dead", reason="x", ended_at="now")
    await attack_row(conn, "deliveries_end_named", "deliveries", d.id, state="dead", due_at=None, ended_at="now")


async def test_i9_whoever_is_sending_has_a_lease_and_nobody_else(conn):
    sending = await make_delivery(conn, state="sending")
    await attack_row(conn, "deliveries_leased", "deliveries", sending.id, lease_owner=None)
    queued = await make_delivery(conn)
    await attack_row(conn, "deliveries_leased", "deliveries", queued.id, lease_owner=uuid4())


async def test_nothing_is_sent_without_an_attempt(conn):
    d = await make_delivery(conn)
    await attack_row(conn, "deliveries_ambiguous_attempted", "deliveries", d.id, state="sent")


async def test_i9_an_accepted_notification_cannot_lose_its_due_time(conn):
    n = await make_notification(conn)
    await attack_row(conn, "notifications_never_dropped", "notifications", n.id, due_at=None)
    await attack_row(
        conn, "notifications_end_named", "notifications", n.id, state="cancelled", due_at=None, reason=None
    )


async def test_i9_a_planned_notification_has_its_trace(conn):
    n = await make_notification(conn)
    await attack_row(
        conn,
        "notifications_planned_explained",
        "notifications",
        n.id,
        state="planned",
        due_at=None,
        planned_at="now",
    )


async def make_inbound(conn: AsyncConnection, **overrides: Any) -> None:
    values = {
        "occurred_on": "today", "provider": "mailgun", "event_key": "delivered:1", "source": "provider",
        "kind": "delivered", "evidence": Jsonb({}), "raw": b"{}",
    } | overrides  # fmt: skip
    await conn.execute(
        sql.SQL("INSERT INTO store.inbound_events ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Placeholder, values))
        ),
        values,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "pending", "due_at": None},
        {"state": "parked", "due_at": None},
        {"state": "applied", "due_at": "now"},
        {"state": "unmatched", "due_at": None, "reason": None},
    ],
)
async def test_i9_a_providers_event_waits_with_a_due_time_or_has_ended(conn, wrong):
    with pytest.raises(errors.CheckViolation):
        async with conn.transaction():
            await make_inbound(conn, **wrong)


# -- I10: delivered only with evidence about this very delivery ------------------------------------------


async def evidence(conn: AsyncConnection, d: Any, **overrides: Any) -> Any:
    facts = {"kind": "provider_delivered", "source": "provider", "attempt_no": 1} | overrides
    return (await make_event(conn, d, **facts)).id


async def claim_delivered(conn: AsyncConnection, d: Any, evidence_id: Any) -> None:
    ending = {
        "state": "delivered",
        "reason": "confirmed",
        "due_at": None,
        "ended_at": "now",
        "delivered_at": "now",
    }
    await change(conn, "deliveries", d.id, evidence_id=evidence_id, **ending)


async def test_i10_evidence_about_this_delivery_makes_it_delivered(conn):
    for source in ("provider", "lookup", "device"):
        d = await make_delivery(conn, state="sent")
        await claim_delivered(conn, d, await evidence(conn, d, source=source))


@pytest.mark.parametrize(
    "forged",
    [
        {"source": "landed"},
        {"source": "operator"},
        {"kind": "provider_accepted"},
        {"kind": "attempt_accepted"},
        {"attempt_no": None},
        {"delivery_id": uuid4()},
        {"delivery_id": None},
    ],
)
async def test_i10_nothing_else_makes_it_delivered(conn, forged):
    d = await make_delivery(conn, state="sent")
    event_id = await evidence(conn, d, **forged)
    with pytest.raises(errors.CheckViolation) as caught:
        async with conn.transaction():
            await claim_delivered(conn, d, event_id)
    assert caught.value.diag.constraint_name == "deliveries_proven"


@pytest.mark.parametrize("evidence_id", [None, uuid4()])
async def test_i10_evidence_that_is_not_there_proves_nothing(conn, evidence_id):
    d = await make_delivery(conn, state="sent")
    with pytest.raises(errors.CheckViolation):
        async with conn.transaction():
            await claim_delivered(conn, d, evidence_id)


async def test_i10_evidence_of_another_notification_proves_nothing(conn):
    d, other = await make_delivery(conn, state="sent"), await make_delivery(conn, state="sent")
    event_id = await evidence(conn, other)
    with pytest.raises(errors.CheckViolation):
        async with conn.transaction():
            await claim_delivered(conn, d, event_id)


async def test_i10_a_delivered_row_cannot_lose_or_swap_its_evidence(conn):
    d = await make_delivery(conn, state="delivered")
    for evidence_id in (None, uuid4(), await evidence(conn, d, kind="provider_opened")):
        with pytest.raises(errors.CheckViolation):
            async with conn.transaction():
                await change(conn, "deliveries", d.id, evidence_id=evidence_id)


async def test_i10_a_delivery_cannot_be_born_delivered_without_evidence(conn):
    with pytest.raises(errors.CheckViolation):
        async with conn.transaction():
            await make_delivery(conn, state="delivered", evidence_id=uuid4())


# -- I16: the same fact once -----------------------------------------------------------------------------


async def test_i16_the_same_providers_fact_is_stored_once(conn):
    await make_inbound(conn)
    with pytest.raises(errors.UniqueViolation):
        async with conn.transaction():
            await make_inbound(conn, kind="bounced", raw=b"other bytes")
    await make_inbound(conn, provider="other")
    await make_inbound(conn, event_key="delivered:2")


async def test_i16_a_token_carries_one_event(conn):
    statement = "INSERT INTO store.webhook_tokens (provider, token, event_key) VALUES ('mailgun', 't', %s)"
    await conn.execute(statement, ("a",))
    await attack(conn, errors.UniqueViolation, statement, "b")


# -- I15: one key, one answer ----------------------------------------------------------------------------


async def test_i15_a_key_is_held_once_per_tenant(conn):
    tenant, other = await make_tenant(conn), await make_tenant(conn)
    statement = (
        "INSERT INTO store.idempotency_keys"
        " (tenant_id, key, fingerprint, notification_id, response_status, response, expires_at)"
        " VALUES (%s, 'k', '', gen_random_uuid(), 202, '', now() + interval '1 day')"
    )
    await conn.execute(statement, (tenant.id,))
    await attack(conn, errors.UniqueViolation, statement, tenant.id)
    await conn.execute(statement, (other.id,))


# -- I17: what happened stays ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE store.events SET kind = 'nothing' WHERE id = %s",
        "UPDATE store.events SET data = '{}', occurred_at = now() WHERE id = %s",
        "DELETE FROM store.events WHERE id = %s",
    ],
)
async def test_i17_an_event_cannot_be_changed_or_deleted_even_by_a_superuser(conn, statement):
    event = await make_event(conn, await make_delivery(conn))
    error = await attack(conn, errors.RestrictViolation, statement, event.id)
    assert "append-only" in str(error)


async def test_i17_the_service_has_no_right_to_try(conn):
    event = await make_event(conn, await make_delivery(conn))
    await conn.execute("SET LOCAL ROLE landed_service")
    for statement in (
        "UPDATE store.events SET kind = 'nothing' WHERE id = %s",
        "DELETE FROM store.events WHERE id = %s",
    ):
        await attack(conn, errors.InsufficientPrivilege, statement, event.id)
    for table in ("events", "audit_log"):
        await attack(conn, errors.InsufficientPrivilege, sql.SQL("TRUNCATE {}").format(sql.Identifier("store", table)))
    await conn.execute("RESET ROLE")


@pytest.mark.parametrize("statement", ["UPDATE store.audit_log SET reason = 'x'", "DELETE FROM store.audit_log"])
async def test_i17_the_audit_log_is_append_only(conn, statement):
    await conn.execute("INSERT INTO store.audit_log (action, target, reason) VALUES ('a', 't', 'r')")
    await attack(conn, errors.RestrictViolation, statement)


# -- I2: the epoch only grows, one region is active ------------------------------------------------------


async def test_i2_an_epoch_never_goes_back(conn):
    await conn.execute("UPDATE store.regions SET epoch = 7")
    error = await attack(conn, errors.CheckViolation, "UPDATE store.regions SET epoch = 6")
    assert "from 7 back to 6" in str(error)
    await attack(conn, errors.CheckViolation, "UPDATE store.regions SET epoch = 0")
    await conn.execute("UPDATE store.regions SET epoch = 8")


async def test_i2_two_regions_cannot_be_active(conn):
    await attack(conn, errors.UniqueViolation, "INSERT INTO store.regions (name, active) VALUES ('elsewhere', true)")
    await conn.execute("INSERT INTO store.regions (name) VALUES ('elsewhere')")
    await attack(conn, errors.UniqueViolation, "UPDATE store.regions SET active = true")


# -- Templates never change ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["draft", "published", "archived"])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("subject", "other"),
        ("html", None),
        ("text", "other"),
        ("variables", "{}"),
        ("version", 9),
        ("locale", "de"),
    ],
)
async def test_a_template_version_cannot_be_changed(conn, status, column, value):
    t = await make_template(conn, tenant_id=(await make_tenant(conn)).id, status=status)
    statement = sql.SQL("UPDATE store.templates SET {} = %s WHERE template_id = %s").format(sql.Identifier(column))
    error = await attack(conn, errors.RestrictViolation, statement, value, t.template_id)
    assert "immutable" in str(error)


@pytest.mark.parametrize(
    ("before", "after"), [("published", "draft"), ("archived", "draft"), ("archived", "published")]
)
async def test_a_templates_status_only_moves_forward(conn, before, after):
    t = await make_template(conn, tenant_id=(await make_tenant(conn)).id, status=before)
    await attack(
        conn,
        errors.RestrictViolation,
        "UPDATE store.templates SET status = %s, archived_at = NULL WHERE template_id = %s",
        after,
        t.template_id,
    )


async def test_what_was_published_cannot_be_deleted_and_a_draft_can(conn):
    tenant = await make_tenant(conn)
    for status in ("published", "archived"):
        t = await make_template(conn, tenant_id=tenant.id, status=status)
        await attack(
            conn,
            errors.RestrictViolation,
            "DELETE FROM store.templates WHERE template_id = %s",
            t.template_id,
        )
    draft = await make_template(conn, tenant_id=tenant.id, status="draft")
    await conn.execute("DELETE FROM store.templates WHERE template_id = %s", (draft.template_id,))


# -- Rows are where their ids say ------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["notifications", "deliveries"])
async def test_a_row_cannot_be_on_another_shard_than_its_id_says(conn, table):
    d = await make_delivery(conn)
    id = d.notification_id if table == "notifications" else d.id
    with pytest.raises(errors.CheckViolation):
        async with conn.transaction():
            await change(conn, table, id, shard=(d.shard + 1) % 64)


async def test_two_active_suppressions_of_one_address_cannot_be(conn):
    tenant = await make_tenant(conn)
    statement = (
        "INSERT INTO store.suppressions (tenant_id, channel, address, reason, source)"
        " VALUES (%s, 'email', %s, 'manual', 'operator')"
    )
    await conn.execute(statement, (tenant.id, "jo@example.com"))
    await attack(conn, errors.UniqueViolation, statement, tenant.id, "jo@example.com")
    await attack(conn, errors.CheckViolation, statement, tenant.id, "Jo@Example.com")


@pytest.mark.parametrize(
    ("table", "column"),
    [("tenants", "sender"), ("tenants", "reply_to"), ("recipients", "email"), ("recipients", "phone")],
)
async def test_a_line_break_cannot_be_stored_where_a_header_is_made_from(conn, table, column):
    n = await make_notification(conn)
    statement = sql.SQL("UPDATE {} SET {} = %s WHERE {} = %s").format(
        sql.Identifier("store", table),
        sql.Identifier(column),
        sql.Identifier("id" if table == "tenants" else "tenant_id"),
    )
    for break_ in ("\n", "\r"):
        await attack(conn, errors.CheckViolation, statement, f"a{break_}Bcc: b@example.com", n.tenant_id)
