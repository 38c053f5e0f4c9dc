from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from app import embedded
from app.embedded import SOCKET_DIR_BYTES_MAX, EmbeddedPostgres, scratch_postgres
from app.errors import ConfigurationError

FAST = {"fsync": "off", "shared_buffers": "16MB", "max_connections": "10"}
OWNER = """
import sys, time
from pathlib import Path
from app.embedded import EmbeddedPostgres
print(EmbeddedPostgres(Path(sys.argv[1]), {"fsync": "off", "shared_buffers": "16MB"}).start(), flush=True)
time.sleep(600)
"""
# Each test starts servers of its own, and always PostgreSQL 18.
pytestmark = pytest.mark.slow

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="is about what root does")


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that the server's own account can walk to; pytest's are private."""
    directory = Path(tempfile.mkdtemp(prefix="landed-home-"))
    directory.chmod(0o755)
    yield directory
    for data in directory.rglob("postgres"):
        EmbeddedPostgres(data).destroy()
    subprocess.run(["rm", "-rf", str(directory)], check=True)


def value(dsn: str, query: str = "SELECT 1") -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    return None if row is None else row[0]


def own_in_another_process(data_dir: Path) -> tuple[subprocess.Popen[str], str]:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(data_dir)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    return owner, owner.stdout.readline().strip()


def is_gone(pid: int) -> bool:
    """Ended, or ending: an orphan stays in the process table until process 1 takes note of it."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or bool(psutil.wait_procs([process], timeout=30)[0])
    except psutil.NoSuchProcess:
        return True


