"""One notification, from a shell."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import click

from app.commands.client import Client, access_options
from app.commands.database import connected, dsn_of, run
from app.commands.output import console, json_option, print_json
from app.commands.replay import TIME, as_utc
from app.settings import load_settings
from app.store import operate


@click.command()
@click.argument("recipient")
@click.argument("template")
@click.option("--category", required=True, help="What kind of notification it is.")
@click.option("--var", "pairs", multiple=True, metavar="NAME=VALUE", help="A variable; JSON where it reads as JSON.")
@click.option("--vars", "document", metavar="JSON|@FILE", default="{}", help="All variables, as one JSON object.")
@click.option("--version", type=click.IntRange(1), help="Of the template; else the newest published.")
@click.option("--idempotency-key", help="Else a new one, which is printed.")
@click.option("--send-at", type=TIME, help="Not before.")
@click.option("--expires-at", type=TIME, help="Worthless after.")
@click.option("--sql", is_flag=True, help="Call landed.send in the database in place of the REST API.")
@click.option("--tenant", help="Whose; with --sql only, for otherwise the key says so.")
@access_options
@json_option
def send(
    *,
    recipient: str,
    template: str,
    category: str,
    pairs: tuple[str, ...],
    document: str,
    version: int | None,
    idempotency_key: str | None,
    send_at: datetime | None,
    expires_at: datetime | None,
    sql: bool,
    tenant: str | None,
    url: str | None,
    api_key: str | None,
    as_json: bool,
) -> None:
    """Send TEMPLATE to RECIPIENT, by the REST API or with --sql. Prints the notification's id."""
    if sql != (tenant is not None):
        raise click.UsageError("--sql and --tenant go together")
    request = {
        "recipient_id": recipient,
        "template_id": template,
        "template_version": version,
        "category": category,
        "variables": _variables(document, pairs),
        "send_at": as_utc(send_at),
        "expires_at": as_utc(expires_at),
        "idempotency_key": idempotency_key or f"cli-{uuid4()}",
    }
    if sql:
        id = run(_by_sql(dsn_of(load_settings()), {**request, "tenant": tenant}))
    else:
        with Client(url, api_key) as client:
            id = UUID(client.post("/api/v1/notifications/send", _as_body(request))["id"])
    if as_json:
        print_json({"id": id, "idempotency_key": request["idempotency_key"]})
    else:
        console().print(f"{id}  accepted; `landed trace {id}` tells what became of it")


async def _by_sql(dsn: str, request: dict[str, Any]) -> UUID:
    async with connected(dsn) as conn:
        return await operate.send(conn, **request)


def _as_body(request: dict[str, Any]) -> dict[str, Any]:
    """As JSON carries it: what was not given is not there."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in request.items()
        if value is not None
    }


def _variables(document: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    if document.startswith("@"):
        try:
            document = Path(document[1:]).read_text()
        except OSError as error:
            raise click.BadParameter(f"cannot read {document[1:]}: {error.strerror}", param_hint="--vars") from None
    try:
        variables = json.loads(document)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--vars") from None
    if not isinstance(variables, dict):
        raise click.BadParameter("must be a JSON object", param_hint="--vars")
    return variables | dict(map(_pair, pairs))


def _pair(text: str) -> tuple[str, Any]:
    """``total="12.00"`` is a text, ``count=3`` a number, ``name=Ada`` a text without its quotes."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"{text!r} must read NAME=VALUE", param_hint="--var")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
