"""Whether this machine, this configuration and this database can do the work; if not, what to do about it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import click
import psycopg
from rich.console import Group
from rich.text import Text

from app.commands.database import connected, dsn_of, run
from app.commands.endings import Unreachable, ending_of
from app.commands.output import STYLES, console, json_option, print_json
from app.db import Connection
from app.errors import ConfigurationError, LandedError
from app.migrate import pending
from app.providers.mailgun import Mailgun
from app.providers.registry import make_provider
from app.rendering.pool import RenderPool
from app.rendering.types import Rendered, RenderJob, TemplateSource
from app.settings import Inequality, Settings, load_settings
from app.store import operate

POSTGRES_MIN = 15
CLOCK_SKEW_SECONDS_MAX = 2.0  # a worker's retry times and the database's due times are compared to the second
DAYS_AHEAD_MIN = 2  # upkeep makes a week; less than two days is the moment to look
API_KEY = re.compile(r"(key-)?[0-9a-f]{32}(-[0-9a-f]{8}-[0-9a-f]{8})?")  # Mailgun's, old and new
SIGNING_KEY = re.compile(r"[0-9a-f]{32}")
LOOPBACK = ("localhost", "127.0.0.1", "::1")

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. hint: what to do; given whenever it is not ``ok``."""

    name: str
    status: Status
    detail: str
    hint: str = ""


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check configuration, database, migrations, clock, providers, webhooks and renderer.

    Exits 1 when a check fails; a warning is no failure.
    """
    checks = run(_collect())
    if as_json:
        print_json(checks)
    else:
        _show(checks)
    if any(check.status == "fail" for check in checks):
        raise click.exceptions.Exit(1)


def _show(checks: list[Check]) -> None:
    marks = {"ok": "✓", "warn": "!", "fail": "✗"}
    for check in checks:
        style = STYLES[check.status]
        line = Text.assemble((f"{marks[check.status]} {check.name:<18} ", style), check.detail)
        hint = [Text(f"    → {check.hint}", style=style)] if check.hint else []
        console().print(Group(line, *hint))
    counts = {status: sum(check.status == status for check in checks) for status in marks}
    console().print(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed", style="bold")


async def _collect() -> list[Check]:
    try:
        settings = load_settings()
    except ConfigurationError as error:
        hint = "correct landed.toml or the LANDED_* variable; docs/reference/configuration.md lists them all"
        return [Check("configuration", "fail", error.detail, hint)]
    checks = [Check("configuration", "ok", f"region {settings.region}, data in {settings.data_dir}")]
    checks += [check async for check in _of_database(settings)]
    checks += [*_of_providers(settings), _of_public_url(settings), await _of_renderer(), *_of_times(settings)]
    return checks


# The database --------------------------------------------------------------------------------------------


async def _of_database(settings: Settings) -> AsyncIterator[Check]:
    try:
        dsn = dsn_of(settings)
        async with connected(dsn) as conn:
            yield await _of_server(conn)
            yield await _of_clock(conn)
            migrations = await _of_migrations(dsn)
            yield migrations
            if migrations.status == "ok":
                yield await _of_partitions(conn)
                yield await _of_workers(conn)
                yield await _of_stuck(conn)
    except (Unreachable, psycopg.OperationalError) as error:
        ending = ending_of(error) if isinstance(error, psycopg.Error) else error
        hint = "is LANDED_DATABASE_URL right, and does the server run and let us in?"
        yield Check("database", "fail", ending.message if ending else str(error), hint)


async def _of_server(conn: Connection) -> Check:
    major = (await operate.server(conn)).major
    if major < POSTGRES_MIN:
        return Check("database", "fail", f"PostgreSQL {major}", f"version {POSTGRES_MIN} or newer is needed")
    return Check("database", "ok", f"PostgreSQL {major}, as {conn.info.user} in {conn.info.dbname}")


async def _of_clock(conn: Connection) -> Check:
    """Against the middle of the question's way there and back."""
    asked, asked_at = time.monotonic(), datetime.now(UTC)
    theirs = (await operate.server(conn)).now
    half_way = timedelta(seconds=(time.monotonic() - asked) / 2)
    skew = (theirs - asked_at - half_way).total_seconds()
    detail = f"{skew * 1000:+.0f} ms from the database's"
    if abs(skew) > CLOCK_SKEW_SECONDS_MAX:
        return Check("clock", "fail", detail, "set both clocks by NTP; retries and leases are timed by them")
    return Check("clock", "ok", detail)


async def _of_migrations(dsn: str) -> Check:
    waiting = await asyncio.to_thread(pending, dsn)
    if waiting:
        return Check("migrations", "fail", f"pending: {', '.join(waiting)}", "run `landed migrate`")
    return Check("migrations", "ok", "up to date")


async def _of_partitions(conn: Connection) -> Check:
    last = await operate.partitions_ahead(conn)
    days = (last - datetime.now(UTC).date()).days if last else 0
    detail = f"made until {last}, {days} days ahead"
    hint = "a running worker makes them at its start and every hour; does one run?"
    if days < 1:
        return Check("partitions", "fail", detail, hint)
    return Check("partitions", "ok", detail) if days >= DAYS_AHEAD_MIN else Check("partitions", "warn", detail, hint)


