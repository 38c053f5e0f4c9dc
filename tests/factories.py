"""Rows for tests: each factory makes one whole, legal row and whatever it needs that was not given.

Every factory takes an async connection first and returns the row as the table has it, columns as attributes.
Keyword arguments named like columns override the defaults; the database's constraints judge the result.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

PROVIDER = "mailgun"
LIVE = frozenset({"queued", "sending", "sent", "ambiguous"})
_numbers = itertools.count(1)

# A delivery in this state had one attempt, and this is what became of it: (attempt state, outcome).
_ATTEMPT_OF = {
    "sending": ("open", None),
    "ambiguous": ("ambiguous", "unknown"),
    "sent": ("accepted", "accepted"),
    "delivered": ("accepted", "accepted"),
    "bounced": ("accepted", "accepted"),
    "unconfirmed": ("accepted", "accepted"),
    "failed": ("accepted", "accepted"),
    "dead": ("refused", "transient"),
}
_REASON_OF = {
    "delivered": "confirmed",
    "bounced": "hard_bounce",
    "failed": "reputation",
    "unconfirmed": "no_evidence",
    "suppressed": "suppressed:manual",
    "cancelled": "cancelled",
    "expired": "expired",
    "dead": "retries_exhausted",
    "ambiguous": "outcome_unknown",
}

# A provider that is not ready, for make_provider_state.
OPEN: dict[str, Any] = {
    "breaker": "open",
    "reason": "failing",
    "detail": "9 of 9 calls failed",
    "cool_off_seconds": 30,
    "retry_at": datetime.now(UTC) + timedelta(hours=1),
}
DRAINED: dict[str, Any] = {"drained_at": datetime.now(UTC), "drained_by": "ada", "drain_reason": "maintenance"}


async def make_tenant(conn: AsyncConnection, **overrides: Any) -> Any:
    values = {"name": f"tenant-{next(_numbers)}", "sender": "Shop <shop@example.com>"}
    return await _insert(conn, "tenants", values | overrides)


async def make_recipient(conn: AsyncConnection, *, tenant_id: int, **overrides: Any) -> Any:
    recipient_id = overrides.get("id", f"user-{next(_numbers)}")
    values = {"tenant_id": tenant_id, "id": recipient_id, "email": f"{recipient_id}@example.com"}
    return await _insert(conn, "recipients", values | overrides)


async def make_category(conn: AsyncConnection, *, tenant_id: int, **overrides: Any) -> Any:
    values = {"tenant_id": tenant_id, "name": f"category-{next(_numbers)}", "class": "transactional"}
    return await _insert(conn, "categories", values | overrides)


async def make_template(conn: AsyncConnection, *, tenant_id: int, **overrides: Any) -> Any:
    """A published version that declares one required variable, ``order_id``, and one optional, ``note``."""
    values = {
        "tenant_id": tenant_id,
        "template_id": f"template-{next(_numbers)}",
        "version": 1,
        "subject": "Order {{ order_id }}",
        "html": "<p>Order {{ order_id }} is on its way.</p>",
        "text": "Order {{ order_id }} is on its way.",
        "variables": {"order_id": {"required": True}, "note": {"required": False}},
        "status": "published",
    } | overrides
    if values["status"] != "draft":
        values.setdefault("published_at", _now())
    if values["status"] == "archived":
        values.setdefault("archived_at", _now())
    return await _insert(conn, "templates", values)


async def make_notification(conn: AsyncConnection, **overrides: Any) -> Any:
    """An accepted notification; ``state="planned"`` makes one that intake is done with. Makes its tenant,
    recipient, category and template unless their ids are given."""
    given = dict(overrides)
    tenant_id = given.get("tenant_id") or (await make_tenant(conn)).id
    if "recipient_id" not in given:
        given["recipient_id"] = (await make_recipient(conn, tenant_id=tenant_id)).id
    if "category" not in given:
        urgency = {"class": given.get("class", "transactional")}
        given["category"] = (await make_category(conn, tenant_id=tenant_id, **urgency)).name
    if "template_id" not in given:
        given["template_id"] = (await make_template(conn, tenant_id=tenant_id)).template_id
    shard, id = await _place(conn, tenant_id, given["recipient_id"])
    variables = given.pop("variables", {"order_id": "A-1"})
    values = {
        "shard": shard,
        "id": id,
        "tenant_id": tenant_id,
        "class": "transactional",
        "channels": ["email"],
        "template_version": 1,
        "request": {
            "recipient_id": given["recipient_id"],
            "category": given["category"],
            "template_id": given["template_id"],
            "variables": variables,
        },
        "source": "api",
        "state": "accepted",
        "expires_at": _now() + timedelta(days=1),
    } | given
    match values["state"]:
        case "accepted":
            values.setdefault("due_at", _now())
        case "planned":
            values.setdefault("planned_at", _now())
            values.setdefault("trace", [{"rule": "recipient", "input": True, "verdict": "ok"}])
        case ended:
            values.setdefault("reason", ended)
    return await _insert(conn, "notifications", values)


async def make_delivery(
    conn: AsyncConnection,
    *,
    state: str = "queued",
    notification: Any = None,
    attempt: bool = True,
    **overrides: Any,
) -> Any:
    """A delivery as the worker would have left it in ``state``: with its attempt and, if delivered, evidence.

    notification: the row it belongs to; made (planned) when not given. attempt: False leaves the attempt out.
    """
    if notification is None:
        given = {key: overrides[key] for key in ("tenant_id", "recipient_id", "category") if key in overrides}
        notification = await make_notification(conn, state="planned", **given)
    attempted = attempt and state in _ATTEMPT_OF
    delivery_id = overrides.get("id") or await _scalar(conn, "SELECT store.new_child_id(%s)", notification.id)
    values = _delivery_values(notification, delivery_id, state) | overrides
    if state == "delivered" and "evidence_id" not in overrides:
        event = await make_event(conn, values, kind="provider_delivered", source="provider", attempt_no=1)
        values["evidence_id"] = event.id
    delivery = await _insert(conn, "deliveries", values)
    if attempted:
        attempt_state, outcome = _ATTEMPT_OF[state]
        await make_attempt(conn, delivery, no=delivery.attempt_no, state=attempt_state, outcome=outcome)
    return delivery


async def make_attempt(conn: AsyncConnection, delivery: Any, **overrides: Any) -> Any:
    """An attempt of a delivery; ``state="open"`` unless given."""
    values = {
        "shard": delivery.shard,
        "delivery_id": delivery.id,
        "no": 1,
        "tenant_id": delivery.tenant_id,
        "epoch": 1,
        "region": "local",
        "provider": PROVIDER,
        "worker_id": uuid4(),
        "state": "open",
    } | overrides
    if values["state"] not in ("open", "ambiguous"):
        values.setdefault("closed_at", _now())
    if values["state"] == "accepted":
        values.setdefault("provider_message_id", f"{delivery.id}.{values['no']}@example.com")
    return await _insert(conn, "attempts", values)


async def make_event(conn: AsyncConnection, delivery: Any, **overrides: Any) -> Any:
    """A fact about a delivery (a row, or the values of one that is still to be inserted)."""
    row = delivery if isinstance(delivery, dict) else vars(delivery)
    values = {
        "shard": row["shard"],
        "id": await _scalar(conn, "SELECT store.uuid_v7()"),
        "tenant_id": row["tenant_id"],
        "notification_id": row["notification_id"],
        "delivery_id": row["id"],
        "kind": "attempt_accepted",
        "source": "landed",
    }
    return await _insert(conn, "events", values | overrides)


async def make_suppression(conn: AsyncConnection, *, tenant_id: int, address: str, **overrides: Any) -> Any:
    values = {"tenant_id": tenant_id, "channel": "email", "address": address}
    values |= {"reason": "manual", "source": "operator"}
    return await _insert(conn, "suppressions", values | overrides)


async def make_lane(conn: AsyncConnection, name: str, *providers: str) -> None:
    """A lane as a worker publishes it: the providers in their order, each of weight 1."""
    channel, urgency, _ = name.split(".", 2)
    accounts = [{"provider": one, "order": place, "weight": 1} for place, one in enumerate(providers, 1)]
    await conn.execute(
        "INSERT INTO store.lanes (name, channel, class, providers) VALUES (%s, %s, %s, %s)",
        (name, channel, urgency, Jsonb(accounts)),
    )


async def make_provider_state(conn: AsyncConnection, provider: str, **overrides: Any) -> Any:
    """The state of a provider account, in place of the one it had; ready unless told otherwise."""
    await conn.execute("DELETE FROM store.provider_states WHERE provider = %s", (provider,))
    return await _insert(conn, "provider_states", {"provider": provider} | overrides)


async def make_worker(conn: AsyncConnection, *lanes: str, **overrides: Any) -> Any:
    """A worker that lives, and serves these lanes."""
    values = {"id": uuid4(), "region": "local", "host": "here", "pid": 1, "lanes": list(lanes)}
    return await _insert(conn, "workers", values | overrides)


def _delivery_values(notification: Any, delivery_id: UUID, state: str) -> dict[str, Any]:
    attempted = state in _ATTEMPT_OF
    accepted = attempted and _ATTEMPT_OF[state][0] == "accepted"
    category_class = vars(notification)["class"]
    return {
        "shard": notification.shard,
        "id": delivery_id,
        "notification_id": notification.id,
        "tenant_id": notification.tenant_id,
        "recipient_id": notification.recipient_id,
        "category": notification.category,
        "class": category_class,
        "channel": "email",
        "lane": f"email.{category_class}.default",
        "address": f"{notification.recipient_id}@example.com",
        "template_id": notification.template_id,
        "template_version": notification.template_version,
        "state": state,
        "reason": _REASON_OF.get(state),
        "due_at": _now() if state in LIVE else None,
        "lease_owner": uuid4() if state == "sending" else None,
        "attempt_no": 1 if attempted else 0,
        "provider": PROVIDER if attempted else None,
        "sent_at": _now() if accepted else None,
        "delivered_at": _now() if state == "delivered" else None,
        "bounced_at": _now() if state == "bounced" else None,
        "ended_at": None if state in LIVE else _now(),
        "expires_at": notification.expires_at,
    }


async def _place(conn: AsyncConnection, tenant_id: int, recipient_id: str) -> tuple[int, UUID]:
    cursor = await conn.execute(
        "SELECT shard, store.new_id(shard) FROM store.shard_for(%s, %s) AS shard", (tenant_id, recipient_id)
    )
    shard, id = await cursor.fetchone()  # type: ignore[misc]
    return shard, id


async def _scalar(conn: AsyncConnection, statement: str, *parameters: Any) -> Any:
    cursor = await conn.execute(statement, parameters)  # type: ignore[arg-type]
    row = await cursor.fetchone()
    return row[0] if row else None


async def _insert(conn: AsyncConnection, table: str, values: dict[str, Any]) -> Any:
    """Inserts one row and returns it as the database has it."""
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING *").format(
        sql.Identifier("store", table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(map(sql.Placeholder, values)),
    )
    parameters = {key: Jsonb(value) if _is_json(key, value) else value for key, value in values.items()}
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, parameters)
        return SimpleNamespace(**(await cursor.fetchone() or {}))


def _is_json(column: str, value: Any) -> bool:
    return isinstance(value, dict) or (column == "trace" and isinstance(value, list))


def _now() -> datetime:
    return datetime.now(UTC)
