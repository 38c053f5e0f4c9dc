"""Everything on this machine, from one command."""

from __future__ import annotations

from pathlib import Path

import click

from app.commands.database import run
from app.demo.run import Options, serve_until_stopped


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Of the API.  [default: api.port, 8025]")
@click.option("--sandbox-port", default=8026, show_default=True, type=click.IntRange(1, 65535), help="Of the sandbox.")
@click.option("--no-demo", is_flag=True, help="Send nothing, and keep times as they are configured.")
@click.option("--exit-after-demo", is_flag=True, help="Stop when the demo is over; exit 1 unless all of it is proven.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write what the demo showed, as an SVG.",
)
def up(port: int | None, sandbox_port: int, no_demo: bool, exit_after_demo: bool, picture: Path | None) -> None:
    """Start it all on this machine, and show how mail is followed to its proven end.

    PostgreSQL, API, worker and sandbox serve until Ctrl-C, which stops all of them. Data, key and logs stay
    in LANDED_DATA_DIR (var) for the next time. LANDED_DATABASE_URL replaces the embedded PostgreSQL. With
    providers configured, those are used and no demo is sent.
    """
    if no_demo and exit_after_demo:
        raise click.UsageError("--no-demo leaves nothing to exit after")

    options = Options(port, sandbox_port, with_demo=not no_demo, exit_after_demo=exit_after_demo, picture=picture)
    raise click.exceptions.Exit(run(serve_until_stopped(options)))
