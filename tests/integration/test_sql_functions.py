"""Schema landed, as producers and operators meet it: through their roles, in their own transactions."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import AsyncConnection, errors, sql
from psycopg.types.json import Jsonb

from app.api.schemas import SendRequest
from tests.factories import (
    make_attempt,
    make_category,
    make_delivery,
    make_notification,
    make_recipient,
    make_suppression,
    make_template,
    make_tenant,
)
from tests.looking import row as one
from tests.looking import rows as fetch
from tests.sql_caller import acting_as, audited, call, refused, second_of_two

WHY = "ticket 4711"


async def delivery_of(conn: AsyncConnection, delivery_id: UUID) -> SimpleNamespace:
    row = await one(
        conn,
        "SELECT * FROM store.deliveries WHERE shard = store.shard_of(%s) AND id = %s",
        *[delivery_id] * 2,
    )
    return SimpleNamespace(**row)


async def notification_of(conn: AsyncConnection, notification_id: UUID) -> SimpleNamespace:
    row = await one(
        conn,
        "SELECT * FROM store.notifications WHERE shard = store.shard_of(%s) AND id = %s",
        *[notification_id] * 2,
    )
    return SimpleNamespace(**row)


async def kinds_of(conn: AsyncConnection, notification_id: UUID) -> list[str]:
    rows = await fetch(conn, "SELECT kind FROM store.events WHERE notification_id = %s ORDER BY id", notification_id)
    return [row["kind"] for row in rows]


@pytest.fixture
async def shop(conn: AsyncConnection) -> SimpleNamespace:
    return await make_shop(conn)


async def make_shop(conn: AsyncConnection) -> SimpleNamespace:
    """A tenant that is ready to send: a recipient, a category and a published template."""
    tenant = await make_tenant(conn)
    recipient = await make_recipient(conn, tenant_id=tenant.id)
    category = await make_category(conn, tenant_id=tenant.id)
    template = await make_template(conn, tenant_id=tenant.id)
    request = {
        "tenant": tenant.name,
        "recipient_id": recipient.id,
        "template_id": template.template_id,
        "category": category.name,
        "variables": Jsonb({"order_id": "A-1"}),
    }
    return SimpleNamespace(tenant=tenant, recipient=recipient, category=category, template=template, request=request)


async def send(conn: AsyncConnection, shop: SimpleNamespace, **overrides: Any) -> UUID:
    (row,) = await call(conn, "send", **shop.request | overrides)
    return row["send"]


# -- who may do what -------------------------------------------------------------------------------------

OPERATORS_FUNCTIONS = {
    "cancel", "hold", "release", "replay", "resolve", "suppress", "unsuppress", "explain", "timeline",
    "rendered", "replay_endpoint", "price", "drain_provider", "restore_provider", "set_route_capability",
}  # fmt: skip


@pytest.mark.parametrize(
    ("role", "functions"),
    [("landed_producer", {"send"}), ("landed_operator", OPERATORS_FUNCTIONS), ("landed_reporter", set())],
)
async def test_each_role_may_execute_its_functions_and_no_others(conn, role, functions):
    rows = await fetch(
        conn,
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'landed'::regnamespace"
        " AND has_function_privilege(%s, oid, 'EXECUTE')",
        role,
    )
    assert {row["proname"] for row in rows} == functions


async def test_the_service_may_execute_every_function(conn):
    closed = await fetch(
        conn,
        "SELECT proname FROM pg_proc WHERE pronamespace = 'landed'::regnamespace"
        " AND NOT has_function_privilege('landed_service', oid, 'EXECUTE')",
    )
    assert closed == []


async def test_functions_that_act_for_others_fix_their_search_path(conn):
    loose = await fetch(
        conn,
        "SELECT proname FROM pg_proc WHERE pronamespace = 'landed'::regnamespace AND prosecdef"
        " AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)",
    )
    assert loose == []


async def test_every_function_says_what_it_is_for(conn):
    silent = await fetch(
        conn,
        "SELECT proname FROM pg_proc"
        " WHERE pronamespace IN ('landed'::regnamespace, 'reporting'::regnamespace)"
        " AND obj_description(oid, 'pg_proc') IS NULL",
    )
    assert silent == []


@pytest.mark.parametrize("role", ["landed_producer", "landed_operator", "landed_reporter"])
async def test_nobody_but_the_service_reaches_the_tables(conn, role):
    async with acting_as(conn, role):
        async with refused(conn, errors.InsufficientPrivilege):
            await conn.execute("SELECT * FROM store.recipients")
        async with refused(conn, errors.InsufficientPrivilege):
            await conn.execute("SELECT * FROM landed.accept('[]')")


# -- send ------------------------------------------------------------------------------------------------


async def test_a_send_exists_for_others_when_the_caller_commits_and_never_did_when_it_rolls_back(dsn):
    async with await AsyncConnection.connect(dsn) as producer, await AsyncConnection.connect(dsn) as other:
        shop = await make_shop(producer)
        await producer.commit()
        await send(producer, shop)
        assert await fetch(other, "SELECT FROM store.notifications") == []
        await producer.rollback()
        assert await fetch(other, "SELECT FROM store.notifications") == []
        sent = await send(producer, shop)
        await producer.commit()
        assert (await one(other, "SELECT id FROM store.notifications"))["id"] == sent


async def test_a_send_is_stored_as_the_api_would_store_it(conn, shop):
    sent = await notification_of(conn, await send(conn, shop))
    assert sent.request == {
        "recipient_id": shop.recipient.id,
        "category": shop.category.name,
        "template_id": shop.template.template_id,
        "variables": {"order_id": "A-1"},
    }
    assert (sent.state, sent.source, sent.channels, sent.template_version) == (
        "accepted",
        "sql",
        ["email"],
        1,
    )
    assert vars(sent)["class"] == "transactional"


async def test_a_producer_sends_for_its_tenant(conn, shop):
    async with acting_as(conn) as role:
        await conn.execute("RESET SESSION AUTHORIZATION")
        await call(conn, "grant_producer", role=role, tenant=shop.tenant.name)
        await conn.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
        sent = await send(conn, shop)
    assert (await notification_of(conn, sent)).tenant_id == shop.tenant.id


async def test_a_producer_cannot_send_for_another_tenant_nor_learn_that_it_exists(conn, shop):
    other = await make_shop(conn)
    async with acting_as(conn, "landed_producer") as role:
        await conn.execute("RESET SESSION AUTHORIZATION")
        await call(conn, "grant_producer", role=role, tenant=shop.tenant.name)
        await conn.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
        async with refused(conn, errors.InsufficientPrivilege) as foreign:
            await send(conn, other)
        async with refused(conn, errors.InsufficientPrivilege) as missing:
            await send(conn, other, tenant="no-such-tenant")
    assert foreign.field == missing.field == "tenant"
    assert foreign.message == missing.message


async def test_set_role_does_not_help_a_producer_to_another_tenant(conn, shop):
    """The session's user counts, not the role it has set."""
    async with acting_as(conn, "landed_producer"):
        await conn.execute("SET ROLE landed_producer")
        async with refused(conn, errors.InsufficientPrivilege):
            await send(conn, shop)
        await conn.execute("RESET ROLE")


