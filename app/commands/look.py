"""Looking: one notification's whole story, one delivery's content, and what is happening now."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from uuid import UUID

import click
from rich.panel import Panel
from rich.text import Text

from app.commands.database import connected, dsn_of, run
from app.commands.endings import Refused
from app.commands.output import console, json_option, print_json, print_table, words
from app.flows.reproduce import Reproduction, reproduce
from app.rendering.pool import RenderPool
from app.settings import load_settings
from app.store import operate

WATCH_SECONDS = 2.0
ONLY_WHEN_ANY = ("lanes", "load_shedding")  # of the tables that status shows


@click.command()
@click.argument("id", type=click.UUID)
@json_option
def trace(id: UUID, as_json: bool) -> None:
    """Tell the whole story of a NOTIFICATION, or of the one a DELIVERY belongs to."""
    notification_id, story = run(_story(dsn_of(load_settings()), id))
    if as_json:
        print_json({"notification_id": notification_id, **story})
        return
    console().print(Text(f"Notification {notification_id}", style="bold"))
    for row in story["timeline"]:
        row["after"] = row["occurred_at"] - story["timeline"][0]["occurred_at"]
    several = len({row["delivery_id"] for row in story["timeline"]} - {None}) > 1
    which = ("delivery_id",) if several else ()
    print_table("Why", story["explain"], "rule", "verdict", "explanation", "input")
    print_table(
        "Attempts",
        story["attempts"],
        *which,
        *("attempt_no", "provider", "state", "outcome", "status_code", "took_seconds", "detail"),
    )
    print_table("Timeline", story["timeline"], "occurred_at", "after", *which, "attempt_no", "kind", "source", "data")


async def _story(dsn: str, id: UUID) -> tuple[UUID, dict[str, list[operate.Row]]]:
    async with connected(dsn) as conn:
        found = await operate.find_notification(conn, id)
        if found is None:
            raise Refused(f"there is no notification or delivery {id}; it may be older than what is kept")
        return found, await operate.story(conn, found)


@click.command()
@click.argument("delivery", type=click.UUID)
@click.option("--part", type=click.Choice(["subject", "html", "text"]), help="Print this part alone, as it was sent.")
@json_option
def render(delivery: UUID, part: str | None, as_json: bool) -> None:
    """Reproduce the content of a DELIVERY and check it against the hash of what was sent.

    Exits 1 when the two differ, or when it cannot be rendered.
    """
    made = run(_reproduce(dsn_of(load_settings()), delivery))
    content, source = made.content, made.made_from
    if as_json:
        print_json(
            {
                "delivery_id": delivery,
                "template": f"{source.template_id}@{source.template_version}",
                "attempt_no": source.attempt_no,
                "subject": content.subject,
                "html": content.html,
                "text": content.text,
                "content_hash": content.content_hash,
                "sent_hash": source.content_hash,
                "matches": made.matches,
            }
        )
    elif part is not None:
        click.echo(getattr(content, part) or "", nl=False)
    else:
        _show_content(made)
    if made.matches is False:
        raise Refused("this is not what was sent: its hash differs from the one that the attempt recorded")


def _show_content(made: Reproduction) -> None:
    source = made.made_from
    verdict = {
        True: Text("the same, to the byte, as what was sent", style="green"),
        False: Text("NOT what was sent", style="bold red"),
        None: Text("nothing was ever sent; this is what would be", style="yellow"),
    }[made.matches]
    console().print(Panel(Text(made.content.text), title=made.content.subject, title_align="left", expand=False))
    console().print(f"template {source.template_id}@{source.template_version}, attempt {source.attempt_no or '-'}")
    console().print(Text.assemble(f"SHA-256 {made.content.content_hash.hex()}: ", verdict))
    if made.content.html is not None:
        console().print(f"html: {len(made.content.html)} characters; --part html prints it", style="dim")


async def _reproduce(dsn: str, delivery_id: UUID) -> Reproduction:
    async with connected(dsn) as conn, contextlib.AsyncExitStack() as stack:
        renderer = RenderPool()
        stack.push_async_callback(renderer.stop)
        return await reproduce(conn, renderer, delivery_id)


@click.command()
@click.option(
    "--hours", default=24, show_default=True, type=click.IntRange(1, 24 * 35), help="How far back ends count."
)
@click.option("--watch", is_flag=True, help="Show it again every two seconds, until Ctrl-C.")
@json_option
def status(hours: int, watch: bool, as_json: bool) -> None:
    """Show what is happening now: what waits and why, what ended, who works, and what needs people."""
    dsn = dsn_of(load_settings())
    with contextlib.suppress(KeyboardInterrupt):
        run(_watch(dsn, hours, as_json) if watch else _status(dsn, hours, as_json))


async def _watch(dsn: str, hours: int, as_json: bool) -> None:
    while True:
        if not as_json:
            console().clear()
        await _status(dsn, hours, as_json)
        await asyncio.sleep(WATCH_SECONDS)


async def _status(dsn: str, hours: int, as_json: bool) -> None:
    async with connected(dsn) as conn:
        situation = await operate.situation(conn, hours=hours)
    if as_json:
        print_json(situation)
    else:
        _show(situation, hours)


def _show(situation: dict[str, list[dict[str, Any]]], hours: int) -> None:
    tables = {
        "waiting": ("On its way", "lane state reason waits_for rows overdue first_due_at tenant", "nothing"),
        "ended": (
            f"Ended, accepted in the last {hours} h",
            "lane state reason rows last_ended_at",
            "nothing",
        ),
        "lanes": ("Lanes in which everything waits", "lane waiting_for late_by detail", "none"),
        "load_shedding": ("Load shedding: these claims pause", "class since lane late_by", "off"),
        "workers": (
            "Workers",
            "worker_id host pid alive silent_for started_at lanes",
            "none: nothing is being sent",
        ),
        "providers": (
            "Providers that are not well",
            "provider status reason detail ready_at since share error_rate drained_by drain_reason",
            "none",
        ),
        "dead_letters": (
            "Dead letters",
            "tenant reason template_id provider rows last_ended_at newest_delivery newest_detail",
            "none",
        ),
        "unconfirmed": ("Unconfirmed", "tenant reason provider rows last_ended_at newest_delivery", "none"),
        "webhook_refusals": ("Webhooks refused since yesterday", "provider reason refusals last_at", "none"),
        "stuck": (
            "Stuck",
            "what state lane reason overdue_for missing delivery_id notification_id",
            "nothing, as it must be",
        ),
    }
    for name, (title, columns, empty) in tables.items():
        if name in ONLY_WHEN_ANY and not situation[name]:
            continue
        print_table(title, situation[name], *columns.split(), empty=empty)
    if situation["stuck"]:
        stuck = len(situation["stuck"])
        console().print(Text(f"{words(stuck)} stuck: see docs/runbook.md", style="bold red"))
