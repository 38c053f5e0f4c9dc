"""Amazon SES v2 as the sandbox plays it, with the SNS topic that its events go through."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final
from uuid import uuid4

import msgspec
from litestar import delete, get, post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from app.sandbox.aws.publisher import Publisher
from app.sandbox.aws.sigv4 import Unsigned
from app.sandbox.calls import Draft
from app.sandbox.emails import events_of, message_at
from app.sandbox.httpapi import (
    AnyRequest,
    answer,
    as_json,
    captive_page,
    sandbox_of,
    settings_of,
    take,
)
from app.sandbox.ledger import About
from app.sandbox.protocol import Happening, Outgoing, Posting
from app.sandbox.scripting import Reason, Step
from app.sandbox.scripts import DROPPED, EMAIL
from app.sandbox.ses.events import event_data, insights
from app.sandbox.ses.settings import SesSettings
from app.sandbox.ses.submission import Rejected, Submission, read_submission
from app.sandbox.world import Message

_VALIDATED: Final = "Successfully validated SNS topic for Amazon SES event publishing."
_SUBJECT: Final = "Amazon SES Email Event Notification"
_REFUSALS: Final[Mapping[str, tuple[int, str, str]]] = MappingProxyType(
    {
        Reason.RATE_LIMITED: (429, "TooManyRequestsException", "Maximum sending rate exceeded."),
        Reason.UNAVAILABLE: (503, "ServiceUnavailable", "Service Unavailable"),
        Reason.BROKEN: (500, "InternalFailure", "An internal error occurred."),
        Reason.UNAUTHORIZED: (
            403,
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        ),
        Reason.SENDER_REFUSED: (
            400,
            "MessageRejected",
            "Email address is not verified. The following identities failed the check in region {region}: {sender}",
        ),
        Reason.INVALID_RECIPIENT: (400, "BadRequestException", "Illegal address"),
        Reason.CONTENT_REFUSED: (400, "MessageRejected", "Invalid message content."),
    }
)


@post("/v2/email/outbound-emails")
async def send(request: AnyRequest) -> ASGIApp:
    """SendEmail."""
    settings = settings_of(request, SesSettings)
    try:
        submission = read_submission(await request.body(), settings)
    except Rejected as exc:
        return answer(request, problem(exc.status, exc.kind, str(exc)))
    message_id = f"0102{secrets.token_hex(8)}-{uuid4()}-000000"
    size = len(await request.body())
    drafts = [
        Draft(_message(settings, submission, recipient, message_id, size), submission.body)
        for recipient in submission.recipients
    ]
    return take(request, drafts, as_json({"MessageId": message_id}))


def _message(settings: SesSettings, submission: Submission, recipient: str, message_id: str, size: int) -> Message:
    return Message(
        id=secrets.token_hex(8),
        provider=Ses.name,
        message_id=message_id,
        recipient=recipient,
        sender=submission.sender,
        to=", ".join(submission.recipients),
        title=submission.subject,
        domain=submission.sender.partition("@")[2],
        accepted_at=time.time(),
        size=size,
        variables=submission.tags,
        headers=submission.headers,
        details={
            "configuration_set": submission.configuration_set,
            "destination": submission.recipients,
            "region": settings.region,
        },
    )


@get(["/v2/email/insights/{message_id:str}", "/v2/email/insights/{message_id:str}/"])
async def message_insights(request: AnyRequest, message_id: str) -> ASGIApp:
    """GetMessageInsights."""
    sandbox = sandbox_of(request)
    refs = sandbox.world.account(Ses.name).messages_by_message_id.get(message_id)
    if not refs:
        return answer(request, problem(404, "NotFoundException", f"Message {message_id} does not exist."))
    message = message_at(sandbox, refs[0])
    return answer(request, as_json(insights(message, [data for _, data in events_of(sandbox, message)])))


@get("/v2/email/account")
async def account(request: AnyRequest) -> ASGIApp:
    """GetAccount."""
    sent = len(sandbox_of(request).world.account(Ses.name).messages)
    quota = {"Max24HourSend": 50_000.0, "MaxSendRate": 14.0, "SentLast24Hours": float(sent)}
    status = {"ProductionAccessEnabled": True, "SendingEnabled": True, "EnforcementStatus": "HEALTHY"}
    return answer(request, as_json({"SendQuota": quota} | status))


_SUPPRESSED_PATH: Final = "/v2/email/suppression/addresses/{address:str}"
_LISTS: Final = {"bounces": "BOUNCE", "complaints": "COMPLAINT"}


@get(_SUPPRESSED_PATH)
async def suppressed(request: AnyRequest, address: str) -> ASGIApp:
    """GetSuppressedDestination."""
    lists = sandbox_of(request).world.account(Ses.name).suppressions
    for name, reason in _LISTS.items():
        if found := lists[name].get(address.lower()):
            since = found.created_at.timestamp()
            told = {"EmailAddress": found.address, "Reason": reason, "LastUpdateTime": since}
            return answer(request, as_json({"SuppressedDestination": told}))
    return answer(request, _not_suppressed(address))


@delete(_SUPPRESSED_PATH, status_code=200)
async def unsuppress(request: AnyRequest, address: str) -> ASGIApp:
    """DeleteSuppressedDestination."""
    sandbox = sandbox_of(request)
    lists = sandbox.world.account(Ses.name).suppressions
    names = [name for name in _LISTS if address.lower() in lists[name]]
    if not names:
        return answer(request, _not_suppressed(address))
    for name in names:
        sandbox.unsuppress(Ses.name, name, address)
    return answer(request, as_json({}))


def _not_suppressed(address: str) -> ASGIResponse:
    return problem(404, "NotFoundException", f"Email address {address} does not exist on your suppression list.")


def problem(status: int, kind: str, message: str) -> ASGIResponse:
    """An error as SES v2 gives it: its type in a header, its text in the body."""
    return as_json({"message": message}, status, {"x-amzn-ErrorType": kind, "x-amzn-RequestId": str(uuid4())})


class Ses(Publisher):
    """One account in one region."""

    name = "ses"
    channel = "email"
    settings_type = SesSettings
    scripts = EMAIL
    on_list = MappingProxyType({name: DROPPED[name] for name in _LISTS})
    paths = ("/v2/email/",)
    routes = (send, message_insights, account, suppressed, unsuppress)
    settings: SesSettings

    async def check(self, request: AnyRequest) -> ASGIResponse | None:
        try:
            await self.check_signature(request, "ses")
        except Unsigned as exc:
            return problem(exc.status, exc.kind, str(exc))
        return None

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        if reason == Reason.WRONG_RESPONSE:
            return captive_page()
        status, kind, text = _REFUSALS[reason]
        sender = message.sender if message else "the sender"
        return problem(status, kind, text.format(region=self.settings.region.upper(), sender=sender))

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return problem(status, "UnknownOperationException", detail)

    # Events ---------------------------------------------------------------------------------------------------------

    def payload(self, message: Message, step: Step, happening: Happening) -> dict[str, Any] | None:
        return event_data(message, step, happening)

    def subscribed(self, endpoint: str) -> None:
        """SES begins with a line of plain text."""
        self.sandbox.sender.post(
            Posting(
                provider=self.name,
                event_id=secrets.token_urlsafe(16),
                event="validated",
                message="",
                about=About(provider=self.name),
                payload=msgspec.Raw(msgspec.json.encode(_VALIDATED)),
                url=endpoint,
            )
        )

    def outgoing(self, postings: Sequence[Posting]) -> Outgoing:
        [posting] = postings
        if posting.event == "validated":
            return self.topic.notification(_VALIDATED, event_id=posting.event_id)
        text = bytes(posting.payload).decode()
        return self.topic.notification(text, event_id=posting.event_id, forgery=posting.forgery, subject=_SUBJECT)
