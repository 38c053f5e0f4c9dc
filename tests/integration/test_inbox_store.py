"""The inbox's tables: versions without gaps in what is seen, counters that are what counting would give."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import AsyncConnection

from app.store import inbox, upkeep
from app.store.inbox import Action, Inbox, NewItem
from tests.factories import make_tenant
from tests.inboxes import until


@pytest.fixture
async def tenant(conn):
    return await make_tenant(conn)


def item(tenant: Any, recipient_id: str = "ada", **changes: Any) -> NewItem:
    values = {
        "tenant_id": tenant.id,
        "recipient_id": recipient_id,
        "id": uuid4(),
        "attempt_no": 1,
        "notification_id": uuid4(),
        "category": "orders",
        "title": "Order A-1",
        "body": "It is on its way.",
        "data": {"url": "https://shop.example.com/orders/A-1"},
    }
    return NewItem(**values | changes)


async def counters(conn, tenant, recipient_id="ada") -> tuple[int, int, int]:
    cursor = await conn.execute(
        "SELECT version, unread, unseen FROM store.inboxes WHERE tenant_id = %s AND recipient_id = %s",
        (tenant.id, recipient_id),
    )
    return await cursor.fetchone()


async def versions(conn, tenant, recipient_id="ada") -> dict[UUID, int]:
    cursor = await conn.execute(
        "SELECT id, version FROM store.inbox_items WHERE tenant_id = %s AND recipient_id = %s ORDER BY version",
        (tenant.id, recipient_id),
    )
    return dict(await cursor.fetchall())


async def test_items_take_the_next_versions_of_their_recipient_in_order(conn, tenant):
    first, second, third = item(tenant), item(tenant), item(tenant)
    other = item(tenant, "bo")
    await inbox.add_items(conn, [first, other, second])
    await inbox.add_items(conn, [third])
    assert await versions(conn, tenant) == {first.id: 1, second.id: 2, third.id: 3}
    assert await versions(conn, tenant, "bo") == {other.id: 1}
    assert await counters(conn, tenant) == (3, 3, 3)
    assert await counters(conn, tenant, "bo") == (1, 1, 1)


async def test_a_second_copy_of_one_delivery_leaves_no_trace(conn, tenant):
    first, second = item(tenant), item(tenant)
    await inbox.add_items(conn, [first, first])
    await inbox.add_items(conn, [first])
    assert await counters(conn, tenant) == (1, 1, 1)
    await inbox.add_items(conn, [first, second, first])
    assert await versions(conn, tenant) == {first.id: 1, second.id: 2}
    assert await counters(conn, tenant) == (2, 2, 2)


async def test_the_same_delivery_may_be_in_no_second_place_of_one_inbox_only(conn, tenant):
    other = await make_tenant(conn)
    mine = item(tenant)
    await inbox.add_items(conn, [mine, item(other, id=mine.id)])
    assert await counters(conn, tenant) == await counters(conn, other) == (1, 1, 1)


async def test_nothing_to_add_is_no_work(conn, tenant):
    await inbox.add_items(conn, [])
    assert await counters(conn, tenant) is None


def test_hints_name_each_recipient_once_in_few_payloads():
    class Tenant:
        id = 7

    items = [item(Tenant, f"user-{n % 500}") for n in range(1000)]
    payloads = inbox.hints(items)
    assert len(payloads) <= inbox.HINTS_MAX
    assert all(0 < len(payload.encode()) < 8000 for payload in payloads)
    named = [entry for payload in payloads for entry in inbox.hinted(payload)]
    assert len(named) == 500
    assert set(named) == {Inbox(7, f"user-{n}") for n in range(500)}


def test_too_many_recipients_to_name_are_anyone():
    class Tenant:
        id = 7

    assert inbox.hints([item(Tenant, f"user-{n}") for n in range(5000)]) == [inbox.ANYONE]
    assert inbox.hinted(inbox.ANYONE) is None


@pytest.mark.parametrize("id", ["ü" * 200, 'a"\\b', "line\nbreak", "語" * 200])
def test_hints_carry_any_recipient_id(id):
    class Tenant:
        id = 7

    payloads = inbox.hints([item(Tenant, f"{id[:195]}{n:05}") for n in range(10)])
    assert all(len(payload.encode()) < 8000 for payload in payloads)
    assert {e for p in payloads for e in inbox.hinted(p)} == {Inbox(7, f"{id[:195]}{n:05}") for n in range(10)}


@pytest.mark.parametrize("payload", ["{", "x", '[["a", 1]]', "null"])
def test_a_hint_of_unknown_form_means_anyone(payload):
    assert inbox.hinted(payload) is None


def test_nothing_changed_needs_no_hint():
    assert inbox.hints([]) == []


# -- acting: what is kept is what counting would give ----------------------------------------------------------------

COUNTED = """
SELECT count(*) FILTER (WHERE read_at IS NULL AND archived_at IS NULL),
       count(*) FILTER (WHERE seen_at IS NULL AND archived_at IS NULL),
       max(version), count(DISTINCT version), count(*),
       bool_and((seen_at IS NULL OR acknowledged_at IS NOT NULL) AND (read_at IS NULL OR seen_at IS NOT NULL)
                AND (opened_at IS NOT NULL OR read_at IS NULL) AND version >= arrival)
