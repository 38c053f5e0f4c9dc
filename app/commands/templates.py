"""Templates that live as files beside the code that sends them (R-140)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from app.commands.client import Client, access_options
from app.commands.output import json_option, notes, print_json, print_table
from app.rendering.files import TemplateFile, load_templates

PATH = "/api/v1/notifications/templates"


@click.group()
def templates() -> None:
    """Push templates from files, and list what is there."""


@templates.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--publish", is_flag=True, help="Publish what was pushed; else new versions are drafts.")
@access_options
@json_option
def push(directory: Path, publish: bool, url: str | None, api_key: str | None, as_json: bool) -> None:
    """Push every template in DIRECTORY as a new version; what has not changed makes none."""
    files = load_templates(directory)
    with Client(url, api_key) as client:
        # A bar only where somebody watches it; standard output stays for the result.
        watched = track(files, "Pushing", console=notes(), transient=True, disable=not notes().is_terminal)
        pushed = [push_one(client, file, publish=publish) for file in watched]
    if as_json:
        print_json(pushed)
    else:
        print_table("Templates", pushed, "template_id", "version", "status", "unchanged")


def push_one(client: Client, file: TemplateFile, *, publish: bool) -> dict[str, Any]:
    """The version that the file now is."""
    body = {name: value for name, value in asdict(file).items() if value is not None and value != {}}
    version: dict[str, Any] = client.post(PATH, body)
    unchanged = version["unchanged"]
    if publish and version["status"] == "draft":
        version = client.post(f"{PATH}/{version['template_id']}/versions/{version['version']}/publish")
    return {name: version[name] for name in ("template_id", "version", "status")} | {"unchanged": unchanged}


@templates.command("list")
@click.option("--status", type=click.Choice(["draft", "published", "archived"]), help="Only these.")
@access_options
@json_option
def list_all(status: str | None, url: str | None, api_key: str | None, as_json: bool) -> None:
    """List the versions of all templates."""
    with Client(url, api_key) as client:
        found = client.pages(PATH, **({"status": status} if status else {}))
    if as_json:
        print_json(found)
    else:
        rows = [{**version, "variables": list(version["variables"])} for version in found]
        print_table(
            "Templates", rows, "template_id", "version", "status", "channels", "subject", "variables", "created_at"
        )
