"""What people do to providers, and what they are told: drain, restore, capabilities, and why a delivery waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection, errors, sql
from psycopg.rows import dict_row

from tests.factories import DRAINED, OPEN, make_delivery, make_lane, make_provider_state, make_worker
from tests.looking import row as one
from tests.looking import rows as fetch
from tests.sql_caller import acting_as, audited, call, refused, second_of_two

WHY = "ticket 4711"
LANE = "email.transactional.default"
CAMPAIGN = "email.promotional.default"
NOW = datetime.now(UTC)
LATER = NOW + timedelta(hours=1)
LONG_AGO = NOW - timedelta(minutes=6)


async def state_of(conn: AsyncConnection, provider: str) -> dict[str, Any]:
    return await one(conn, "SELECT * FROM store.provider_states WHERE provider = %s", provider)


async def told(conn: AsyncConnection) -> list[tuple[str, str, str, str]]:
    rows = await fetch(conn, "SELECT * FROM store.control_events ORDER BY id")
    return [(row["subject"], row["name"], row["event"], row["detail"]) for row in rows]


async def done(conn: AsyncConnection, function: str, **arguments: Any) -> Any:
    (row,) = await call(conn, function, **arguments)
    return row[function]


# -- drain and restore ---------------------------------------------------------------------------------------


async def test_a_drain_takes_a_provider_out_and_is_told_and_audited_by_name(conn):
    await make_lane(conn, LANE, "mail-a")  # it was never called: it has no state
    async with acting_as(conn, "landed_operator") as person:
        assert await done(conn, "drain_provider", provider="mail-a", reason=WHY)
    state = await state_of(conn, "mail-a")
    assert (state["drained_by"], state["drain_reason"], state["drained_at"] is not None) == (person, WHY, True)
    assert await told(conn) == [("provider", "mail-a", "drained", WHY)]
    (audit,) = await audited(conn, "drain_provider")
    assert (audit["actor"], audit["target"], audit["reason"]) == (person, "provider mail-a", WHY)


async def test_a_second_drain_changes_nothing(conn):
    await make_lane(conn, LANE, "mail-a")
    assert await done(conn, "drain_provider", provider="mail-a", reason=WHY)
    assert not await done(conn, "drain_provider", provider="mail-a", reason="another reason")
    assert (await state_of(conn, "mail-a"))["drain_reason"] == WHY
    assert (len(await told(conn)), len(await audited(conn, "drain_provider"))) == (1, 1)


async def test_a_drain_leaves_the_breaker_and_its_probe_alone(conn):
    probe = {"probe_owner": "00000000-0000-0000-0000-000000000001", "probe_until": LATER}
    await make_provider_state(conn, "mail-a", **OPEN, **probe)
    before = await state_of(conn, "mail-a")
    await done(conn, "drain_provider", provider="mail-a", reason=WHY)
    after = await state_of(conn, "mail-a")
    assert {name for name in after if after[name] != before[name]} == {"drained_at", "drained_by", "drain_reason"}


async def test_a_drained_provider_comes_back_in_steps(conn):
    await make_provider_state(conn, "mail-a", since=LONG_AGO, share_changed_at=LONG_AGO, **DRAINED)
    assert await done(conn, "restore_provider", provider="mail-a", reason=WHY)
    state = await state_of(conn, "mail-a")
    assert (state["drained_at"], state["drained_by"], state["drain_reason"]) == (None, None, None)
    assert (state["recovering"], state["share"], state["breaker"]) == (True, 0.1, "closed")
    assert state["since"] == state["share_changed_at"] == state["judge_from"] > LONG_AGO
    assert await told(conn) == [("provider", "mail-a", "restored", WHY)]
    (audit,) = await audited(conn, "restore_provider")
    assert (audit["reason"], audit["data"]["drained_by"]) == (WHY, "ada")


async def test_a_restored_provider_whose_breaker_is_open_is_tried_at_once_and_no_sooner_trusted(conn):
    await make_provider_state(conn, "mail-a", since=LONG_AGO, **OPEN)
    assert await done(conn, "restore_provider", provider="mail-a", reason=WHY)
    state = await state_of(conn, "mail-a")
    assert (state["breaker"], state["reason"], state["since"]) == ("open", "failing", LONG_AGO)
    assert (state["share"], state["recovering"]) == (1, False)
    assert state["retry_at"] < OPEN["retry_at"]
    await make_provider_state(conn, "mail-b", **OPEN | DRAINED)
    assert await done(conn, "restore_provider", provider="mail-b", reason=WHY)
    state = await state_of(conn, "mail-b")
    assert (state["breaker"], state["drained_at"], state["recovering"]) == ("open", None, True)
    assert state["retry_at"] < OPEN["retry_at"]


async def test_there_is_nothing_to_restore_of_a_provider_that_is_well(conn):
    await make_lane(conn, LANE, "mail-a")
    await make_provider_state(conn, "mail-b", share=0.5)
    for provider in ("mail-a", "mail-b"):
        assert not await done(conn, "restore_provider", provider=provider, reason=WHY)
    assert (await told(conn), await audited(conn, "restore_provider")) == ([], [])
    assert (await state_of(conn, "mail-b"))["share"] == 0.5


@pytest.mark.parametrize("function", ["drain_provider", "restore_provider"])
async def test_a_provider_that_nobody_knows_is_refused_with_the_names_there_are(conn, function):
    for provider in ("mail-x", None):
        async with refused(conn, errors.NoDataFound) as error:
            await call(conn, function, provider=provider, reason=WHY)
        assert error.field == "provider"
        assert "none yet" in error.hint
    await make_lane(conn, LANE, "mail-b", "mail-a")
    await make_provider_state(conn, "texts-a")
    async with refused(conn, errors.NoDataFound) as error:
        await call(conn, function, provider="mail-x", reason=WHY)
    assert error.hint == "There are mail-a, mail-b, texts-a."


@pytest.mark.parametrize(
    ("function", "more"),
    [
        ("drain_provider", {}),
        ("restore_provider", {}),
        ("set_route_capability", {"channel": "sms", "country": "GB", "provable": True}),
    ],
)
async def test_every_act_needs_a_reason(conn, function, more):
    await make_lane(conn, LANE, "mail-a")
    for reason in (None, "", " "):
        async with refused(conn, errors.InvalidParameterValue) as error:
            await call(conn, function, provider="mail-a", reason=reason, **more)
        assert error.field == "reason"


async def test_two_who_drain_at_once_are_one_drain(dsn):
    async with await AsyncConnection.connect(dsn) as first, await AsyncConnection.connect(dsn) as second:
        await make_lane(first, LANE, "mail-a")
        await first.commit()
        assert await done(first, "drain_provider", provider="mail-a", reason="first")
        assert not await second_of_two(
            dsn, first, second, done(second, "drain_provider", provider="mail-a", reason="second")
        )
        assert (await state_of(second, "mail-a"))["drain_reason"] == "first"


# -- what can be proven --------------------------------------------------------------------------------------


async def test_an_operator_knows_better_for_a_country(conn):
    await make_lane(conn, "sms.transactional.default", "texts-a")
    await conn.execute(
        "INSERT INTO store.route_capabilities (provider, channel, provable, source)"
        " VALUES ('texts-a', 'sms', true, 'adapter')"
    )
    asked = {"provider": "texts-a", "channel": "sms", "country": "US"}
    assert await done(conn, "set_route_capability", **asked, provable=False, reason="no receipts there") is None
    assert await done(conn, "set_route_capability", **asked, provable=True, reason="new contract") is False
    rows = await fetch(conn, "SELECT * FROM store.route_capabilities ORDER BY country")
    assert [(row["country"], row["provable"], row["source"], row["note"]) for row in rows] == [
        ("*", True, "adapter", ""),
        ("US", True, "operator", "new contract"),
    ]
    first, second = await audited(conn, "set_route_capability")
    assert first["data"] == {"channel": "sms", "country": "US", "before": None, "after": False}
    assert (second["target"], second["reason"], second["data"]["before"]) == ("provider texts-a", "new contract", False)


async def test_an_operator_may_speak_for_all_countries(conn):
    await make_lane(conn, LANE, "mail-a")
    async with acting_as(conn, "landed_operator"):
        await done(
            conn, "set_route_capability", provider="mail-a", channel="email", country="*", provable=False, reason=WHY
        )
    row = await one(conn, "SELECT * FROM store.route_capabilities")
    assert (row["country"], row["provable"], row["source"]) == ("*", False, "operator")


@pytest.mark.parametrize(
    ("wrong", "field", "error"),
    [
        ({"provider": "texts-x"}, "provider", errors.NoDataFound),
        ({"channel": "fax"}, "channel", errors.InvalidParameterValue),
        ({"channel": None}, "channel", errors.InvalidParameterValue),
        ({"country": "gb"}, "country", errors.InvalidParameterValue),
        ({"country": "GBR"}, "country", errors.InvalidParameterValue),
        ({"country": None}, "country", errors.InvalidParameterValue),
        ({"channel": "email", "country": "GB"}, "country", errors.InvalidParameterValue),
        ({"provable": None}, "provable", errors.InvalidParameterValue),
    ],
)
async def test_a_capability_names_what_there_is(conn, wrong, field, error):
    await make_lane(conn, "sms.transactional.default", "texts-a")
    right = {"provider": "texts-a", "channel": "sms", "country": "GB", "provable": True, "reason": WHY}
    async with refused(conn, error) as caught:
        await call(conn, "set_route_capability", **right | wrong)
    assert caught.field == field


# -- explain -------------------------------------------------------------------------------------------------


async def why(conn: AsyncConnection, **delivery: Any) -> str:
    d = await make_delivery(conn, **{"due_at": LONG_AGO} | delivery)
    return (await call(conn, "explain", notification_id=d.notification_id))[-1]["explanation"]


async def test_a_delivery_tells_which_providers_its_lane_waits_for_and_until_when(conn):
    await make_lane(conn, LANE, "mail-a", "mail-b")
    await make_worker(conn, LANE)
    await make_provider_state(conn, "mail-a", **DRAINED)
    await make_provider_state(conn, "mail-b", paused_until=LATER)
    explained = await why(conn)
    assert "its lane waits: mail-a is drained since" in explained
    assert "mail-b said to slow down until" in explained
    assert f"{LATER:%Y-%m-%d}" in explained
    assert "its lane" not in await why(conn, due_at=LATER)
    await make_provider_state(conn, "mail-b")
    assert "its lane" not in await why(conn)


async def test_a_delivery_tells_that_no_worker_serves_its_lane(conn):
    await make_lane(conn, LANE, "mail-a")
    assert "its lane waits: no worker serves it" in await why(conn)


async def test_a_promotional_delivery_tells_of_load_shedding(conn):
    await make_lane(conn, CAMPAIGN, "mail-a")
    await make_worker(conn, CAMPAIGN)
    await conn.execute("UPDATE store.load_shedding SET active = true, lane = %s, oldest_seconds = 61", (LANE,))
    explained = await why(conn, lane=CAMPAIGN, **{"class": "promotional"})
    assert "its lane waits: promotional claims pause since" in explained
    assert f"because {LANE} is 61 s late" in explained


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("failover", "mail-a refused it; goes to another provider of its route at once"),
        ("probe_failed", "was sent to see whether mail-a is back, which it is not; at no cost to its retries"),
        ("rate_limited", "waits because the provider said to slow down"),
        ("unauthorized", "waits because the provider refused our account"),
    ],
)
async def test_a_delivery_tells_why_it_goes_round(conn, reason, words):
    await make_worker(conn, LANE)
    explained = await why(conn, reason=reason, provider="mail-a", attempt_no=1, failures=0)
    assert explained.startswith(words)


async def test_explain_shows_who_refused_it(conn):
    d = await make_delivery(conn, reason="failover", provider="mail-a")
    await conn.execute("UPDATE store.deliveries SET tried = ARRAY['mail-a'] WHERE id = %s", (d.id,))
    delivery = (await call(conn, "explain", notification_id=d.notification_id))[-1]
    assert delivery["input"]["tried"] == ["mail-a"]


async def test_an_operator_reads_and_acts_through_the_interfaces_alone(conn):
    await make_lane(conn, LANE, "mail-a")
    d = await make_delivery(conn, due_at=LONG_AGO)
    async with acting_as(conn, "landed_operator"):
        assert await done(conn, "drain_provider", provider="mail-a", reason=WHY)
        async with conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(sql.SQL("SELECT * FROM reporting.lanes"))
            (lane,) = await cursor.fetchall()
        explained = (await call(conn, "explain", notification_id=d.notification_id))[-1]["explanation"]
    assert lane["waiting_for"] == "no_provider"
    assert "mail-a is drained" in explained
