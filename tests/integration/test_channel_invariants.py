"""What the database itself guards of the channels, attacked with raw SQL: code may be wrong for a day, rows are not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from psycopg import AsyncConnection, errors
from psycopg.types.json import Jsonb

from app.api.schemas import SendRequest, parse
from app.errors import InvalidFields
from app.flows.accept import Rules, validate
from app.store import config, upkeep
from tests.factories import (
    make_category,
    make_delivery,
    make_event,
    make_recipient,
    make_suppression,
    make_template,
    make_tenant,
)

NOW = datetime.now(UTC)
VERSIONS = Path(__file__).parents[2] / "sql" / "migrations" / "versions"


async def attack(conn: AsyncConnection, error: type[psycopg.Error], statement: Any, *parameters: Any) -> None:
    """The statement must be refused with this error; the transaction goes on."""
    with pytest.raises(error):
        async with conn.transaction():
            await conn.execute(statement, parameters)


async def rows(conn: AsyncConnection, statement: Any, *parameters: Any) -> list[Any]:
    return await (await conn.execute(statement, parameters)).fetchall()


async def insert(conn: AsyncConnection, table: str, **values: Any) -> Any:
    """Inserts one row as it is given; answers its id, where it has one."""
    columns = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    statement = f"INSERT INTO store.{table} AS t ({columns}) VALUES ({places}) RETURNING to_jsonb(t) ->> 'id'"
    parameters = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in values.items()}
    row = await (await conn.execute(statement, parameters)).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return row[0]


# -- consents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    ["UPDATE store.consents SET action = 'opt_in'", "DELETE FROM store.consents", "TRUNCATE store.consents"],
)
async def test_what_somebody_said_is_never_unsaid(conn, statement):
    said = {"channel": "sms", "address": "+4915112345678", "action": "opt_out", "source": "recipient"}
    await insert(conn, "consents", **said, occurred_at="now")
    if not statement.startswith("TRUNCATE"):
        await attack(conn, errors.RestrictViolation, statement)
    await conn.execute("SET LOCAL ROLE landed_service")
    await attack(conn, errors.InsufficientPrivilege, statement)


@pytest.mark.parametrize("wrong", [{"action": "maybe"}, {"source": "rumour"}, {"occurred_at": None}])
async def test_a_consent_says_what_was_said_and_by_whom(conn, wrong):
    said = {"channel": "sms", "address": "+4915112345678", "action": "opt_out", "source": "recipient"}
    with pytest.raises((errors.CheckViolation, errors.NotNullViolation)):
        async with conn.transaction():
            await insert(conn, "consents", **{**said, "occurred_at": "now"} | wrong)


# -- suppressions --------------------------------------------------------------------------------------------------


async def test_a_stop_stands_beside_a_block_and_each_only_once(conn):
    tenant = await make_tenant(conn)
    of = {"tenant_id": tenant.id, "channel": "sms", "address": "+4915112345678"}
    for reason in ("manual", "opted_out"):
        await make_suppression(conn, **of, reason=reason)
    for reason in ("manual", "hard_bounce", "opted_out"):
        with pytest.raises(errors.UniqueViolation):
            async with conn.transaction():
                await make_suppression(conn, **of, reason=reason)


@pytest.mark.parametrize(
    ("channel", "address"),
    [
        ("sms", "+49 1511 2345678"),
        ("sms", "+49-1511-2345678"),
        ("sms", ""),
        ("webhook", "A1B2C3D4-0000-7000-8000-000000000000"),
        ("chat", " a1b2c3d4-0000-7000-8000-000000000000"),
        ("push", "A1B2C3D4-0000-7000-8000-000000000000"),
    ],
)
async def test_an_address_has_one_spelling(conn, channel, address):
    tenant = await make_tenant(conn)
    with pytest.raises(errors.CheckViolation):
        async with conn.transaction():
            await make_suppression(conn, tenant_id=tenant.id, channel=channel, address=address)


async def test_a_recipients_own_name_keeps_its_letters(conn):
    """In-app, the address is the recipient's id, and Ada is not ada."""
    tenant = await make_tenant(conn)
    for address in ("Ada", "ada"):
        await make_suppression(conn, tenant_id=tenant.id, channel="in_app", address=address)