async def test_a_producer_whose_grant_was_revoked_cannot_send(conn, shop):
    async with acting_as(conn) as role:
        await conn.execute("RESET SESSION AUTHORIZATION")
        await call(conn, "grant_producer", role=role, tenant=shop.tenant.name)
        assert await call(conn, "revoke_producer", role=role, tenant=shop.tenant.name) == [{"revoke_producer": True}]
        assert await call(conn, "revoke_producer", role=role, tenant=shop.tenant.name) == [{"revoke_producer": False}]
        await conn.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
        async with refused(conn, errors.InsufficientPrivilege):
            await send(conn, shop)


async def test_an_operator_who_may_send_sends_for_any_tenant(conn, shop):
    other = await make_shop(conn)
    async with acting_as(conn, "landed_operator", "landed_producer"):
        assert await send(conn, shop) != await send(conn, other)
        async with refused(conn, errors.NoDataFound) as unknown:
            await send(conn, shop, tenant="no-such-tenant")
    assert unknown.field == "tenant"


async def test_a_temporary_object_cannot_stand_in_for_what_send_names(conn, shop):
    async with acting_as(conn, "landed_operator", "landed_producer"):
        await conn.execute("CREATE TEMP TABLE categories (name text)")
        await conn.execute(
            "CREATE FUNCTION pg_temp.pg_has_role(name, text, text) RETURNS boolean LANGUAGE sql RETURN false"
        )
        await conn.execute("SET search_path = pg_temp, pg_catalog")
        await send(conn, shop)
        await conn.execute("RESET search_path")


LATER = datetime.now(UTC) + timedelta(hours=2)
WRONG_FIELDS = [
    ({"recipient_id": None}, "recipient_id", "is required"),
    ({"recipient_id": "nobody"}, "recipient_id", "there is no recipient 'nobody'"),
    ({"recipient_id": "jo\r\nBcc: x@example.com"}, "recipient_id", "control characters"),
    ({"recipient_id": "x" * 201}, "recipient_id", "more than 200 characters"),
    ({"template_id": "missing"}, "template_id", "there is no template 'missing'"),
    ({"template_id": "welcome\n"}, "template_id", "control characters"),
    ({"template_version": 9}, "template_version", "version 9"),
    ({"category": None}, "category", "is required"),
    ({"category": "missing"}, "category", "there is no category 'missing'"),
    ({"category": "a\rb"}, "category", "control characters"),
    ({"idempotency_key": ""}, "idempotency_key", "is required"),
    ({"idempotency_key": "k" * 256}, "idempotency_key", "more than 255 characters"),
    ({"idempotency_key": "a\nb"}, "idempotency_key", "control characters"),
    ({"idempotency_key": "bestellung-№-7"}, "idempotency_key", "beyond printable ASCII"),
    ({"channels": []}, "channels", "must name channels"),
    ({"channels": ["pigeon"]}, "channels", "must name channels"),
    ({"channels": ["email", "email"]}, "channels", "must name channels"),
    ({"channels": ["sms"]}, "channels", "has no content for sms"),
    ({"variables": None}, "variables", "must be a JSON object"),
    ({"variables": Jsonb(["order_id"])}, "variables", "must be a JSON object"),
    ({"variables": Jsonb({})}, "variables", "missing: order_id"),
    ({"variables": Jsonb({"order_id": 1, "oops": 2})}, "variables", "unknown: oops"),
    ({"variables": Jsonb({"oops": 2})}, "variables", "missing: order_id; unknown: oops"),
    ({"variables": Jsonb({"order_id": "x" * 300_000})}, "variables", "more than 262144 bytes"),
    ({"send_at": LATER + timedelta(days=25)}, "send_at", "too far ahead"),
    ({"expires_at": LATER - timedelta(days=1)}, "expires_at", "in the future"),
    ({"send_at": LATER, "expires_at": LATER}, "expires_at", "after send_at"),
    ({"expires_at": LATER + timedelta(days=1)}, "expires_at", "too late"),
]


