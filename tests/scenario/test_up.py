"""``landed up`` on a machine that has nothing yet; and on the same one again."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from app.demo.scenarios import SCENARIOS
from app.embedded import EmbeddedPostgres
from tests.landed_process import Landed
from tests.sandbox_process import free_port, wait_until

UP_SECONDS = 180  # bounds a run that is broken, on a machine that is busy


@pytest.fixture
def landed() -> Iterator[Landed]:
    """An empty directory that PostgreSQL's own account can walk to; pytest's are private."""
    home = Path(tempfile.mkdtemp(prefix="landed-up-"))
    home.chmod(0o755)
    service = Landed(home)
    yield service
    service.kill_all()
    EmbeddedPostgres(home / "var" / "postgres").destroy()
    shutil.rmtree(home)


def said(log: Path, text: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None or text in log.read_text(), f"it ended:\n{log.read_text()}"
    return text in log.read_text()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def two_free_ports() -> int:
    """The first of two neighbours, as the sandbox takes them, below those that outgoing connections may take."""
    while True:
        port = random.randrange(15_000, 32_000)
        if not is_listening(port) and not is_listening(port + 1):
            return port


@pytest.mark.slow
@pytest.mark.timeout(2 * UP_SECONDS)
def test_an_empty_directory_becomes_a_demo_that_is_proven_and_leaves_nothing_running(landed: Landed):
    port, sandbox_port = free_port(), two_free_ports()
    ports = ("--port", str(port), "--sandbox-port", str(sandbox_port))
    log, var = landed.home / "up.log", landed.home / "var"

    first = landed.start("up", "--exit-after-demo", *ports, "--picture", "demo.svg", output=log)
    assert first.wait(UP_SECONDS) == 0, log.read_text()
    told = log.read_text()
    for scenario in SCENARIOS:
        assert any(scenario.name in line and "✓" in line for line in told.splitlines()), told
    assert f"{len(SCENARIOS)} of {len(SCENARIOS)} proven" in told
    assert "0 accepted twice" in told
    assert (landed.home / "demo.svg").read_text().startswith("<svg")
    access = var / "client.json"
    assert access.stat().st_mode & 0o777 == 0o600
    assert not is_listening(port)

    # Again, with a port of ours taken: the data and the key are the same, the port is not.
    with socket.create_server(("127.0.0.1", port)):
        second = landed.start("up", "--no-demo", *ports, output=log)
        wait_until(lambda: said(log, "Landed is running", second), seconds=UP_SECONDS, what="the second start")
    assert f"Port {port} is busy" in log.read_text()
    now = json.loads(access.read_text())
    assert now["key"] in log.read_text(), "the curl line lacks the key"
    assert count(var, "SELECT count(*) FROM store.api_keys") == 1
    assert count(var, "SELECT count(*) FROM reporting.deliveries") == len(SCENARIOS) - 1
    assert count(var, "SELECT count(*) FROM reporting.stuck") == 0
    assert "already" in landed.run("up").stderr

    # The worker dies and comes back; the sandbox will not hear of stopping.
    family = psutil.Process(second.pid)
    child(family, "worker").kill()
    wait_until(lambda: said(log, "started again", second), what="the death to be noticed")
    wait_until(lambda: child(family, "worker"), what="another worker")
    child(family, "sandbox").suspend()
    everyone = [*family.children(recursive=True), psutil.Process(postmaster(var))]
    assert len(everyone) >= 4
    second.send_signal(signal.SIGINT)
    assert second.wait(UP_SECONDS) == 0, log.read_text()
    _, left = psutil.wait_procs(everyone, timeout=10)
    assert not left, f"left running: {left}"
    assert not list((var / "postgres").glob(".s.PGSQL*"))
    assert not any(map(is_listening, (int(now["url"].rsplit(":", 1)[1]), sandbox_port)))


def count(var: Path, query: str) -> int:
    with psycopg.connect(EmbeddedPostgres(var / "postgres").find()) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def postmaster(var: Path) -> int:
    return int((var / "postgres" / "postmaster.pid").read_text().split()[0])


def child(family: psutil.Process, name: str) -> psutil.Process | None:
    return next((c for c in family.children() if c.cmdline()[-2:] == ["app.cli", name]), None)


@pytest.mark.slow
def test_a_stop_in_the_middle_of_the_start_leaves_nothing_running(landed: Landed):
    log = landed.home / "up.log"
    starting = landed.start("up", "--port", str(free_port()), "--sandbox-port", str(two_free_ports()), output=log)
    data = landed.home / "var" / "postgres"
    wait_until(lambda: starting.poll() is not None or data.exists(), what="PostgreSQL's start")
    starting.send_signal(signal.SIGTERM)
    assert starting.wait(UP_SECONDS) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert not (landed.home / "var" / "postgres" / "postmaster.pid").exists()


def test_no_demo_mail_goes_to_a_provider_that_somebody_configured(landed: Landed, dsn: str):
    """The demo's addresses belong to strangers: only the sandbox may see them."""
    account = {"adapter": "mailgun", "domain": "mg.example.com", "api_key": "k", "webhook_signing_key": "s"}
    landed.settings |= {
        "LANDED_DATABASE_URL": dsn,
        "LANDED_PROVIDERS": json.dumps({"mail": account | {"base_url": f"http://127.0.0.1:{free_port()}"}}),
        "LANDED_ROUTES": json.dumps({"email": ["mail"]}),
    }
    log = landed.home / "up.log"
    up = landed.start("up", "--exit-after-demo", "--port", str(free_port()), output=log)
    assert up.wait(UP_SECONDS) == 0, log.read_text()
    assert "the demo is left out" in log.read_text()
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT count(*) FROM store.notifications").fetchone() == (0,)