def test_spellings_that_an_older_release_kept_are_brought_into_one(empty_dsn):
    """Of two suppressions that turn out to be one the first stands, and both keep what they were for."""
    number = "+4915112345678"
    with psycopg.connect(empty_dsn, autocommit=True) as old:
        old.execute((VERSIONS / "0002_store.sql").read_bytes())
        old.execute(
            "INSERT INTO store.tenants (name, sender) VALUES ('shop', 's@example.com'), ('cafe', 'c@example.com')"
        )
        for tenant, address in ((1, "+49 1511 2345678"), (1, number), (1, "+49-1511-2345678"), (2, "+49 1511 2345678")):
            old.execute(
                "INSERT INTO store.suppressions (tenant_id, channel, address, reason, source)"
                " VALUES (%s, 'sms', %s, 'manual', 'operator')",
                (tenant, address),
            )
        old.execute("INSERT INTO store.soft_bounces VALUES (1, 'sms', '+49 1511 2345678', 1, now(), now())")
        old.execute((VERSIONS / "0003_channels.sql").read_bytes())
        found = old.execute(
            "SELECT tenant_id, address, lifted_at IS NULL FROM store.suppressions ORDER BY tenant_id, lifted_at IS NULL"
        ).fetchall()
    assert found == [(1, number, False), (1, number, False), (1, number, True), (2, number, True)]


# -- devices -------------------------------------------------------------------------------------------------------


async def device(conn: AsyncConnection, tenant: Any, recipient: str = "ada", **changes: Any) -> Any:
    values = {"tenant_id": tenant.id, "recipient_id": recipient, "platform": "android", "token": "token"} | changes
    return await insert(conn, "devices", **values)


@pytest.fixture
async def tenant(conn):
    tenant = await make_tenant(conn)
    for person in ("ada", "bo"):
        await make_recipient(conn, tenant_id=tenant.id, id=person)
    return tenant


async def test_a_live_token_is_one_recipients_only(conn, tenant):
    first = await device(conn, tenant)
    with pytest.raises(errors.UniqueViolation):
        async with conn.transaction():
            await device(conn, tenant, "bo")
    await conn.execute("UPDATE store.devices SET retired_at = now(), retired_reason = 'moved' WHERE id = %s", [first])
    await device(conn, tenant, "bo")
    other = await make_tenant(conn)
    await make_recipient(conn, tenant_id=other.id, id="ada")
    await device(conn, other)


async def test_a_device_has_one_live_token(conn, tenant):
    await device(conn, tenant, device_key="tablet")
    with pytest.raises(errors.UniqueViolation):
        async with conn.transaction():
            await device(conn, tenant, token="another", device_key="tablet")


@pytest.mark.parametrize(
    "wrong",
    [
        {"platform": "fridge"},
        {"environment": "staging"},
        {"token": ""},
        {"token": "two lines\r\nX: y"},
        {"token": "t" * 2049},
        {"platform": "web"},
        {"p256dh": "a", "auth": "b"},
        {"retired_at": "now"},
        {"retired_reason": "gone"},
        {"device_key": ""},
    ],
    ids=str,
)
async def test_a_device_that_nothing_could_be_sent_to_cannot_be(conn, tenant, wrong):
    with pytest.raises(errors.CheckViolation):
        async with conn.transaction():
            await device(conn, tenant, **wrong)