@pytest.mark.parametrize(("wrong", "field", "words"), WRONG_FIELDS)
async def test_a_wrong_field_is_named_and_nothing_is_accepted(conn, shop, wrong, field, words):
    async with refused(conn, errors.InvalidParameterValue) as error:
        await send(conn, shop, **wrong)
    assert error.field == field
    assert error.message.startswith(f"{field}: ")
    assert words in error.message
    assert error.detail
    assert error.hint
    assert await fetch(conn, "SELECT FROM store.notifications WHERE tenant_id = %s", shop.tenant.id) == []


@pytest.mark.parametrize("status", ["draft", "archived"])
async def test_a_template_that_is_not_published_is_refused_by_its_status(conn, shop, status):
    template = await make_template(conn, tenant_id=shop.tenant.id, status=status)
    async with refused(conn, errors.InvalidParameterValue) as error:
        await send(conn, shop, template_id=template.template_id)
    assert error.field == "template_id"
    assert f"is not published: it is {status}" in error.message


async def test_the_newest_published_version_is_taken_and_fixed(conn, shop):
    for version, status in ((2, "published"), (3, "draft")):
        await make_template(
            conn,
            tenant_id=shop.tenant.id,
            template_id=shop.template.template_id,
            version=version,
            status=status,
        )
    assert (await notification_of(conn, await send(conn, shop))).template_version == 2
    assert (await notification_of(conn, await send(conn, shop, template_version=1))).template_version == 1


async def test_an_inactive_recipient_is_refused(conn, shop):
    recipient = await make_recipient(conn, tenant_id=shop.tenant.id, active=False)
    async with refused(conn, errors.InvalidParameterValue) as error:
        await send(conn, shop, recipient_id=recipient.id)
    assert error.field == "recipient_id"
    assert "inactive" in error.message


async def test_it_expires_a_day_after_it_is_due_or_when_its_category_says(conn, shop):
    sent = await notification_of(conn, await send(conn, shop, send_at=LATER))
    assert (sent.due_at, sent.expires_at) == (LATER, LATER + timedelta(days=1))
    brief = await make_category(conn, tenant_id=shop.tenant.id, validity_seconds=600)
    sent = await notification_of(conn, await send(conn, shop, send_at=LATER, category=brief.name))
    assert sent.expires_at == LATER + timedelta(minutes=10)
    sent = await notification_of(conn, await send(conn, shop, expires_at=LATER))
    assert sent.expires_at == LATER


async def test_a_send_time_gone_by_means_now(conn, shop):
    sent = await notification_of(conn, await send(conn, shop, send_at=LATER - timedelta(days=3)))
    assert sent.due_at == sent.accepted_at
    assert sent.expires_at == sent.accepted_at + timedelta(days=1)


async def test_the_same_key_and_request_is_one_notification(conn, shop):
    first = await send(conn, shop, idempotency_key="order-1")
    assert await send(conn, shop, idempotency_key="order-1") == first
    assert await send(conn, shop, idempotency_key="order-2") != first
    assert len(await fetch(conn, "SELECT FROM store.notifications WHERE tenant_id = %s", shop.tenant.id)) == 2


async def test_a_key_is_answered_again_after_what_it_needs_is_gone(conn, shop):
    first = await send(conn, shop, idempotency_key="order-1")
    await conn.execute("UPDATE store.recipients SET active = false WHERE tenant_id = %s", (shop.tenant.id,))
    await conn.execute(
        "UPDATE store.templates SET status = 'archived', archived_at = now() WHERE tenant_id = %s",
        (shop.tenant.id,),
    )
    assert await send(conn, shop, idempotency_key="order-1") == first


async def test_one_and_one_point_nought_are_two_requests_and_the_difference_is_named(conn, shop):
    await send(conn, shop, idempotency_key="k", variables=Jsonb({"order_id": 1}))
    async with refused(conn, errors.UniqueViolation) as error:
        await send(conn, shop, idempotency_key="k", variables=Jsonb({"order_id": 1.0}))
    assert "Different now: variables.order_id." in error.detail


async def test_a_key_belongs_to_its_tenant(conn, shop):
    other = await make_shop(conn)
    assert await send(conn, shop, idempotency_key="k") != await send(conn, other, idempotency_key="k")


async def test_the_same_key_with_another_request_names_the_first_and_the_difference(conn, shop):
    first = await send(conn, shop, idempotency_key="order-1")
    async with refused(conn, errors.UniqueViolation) as error:
        await send(
            conn,
            shop,
            idempotency_key="order-1",
            variables=Jsonb({"order_id": "A-2", "note": "hi"}),
            channels=["email"],
        )
    assert error.field == "idempotency_key"
    assert str(first) in error.detail
    assert "channels, variables.note, variables.order_id" in error.detail


async def test_a_key_that_came_by_rest_is_replayed_by_sql(conn, shop):
    variables = {"order_id": "Ä-1", "note": None}
    expires_at = LATER + timedelta(hours=1)
    body = {
        "recipient_id": shop.recipient.id,
        "template_id": shop.template.template_id,
        "category": shop.category.name,
        "variables": variables,
        "channels": ["email"],
        "template_version": 1,
        "send_at": LATER.astimezone(timezone(timedelta(hours=5))).isoformat(),
        "expires_at": expires_at.isoformat(),
    }
    stored = SendRequest.model_validate_json(json.dumps(body)).wanted().stored()
    item = {
        "ordinal": 0, "tenant_id": shop.tenant.id, "idempotency_key": "shared",
        "recipient_id": shop.recipient.id, "category": shop.category.name,
        "class": "transactional", "channels": ["email"],
        "template_id": shop.template.template_id, "template_version": 1, "request": stored, "source": "api",
        "expires_at": expires_at.isoformat(),
    }  # fmt: skip
    (by_rest,) = await call(conn, "accept", items=Jsonb([item]))
    by_sql = await send(
        conn,
        shop,
        idempotency_key="shared",
        variables=Jsonb(variables),
        channels=["email"],
        template_version=1,
        send_at=LATER,
        expires_at=expires_at,
    )
    assert by_sql == by_rest["notification_id"]


