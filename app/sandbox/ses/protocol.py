"""Amazon SES v2 as the sandbox plays it, with the SNS topic that its events go through."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final
from uuid import uuid4

import msgspec
from litestar import delete, get, post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, ControllerRouterHandler

from app.sandbox.calls import Call, Draft
from app.sandbox.emails import events_of, message_at
from app.sandbox.faults import Mode
from app.sandbox.httpapi import (
    AnyRequest,
    HttpProtocol,
    answer,
    as_json,
    as_text,
    captive_page,
    is_same,
    sandbox_of,
    settings_of,
    take,
)
from app.sandbox.ledger import About, Kind
from app.sandbox.protocol import Forgery, Happening, Outgoing, Posting
from app.sandbox.runtime import Sandbox
from app.sandbox.scripting import Reason, Step
from app.sandbox.scripts import DROPPED, EMAIL
from app.sandbox.ses.events import event_data, insights
from app.sandbox.ses.settings import SesSettings
from app.sandbox.ses.sigv4 import SignedRequest, Unsigned, check
from app.sandbox.ses.sns import Topic
from app.sandbox.ses.submission import Rejected, Submission, read_submission
from app.sandbox.world import Message, SubscriptionData

#: Waits before an endpoint that has not confirmed is asked again: the first, which then doubles, and the longest. Where
#: SNS asks but three times, the sandbox does not give up on an API that is still starting.
CONFIRM_SECONDS: Final = 1.0
CONFIRM_SECONDS_MAX: Final = 30.0
CONFIRM_SECONDS_MIN: Final = 0.05  # whatever the speed

_VALIDATED: Final = "Successfully validated SNS topic for Amazon SES event publishing."
_CONFIRMED: Final = (
    '<ConfirmSubscriptionResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><ConfirmSubscriptionResult>'
    "<SubscriptionArn>{arn}:{token}</SubscriptionArn></ConfirmSubscriptionResult></ConfirmSubscriptionResponse>"
)
_INVALID: Final = (
    '<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type>'
    "<Code>InvalidParameter</Code><Message>Invalid token</Message></Error></ErrorResponse>"
)
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


@get("/sns/{name:str}")
async def certificate(request: AnyRequest, name: str) -> ASGIApp:
    """The certificate that notifications are signed under, for anybody."""
    ses = _open_to_all(request)
    if f"/sns/{name}" != ses.topic.certificate_path:
        return answer(request, as_text("Not found", 404))
    return answer(request, as_text(ses.topic.certificate.decode(), media_type="application/x-pem-file"))


@get("/sns/")
async def confirm(request: AnyRequest) -> ASGIApp:
    """ConfirmSubscription, by whoever knows the token."""
    ses, params = _open_to_all(request), request.query_params
    if params.get("Action") != "ConfirmSubscription" or params.get("TopicArn") != ses.topic.arn:
        return answer(request, as_text(_INVALID, 400, "text/xml"))
    if not is_same(params.get("Token", ""), ses.token):
        return answer(request, as_text(_INVALID, 400, "text/xml"), note="wrong token")
    ses.confirmed()
    subscription = _CONFIRMED.format(arn=ses.topic.arn, token=uuid4())
    return answer(request, as_text(subscription, media_type="text/xml"))


def _open_to_all(request: AnyRequest) -> Ses:
    """Let a call in that no credentials and no fault stand before."""
    ses = sandbox_of(request).protocols[Ses.name]
    assert isinstance(ses, Ses)
    seq = ses.sandbox.door.record(ses.name, request.method, request.url.path)
    request.scope["state"].update(call=Call(ses.name, seq, Mode.OK), protocol=ses)
    return ses


def problem(status: int, kind: str, message: str) -> ASGIResponse:
    """An error as SES v2 gives it: its type in a header, its text in the body."""
    return as_json({"message": message}, status, {"x-amzn-ErrorType": kind, "x-amzn-RequestId": str(uuid4())})


class Ses(HttpProtocol):
    """One account in one region. Its events reach a subscriber that has confirmed; until then they are kept."""

    name = "ses"
    channel = "email"
    settings_type = SesSettings
    scripts = EMAIL
    on_list = MappingProxyType({name: DROPPED[name] for name in _LISTS})
    forgeries = (Forgery.BAD_SIGNATURE, Forgery.STALE, Forgery.FOREIGN)
    retry_seconds = (20, 20, 20)
    paths = ("/v2/email/",)
    routes = (send, message_insights, account, suppressed, unsuppress)
    settings: SesSettings

    def __init__(self, sandbox: Sandbox, settings: SesSettings) -> None:
        super().__init__(sandbox, settings)
        self.topic = Topic(settings.topic_arn, sandbox.config.base_url)
        self.token = secrets.token_hex(64)
        self._asking: asyncio.Task[None] | None = None

    def handlers(self) -> Sequence[ControllerRouterHandler]:
        return [*super().handlers(), certificate, confirm]

    async def check(self, request: AnyRequest) -> ASGIResponse | None:
        signed = SignedRequest(
            method=request.method,
            raw_path=request.scope["raw_path"].decode("ascii").partition("?")[0],
            query=request.scope["query_string"].decode("ascii"),
            headers=dict(request.headers),
            body=await request.body(),
        )
        key_id, secret = self.settings.access_key_id, self.settings.secret_access_key
        try:
            check(
                signed, key_id=key_id, secret=secret, region=self.settings.region, service="ses", now=datetime.now(UTC)
            )
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

    # The topic ------------------------------------------------------------------------------------------------------

    @property
    def _endpoint(self) -> str | None:
        return self.sandbox.config.webhook_url_of(self.name)

    @property
    def _is_confirmed(self) -> bool:
        return self._endpoint in self.sandbox.world.account(self.name).confirmed

    async def start(self) -> None:
        """Ask the subscriber to confirm, unless it did before a restart."""
        if self._endpoint and not self._is_confirmed:
            self._asking = asyncio.create_task(self._ask(self._endpoint))

    async def stop(self) -> None:
        if self._asking:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._asking

    async def _ask(self, endpoint: str) -> None:
        await asyncio.to_thread(lambda: self.topic.certificate)  # making a key takes a while
        wait = CONFIRM_SECONDS
        told: tuple[int | None, str | None] | None = None
        while not self._is_confirmed:
            found = await self.sandbox.sender.send(
                endpoint, self.topic.confirmation(self.token), self.webhook_timeout_seconds
            )
            if found != told:
                told = found
                self._record(endpoint, confirmed=self._is_confirmed, status=found[0], note=found[1] or "asked")
            await asyncio.sleep(max(CONFIRM_SECONDS_MIN, self.sandbox.config.scaled(wait)))
            wait = min(2 * wait, CONFIRM_SECONDS_MAX)

    def confirmed(self) -> None:
        """The subscriber has confirmed: everything kept for it goes out, after a line of plain text."""
        endpoint = self._endpoint
        if endpoint is None or self._is_confirmed:
            return
        self._record(endpoint, confirmed=True, status=None, note="confirmed")
        self.sandbox.sender.resume(self.name)
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

    def _record(self, endpoint: str, *, confirmed: bool, status: int | None, note: str) -> None:
        self.sandbox.ledger.append(
            Kind.SUBSCRIPTION,
            about=About(provider=self.name),
            status=status,
            note=note,
            data=SubscriptionData(url=endpoint, confirmed=confirmed),
        )

    # Events ---------------------------------------------------------------------------------------------------------

    def payload(self, message: Message, step: Step, happening: Happening) -> dict[str, Any] | None:
        return event_data(message, step, happening)

    def may_post(self, posting: Posting) -> bool:
        return posting.url in self.sandbox.world.account(self.name).confirmed

    def is_settled(self, status: int | None) -> bool:
        """SNS takes every answer below 500 for a delivery."""
        return status is not None and status < 500

    def outgoing(self, postings: Sequence[Posting]) -> Outgoing:
        [posting] = postings
        if posting.event == "validated":
            return self.topic.notification(_VALIDATED, event_id=posting.event_id, subject=None)
        text = bytes(posting.payload).decode()
        return self.topic.notification(text, event_id=posting.event_id, forgery=posting.forgery)
