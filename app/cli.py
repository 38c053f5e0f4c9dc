"""``landed``: everything from a shell. Each command is a few lines over a flow, in ``app.commands``.

Exit codes: 0 it was done; 1 a check failed or the request was refused; 2 wrong usage; 3 the database or the
API cannot be reached. ``--json`` prints one JSON document for programs. An expected error is told in words,
never as a traceback.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

# Loaded when asked for: `landed send` need not wait for the import of all that `landed api` is made of.
COMMANDS = {
    "up": "app.demo.up:up",
    "api": "app.commands.serve:api",
    "worker": "app.commands.serve:worker",
    "sandbox": "app.sandbox.__main__:main",
    "migrate": "app.commands.serve:migrate",
    "send": "app.commands.send:send",
    "trace": "app.commands.look:trace",
    "render": "app.commands.look:render",
    "status": "app.commands.look:status",
    "providers": "app.commands.providers:providers",
    "lanes": "app.commands.providers:lanes",
    "drain": "app.commands.providers:drain",
    "restore": "app.commands.providers:restore",
    "replay": "app.commands.replay:replay",
    "bounce": "app.commands.bounce:bounce",
    "templates": "app.commands.templates:templates",
    "tenant": "app.commands.tenants:tenant",
    "key": "app.commands.tenants:key",
    "doctor": "app.commands.doctor:doctor",
    "bench": "app.commands.bench:bench",
}


class Landed(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            from app.commands.endings import ending_of  # what it knows of errors takes a while to import

            ending = ending_of(error)
            if ending is None:
                raise
            raise ending from error


@click.group(cls=Landed, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="landed")
def main() -> None:
    """Transactional notifications that are proven to land, on nothing but Postgres."""


if __name__ == "__main__":
    main(prog_name="landed")