async def test_a_token_that_died_is_not_kept_for_ever(conn, tenant):
    for age in (1, 100):
        await device(conn, tenant, token=f"dead-{age}", retired_at=NOW - timedelta(days=age), retired_reason="moved")
    await device(conn, tenant, created_at=NOW - timedelta(days=1000), registered_at=NOW - timedelta(days=1000))
    assert await upkeep.purge_devices(conn, limit=10, keep_seconds=35 * 86400) == 1
    assert await rows(conn, "SELECT token FROM store.devices ORDER BY token") == [("dead-1",), ("token",)]


async def test_a_device_is_somebodys(conn, tenant):
    with pytest.raises(errors.ForeignKeyViolation):
        async with conn.transaction():
            await device(conn, tenant, "nobody")
    await device(conn, tenant)
    await conn.execute("DELETE FROM store.recipients WHERE id = 'ada'")
    assert await rows(conn, "SELECT FROM store.devices") == []


# -- inboxes -------------------------------------------------------------------------------------------------------


async def item(conn: AsyncConnection, tenant: Any, **changes: Any) -> None:
    values = {
        "tenant_id": tenant.id,
        "recipient_id": "ada",
        "id": uuid4(),
        "attempt_no": 1,
        "notification_id": uuid4(),
        "category": "news",
        "title": "t",
        "body": "b",
        "arrival": 1,
        "version": 1,
    } | changes
    await insert(conn, "inbox_items", **values)


async def test_no_two_changes_of_an_inbox_have_one_version_and_no_delivery_is_there_twice(conn, tenant):
    await insert(conn, "inboxes", tenant_id=tenant.id, recipient_id="ada")
    id = uuid4()
    await item(conn, tenant, id=id)
    for again in ({"version": 2}, {"arrival": 2}, {"id": id, "arrival": 2, "version": 2}):
        with pytest.raises(errors.UniqueViolation):
            async with conn.transaction():
                await item(conn, tenant, **again)
    await item(conn, tenant, arrival=2, version=2)


@pytest.mark.parametrize("counter", ["unread", "unseen"])
async def test_nobody_has_read_more_than_there_is(conn, tenant, counter):
    await insert(conn, "inboxes", tenant_id=tenant.id, recipient_id="ada")
    await attack(conn, errors.CheckViolation, f"UPDATE store.inboxes SET {counter} = -1")


async def test_an_item_is_in_an_inbox_that_is_there(conn, tenant):
    with pytest.raises(errors.ForeignKeyViolation):
        async with conn.transaction():
            await item(conn, tenant)


# -- endpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://example.com/"},
        {"url": "https://example.com/\r\nX: y"},
        {"url": "https://example.com/ b"},
        {"url": "javascript:alert(1)"},
        {"format": "irc"},
        {"secret": None},
        {"format": "slack"},
        {"status": "disabled"},
        {"status": "disabled", "disabled_at": "now"},
        {"disabled_at": "now", "disabled_reason": "gone"},
        {"previous_secret": "s"},
        {"previous_secret_until": "now"},
        {"owner_email": "a@example.com\r\nBcc: b@example.com"},
        {"name": ""},
    ],
    ids=str,
)
async def test_an_endpoint_that_nothing_could_be_sent_to_cannot_be(conn, tenant, wrong):
    values = {"tenant_id": tenant.id, "name": "orders", "url": "https://example.com/", "secret": "whsec_x"}
    await insert(conn, "endpoints", **values)
    with pytest.raises(errors.CheckViolation):
        async with conn.transaction():
            await insert(conn, "endpoints", **values | wrong)


# -- what a message is made of -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["sms", "webhook"])
@pytest.mark.parametrize(
    "more", [{"subject": "t"}, {"html": "<p>"}, {"extras": {"url": "https://example.com"}}], ids=str
)
async def test_a_text_message_is_its_text(conn, tenant, channel, more):
    plain = {"tenant_id": tenant.id, "channel": channel, "subject": "", "html": None}
    await make_template(conn, **plain)
    with pytest.raises(errors.CheckViolation):
        async with conn.transaction():
            await make_template(conn, **plain | more)