async def test_a_send_wakes_the_intake_at_commit_only_when_told_to(dsn):
    async with (
        await AsyncConnection.connect(dsn) as producer,
        await AsyncConnection.connect(dsn, autocommit=True) as listener,
    ):
        shop = await make_shop(producer)
        await producer.commit()
        await listener.execute("LISTEN landed_wake")
        await send(producer, shop)
        await producer.commit()
        await send(producer, shop, wake=True)
        await producer.commit()
        heard = [n.payload async for n in listener.notifies(stop_after=1)]
        assert heard == ["intake"]
        assert [n async for n in listener.notifies(timeout=0)] == []


async def test_two_producers_with_one_key_make_one_notification(dsn):
    async with await AsyncConnection.connect(dsn) as first, await AsyncConnection.connect(dsn) as second:
        shop = await make_shop(first)
        await first.commit()
        won = await send(first, shop, idempotency_key="k")
        assert await second_of_two(dsn, first, second, send(second, shop, idempotency_key="k")) == won


# -- cancel ----------------------------------------------------------------------------------------------


async def test_cancelling_before_planning_ends_the_notification(conn):
    n = await make_notification(conn)
    (row,) = await call(conn, "cancel", notification_id=n.id, reason=WHY)
    assert row["cancelled"]
    after = await notification_of(conn, n.id)
    assert (after.state, after.reason, after.due_at) == ("cancelled", "cancelled", None)
    assert await kinds_of(conn, n.id) == ["cancelled"]
    assert (await audited(conn, "cancel"))[-1]["reason"] == WHY


async def test_cancelling_stops_what_waits_and_says_what_cannot_be_called_back(conn):
    n = await make_notification(conn, state="planned")
    made = {
        state: await make_delivery(conn, notification=n, state=state)
        for state in ("queued", "sending", "ambiguous", "sent", "delivered")
    }
    rows = {row["delivery_id"]: row for row in await call(conn, "cancel", notification_id=n.id, reason=WHY)}
    assert {state: rows[d.id]["cancelled"] for state, d in made.items()} == {
        "queued": True, "sending": False, "ambiguous": False, "sent": False, "delivered": False,
    }  # fmt: skip
    assert "under way" in rows[made["sending"].id]["explanation"]
    assert "may have been sent" in rows[made["ambiguous"].id]["explanation"]
    assert "accepted it" in rows[made["sent"].id]["explanation"]
    assert "delivered" in rows[made["delivered"].id]["explanation"]
    after = await delivery_of(conn, made["queued"].id)
    assert (after.state, after.reason, after.due_at) == ("cancelled", "cancelled", None)
    assert await kinds_of(conn, n.id) == ["provider_delivered", "cancelled"]


async def test_cancelling_twice_changes_nothing_more(conn):
    d = await make_delivery(conn)
    await call(conn, "cancel", notification_id=d.notification_id, reason=WHY)
    (row,) = await call(conn, "cancel", notification_id=d.notification_id, reason=WHY)
    assert (row["cancelled"], row["state"]) == (False, "cancelled")


async def test_cancelling_waits_for_the_intake_and_cancels_what_it_planned(dsn):
    async with await AsyncConnection.connect(dsn) as intake, await AsyncConnection.connect(dsn) as operator:
        n = await make_notification(intake)
        await intake.commit()
        await intake.execute(
            "UPDATE store.notifications SET state = 'planned', planned_at = now(), due_at = NULL, trace = '[]'"
        )
        d = await make_delivery(intake, notification=n)
        cancelling = call(operator, "cancel", notification_id=n.id, reason=WHY)
        (row,) = await second_of_two(dsn, intake, operator, cancelling)
        assert (row["delivery_id"], row["cancelled"]) == (d.id, True)


async def test_another_tenants_notification_is_not_there(conn, shop):
    n = await make_notification(conn)
    for function in ("cancel", "hold", "release"):
        async with refused(conn, errors.NoDataFound) as error:
            await call(conn, function, notification_id=n.id, reason=WHY, tenant=shop.tenant.name)
        assert error.field == "notification_id"
    for function in ("explain", "timeline"):
        async with refused(conn, errors.NoDataFound):
            await call(conn, function, notification_id=n.id, tenant=shop.tenant.name)


@pytest.mark.parametrize("function", ["cancel", "hold", "release"])
async def test_acting_needs_a_reason_and_a_notification(conn, function):
    n = await make_notification(conn)
    async with refused(conn, errors.InvalidParameterValue) as error:
        await call(conn, function, notification_id=n.id, reason=" ")
    assert error.field == "reason"
    async with refused(conn, errors.NoDataFound):
        await call(conn, function, notification_id=uuid4(), reason=WHY)


async def test_operators_act_and_are_named_in_the_audit(conn):
    n = await make_notification(conn)
    async with acting_as(conn, "landed_operator") as role:
        await call(conn, "cancel", notification_id=n.id, reason=WHY)
    assert (await audited(conn, "cancel"))[-1]["actor"] == role


async def test_only_the_service_may_say_for_whom_it_acts(conn):
    for group, named in (("landed_service", True), ("landed_operator", False)):
        n = await make_notification(conn)
        async with acting_as(conn, group) as role:
            await conn.execute("SET LOCAL landed.actor = 'api key demo'")
            await call(conn, "cancel", notification_id=n.id, reason=WHY)
        assert (await audited(conn, "cancel"))[-1]["actor"] == ("api key demo" if named else role)


