"""Implementations that others wrote for Node.js, as counterparts of ours: ``tests/node/package.json`` pins them.

Use ``run_node`` in a test; the packages are installed the first time anything asks, once per checkout, whatever the
number of pytest processes. Without Node.js the test is skipped and says so; any other trouble fails it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pytest

HOME: Final = Path(__file__).parent / "node"
MODULES: Final = HOME / "node_modules"
LOCK: Final = HOME / "package-lock.json"
STAMP: Final = MODULES / ".installed-from"
NODE_MAJOR_MIN: Final = 20
INSTALL_SECONDS_MAX: Final = 100  # of the 120 s a test may take
RUN_SECONDS_MAX: Final = 30


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder the pinned packages are in."""
    return install()


def run_node(script: str, given: Any = None, *, seconds_max: float = RUN_SECONDS_MAX) -> Any:
    """What ``script`` (CommonJS; ``require`` finds the pinned packages) answers with ``answer(value)``.

    ``given`` is JSON, and so is the answer. Inside the script it is called ``given``; ``await`` may be used.
    """
    install()
    wrapped = (
        "const given = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));\n"
        "const answer = (value) => process.stdout.write(JSON.stringify(value ?? null));\n"
        f"(async () => {{\n{script}\n}})().catch((error) => {{ console.error(error); process.exitCode = 1; }});\n"
    )
    done = subprocess.run(
        [node(), "-e", wrapped],
        cwd=HOME,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=seconds_max,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@lru_cache(maxsize=1)
def node() -> str:
    """The program; skips the test where there is none."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        pytest.skip("Node.js and npm are not installed: the counterparts written for them cannot run")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    major = re.match(r"v(\d+)", version)
    if major is None or int(major[1]) < NODE_MAJOR_MIN:
        pytest.skip(f"Node.js {version} is too old for the counterparts: {NODE_MAJOR_MIN} or newer is needed")
    return found


@lru_cache(maxsize=1)
def install() -> Path:
    """The packages as the lock file pins them, installed again whenever it changes."""
    node()
    with LOCK.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process installs, the others wait for it and find it done
        wanted = hashlib.sha256(lock.read()).hexdigest()
        if not STAMP.exists() or STAMP.read_text() != wanted:
            _npm_ci()
            STAMP.write_text(wanted)
    return MODULES


def _npm_ci() -> None:
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=HOME,
        env=os.environ | {"NODE_ENV": "development"},
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS_MAX,
    )
    assert done.returncode == 0, f"npm ci in {HOME} failed:\n{done.stdout}{done.stderr}"
