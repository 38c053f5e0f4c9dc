"""A mail server as the sandbox plays it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiosmtpd.smtp import SMTP as SmtpServer
from aiosmtpd.smtp import AuthResult, Envelope, Session

from app.sandbox.calls import Draft
from app.sandbox.emails import body_of, landed_ids, parse_mime
from app.sandbox.httpapi import is_same
from app.sandbox.ledger import About
from app.sandbox.protocol import Forgery, Happening, Outgoing, Posting, Protocol
from app.sandbox.runtime import Sandbox
from app.sandbox.scripting import Step
from app.sandbox.scripts import EMAIL
from app.sandbox.smtp.reports import report
from app.sandbox.smtp.server import Recipient, Server, Transaction, authenticate
from app.sandbox.smtp.settings import SmtpSettings
from app.sandbox.world import Body, Message

_REFERENCE_HEADER: Final = "X-Landed-Reference"


class Smtp(Protocol):
    """A mail server with a queue. It posts what it sends back to its user's webhook, and keeps at it for days."""

    name = "smtp"
    channel = "email"
    settings_type = SmtpSettings
    scripts = EMAIL
    forgeries = (Forgery.BAD_SIGNATURE,)
    retry_seconds = (60, 300, 900, 1800, 3600, 7200, 14_400)
    settings: SmtpSettings

    def __init__(self, sandbox: Sandbox, settings: SmtpSettings) -> None:
        super().__init__(sandbox, settings)
        self.path = "/submission"
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        if not (self.settings.port or self.settings.tls_port):
            return
        logging.getLogger("mail.log").setLevel(logging.ERROR)  # aiosmtpd talks about its own deprecations
        loop, host = asyncio.get_running_loop(), self.sandbox.config.host
        context = await asyncio.to_thread(self.sandbox.authority.server_context)
        if self.settings.port:
            listening = await loop.create_server(
                lambda: Server(self, loop=loop, tls_context=context), host, self.settings.port
            )
            self._servers.append(listening)
        if self.settings.tls_port:
            listening = await loop.create_server(
                lambda: Server(self, loop=loop), host, self.settings.tls_port, ssl=context
            )
            self._servers.append(listening)

    async def stop(self) -> None:
        for server in self._servers:
            server.close()

    # Taking mail --------------------------------------------------------------------------------------------------

    def knows(self, username: bytes, password: bytes) -> bool:
        return is_same(username, self.settings.username) and is_same(password, self.settings.password)

    def authenticate(
        self, server: SmtpServer, session: Session, envelope: Envelope, mechanism: str, login: object
    ) -> AuthResult:
        return authenticate(self, login)

    def about(self, envelope: Envelope, transaction: Transaction, recipient: str) -> About:
        """What is known of a message before it is written."""
        delivery, attempt = landed_ids(transaction.envelope_id, envelope.mail_from)
        return About(self.name, recipient, None, delivery, attempt)

    def drafts(self, envelope: Envelope, transaction: Transaction) -> tuple[list[Draft], str]:
        """The message to each recipient, and the id it has in the queue."""
        raw = envelope.original_content or b""
        parsed, queue_id = parse_mime(raw), secrets.token_hex(6).upper()
        message_id = str(parsed.get("Message-ID", "")).strip().strip("<>") or f"{queue_id}@mail.sandbox.landed.test"
        delivery, attempt = landed_ids(
            transaction.envelope_id, envelope.mail_from, str(parsed.get(_REFERENCE_HEADER, "")), message_id
        )
        body = body_of(parsed)
        common: dict[str, Any] = {
            "message_id": message_id,
            "sender": envelope.mail_from or "",
            "to": str(parsed.get("To", "")),
            "title": str(parsed.get("Subject", "")),
            "domain": (envelope.mail_from or "").partition("@")[2],
            "size": len(raw),
            "headers": {name: str(value) for name, value in parsed.items()},
            "landed_delivery": delivery,
            "landed_attempt": attempt,
        }
        drafts = [
            _draft(common, recipient, transaction.envelope_id, _header_block(raw), queue_id, body)
            for recipient in transaction.recipients
        ]
        return drafts, queue_id

    # What comes back --------------------------------------------------------------------------------------------

    def payload(self, message: Message, step: Step, happening: Happening) -> str | None:
        return report(message, step, happening)

    def outgoing(self, postings: Sequence[Posting]) -> Outgoing:
        """The raw message, as a pipe would post it."""
        [posting] = postings
        token = self.settings.webhook_token if posting.forgery is None else "not the token"
        raw = msgspec.json.decode(posting.payload, type=str)
        headers = {"Content-Type": "message/rfc822", "Authorization": f"Bearer {token}"}
        return Outgoing(headers, raw.encode("ascii", "replace"))


def _draft(
    common: dict[str, Any], recipient: Recipient, envelope_id: str | None, headers: str, queue_id: str, body: Body
) -> Draft:
    message = Message(
        id=secrets.token_hex(8),
        provider=Smtp.name,
        recipient=recipient.address,
        accepted_at=time.time(),
        details={
            "queue_id": queue_id,
            "envelope_id": envelope_id,
            "notify": recipient.notify,
            "original_recipient": recipient.original,
            "headers": headers,
        },
        **common,
    )
    return Draft(message, body)


def _header_block(raw: bytes) -> str:
    """The headers as they came, without the body."""
    head = raw.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    return head.decode("ascii", "replace").strip()
