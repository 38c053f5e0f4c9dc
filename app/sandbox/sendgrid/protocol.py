"""SendGrid as the sandbox plays it."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from litestar import delete, get, post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from app.sandbox.calls import Draft
from app.sandbox.httpapi import (
    AnyRequest,
    HttpProtocol,
    answer,
    as_json,
    captive_page,
    is_same,
    sandbox_of,
    settings_of,
    take,
)
from app.sandbox.protocol import STALE_SECONDS, Forgery, Happening, Outgoing, Posting
from app.sandbox.scripting import RATE_LIMIT_SECONDS, Reason, Script, Step
from app.sandbox.scripts import DROPPED, EMAIL
from app.sandbox.sendgrid.answers import errors
from app.sandbox.sendgrid.events import Logged, as_posted, event_data
from app.sandbox.sendgrid.logs import NAME, one, search
from app.sandbox.sendgrid.settings import SendGridSettings, private_key, public_key
from app.sandbox.sendgrid.submission import Addressee, Submission, Wrong, read_submission
from app.sandbox.world import Message

_REFUSALS: Final[Mapping[str, tuple[int, str, str | None]]] = MappingProxyType(
    {
        Reason.UNAVAILABLE: (503, "Service Unavailable", None),
        Reason.BROKEN: (500, "Internal Server Error", None),
        Reason.UNAUTHORIZED: (401, "authorization required", None),
        Reason.SENDER_REFUSED: (
            403,
            "The from address does not match a verified Sender Identity. "
            "Mail cannot be sent until this error is resolved.",
            "from",
        ),
        Reason.INVALID_RECIPIENT: (400, "Does not contain a valid address.", "personalizations.0.to.0.email"),
        Reason.CONTENT_REFUSED: (
            400,
            "The content value must be a string at least one character in length.",
            "content.0.value",
        ),
    }
)


@post("/v3/mail/send")
async def send(request: AnyRequest) -> ASGIApp:
    """Take a mail on for every recipient of every personalization."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        return answer(request, errors(415, "Content-Type should be application/json."))
    try:
        submission = read_submission(await request.body())
    except Wrong as exc:
        return answer(request, errors(400, str(exc), exc.field))
    x_message_id = secrets.token_urlsafe(16)
    if submission.only_validated:
        return answer(request, as_json({}, 200, {"X-Message-Id": x_message_id}), note="sandbox mode: validated only")
    size = len(await request.body())
    drafts = [
        Draft(_message(submission, addressee, x_message_id, number, size), submission.body)
        for number, addressee in enumerate(submission.addressees)
    ]
    return take(request, drafts, ASGIResponse(status_code=202, headers={"X-Message-Id": x_message_id}))


def _message(submission: Submission, addressee: Addressee, x_message_id: str, number: int, size: int) -> Message:
    return Message(
        id=secrets.token_hex(8),
        provider=NAME,
        message_id=f"{x_message_id}.recvd-{secrets.token_hex(5)}-{secrets.token_hex(3)}-1-{secrets.token_hex(4)}-{number}.0",
        recipient=addressee.address,
        sender=submission.sender,
        to=addressee.address,
        title=addressee.subject,
        domain=submission.sender.partition("@")[2],
        accepted_at=time.time(),
        size=size,
        tags=submission.categories,
        variables=dict(addressee.custom_args),
        headers={"From": submission.sender, **addressee.headers},
        details={
            "x_message_id": x_message_id,
            "smtp_id": f"<{x_message_id}@geopod-ismtpd-sandbox>",
            "group_id": submission.group_id,
        },
    )


@get("/v3/user/webhooks/event/settings/signed")
async def verification_key(request: AnyRequest) -> ASGIApp:
    """The key that webhooks can be verified with."""
    return answer(request, as_json({"public_key": public_key(settings_of(request, SendGridSettings).webhook_secret)}))


