"""The SMTP transport against real sockets: what it knows was written, what can no longer leave, and which connections
it uses again. Servers are scripts where a phase must go wrong, and aiosmtpd where others' code is to be the judge.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import ssl
import threading
from base64 import b64encode
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from app.domain.models import OutcomeKind
from app.providers.base import ProviderResponse, SmtpRequest
from app.providers.smtp_transport import SmtpTransport
from app.providers.transport import TransportError, classify_transport_error
from app.providers.transports import open_transport
from app.settings import Endpoints

LONG = 30.0  # a deadline no test waits for
SHORT = 1.0  # a deadline some tests do wait for; nothing depends on its length
MESSAGE = b"Subject: hello\r\n\r\n.one dot\r\n..two\r\nlast\r\n"
PHASES = ("connect", "ehlo", "mail", "rcpt", "data", "final")


def request(port: int, **changes: Any) -> SmtpRequest:
    fields: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "envelope_from": "bounces+ref@mail.test",
        "recipient": "ada+x@example.test",
        "message": MESSAGE,
        "envelope_id": "ref=1+2",
        "local_hostname": "client.test",
    }
    return SmtpRequest(**fields | changes)


async def send(transport: SmtpTransport, what: SmtpRequest, seconds: float = LONG) -> ProviderResponse:
    return await transport.send(what, asyncio.get_running_loop().time() + seconds)


async def failure(transport: SmtpTransport, what: SmtpRequest, seconds: float = LONG) -> TransportError:
    with pytest.raises(TransportError) as failed:
        await send(transport, what, seconds)
    return failed.value


def said(response: ProviderResponse) -> tuple[int, str, bytes]:
    return response.status, response.headers["phase"], response.body


# -- a server that does as it is told ------------------------------------------------------------------------

CLOSE, RESET, HANG = b"close", b"reset", b"hang"
EHLO = b"250-mx.test\r\n250-SIZE 1000000\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n"
GOOD: Mapping[str, bytes] = {
    "connect": b"220 mx.test ESMTP\r\n",
    "ehlo": EHLO,
    "mail": b"250 2.1.0 Ok\r\n",
    "rcpt": b"250 2.1.5 Ok\r\n",
    "data": b"354 go on\r\n",
    "final": b"250 2.0.0 Ok: queued as ABC123\r\n",
    "rset": b"250 2.0.0 Ok\r\n",
    "quit": b"221 2.0.0 Bye\r\n",
}


@dataclass
class Server:
    """Answers each phase with its reply, or with what the ``n``-th connection is to do there: ``script[n, phase]``."""

    replies: dict[str, bytes] = field(default_factory=dict)
    script: dict[tuple[int, str], bytes] = field(default_factory=dict)
    commands: list[bytes] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    connections: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    reached: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            if not await self._answer(number, "connect", reader, writer):
                return
            while command := await reader.readline():
                self.commands.append(command.strip())
                phase = command[:4].strip().lower().decode()
                if not await self._answer(number, phase, reader, writer) or phase == "quit":
                    return
                if phase == "data" and self._reply(number, "data").startswith(b"354"):
                    self.messages.append(await reader.readuntil(b"\r\n.\r\n"))
                    if not await self._answer(number, "final", reader, writer):
                        return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.ended.set()

    def _reply(self, number: int, phase: str) -> bytes:
        return self.script.get((number, phase), self.replies.get(phase, GOOD.get(phase, b"502 5.5.1 What?\r\n")))

    async def _answer(
        self, number: int, phase: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        self.reached[phase].set()
        match self._reply(number, phase):
            case b"close":
                return False
            case b"reset":
                writer.transport.abort()
                return False
            case b"hang":
                await reader.read()
                return False
            case reply:
                writer.write(reply)
                return True


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """A server whose handlers have all ended when the context does."""
    tasks: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        await handler(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=2**24)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.gather(*tasks)


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# -- a message goes out --------------------------------------------------------------------------------------


async def test_a_message_arrives_with_its_envelope_and_its_dots():
    server = Server()
    async with serving(server) as port, SmtpTransport() as transport:
        response = await send(transport, request(port))
    assert said(response) == (250, "final", b"2.0.0 Ok: queued as ABC123")
    assert response.headers["envelope-id"] == "ref=1+2"
    size = len(MESSAGE)
    assert server.commands[:4] == [
        b"EHLO client.test",
        b"MAIL FROM:<bounces+ref@mail.test> SIZE=%d RET=HDRS ENVID=ref+3D1+2B2" % size,
        b"RCPT TO:<ada+x@example.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;ada+2Bx@example.test",
        b"DATA",
    ]
    assert server.messages == [b"Subject: hello\r\n\r\n..one dot\r\n...two\r\nlast\r\n.\r\n"]


async def test_no_receipts_are_asked_for_where_none_are_wanted():
    server = Server()
    async with serving(server) as port, SmtpTransport() as transport:
        await send(transport, request(port, receipts=False))
    assert b" NOTIFY=FAILURE,DELAY " in server.commands[2]


async def test_parameters_go_only_to_a_server_that_offers_them():
    server = Server({"ehlo": b"250 mx.test\r\n"})
    async with serving(server) as port, SmtpTransport() as transport:
        assert (await send(transport, request(port))).status == 250
    assert server.commands[1:3] == [b"MAIL FROM:<bounces+ref@mail.test>", b"RCPT TO:<ada+x@example.test>"]


@pytest.mark.parametrize("message", [b"a\nb\n.\nc", b"a\rb\r.\rc\r", b"a\r\nb\r\n.\r\nc\r\n"])
async def test_a_bare_line_end_smuggles_nothing(message):
    server = Server()
    async with serving(server) as port, SmtpTransport() as transport:
        await send(transport, request(port, message=message))
    assert server.messages == [b"a\r\nb\r\n..\r\nc\r\n.\r\n"]


async def test_it_is_the_transport_of_smtp_providers():
    server = Server()
    async with serving(server) as port, open_transport("smtp", connections_max=2, endpoints=Endpoints()) as transport:
        deadline = asyncio.get_running_loop().time() + LONG
        assert (await transport.send(request(port), deadline)).status == 250


# -- replies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("reply", [b"421 4.3.2 going down", b"451 4.3.0 later", b"554 5.7.1 never"])
async def test_a_refusal_at_any_phase_is_an_answer(phase, reply):
    server = Server({phase: reply + b"\r\n"})
    async with serving(server) as port, SmtpTransport() as transport:
        response = await send(transport, request(port))
    assert said(response) == (int(reply[:3]), phase, reply[4:])
    assert server.messages == ([] if phase != "final" else [server.messages[0]])


async def test_a_reply_of_several_lines_is_one_answer():
    server = Server({"rcpt": b"550-5.1.1 no such user\r\n550-5.1.1 look at\r\n550 5.1.1 https://help.test/\r\n"})
    async with serving(server) as port, SmtpTransport() as transport:
        response = await send(transport, request(port))
    assert said(response) == (550, "rcpt", b"5.1.1 no such user\n5.1.1 look at\n5.1.1 https://help.test/")


async def test_an_acceptance_in_place_of_the_go_ahead_writes_nothing():
    server = Server({"data": b"250 thanks\r\n"})
    async with serving(server) as port, SmtpTransport() as transport:
        assert said(await send(transport, request(port))) == (250, "data", b"thanks")


# -- what was written ----------------------------------------------------------------------------------------


async def test_a_refused_connection_wrote_nothing():
    async with SmtpTransport() as transport:
        error = await failure(transport, request(dead_port()))
    assert not error.written
    assert error.detail.startswith("connect: ConnectionRefusedError")
    assert classify_transport_error(error).kind is OutcomeKind.TRANSIENT


async def test_a_name_that_does_not_resolve_wrote_nothing():
    async with SmtpTransport() as transport:
        assert not (await failure(transport, request(25, host="nowhere.invalid"))).written


async def test_the_next_address_is_tried_when_one_refuses(monkeypatch):
    server = Server()
    async with serving(server) as port, SmtpTransport() as transport:
        loop = asyncio.get_running_loop()
        addresses = [("127.0.0.1", dead_port()), ("127.0.0.1", port)]

        async def two(*_: object, **__: object) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]

        monkeypatch.setattr(loop, "getaddrinfo", two)
        assert (await send(transport, request(port, host="mail.test"))).status == 250


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["closed", "reset"])
async def test_a_connection_lost_has_written_only_once_the_message_is_under_way(phase, end):
    server = Server({phase: end})
    async with serving(server) as port, SmtpTransport() as transport:
        error = await failure(transport, request(port))
    assert error.written is (phase == "final")
    assert error.detail.startswith(f"{phase}: ")
    assert server.connections == 1
    kind = OutcomeKind.UNKNOWN if phase == "final" else OutcomeKind.TRANSIENT
    assert classify_transport_error(error).kind is kind


@pytest.mark.parametrize("phase", PHASES)
async def test_silence_has_written_only_once_the_message_is_under_way(phase):
    server = Server({phase: HANG})
    async with serving(server) as port, SmtpTransport() as transport:
        error = await failure(transport, request(port), SHORT)
        await server.ended.wait()
    assert error.written is (phase == "final")
    assert error.detail == f"{phase}: no answer before the deadline"


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("noise", [b"hello\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"\xff\r\n", b"999 what\r\n"])
async def test_what_is_no_reply_has_written_only_once_the_message_is_under_way(phase, noise):
    server = Server({phase: noise})
    async with serving(server) as port, SmtpTransport() as transport:
        assert (await failure(transport, request(port))).written is (phase == "final")


async def test_a_reply_without_end_is_given_up():
    server = Server({"ehlo": b"250-" + b"x" * 100_000})
    async with serving(server) as port, SmtpTransport() as transport:
        assert not (await failure(transport, request(port))).written


async def test_a_deadline_already_past_writes_nothing():
    server = Server()
    async with serving(server) as port, SmtpTransport() as transport:
        await send(transport, request(port))
        error = await failure(transport, request(port), -1)
    assert not error.written
    assert len(server.messages) == 1


async def test_waiting_in_vain_for_a_free_connection_wrote_nothing():
    server = Server({"final": HANG})
    async with serving(server) as port, SmtpTransport(connections_max=1) as transport:
        first = asyncio.create_task(failure(transport, request(port), LONG))
        await server.reached["final"].wait()
        error = await failure(transport, request(port), SHORT)
        assert not error.written
        assert error.detail == "the deadline passed before a connection was free"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert server.connections == 1


class Half:
    """Reads some of the message, then answers before it is all there."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GOOD["connect"])
        for reply in (EHLO, GOOD["mail"], GOOD["rcpt"], GOOD["data"]):
            await reader.readline()
            writer.write(reply)
        await reader.readexactly(1000)
        writer.transport.pause_reading()
        writer.write(self._reply)
        await writer.drain()
        writer.transport.resume_reading()
        with suppress(ConnectionError):
            await reader.read(-1)
        writer.close()


