"""The inbox's tables: versions without gaps in what is seen, counters that are what counting would give."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from app.store import inbox
from app.store.inbox import Inbox, NewItem
from tests.factories import make_tenant


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
