"""What the documentation says there is, there is; and what there is, it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from app.api.errors import every_problem
from app.cli import COMMANDS, main
from app.providers.mailgun import MailgunAccount
from app.queue import JobName, make_queue
from app.sandbox.scripts import SCRIPTS
from app.settings import Settings
from jobs.tasks import register

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
CELL = re.compile(r"(?<!\\)\|")
NOT_SETTINGS = ("LANDED_CONFIG", "LANDED_API_URL", "LANDED_API_KEY", "LANDED_SANDBOX", "LANDED_PUBLIC_URL")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#([^)\s]+))?\)")


def rows(page: Path) -> Iterator[list[str]]:
    """The cells of every table row of a page."""
    for line in page.read_text().splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in CELL.split(line)[1:-1]]


def named_first(page: Path) -> dict[str, str]:
    """Table rows by the name in backticks that they begin with: name -> second cell."""
    found = {}
    for cells in rows(page):
        if name := re.fullmatch(r"`([^`]+)`", cells[0]):
            found[name[1]] = cells[1]
    return found


# -- settings ------------------------------------------------------------------------------------------------


def settings_of(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, f"{variable}__")
        else:
            yield variable, field.default


def says(cell: str, default: object) -> bool:
    """Whether a table's cell gives this default."""
    match default:
        case None:
            return cell == ""
        case dict() | tuple() | bool():
            return bool(json.loads(cell.strip("`")) == json.loads(json.dumps(default)))
        case float():
            return cell == f"`{default:.10g}`"
    return cell == f"`{default}`"


SETTINGS = dict(settings_of(Settings, "LANDED_"))


def test_every_setting_is_documented_with_its_default():
    documented = {
        name: default
        for name, default in named_first(DOCS / "reference" / "configuration.md").items()
        if name in SETTINGS or "__" in name
    }
    assert documented.keys() == SETTINGS.keys()
    wrong = {name: default for name, default in SETTINGS.items() if not says(documented[name], default)}
    assert not wrong, f"these are the defaults: {wrong}"


def test_every_field_of_a_mailgun_account_is_documented():
    documented = named_first(DOCS / "reference" / "configuration.md")
    assert MailgunAccount.__dataclass_fields__.keys() <= documented.keys()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docker-compose.yml"], ids=lambda page: page.name)
def test_no_page_names_a_setting_that_is_not_there(page: Path):
    for name in re.findall(r"LANDED_[A-Z_]*[A-Z]", page.read_text()):
        assert name in SETTINGS or name.startswith(NOT_SETTINGS), f"{page.name} names {name}"


# -- commands, errors, views, failure modes, jobs ------------------------------------------------------------


def test_every_command_and_option_is_documented():
    text = (DOCS / "reference" / "cli.md").read_text()
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert f"`landed {name}" in text, f"landed {name}"
        # The sandbox has a page of its own; the bench tells its options by itself.
        if command is not None and name not in ("sandbox", "bench"):
            assert not list(undocumented(command, f"landed {name}", text))
    named = set(re.findall(r"`landed ([a-z]+)", "".join(page.read_text() for page in PAGES)))
    assert named <= COMMANDS.keys(), f"not a command: {named - COMMANDS.keys()}"


def undocumented(command: click.Command, path: str, text: str) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            if f"`{path} {name}" not in text:
                yield f"{path} {name}"
            yield from undocumented(inner, f"{path} {name}", text)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.opts[0] not in text:
            yield f"{path} {parameter.opts[0]}"


def test_every_error_code_is_documented_with_its_status():
    documented = named_first(DOCS / "reference" / "errors.md")
    kinds = {kind.code: kind.status for kind in every_problem()}
    assert documented.keys() == kinds.keys()
    assert all(str(status) in documented[code] for code, status in kinds.items())


def test_every_view_is_documented():
    text = (DOCS / "reporting.md").read_text()
    for file in (ROOT / "sql" / "views").glob("*.sql"):
        for view in re.findall(r"CREATE VIEW (reporting\.\w+)", file.read_text()):
            assert f"`{view}`" in text, view


def test_every_failure_mode_has_its_proof():
    """Each has a test that is marked with it, and no test for a mode that is not described."""
    described = set(re.findall(r"^## (FM-\d\d) ", (DOCS / "failure-modes.md").read_text(), re.MULTILINE))
    marked = {
        mode
        for file in (ROOT / "tests").rglob("test_*.py")
        for mode in re.findall(r"failure_mode\(\"(FM-\d\d)\"\)", file.read_text())
    }
    assert described == {f"FM-{n:02}" for n in range(1, 19)}
    assert marked == described


def test_every_scripted_address_is_documented():
    documented = {name.removesuffix("@…") for name in named_first(DOCS / "sandbox.md") if name.endswith("@…")}
    assert documented == SCRIPTS.keys()


def test_every_job_is_registered_as_it_is_named():
    """A job that procrastinate does not know by name would be filed under queue default, priority 0."""
    queue = make_queue("postgresql://")
    register(queue, Settings())
    ours = {name: task for name, task in queue.tasks.items() if task.queue != "builtin"}
    assert {(job.value.name, job.value.queue, job.value.priority) for job in JobName} == {
        (name, task.queue, task.priority) for name, task in ours.items()
    }


# -- links ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path):
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve()
        assert target.exists(), f"{page.name} links to {path}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {path}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown renderers make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