@pytest.mark.parametrize("channel", ["push", "in_app", "chat", "sms", "webhook"])
async def test_no_content_is_without_words(conn, tenant, channel):
    with pytest.raises(errors.CheckViolation):
        async with conn.transaction():
            await make_template(conn, tenant_id=tenant.id, channel=channel, subject="", html=None, text=None)


async def test_the_extras_of_a_version_do_not_change(conn, tenant):
    made = await make_template(
        conn, tenant_id=tenant.id, channel="push", html=None, extras={"url": "https://a.example"}
    )
    await attack(
        conn,
        errors.RestrictViolation,
        "UPDATE store.templates SET extras = '{}' WHERE template_id = %s",
        made.template_id,
    )


@pytest.mark.parametrize("channels", [["fax"], ["email", None], []])
async def test_a_category_goes_by_channels_there_are(conn, tenant, channels):
    with pytest.raises(errors.CheckViolation):
        async with conn.transaction():
            await make_category(conn, tenant_id=tenant.id, channels=channels)


# -- what is told of deliveries ------------------------------------------------------------------------------------


async def listening(conn: AsyncConnection, tenant: Any, **changes: Any) -> Any:
    values = {"tenant_id": tenant.id, "name": "e", "url": "https://example.com/", "secret": "s", "events": ["*"]}
    return await insert(conn, "endpoints", **values | changes)


async def told(conn: AsyncConnection) -> list[str]:
    return [type for (type,) in await rows(conn, "SELECT type FROM store.status_events ORDER BY type")]


DISABLED = {"status": "disabled", "disabled_at": "now", "disabled_reason": "gone"}


@pytest.mark.parametrize("deaf", [DISABLED, {"events": []}], ids=str)
async def test_nothing_is_told_where_nobody_listens(conn, tenant, deaf):
    await listening(conn, tenant, **deaf)
    await listening(conn, await make_tenant(conn))
    delivery = await make_delivery(conn, tenant_id=tenant.id)
    await conn.execute(
        "UPDATE store.deliveries SET state = 'cancelled', reason = 'r', due_at = NULL, ended_at = now() WHERE id = %s",
        [delivery.id],
    )
    assert await told(conn) == []


@pytest.mark.parametrize("channel", ["webhook", "chat"])
async def test_what_is_told_is_not_told_of_itself(conn, tenant, channel):
    await listening(conn, tenant)
    delivery = await make_delivery(conn, tenant_id=tenant.id, channel=channel)
    await conn.execute(
        "UPDATE store.deliveries SET state = 'dead', reason = 'r', due_at = NULL, ended_at = now() WHERE id = %s",
        [delivery.id],
    )
    await make_delivery(conn, tenant_id=tenant.id, channel=channel, state="failed", attempt=False)
    assert await told(conn) == []


async def test_each_end_is_told_whoever_brings_it_about(conn, tenant):
    """Cancelled, expired and refused by a rule: also what no dispatcher ever held."""
    await listening(conn, tenant)
    for state in ("cancelled", "expired", "suppressed", "failed"):
        await make_delivery(conn, tenant_id=tenant.id, state=state, attempt=False)  # ended at its birth
    delivery = await make_delivery(conn, tenant_id=tenant.id)
    await conn.execute("SELECT landed.cancel(%s, 'test')", [delivery.notification_id])
    assert await told(conn) == sorted(
        f"delivery.{s}" for s in ("cancelled", "cancelled", "expired", "failed", "suppressed")
    )


async def test_a_step_that_is_taken_back_is_told_to_nobody(conn, tenant):
    await listening(conn, tenant)
    delivery = await make_delivery(conn, tenant_id=tenant.id, state="sent")
    with pytest.raises(errors.CheckViolation):
        async with conn.transaction():
            await conn.execute("UPDATE store.deliveries SET state = 'failed' WHERE id = %s", [delivery.id])
    assert await told(conn) == []


