"""The processes of the service, and what brings its database up to date."""

from __future__ import annotations

import click

from app.commands.database import dsn_of, settings_with_database
from app.commands.output import json_option, notes, print_json
from app.log import configure
from app.migrate import migrate as apply_migrations
from app.migrate import pending
from app.settings import load_settings


@click.command()
def api() -> None:
    """Serve the REST API until told to stop."""
    from app.api.server import serve

    settings = settings_with_database()
    configure(settings.log_level)
    serve(settings)


@click.command()
@click.option("--lanes", multiple=True, help="Serve only lanes that match, such as 'sms.*'; may be repeated.")
def worker(lanes: tuple[str, ...]) -> None:
    """Run a worker until told to stop; any number may run, each for all lanes or for some."""
    from jobs.worker import serve

    settings = settings_with_database()
    configure(settings.log_level)
    serve(settings, dsn_of(settings), lanes)


@click.command()
@click.option("--check", is_flag=True, help="Only say what is pending; exit 1 if anything is.")
@json_option
def migrate(check: bool, as_json: bool) -> None:
    """Bring the database to this release's schema; safe to run twice, and while the service runs."""
    dsn = dsn_of(load_settings())
    waiting = pending(dsn)
    if not check:
        apply_migrations(dsn)
    if as_json:
        print_json({"pending" if check else "applied": waiting})
    else:
        done = "pending" if check else "applied"
        notes().print(f"{done}: {', '.join(waiting)}" if waiting else "nothing to do: the schema is up to date")
    if check and waiting:
        raise click.exceptions.Exit(1)