BIG = b"x" * 70 + b"\r\n"


async def test_a_refusal_before_the_message_is_all_written_stands():
    async with serving(Half(b"552 5.3.4 too big\r\n")) as port, SmtpTransport() as transport:
        response = await send(transport, request(port, message=BIG * 200_000))
    assert said(response) == (552, "final", b"5.3.4 too big")


async def test_an_acceptance_before_the_message_is_all_written_is_worth_nothing():
    async with serving(Half(b"250 2.0.0 thanks\r\n")) as port, SmtpTransport() as transport:
        error = await failure(transport, request(port, message=BIG * 200_000))
    assert error.written


# -- connections are used again ------------------------------------------------------------------------------


async def test_messages_share_a_connection():
    server = Server()
    async with serving(server) as port, SmtpTransport() as transport:
        for _ in range(3):
            assert (await send(transport, request(port))).status == 250
    assert (server.connections, len(server.messages)) == (1, 3)
    assert server.commands.count(b"EHLO client.test") == 1
    assert server.commands[-1] == b"QUIT"


async def test_at_most_so_many_connections_at_once():
    server = Server()
    async with serving(server) as port, SmtpTransport(connections_max=3) as transport:
        await asyncio.gather(*(send(transport, request(port)) for _ in range(20)))
    assert len(server.messages) == 20
    assert server.connections <= 3


