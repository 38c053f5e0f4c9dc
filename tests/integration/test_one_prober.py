"""Of many workers one tries whether a provider is back: one call for each cool-off, however much waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from app.db import Database
from app.domain.models import NotificationClass
from app.flows.dispatch import Dispatcher, Lane
from app.providers.transport import Transport
from app.rendering.pool import RenderPool
from app.settings import Settings
from tests.factories import OPEN, make_delivery, make_notification, make_provider_state, make_template, make_tenant
from tests.lanes import make_dispatcher
from tests.looking import rows, until
from tests.sandbox_process import SandboxProcess

LANE = "email.transactional.default"
SENDER = "Shop <shop@example.com>"
WORKERS = 8
BACKLOG = 200
PROBES = 4
COOL_OFF_SECONDS = 1.0
PATIENCE_SECONDS = 60


@pytest.fixture
def sandbox(tmp_path) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path / "ledger.jsonl") as process:
        yield process


@contextlib.asynccontextmanager
async def workers(dsn: str, settings: Settings, count: int) -> AsyncIterator[list[Dispatcher]]:
    """So many workers of one lane, each with connections, counts and an id of its own, as processes would have them."""
    lane = Lane(LANE, "email", NotificationClass.TRANSACTIONAL, settings.routes["email"])
    async with contextlib.AsyncExitStack() as stack:
        renderer = RenderPool()
        await renderer.start()
        stack.push_async_callback(renderer.stop)
        dispatchers = [
            make_dispatcher(
                lane,
                db=await stack.enter_async_context(Database(dsn, name="landed tests", size_max=4)),
                settings=settings,
                transport=await stack.enter_async_context(Transport()),
                renderer=renderer,
            )
            for _ in range(count)
        ]
        judging = [asyncio.create_task(dispatcher._control.run()) for dispatcher in dispatchers]
        working = [asyncio.create_task(dispatcher.run()) for dispatcher in dispatchers]
        try:
            yield dispatchers
        finally:
            for dispatcher in dispatchers:
                dispatcher.stop()
            for task in judging:
                task.cancel()
            await asyncio.gather(*judging, return_exceptions=True)
            await asyncio.gather(*working)


async def steps(conn: psycopg.AsyncConnection, event: str) -> list[dict[str, Any]]:
    return await rows(conn, "SELECT * FROM store.control_events WHERE event = %s ORDER BY at", event)


def calls(sandbox: SandboxProcess) -> list[datetime]:
    """When each call came in."""
    return [datetime.fromisoformat(entry["at"]) for entry in sandbox.ledger(kind="call", provider="mailgun")]


def settings_for(sandbox: SandboxProcess) -> Settings:
    return Settings(
        providers={
            "mailgun": {
                "adapter": "mailgun",
                "domain": SandboxProcess.domain,
                "api_key": SandboxProcess.api_key,
                "webhook_signing_key": SandboxProcess.signing_key,
                "base_url": sandbox.url,
            }
        },
        routes={"email": ("mailgun",)},
        breakers={"cool_off_seconds": COOL_OFF_SECONDS, "cool_off_max_seconds": COOL_OFF_SECONDS},
    )


async def open_breaker(seed: psycopg.AsyncConnection) -> None:
    await make_provider_state(
        seed,
        provider="mailgun",
        **OPEN | {"cool_off_seconds": COOL_OFF_SECONDS, "retry_at": datetime.now(UTC) + timedelta(seconds=1)},
    )


async def test_a_provider_that_is_down_sees_one_call_for_each_cool_off(dsn, seed, sandbox):
    tenant = await make_tenant(seed)
    for _ in range(BACKLOG):
        await make_delivery(seed, tenant_id=tenant.id, sender=SENDER)
    await open_breaker(seed)
    sandbox.set_fault("error")
    async with workers(dsn, settings_for(sandbox), WORKERS) as dispatchers:

        async def failed() -> bool:
            everybody = all(not dispatcher._control.is_ready("mailgun") for dispatcher in dispatchers)
            return everybody and len(await steps(seed, "probe_failed")) >= PROBES

        await until(failed)
        sandbox.set_fault("ok")
        await until(lambda: rows(seed, "SELECT FROM store.deliveries WHERE state = 'sent' OFFSET 5"))

    [closed] = await steps(seed, "closed")
    probes = await steps(seed, "probe_failed")
    came = calls(sandbox)
    tried = [at for at in came if at < closed["at"]]
    assert len(tried) == len(probes) + 1, "one call for each probe that failed, and the one that got through"
    apart = [after - before for before, after in zip(tried, tried[1:], strict=False)]
    assert min(apart) >= timedelta(seconds=COOL_OFF_SECONDS), apart
    for at, probe in zip(tried, probes, strict=False):
        assert at < probe["at"], "each call is told of, and the next begins only afterwards"
    assert len(came) > len(tried), "then the others follow"
    assert await rows(seed, "SELECT FROM store.deliveries WHERE failures > 0") == []
    assert sandbox.summary()["duplicates"] == {}


async def test_a_delivery_that_never_gets_to_the_provider_proves_nothing_about_it(dsn, seed, sandbox):
    tenant = await make_tenant(seed)
    await make_template(seed, tenant_id=tenant.id, template_id="broken", text="{{ 1 // 0 }}")
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    bad = await make_notification(seed, tenant_id=tenant.id, template_id="broken", state="planned")
    first = await make_delivery(seed, notification=bad, sender=SENDER, due_at=long_ago)
    second = await make_delivery(seed, tenant_id=tenant.id, sender=SENDER)
    await open_breaker(seed)
    async with workers(dsn, settings_for(sandbox), 1):
        await until(lambda: rows(seed, "SELECT FROM store.deliveries WHERE id = %s AND state = 'sent'", second.id))
    [closed] = await steps(seed, "closed")
    [dead] = await rows(seed, "SELECT state, ended_at FROM store.deliveries WHERE id = %s", first.id)
    assert dead["state"] == "dead"
    assert dead["ended_at"] < closed["at"], "it was the first to be claimed, and closed nothing"
    assert [at < closed["at"] for at in calls(sandbox)] == [True]
