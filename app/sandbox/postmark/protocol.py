"""Postmark as the sandbox plays it."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final
from uuid import uuid4

from litestar import get, post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from app.sandbox.calls import Draft
from app.sandbox.emails import landed_ids
from app.sandbox.httpapi import (
    AnyRequest,
    HttpProtocol,
    answer,
    as_json,
    captive_page,
    is_same,
    sandbox_of,
    take,
)
from app.sandbox.postmark.answers import refusal
from app.sandbox.postmark.events import postmark_time, record
from app.sandbox.postmark.messages import NAME, bounce, details, search
from app.sandbox.postmark.settings import PostmarkSettings
from app.sandbox.postmark.submission import Email, Refused, Submission, read_json, read_submission
from app.sandbox.protocol import Forgery, Happening, Outgoing, Posting
from app.sandbox.scripting import Reason, Refusal, Script, Step
from app.sandbox.scripts import EMAIL, SCRIPTS
from app.sandbox.world import Message

#: Postmark's token for trying things: everything is checked, nothing is sent.
TEST_TOKEN: Final = "POSTMARK_API_TEST"  # noqa: S105 - not a secret

_INACTIVE: Final = Script("inactive", "Refused as inactive.", refusal=Refusal(Reason.SUPPRESSED))
_REFUSALS: Final[Mapping[str, tuple[int, int, str]]] = MappingProxyType(
    {
        Reason.RATE_LIMITED: (429, 429, "You have exceeded the allowed request rate. Try again later."),
        Reason.UNAVAILABLE: (503, 100, "Postmark is down for maintenance."),
        Reason.BROKEN: (500, 500, "Internal Server Error"),
        Reason.UNAUTHORIZED: (401, 10, "No Account or Server API tokens were supplied or the token is not valid."),
        Reason.SENDER_REFUSED: (
            422,
            400,
            "The 'From' address you supplied ({sender}) is not a Sender Signature on your account.",
        ),
        Reason.INVALID_RECIPIENT: (422, 300, "Error parsing 'To': Illegal email address '{recipient}'."),
        Reason.CONTENT_REFUSED: (422, 300, "Provide either email TextBody or HtmlBody or both."),
        Reason.SUPPRESSED: (
            422,
            406,
            "You tried to send to recipient(s) that have been marked as inactive. Found inactive addresses: "
            "{recipient}. Inactive recipients are ones that have generated a hard bounce, a spam complaint, or a "
            "manual suppression.",
        ),
    }
)


@post("/email", status_code=200)
async def send(request: AnyRequest) -> ASGIApp:
    """Take one email on."""
    try:
        submission = read_submission(read_json(await request.body(), Email))
    except Refused as exc:
        return answer(request, refusal(exc))
    message_id, moment = str(uuid4()), time.time()
    accepted = {
        "To": submission.email.to,
        "SubmittedAt": postmark_time(moment),
        "MessageID": message_id,
        "ErrorCode": 0,
    }
    if _token(request) == TEST_TOKEN:
        return answer(request, as_json(accepted | {"Message": "Test job accepted"}), note="checked only")
    active, words = _active(request, submission)
    drafts = [Draft(_message(submission, recipient, message_id, moment), submission.body) for recipient in active]
    return take(request, drafts, as_json(accepted | {"Message": words}))


def _active(request: AnyRequest, submission: Submission) -> tuple[list[str], str]:
    """Who gets the email, and what Postmark says about the rest. It refuses one that nobody would get."""
    account = sandbox_of(request).world.account(NAME)
    inactive = [recipient for recipient in submission.everybody if account.list_of(recipient)]
    active = [recipient for recipient in submission.everybody if recipient not in inactive]
    if not inactive or not active:
        return submission.everybody, "OK"
    return active, f"Message OK, but will not deliver to these inactive addresses: {', '.join(inactive)}."


def _message(submission: Submission, recipient: str, message_id: str, moment: float) -> Message:
    email = submission.email
    delivery, attempt = landed_ids(*email.metadata.values())
    return Message(
        id=secrets.token_hex(8),
        provider=NAME,
        message_id=message_id,
        recipient=recipient,
        sender=submission.sender,
        to=email.to,
        title=email.subject,
        domain=submission.sender.partition("@")[2],
        accepted_at=moment,
        size=len((email.html_body or "") + (email.text_body or "")),
        tags=[email.tag] if email.tag else [],
        variables=email.metadata,
        headers={"From": email.from_} | {header.name: header.value for header in email.headers},
        landed_delivery=delivery,
        landed_attempt=attempt,
        details={
            "stream": email.message_stream,
            "recipients": submission.recipients,
            "track_opens": email.track_opens,
            "track_links": email.track_links,
        },
    )


#: How Postmark calls the reasons of its suppressions.
_REASONS: Final = {"bounces": "HardBounce", "complaints": "SpamComplaint", "unsubscribes": "ManualSuppression"}


@get("/message-streams/{stream:str}/suppressions/dump")
async def suppressions(request: AnyRequest, stream: str) -> ASGIApp:
    """Every address that is inactive."""
    lists = sandbox_of(request).world.account(NAME).suppressions
    told = [
        {
            "EmailAddress": found.address,
            "SuppressionReason": reason,
            "Origin": "Recipient",
            "CreatedAt": postmark_time(found.created_at.timestamp()),
        }
        for name, reason in _REASONS.items()
        for found in lists[name].values()
    ]
    return answer(request, as_json({"Suppressions": told}))


@post("/message-streams/{stream:str}/suppressions/delete", status_code=200)
async def unsuppress(request: AnyRequest, stream: str) -> ASGIApp:
    """Make addresses active again."""
    try:
        asked: dict[str, list[dict[str, str]]] = read_json(await request.body(), dict[str, list[dict[str, str]]])
    except Refused as exc:
        return answer(request, refusal(exc))
    sandbox, told = sandbox_of(request), []
    for address in (one.get("EmailAddress", "") for one in asked.get("Suppressions", [])):
        for name, recipients in sandbox.world.account(NAME).suppressions.items():
            if address.lower() in recipients:
                sandbox.unsuppress(NAME, name, address)
        told.append({"EmailAddress": address, "Status": "Deleted", "Message": None})
    return answer(request, as_json({"Suppressions": told}))


def _token(request: AnyRequest) -> str | None:
    return request.headers.get("x-postmark-server-token")


class Postmark(HttpProtocol):
    """One server. It refuses a send to an inactive address instead of dropping it later."""

    name = NAME
    channel = "email"
    settings_type = PostmarkSettings
    scripts = EMAIL
    instead = MappingProxyType(
        {"suppressed": Script("suppressed", SCRIPTS["suppressed"].does, refusal=Refusal(Reason.SUPPRESSED))}
    )
    on_list = MappingProxyType(dict.fromkeys(_REASONS, _INACTIVE))
    forgeries = (Forgery.BAD_SIGNATURE,)
    retry_seconds = (60, 300, 600, 600, 600, 900, 1800, 3600, 7200, 21_600)
    paths = ("/email", "/messages/outbound", "/bounces/", "/message-streams/")
    routes = (send, search, details, bounce, suppressions, unsuppress)
    settings: PostmarkSettings

    def authorise(self, request: AnyRequest) -> ASGIResponse | None:
        token = _token(request)
        return (
            None if token == TEST_TOKEN or is_same(token, self.settings.server_token) else self.refused("unauthorized")
        )

    def is_send(self, request: AnyRequest) -> bool:
        return request.url.path == "/email"

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        if reason == Reason.WRONG_RESPONSE:
            return captive_page()
        status, code, text = _REFUSALS[reason]
        sender, recipient = (message.sender, message.recipient) if message else ("", "")
        return refusal(Refused(code, text.format(sender=sender, recipient=recipient)), status)

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return refusal(Refused(status, detail), status)

    def payload(self, message: Message, step: Step, happening: Happening) -> dict[str, Any] | None:
        return record(message, step, happening)

    def is_settled(self, status: int | None) -> bool:
        """200 is done, 403 says not to come back, and anything else is tried again."""
        return status in (200, 403)

    def waits(self, posting: Posting) -> Sequence[float]:
        """Bounces and complaints are worth ten more tries to Postmark, everything else three."""
        return self.retry_seconds if posting.event in ("failed", "rejected", "complained") else (60, 300, 900)

    def outgoing(self, postings: Sequence[Posting]) -> Outgoing:
        """Nothing is signed: who posts knows a password, or a header of the receiver's own."""
        [posting] = postings
        is_genuine = posting.forgery is None
        password = self.settings.webhook_password if is_genuine else "not the password"
        credentials = base64.b64encode(f"{self.settings.webhook_username}:{password}".encode()).decode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Postmark",
            "Authorization": f"Basic {credentials}",
        }
        if self.settings.webhook_header and is_genuine:
            name, _, value = self.settings.webhook_header.partition(":")
            headers[name.strip()] = value.strip()
        return Outgoing(headers, bytes(posting.payload))