async def test_another_login_has_connections_of_its_own():
    server = Server({"ehlo": b"250-mx.test\r\n250 AUTH PLAIN\r\n", "auth": b"235 2.7.0 welcome\r\n"})
    async with serving(server) as port, SmtpTransport() as transport:
        for username in ("ada", "bob", "ada"):
            await send(transport, request(port, username=username, password="pw"))
    assert server.connections == 2


async def test_a_connection_is_left_after_so_many_messages():
    server = Server()
    async with serving(server) as port, SmtpTransport(messages_max=2) as transport:
        for _ in range(5):
            await send(transport, request(port))
    assert server.connections == 3


async def test_an_idle_connection_is_left_with_a_word():
    server = Server()
    async with serving(server) as port, SmtpTransport(idle_seconds=0.01) as transport:
        await send(transport, request(port))
        await server.ended.wait()
        assert server.commands[-1] == b"QUIT"


async def test_after_a_refused_recipient_the_connection_starts_afresh():
    server = Server({"rcpt": b"550 5.1.1 no such user\r\n"})
    async with serving(server) as port, SmtpTransport() as transport:
        await send(transport, request(port))
        del server.replies["rcpt"]
        assert (await send(transport, request(port))).status == 250
    assert server.connections == 1
    verbs = [command[:4] for command in server.commands]
    assert verbs == [b"EHLO", b"MAIL", b"RCPT", b"RSET", b"MAIL", b"RCPT", b"DATA", b"QUIT"]