FROM store.inbox_items WHERE tenant_id = %s AND recipient_id = %s
"""


async def check(conn, tenant) -> None:
    version, unread, unseen = await counters(conn, tenant)
    cursor = await conn.execute(COUNTED, (tenant.id, "ada"))
    counted_unread, counted_unseen, newest, distinct, items, sound = await cursor.fetchone()
    assert (unread, unseen, version) == (counted_unread, counted_unseen, newest)
    assert distinct == items
    assert sound


def after(marks: frozenset[str], action: Action) -> frozenset[str]:
    """What an action makes of the marks of an item: the rule once more, said another way."""
    match action:
        case Action.ACK:
            return marks | {"acknowledged"}
        case Action.SEEN:
            return marks | {"acknowledged", "seen"}
        case Action.READ:
            return marks | {"acknowledged", "seen", "read"}
        case Action.UNREAD:
            return marks - {"read"}
        case Action.ARCHIVE:
            return marks | {"archived"}
        case Action.UNARCHIVE:
            return marks - {"archived"}


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_is_done_the_counters_are_what_counting_gives(conn, tenant, seed):
    chance = random.Random(seed)
    whose = Inbox(tenant.id, "ada")
    marks: dict[UUID, frozenset[str]] = {}
    arrivals: dict[UUID, int] = {}
    for _ in range(40):
        before = await counters(conn, tenant)
        if not marks or chance.random() < 0.2:
            new = [item(tenant) for _ in range(chance.randint(1, 4))]
            repeated = [item(tenant, id=id) for id in chance.sample(sorted(marks), min(2, len(marks)))]
            await inbox.add_items(conn, new + repeated)
            marks |= {one.id: frozenset() for one in new}
            arrivals |= {one.id: before[0] + place if before else place for place, one in enumerate(new, start=1)}
            continue
        if chance.random() < 0.3:
            action = chance.choice([Action.READ, Action.SEEN, Action.ARCHIVE])
            version = chance.randint(0, before[0])
            chosen = await inbox.pick_items(conn, whose, action, version=version, limit=1000)
            expected = {
                id
                for id in marks
                if arrivals[id] <= version and "archived" not in marks[id] and after(marks[id], action) != marks[id]
            }
            assert set(chosen) == expected
        else:
            action = chance.choice(list(Action))
            chosen = chance.choices(sorted(marks), k=chance.randint(1, 5)) + [uuid4()]
        changed = {
            id: after(marks[id], action) for id in chosen if id in marks and after(marks[id], action) != marks[id]
        }
        await inbox.lock(conn, whose)
        done = await inbox.change_items(conn, whose, action, chosen)
        assert {one.id for one in done} == changed.keys()
        newly = {one.id for one in done if one.acknowledged_at}
        assert newly == {id for id in changed if "acknowledged" in changed[id] - marks[id]}
        marks |= changed
        now = await counters(conn, tenant)
        assert now[0] == before[0] + len(changed)
        found = await inbox.get_items(conn, whose, list(marks))
        assert {
            one.id: frozenset(m for m in ("acknowledged", "seen", "read", "archived") if getattr(one, f"{m}_at"))
            for one in found
        } == marks
        await check(conn, tenant)


async def test_opened_is_told_the_first_time_only(conn, tenant):
    sent, whose = item(tenant), Inbox(tenant.id, "ada")
    await inbox.add_items(conn, [sent])
    [first] = await inbox.change_items(conn, whose, Action.READ, [sent.id])
    assert first.acknowledged_at == first.opened_at is not None
    await inbox.change_items(conn, whose, Action.UNREAD, [sent.id])
    [again] = await inbox.change_items(conn, whose, Action.READ, [sent.id])
    assert (again.acknowledged_at, again.opened_at) == (None, None)


async def test_nothing_changes_in_the_inbox_of_another(conn, tenant):
    sent = item(tenant)
    await inbox.add_items(conn, [sent, item(tenant, "bo")])
    other = await make_tenant(conn)
    for whose in (Inbox(tenant.id, "bo"), Inbox(other.id, "ada")):
        assert await inbox.change_items(conn, whose, Action.READ, [sent.id]) == []
    assert await counters(conn, tenant) == await counters(conn, tenant, "bo") == (1, 1, 1)


# -- two at once: named steps on connections of their own --------------------------------------------------------------


@contextlib.asynccontextmanager
async def connected(dsn: str, count: int) -> AsyncIterator[list[AsyncConnection]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await AsyncConnection.connect(dsn)) for _ in range(count)]


async def waits_for_a_lock(watcher: AsyncConnection, blocked: AsyncConnection) -> bool:
    """Whether it does by now; until it does, whoever asks goes on asking."""

    async def is_so() -> bool:
        cursor = await watcher.execute(
            "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", (blocked.info.backend_pid,)
        )
        [(waiting_for,)] = await cursor.fetchall()
        await watcher.commit()
        return waiting_for == "Lock"

    return await until(is_so)


async def since(reader: AsyncConnection, whose: Inbox, version: int) -> list[int]:
    [found] = await inbox.changes(reader, [(whose, version)], page=100)
    await reader.commit()
    return [one.version for one in found.items]


async def test_who_comes_second_to_an_inbox_waits_and_takes_the_next_version(dsn):
    async with connected(dsn, 3) as (first, second, reader):
        tenant = await make_tenant(reader)
        await reader.commit()
        whose = Inbox(tenant.id, "ada")
        await inbox.add_items(first, [item(tenant)])
        adding = asyncio.create_task(inbox.add_items(second, [item(tenant)]))
        assert await waits_for_a_lock(reader, second)
        assert await since(reader, whose, 0) == []
        await first.commit()
        await adding
        assert await since(reader, whose, 0) == [1]
        await second.commit()
        assert await since(reader, whose, 1) == [2]
        assert await counters(reader, tenant) == (2, 2, 2)


async def test_who_waited_for_one_that_was_rolled_back_takes_its_place(dsn):
    async with connected(dsn, 3) as (first, second, reader):
        tenant = await make_tenant(reader)
        await reader.commit()
        sent = item(tenant)
        await inbox.add_items(first, [sent])
        adding = asyncio.create_task(inbox.add_items(second, [sent]))
        assert await waits_for_a_lock(reader, second)
        await first.rollback()
        await adding
        await second.commit()
        assert await versions(reader, tenant) == {sent.id: 1}
        assert await counters(reader, tenant) == (1, 1, 1)


async def test_two_copies_of_one_delivery_at_once_are_one(dsn):
    async with connected(dsn, 3) as (first, second, reader):
        tenant = await make_tenant(reader)
        await reader.commit()
        sent = item(tenant)
        await inbox.add_items(first, [sent])
        adding = asyncio.create_task(inbox.add_items(second, [sent, item(tenant)]))
        assert await waits_for_a_lock(reader, second)
        await first.commit()
        await adding
        await second.commit()
        assert sorted((await versions(reader, tenant)).values()) == [1, 2]
        assert await counters(reader, tenant) == (2, 2, 2)


async def test_what_arrives_while_all_is_being_read_stays_unread(dsn):
    async with connected(dsn, 3) as (adder, actor, reader):
        tenant = await make_tenant(reader)
        await inbox.add_items(reader, [item(tenant), item(tenant)])
        await reader.commit()
        whose = Inbox(tenant.id, "ada")
        await inbox.add_items(adder, [item(tenant)])  # version 3, not committed yet

        async def read_all() -> None:
            await inbox.lock(actor, whose)
            ids = await inbox.pick_items(actor, whose, Action.READ, version=2, limit=100)
            await inbox.change_items(actor, whose, Action.READ, ids)

        reading = asyncio.create_task(read_all())
        assert await waits_for_a_lock(reader, actor)
        await adder.commit()
        await reading
        await actor.commit()
        assert sorted((await versions(reader, tenant)).values()) == [3, 4, 5]
        assert await counters(reader, tenant) == (5, 1, 1)


async def test_one_item_read_in_two_tabs_at_once_is_counted_once(dsn):
    async with connected(dsn, 3) as (one, other, reader):
        tenant = await make_tenant(reader)
        sent, whose = item(tenant), Inbox(tenant.id, "ada")
        await inbox.add_items(reader, [sent])
        await reader.commit()

        async def read(conn: AsyncConnection) -> int:
            await inbox.lock(conn, whose)
            return len(await inbox.change_items(conn, whose, Action.READ, [sent.id]))

        assert await read(one) == 1
        reading = asyncio.create_task(read(other))
        assert await waits_for_a_lock(reader, other)
        await one.commit()
        assert await reading == 0
        await other.commit()
        assert await counters(reader, tenant) == (2, 0, 0)


async def test_an_inbox_that_is_not_there_yet_can_be_locked_too(dsn):
    async with connected(dsn, 2) as (actor, adder):
        tenant = await make_tenant(actor)
        await actor.commit()
        await inbox.lock(actor, Inbox(tenant.id, "nobody-yet"))
        await adder.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await inbox.add_items(adder, [item(tenant, "nobody-yet")])
        await adder.rollback()
        await actor.rollback()


async def test_lanes_that_share_recipients_do_not_deadlock_and_a_resume_misses_nothing(dsn):
    lanes, rounds = 4, 15
    async with connected(dsn, lanes + 2) as (reader, actor, *adders):
        tenant = await make_tenant(reader)
        await reader.commit()
        names = [f"user-{n}" for n in range(6)]
        over = asyncio.Event()

        async def add(conn: AsyncConnection, chance: random.Random) -> None:
            for _ in range(rounds):
                await inbox.add_items(conn, [item(tenant, chance.choice(names)) for _ in range(8)])
                await conn.commit()

        async def follow(whose: Inbox) -> set[UUID]:
            """Reads on from the version it has, as a stream does."""
            seen: set[UUID] = set()
            version, last = 0, False
            while not last:
                last = over.is_set()
                async with reading:
                    [found] = await inbox.changes(reader, [(whose, version)], page=3)
                    await reader.commit()
                seen |= {one.id for one in found.items}
                version = found.items[-1].version if found.more else found.counts.version
                last = last and not found.more
                await asyncio.sleep(0)
            return seen

        async def act(chance: random.Random) -> None:
            while not over.is_set():
                whose = Inbox(tenant.id, chance.choice(names))
                await inbox.lock(actor, whose)
                ids = await inbox.pick_items(actor, whose, Action.READ, version=chance.randint(0, 100), limit=3)
                await inbox.change_items(actor, whose, Action.READ, ids)
                await actor.commit()

        reading = asyncio.Lock()
        following = [asyncio.create_task(follow(Inbox(tenant.id, name))) for name in names]
        acting = asyncio.create_task(act(random.Random(0)))
        await asyncio.gather(*(add(conn, random.Random(n)) for n, conn in enumerate(adders)))
        over.set()
        await acting
        for name, seen in zip(names, await asyncio.gather(*following), strict=True):
            assert seen == (await versions(reader, tenant, name)).keys()
            assert len(seen) > 0


async def test_what_was_archived_long_ago_goes_and_nothing_else(conn, tenant):
    archived, recent, unread = item(tenant), item(tenant), item(tenant)
    await inbox.add_items(conn, [archived, recent, unread])
    moments = [(archived, "100 days"), (recent, "1 day")]
    for one, age in moments:
        await conn.execute(
            "UPDATE store.inbox_items SET archived_at = now() - %s::interval WHERE id = %s", (age, one.id)
        )
    assert await upkeep.purge_inbox(conn, limit=10, keep_seconds=90 * 86400) == 1
    cursor = await conn.execute("SELECT id FROM store.inbox_items")
    assert {id for (id,) in await cursor.fetchall()} == {recent.id, unread.id}
