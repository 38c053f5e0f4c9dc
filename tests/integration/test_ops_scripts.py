"""sql/ops, as an operator runs it: with psql, as a role that may do no more than an operator may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from app.embedded import EmbeddedPostgres
from tests.factories import (
    OPEN,
    make_attempt,
    make_delivery,
    make_lane,
    make_notification,
    make_provider_state,
    make_suppression,
    make_tenant,
)

OPS = Path(__file__).resolve().parents[2] / "sql" / "ops"
FAILED = 3  # psql's exit status for an error in a script
DRY_RUN = "Dry run: nothing was changed."


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Desk:
    """A committed database with an operator at it."""

    dsn: str
    conn: AsyncConnection
    operator: str

    async def run(self, script: str, **variables: Any) -> Ran:
        """``psql -v name=value ... -f sql/ops/<script>`` as the operator."""
        psql = EmbeddedPostgres(Path("unused")).psql
        command = [str(psql), "-X", "-q", self.dsn, "-c", f"SET SESSION AUTHORIZATION {self.operator}"]
        for name, value in variables.items():
            command += ["-v", f"{name}={value}"]
        process = await asyncio.create_subprocess_exec(
            *command,
            "-f",
            str(OPS / script),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return Ran(process.returncode or 0, out.decode(), err.decode())

    async def done(self, script: str, **variables: Any) -> str:
        ran = await self.run(script, **variables)
        assert ran.status == 0, ran.err
        return ran.out

    async def scalar(self, statement: str, *parameters: Any) -> Any:
        async with self.conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement, parameters)
            row = await cursor.fetchone()
        assert row is not None
        (value,) = row.values()
        return value

    async def state_of(self, delivery_id: UUID) -> str:
        return await self.scalar("SELECT state FROM store.deliveries WHERE id = %s", delivery_id)

    async def audits(self) -> int:
        return await self.scalar("SELECT count(*) FROM store.audit_log")


@pytest.fixture
async def desk(dsn: str) -> AsyncIterator[Desk]:
    operator = f"operator_{uuid4().hex[:12]}"
    async with await AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE landed_operator").format(sql.Identifier(operator)))
        yield Desk(dsn, conn, operator)
        await conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(operator)))


SCRIPTS = sorted(path.name for path in OPS.glob("*.sql"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_begins_with_what_it_is_for_and_how_it_is_called(script):
    head = (OPS / script).read_text().split("\\set ON_ERROR_STOP on\n")[0]
    assert all(line.startswith("--") for line in head.splitlines())
    assert "psql" in head
    assert f"-f sql/ops/{script}" in head


@pytest.mark.parametrize(
    "script",
    [
        "cancel.sql",
        "hold.sql",
        "release.sql",
        "suppress.sql",
        "unsuppress.sql",
        "replay_one.sql",
        "trace.sql",
        "drain_provider.sql",
        "restore_provider.sql",
    ],
)
async def test_a_script_that_is_told_nothing_does_nothing_and_fails(desk, script):
    n = await make_notification(desk.conn)
    await make_delivery(desk.conn, state="dead")
    ran = await desk.run(script, commit="yes")
    assert ran.status == FAILED
    assert ":'" in ran.err  # psql shows the variable that is missing where it stands
    assert await desk.audits() == 0
    assert await desk.scalar("SELECT state FROM store.notifications WHERE id = %s", n.id) == "accepted"


async def test_what_an_operator_types_is_a_value_and_never_sql(desk):
    n = await make_notification(desk.conn)
    why = "it's O'Brien's; DROP SCHEMA store CASCADE; --"
    await desk.done("cancel.sql", notification=n.id, reason=why, commit="yes")
    assert await desk.scalar("SELECT reason FROM store.audit_log") == why


async def test_cancel_shows_first_and_acts_when_told(desk):
    d = await make_delivery(desk.conn)
    asked = {"notification": d.notification_id, "reason": "wrong price"}
    assert DRY_RUN in await desk.done("cancel.sql", **asked)
    assert (await desk.state_of(d.id), await desk.audits()) == ("queued", 0)
    out = await desk.done("cancel.sql", **asked, commit="yes")
    assert "Done." in out
    assert await desk.state_of(d.id) == "cancelled"
    assert await desk.scalar("SELECT actor FROM store.audit_log") == desk.operator


async def test_hold_and_release(desk):
    d = await make_delivery(desk.conn)
    asked = {"notification": d.notification_id, "reason": "wait for legal"}
    reason_of = "SELECT reason FROM store.deliveries WHERE id = %s"
    assert DRY_RUN in await desk.done("hold.sql", **asked)
    assert await desk.scalar(reason_of, d.id) is None
    await desk.done("hold.sql", **asked, commit="yes")
    assert await desk.scalar(reason_of, d.id) == "held"
    assert DRY_RUN in await desk.done("release.sql", **asked)
    assert await desk.scalar(reason_of, d.id) == "held"
    await desk.done("release.sql", **asked, commit="yes")
    assert await desk.scalar(reason_of, d.id) is None


async def test_suppress_and_unsuppress(desk):
    tenant = await make_tenant(desk.conn)
    asked = {"tenant": tenant.name, "address": "jo@example.com", "reason": "asked by phone"}
    active = "SELECT count(*) FROM store.suppressions WHERE lifted_at IS NULL"
    assert DRY_RUN in await desk.done("suppress.sql", **asked)
    assert await desk.scalar(active) == 0
    await desk.done("suppress.sql", **asked, commit="yes")
    assert await desk.scalar(active) == 1
    assert DRY_RUN in await desk.done("unsuppress.sql", **asked)
    assert await desk.scalar(active) == 1
    await desk.done("unsuppress.sql", **asked, commit="yes")
    assert await desk.scalar(active) == 0


async def test_replay_one_shows_first_needs_a_reason_and_force_for_what_arrived(desk):
    dead = await make_delivery(desk.conn, state="dead")
    assert "would_requeue" in await desk.done("replay_one.sql", delivery=dead.id)
    refused = await desk.run("replay_one.sql", delivery=dead.id, commit="yes")
    assert (refused.status, "reason: is required" in refused.err) == (FAILED, True)
    assert await desk.state_of(dead.id) == "dead"
    assert "requeued" in await desk.done("replay_one.sql", delivery=dead.id, commit="yes", reason="fixed")
    assert await desk.state_of(dead.id) == "queued"
    arrived = await make_delivery(desk.conn, state="delivered")
    asked = {"delivery": arrived.id, "commit": "yes", "reason": "they lost it"}
    assert "refused_proven_delivered" in await desk.done("replay_one.sql", **asked)
    assert "sent_again" in await desk.done("replay_one.sql", **asked, force="yes")


async def test_replay_dead_letters_counts_first_and_replays_what_matches(desk):
    tenant = await make_tenant(desk.conn)
    mine = [await make_delivery(desk.conn, tenant_id=tenant.id, state="dead") for _ in range(3)]
    await make_suppression(desk.conn, tenant_id=tenant.id, address=mine[0].address)
    other = await make_delivery(desk.conn, state="dead")
    out = await desk.done("replay_dead_letters.sql", tenant=tenant.name)
    assert "would_requeue" in out
    assert "refused_suppressed" in out
    assert DRY_RUN in out
    await desk.done("replay_dead_letters.sql", tenant=tenant.name, commit="yes", reason="provider is back")
    assert [await desk.state_of(d.id) for d in [*mine, other]] == ["dead", "queued", "queued", "dead"]


async def test_drain_and_restore_a_provider(desk):
    await make_lane(desk.conn, "email.transactional.default", "mail-a")
    asked = {"provider": "mail-a", "reason": "maintenance"}
    drained = "SELECT count(*) FROM store.provider_states WHERE drained_at IS NOT NULL"
    out = await desk.done("drain_provider.sql", **asked)
    assert DRY_RUN in out
    assert "email.transactional.default" in out
    assert await desk.scalar(drained) == 0
    await desk.done("drain_provider.sql", **asked, commit="yes")
    assert await desk.scalar(drained) == 1
    assert await desk.scalar("SELECT drained_by FROM store.provider_states") == desk.operator
    out = await desk.done("restore_provider.sql", **asked)
    assert (DRY_RUN in out, "recovering" in out) == (True, True)
    assert await desk.scalar(drained) == 1
    await desk.done("restore_provider.sql", **asked, commit="yes")
    assert await desk.scalar(drained) == 0
    missing = await desk.run("drain_provider.sql", provider="mail-x", reason="maintenance", commit="yes")
    assert (missing.status, "There are mail-a." in missing.err) == (FAILED, True)


async def test_resolve_lists_and_settles(desk):
    d = await make_delivery(desk.conn, state="ambiguous", attempt=False)
    opened = datetime.now(UTC) - timedelta(minutes=10)
    await make_attempt(desk.conn, d, state="ambiguous", outcome="unknown", opened_at=opened)
    assert str(d.id) in await desk.done("resolve_ambiguous.sql")
    asked = {"delivery": d.id, "verdict": "not_sent", "reason": "not in their log"}
    assert DRY_RUN in await desk.done("resolve_ambiguous.sql", **asked)
    assert await desk.state_of(d.id) == "ambiguous"
    await desk.done("resolve_ambiguous.sql", **asked, commit="yes")
    assert await desk.state_of(d.id) == "queued"


async def test_stuck_shows_what_should_have_happened(desk):
    assert "(0 rows)" in await desk.done("stuck.sql")
    d = await make_delivery(desk.conn, due_at=datetime.now(UTC) - timedelta(hours=1))
    out = await desk.done("stuck.sql")
    assert str(d.id) in out
    assert "a worker of its lane should have claimed it" in out


async def test_trace_tells_why_and_what(desk):
    d = await make_delivery(desk.conn, state="delivered")
    out = await desk.done("trace.sql", notification=d.notification_id)
    assert "provider_delivered" in out
    assert "delivered at" in out
    missing = await desk.run("trace.sql", notification=uuid4())
    assert (missing.status, "there is no such notification" in missing.err) == (FAILED, True)


async def test_why_waiting_counts_by_lane_and_reason(desk):
    tenant = await make_tenant(desk.conn)
    await make_delivery(desk.conn, tenant_id=tenant.id, reason="retry")
    await make_delivery(desk.conn, reason="rate_limited")
    everything = await desk.done("why_waiting.sql")
    assert "retry" in everything
    assert "rate_limited" in everything
    mine = await desk.done("why_waiting.sql", tenant=tenant.name)
    assert "retry" in mine
    assert "rate_limited" not in mine


async def test_why_waiting_names_the_lanes_and_the_providers_that_keep_things_waiting(desk):
    await make_lane(desk.conn, "email.transactional.default", "mail-a")
    await make_provider_state(desk.conn, "mail-a", **OPEN)
    await make_delivery(desk.conn, due_at=datetime.now(UTC) - timedelta(hours=1))
    out = await desk.done("why_waiting.sql")
    assert "no_provider" in out
    assert "mail-a is not called, because it fails (9 of 9 calls failed)" in out
