"""``landed bench``: figures, and ratios against a baseline in the same run on the same machine.

    ingest    POST send, one notification a request, against a bare route that validates the same body
    batch     POST send-batch
    drain     accepted emails to the provider, against one procrastinate job per notification with httpx
    sms       the same with text messages
    push      the same with pushes, over HTTP/2 and TLS; and the transport alone against httpx
    in_app    accepted notifications to inboxes, against a transaction for each; and how soon an open app shows them,
              against asking every second
    trickle   a transactional send's way from its 202 to the provider, while a campaign drains

It runs on a throw-away embedded server with its ordinary durable settings, or in databases of its own on ``--server``.
"""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import click
import uvloop
from rich.console import Console
from rich.table import Table

from app.bench import batch, drain, fan_out, ingest, live, push, stage, trickle
from app.embedded import scratch_postgres

T = TypeVar("T")
Rate = drain.Drained | fan_out.Written | push.Carried
PARTS = ("ingest", "batch", "drain", "sms", "push", "in_app", "trickle")
AIMS = {
    "ingest": "at least 0.5 of the bare route and 3,000/s",
    "drain": "4,000/s and 10 times the obvious design",
    "in_app": "shown within 500 ms",
}


def run(arguments: Sequence[str]) -> int:
    """The command line of ``landed bench``; answers its exit status."""
    result: int | None = bench.main(args=list(arguments), prog_name="landed bench", standalone_mode=False)
    return result or 0


@click.command(help=(__doc__ or "").replace("\n\n    ", "\n\n\b\n    "))  # the list stays a list
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Measure only this; may be repeated.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of each; the median counts.")
@click.option("--messages", default=20_000, show_default=True, help="Notifications in one drain.")
@click.option("--requests", default=10_000, show_default=True, help="Requests in one round of ingest.")
@click.option("--connections", default=64, show_default=True, help="Concurrent clients of ingest.")
@click.option("--streams", default=200, show_default=True, help="Calls at once over HTTP/2; apps that are open.")
@click.option("--campaign", default=50_000, show_default=True, help="Promotional backlog beside single sends.")
@click.option("--sends", default=100, show_default=True, help="Sends in the trickle; thrice as many to open apps.")
@click.option("--server", help="A PostgreSQL server's DSN; databases are made and dropped in it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def bench(
    only: tuple[str, ...],
    rounds: int,
    messages: int,
    requests: int,
    connections: int,
    streams: int,
    campaign: int,
    sends: int,
    server: str | None,
    as_json: bool,
) -> int:
    console = Console(stderr=as_json)
    results: dict[str, dict[str, Any]] = {}
    with _server(server) as server_dsn:
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "ingest": lambda: _ingest(server_dsn, requests, connections, rounds),
            "batch": lambda: _batch(server_dsn, requests, rounds),
            "drain": lambda: _drain(server_dsn, "drain", messages, rounds),
            "sms": lambda: _drain(server_dsn, "sms", messages, rounds),
            "push": lambda: _push(server_dsn, messages, streams, rounds),
            "in_app": lambda: _in_app(
                server_dsn, messages, rounds, streams=streams, sends=3 * sends, campaign=campaign
            ),
            "trickle": lambda: _trickle(server_dsn, campaign, sends),
        }
        for part in only or PARTS:
            with console.status(f"measuring {part} ..."):
                results[part] = measures[part]()
            if not as_json:
                console.print(_table(part, results[part]))
    if as_json:
        click.echo(json.dumps(results, indent=2))
    return 0


@contextlib.contextmanager
def _server(dsn: str | None) -> Iterator[str]:
    if dsn is not None:
        yield dsn
        return
    with scratch_postgres() as server:
        yield server.dsn()