# -- hold and release ------------------------------------------------------------------------------------


async def test_a_hold_keeps_an_accepted_notification_until_then_and_a_release_lets_it_go(conn):
    n = await make_notification(conn)
    until = datetime.now(UTC) + timedelta(hours=1)
    (row,) = await call(conn, "hold", notification_id=n.id, reason=WHY, until=until)
    assert (row["held"], row["due_at"]) == (True, until)
    after = await notification_of(conn, n.id)
    assert (after.state, after.reason, after.due_at) == ("accepted", "held", until)
    (row,) = await call(conn, "release", notification_id=n.id, reason=WHY)
    assert row["released"]
    after = await notification_of(conn, n.id)
    assert (after.reason, after.due_at <= datetime.now(UTC)) == (None, True)
    assert await kinds_of(conn, n.id) == ["held", "released_hold"]


async def test_a_hold_keeps_what_waits_and_leaves_the_rest(conn):
    n = await make_notification(conn, state="planned")
    waiting = await make_delivery(conn, notification=n, failures=2, reason="retry")
    sent = await make_delivery(conn, notification=n, state="sent")
    rows = {row["delivery_id"]: row for row in await call(conn, "hold", notification_id=n.id, reason=WHY)}
    assert (rows[waiting.id]["held"], rows[sent.id]["held"]) == (True, False)
    assert (await delivery_of(conn, waiting.id)).reason == "held"
    rows = await call(conn, "release", notification_id=n.id, reason=WHY)
    assert [row["delivery_id"] for row in rows] == [waiting.id]
    assert (await delivery_of(conn, waiting.id)).reason == "retry"
    assert (await delivery_of(conn, sent.id)).state == "sent"


async def test_a_hold_past_expiry_is_due_when_it_expires_and_says_so(conn):
    d = await make_delivery(conn)
    later = datetime.now(UTC) + timedelta(days=30)
    (row,) = await call(conn, "hold", notification_id=d.notification_id, reason=WHY, until=later)
    assert row["due_at"] == d.expires_at
    assert "will not be sent" in row["explanation"]


async def test_a_hold_never_brings_anything_forward_and_a_release_keeps_the_schedule(conn, shop):
    sent = await send(conn, shop, send_at=LATER)
    (row,) = await call(conn, "hold", notification_id=sent, reason=WHY, until=LATER - timedelta(hours=1))
    assert row["due_at"] == LATER
    (row,) = await call(conn, "release", notification_id=sent, reason=WHY)
    assert row["due_at"] == LATER


async def test_a_hold_must_end_in_the_future(conn):
    n = await make_notification(conn)
    for until in (None, datetime.now(UTC) - timedelta(minutes=1)):
        async with refused(conn, errors.InvalidParameterValue) as error:
            await call(conn, "hold", notification_id=n.id, reason=WHY, until=until)
        assert error.field == "until"


async def test_releasing_what_is_not_held_does_nothing_and_says_so(conn):
    d = await make_delivery(conn)
    (row,) = await call(conn, "release", notification_id=d.notification_id, reason=WHY)
    assert not row["released"]
    n = await make_notification(conn)
    (row,) = await call(conn, "release", notification_id=n.id, reason=WHY)
    assert not row["released"]


# -- replay ----------------------------------------------------------------------------------------------


async def replay_one(conn: AsyncConnection, d: SimpleNamespace, **arguments: Any) -> SimpleNamespace:
    (row,) = await call(conn, "replay", delivery_id=d.id, **arguments)
    return SimpleNamespace(**row)


@pytest.mark.parametrize(
    ("state", "calm", "forced"),
    [
        ("dead", "would_requeue", "would_requeue"),
        ("expired", "would_requeue", "would_requeue"),
        ("delivered", "refused_proven_delivered", "would_send_again"),
        ("bounced", "refused_cannot_prove_not_sent", "would_send_again"),
        ("failed", "refused_cannot_prove_not_sent", "would_send_again"),
        ("unconfirmed", "refused_cannot_prove_not_sent", "would_send_again"),
        ("cancelled", "refused_not_sent_on_purpose", "would_send_again"),
        ("suppressed", "refused_not_sent_on_purpose", "would_send_again"),
        ("queued", "refused_not_ended", "refused_not_ended"),
        ("sending", "refused_not_ended", "refused_not_ended"),
        ("sent", "refused_not_ended", "refused_not_ended"),
        ("ambiguous", "refused_not_ended", "refused_not_ended"),
    ],
)
async def test_a_dry_run_judges_and_changes_nothing(conn, state, calm, forced):
    d = await make_delivery(conn, state=state)
    assert (await replay_one(conn, d)).verdict == calm
    judged = await replay_one(conn, d, force=True)
    assert judged.verdict == forced
    assert judged.explanation
    assert await delivery_of(conn, d.id) == d
    assert await audited(conn, "replay") == []


@pytest.mark.parametrize(
    ("channel", "verdict"), [("email", "refused_cannot_prove_not_sent"), ("webhook", "would_requeue")]
)
async def test_what_got_no_answer_starts_over_only_where_the_receiver_knows_a_copy(conn, channel, verdict):
    d = await make_delivery(conn, state="dead", channel=channel, attempt=False, attempt_no=1)
    await make_attempt(conn, d, state="unanswered", outcome="transient")
    assert (await replay_one(conn, d)).verdict == verdict


