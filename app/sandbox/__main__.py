"""``python -m app.sandbox``: the sandbox on its own."""

from __future__ import annotations

from pathlib import Path

import click

from app.sandbox.config import SandboxConfig
from app.sandbox.ledger import LedgerError
from app.sandbox.server import serve

_DEFAULTS = SandboxConfig(ledger_path=Path("sandbox-ledger.jsonl"))


@click.command(context_settings={"show_default": True, "auto_envvar_prefix": "LANDED_SANDBOX"})
@click.option("--host", default=_DEFAULTS.host, help="Address to listen on.")
@click.option("--port", default=_DEFAULTS.port, help="Port to listen on.")
@click.option("--domain", default=_DEFAULTS.domain, help="The one sending domain this account has.")
@click.option("--api-key", default=_DEFAULTS.api_key, help="Key that callers must present.")
@click.option("--signing-key", default=_DEFAULTS.signing_key, help="Key that webhooks are signed with.")
@click.option("--webhook-url", help="Where events are posted.  [default: nowhere]")
@click.option("--no-webhooks", is_flag=True, help="Post no webhooks; the Events API still has the events.")
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
def main(ledger: Path, webhook_url: str | None, no_webhooks: bool, **settings: object) -> None:
    """Serve a provider that fails on request."""
    url = None if no_webhooks else webhook_url
    try:
        config = SandboxConfig(ledger_path=ledger, webhook_url=url, **settings)  # type: ignore[arg-type]
        click.echo(f"Mailbox on http://{config.host}:{config.port}/", err=True)
        serve(config)
    except (LedgerError, ValueError) as exc:
        raise click.ClickException(str(exc)) from exc


if __name__ == "__main__":
    main()
