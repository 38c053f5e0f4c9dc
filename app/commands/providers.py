"""Provider accounts and the lanes they serve: how they fare, and taking one out by hand."""

from __future__ import annotations

from typing import Any

import click

from app.commands.database import connected, dsn_of, run
from app.commands.output import console, json_option, print_json, print_table, words
from app.settings import load_settings
from app.store import operate


@click.command()
@json_option
def providers(as_json: bool) -> None:
    """Show how every provider account fares, and the lanes in which everything waits."""
    found = run(_providers(dsn_of(load_settings())))
    if as_json:
        print_json(found)
        return
    print_table(
        "Providers",
        found["providers"],
        *("provider", "status", "reason", "detail", "ready_at", "since", "share", "per_second", "factor", "hits"),
        *("calls", "error_rate", "drained_by", "drain_reason"),
        empty="none: no worker has published its configuration yet",
    )
    print_table("Lanes in which everything waits", found["waiting"], "lane", "waiting_for", "late_by", "detail")


async def _providers(dsn: str) -> dict[str, list[operate.Row]]:
    async with connected(dsn) as conn:
        return await operate.providers(conn)


@click.command()
@json_option
def lanes(as_json: bool) -> None:
    """Show every lane: its providers in their order, its workers, and what it waits for."""
    found = run(_lanes(dsn_of(load_settings())))
    if as_json:
        print_json(found)
        return
    shown = [{**row, "providers": [_in_lane(account) for account in row["providers"]]} for row in found]
    print_table("Lanes", shown, "lane", "providers", "workers", "waiting_for", "oldest_due_at", "late_by", "detail")


def _in_lane(account: dict[str, Any]) -> str:
    return f"{account['provider']} ({account['status']})"


async def _lanes(dsn: str) -> list[operate.Row]:
    async with connected(dsn) as conn:
        return await operate.lanes(conn)


reason_option = click.option("--reason", required=True, help="Why; kept in the audit log.")


@click.command()
@click.argument("provider")
@reason_option
@json_option
def drain(provider: str, reason: str, as_json: bool) -> None:
    """Take PROVIDER out: it gets no new calls, and what is under way ends."""
    drained, waiting = run(_drain(dsn_of(load_settings()), provider, reason))
    if as_json:
        print_json({"provider": provider, "drained": drained, "lanes_without_provider": waiting})
        return
    console().print(f"{provider} is drained" if drained else f"{provider} was drained before")
    if waiting:
        print_table("Lanes that now wait for a provider", waiting, "lane", "late_by", "detail")


async def _drain(dsn: str, provider: str, reason: str) -> tuple[bool, list[operate.Row]]:
    async with connected(dsn) as conn:
        drained = await operate.drain_provider(conn, provider, reason=reason)
        return drained, await operate.lanes_without_provider(conn, provider)


@click.command()
@click.argument("provider")
@reason_option
@json_option
def restore(provider: str, reason: str, as_json: bool) -> None:
    """Give PROVIDER back, a tenth of its weight first; one whose breaker is open is tried at once."""
    restored, now = run(_restore(dsn_of(load_settings()), provider, reason))
    if as_json:
        print_json({"restored": restored, **now})
        return
    said = "is restored" if restored else "was neither drained nor open"
    console().print(f"{provider} {said}: {now['status']}, share {words(now['share'])}")


async def _restore(dsn: str, provider: str, reason: str) -> tuple[bool, operate.Row]:
    async with connected(dsn) as conn:
        restored = await operate.restore_provider(conn, provider, reason=reason)
        return restored, await operate.provider_status(conn, provider)
