"""``landed bench``: figures, and ratios against a baseline in the same run on the same machine.

    ingest    POST send, one notification a request, against a bare route that validates the same body
    batch     POST send-batch
    drain     accepted emails to the provider, against one procrastinate job per notification with httpx
    sms       the same with text messages
    push      the same with pushes, over HTTP/2 and TLS; and the transport alone against httpx
    in_app    accepted notifications to inboxes, against a transaction for each; and how soon an open app shows them,
              against asking every second
    trickle   a transactional send's way from its 202 to the provider, while a campaign drains
    bulkhead  the hand-off of lanes whose vendors are well, beside a vendor that hangs and one that fails
    backlog   the claim of a lane, beside a multitude that is due in another and scheduled in the same
    rates     what a provider with a rate counts of four workers, against four that do not share it
    prober    how many calls of eight workers a provider that is down must bear
    failover  a vendor dies under load and comes back: what is late, lost, or sent twice

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

from app.bench import (
    backlog,
    batch,
    bulkhead,
    drain,
    failover,
    fan_out,
    ingest,
    live,
    prober,
    push,
    rates,
    stage,
    trickle,
    vendor,
)
from app.embedded import scratch_postgres

T = TypeVar("T")
Rate = drain.Drained | fan_out.Written | push.Carried
PARTS = (
    "ingest",
    "batch",
    "drain",
    "sms",
    "push",
    "in_app",
    "trickle",
    "bulkhead",
    "backlog",
    "rates",
    "prober",
    "failover",
)
FLAT = 1.5  # what a neighbour's bad day may cost at most, as a ratio
RATE, RATE_WORKERS = 50.0, 4
PROBERS, COOL_OFF_SECONDS = 8, 2.0
LOAD_PER_SECOND = 100
AIMS = {
    "ingest": "at least 0.5 of the bare route and 3,000/s",
    "drain": "4,000/s and 10 times the obvious design",
    "in_app": "shown within 500 ms",
    "bulkhead": "at most 1.5 times quiet",
    "backlog": "at most 1.5 times alone",
    "rates": "never above the allowance, and 0.9 of the rate used",
    "prober": "one call a cool-off",
    "failover": "nothing lost, nothing sent twice",
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
@click.option("--backlog", "multitude", default=100_000, show_default=True, help="Deliveries a claim is made beside.")
@click.option("--seconds", default=20.0, show_default=True, help="How long a rate is watched.")
@click.option("--cool-offs", default=5, show_default=True, help="Cool-offs in which a provider's calls are counted.")
@click.option("--down", default=15.0, show_default=True, help="Seconds a vendor is down; it is watched a third before.")
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
    multitude: int,
    seconds: float,
    cool_offs: int,
    down: float,
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
            "bulkhead": lambda: _bulkhead(server_dsn, 2 * sends),
            "backlog": lambda: _backlog(server_dsn, multitude, 3 * sends),
            "rates": lambda: _rates(server_dsn, seconds),
            "prober": lambda: _prober(server_dsn, cool_offs),
            "failover": lambda: _failover(server_dsn, down),
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


def _bulkhead(server_dsn: str, sends: int) -> dict[str, Any]:
    measured = _in_database(server_dsn, lambda dsn: bulkhead.measure(dsn, sends=sends))
    phases = {"quiet": measured.quiet, "busy": measured.busy, "ill": measured.ill, "unbroken": measured.unbroken}
    ratios = {
        f"{name}_{cut}_of_{other}": getattr(phases[name], f"{cut}_ms") / getattr(phases[other], f"{cut}_ms")
        for other in ("quiet", "busy")
        for name in ("ill", "unbroken")
        for cut in ("p50", "p99")
    }
    return {
        "sends": measured.quiet.sends,
        **{f"{name}_{cut}": getattr(phase, cut) for name, phase in phases.items() for cut in ("p50_ms", "p99_ms")},
        **ratios,
        "hung_calls": measured.hung,
        "failed_calls": measured.failed,
        "met": max(ratios["ill_p50_of_quiet"], ratios["ill_p99_of_quiet"]) <= FLAT,
    }


def _backlog(server_dsn: str, deliveries: int, claims: int) -> dict[str, Any]:
    with stage.database(server_dsn) as alone, stage.database(server_dsn) as beside:
        measured = uvloop.run(backlog.measure(alone, beside, deliveries=deliveries, claims=claims))
    p50, p99 = measured.beside_p50_ms / measured.alone_p50_ms, measured.beside_p99_ms / measured.alone_p99_ms
    return {
        "due_beside": measured.due_beside,
        "scheduled": measured.scheduled,
        "claims": measured.claims,
        "alone_p50_ms": measured.alone_p50_ms,
        "alone_p99_ms": measured.alone_p99_ms,
        "beside_p50_ms": measured.beside_p50_ms,
        "beside_p99_ms": measured.beside_p99_ms,
        "p50_ratio": p50,
        "p99_ratio": p99,
        "lock_due_ms": measured.plan.milliseconds,
        "lock_due_buffers": measured.plan.buffers,
        "by_index": measured.plan.indexes == backlog.INDEXES,
        "met": max(p50, p99) <= FLAT and measured.plan.sound,
    }


def _rates(server_dsn: str, seconds: float) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        dsns = [stack.enter_context(stage.database(server_dsn)) for _ in range(RATE_WORKERS)]
        measured = uvloop.run(rates.measure(dsns, rate=RATE, seconds=seconds))
    windows: dict[str, Any] = {}
    for window in measured.windows:
        windows[f"most_in_{window.seconds:g}_s"] = window.calls
        windows[f"allowed_in_{window.seconds:g}_s"] = window.allowed
    return {
        "workers": measured.workers,
        "rate_per_second": measured.rate,
        "calls": measured.calls,
        "utilisation": measured.utilisation,
        **windows,
        "worst_of_allowance": measured.worst.calls / measured.worst.allowed,
        "of_rate": measured.overshoot,
        "unshared_of_rate": measured.unshared_overshoot,
        "ratio": measured.unshared_overshoot / measured.overshoot,
        "met": measured.worst.calls <= measured.worst.allowed and measured.utilisation > 0.9,
    }


def _prober(server_dsn: str, cool_offs: int) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        dsn, *apart = [stack.enter_context(stage.database(server_dsn)) for _ in range(PROBERS + 1)]
        measured, unshared = uvloop.run(
            prober.measure(dsn, apart, cool_offs=cool_offs, cool_off_seconds=COOL_OFF_SECONDS)
        )
    return {
        "workers": PROBERS,
        "cool_off_seconds": COOL_OFF_SECONDS,
        "cool_offs": len(measured.calls),
        "calls_before": measured.before,
        "calls_least": min(measured.calls),
        "calls_most": max(measured.calls),
        "unshared_calls": statistics.mean(unshared.calls),
        "ratio": statistics.mean(unshared.calls) / statistics.mean(measured.calls),
        "met": measured.before == 0 and set(measured.calls) == {1},
    }


def _failover(server_dsn: str, down: float) -> dict[str, Any]:
    def measured(mood: vendor.Mood) -> failover.FailedOver:
        return _in_database(
            server_dsn,
            lambda dsn: failover.measure(
                dsn, mood, per_second=LOAD_PER_SECOND, steady_seconds=down / 3, down_seconds=down
            ),
        )

    dead, failing = measured("dead"), measured("failing")
    return {
        **failover.BREAKERS,
        "load_per_second": LOAD_PER_SECOND,
        "down_seconds": down,
        **{f"dead_{name}": value for name, value in asdict(dead).items()},
        "dead_p99_ratio": dead.down_p99_ms / dead.steady_p99_ms,
        **{f"failing_{name}": value for name, value in asdict(failing).items()},
        "failing_p99_ratio": failing.down_p99_ms / failing.steady_p99_ms,
        "met": dead.lost == failing.lost == dead.sent_twice == failing.sent_twice == 0,
    }


def _table(part: str, result: dict[str, Any]) -> Table:
    table = Table(title=part, caption=AIMS.get(part), show_header=False, title_justify="left", min_width=46)
    table.add_column()
    table.add_column(justify="right")
    for name, value in result.items():
        table.add_row(name.replace("_", " "), _shown(value))
    return table


def _shown(value: float | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