async def _of_workers(conn: Connection) -> Check:
    alive = [row for row in await operate.workers(conn) if row["alive"]]
    if not alive:
        return Check("workers", "warn", "none is alive", "nothing is sent until `landed worker` runs")
    return Check("workers", "ok", f"{len(alive)} alive")


async def _of_stuck(conn: Connection) -> Check:
    stuck = (await operate.situation(conn, hours=1))["stuck"]
    if stuck:
        return Check(
            "stuck",
            "warn",
            f"{len(stuck)} or more overdue",
            "`landed status` shows them; is a worker running?",
        )
    return Check("stuck", "ok", "nothing is overdue")


# Providers and the way back from them --------------------------------------------------------------------


def _of_providers(settings: Settings) -> Iterator[Check]:
    if not settings.vendors:
        hint = "docs/how-to/use-real-mailgun.md shows how; `landed up` brings a sandbox of its own"
        yield Check("routes", "warn", "no channel is routed to a vendor", hint)
    for route, choices in settings.routes.items():
        yield Check("routes", "ok", f"{route}: {', '.join(choice.provider for choice in choices)}")
    for name, account in settings.vendors.items():
        yield _of_account(name, account)


def _of_account(name: str, settings: dict[str, Any]) -> Check:
    """The shape of the credentials only: a wrong one is the provider's to refuse."""
    try:
        provider = make_provider(name, settings)
    except LandedError as error:
        return Check(f"provider {name}", "fail", error.detail, "docs/how-to has a page for each provider")
    host = urlsplit(str(settings.get("base_url") or "")).hostname
    if host is not None and _is_local(f"//{host}"):
        return Check(f"provider {name}", "ok", f"{provider.name} at {host}: a sandbox, nothing really leaves")
    if isinstance(provider, Mailgun):
        return _of_mailgun(name, provider)
    proof = "confirms deliveries" if provider.capabilities.confirms_delivery else "cannot confirm deliveries"
    return Check(f"provider {name}", "ok", f"{provider.name}; the account is complete; {proof}")


def _of_mailgun(name: str, provider: Mailgun) -> Check:
    account = provider.account
    detail = f"{account.domain} at {urlsplit(account.url).hostname}"
    odd = [
        field
        for field, shape in (("api_key", API_KEY), ("webhook_signing_key", SIGNING_KEY))
        if not shape.fullmatch(getattr(account, field))
    ]
    if odd:
        hint = "copy them anew from Mailgun: API keys, and Webhooks > HTTP webhook signing key"
        return Check(f"provider {name}", "warn", f"{detail}; {' and '.join(odd)} do not look like Mailgun's", hint)
    return Check(f"provider {name}", "ok", f"{detail}; keys have the right shape")


def _of_public_url(settings: Settings) -> Check:
    name, url = "public_url", settings.api.public_url
    outside = [account for account in settings.vendors.values() if not _is_local(str(account.get("base_url") or ""))]
    if url is None:
        hint = "set LANDED_API__PUBLIC_URL: webhooks and unsubscribe links come back through it"
        return Check(name, "warn", "not set", hint)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return Check(name, "fail", f"{url} is no http(s) URL", "give it as https://notify.example.com")
    webhooks = ", ".join(f"{url.rstrip('/')}/api/v1/webhooks/{account}" for account in settings.vendors)
    detail = f"webhooks go to {webhooks or url}"
    if outside and (_is_local(url) or parts.scheme != "https"):
        hint = "a real provider posts from the internet, to a public https URL; look-ups alone prove late"
        return Check(name, "fail" if _is_local(url) else "warn", detail, hint)
    return Check(name, "ok", detail)


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname
    return host is not None and (host in LOOPBACK or "." not in host)


# This machine and its times ------------------------------------------------------------------------------


async def _of_renderer() -> Check:
    hint = "it runs in a process of its own: is there memory, and may this user start processes?"
    job = RenderJob(TemplateSource("doctor", "{{ word }}", None, "{{ word }}"), {"word": "well"})
    pool = RenderPool()
    try:
        await pool.start()
        (result,) = await pool.render([job])
    except LandedError as error:
        return Check("renderer", "fail", error.detail, hint)
    finally:
        await pool.stop()
    if not isinstance(result, Rendered) or result.subject != "well":
        return Check("renderer", "fail", f"answered {result}", hint)
    return Check("renderer", "ok", "starts and renders")


def _of_times(settings: Settings) -> Iterator[Check]:
    """They hold, or the configuration would not have loaded; both numbers show by how much."""
    for rule in settings.time_chain():
        yield Check(f"times ({rule.rule})", "ok" if rule.holds else "fail", _chain_words(rule))


def _chain_words(rule: Inequality) -> str:
    sign = "<" if rule.strict else "<="
    return f"{rule.left} = {rule.left_seconds:,.10g} s {sign} {rule.right} = {rule.right_seconds:,.10g} s"
