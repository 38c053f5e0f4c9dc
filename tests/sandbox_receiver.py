"""Takes what the provider sandbox posts, and keeps it as it came."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass(frozen=True, slots=True)
class Post:
    """One request: ``url`` is whole, ``headers`` have lower-case names."""

    method: str
    url: str
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver(ThreadingHTTPServer):
    """An HTTP server on loopback. ``status_for`` may answer a post with something else than 200."""

    def __init__(self) -> None:
        self._posts: list[Post] = []
        self._lock = threading.Lock()
        self.status_for: Callable[[Post], int] = lambda _: 200
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def posts(self, path: str = "/") -> Sequence[Post]:
        """Those whose path begins with ``path``, in the order they came."""
        with self._lock:
            return [post for post in self._posts if post.path.startswith(path)]

    def take(self, post: Post) -> int:
        with self._lock:
            self._posts.append(post)
            return self.status_for(post)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        post = Post(self.command, f"{self.server.url}{self.path}", self.path, headers, body)
        self.send_response(self.server.take(post))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET = _take

    def log_message(self, *_: object) -> None:
        pass
