"""fan_out: what happens to deliveries is told to whoever listens, exactly once each, and never of itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import standardwebhooks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection, errors, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from app.db import Database
from app.domain.models import NotificationClass
from app.flows.apply import apply
from app.flows.dispatch import Lane
from app.flows.fan_out import DISABLED, FILTERS, OWNER_MAIL, STATUS_EVENTS, TEST, WHY, fan_out
from app.flows.intake import intake
from app.providers.guarded import GuardedTransport
from app.rendering.engine import compile_template, render
from app.rendering.pool import RenderPool
from app.rendering.types import RenderLimits, TemplateSource
from app.settings import Choice, Endpoints, Retry, Settings
from app.store import endpoints as store
from app.store.endpoints import EndpointResult
from tests.factories import make_attempt, make_delivery, make_event, make_tenant
from tests.lanes import make_dispatcher
from tests.looking import rows

MAIL = {"adapter": "mailgun", "domain": "mg.example.com", "api_key": "k", "webhook_signing_key": "s"}
SETTINGS = Settings(providers={"mailgun": MAIL}, routes={"email": ("mailgun",)})
WEBHOOK, CHAT = "webhook.transactional.default", "chat.transactional.default"
SECRET, OLD_SECRET = "whsec_" + "A" * 43 + "=", "whsec_" + "B" * 43 + "="
DAY = 86400.0
_numbers = itertools.count(1)


async def make_endpoint(conn: AsyncConnection, tenant_id: int, **overrides: Any) -> Any:
    """An enabled endpoint that listens to everything."""
    values = {
        "tenant_id": tenant_id,
        "name": f"endpoint-{next(_numbers)}",
        "url": "https://merchant.example.com/hooks",
        "events": ["*"],
        "secret": SECRET if overrides.get("format", "standard") == "standard" else None,
    } | overrides
    if values.get("status") == "disabled":
        values = {"disabled_at": datetime.now(UTC), "disabled_reason": "failing"} | values
    statement = sql.SQL("INSERT INTO store.endpoints ({}) VALUES ({}) RETURNING *").format(
        sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Placeholder, values))
    )
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, values)
        return SimpleNamespace(**(await cursor.fetchone() or {}))


async def tell(conn: AsyncConnection, tenant_id: int, type: str = "delivery.delivered", **data: Any) -> UUID:
    (row,) = await rows(
        conn,
        "INSERT INTO store.status_events (tenant_id, type, data) VALUES (%s, %s, %s) RETURNING id",
        tenant_id,
        type,
        Jsonb(data),
    )
    return row["id"]


async def born(conn: AsyncConnection) -> list[dict[str, Any]]:
    return await rows(
        conn, "SELECT * FROM store.deliveries WHERE channel IN ('webhook', 'chat') ORDER BY category, address"
    )


# -- what is told --------------------------------------------------------------------------------------------


async def test_an_event_becomes_a_delivery_that_is_due_and_explains_itself(db, seed):
    tenant = await make_tenant(seed)
    endpoint = await make_endpoint(seed, tenant.id)
    before = datetime.now(UTC)
    await tell(seed, tenant.id, "delivery.bounced", reason="hard_bounce")
    assert await fan_out(db, SETTINGS, limit=10) == (1, frozenset({WEBHOOK}))
    (delivery,) = await born(seed)
    assert (delivery["state"], delivery["channel"], delivery["lane"]) == ("queued", "webhook", WEBHOOK)
    assert (delivery["address"], delivery["recipient_id"]) == (str(endpoint.id), f"endpoint:{endpoint.id}")
    assert (delivery["category"], delivery["class"]) == ("delivery.bounced", "transactional")
    assert (delivery["template_id"], delivery["template_version"]) == ("landed.status", 0)
    assert delivery["due_at"] <= datetime.now(UTC)
    span = timedelta(seconds=SETTINGS.endpoints.span_seconds)
    assert before + span <= delivery["expires_at"] <= datetime.now(UTC) + span
    (notification,) = await rows(seed, "SELECT * FROM store.notifications")
    assert notification["id"] == delivery["notification_id"]
    assert (notification["state"], notification["channels"]) == ("planned", ["webhook"])
    assert notification["request"]["variables"] == {"reason": "hard_bounce"}
    assert {"rule": "endpoint.events", "input": ["*"], "verdict": "delivery.bounced"} in notification["trace"]
    assert await rows(seed, "SELECT * FROM store.status_events") == []
    assert await fan_out(db, SETTINGS, limit=10) == (0, frozenset())


async def test_it_keeps_the_time_of_what_happened(db, seed):
    tenant = await make_tenant(seed)
    await make_endpoint(seed, tenant.id)
    (told,) = await rows(
        seed,
        "INSERT INTO store.status_events (tenant_id, type, data, occurred_at)"
        " VALUES (%s, 'delivery.sent', '{}', now() - interval '1 hour') RETURNING occurred_at",
        tenant.id,
    )
    await fan_out(db, SETTINGS, limit=10)
    (notification,) = await rows(seed, "SELECT accepted_at FROM store.notifications")
    assert notification["accepted_at"] == told["occurred_at"]


@pytest.mark.parametrize("format", ["slack", "discord", "teams"])
async def test_a_chat_room_is_told_on_its_own_channel(db, seed, format):
    tenant = await make_tenant(seed)
    await make_endpoint(seed, tenant.id, format=format)
    await tell(seed, tenant.id)
    assert await fan_out(db, SETTINGS, limit=10) == (1, frozenset({CHAT}))
    (delivery,) = await born(seed)
    assert (delivery["channel"], delivery["lane"]) == ("chat", CHAT)
    (notification,) = await rows(seed, "SELECT channels FROM store.notifications")
    assert notification["channels"] == ["chat"]


async def test_everyone_who_listens_is_told_and_nobody_else(db, seed):
    tenant, other = await make_tenant(seed), await make_tenant(seed)
    listening = [
        await make_endpoint(seed, tenant.id, events=filters)
        for filters in (["*"], ["delivery.*"], ["delivery.delivered"], ["delivery.sent", "delivery.delivered"])
    ]
    for filters in ([], ["delivery.sent"], ["endpoint.*"], ["delivery"], ["delivery.deliver*"]):
        await make_endpoint(seed, tenant.id, events=filters)
    await make_endpoint(seed, tenant.id, status="disabled")
    await make_endpoint(seed, other.id)
    await tell(seed, tenant.id)
    assert (await fan_out(db, SETTINGS, limit=10))[0] == 1
    assert {delivery["address"] for delivery in await born(seed)} == {str(endpoint.id) for endpoint in listening}
    assert {delivery["tenant_id"] for delivery in await born(seed)} == {tenant.id}


def matches(filters: Iterable[str], event: str) -> bool:
    """The law, in words: a filter is the event, everything, or everything that begins with its first word."""
    return any(f in ("*", event) or (f.endswith(".*") and event.startswith(f[:-1])) for f in filters)


@given(filters=st.lists(st.sampled_from(FILTERS), max_size=4), event=st.sampled_from(STATUS_EVENTS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
async def test_filters_match_by_their_law(conn, filters, event):
    async with conn.transaction(force_rollback=True):
        tenant = await make_tenant(conn)
        await make_endpoint(conn, tenant.id, events=filters)
        await tell(conn, tenant.id, event)
        fanned = await store.fan_out(conn, limit=10, span_seconds=DAY)
        assert (fanned.events, bool(fanned.lanes)) == (1, matches(filters, event))


def test_every_event_can_be_listened_to_alone_by_its_kind_and_with_all_others():
    for event in STATUS_EVENTS:
        assert {event, f"{event.partition('.')[0]}.*", "*"} <= set(FILTERS)
        assert event.count(".") == 1


async def test_a_batch_is_taken_oldest_first_and_the_rest_later(db, seed):
    tenant = await make_tenant(seed)
    await make_endpoint(seed, tenant.id)
    for number in range(5):
        await tell(seed, tenant.id, number=number)
    assert [(await fan_out(db, SETTINGS, limit=2))[0] for _ in range(4)] == [2, 2, 1, 0]
    numbers = await rows(seed, "SELECT request -> 'variables' ->> 'number' AS n FROM store.notifications ORDER BY n")
    assert [row["n"] for row in numbers] == ["0", "1", "2", "3", "4"]


async def test_what_is_not_due_waits(db, seed):
    tenant = await make_tenant(seed)
    await make_endpoint(seed, tenant.id)
    id = await tell(seed, tenant.id)
    await seed.execute("UPDATE store.status_events SET due_at = now() + interval '1 minute' WHERE id = %s", (id,))
    assert await fan_out(db, SETTINGS, limit=10) == (0, frozenset())


async def test_two_at_once_tell_each_event_once(db, seed):
    tenant = await make_tenant(seed)
    await make_endpoint(seed, tenant.id)
    for _ in range(40):
        await tell(seed, tenant.id)
    told = await asyncio.gather(*(fan_out(db, SETTINGS, limit=10) for _ in range(8)))
    while (again := (await fan_out(db, SETTINGS, limit=10))[0]) > 0:
        told.append((again, frozenset()))
    assert sum(events for events, _ in told) == 40
    assert len(await born(seed)) == 40


async def test_an_event_whose_deliveries_cannot_be_written_is_kept(db, seed):
    tenant = await make_tenant(seed)
    await make_endpoint(seed, tenant.id)
    await tell(seed, tenant.id)
    await seed.execute("ALTER TABLE store.deliveries ADD CONSTRAINT refused CHECK (channel <> 'webhook') NOT VALID")
    with pytest.raises(errors.CheckViolation):
        await fan_out(db, SETTINGS, limit=10)
    await seed.execute("ALTER TABLE store.deliveries DROP CONSTRAINT refused")
    assert (await fan_out(db, SETTINGS, limit=10))[0] == 1
    assert len(await born(seed)) == 1


async def test_a_delivery_that_moves_is_told_and_what_is_told_is_not(db, seed):
    """The whole round: a change of state, its event, the delivery of it, and then silence."""
    tenant = await make_tenant(seed)
    await make_endpoint(seed, tenant.id)
    sent = await make_delivery(seed, tenant_id=tenant.id, state="sent")
    await seed.execute(
        "UPDATE store.deliveries SET state = 'bounced', reason = 'hard_bounce', due_at = NULL, ended_at = now(),"
        " bounced_at = now() WHERE shard = %s AND id = %s",
        (sent.shard, sent.id),
    )
    assert await fan_out(db, SETTINGS, limit=10) == (1, frozenset({WEBHOOK}))
    (delivery,) = await born(seed)
    assert delivery["category"] == "delivery.bounced"
    (notification,) = await rows(seed, "SELECT * FROM store.notifications WHERE id = %s", delivery["notification_id"])
    told = notification["request"]["variables"]
    assert (told["delivery_id"], told["channel"], told["reason"]) == (str(sent.id), "email", "hard_bounce")
    await seed.execute(
        "UPDATE store.deliveries SET state = 'dead', reason = 'rejected', due_at = NULL, ended_at = now()"
        " WHERE channel = 'webhook'"
    )
    assert await fan_out(db, SETTINGS, limit=10) == (0, frozenset())


async def test_a_test_reaches_the_endpoint_it_names_whatever_that_listens_to(db, seed):
    tenant, other = await make_tenant(seed), await make_tenant(seed)
    quiet = await make_endpoint(seed, tenant.id, events=[])
    await make_endpoint(seed, tenant.id, events=["*"])
    foreign = await make_endpoint(seed, other.id)
    await tell(seed, tenant.id, TEST, endpoint_id=str(quiet.id), test_id="t")
    await tell(seed, tenant.id, TEST, endpoint_id=str(foreign.id), test_id="t")
    assert (await fan_out(db, SETTINGS, limit=10))[0] == 2
    (delivery,) = await born(seed)
    assert (delivery["address"], delivery["category"]) == (str(quiet.id), TEST)


# -- targets -------------------------------------------------------------------------------------------------


async def test_targets_are_read_with_both_secrets_while_one_is_rotated_out(conn):
    tenant, other = await make_tenant(conn), await make_tenant(conn)
    until = datetime.now(UTC) + timedelta(hours=1)
    rotating = {"previous_secret": OLD_SECRET, "previous_secret_until": until}
    one = await make_endpoint(conn, tenant.id, **rotating)
    over = await make_endpoint(conn, tenant.id, **rotating | {"previous_secret_until": until - timedelta(hours=2)})
    room = await make_endpoint(conn, tenant.id, format="slack", status="disabled")
    foreign = await make_endpoint(conn, other.id)
    ids = [one.id, over.id, room.id, foreign.id, uuid4(), one.id]
    found = await store.targets(conn, [tenant.id] * len(ids), ids)
    assert found.keys() == {one.id, over.id, room.id}
    assert found[one.id].secrets == (SECRET, OLD_SECRET)
    assert found[over.id].secrets == (SECRET,)
    assert (found[room.id].secrets, found[room.id].format, found[room.id].status) == ((), "slack", "disabled")
    assert SECRET not in repr(found)
    assert one.url not in repr(found)


# -- how they fare -------------------------------------------------------------------------------------------


def result(
    endpoint: Any, *, ok: bool = False, gone: bool = False, detail: str = "HTTP 500", wait: float | None = None
) -> EndpointResult:
    return EndpointResult(
        endpoint.tenant_id, endpoint.id, endpoint.url, ok, gone, "HTTP 200" if ok else detail, wait_seconds=wait
    )


async def note(conn: AsyncConnection, *results: EndpointResult) -> list[UUID]:
    return await store.note_outcomes(conn, results, disable_after_seconds=5 * DAY)


async def standing(conn: AsyncConnection, endpoint: Any) -> SimpleNamespace:
    (row,) = await rows(conn, "SELECT * FROM store.endpoints WHERE id = %s", endpoint.id)
    return SimpleNamespace(**row)


async def fail_since(conn: AsyncConnection, endpoint: Any, seconds: float) -> None:
    await conn.execute(
        "UPDATE store.endpoints SET failing_since = now() - make_interval(secs => %s) WHERE id = %s",
        (seconds, endpoint.id),
    )


async def test_failures_are_counted_from_the_first_and_a_success_ends_them(conn):
    endpoint = await make_endpoint(conn, (await make_tenant(conn)).id)
    await note(conn, result(endpoint))
    first = (await standing(conn, endpoint)).failing_since
    assert first is not None
    await fail_since(conn, endpoint, 60)
    await note(conn, result(endpoint, detail="HTTP 503"))
    still = await standing(conn, endpoint)
    assert (still.failing_since, still.last_failure) == (first - timedelta(seconds=60), "HTTP 503")
    await note(conn, result(endpoint, ok=True))
    well = await standing(conn, endpoint)
    assert (well.failing_since, well.status, well.last_failure) == (None, "enabled", "HTTP 503")
    assert well.last_success_at is not None


async def test_one_success_in_a_batch_is_enough(conn):
    endpoint = await make_endpoint(conn, (await make_tenant(conn)).id)
    await fail_since(conn, endpoint, 6 * DAY)
    assert await note(conn, result(endpoint), result(endpoint, ok=True), result(endpoint)) == []
    assert (await standing(conn, endpoint)).failing_since is None


async def test_an_endpoint_that_is_well_is_not_written_for_every_call(conn):
    endpoint = await make_endpoint(conn, (await make_tenant(conn)).id)
    await note(conn, result(endpoint, ok=True))
    (before,) = await rows(conn, "SELECT ctid FROM store.endpoints WHERE id = %s", endpoint.id)
    await note(conn, result(endpoint, ok=True))
    assert await rows(conn, "SELECT ctid FROM store.endpoints WHERE id = %s", endpoint.id) == [before]


@pytest.mark.parametrize(
    ("days", "gone", "reason"), [(6, False, "failing"), (4, False, None), (0, True, "gone"), (6, True, "gone")]
)
async def test_a_410_or_failing_for_too_long_disables_once_and_is_told(conn, days, gone, reason):
    tenant = await make_tenant(conn)
    endpoint = await make_endpoint(conn, tenant.id, name="orders")
    if days:
        await fail_since(conn, endpoint, days * DAY)
    assert await note(conn, result(endpoint, gone=gone, detail="HTTP 410")) == ([endpoint.id] if reason else [])
    assert await note(conn, result(endpoint, gone=gone)) == []
    now = await standing(conn, endpoint)
    assert (now.status, now.disabled_reason) == (("disabled", reason) if reason else ("enabled", None))
    events = await rows(conn, "SELECT * FROM store.status_events WHERE tenant_id = %s", tenant.id)
    audit = await rows(conn, "SELECT * FROM store.audit_log WHERE tenant_id = %s", tenant.id)
    assert [event["type"] for event in events] == ([DISABLED] if reason else [])
    assert [(a["actor"], a["action"], a["target"], a["reason"]) for a in audit] == (
        [("landed", "endpoint_disabled", f"endpoint {endpoint.id}", reason)] if reason else []
    )
    if reason:
        data = events[0]["data"]
        assert (data["endpoint_id"], data["name"], data["reason"]) == (str(endpoint.id), "orders", reason)
        assert data["last_failure"] == "HTTP 410"


async def test_what_was_disabled_by_hand_keeps_its_reason(conn):
    endpoint = await make_endpoint(
        conn, (await make_tenant(conn)).id, status="disabled", disabled_reason="moving house"
    )
    await fail_since(conn, endpoint, 6 * DAY)
    assert await note(conn, result(endpoint, gone=True)) == []
    now = await standing(conn, endpoint)
    assert (now.status, now.disabled_reason, now.disabled_at) == ("disabled", "moving house", endpoint.disabled_at)


async def test_results_of_another_tenant_or_of_nothing_change_nothing(conn):
    endpoint = await make_endpoint(conn, (await make_tenant(conn)).id)
    stranger = EndpointResult(endpoint.tenant_id + 1, endpoint.id, endpoint.url, False, True, "HTTP 410")
    nobody = EndpointResult(endpoint.tenant_id, uuid4(), endpoint.url, False, True, "HTTP 410")
    assert await note(conn, stranger, nobody) == []
    assert (await standing(conn, endpoint)).status == "enabled"


async def test_an_endpoint_that_asks_to_wait_is_left_alone_so_long(conn):
    endpoint = await make_endpoint(conn, (await make_tenant(conn)).id)
    await note(conn, result(endpoint, ok=True), result(endpoint, detail="HTTP 429", wait=3600))
    now = await standing(conn, endpoint)
    assert timedelta(minutes=59) < now.paused_until - now.updated_at <= timedelta(hours=1)
    assert (now.failing_since, now.last_success_at) == (now.updated_at, now.updated_at)

    await note(conn, result(endpoint, ok=True))
    now = await standing(conn, endpoint)
    assert (now.failing_since, now.paused_until) == (None, None)

    await note(conn, result(endpoint, detail="HTTP 503", wait=1))
    now = await standing(conn, endpoint)
    assert now.paused_until - now.updated_at == timedelta(seconds=5), "a failure's own pause is no shorter for it"


async def test_what_an_endpoint_answered_at_its_old_url_says_nothing_of_the_new_one(conn):
    endpoint = await make_endpoint(conn, (await make_tenant(conn)).id)
    await fail_since(conn, endpoint, 6 * DAY)
    settings = {"name": "moved", "events": endpoint.events, "owner_email": None}
    await store.update(conn, endpoint.tenant_id, endpoint.id, url=endpoint.url, **settings)
    assert (await standing(conn, endpoint)).failing_since is not None
    await store.update(conn, endpoint.tenant_id, endpoint.id, url="https://new.example/hook", **settings)

    assert await note(conn, result(endpoint, gone=True, detail="HTTP 410")) == []

    now = await standing(conn, endpoint)
    assert (now.status, now.failing_since, now.paused_until) == ("enabled", None, None)


async def test_two_lanes_that_note_the_same_endpoints_do_not_wait_in_a_circle(db, seed):
    tenant = await make_tenant(seed)
    endpoints = [await make_endpoint(seed, tenant.id) for _ in range(20)]

    async def lane(order: list[Any]) -> None:
        for _ in range(10):
            async with db.transaction() as conn:
                await note(conn, *(result(endpoint) for endpoint in order))

    await asyncio.gather(lane(endpoints), lane(endpoints[::-1]), lane(endpoints[10:] + endpoints[:10]))
    failing = await rows(seed, "SELECT count(*) AS n FROM store.endpoints WHERE failing_since IS NOT NULL")
    assert failing[0]["n"] == 20


# -- telling owners ------------------------------------------------------------------------------------------


async def disable_by_410(db: Database, endpoint: Any) -> None:
    async with db.transaction() as conn:
        assert await note(conn, result(endpoint, gone=True, detail="HTTP 410")) == [endpoint.id]


async def test_the_owner_gets_mail_through_landed_itself_and_the_other_endpoints_an_event(db, seed):
    tenant = await make_tenant(seed)
    endpoint = await make_endpoint(seed, tenant.id, name="orders", owner_email="ops@example.com")
    listener = await make_endpoint(seed, tenant.id, events=[DISABLED])
    await disable_by_410(db, endpoint)
    assert await fan_out(db, SETTINGS, limit=10) == (1, frozenset({WEBHOOK}))
    (delivery,) = await born(seed)
    assert (delivery["address"], delivery["category"]) == (str(listener.id), DISABLED)
    assert await intake(db, SETTINGS, klass=NotificationClass.TRANSACTIONAL, limit=10) == (
        1,
        frozenset({"email.transactional.default"}),
    )
    (mail,) = await rows(seed, "SELECT * FROM store.deliveries WHERE channel = 'email'")
    assert (mail["address"], mail["state"]) == ("ops@example.com", "queued")
    assert (mail["template_id"], mail["category"]) == (OWNER_MAIL.template_id, OWNER_MAIL.category)
    (notification,) = await rows(seed, "SELECT * FROM store.notifications WHERE id = %s", mail["notification_id"])
    variables = notification["request"]["variables"]
    assert variables.keys() == OWNER_MAIL.variables.keys()
    assert variables["why"] == WHY["gone"]
    assert variables["host"] == "merchant.example.com"
    rendered = render_owner_mail(variables)
    assert rendered.subject == "Webhook endpoint orders was disabled"
    assert "Last failure: HTTP 410" in rendered.text
    assert f"/api/v1/endpoints/{endpoint.id}/enable" in rendered.text


def render_owner_mail(variables: dict[str, Any]) -> Any:
    limits = RenderLimits()
    source = TemplateSource("owner", OWNER_MAIL.subject, None, OWNER_MAIL.text)
    return render(compile_template(source, limits), variables, limits)


async def test_the_mail_that_is_kept_is_the_one_that_is_sent(db, seed):
    tenant = await make_tenant(seed)
    await disable_by_410(db, await make_endpoint(seed, tenant.id, owner_email="ops@example.com"))
    await fan_out(db, SETTINGS, limit=10)
    (template,) = await rows(seed, "SELECT * FROM store.templates")
    assert (template["subject"], template["text"], template["status"]) == (
        OWNER_MAIL.subject,
        OWNER_MAIL.text,
        "published",
    )
    assert template["variables"] == json.loads(json.dumps(dict(OWNER_MAIL.variables)))


async def test_every_time_it_is_disabled_the_present_owner_is_told(db, seed):
    tenant = await make_tenant(seed)
    endpoint = await make_endpoint(seed, tenant.id, owner_email="old@example.com")
    for address in ("old@example.com", "new@example.com", "new@example.com"):
        await seed.execute(
            "UPDATE store.endpoints SET owner_email = %s, status = 'enabled', disabled_at = NULL,"
            " disabled_reason = NULL WHERE id = %s",
            (address, endpoint.id),
        )
        await disable_by_410(db, endpoint)
        await fan_out(db, SETTINGS, limit=10)
        await intake(db, SETTINGS, klass=NotificationClass.TRANSACTIONAL, limit=10)
    sent = await rows(seed, "SELECT address FROM store.deliveries WHERE channel = 'email' ORDER BY id")
    assert [row["address"] for row in sent] == ["old@example.com", "new@example.com", "new@example.com"]


async def test_twice_in_one_batch_is_told_twice(db, seed):
    tenant = await make_tenant(seed)
    endpoint = await make_endpoint(seed, tenant.id, owner_email="ops@example.com")
    for _ in range(2):
        await tell(seed, tenant.id, DISABLED, endpoint_id=str(endpoint.id), name="x", reason="failing")
    await fan_out(db, SETTINGS, limit=10)
    (accepted,) = await rows(seed, "SELECT count(*) AS n FROM store.notifications WHERE channels = '{email}'")
    assert accepted["n"] == 2


@pytest.mark.parametrize("owner_email", [None, "ops@example.com"])
async def test_without_an_address_or_a_route_for_email_nothing_is_made_up(db, seed, owner_email):
    tenant = await make_tenant(seed)
    endpoint = await make_endpoint(seed, tenant.id, owner_email=owner_email)
    await disable_by_410(db, endpoint)
    unrouted = SETTINGS.model_copy(update={"routes": {}})
    assert (await fan_out(db, unrouted if owner_email else SETTINGS, limit=10))[0] == 1
    for table in ("notifications", "recipients", "templates", "categories", "status_events"):
        (row,) = await rows(seed, f"SELECT count(*) AS n FROM store.{table}")
        assert row["n"] == 0, table


# -- replays -------------------------------------------------------------------------------------------------


async def make_told(conn: AsyncConnection, endpoint: Any, state: str, **overrides: Any) -> Any:
    """A delivery to an endpoint, as it would have ended in ``state``."""
    channel = "webhook" if endpoint.format == "standard" else "chat"
    return await make_delivery(
        conn,
        tenant_id=endpoint.tenant_id,
        recipient_id=f"endpoint:{endpoint.id}",
        category="delivery.delivered",
        state=state,
        channel=channel,
        lane=f"{channel}.transactional.default",
        address=str(endpoint.id),
        **overrides,
    )


async def replay(conn: AsyncConnection, endpoint_id: UUID, **arguments: Any) -> list[dict[str, Any]]:
    arguments = {"endpoint_id": endpoint_id, "commit": True, "reason": "they asked"} | arguments
    named = sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(a), sql.Placeholder(a)) for a in arguments)
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(sql.SQL("SELECT * FROM landed.replay_endpoint({})").format(named), arguments)
        return await cursor.fetchall()


LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def endpoint(conn: AsyncConnection) -> Any:
    return await make_endpoint(conn, (await make_tenant(conn)).id)


async def test_a_dead_delivery_starts_over_as_itself(conn, endpoint):
    dead = await make_told(conn, endpoint, "dead")
    (row,) = await replay(conn, endpoint.id, delivery_id=dead.id)
    assert (row["verdict"], row["replayed_as"], row["event"]) == ("requeued", dead.id, "delivery.delivered")
    (now,) = await rows(conn, "SELECT * FROM store.deliveries WHERE id = %s", dead.id)
    assert (now["state"], now["failures"], now["replay_of"]) == ("queued", 0, None)
    assert now["expires_at"] > datetime.now(UTC) + timedelta(days=4)


async def test_a_delivered_one_is_sent_again_under_the_id_its_receiver_knows(conn, endpoint):
    original = await make_told(conn, endpoint, "delivered")
    (row,) = await replay(conn, endpoint.id, delivery_id=original.id)
    assert row["verdict"] == "sent_again"
    (again,) = await rows(conn, "SELECT * FROM store.deliveries WHERE id = %s", row["replayed_as"])
    assert (again["replay_of"], again["state"], again["address"]) == (original.id, "queued", str(endpoint.id))
    (refused,) = await replay(conn, endpoint.id, delivery_id=original.id)
    assert refused["verdict"] == "refused_already_replayed"


async def test_a_replay_of_a_replay_is_one_of_the_original(conn, endpoint):
    original = await make_told(conn, endpoint, "unconfirmed")
    (first,) = await replay(conn, endpoint.id, delivery_id=original.id)
    await conn.execute(
        "UPDATE store.deliveries SET state = 'dead', reason = 'rejected', due_at = NULL, ended_at = now()"
        " WHERE id = %s",
        (first["replayed_as"],),
    )
    (second,) = await replay(conn, endpoint.id, delivery_id=first["replayed_as"])
    assert second["delivery"] == original.id
    (again,) = await rows(conn, "SELECT replay_of FROM store.deliveries WHERE id = %s", second["replayed_as"])
    assert again["replay_of"] == original.id


async def test_since_a_time_everything_that_did_not_arrive_is_sent_in_order(conn, endpoint):
    ended = [
        await make_told(conn, endpoint, state) for state in ("dead", "expired", "failed", "unconfirmed", "delivered")
    ]
    for state in ("queued", "sending", "sent", "cancelled", "suppressed"):
        await make_told(conn, endpoint, state)
    other = await make_endpoint(conn, endpoint.tenant_id)
    await make_told(conn, other, "dead")
    dry = await replay(conn, endpoint.id, since=LONG_AGO, commit=False)
    assert [row["verdict"] for row in dry] == ["would_requeue"] * 2 + ["would_send_again"] * 2
    done = await replay(conn, endpoint.id, since=LONG_AGO)
    assert [row["delivery"] for row in done] == [delivery.id for delivery in ended[:4]]
    assert [row["verdict"] for row in done] == ["requeued"] * 2 + ["sent_again"] * 2
    everything = await replay(conn, endpoint.id, since=LONG_AGO, arrived=True)
    assert [row["verdict"] for row in everything] == ["refused_already_replayed"] * 2 + ["sent_again"]


async def test_what_arrived_by_a_replay_is_not_missing_any_more(conn, endpoint):
    original = await make_told(conn, endpoint, "failed")
    again = (await replay(conn, endpoint.id, delivery_id=original.id))[0]["replayed_as"]
    (row,) = await rows(conn, "SELECT * FROM store.deliveries WHERE id = %s", again)
    proof = await make_event(conn, row, kind="provider_delivered", source="provider", attempt_no=1)
    await conn.execute(
        "UPDATE store.deliveries SET state = 'delivered', reason = 'confirmed', due_at = NULL, ended_at = now(),"
        " delivered_at = now(), evidence_id = %s WHERE id = %s",
        (proof.id, again),
    )
    assert await replay(conn, endpoint.id, since=LONG_AGO) == []


async def test_a_time_is_bounded_and_goes_on_behind_the_last(conn, endpoint):
    dead = [await make_told(conn, endpoint, "dead") for _ in range(3)]
    (first, second) = await replay(conn, endpoint.id, since=LONG_AGO, max_rows=2, commit=False)
    assert (first["delivery"], second["delivery"]) == (dead[0].id, dead[1].id)
    (third,) = await replay(conn, endpoint.id, since=LONG_AGO, after=second["delivery"], commit=False)
    assert third["delivery"] == dead[2].id
    assert await replay(conn, endpoint.id, since=LONG_AGO, until=LONG_AGO) == []
    assert await replay(conn, endpoint.id, since=datetime.now(UTC) + timedelta(hours=1)) == []


async def test_a_chat_room_gets_again_only_what_it_surely_did_not_get(conn):
    room = await make_endpoint(conn, (await make_tenant(conn)).id, format="slack")
    refused = await make_told(conn, room, "failed", attempt=False)
    await make_attempt(conn, refused, no=1, state="refused", outcome="recipient_invalid")
    dead, delivered = await make_told(conn, room, "dead"), await make_told(conn, room, "delivered")
    unconfirmed = await make_told(conn, room, "unconfirmed")
    verdicts = {row["delivery"]: row["verdict"] for row in await replay(conn, room.id, since=LONG_AGO, arrived=True)}
    assert verdicts == {
        refused.id: "sent_again",
        dead.id: "requeued",
        delivered.id: "refused_proven_delivered",
        unconfirmed.id: "refused_cannot_prove_not_sent",
    }


async def test_a_replay_is_audited_with_its_reason(conn, endpoint):
    dead = await make_told(conn, endpoint, "dead")
    await replay(conn, endpoint.id, since=LONG_AGO, reason="their database was restored")
    (entry,) = await rows(conn, "SELECT * FROM store.audit_log WHERE action = 'replay'")
    assert (entry["target"], entry["reason"]) == (f"delivery {dead.id}", "their database was restored")
    assert entry["data"]["endpoint_id"] == str(endpoint.id)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "since"),
        ({"since": LONG_AGO, "delivery_id": uuid4()}, "since"),
        ({"since": LONG_AGO, "max_rows": 0}, "max_rows"),
        ({"since": LONG_AGO, "reason": " "}, "reason"),
    ],
)
async def test_a_replay_that_makes_no_sense_names_what_is_wrong(conn, endpoint, arguments, field):
    with pytest.raises(errors.InvalidParameterValue) as wrong:
        await replay(conn, endpoint.id, **arguments)
    assert wrong.value.diag.column_name == field


async def test_nothing_is_replayed_to_a_disabled_endpoint_or_to_another_tenants(conn, endpoint):
    other = await make_tenant(conn)
    dead = await make_told(conn, endpoint, "dead")
    with pytest.raises(psycopg.errors.NoDataFound):
        async with conn.transaction():
            await replay(conn, endpoint.id, since=LONG_AGO, tenant=other.name)
    neighbour = await make_endpoint(conn, endpoint.tenant_id)
    (row,) = await replay(conn, neighbour.id, delivery_id=dead.id)
    assert row["verdict"] == "refused_unknown"
    await conn.execute(
        "UPDATE store.endpoints SET status = 'disabled', disabled_at = now(), disabled_reason = 'x' WHERE id = %s",
        (endpoint.id,),
    )
    with pytest.raises(errors.ObjectNotInPrerequisiteState):
        async with conn.transaction():
            await replay(conn, endpoint.id, since=LONG_AGO)
    assert len(await replay(conn, endpoint.id, since=LONG_AGO, commit=False)) == 1


# -- the whole way, to a merchant's server -------------------------------------------------------------------

QUICK = SETTINGS.model_copy(
    update={"endpoints": Endpoints(allow_loopback=True, ladder=(0.05, 0.05, 0.05)), "retry": Retry(jitter=0)}
)


@contextlib.asynccontextmanager
async def lane_at_work(db: Database, lane: str, account: str) -> AsyncIterator[None]:
    """A dispatcher of this lane; stopped, and waited for, at the end."""
    channel = lane.partition(".")[0]
    async with GuardedTransport(connections_max=10, endpoints=QUICK.endpoints) as transport:
        dispatcher = make_dispatcher(
            Lane(lane, channel, NotificationClass.TRANSACTIONAL, (Choice(provider=account, order=1),)),
            db=db,
            settings=QUICK,
            transport=transport,
            renderer=RenderPool(),  # data needs no words, so it is never started
        )
        running = asyncio.create_task(dispatcher.run())
        try:
            yield
        finally:
            dispatcher.stop()
            await running


async def ended(conn: AsyncConnection, count: int = 1) -> list[dict[str, Any]]:
    """Waits until so many deliveries to endpoints need nothing more than evidence."""
    async with asyncio.timeout(30):
        while True:
            found = [row for row in await born(conn) if row["state"] not in ("queued", "sending")]
            if len(found) == count:
                return found
            await asyncio.sleep(0.02)


def merchant(httpserver: HTTPServer, *statuses: int) -> list[Request]:
    """A merchant who answers so, one after another and the last for ever; and what came."""
    seen: list[Request] = []

    def answer(request: Request) -> Response:
        seen.append(request)
        return Response(status=statuses[min(len(seen), len(statuses)) - 1])

    httpserver.expect_request("/hooks", method="POST").respond_with_handler(answer)
    return seen


async def test_a_merchant_gets_what_verifies_and_its_answer_is_the_proof(db, seed, httpserver):
    seen = merchant(httpserver, 204)
    tenant = await make_tenant(seed)
    endpoint = await make_endpoint(seed, tenant.id, url=httpserver.url_for("/hooks"))
    await tell(seed, tenant.id, "delivery.bounced", reason="hard_bounce")
    await fan_out(db, QUICK, limit=10)
    async with lane_at_work(db, WEBHOOK, "webhooks"):
        await ended(seed)
    await apply(db, QUICK, limit=10)
    (delivery,) = await born(seed)
    assert (delivery["state"], delivery["attempt_no"]) == ("delivered", 1)
    (request,) = seen
    event = standardwebhooks.Webhook(SECRET).verify(request.data, dict(request.headers))
    assert (event["type"], event["data"]) == ("delivery.bounced", {"reason": "hard_bounce"})
    assert request.headers["webhook-id"] == str(delivery["id"])
    assert (await standing(seed, endpoint)).last_success_at is not None


async def test_failures_and_replays_come_under_the_same_id(db, seed, httpserver):
    seen = merchant(httpserver, 500, 302, 200)
    tenant = await make_tenant(seed)
    endpoint = await make_endpoint(seed, tenant.id, url=httpserver.url_for("/hooks"))
    await tell(seed, tenant.id)
    await fan_out(db, QUICK, limit=10)
    async with lane_at_work(db, WEBHOOK, "webhooks"):
        await ended(seed)
        await apply(db, QUICK, limit=10)
        (delivery,) = await born(seed)
        assert (delivery["state"], delivery["attempt_no"]) == ("delivered", 3)
        async with db.transaction() as conn:
            await replay(conn, endpoint.id, delivery_id=delivery["id"])
        await ended(seed, 2)
    assert [request.headers["webhook-id"] for request in seen] == [str(delivery["id"])] * 4
    assert (await standing(seed, endpoint)).failing_since is None


async def test_a_merchant_who_answers_410_is_left_alone(db, seed, httpserver):
    seen = merchant(httpserver, 410)
    tenant = await make_tenant(seed)
    endpoint = await make_endpoint(seed, tenant.id, url=httpserver.url_for("/hooks"))
    await tell(seed, tenant.id)
    await fan_out(db, QUICK, limit=10)
    async with lane_at_work(db, WEBHOOK, "webhooks"):
        (delivery,) = await ended(seed)
    assert delivery["state"] == "failed"
    assert (await standing(seed, endpoint)).disabled_reason == "gone"
    await tell(seed, tenant.id)
    assert await fan_out(db, QUICK, limit=10) == (2, frozenset())  # its own end, and the event it no longer hears
    assert len(seen) == 1
    assert await rows(seed, "SELECT FROM store.suppressions") == []


async def test_an_address_that_became_forbidden_is_never_called(db, seed, httpserver):
    seen = merchant(httpserver, 200)
    tenant = await make_tenant(seed)
    await make_endpoint(seed, tenant.id, url="http://169.254.169.254/latest/meta-data")
    await tell(seed, tenant.id)
    await fan_out(db, QUICK, limit=10)
    async with lane_at_work(db, WEBHOOK, "webhooks"):
        (delivery,) = await ended(seed)
    assert (delivery["state"], delivery["reason"]) == ("dead", "forbidden_address")
    assert seen == []


async def test_a_room_reads_of_it(db, seed, httpserver):
    httpserver.expect_request("/slack").respond_with_data("ok")
    tenant = await make_tenant(seed)
    await make_endpoint(seed, tenant.id, format="slack", url=httpserver.url_for("/slack"))
    await tell(seed, tenant.id, "delivery.bounced", reason="hard_bounce", channel="email")
    await fan_out(db, QUICK, limit=10)
    async with lane_at_work(db, CHAT, "chat"):
        await ended(seed)
    ((request, _),) = httpserver.log
    text = json.loads(request.data)["text"]
    assert "delivery.bounced" in text
    assert "hard_bounce" in text


# -- the view ------------------------------------------------------------------------------------------------


async def test_the_view_shows_how_endpoints_fare_and_no_secret(conn):
    tenant = await make_tenant(conn)
    until = datetime.now(UTC) + timedelta(hours=1)
    await make_endpoint(conn, tenant.id, name="a", previous_secret=OLD_SECRET, previous_secret_until=until)
    await make_endpoint(conn, tenant.id, name="b", secret="whsk_" + "C" * 43 + "=", status="disabled")
    await make_endpoint(conn, tenant.id, name="c", format="slack", url="https://hooks.slack.com/services/T/B/hidden")
    a, b, c = await rows(conn, "SELECT * FROM reporting.endpoints WHERE tenant = %s ORDER BY name", tenant.name)
    assert (a["algorithm"], a["rotating_until"], a["status"]) == ("hmac-sha256", until, "enabled")
    assert (b["algorithm"], b["status"], b["disabled_reason"]) == ("ed25519", "disabled", "failing")
    assert (c["algorithm"], c["host"], c["format"]) == (None, "hooks.slack.com", "slack")
    shown = str([a, b, c])
    assert not any(secret in shown for secret in ("whsec_", "whsk_", "hidden", "AAAA", "BBBB", "CCCC"))