def kill(owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.communicate()


def test_a_second_start_finds_the_data_of_the_first(home: Path):
    server = EmbeddedPostgres(home / "postgres", FAST)
    with psycopg.connect(server.start()) as connection:
        connection.execute("CREATE TABLE kept (x int)")
        connection.execute("INSERT INTO kept VALUES (42)")
    first = server.dsn()
    server.stop()
    assert server.start() == first
    assert value(first, "SELECT x FROM kept") == 42
    server.stop()


def test_nothing_is_left_running_after_stop(home: Path):
    server = EmbeddedPostgres(home / "postgres", FAST)
    server.start()
    pid = server.pid
    server.stop()
    server.stop()
    assert is_gone(pid)
    assert not list((home / "postgres").glob(".s.PGSQL*"))
    assert not (home / "postgres" / "postmaster.pid").exists()


def test_durable_by_default_and_reachable_over_tcp_with_the_password_only(home: Path):
    server = EmbeddedPostgres(home / "postgres")
    server.start()
    assert value(server.tcp_dsn(), "SELECT current_setting('fsync')") == "on"
    assert value(server.tcp_dsn(), "SELECT current_setting('synchronous_commit')") == "on"
    wrong = psycopg.conninfo.make_conninfo(server.tcp_dsn(), password="wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
    assert (home / "postgres").stat().st_mode & 0o077 == 0
    server.stop()


def test_a_second_landed_attaches_and_leaves_the_server_to_its_owner(home: Path):
    owner = EmbeddedPostgres(home / "postgres", FAST)
    guest = EmbeddedPostgres(home / "postgres", FAST)
    dsn = owner.start()
    assert guest.start() == dsn
    assert not guest.owned
    with pytest.raises(ConfigurationError, match="in use"):
        EmbeddedPostgres(home / "postgres").destroy()
    guest.stop()
    assert value(dsn) == 1
    owner.stop()


def test_a_server_whose_owner_was_killed_is_adopted_and_stopped(home: Path):
    owner, dsn = own_in_another_process(home / "postgres")
    kill(owner)
    assert value(dsn) == 1
    server = EmbeddedPostgres(home / "postgres", FAST)
    assert server.start() == dsn
    assert server.owned
    pid = server.pid
    server.stop()
    assert is_gone(pid)


def test_a_server_that_was_killed_with_its_owner_recovers(home: Path):
    owner, dsn = own_in_another_process(home / "postgres")
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    server = EmbeddedPostgres(home / "postgres", FAST)
    server.start()
    postmaster = psutil.Process(server.pid)
    family = [postmaster, *postmaster.children(recursive=True)]
    server.stop()
    kill(owner)
    for process in family:
        with suppress(psutil.NoSuchProcess):  # the others leave by themselves when the postmaster dies
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=60)
    assert (home / "postgres" / "postmaster.pid").exists()
    assert value(server.start(), "SELECT x FROM kept") == 42
    server.stop()


def test_a_stale_pid_that_now_is_another_process_does_not_stop_the_start(home: Path):
    server = EmbeddedPostgres(home / "postgres", FAST)
    server.start()
    server.stop()
    # PostgreSQL believes a pid file that names a live process of its own account; this one sleeps elsewhere.
    sleeper = subprocess.Popen(["/bin/sleep", "600"], cwd="/", user=(home / "postgres").stat().st_uid)
    pid_file = home / "postgres" / "postmaster.pid"
    pid_file.write_text(f"{sleeper.pid}\n{home / 'postgres'}\n1\n5432\n/tmp\nlocalhost\n")
    try:
        assert value(server.start()) == 1
    finally:
        server.stop()
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_keeps_the_address_and_what_was_committed(home: Path, mode):
    server = EmbeddedPostgres(home / "postgres", FAST)
    dsn = server.start()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    before = server.pid
    assert server.restart(mode) == dsn
    assert server.pid != before
    assert value(dsn, "SELECT x FROM kept") == 42
    server.stop()


def test_a_long_path_gets_a_socket_in_a_short_one(home: Path):
    deep = home / ("d" * SOCKET_DIR_BYTES_MAX) / "postgres"
    server = EmbeddedPostgres(deep, FAST)
    assert value(server.start()) == 1
    socket_dir = Path(str(psycopg.conninfo.conninfo_to_dict(server.dsn())["host"]))
    assert socket_dir.stat().st_mode & 0o077 == 0
    server.stop()
    assert not socket_dir.exists()


def test_a_taken_port_is_replaced_by_a_free_one(home: Path):
    first = EmbeddedPostgres(home / "one" / "postgres", FAST)
    second = EmbeddedPostgres(home / "two" / "postgres", FAST)
    first.start()
    port = psycopg.conninfo.conninfo_to_dict(first.dsn())["port"]
    second.start()
    second.stop()
    conf = home / "two" / "postgres" / "landed.conf"
    conf.write_text(f"port = '{port}'\n")
    second.start()
    assert psycopg.conninfo.conninfo_to_dict(second.dsn())["port"] != port
    second.stop()
    first.stop()


def test_a_setting_that_postgres_refuses_is_an_error_that_shows_the_log(home: Path):
    server = EmbeddedPostgres(home / "postgres", {"shared_buffers": "a lot"})
    with pytest.raises(ConfigurationError, match="shared_buffers"):
        server.start()
    assert not server.owned


def test_a_directory_of_other_things_is_not_taken_over(home: Path):
    (home / "postgres").mkdir()
    (home / "postgres" / "thesis.txt").write_text("three years of work")
    with pytest.raises(ConfigurationError, match="neither empty nor"):
        EmbeddedPostgres(home / "postgres", FAST).start()
    assert (home / "postgres" / "thesis.txt").read_text() == "three years of work"


@as_root
def test_root_in_a_private_home_gets_a_server_without_opening_the_home(home: Path):
    home.chmod(0o700)
    asked_for = home / "project" / "postgres"
    server = EmbeddedPostgres(asked_for, FAST)
    first = server.start()
    assert value(first) == 1
    server.stop()
    assert home.stat().st_mode & 0o777 == 0o700
    again = EmbeddedPostgres(asked_for, FAST)
    assert again.start() == first
    again.destroy()
    assert not server.data_dir.exists()
    assert not asked_for.is_symlink()


@as_root
def test_root_with_a_virtual_environment_in_a_private_home_gets_a_server_too(home: Path, tmp_path: Path, monkeypatch):
    packaged = embedded._packaged_bin_dir()
    package = packaged.parents[1]
    site = tmp_path / "site-packages"
    tmp_path.chmod(0o700)
    shutil.copytree(packaged.parent, site / package.name / packaged.parent.name, symlinks=True)
    if (libraries := package.with_name(f"{package.name}.libs")).exists():
        shutil.copytree(libraries, site / libraries.name)
    monkeypatch.setattr(embedded, "_packaged_bin_dir", lambda: site / packaged.relative_to(package.parent))
    with tempfile.TemporaryDirectory(prefix="landed-system-") as system:
        Path(system).chmod(0o755)
        monkeypatch.setattr(embedded, "SYSTEM_DIR", Path(system))
        server = EmbeddedPostgres(home / "project" / "postgres", FAST)
        assert value(server.start()) == 1
        server.destroy()


@as_root
def test_an_unprivileged_user_runs_it_as_themselves(home: Path):
    nobody = pwd.getpwnam("nobody")
    if not embedded._can_enter(embedded._packaged_bin_dir(), nobody):
        pytest.skip("this virtual environment lies in a directory that nobody else can enter")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    # Python itself may lie where nobody cannot go, so the process lets go of root only once it runs.
    script = """
import os, sys
from pathlib import Path
from app.embedded import EmbeddedPostgres
os.setgroups([])
os.setgid(int(sys.argv[3]))
os.setuid(int(sys.argv[2]))
server = EmbeddedPostgres(Path(sys.argv[1]), {"fsync": "off", "shared_buffers": "16MB"})
server.start()
server.stop()
"""
    command = [sys.executable, "-c", script, str(home / "postgres"), str(nobody.pw_uid), str(nobody.pw_gid)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert (home / "postgres").owner() == "nobody"


def test_a_backend_of_initdb_is_not_taken_for_the_server(home: Path):
    data_dir = home / "postgres"
    data_dir.mkdir()
    (data_dir / "postmaster.pid").write_text(f"-{os.getpid()}\n{data_dir}\n")
    with pytest.raises(ConfigurationError, match="not running"):
        EmbeddedPostgres(data_dir).find()


def test_a_scratch_server_leaves_no_trace():
    with scratch_postgres(FAST) as server:
        assert value(server.dsn()) == 1
        pid, directory = server.pid, server.data_dir.parent
    assert is_gone(pid)
    assert not directory.exists()
