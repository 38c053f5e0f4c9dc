"""``landed bounce`` as a mail server's pipe runs it: what it hands over, and the exit codes that decide what becomes of
the message.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.commands.bounce import MESSAGE_BYTES_MAX
from tests.sandbox_process import free_port

TOKEN = "the-token-of-the-bounce-pipe"
TAKEN, UNREADABLE, KEPT = 0, 65, 75
RAW = b"From: MAILER-DAEMON\nSubject: returned \xff\n\nsorry\n"


@contextmanager
def answering(status: int) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    taken: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            taken.append((headers, self.rfile.read(int(headers["content-length"]))))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api/v1/webhooks/relay", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def bounce(url: str, token_file: Path, raw: bytes = RAW) -> Result:
    return CliRunner().invoke(main, ["bounce", "--url", url, "--token-file", str(token_file)], input=raw)


def test_a_message_is_handed_over_as_it_is(token_file):
    with answering(200) as (url, taken):
        done = bounce(url, token_file)
    assert (done.exit_code, done.output) == (TAKEN, "")
    ((headers, body),) = taken
    assert body == RAW
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["content-type"] == "message/rfc822"


def test_of_a_long_message_the_beginning_travels(token_file):
    raw = RAW + b"x" * 3_000_000
    with answering(200) as (url, taken):
        assert bounce(url, token_file, raw).exit_code == TAKEN
    assert taken[0][1] == raw[:MESSAGE_BYTES_MAX]


@pytest.mark.parametrize("status", [400, 406, 422])
def test_what_can_never_be_read_goes_the_way_of_undeliverable_mail(token_file, status):
    with answering(status) as (url, _):
        done = bounce(url, token_file)
    assert done.exit_code == UNREADABLE
    assert f"answered {status}" in done.output


@pytest.mark.parametrize("status", [301, 401, 403, 404, 413, 429, 500, 502, 503])
def test_whatever_may_be_put_right_keeps_the_message_in_the_queue(token_file, status):
    with answering(status) as (url, taken):
        done = bounce(url, token_file)
    assert done.exit_code == KEPT
    assert f"answered {status}" in done.output
    assert len(taken) == 1, "a redirect is an answer, and the token goes nowhere else"


def test_a_message_counted_and_let_go_is_off_the_servers_hands(token_file):
    with answering(202) as (url, _):
        assert bounce(url, token_file).exit_code == TAKEN


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/", "nonsense", "http://[", "ftp://127.0.0.1/", "http://\x00/"]
)
def test_without_an_api_the_message_is_kept(token_file, url):
    done = bounce(url.format(port=free_port()), token_file)
    assert done.exit_code == KEPT
    assert done.output.startswith("Error: no answer from the API")
    assert TOKEN not in done.output


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"", b"two\nlines", "schlüssel".encode()])
def test_without_a_token_the_message_is_kept(tmp_path, content):
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with answering(200) as (url, taken):
        done = bounce(url, path)
    assert done.exit_code == KEPT
    assert str(path) in done.output
    assert taken == []


@pytest.mark.parametrize("arguments", [[], ["--url", "http://127.0.0.1/"], ["--uri", "x"], ["x"]])
def test_not_even_wrong_usage_loses_a_report(arguments):
    done = CliRunner().invoke(main, ["bounce", *arguments], input=RAW)
    assert done.exit_code == KEPT
    assert done.output.startswith("Error: ")


def test_help_is_help():
    done = CliRunner().invoke(main, ["bounce", "--help"])
    assert done.exit_code == 0
    assert "--token-file" in done.output
