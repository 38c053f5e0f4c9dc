"""The channels' ways out: through which adapter Landed sends to the far side, and what one would have written instead.

The obvious design keeps what any client would: its connections, and Apple's token for as long as Apple lets it.
"""

from __future__ import annotations

import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Final
from uuid import uuid4

import httpx
import jinja2
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.bench import stage

TIMEOUT_SECONDS: Final = 60.0  # of the obvious design: on a busy machine it must not fail for being slow
TWILIO_SID: Final = "AC" + "0" * 32
APPLE: Final = {"key_id": "BENCHKEY01", "team_id": "BENCHTEAM1", "topic": "com.example.bench"}


class Line(ABC):
    """route: what Landed's configuration calls it. far_side: the stand-in that takes its messages."""

    channel: ClassVar[str]
    route: ClassVar[str]
    far_side: ClassVar[Callable[[], AbstractAsyncContextManager[stage.FarSide]]]

    def __init__(self, far: stage.FarSide) -> None:
        self._far, self._words = far, Words(self.channel)

    @abstractmethod
    def account(self) -> dict[str, Any]:
        """The provider account in Landed's configuration."""

    @abstractmethod
    def client(self) -> httpx.AsyncClient:
        """What the obvious design sends with."""

    @abstractmethod
    async def send(self, client: httpx.AsyncClient, n: int) -> httpx.Response:
        """The obvious design's message to recipient ``n``: render, post."""


class Words:
    """The parts of a channel's template, compiled once."""

    def __init__(self, channel: str) -> None:
        subject, html, text, extras = stage.TEMPLATES[channel]
        parts = {"subject": subject, "html": html, "text": text, **extras}
        self._parts = {name: jinja2.Template(part) for name, part in parts.items() if part is not None}

    def render(self, n: int) -> Mapping[str, str]:
        return {name: part.render(name="Ann", order=str(n)) for name, part in self._parts.items()}


class Email(Line):
    channel = "email"
    route = "email"
    far_side = staticmethod(stage.http1)

    def account(self) -> dict[str, Any]:
        return {
            "adapter": "mailgun",
            "domain": "sandbox.landed.test",
            "api_key": "bench",
            "webhook_signing_key": "bench",
            "base_url": self._far.origin,
        }

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._far.origin, auth=("api", "bench"), timeout=TIMEOUT_SECONDS)

    async def send(self, client: httpx.AsyncClient, n: int) -> httpx.Response:
        sender, to = "Bench <bench@sandbox.landed.test>", f"r{n}@example.com"
        words = self._words.render(n)
        return await client.post("/v3/sandbox.landed.test/messages", data={"from": sender, "to": to, **words})


class Sms(Line):
    channel = "sms"
    route = "sms"
    far_side = staticmethod(stage.http1)

    def account(self) -> dict[str, Any]:
        return {
            "adapter": "twilio",
            "account_sid": TWILIO_SID,
            "auth_token": "bench",
            "sender": "+15005550006",
            "base_url": self._far.origin,
        }

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._far.origin, auth=(TWILIO_SID, "bench"), timeout=TIMEOUT_SECONDS)

    async def send(self, client: httpx.AsyncClient, n: int) -> httpx.Response:
        data = {"From": "+15005550006", "To": f"+4915{112000000 + n}", "Body": self._words.render(n)["text"]}
        return await client.post(f"/2010-04-01/Accounts/{TWILIO_SID}/Messages.json", data=data)


class Push(Line):
    channel = "push"
    route = "push.ios"
    far_side = staticmethod(stage.http2)

    def __init__(self, far: stage.FarSide) -> None:
        super().__init__(far)
        self._key = generate_private_key(SECP256R1())

    def account(self) -> dict[str, Any]:
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return {"adapter": "apns", **APPLE, "key": pem, "base_url": self._far.origin, "trust": self._far.trust}

    def client(self) -> httpx.AsyncClient:
        claims = {"iss": APPLE["team_id"], "iat": int(time.time())}
        token = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": APPLE["key_id"]})
        return httpx.AsyncClient(
            base_url=self._far.origin,
            http2=True,
            verify=ssl.create_default_context(cafile=self._far.trust),
            headers={"authorization": f"bearer {token}", "apns-topic": APPLE["topic"], "apns-push-type": "alert"},
            timeout=TIMEOUT_SECONDS,
        )

    async def send(self, client: httpx.AsyncClient, n: int) -> httpx.Response:
        words = self._words.render(n)
        payload = {
            "aps": {"alert": {"title": words["subject"], "body": words["text"]}, "thread-id": "transactional"},
            "order": words["data.order"],
            "url": words["url"],
        }
        headers = {"apns-id": str(uuid4()), "apns-priority": "10"}
        return await client.post(f"/3/device/{n:064x}", json=payload, headers=headers)


LINES: Final[Mapping[str, type[Line]]] = {"drain": Email, "sms": Sms, "push": Push}