@pytest.mark.parametrize("phase", ["final", "mail", "rcpt"])
async def test_a_server_that_says_goodbye_is_not_used_again(phase):
    server = Server(script={(1, phase): b"421 4.3.2 bye\r\n"})
    async with serving(server) as port, SmtpTransport() as transport:
        assert (await send(transport, request(port))).status == 421
        assert (await send(transport, request(port))).status == 250
    assert server.connections == 2


@dataclass
class Closing(Server):
    """Ends its first connection as the second message begins, with ``last_words``."""

    last_words: bytes = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.connections:
            return await super().__call__(reader, writer)
        self.connections += 1
        writer.write(GOOD["connect"])
        for reply in (EHLO, GOOD["mail"], GOOD["rcpt"], GOOD["data"]):
            await reader.readline()
            writer.write(reply)
        self.messages.append(await reader.readuntil(b"\r\n.\r\n"))
        writer.write(GOOD["final"])
        await reader.readline()
        writer.write(self.last_words)
        writer.close()


@pytest.mark.parametrize("last_words", [b"", b"421 4.4.2 timeout exceeded\r\n"], ids=["silent", "with a goodbye"])
async def test_a_kept_connection_that_is_over_is_replaced_before_anything_was_sent(last_words):
    server = Closing(last_words=last_words)
    async with serving(server) as port, SmtpTransport() as transport:
        for _ in range(2):
            assert (await send(transport, request(port))).status == 250
    assert (server.connections, len(server.messages)) == (2, 2)


async def test_it_is_replaced_once():
    server = Closing(script={(2, "mail"): CLOSE})
    async with serving(server) as port, SmtpTransport() as transport:
        await send(transport, request(port))
        assert not (await failure(transport, request(port))).written
    assert server.connections == 2


async def test_a_connection_that_was_seen_closing_is_not_used_again():
    server = Server()

    async def one_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        writer.write(GOOD["connect"])
        for reply in (EHLO, GOOD["mail"], GOOD["rcpt"], GOOD["data"]):
            await reader.readline()
            writer.write(reply)
        server.messages.append(await reader.readuntil(b"\r\n.\r\n"))
        writer.write(GOOD["final"] + b"421 4.3.2 bye\r\n")
        writer.close()
        with suppress(ConnectionError):
            await reader.read()  # until the other side has seen it
        server.ended.set()

    async with serving(one_message) as port, SmtpTransport() as transport:
        for _ in range(2):
            server.ended.clear()
            assert (await send(transport, request(port))).status == 250
            await server.ended.wait()
    assert (server.connections, len(server.messages)) == (2, 2)


