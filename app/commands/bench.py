"""Measuring; what is measured, and how, is in ``app.bench``."""

from __future__ import annotations

import importlib

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def bench(options: tuple[str, ...]) -> None:
    """Measure ingest, drain and latency against baselines in the same run; see --help."""
    # By name: what measures drags in clients and baselines that no other command needs.
    status = importlib.import_module("app.bench.main").run(list(options))
    raise click.exceptions.Exit(status or 0)