async def test_a_dead_letter_starts_over_on_its_own_row_with_a_fresh_budget(conn):
    d = await make_delivery(conn, state="dead", failures=5, expires_at=datetime.now(UTC) - timedelta(hours=1))
    row = await replay_one(conn, d, commit=True, reason=WHY)
    assert (row.verdict, row.replayed_as) == ("requeued", d.id)
    after = await delivery_of(conn, d.id)
    assert (after.state, after.reason, after.failures, after.ended_at) == ("queued", "replay", 0, None)
    assert after.attempt_no == d.attempt_no
    assert after.expires_at - after.due_at == timedelta(days=1)
    assert await kinds_of(conn, d.notification_id) == ["replayed"]
    (entry,) = await audited(conn, "replay")
    assert (entry["reason"], entry["target"]) == (WHY, f"delivery {d.id}")


async def test_a_forced_replay_is_a_new_delivery_and_the_old_one_stays_as_it_ended(conn):
    d = await make_delivery(conn, state="delivered")
    row = await replay_one(conn, d, commit=True, force=True, reason=WHY)
    assert row.verdict == "sent_again"
    assert await delivery_of(conn, d.id) == d
    again = await delivery_of(conn, row.replayed_as)
    assert (again.replay_of, again.state, again.attempt_no, again.evidence_id) == (d.id, "queued", 0, None)
    assert (again.notification_id, again.address) == (d.notification_id, d.address)


async def test_what_is_replayed_already_is_not_replayed_again(conn):
    d = await make_delivery(conn, state="unconfirmed")
    await replay_one(conn, d, commit=True, force=True, reason=WHY)
    assert (await replay_one(conn, d, commit=True, force=True, reason=WHY)).verdict == "refused_already_replayed"


@pytest.mark.parametrize("scope", ["all", "category"])
async def test_a_suppressed_address_is_refused_even_by_force(conn, scope):
    d = await make_delivery(conn, state="dead", address="Jo@Example.com")
    await make_suppression(
        conn,
        tenant_id=d.tenant_id,
        address="jo@example.com",
        scope=d.category if scope == "category" else scope,
    )
    for force in (False, True):
        assert (await replay_one(conn, d, commit=True, force=force, reason=WHY)).verdict == "refused_suppressed"


async def test_without_an_address_there_is_nothing_to_replay(conn):
    d = await make_delivery(conn, state="failed", attempt=False, attempt_no=0, address="", reason="no_address")
    assert (await replay_one(conn, d, force=True)).verdict == "refused_no_address"


async def test_an_attempt_without_a_record_proves_nothing(conn):
    d = await make_delivery(conn, state="dead", attempt=False)
    assert (await replay_one(conn, d)).verdict == "refused_cannot_prove_not_sent"


@pytest.mark.parametrize("unsettled", ["ambiguous", "accepted", "duplicate"])
async def test_a_dead_letter_with_one_attempt_that_may_have_been_accepted_is_refused(conn, unsettled):
    d = await make_delivery(conn, state="dead", attempt_no=2, attempt=False)
    await make_attempt(conn, d, no=1, state=unsettled, outcome="unknown")
    await make_attempt(conn, d, no=2, state="refused", outcome="transient")
    assert (await replay_one(conn, d)).verdict == "refused_cannot_prove_not_sent"


async def test_what_is_not_known_is_refused(conn, shop):
    d = await make_delivery(conn, state="dead")
    assert (await replay_one(conn, d, tenant=shop.tenant.name)).verdict == "refused_unknown"
    (row,) = await call(conn, "replay", delivery_id=uuid4())
    assert row["verdict"] == "refused_unknown"


async def test_a_filter_takes_what_matches_and_no_more(conn):
    tenant = await make_tenant(conn)
    wanted = await make_delivery(conn, tenant_id=tenant.id, state="dead")
    await make_delivery(conn, tenant_id=tenant.id, state="dead", provider="other")
    await make_delivery(conn, tenant_id=tenant.id, state="expired")
    await make_delivery(conn, state="dead")

    async def found(**filters: Any) -> set[UUID]:
        return {row["delivery"] for row in await call(conn, "replay", tenant=tenant.name, **filters)}

    assert len(await found()) == 2
    assert len(await found(max_rows=1)) == 1
    assert await found(provider="mailgun") == {wanted.id}
    assert await found(template_id=wanted.template_id) == {wanted.id}
    assert await found(category=wanted.category) == {wanted.id}
    assert len(await found(state="expired")) == 1
    assert await found(since=datetime.now(UTC) + timedelta(minutes=1)) == set()
    assert await found(until=datetime.now(UTC) - timedelta(minutes=1)) == set()
    assert len(await found(since=datetime.now(UTC) - timedelta(hours=1), until=LATER)) == 2


async def test_a_filter_replays_each_that_may_be_and_refuses_the_rest(conn):
    tenant = await make_tenant(conn)
    good = await make_delivery(conn, tenant_id=tenant.id, state="dead")
    bad = await make_delivery(conn, tenant_id=tenant.id, state="dead", attempt=False)
    rows = {
        row["delivery"]: row["verdict"]
        for row in await call(conn, "replay", tenant=tenant.name, commit=True, reason=WHY)
    }
    assert rows == {good.id: "requeued", bad.id: "refused_cannot_prove_not_sent"}
    assert (await delivery_of(conn, bad.id)).state == "dead"


async def test_two_replays_at_once_requeue_once(dsn):
    async with await AsyncConnection.connect(dsn) as first, await AsyncConnection.connect(dsn) as second:
        d = await make_delivery(first, state="dead")
        await first.commit()
        assert (await replay_one(first, d, commit=True, reason=WHY)).verdict == "requeued"
        late = await second_of_two(dsn, first, second, replay_one(second, d, commit=True, reason=WHY))
        assert late.verdict == "refused_not_ended"