@pytest.mark.parametrize("phase", ["rcpt", "data", "final"])
async def test_a_kept_connection_lost_later_is_not_tried_twice(phase):
    server = Server()
    async with serving(server) as port, SmtpTransport() as transport:
        await send(transport, request(port))
        server.replies[phase] = CLOSE
        assert (await failure(transport, request(port))).written is (phase == "final")
    assert server.connections == 1


# -- TLS and login, judged by aiosmtpd -----------------------------------------------------------------------


class Inbox:
    """aiosmtpd's handler."""

    def __init__(self) -> None:
        self.received: list[tuple[str, list[str], bytes]] = []
        self.secured: list[bool] = []

    async def handle_DATA(self, server, session, envelope) -> str:
        self.received.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        self.secured.append(session.ssl is not None or server.transport.get_extra_info("sslcontext") is not None)
        return "250 2.0.0 Ok: queued as 1"


def log_in(server, session, envelope, mechanism, data) -> AuthResult:
    known = isinstance(data, LoginPassword) and (data.login, data.password) == (b"ada", b"secret")
    return AuthResult(success=known, handled=False, message=None if known else "535 5.7.8 not you")


@asynccontextmanager
async def aiosmtpd(inbox: Inbox, *, tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[int]:
    """``tls``: implicit; ``tls_context`` among the options: by STARTTLS."""
    loop = asyncio.get_running_loop()
    sessions: list[SMTP] = []

    def session() -> SMTP:
        sessions.append(SMTP(inbox, hostname="mx.test", loop=loop, timeout=LONG, **options))
        return sessions[-1]

    server = await loop.create_server(session, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        tasks = [s._handler_coroutine for s in sessions if s._handler_coroutine is not None]
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Certified:
    context: ssl.SSLContext
    trust: str


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    trust: Path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(trust))
    return Certified(context, str(trust))


@pytest.fixture(params=["starttls", "tls"])
def security(request: pytest.FixtureRequest) -> str:
    return request.param


def secured(security: str, certified: Certified) -> dict[str, Any]:
    return {"tls_context": certified.context} if security == "starttls" else {"tls": certified.context}


async def test_aiosmtpd_gets_the_message():
    inbox = Inbox()
    async with aiosmtpd(inbox) as port, SmtpTransport() as transport:
        for _ in range(2):
            assert said(await send(transport, request(port))) == (250, "final", b"2.0.0 Ok: queued as 1")
    assert inbox.received == [("bounces+ref@mail.test", ["ada+x@example.test"], MESSAGE)] * 2


async def test_a_message_goes_encrypted(security, certified):
    inbox = Inbox()
    async with aiosmtpd(inbox, **secured(security, certified)) as port, SmtpTransport() as transport:
        for host in ("127.0.0.1", "localhost"):
            what = request(port, host=host, security=security, trust=certified.trust)
            assert (await send(transport, what)).status == 250
    assert inbox.secured == [True, True]


async def test_a_certificate_that_nobody_vouches_for_is_refused(security, certified):
    inbox = Inbox()
    async with aiosmtpd(inbox, **secured(security, certified)) as port, SmtpTransport() as transport:
        error = await failure(transport, request(port, security=security))
    assert not error.written
    assert "the certificate is not trusted" in error.detail
    assert inbox.received == []


async def test_a_certificate_of_another_name_is_refused(security, certified, tmp_path):
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("other.test").configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other = Certified(context, str(tmp_path / "ca.pem"))
    async with aiosmtpd(Inbox(), **secured(security, other)) as port, SmtpTransport() as transport:
        error = await failure(transport, request(port, host="localhost", security=security, trust=other.trust))
    assert not error.written
    assert "Hostname mismatch" in error.detail


async def test_a_bundle_that_is_not_there_wrote_nothing(security):
    server = Server()
    async with serving(server) as port, SmtpTransport() as transport:
        error = await failure(transport, request(port, security=security, trust="/nowhere/ca.pem"))
    assert (error.written, error.detail) == (False, "connect: FileNotFoundError: No such file or directory")
    assert server.connections == 0


async def test_a_server_without_starttls_gets_nothing_in_clear():
    server = Server()
    async with serving(server) as port, SmtpTransport() as transport:
        response = await send(transport, request(port, security="starttls", username="ada", password="secret"))
    assert (response.status, response.headers["phase"]) == (250, "starttls")
    assert server.commands == [b"EHLO client.test"]


async def test_a_refused_starttls_gets_nothing_in_clear():
    server = Server({"ehlo": b"250-mx.test\r\n250 STARTTLS\r\n", "star": b"454 4.7.0 TLS not available\r\n"})
    async with serving(server) as port, SmtpTransport() as transport:
        response = await send(transport, request(port, security="starttls", username="ada", password="secret"))
    assert said(response) == (454, "starttls", b"4.7.0 TLS not available")
    assert server.commands == [b"EHLO client.test", b"STARTTLS"]


async def test_a_handshake_that_hangs_wrote_nothing(certified):
    silent = Server({"connect": HANG})
    async with serving(silent) as port, SmtpTransport() as transport:
        assert not (await failure(transport, request(port, security="tls", trust=certified.trust), SHORT)).written


@pytest.mark.parametrize("other", [[], ["PLAIN"], ["PLAIN", "LOGIN"]], ids=["plain", "login", "none"])
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
async def test_it_logs_in(security, certified, other):
    inbox = Inbox()
    options = {"auth_required": True, "authenticator": log_in, **secured(security, certified)}
    options["auth_exclude_mechanism"] = other
    if security == "tls":
        options["auth_require_tls"] = False  # aiosmtpd knows of STARTTLS only
    async with aiosmtpd(inbox, **options) as port, SmtpTransport() as transport:
        what = {"security": security, "trust": certified.trust, "username": "ada"}
        response = await send(transport, request(port, **what, password="secret"))
        if other == ["PLAIN", "LOGIN"]:
            assert (response.status, response.headers["phase"], inbox.received) == (250, "auth", [])
            return
        assert said(response) == (250, "final", b"2.0.0 Ok: queued as 1")
        refused = await send(transport, request(port, **what, password="wrong"))
        assert said(refused) == (535, "auth", b"5.7.8 not you")
        unnamed = await send(transport, request(port, security=security, trust=certified.trust))
        assert (unnamed.status, unnamed.headers["phase"]) == (530, "mail")
    assert len(inbox.received) == 1


async def test_it_logs_in_where_the_password_must_not_travel():
    challenge = b"334 PDEyM0BteC50ZXN0Pg==\r\n"
    server = Server(
        {"ehlo": b"250-mx.test\r\n250 AUTH CRAM-MD5\r\n", "auth": challenge, "ywrh": b"235 2.7.0 hello\r\n"}
    )
    async with serving(server) as port, SmtpTransport() as transport:
        assert (await send(transport, request(port, username="ada", password="secret"))).status == 250
    digest = hmac.new(b"secret", b"<123@mx.test>", "md5").hexdigest()
    assert server.commands[1:3] == [b"AUTH CRAM-MD5", b64encode(f"ada {digest}".encode())]


async def test_a_server_without_a_login_gets_no_message():
    server = Server()
    async with serving(server) as port, SmtpTransport() as transport:
        response = await send(transport, request(port, username="ada", password="secret"))
    assert (response.status, response.headers["phase"]) == (250, "auth")
    assert server.messages == []


# -- what can no longer leave --------------------------------------------------------------------------------


class StalledPeer:
    """Says what a server says up to the message, reads nothing of that until told; then all there is, like a network
    that heals.
    """

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it listens, or it is not kept
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self._heal = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.received = 0
        self.reset = False
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection, self._listener:
            connection.sendall(GOOD["connect"])
            for reply in (EHLO, GOOD["mail"], GOOD["rcpt"], GOOD["data"]):
                line = b""
                while not line.endswith(b"\r\n"):
                    line += connection.recv(1)
                connection.sendall(reply)
            self._heal.wait()
            try:
                while chunk := connection.recv(65536):
                    self.received += len(chunk)
            except ConnectionResetError:
                self.reset = True

    def heal(self) -> None:
        self._heal.set()
        self._thread.join()


class Observed(SmtpTransport):
    """Keeps its sockets in view and, if told, their buffers small, so that more waits in the event loop's."""

    def __init__(self, send_buffer: int | None = None) -> None:
        super().__init__()
        self._send_buffer = send_buffer
        self.sockets: list[socket.socket] = []

    def _socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        sock = super()._socket(family, kind, protocol)
        if self._send_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        self.sockets.append(sock)
        return sock


def run_on(loop_factory, main: Awaitable[None]) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main)


LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
HELD = pytest.mark.parametrize(
    ("size", "send_buffer"),
    [(200_000, None), (200_000, 8192), (8_000_000, None)],
    ids=["held by the kernel", "held by the loop", "more than both hold"],
)


@LOOPS
@HELD
def test_a_peer_that_heals_after_the_deadline_never_gets_the_message(loop_factory, size, send_buffer):
    peer = StalledPeer()

    async def main() -> None:
        async with Observed(send_buffer) as transport:
            assert (await failure(transport, request(peer.port, message=b"x" * size), SHORT)).written
            assert [sock.fileno() for sock in transport.sockets] == [-1]
            await asyncio.to_thread(peer.heal)  # the loop is alive, and would flush what it still held

    run_on(loop_factory, main())
    assert peer.reset
    assert peer.received < size


@LOOPS
@HELD
def test_a_cancelled_call_leaves_nothing_behind_either(loop_factory, size, send_buffer):
    peer = StalledPeer()

    async def main() -> None:
        async with Observed(send_buffer) as transport:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(send(transport, request(peer.port, message=b"x" * size)), SHORT)
            assert [sock.fileno() for sock in transport.sockets] == [-1]
            await asyncio.to_thread(peer.heal)

    run_on(loop_factory, main())
    assert peer.reset
    assert peer.received < size


