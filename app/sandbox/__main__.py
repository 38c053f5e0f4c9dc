"""``python -m app.sandbox``: the sandbox on its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from app.sandbox.config import SandboxConfig
from app.sandbox.ledger import LedgerError
from app.sandbox.protocol import Protocol
from app.sandbox.registry import PROTOCOLS
from app.sandbox.server import serve

_DEFAULTS = SandboxConfig(ledger_path=Path("sandbox-ledger.jsonl"))
F = TypeVar("F", bound=Callable[..., Any])


def _settings_options(function: F) -> F:
    """An option for each setting of each protocol."""
    for kind in reversed(list(PROTOCOLS.values())):
        for field in reversed(dataclasses.fields(kind.settings_type)):
            option = f"--{_name(kind, field.name).replace('_', '-')}"
            help_text = field.metadata["help"]
            kind_of_value = str if field.default is None else type(field.default)
            function = click.option(option, type=kind_of_value, default=field.default, help=help_text)(function)
    return function


def _name(kind: type[Protocol], setting: str) -> str:
    prefix = f"{kind.name}_" if kind.option_prefix is None else kind.option_prefix
    return f"{prefix}{setting}"


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """Take the settings of the protocols out of the options: one object for each."""
    return {
        kind.name: kind.settings_type(
            **{field.name: options.pop(_name(kind, field.name)) for field in dataclasses.fields(kind.settings_type)}
        )
        for kind in PROTOCOLS.values()
    }


@click.command(context_settings={"show_default": True, "auto_envvar_prefix": "LANDED_SANDBOX"})
@click.option("--host", default=_DEFAULTS.host, help="Address to listen on.")
@click.option("--port", default=_DEFAULTS.port, help="Port to listen on.")
@click.option("--public-url", help="Where others reach it.  [default: http://HOST:PORT]")
@click.option("--webhook-base-url", help="Where events are posted, under each provider's name.  [default: nowhere]")
@click.option("--webhook-url", help="Where Mailgun's events are posted instead.")
@click.option("--no-webhooks", is_flag=True, help="Post no webhooks; who asks is still told.")
@click.option(
    "--ledger",
    type=click.Path(path_type=Path, dir_okay=False),
    default=_DEFAULTS.ledger_path,
    help="Ledger file.",
)
@click.option("--speed", default=_DEFAULTS.speed, help="Divides every scripted delay; 1 is realistic.")
@click.option("--hold-seconds", default=_DEFAULTS.hold_seconds, help="How long an unanswered call is kept open.")
@click.option("--webhooks-in-flight", default=_DEFAULTS.webhooks_in_flight, help="Webhooks posted at the same time.")
@click.option("--mailbox-limit", default=_DEFAULTS.mailbox_limit, help="Messages kept for the mailbox page.")
@click.option("--seed", default=_DEFAULTS.seed, help="Makes random faults repeatable.")
@click.option(
    "--tls-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The sandbox's own certificate authority; callers trust its ca.pem.  [default: beside the ledger]",
)
@_settings_options
def main(ledger: Path, no_webhooks: bool, **options: Any) -> None:
    """Serve providers that fail on request."""
    protocols = _settings(options)
    try:
        config = SandboxConfig(ledger_path=ledger, webhooks=not no_webhooks, protocols=protocols, **options)
        click.echo(f"Mailbox on {config.base_url}/", err=True)
        serve(config)
    except (LedgerError, ValueError) as exc:
        raise click.ClickException(str(exc)) from exc


if __name__ == "__main__":
    main()