async def test_two_forced_replays_at_once_send_again_once(dsn):
    async with await AsyncConnection.connect(dsn) as first, await AsyncConnection.connect(dsn) as second:
        d = await make_delivery(first, state="unconfirmed")
        await first.commit()
        forced = {"commit": True, "force": True, "reason": WHY}
        assert (await replay_one(first, d, **forced)).verdict == "sent_again"
        late = await second_of_two(dsn, first, second, replay_one(second, d, **forced))
        assert late.verdict == "refused_already_replayed"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"commit": True}, "reason"),
        ({"commit": True, "reason": WHY}, "delivery_id"),
        ({"commit": True, "reason": WHY, "delivery_id": None}, "delivery_id"),
        ({"state": "queued"}, "state"),
        ({"state": None}, "state"),
        ({"max_rows": 0}, "max_rows"),
        ({"max_rows": 100_000}, "max_rows"),
        ({"expires_at": LATER - timedelta(days=1)}, "expires_at"),
        ({"expires_at": LATER + timedelta(days=9)}, "expires_at"),
    ],
)
async def test_a_replay_that_makes_no_sense_is_refused(conn, wrong, field):
    async with refused(conn, errors.InvalidParameterValue) as error:
        await call(conn, "replay", **wrong)
    assert error.field == field


# -- suppress and unsuppress -----------------------------------------------------------------------------


async def test_suppressing_is_by_normal_form_and_idempotent(conn, shop):
    tenant = shop.tenant.name
    (first,) = await call(conn, "suppress", tenant=tenant, channel="email", address=" Jo@Example.com", reason_text=WHY)
    (second,) = await call(conn, "suppress", tenant=tenant, channel="email", address="jo@example.com", reason_text=WHY)
    assert first == second
    row = await one(conn, "SELECT * FROM store.suppressions WHERE id = %s", first["suppress"])
    assert (row["address"], row["reason"], row["source"], row["scope"]) == (
        "jo@example.com", "manual", "operator", "all",
    )  # fmt: skip
    assert len(await audited(conn, "suppress")) == 1


async def test_lifting_keeps_the_record_forgets_the_bounces_and_allows_a_new_one(conn, shop):
    address = {
        "tenant": shop.tenant.name,
        "channel": "email",
        "address": "jo@example.com",
        "reason_text": WHY,
    }
    (first,) = await call(conn, "suppress", **address)
    await conn.execute(
        "INSERT INTO store.soft_bounces VALUES (%s, 'email', 'jo@example.com', 4, now(), now())",
        (shop.tenant.id,),
    )
    assert await call(conn, "unsuppress", **address) == [{"unsuppress": True}]
    assert await call(conn, "unsuppress", **address) == [{"unsuppress": False}]
    row = await one(conn, "SELECT * FROM store.suppressions WHERE id = %s", first["suppress"])
    assert (row["lift_reason"], row["lifted_by"]) == (WHY, "postgres")
    assert await fetch(conn, "SELECT FROM store.soft_bounces WHERE tenant_id = %s", shop.tenant.id) == []
    (again,) = await call(conn, "suppress", **address)
    assert again != first


async def test_suppressing_waits_for_the_claims_that_look_at_the_address(dsn):
    async with await AsyncConnection.connect(dsn) as claim, await AsyncConnection.connect(dsn) as operator:
        tenant = await make_tenant(claim)
        await claim.commit()
        await claim.execute(
            "SELECT pg_advisory_xact_lock_shared(11, store.address_bucket(%s, 'email', 'jo@example.com'))",
            (tenant.id,),
        )
        suppressing = call(
            operator,
            "suppress",
            tenant=tenant.name,
            channel="email",
            address="JO@example.com",
            reason_text=WHY,
        )
        assert await second_of_two(dsn, claim, operator, suppressing)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"address": ""}, "address"),
        ({"address": "jo"}, "address"),
        ({"address": "jo@example.com\nx"}, "address"),
        ({"channel": "pigeon"}, "channel"),
        ({"scope": "no-such-category"}, "scope"),
        ({"scope": None}, "scope"),
        ({"reason_text": ""}, "reason"),
    ],
)
async def test_a_suppression_that_would_protect_nobody_is_refused(conn, shop, wrong, field):
    asked = {"tenant": shop.tenant.name, "channel": "email", "address": "jo@example.com", "reason_text": WHY}
    async with refused(conn, errors.InvalidParameterValue) as error:
        await call(conn, "suppress", **asked | wrong)
    assert error.field == field


# -- resolve ---------------------------------------------------------------------------------------------


async def make_ambiguous(conn: AsyncConnection, *, minutes_ago: int) -> SimpleNamespace:
    d = await make_delivery(conn, state="ambiguous", attempt=False)
    opened = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    await make_attempt(conn, d, state="ambiguous", outcome="unknown", opened_at=opened)
    return d


async def test_an_operator_who_found_it_sent_makes_it_wait_for_proof(conn):
    d = await make_ambiguous(conn, minutes_ago=10)
    assert await call(conn, "resolve", delivery_id=d.id, verdict="sent", reason=WHY) == [{"resolve": "sent"}]
    after = await delivery_of(conn, d.id)
    assert (after.state, after.reason, after.due_at <= datetime.now(UTC)) == ("sent", None, True)
    attempt = await one(conn, "SELECT * FROM store.attempts WHERE delivery_id = %s", d.id)
    assert (attempt["state"], attempt["closed_at"] is not None) == ("accepted", True)
    assert await kinds_of(conn, d.notification_id) == ["resolved_found"]


