"""Mailgun as the sandbox plays it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from typing import Final

import msgspec
from litestar.response.base import ASGIResponse

from app.sandbox.httpapi import AnyRequest, HttpProtocol, as_json, as_text, basic_credentials, is_same
from app.sandbox.mailgun.endpoints import signing_key, stored_message
from app.sandbox.mailgun.events import events, events_page
from app.sandbox.mailgun.payloads import event_payload
from app.sandbox.mailgun.send import send
from app.sandbox.mailgun.settings import MailgunSettings
from app.sandbox.mailgun.suppressions import delete_suppression, get_suppression, list_suppressions
from app.sandbox.protocol import STALE_SECONDS, Forgery, Happening, Outgoing, Posting
from app.sandbox.scripting import RATE_LIMIT_SECONDS, Reason, Step
from app.sandbox.scripts import DROPPED, EMAIL
from app.sandbox.world import Message

MAGNIFICENT: Final = "Mailgun Magnificent API"

_REFUSALS: Final = {
    Reason.UNAVAILABLE: (503, "Service Unavailable"),
    Reason.BROKEN: (500, "Internal Server Error"),
    Reason.SENDER_REFUSED: (
        400,
        "Domain {domain} is not allowed to send: The domain is unverified and requires DNS "
        "configuration. Log in to your control panel to view required DNS records.",
    ),
    Reason.INVALID_RECIPIENT: (400, "to parameter is not a valid address. please check documentation"),
    Reason.CONTENT_REFUSED: (
        400,
        "Need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified",
    ),
}
_RATE_LIMITED: Final = "Domain {domain} is not allowed to send: request limit exceeded, try again after {wait} seconds"


class Signature(msgspec.Struct, frozen=True):
    """The ``signature`` object of a webhook; ``timestamp`` is Unix seconds as a string."""

    timestamp: str
    token: str
    signature: str


def sign(key: str, *, timestamp: int, token: str) -> Signature:
    """HMAC-SHA256 over timestamp and token, as Mailgun's "Securing webhooks" prescribes."""
    digest = hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()
    return Signature(str(timestamp), token, digest)


class Mailgun(HttpProtocol):
    """Mailgun's API for one domain. A webhook is tried again after 5, 10 and 15 minutes, then 1, 2 and 4 hours; one
    that says ``delivered`` is not, so a receiver that misses it must ask the Events API.
    """

    name = "mailgun"
    channel = "email"
    settings_type = MailgunSettings
    option_prefix = ""  # it was here first: --domain, --api-key, --signing-key
    scripts = EMAIL
    on_list = DROPPED
    forgeries = (Forgery.REPLAYED, Forgery.BAD_SIGNATURE, Forgery.STALE)
    retry_seconds = (300, 600, 900, 3600, 7200, 14400)
    never_retried = frozenset({"delivered"})
    paths = ("/v1/", "/v3/", "/v4/", "/v5/")
    routes = (
        send,
        events,
        events_page,
        list_suppressions,
        get_suppression,
        delete_suppression,
        stored_message,
        signing_key,
    )
    settings: MailgunSettings

    def authorise(self, request: AnyRequest) -> ASGIResponse | None:
        if not is_same(basic_credentials(request), f"api:{self.settings.api_key}"):
            return as_text("Forbidden", 401)
        if request.path_params.get("domain", self.settings.domain) != self.settings.domain:
            return as_json({"message": "Domain not found"}, 404)
        return None

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        match reason:
            case Reason.RATE_LIMITED:
                return self._rate_limited()
            case Reason.UNAUTHORIZED:
                return as_text("Forbidden", 401)
            case Reason.WRONG_RESPONSE:
                return as_text(MAGNIFICENT)
            case _:
                status, text = _REFUSALS[Reason(reason)]
                return as_json({"message": text.format(domain=self.settings.domain)}, status)

    def _rate_limited(self) -> ASGIResponse:
        wait = max(1, round(self.sandbox.config.scaled(RATE_LIMIT_SECONDS)))
        text = _RATE_LIMITED.format(domain=self.settings.domain, wait=wait)
        return as_json({"message": text}, 429, {"X-RateLimit-Reset": str(int(time.time()) + wait)})

    def problem(self, status: int, detail: str) -> ASGIResponse:
        """To a path it does not know, such as one with a slash in the domain, Mailgun says a cheerful 200."""
        return as_text(MAGNIFICENT) if status == 404 else as_json({"message": detail}, status)

    def payload(self, message: Message, step: Step, happening: Happening) -> object:
        return event_payload(message, step, happening)

    def is_posted(self, message: Message, step: Step) -> bool:
        """``rejected`` is told by the Events API alone."""
        return step.event != "rejected"

    def is_settled(self, status: int | None) -> bool:
        """200 is done, 406 says not to come back, and anything else is tried again."""
        return status in (200, 406)

    def outgoing(self, postings: Sequence[Posting]) -> Outgoing:
        [posting] = postings
        posting.signed = self._sign(posting)
        body = msgspec.json.encode({"signature": posting.signed, "event-data": posting.payload})
        return Outgoing({"User-Agent": "mailgun/treq-22.4.0", "Content-Type": "application/json"}, body)

    def _sign(self, posting: Posting) -> Signature:
        if posting.replays and isinstance(posting.replays.signed, Signature):
            return posting.replays.signed
        key, now, token = self.settings.signing_key, int(time.time()), secrets.token_hex(25)
        match posting.forgery:
            case Forgery.BAD_SIGNATURE:
                return sign("not the signing key", timestamp=now, token=token)
            case Forgery.STALE:
                return sign(key, timestamp=now - STALE_SECONDS, token=token)
            case _:
                return sign(key, timestamp=now, token=token)
