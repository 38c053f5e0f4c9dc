"""One PostgreSQL for the whole run, a migrated template in it, and a database or a transaction for each test.

The server is the embedded one, or the one that LANDED_TEST_DATABASE_URL names. Whichever process needs it
first starts it, under a file lock, so ``pytest -n`` and runs without a database both cost what they must and
no more; the process that started pytest stops it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import pytest
from hypothesis import settings as hypothesis_settings
from psycopg import conninfo, sql

from app.db import Database
from app.embedded import EmbeddedPostgres
from app.migrate import migrate

# What a test proves is not that the disk flushes; a killed server loses nothing without it, only a killed
# machine.
TEST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "128MB",
    # Named steps on two connections may leave one waiting while the other works.
    "idle_in_transaction_session_timeout": "120s",
}
RUN_PREFIX = "landed-tests-"
TEMPLATE = "template"
DIR_KEY = pytest.StashKey[Path]()
SERVER_KEY = pytest.StashKey[EmbeddedPostgres]()

# The same examples in each run, so that a run judges the change; ``--hypothesis-profile default`` looks for new ones.
hypothesis_settings.register_profile("repeatable", derandomize=True)
hypothesis_settings.load_profile("repeatable")


# -- the run's directory: made by the controlling process, known to the workers ------------------------------


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.stash[DIR_KEY] = Path(config.workerinput["landed_run_dir"])
    else:
        _sweep_dead_runs()
        config.stash[DIR_KEY] = Path(tempfile.mkdtemp(prefix=f"{RUN_PREFIX}{os.getpid()}-"))
        config.stash[DIR_KEY].chmod(0o755)  # the server may run as another user


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    node.workerinput["landed_run_dir"] = str(node.config.stash[DIR_KEY])


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        if SERVER_KEY in config.stash:
            config.stash[SERVER_KEY].stop("immediate")
        _remove_run(config.stash[DIR_KEY])


def _sweep_dead_runs() -> None:
    """A run that was killed could not stop its server; the next one does."""
    for directory in Path(tempfile.gettempdir()).glob(f"{RUN_PREFIX}*-*"):
        pid = directory.name.removeprefix(RUN_PREFIX).split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)) and directory.owner() == Path.home().owner():
            _remove_run(directory)


def _remove_run(directory: Path) -> None:
    if (directory / "postgres").exists():
        EmbeddedPostgres(directory / "postgres").stop("immediate")
    elif (directory / "external").exists():
        # The server of a run long dead may be gone, and its databases with it.
        with suppress(psycopg.OperationalError):
            _drop_databases(*(directory / "external").read_text().split("\n"))
    shutil.rmtree(directory, ignore_errors=True)


# -- the server and its template -----------------------------------------------------------------------------


class Cluster:
    """The server of this run, and the names of the databases the run makes in it."""

    def __init__(self, dsn: str, prefix: str) -> None:
        self._admin = conninfo.make_conninfo(dsn, dbname="postgres")
        self._prefix = prefix

    def dsn(self, name: str) -> str:
        return conninfo.make_conninfo(self._admin, dbname=self._prefix + name)

    def create(self, name: str, *, template: str | None = None) -> str:
        source = sql.Identifier("template0" if template is None else self._prefix + template)
        self._run("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", sql.Identifier(self._prefix + name), source)
        return self.dsn(name)

    def drop(self, name: str) -> None:
        self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(self._prefix + name))

    def _run(self, statement: str, *names: sql.Identifier) -> None:
        with psycopg.connect(self._admin, autocommit=True) as admin:
            admin.execute(sql.SQL(statement).format(*names))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Cluster:
    directory = request.config.stash[DIR_KEY]
    with _only_one(directory / "lock"):
        found = _external(directory) or _embedded(request.config)
        if not (directory / "migrated").exists():
            migrate(found.create(TEMPLATE))
            (directory / "migrated").touch()
    return found


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _external(directory: Path) -> Cluster | None:
    dsn = os.environ.get("LANDED_TEST_DATABASE_URL")
    if not dsn:
        return None
    prefix = f"{directory.name}_"
    (directory / "external").write_text(f"{dsn}\n{prefix}")
    return Cluster(dsn, prefix)


def _embedded(config: pytest.Config) -> Cluster:
    server = EmbeddedPostgres(config.stash[DIR_KEY] / "postgres", TEST_SETTINGS)
    config.stash[SERVER_KEY] = server
    return Cluster(server.start(), "test_")


def _drop_databases(dsn: str, prefix: str) -> None:
    with psycopg.connect(conninfo.make_conninfo(dsn, dbname="postgres"), autocommit=True) as admin:
        found = admin.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (prefix,)).fetchall()
        for (name,) in found:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


# -- what tests ask for --------------------------------------------------------------------------------------


@pytest.fixture
def empty_dsn(cluster: Cluster) -> Iterator[str]:
    """A database of the test's own with nothing in it, for tests of the migrations themselves."""
    name = uuid4().hex[:12]
    yield cluster.create(name)
    cluster.drop(name)


@pytest.fixture
def dsn(cluster: Cluster) -> Iterator[str]:
    """A migrated database of the test's own: for commits, NOTIFY, and more than one connection."""
    name = uuid4().hex[:12]
    yield cluster.create(name, template=TEMPLATE)
    cluster.drop(name)


@pytest.fixture(scope="session")
def shared_dsn(cluster: Cluster) -> Iterator[str]:
    """A migrated database that the tests of one process share and none of them commits to."""
    name = f"shared_{os.getpid()}"
    yield cluster.create(name, template=TEMPLATE)
    cluster.drop(name)


@pytest.fixture
async def conn(shared_dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A connection inside a transaction that is rolled back: the default, and by far the fastest."""
    connection = await psycopg.AsyncConnection.connect(shared_dsn, application_name="landed tests")
    yield connection
    await connection.rollback()
    await connection.close()


@pytest.fixture
async def seed(dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A session in the test's own database whose every statement commits."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, application_name="landed tests") as session:
        yield session


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    """The same database, as the service's own code reaches it."""
    async with Database(dsn, name="landed tests") as database:
        yield database


@pytest.fixture(autouse=True)
async def no_leaks() -> AsyncIterator[None]:
    """Tasks and child processes that outlive their test would work against the next one."""
    children = set(psutil.Process().children())
    yield
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]
    assert not tasks, f"the test left tasks running: {tasks}"
    left = [child for child in psutil.Process().children() if child not in children and child.is_running()]
    assert not left, f"the test left child processes running: {left}"