@LOOPS
def test_an_encrypted_call_that_ends_in_silence_closes_its_socket(loop_factory, certified):
    async def main() -> None:
        class Silent(Inbox):
            async def handle_DATA(self, server, session, envelope) -> str:
                await gone.wait()
                return "250 too late"

        gone = asyncio.Event()
        async with aiosmtpd(Silent(), tls_context=certified.context) as port, Observed() as transport:
            what = request(port, security="starttls", trust=certified.trust)
            assert (await failure(transport, what, SHORT)).written
            assert [sock.fileno() for sock in transport.sockets] == [-1]
            gone.set()

    run_on(loop_factory, main())


async def test_a_message_is_not_begun_when_its_time_has_come_meanwhile(monkeypatch):
    """The go-ahead and the deadline may come in one turn of the loop, after a pause of the whole process: then it must
    not depend on which of the two is seen first.
    """
    server = Server()
    async with serving(server) as port, SmtpTransport() as transport:
        loop = asyncio.get_running_loop()
        real, deadline = loop.time, loop.time() + LONG
        monkeypatch.setattr(asyncio, "timeout_at", lambda _: asyncio.timeout(None))  # the alarm is not seen at all
        monkeypatch.setattr(loop, "time", lambda: deadline if server.reached["data"].is_set() else real())
        with pytest.raises(TransportError) as failed:
            await transport.send(request(port), deadline)
        monkeypatch.undo()
    assert not failed.value.written
    assert failed.value.detail == "final: no answer before the deadline"
    assert server.messages == []


async def test_the_kernel_gives_up_should_we_not():
    """TCP_USER_TIMEOUT and the zero linger time are on the very socket that carries the message."""
    sock = SmtpTransport(user_timeout_seconds=7)._socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    with sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == b"\1\0\0\0\0\0\0\0"
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
