"""Merchants: they verify Standard Webhooks, process each once, and answer as their path says.

A merchant whose secret is not registered takes what comes, and what it took is marked as unverified.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import post, put
from litestar.exceptions import ValidationException
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, ControllerRouterHandler

from app.sandbox.calls import Draft
from app.sandbox.config import setting
from app.sandbox.emails import message_at
from app.sandbox.endpoints.scripts import (
    COPIED,
    ENDPOINTS,
    FAILING,
    FORBIDDEN,
    GONE,
    HUGE_ANSWER,
    NOT_FOUND,
    REDIRECT,
)
from app.sandbox.endpoints.signatures import Unverified, check_secret, verify
from app.sandbox.httpapi import AnyRequest, HttpProtocol, answer, as_json, protocol_of, sandbox_of, take
from app.sandbox.keys import KeyFiles
from app.sandbox.runtime import Sandbox
from app.sandbox.scripting import RATE_LIMIT_SECONDS, Reason
from app.sandbox.world import Body, Message

NAME: Final = "merchant"
HUGE_BYTES: Final = 16_000_000
MAX_SHOWN: Final = 10_000

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

_REFUSALS: Final[Mapping[str, int]] = {
    FAILING: 500,
    Reason.BROKEN: 500,
    Reason.UNAVAILABLE: 503,
    Reason.RATE_LIMITED: 429,
    Reason.UNAUTHORIZED: 401,
    GONE: 410,
    NOT_FOUND: 404,
    FORBIDDEN: 403,
    Reason.CONTENT_REFUSED: 400,
    REDIRECT: 302,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MerchantSettings:
    secret: str = setting(
        "", "Secret of every merchant that was told none, whsec_…; without one it verifies nothing.", secret=True
    )

    def __post_init__(self) -> None:
        if self.secret:
            check_secret(self.secret)


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a merchant is told: its secret, or several while one is being rotated out. An empty list forgets them."""

    secret: str | None = None
    secrets: list[str] = []

    def all(self) -> list[str]:
        return [*self.secrets, *([self.secret] if self.secret else [])]


@post("/merchant/{script:str}/{name:str}", status_code=200)
async def receive(request: AnyRequest, script: str, name: str) -> ASGIApp:
    """Process a webhook, unless it has been processed before."""
    protocol, body = protocol_of(request, Merchant), await request.body()
    recipient, webhook_id = f"{script}/{name}", request.headers.get("webhook-id", "")
    if original := protocol.processed(recipient, webhook_id):
        sandbox_of(request).carrier.play(original, COPIED)
        told = as_json({"received": True, "copy": True})
        return answer(request, told, about=original.about, note=f"a copy of webhook-id {webhook_id}")
    message = _message(request, recipient, webhook_id, body, is_verified=bool(protocol.secrets_of(name)))
    text = body.decode(errors="replace")[:MAX_SHOWN]
    is_huge = protocol.script_for(recipient).name == HUGE_ANSWER
    received = as_json({"received": True} | ({"padding": " " * HUGE_BYTES} if is_huge else {}))
    return take(request, [Draft(message, Body(text=text))], received)


def _message(request: AnyRequest, recipient: str, webhook_id: str, body: bytes, *, is_verified: bool) -> Message:
    try:
        event = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        event = {}
    kind = event.get("type")
    reference = _UUID.search(webhook_id)
    return Message(
        id=secrets.token_hex(8),
        provider=NAME,
        channel="endpoint",
        message_id=webhook_id or secrets.token_hex(8),
        recipient=recipient,
        title=kind if isinstance(kind, str) else "",
        accepted_at=time.time(),
        size=len(body),
        landed_delivery=reference[0].lower() if reference else None,
        tags=["verified" if is_verified else "unverified"],
    )


class Merchant(HttpProtocol):
    """Any number of merchants, by name."""

    name = NAME
    channel = "endpoint"
    settings_type = MerchantSettings
    scripts = ENDPOINTS
    paths = ("/merchant/",)
    routes = (receive,)
    settings: MerchantSettings

    def __init__(self, sandbox: Sandbox, settings: MerchantSettings) -> None:
        super().__init__(sandbox, settings)
        self._keys = KeyFiles(sandbox.config.ledger_path.with_suffix(".keys"))

    def handlers(self) -> Sequence[ControllerRouterHandler]:
        """The merchants' doors, and a control that tells a merchant its secret."""

        @put("/sandbox/merchant/{name:str}", status_code=204)
        async def register(request: AnyRequest, name: str) -> None:
            try:
                known = msgspec.json.decode(await request.body(), type=Known).all()
                for secret in known:
                    check_secret(secret)
            except (msgspec.DecodeError, ValueError) as exc:
                raise ValidationException(str(exc)) from exc
            self._keys.keep_merchant(name, known)

        return [*super().handlers(), register]

    def authorise(self, request: AnyRequest) -> ASGIResponse | None:
        return None  # the signature covers the body: ``check``

    async def check(self, request: AnyRequest) -> ASGIResponse | None:
        known = self.secrets_of(request.path_params.get("name", ""))
        if not known:
            return None
        try:
            verify(request.headers, await request.body(), known, time.time())
        except Unverified as exc:
            return as_json({"error": str(exc)}, 401)
        return None

    def secrets_of(self, name: str) -> list[str]:
        """What this merchant verifies with; nothing when it verifies nothing."""
        return self._keys.merchants().get(name) or ([self.settings.secret] if self.settings.secret else [])

    def processed(self, recipient: str, webhook_id: str) -> Message | None:
        """The message that this merchant has taken in under this id."""
        refs = self.sandbox.world.account(NAME).messages_by_message_id.get(webhook_id, [])
        mine = next((ref for ref in refs if ref.recipient == recipient), None)
        return message_at(self.sandbox, mine) if mine else None

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        status = _REFUSALS[reason]
        response = as_json({"error": reason}, status)
        if status == 429:
            response.headers.add("Retry-After", str(max(1, round(self.sandbox.config.scaled(RATE_LIMIT_SECONDS)))))
        if status == 302:
            response.headers.add("Location", f"{self.sandbox.config.base_url}/merchant/ok/redirected")
        return response

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return as_json({"error": detail}, status)
