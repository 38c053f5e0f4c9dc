"""Another chance for what ended without arriving."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from app.commands.database import connected, dsn_of, run
from app.commands.endings import Refused
from app.commands.output import console, json_option, print_json, print_table
from app.settings import load_settings
from app.store import operate

ENDED = ("dead", "expired", "unconfirmed", "bounced", "failed", "suppressed", "cancelled", "delivered")
TIME = click.DateTime(["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"])


@click.command()
@click.argument("delivery", type=click.UUID, required=False)
@click.option("--state", type=click.Choice(ENDED), default="dead", show_default=True, help="How they ended.")
@click.option("--tenant", help="Of this tenant only.")
@click.option("--template", "template_id", help="Of this template only.")
@click.option("--category", help="Of this category only.")
@click.option("--provider", help="Whose last attempt went to this provider.")
@click.option("--since", type=TIME, help="Ended then or later (UTC unless it has an offset).")
@click.option("--until", type=TIME, help="Ended before.")
@click.option("--max-rows", default=1000, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--expires-at", type=TIME, help="Worthless after; else as long as a new one of its category.")
@click.option("--commit", is_flag=True, help="Do it. Without this, only what would be done is shown.")
@click.option("--force", is_flag=True, help="Also what may have arrived: as a second message.")
@click.option("--reason", help="Why; kept in the audit log. Required with --commit.")
@json_option
def replay(as_json: bool, delivery: UUID | None, **wanted: Any) -> None:
    """Replay one DELIVERY, or all that match. A dry run unless --commit.

    Exits 1 when nothing could be replayed.
    """
    if wanted["commit"] and not wanted["reason"]:
        raise click.UsageError("--commit needs --reason: it is kept in the audit log")
    times = {name: as_utc(wanted[name]) for name in ("since", "until", "expires_at")}
    verdicts = run(_replay(dsn_of(load_settings()), {**wanted, **times, "delivery_id": delivery}))
    if as_json:
        print_json({"dry_run": not wanted["commit"], "items": verdicts})
    else:
        _show(verdicts, commit=wanted["commit"])
    if not any(_is_done(row["verdict"]) for row in verdicts):
        raise Refused("nothing was replayed" if wanted["commit"] else "nothing would be replayed")


async def _replay(dsn: str, wanted: dict[str, Any]) -> list[operate.Row]:
    async with connected(dsn) as conn:
        return await operate.replay(conn, **wanted)


def _show(verdicts: list[operate.Row], *, commit: bool) -> None:
    title = "Replayed" if commit else "Dry run"
    print_table(
        title,
        verdicts,
        "delivery_id",
        "tenant",
        "recipient_id",
        "template",
        "standing",
        "verdict",
        "explanation",
    )
    counts = Counter(row["verdict"] for row in verdicts)
    console().print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if not commit and any(_is_done(verdict) for verdict in counts):
        console().print("Nothing was changed: add --commit --reason '...' to do it.", style="yellow")


def _is_done(verdict: str) -> bool:
    return not verdict.startswith("refused")


def as_utc(moment: datetime | None) -> datetime | None:
    """A time without an offset is meant in UTC."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
