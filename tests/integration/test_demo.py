"""What one demo leaves behind does not spoil the next."""

from __future__ import annotations

from psycopg import AsyncConnection

from app.demo.play import new_run
from app.demo.scenarios import AREA_CODES, phones
from tests.factories import make_suppression, make_tenant


async def test_a_run_takes_numbers_that_nobody_has_refused(conn: AsyncConnection):
    tenant = await make_tenant(conn)
    stopped = {f"+1{area}5550170" for area in AREA_CODES[::2]}
    for phone in stopped:
        await make_suppression(conn, tenant_id=tenant.id, channel="sms", address=phone, reason="opted_out")

    runs = [await new_run(conn) for _ in range(20)]

    assert not any(phones(run) & stopped for run in runs)
    assert len(set(runs)) > 1
