"""A real Chromium without a window, driven over the DevTools protocol. Debian's is installed where it is missing and
the tests run as root; elsewhere without one, the test is skipped and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.sandbox_process import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL_SECONDS_MAX = 100  # of the 120 s a test may take
START_SECONDS_MAX = 60
PATIENCE_SECONDS = 20
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--remote-debugging-port=0",
    # The tests need nobody but this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "about:blank",
)

Message = dict[str, Any]


def chromium() -> str:
    """The browser's program, installed first if need be; skips the test where there can be none."""
    if (found := _found()) is not None:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("needs Chromium: install it (apt-get install chromium), or run the tests as root on Debian")
    with Path(tempfile.gettempdir(), "landed-tests-chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (found := _found()) is None:
            _install()
            found = _found()
    if found is None:
        pytest.skip("needs Chromium, which apt-get could not install: see its output above")
    return found


def _found() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _install() -> None:
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, env=quiet, check=False, timeout=INSTALL_SECONDS_MAX)


class Browser:
    """The connection to one browser, and what it has said."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._said: list[Message] = []
        self._news = asyncio.Event()

    async def listen(self) -> None:
        async for frame in self._socket:
            message = frame.json()
            if (answer := self._answers.pop(message.get("id"), None)) is not None:
                answer.set_result(message)
            else:
                self._said.append(message)
                self._news.set()

    async def call(self, method: str, session: str | None = None, /, **parameters: Any) -> Message:
        """What a command answers. Raises AssertionError with the browser's words when it refuses."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        about = {} if session is None else {"sessionId": session}
        await self._socket.send_json({"id": number, "method": method, "params": parameters} | about)
        async with asyncio.timeout(PATIENCE_SECONDS):
            message = await answer
        assert "error" not in message, (method, message["error"])
        result: Message = message["result"]
        return result

    async def heard(self, method: str, fits: Callable[[Message], Any]) -> Any:
        """The first true thing that ``fits`` says of an event of this name, past or still to come."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            seen = 0
            while True:
                self._news.clear()
                for message in self._said[seen:]:
                    if message.get("method") == method and (found := fits(message["params"])):
                        return found
                seen = len(self._said)
                await self._news.wait()

    async def open(self, url: str) -> Page:
        """A page that has loaded. Its own Content-Security-Policy does not bind the test."""
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        page = await self.attach(target)
        await page.call("Page.enable")
        await page.call("Page.setBypassCSP", enabled=True)
        await page.go(url)
        return page

    async def attach(self, target: str) -> Page:
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        return Page(self, session)

    async def worker(self, url: str) -> Page:
        """The service worker that runs this script."""
        await self.call("Target.setDiscoverTargets", discover=True)

        def is_it(event: Message) -> Any:
            info = event["targetInfo"]
            return info["type"] == "service_worker" and info["url"] == url and info["targetId"]

        return await self.attach(await self.heard("Target.targetCreated", is_it))


class Page:
    """A page or a worker."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser = browser
        self._session = session

    async def call(self, method: str, /, **parameters: Any) -> Message:
        return await self.browser.call(method, self._session, **parameters)

    async def go(self, url: str) -> None:
        loaded = await self.call("Page.navigate", url=url)
        assert "errorText" not in loaded, loaded
        await self.run("new Promise((done) => document.readyState === 'complete' ? done() : (onload = () => done()))")

    async def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise. Raises AssertionError with what it threw."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        thrown = answer.get("exceptionDetails")
        assert thrown is None, thrown["exception"].get("description", thrown)
        return answer["result"].get("value")


@contextlib.asynccontextmanager
async def running_chromium(directory: Path) -> AsyncIterator[Browser]:
    """A browser with a profile of its own, and nothing left of it afterwards."""
    process = await asyncio.to_thread(_start, directory)
    try:
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(await asyncio.to_thread(_address, process, directory), max_msg_size=0) as socket,
        ):
            browser = Browser(socket)
            listening = asyncio.create_task(browser.listen())
            try:
                yield browser
            finally:
                await socket.close()
                await listening
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _start(directory: Path) -> subprocess.Popen[bytes]:
    with (directory / "chromium.out").open("wb") as output:
        return subprocess.Popen(
            [chromium(), f"--user-data-dir={directory / 'profile'}", *FLAGS],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _address(process: subprocess.Popen[bytes], directory: Path) -> str:
    """Where it listens: it writes a port and a path once it does."""
    file = directory / "profile" / "DevToolsActivePort"

    def written() -> str | None:
        assert process.poll() is None, (directory / "chromium.out").read_text()[-2000:]
        text = file.read_text() if file.exists() else ""
        return text if "/devtools/" in text else None

    port, path = wait_until(written, seconds=START_SECONDS_MAX, what="the browser's start").split()
    return f"ws://127.0.0.1:{port}{path}"