async def test_an_operator_who_found_it_was_not_sent_lets_a_new_attempt_open(conn):
    d = await make_ambiguous(conn, minutes_ago=10)
    assert await call(conn, "resolve", delivery_id=d.id, verdict="not_sent", reason=WHY) == [{"resolve": "queued"}]
    assert (await delivery_of(conn, d.id)).state == "queued"
    await make_attempt(conn, d, no=2)  # the index on open attempts would refuse it
    assert await kinds_of(conn, d.notification_id) == ["resolved_not_sent"]
    assert (await audited(conn, "resolve"))[-1]["data"]["verdict"] == "not_sent"


async def test_a_call_that_may_still_be_under_way_cannot_be_called_not_sent(conn):
    d = await make_ambiguous(conn, minutes_ago=1)
    async with refused(conn, errors.ObjectNotInPrerequisiteState) as error:
        await call(conn, "resolve", delivery_id=d.id, verdict="not_sent", reason=WHY)
    assert "Try again after" in error.hint
    assert (await delivery_of(conn, d.id)).state == "ambiguous"


@pytest.mark.parametrize("state", ["queued", "sending", "sent", "delivered", "dead", "unconfirmed"])
async def test_only_an_unknown_outcome_can_be_resolved(conn, state):
    d = await make_delivery(conn, state=state)
    async with refused(conn, errors.ObjectNotInPrerequisiteState) as error:
        await call(conn, "resolve", delivery_id=d.id, verdict="sent", reason=WHY)
    assert state in error.message


async def test_a_verdict_is_sent_or_not_sent(conn):
    d = await make_ambiguous(conn, minutes_ago=10)
    for verdict in ("delivered", None):
        async with refused(conn, errors.InvalidParameterValue) as error:
            await call(conn, "resolve", delivery_id=d.id, verdict=verdict, reason=WHY)
        assert error.field == "verdict"


# -- explain, timeline, rendered -------------------------------------------------------------------------

ALL_STATES = [
    "queued", "sending", "sent", "ambiguous", "delivered", "bounced", "failed", "unconfirmed", "suppressed",
    "cancelled", "expired", "dead",
]  # fmt: skip


@pytest.mark.parametrize("state", ALL_STATES)
async def test_explain_gives_the_trace_and_then_each_delivery_in_words(conn, state):
    d = await make_delivery(conn, state=state)
    head, rule, delivery = await call(conn, "explain", notification_id=d.notification_id)
    assert (head["rule"], head["verdict"]) == ("notification", "planned")
    assert (rule["rule"], rule["input"], rule["verdict"]) == ("recipient", True, "ok")
    assert delivery["delivery_id"] == d.id
    assert delivery["verdict"].startswith(state)
    assert delivery["explanation"]


async def test_explain_says_why_something_waits(conn):
    n = await make_notification(conn)
    await call(conn, "hold", notification_id=n.id, reason=WHY)
    (row,) = await call(conn, "explain", notification_id=n.id)
    assert "held by an operator" in row["explanation"]
    d = await make_delivery(conn, failures=2, reason="retry", provider="mailgun")
    delivery = (await call(conn, "explain", notification_id=d.notification_id))[-1]
    assert "retry after failure 2" in delivery["explanation"]


async def test_the_timeline_tells_births_and_events_in_order(dsn):
    """Each step in a transaction of its own, as it happens: within one, all times are the same."""
    async with await AsyncConnection.connect(dsn, autocommit=True) as conn:
        n = await make_notification(conn)
        await conn.execute(
            "UPDATE store.notifications SET state = 'planned', planned_at = now(), due_at = NULL, trace = '[]'"
        )
        d = await make_delivery(conn, notification=n)
        await make_attempt(conn, d, state="refused", outcome="transient")
        await call(conn, "hold", notification_id=n.id, reason=WHY)
        await call(conn, "cancel", notification_id=n.id, reason=WHY)
        rows = await call(conn, "timeline", notification_id=n.id)
        assert [row["kind"] for row in rows] == ["accepted", "planned", "attempt_opened", "held", "cancelled"]
        assert [row["source"] for row in rows] == ["landed"] * 3 + ["operator"] * 2
        assert {row["delivery_id"] for row in rows} == {None, d.id}
        assert rows[2]["attempt_no"] == 1


async def test_rendered_tells_what_the_accepted_attempt_was_made_from(conn):
    d = await make_delivery(conn, attempt_no=2)
    await make_attempt(conn, d, no=1, state="accepted", outcome="accepted", content_hash=b"\x01" * 32)
    await make_attempt(conn, d, no=2, state="refused", outcome="transient", content_hash=b"\x02" * 32)
    (row,) = await call(conn, "rendered", delivery_id=d.id)
    assert (row["attempt_no"], row["content_hash"]) == (1, b"\x01" * 32)
    assert (row["template_id"], row["template_version"]) == (d.template_id, 1)
    assert (row["variables"], row["address"]) == ({"order_id": "A-1"}, d.address)


# -- the documentation ---------------------------------------------------------------------------------------

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "sql.md"


async def test_the_reference_gives_every_public_function_with_its_arguments(conn):
    rows = await fetch(
        conn,
        "SELECT proname, proargnames[:pronargs] AS arguments FROM pg_proc"
        " WHERE pronamespace = 'landed'::regnamespace AND proname NOT LIKE '\\_%%' AND proname <> 'accept'",
    )
    documented = {
        name: [line.split()[0] for line in arguments.split(",") if line.split()]
        for name, arguments in re.findall(
            r"^landed\.(\w+)\((.*?)\)(?:$|\n| RETURNS)",
            "\n".join(re.findall(r"```sql\n(.*?)```", REFERENCE.read_text(), flags=re.S)),
            flags=re.M | re.S,
        )
    }
    assert documented == {row["proname"]: row["arguments"] for row in rows}