async def test_evidence_of_another_tenants_delivery_proves_nothing(conn, tenant):
    other = await make_tenant(conn)
    await make_recipient(conn, tenant_id=other.id, id="ada")
    own = await make_delivery(conn, tenant_id=tenant.id, state="sent", channel="push")
    foreign = await make_delivery(conn, tenant_id=other.id, state="sent", channel="push")
    event = await make_event(conn, foreign, kind="provider_delivered", source="device", attempt_no=1)
    await attack(
        conn,
        errors.CheckViolation,
        "UPDATE store.deliveries SET state = 'delivered', reason = 'confirmed', due_at = NULL, ended_at = now(),"
        " delivered_at = now(), evidence_id = %s WHERE id = %s",
        event.id,
        own.id,
    )


# -- SQL and REST keep the same rules ------------------------------------------------------------------------------

CONTENTS = {
    "email": {"subject": "s", "html": None},
    "sms": {"subject": "", "html": None},
    "push": {"subject": "s", "html": None},
    "in_app": {"subject": "s", "html": None},
    "webhook": {"subject": "", "html": None},
    "chat": {"subject": "s", "html": None},
}
HAS = [("webhook",), ("chat",), ("email",), ("push", "in_app"), tuple(CONTENTS)]
WISHES = [
    None,
    ["webhook"],
    ["chat"],
    ["push", "in_app"],
    ["webhook", "chat"],
    ["sms", "sms"],
    ["email", "webhook"],
    ["fax"],
    [],
]
VARIABLES = [{}, {"order_id": 1}, {"order_id": 1, "note": "n"}, {"order_id": 1, "stranger": 1}]


@pytest.mark.parametrize("usual", [["email"], ["chat", "webhook"], ["push", "sms"]], ids=" ".join)
@pytest.mark.parametrize("has", HAS, ids=" ".join)
async def test_what_sql_takes_rest_takes_and_what_it_refuses_for_the_same_field(conn, tenant, has, usual):
    category = await make_category(conn, tenant_id=tenant.id, channels=usual)
    for channel in has:
        await make_template(conn, tenant_id=tenant.id, template_id="words", channel=channel, **CONTENTS[channel])
    terms = await config.terms(conn, tenant.id, category.name, "words")
    for wish in WISHES:
        for variables in VARIABLES:
            asked = {"recipient_id": "ada", "category": category.name, "template_id": "words", "variables": variables}
            by_rest = through_rest({**asked, "channels": wish}, tenant, terms)
            by_sql = await through_sql(conn, tenant, {**asked, "channels": wish})
            assert by_sql == by_rest, (wish, variables)


RULES = Rules(channels=frozenset(CONTENTS), validity_max=timedelta(days=1), send_ahead_max=timedelta(days=25))


def through_rest(asked: dict[str, Any], tenant: Any, terms: Any) -> Any:
    """The channels it would go out on, or the fields that are wrong."""
    try:
        body = {name: value for name, value in asked.items() if value is not None}
        wanted = parse(SendRequest, msgspec.json.encode(body)).wanted()
        item = validate(wanted, tenant.id, None, terms, RULES, datetime.now(UTC))
    except InvalidFields as error:
        return {field.field.partition("[")[0].partition(".")[0] for field in error.errors}
    return msgspec.json.decode(item.document)["channels"]


async def through_sql(conn: AsyncConnection, tenant: Any, asked: dict[str, Any]) -> Any:
    try:
        async with conn.transaction():
            [(id,)] = await rows(
                conn,
                "SELECT landed.send(tenant => %s, recipient_id => %s, category => %s, template_id => %s,"
                " variables => %s, channels => %s)",
                tenant.name,
                asked["recipient_id"],
                asked["category"],
                asked["template_id"],
                Jsonb(asked["variables"]),
                asked["channels"],
            )
    except psycopg.Error as error:
        return {error.diag.column_name}
    [(channels,)] = await rows(conn, "SELECT channels FROM store.notifications WHERE id = %s", id)
    return channels