def _in_database(server_dsn: str, measure: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    with stage.database(server_dsn) as dsn:
        return uvloop.run(measure(dsn))


def _ingest(server_dsn: str, requests: int, connections: int, rounds: int) -> dict[str, Any]:
    measured = _in_database(
        server_dsn,
        lambda dsn: ingest.measure(dsn, requests=requests, connections=connections, rounds=rounds),
    )
    return {
        "per_second": measured.api.per_second,
        "bare_per_second": measured.bare.per_second,
        "ratio": measured.ratio,
        "p50_ms": measured.api.p50_ms,
        "p99_ms": measured.api.p99_ms,
        "refused": measured.api.refused,
        "peak_memory_mb": measured.api.peak_memory_mb,
    }


def _batch(server_dsn: str, requests: int, rounds: int) -> dict[str, Any]:
    items = 500
    runs = [
        _in_database(
            server_dsn, lambda dsn: batch.measure(dsn, requests=max(4, requests // items), items=items, connections=4)
        )
        for _ in range(rounds)
    ]
    return {
        "per_second": statistics.median(r.per_second for r in runs),
        "peak_memory_mb": max(r.peak_memory_mb for r in runs),
    }


def _drain(server_dsn: str, line: str, messages: int, rounds: int) -> dict[str, Any]:
    """Rounds alternate, so that what else the machine does meets both."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(_in_database(server_dsn, lambda dsn: drain.landed(dsn, line=line, messages=messages)))
        theirs.append(
            _in_database(server_dsn, lambda dsn: drain.obvious(dsn, line=line, messages=max(500, messages // 20)))
        )
    return {
        **_beside(ours, theirs, "obvious"),
        "peak_memory_mb": max(r.peak_memory_mb for r in ours),
        "obvious_peak_memory_mb": max(r.peak_memory_mb for r in theirs),
    }


def _push(server_dsn: str, messages: int, streams: int, rounds: int) -> dict[str, Any]:
    carried = push.measure(requests=messages, streams=streams, rounds=rounds)
    alone = _beside(carried.ours, carried.httpx, "httpx")
    return {
        **_drain(server_dsn, "push", messages, rounds),
        **{f"transport_{name}": value for name, value in alone.items()},
    }


def _in_app(server_dsn: str, messages: int, rounds: int, *, streams: int, sends: int, campaign: int) -> dict[str, Any]:
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(_in_database(server_dsn, lambda dsn: fan_out.landed(dsn, messages=messages)))
        theirs.append(_in_database(server_dsn, lambda dsn: fan_out.naive(dsn, messages=messages // 2)))
    shown = _in_database(server_dsn, lambda dsn: live.measure(dsn, streams=streams, sends=sends, campaign=campaign))
    return {
        **_beside(ours, theirs, "naive"),
        **{f"live_{name}": value for name, value in asdict(shown.streamed).items()},
        **{f"polled_{name}": value for name, value in asdict(shown.polled).items()},
        "live_ratio": shown.polled.stored_p50_ms / shown.streamed.stored_p50_ms,
        **{f"campaign_{name}": value for name, value in asdict(shown.campaign).items()},
        "campaign_left": shown.campaign_left,
    }


def _beside(ours: Sequence[Rate], theirs: Sequence[Rate], name: str) -> dict[str, float]:
    """The medians of both. cpu_us: what one message takes of the CPU, in whichever processes send it."""
    per_second = statistics.median(r.per_second for r in ours)
    other = statistics.median(r.per_second for r in theirs)
    return {
        "per_second": per_second,
        f"{name}_per_second": other,
        "ratio": per_second / other,
        "cpu_us": statistics.median(r.cpu_us for r in ours),
        f"{name}_cpu_us": statistics.median(r.cpu_us for r in theirs),
    }


def _trickle(server_dsn: str, campaign: int, sends: int) -> dict[str, Any]:
    return asdict(_in_database(server_dsn, lambda dsn: trickle.measure(dsn, campaign=campaign, sends=sends)))


def _table(part: str, result: dict[str, Any]) -> Table:
    table = Table(title=part, caption=AIMS.get(part), show_header=False, title_justify="left", min_width=46)
    table.add_column()
    table.add_column(justify="right")
    for name, value in result.items():
        table.add_row(name.replace("_", " "), f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
    return table
