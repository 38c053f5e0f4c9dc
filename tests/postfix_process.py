"""Postfix as mail servers run it, for tests that need the real thing: its own configuration, queue, ports and log, and
nothing of the system's instance.

Needs root, since Postfix changes users. On Debian it is installed when it is missing; where that cannot be, the tests
that ask for it are skipped and say why.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pytest

from tests.sandbox_process import free_port, wait_until

PACKAGES = ("postfix", "sasl2-bin", "libsasl2-modules")
INSTALL_SECONDS = 300
STOP_SECONDS = 30
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

MASTER = """\
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
virtual   unix  -       n       n       -       -       virtual
anvil     unix  -       -       n       -       1       anvil
postlog   unix-dgram n  -       n       -       1       postlogd
"""


def need_postfix() -> None:
    """Skips the test where there is no Postfix and none can be had."""
    if os.geteuid() != 0:
        pytest.skip("Postfix changes users, and only root may start it")
    with (Path(tempfile.gettempdir()) / "landed-tests-postfix.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all(shutil.which(program, path=PATH) for program in ("postfix", "saslpasswd2")):
            return
        if (apt := shutil.which("apt-get")) is None:
            pytest.skip("Postfix is not installed, and this is no Debian to install it on")
        # RUNLEVEL=1: the package must not start the system's own instance.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *PACKAGES]):
            done = subprocess.run(
                [apt, *command], env=environment, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
            if done.returncode != 0:
                pytest.skip(f"Postfix cannot be installed: apt-get {command[0]}: {done.stderr.strip()[-200:]}")


@dataclass
class Listener:
    """One port of a mail server on loopback, with settings of its own."""

    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    def line(self) -> str:
        options = "".join(f"\n  -o {{ {name} = {value} }}" for name, value in self.settings.items())
        return f"127.0.0.1:{self.port} inet n - n - - smtpd{options}\n"


class Postfix:
    """One instance, started by ``with`` and stopped at its end.

    settings: of main.cf; master: further lines of master.cf. ``{home}`` in either is the instance's directory, where
    files may be put before it starts.
    """

    def __init__(
        self, hostname: str, *, listeners: Sequence[Listener], settings: Mapping[str, str], master: str = ""
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="landed-postfix-"))
        self.home.chmod(0o755)  # its servers run as users of their own
        self._hostname = hostname
        self._listeners = listeners
        self._settings = settings
        self._master = master
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for name in ("config", "queue", "data"):
            (self.home / name).mkdir(mode=0o755)
        shutil.chown(self.home / "data", "postfix")
        self._configure()
        with (self.home / "out").open("wb") as output:
            self._process = subprocess.Popen(
                ["postfix", "-c", str(self.home / "config"), "start-fg"],
                env={**os.environ, "PATH": PATH},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._is_up, what="the start of Postfix")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def log(self) -> str:
        return "".join(path.read_text() for name in ("out", "log") if (path := self.home / name).exists())

    def put(self, name: str, content: str | bytes, *, mode: int = 0o644) -> Path:
        """A file in the instance's directory."""
        path = self.home / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def add_login(self, username: str, password: str) -> None:
        """One who may log in, as ``username@hostname``, on listeners with ``smtpd_sasl_auth_enable``."""
        database = self.home / "data" / "sasldb2"
        subprocess.run(
            ["saslpasswd2", "-p", "-c", "-f", str(database), "-u", self._hostname, username],
            env={**os.environ, "PATH": PATH},
            input=password.encode(),
            check=True,
        )
        shutil.chown(database, "postfix")

    def _configure(self) -> None:
        config = self.home / "config"
        listeners = "".join(listener.line() for listener in self._listeners)
        (config / "master.cf").write_text((listeners + MASTER + self._master).replace("{home}", str(self.home)))
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": self.home / "queue",
            "data_directory": self.home / "data",
            "maillog_file": self.home / "log",
            "maillog_file_prefixes": self.home,
            "myhostname": self._hostname,
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "alias_maps": "",
            "local_recipient_maps": "",
            "local_transport": "error:there is no local delivery",
            "smtpd_sasl_path": "smtpd",
            "smtpd_sasl_local_domain": self._hostname,
            "cyrus_sasl_config_path": config / "sasl",  # where Debian's looks in any case
            "disable_dns_lookups": "yes",
            "smtp_host_lookup": "native",
            "fast_flush_domains": "",
            # What takes minutes elsewhere takes seconds here. A run that meets a message whose last try is not quite
            # over leaves it for a whole minute, so tries stand further apart than runs.
            "queue_run_delay": "1s",
            "minimal_backoff_time": "2s",
            "maximal_backoff_time": "2s",
            **self._settings,
        }
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (config / "main.cf").write_text(lines.replace("{home}", str(self.home)))
        (config / "sasl").mkdir()
        (config / "sasl" / "smtpd.conf").write_text(
            f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {self.home / 'data' / 'sasldb2'}\n"
            "mech_list: PLAIN LOGIN\n"
        )

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Postfix did not start:\n{self.log}"
        return "daemon started" in self.log

    def _stop(self) -> None:
        """Ends the master that was started here, by its id, and returns when the last of its servers is gone."""
        assert self._process is not None
        try:
            master = psutil.Process(int((self.home / "queue" / "pid" / "master.pid").read_text()))
        except (FileNotFoundError, psutil.NoSuchProcess):  # it did not come so far
            self._process.terminate()
        else:
            servers = [master, *master.children(recursive=True)]
            master.terminate()
            wait_until(lambda: all(map(_is_gone, servers)), what="the end of Postfix")
        self._process.wait(STOP_SECONDS)


def _is_gone(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True
