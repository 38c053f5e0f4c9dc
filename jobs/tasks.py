"""The periodic tasks: each takes what it needs from the worker's context and calls one flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from procrastinate import App, JobContext

from app.db import Database
from app.flows.reconcile import reconcile
from app.flows.upkeep import upkeep
from app.providers.accounts import ProviderSet
from app.queue import JobName
from app.rendering.pool import RenderPool
from app.settings import Settings

RECONCILE_BATCH = 500


@dataclass(frozen=True, slots=True)
class Tools:
    """What tasks work with; handed to procrastinate as additional context."""

    db: Database
    providers: ProviderSet
    settings: Settings
    renderer: RenderPool


def register(queue: App, settings: Settings) -> None:
    """Gives the App its tasks. ``queueing_lock``: a run that has not begun yet is enough."""
    every = settings.follow.reconcile_every_seconds

    @queue.periodic(cron=f"* * * * * */{every}", periodic_id="reconcile")
    @queue.task(
        name=JobName.RECONCILE.value.name,
        queue=JobName.RECONCILE.value.queue,
        priority=JobName.RECONCILE.value.priority,
        queueing_lock="reconcile",
        pass_context=True,
    )
    async def reconcile_task(context: JobContext, timestamp: int) -> None:
        tools = _tools(context)
        round_ = await reconcile(
            tools.db, tools.providers, tools.settings, limit=RECONCILE_BATCH, renderer=tools.renderer
        )
        if round_.evidence:
            await tools.db.wake("landed_wake", "apply")

    @queue.periodic(cron="7 * * * *", periodic_id="upkeep")
    @queue.task(
        name=JobName.UPKEEP.value.name,
        queue=JobName.UPKEEP.value.queue,
        priority=JobName.UPKEEP.value.priority,
        queueing_lock="upkeep",
        pass_context=True,
    )
    async def upkeep_task(context: JobContext, timestamp: int) -> None:
        tools = _tools(context)
        await upkeep(tools.db, tools.settings)


def _tools(context: JobContext) -> Tools:
    return cast(Tools, context.additional_context["tools"])
