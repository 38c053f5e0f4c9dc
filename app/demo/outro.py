"""What is said when all is running: where to look, and lines to copy."""

from __future__ import annotations

import os
import shutil
import sys

from rich.panel import Panel
from rich.text import Text

from app.commands.client import Access
from app.commands.output import console
from app.demo.local import Service
from app.embedded import EmbeddedPostgres
from app.settings import Settings


def where_to_look(settings: Settings, dsn: str, access: Access, service: Service) -> None:
    at = service.at
    links = [f"[bold]API[/]       {at.api}/docs"]
    if service.with_sandbox:
        links.append(f"[bold]Mailbox[/]   {at.sandbox}/   what the outside world received")
    links.append(f"[bold]Logs[/]      {settings.data_dir}/log/   [bold]Key[/]  {settings.data_dir}/client.json")
    console().print(
        Panel("\n".join(links), title="Landed is running; Ctrl-C stops it", title_align="left", expand=False)
    )
    # Plain, so that a line can be copied whole however wide the terminal is.
    landed = os.path.relpath(sys.argv[0])
    for title, line in (
        ("Send by REST", _curl(access)),
        ("Ask by SQL", _psql(settings, dsn)),
        ("See what becomes of it", f"{landed} trace <id>    {landed} status --watch    {landed} doctor"),
    ):
        console().print(Text(f"\n{title}:", style="bold"))
        console().print(line, markup=False, soft_wrap=True)


def _curl(access: Access) -> str:
    body = (
        '{"recipient_id": "ada", "category": "security", "template_id": "password-reset", "variables": '
        '{"product": "Northwind", "reset_url": "https://northwind.example/reset", "valid_minutes": 30}}'
    )
    return (
        f"curl -s {access.url}/api/v1/notifications/send -H 'Authorization: Bearer {access.key}' "
        f"-H 'Idempotency-Key: '$(date +%s%N) -H 'Content-Type: application/json' -d '{body}'"
    )


def _psql(settings: Settings, dsn: str) -> str:
    query = "SELECT recipient_id, state, reason, attempts FROM reporting.deliveries ORDER BY created_at DESC LIMIT 20"
    if settings.database_url is not None:
        return f'psql "$LANDED_DATABASE_URL" -c "{query}"'  # its password is nobody's to print
    program = "psql" if shutil.which("psql") else EmbeddedPostgres(settings.data_dir / "postgres").psql
    return f"{program} '{dsn}' -c \"{query}\""
