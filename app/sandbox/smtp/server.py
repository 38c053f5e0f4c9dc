"""The SMTP side: aiosmtpd's server, with the DSN extension, and with scripted answers in every phase."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from app.sandbox.calls import Call, Do, Verdict
from app.sandbox.ledger import NOTHING, About
from app.sandbox.scripting import SLOW_ANSWER_SECONDS, Reason

if TYPE_CHECKING:
    from app.sandbox.smtp.protocol import Smtp

MAX_BYTES: Final = 26_214_400
#: Longer than any call is held.
TIMEOUT_SECONDS: Final = 900.0
IDENT: Final = "Sandbox ESMTP"

_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
_DSN_OF_SENDER: Final = frozenset({"RET", "ENVID"})
_DSN_OF_RECIPIENT: Final = frozenset({"NOTIFY", "ORCPT"})
_XTEXT: Final = re.compile(r"\+([0-9A-F]{2})")

#: What the server says, by why it refuses; and whether it closes the connection then.
_ANSWERS: Final = {
    Reason.RATE_LIMITED: "454 4.7.0 Throttling failure: maximum sending rate exceeded",
    Reason.UNAVAILABLE: "421 4.3.2 Service shutting down",
    Reason.UNAUTHORIZED: "530 5.7.0 Authentication required",
    Reason.SENDER_REFUSED: "550 5.7.60 Client does not have permission to send as this sender",
    Reason.INVALID_RECIPIENT: "550 5.1.1 User unknown",
    Reason.CONTENT_REFUSED: "554 5.6.0 Message content rejected",
    Reason.WRONG_RESPONSE: "HTTP/1.1 400 Bad Request",
    "greylisted": "451 4.7.1 Greylisted, please try again later",
    "mailbox_full": "452 4.2.2 The mailbox is over quota",
    "policy": "554 5.7.1 Message refused by local policy",
}
#: Refusals that come before the message is written, at RCPT.
_AT_RCPT: Final = frozenset(
    {
        Reason.RATE_LIMITED,
        Reason.UNAVAILABLE,
        Reason.UNAUTHORIZED,
        Reason.SENDER_REFUSED,
        Reason.INVALID_RECIPIENT,
        "greylisted",
        "mailbox_full",
        "silent_at_rcpt",
    }
)


@dataclass(slots=True)
class Recipient:
    """notify, original: what was asked for with this recipient (RFC 3461)."""

    address: str
    notify: list[str]
    original: str | None


@dataclass(slots=True)
class Transaction:
    """One message under way, from MAIL to the answer to its last dot."""

    call: Call
    envelope_id: str | None
    recipients: list[Recipient] = field(default_factory=list)


class Server(SMTP):
    """One connection."""

    def __init__(self, protocol: Smtp, **options: Any) -> None:
        super().__init__(
            Handler(protocol),
            data_size_limit=MAX_BYTES,
            hostname="mail.sandbox.landed.test",
            ident=IDENT,
            timeout=TIMEOUT_SECONDS,
            enable_SMTPUTF8=True,
            authenticator=protocol.authenticate,
            auth_exclude_mechanism=["LOGIN"],
            **options,
        )
        self._auth_required = bool(protocol.settings.username)
        self._auth_require_tls = False  # whoever tries things on loopback may do without
        self.sender_options: dict[str, str] = {}
        self.recipient_options: dict[str, str] = {}

    async def smtp_MAIL(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
        arg, self.sender_options = _without(arg, _DSN_OF_SENDER)
        await super().smtp_MAIL(arg)

    async def smtp_RCPT(self, arg: str | None) -> None:  # noqa: N802
        arg, self.recipient_options = _without(arg, _DSN_OF_RECIPIENT)
        await super().smtp_RCPT(arg)

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        handler: Handler = self.event_handler
        if not handler.may_write(self):
            return
        await super().smtp_DATA(arg)

    async def push(self, status: Any) -> None:
        """Answer, unless the connection is gone; 421 is the last word (RFC 5321, 3.8)."""
        transport: Any = self.transport
        if transport is None or transport.is_closing():
            return
        await super().push(status)
        if str(status).startswith("421"):
            transport.close()

    def reset(self) -> None:
        """Cut the connection the way a dying peer does."""
        transport: Any = self.transport
        if transport is not None:
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            transport.abort()


def _without(arg: str | None, names: frozenset[str]) -> tuple[str | None, dict[str, str]]:
    """A command without the parameters of the DSN extension, which aiosmtpd does not know, and these."""
    if arg is None:
        return None, {}
    kept, found = [], {}
    for word in arg.split(" "):
        name, sign, value = word.partition("=")
        if sign and name.upper() in names:
            found[name.upper()] = value
        else:
            kept.append(word)
    return " ".join(kept), found


def _from_xtext(text: str | None) -> str | None:
    """RFC 3461, section 4."""
    return None if text is None else _XTEXT.sub(lambda found: chr(int(found[1], 16)), text)


class Handler:
    """What becomes of the commands of one connection."""

    def __init__(self, protocol: Smtp) -> None:
        self._protocol = protocol
        self._sandbox = protocol.sandbox
        self._door = protocol.sandbox.door
        self._under_way: Transaction | None = None

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's names
        self, server: Server, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [*responses[:-1], "250-ENHANCEDSTATUSCODES", "250-DSN", responses[-1]]

    async def handle_MAIL(  # noqa: N802
        self, server: Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """A message begins: this is a call."""
        call = self._door.admit(self._protocol.name, "MAIL", self._protocol.path, is_send=True)
        if verdict := self._door.turned_away(call):
            return await self._tell(server, call, verdict)
        self._under_way = Transaction(call, _from_xtext(server.sender_options.get("ENVID")))
        envelope.mail_from = address
        return "250 2.1.0 Ok"

    async def handle_RCPT(  # noqa: N802
        self, server: Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        transaction = self._under_way
        assert transaction is not None, "aiosmtpd lets no RCPT through without MAIL"
        script = self._door.script_for(self._protocol, address)
        if script.refusal and script.refusal.reason in _AT_RCPT:
            about = self._protocol.about(envelope, transaction, address)
            if verdict := self._door.refusal(self._protocol, about, script):
                return await self._tell(server, transaction.call, verdict)
        asked = server.recipient_options
        notify = [word for word in asked.get("NOTIFY", "").upper().split(",") if word]
        transaction.recipients.append(Recipient(address, notify, _from_xtext(asked.get("ORCPT"))))
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: Server, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """The last dot has come: from here on the message may have been accepted, whatever is answered."""
        transaction, self._under_way = self._under_way, None
        assert transaction is not None, "aiosmtpd lets no DATA through without RCPT"
        drafts, queue_id = self._protocol.drafts(envelope, transaction)
        verdict = self._door.decide(self._protocol, transaction.call, drafts)
        return await self._tell(server, transaction.call, verdict, f"250 2.0.0 Ok: queued as {queue_id}")

    async def handle_RSET(self, server: Server, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self._under_way = None
        return "250 2.0.0 Ok"

    def may_write(self, server: Server) -> bool:
        """Whether the message may be written, at DATA; if not, the connection is cut."""
        transaction = self._under_way
        for recipient in transaction.recipients if transaction else []:
            script = self._door.script_for(self._protocol, recipient.address)
            if transaction and script.refusal and script.refusal.reason == "closed_at_data":
                about = About(provider=self._protocol.name, recipient=recipient.address)
                self._door.respond(transaction.call, None, about=about, note=f"refused by {script.name}")
                server.reset()
                return False
        return True

    async def _tell(self, server: Server, call: Call, verdict: Verdict, accepted: str = "") -> str:
        """The answer a verdict comes to."""
        about, note = verdict.about, verdict.note
        match verdict.do:
            case Do.ANSWER:
                return self._answer(call, accepted, about, note)
            case Do.ANSWER_SLOWLY:
                await asyncio.sleep(self._sandbox.config.scaled(SLOW_ANSWER_SECONDS))
                return self._answer(call, accepted, about, note)
            case Do.REFUSE if verdict.reason in _ANSWERS:
                return self._answer(call, _ANSWERS[verdict.reason], about, note)
            case Do.HOLD:
                return await self._hold(server, call, about, note, accepted if verdict.accepted else "")
            case Do.REFUSE if verdict.reason == "silent_at_rcpt":
                return await self._hold(server, call, about, note, "")
            case _:
                # An error after acceptance would be a lie that SMTP leaves no room for: it would say "not accepted".
                return self._cut(server, call, about, note)

    def _answer(self, call: Call, text: str, about: About, note: str | None) -> str:
        code = text.partition(" ")[0]
        self._door.respond(call, int(code) if code.isdigit() else None, about=about, note=note)
        return text

    async def _hold(self, server: Server, call: Call, about: About, note: str | None, released: str) -> str:
        """Say nothing until the client gives up, a release comes, or the time is over."""
        self._door.respond(call, None, about=about, note=note)
        try:
            async with asyncio.timeout(self._sandbox.config.hold_seconds):
                await self._sandbox.faults.released()
        except TimeoutError:
            server.reset()
            return ""
        if not released:
            server.reset()
            return ""
        return self._answer(call, released, about, "released")

    def _cut(self, server: Server, call: Call, about: About, note: str | None) -> str:
        self._door.respond(call, None, about=about, note=note)
        server.reset()
        return ""


def authenticate(protocol: Smtp, login: object) -> AuthResult:
    """The one user, by name and password; a wrong one is on the ledger."""
    if isinstance(login, LoginPassword) and protocol.knows(login.login, login.password):
        return AuthResult(success=True)
    call = protocol.sandbox.door.admit(protocol.name, "AUTH", protocol.path, is_send=False)
    protocol.sandbox.door.respond(call, 535, about=NOTHING, note="wrong credentials")
    return AuthResult(success=False, handled=False, message="535 5.7.8 Authentication credentials invalid")