#: SendGrid's names of its suppression lists.
_LISTS: Final = {"bounces": "bounces", "spam_reports": "complaints", "unsubscribes": "unsubscribes"}
_LIST_PATHS: Final = [f"/v3/suppression/{name}/{{address:str}}" for name in _LISTS]


@get(_LIST_PATHS)
async def suppressed(request: AnyRequest, address: str) -> ASGIApp:
    """One address on one list: a list of one, or of none."""
    found = sandbox_of(request).world.account(NAME).suppressions[_list_name(request)].get(address.lower())
    if found is None:
        return answer(request, as_json([]))
    created = int(found.created_at.timestamp())
    return answer(request, as_json([{"created": created, "email": found.address, "reason": found.error or ""}]))


@delete(_LIST_PATHS, status_code=200)
async def unsuppress(request: AnyRequest, address: str) -> ASGIApp:
    """Take one address off one list."""
    sandbox, name = sandbox_of(request), _list_name(request)
    if address.lower() not in sandbox.world.account(NAME).suppressions[name]:
        return answer(request, errors(404, "resource not found"))
    sandbox.unsuppress(NAME, name, address)
    return answer(request, ASGIResponse(status_code=204))


def _list_name(request: AnyRequest) -> str:
    return _LISTS[request.url.path.split("/")[3]]


def _posted(posting: Posting) -> bytes:
    return msgspec.json.encode(as_posted(msgspec.json.decode(posting.payload, type=Logged)))


def _dropped_at_once(script: Script) -> Script:
    """SendGrid does not process what it drops."""
    return Script(script.name, script.does, steps=script.steps[1:])


class SendGrid(HttpProtocol):
    """Gathers its events and posts them as one array; comes again at growing intervals for a day."""

    name = NAME
    channel = "email"
    settings_type = SendGridSettings
    scripts = EMAIL
    on_list = MappingProxyType({name: _dropped_at_once(script) for name, script in DROPPED.items()})
    forgeries = (Forgery.BAD_SIGNATURE,)
    retry_seconds = (60, 120, 240, 480, 960, 1920, 3840, 7680, 15_360, 30_720)
    batch_seconds = 3.0  # up to 30 at SendGrid; a demo is watched
    paths = ("/v3/mail/", "/v3/logs", "/v3/suppression/", "/v3/user/")
    routes = (send, search, one, verification_key, suppressed, unsuppress)
    settings: SendGridSettings

    def authorise(self, request: AnyRequest) -> ASGIResponse | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not is_same(key, self.settings.api_key):
            return self.refused(Reason.UNAUTHORIZED)
        return None

    def is_send(self, request: AnyRequest) -> bool:
        return request.url.path == "/v3/mail/send"

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        match reason:
            case Reason.WRONG_RESPONSE:
                return captive_page()
            case Reason.RATE_LIMITED:
                wait = max(1, round(self.sandbox.config.scaled(RATE_LIMIT_SECONDS)))
                reset = {"X-RateLimit-Limit": "600", "X-RateLimit-Remaining": "0"}
                reset["X-RateLimit-Reset"] = str(int(time.time()) + wait)
                return errors(429, "too many requests", headers=reset)
            case _:
                return errors(*_REFUSALS[reason])

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return errors(status, detail)

    def payload(self, message: Message, step: Step, happening: Happening) -> Logged | None:
        event = event_data(message, step, happening)
        return Logged(event, message.variables, message.tags) if event else None

    def outgoing(self, postings: Sequence[Posting]) -> Outgoing:
        """The array as SendGrid writes it, CRLF between events and at the end; what is signed is these very bytes."""
        body = b"[" + b",\r\n".join(_posted(posting) for posting in postings) + b"]\r\n"
        timestamp = str(int(time.time()) - (STALE_SECONDS if postings[0].forgery is Forgery.STALE else 0))
        is_genuine = postings[0].forgery is not Forgery.BAD_SIGNATURE
        key = private_key(self.settings.webhook_secret if is_genuine else "not the webhook secret")
        signature = key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "SendGrid Event API",
            "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
            "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
        }
        return Outgoing(headers, body)
