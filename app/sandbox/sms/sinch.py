"""Sinch's SMS API (XMS): batches, delivery reports, and what people answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec
from litestar import get, post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp
from msgspec import Meta

from app.sandbox.calls import Draft
from app.sandbox.config import setting
from app.sandbox.emails import events_of, iso_time, landed_ids, message_at
from app.sandbox.httpapi import (
    AnyRequest,
    answer,
    as_json,
    captive_page,
    is_same,
    protocol_of,
    take,
)
from app.sandbox.protocol import Forgery, Happening, Outgoing, Posting
from app.sandbox.scripting import Failure, Reason, Step
from app.sandbox.sms.phones import Sms, e164, is_gsm, parts
from app.sandbox.world import Body, EventData, Message

NAME: Final = "sinch"
MAX_TEXT: Final = 2000
MAX_RECIPIENTS: Final = 1000
MAX_REFERENCE: Final = 2048
DEFAULT_PAGE: Final = 30
MAX_PAGE: Final = 100

INVALID_JSON: Final = "syntax_invalid_json"
INVALID_FORMAT: Final = "syntax_invalid_parameter_format"
VIOLATION: Final = "syntax_constraint_violation"

T = TypeVar("T")

_REFUSALS: Final[Mapping[str, tuple[int, str, str]]] = {
    Reason.RATE_LIMITED: (429, "too_many_requests", "Too many requests"),
    Reason.UNAVAILABLE: (503, "service_unavailable", "Service unavailable"),
    Reason.BROKEN: (500, "internal_error", "Internal server error"),
    Reason.UNAUTHORIZED: (401, "unauthorized", "Missing or invalid token"),
    Reason.SENDER_REFUSED: (403, "forbidden", "The service plan may not send from {sender}"),
    Reason.INVALID_RECIPIENT: (400, INVALID_FORMAT, "Field 'to': {recipient} is not a valid phone number"),
    Reason.CONTENT_REFUSED: (400, VIOLATION, f"body: size must be between 1 and {MAX_TEXT}"),
}
#: Status and code of a text that did not get through, by why.
_FAILURES: Final = {
    "unknown": ("ABORTED", 402),
    "landline": ("ABORTED", 402),
    "filtered": ("ABORTED", 408),
    "unreachable": ("ABORTED", 404),
    "blocked": ("REJECTED", 408),
    "failed": ("FAILED", 403),
    "expired": ("EXPIRED", 406),
}
_STATUSES: Final = {"queued": ("QUEUED", 400), "sent": ("DISPATCHED", 401), "delivered": ("DELIVERED", 0)}
_FINAL: Final = frozenset({"delivered", "failed"})
#: Which events a kind of delivery report is posted for.
_REPORTED: Final[Mapping[str, frozenset[str]]] = {
    "none": frozenset(),
    "summary": _FINAL,
    "full": _FINAL,
    "per_recipient": frozenset({*_STATUSES, "failed"}),
    "per_recipient_final": _FINAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SinchSettings:
    service_plan_id: str = setting("sandbox-service-plan", "Sinch service plan.")
    api_token: str = setting("sandbox-api-token", "Bearer token of the plan.", secret=True)
    webhook_secret: str = setting("sandbox-webhook-secret", "Secret that callbacks are signed with.", secret=True)


class Batch(msgspec.Struct, kw_only=True):
    """A request to send. Fields that change nothing here are read and given back."""

    to: Annotated[list[str], Meta(min_length=1, max_length=MAX_RECIPIENTS)]
    body: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
    from_: str | None = msgspec.field(default=None, name="from")
    type: str = "mt_text"
    delivery_report: str = "none"
    callback_url: Annotated[str, Meta(max_length=2048)] | None = None
    client_reference: Annotated[str, Meta(max_length=MAX_REFERENCE)] | None = None
    send_at: str | None = None
    expire_at: str | None = None
    flash_message: bool = False
    feedback_enabled: bool = False
    truncate_concat: bool | None = None
    max_number_of_message_parts: int | None = None
    parameters: dict[str, Any] | None = None


class Refused(Exception):
    """A request that Sinch answers with 400"""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def problem(status: int, code: str, text: str) -> ASGIResponse:
    return as_json({"code": code, "text": text}, status)


def refusal(exc: Refused) -> ASGIResponse:
    return problem(400, exc.code, str(exc))


def _read(body: bytes) -> tuple[Batch, list[str]]:
    """A batch and its recipients as international numbers. Raises ``Refused``."""
    try:
        batch = msgspec.json.decode(body, type=Batch)
    except msgspec.ValidationError as exc:
        raise Refused(VIOLATION, str(exc)) from exc
    except msgspec.DecodeError as exc:
        raise Refused(INVALID_JSON, f"Not valid JSON: {exc}") from exc
    if batch.type != "mt_text":
        raise Refused(VIOLATION, "type: only mt_text is supported here")
    if batch.delivery_report not in _REPORTED:
        raise Refused(VIOLATION, f"delivery_report: must be one of {', '.join(_REPORTED)}")
    if batch.callback_url and not batch.callback_url.startswith(("http://", "https://")):
        raise Refused(INVALID_FORMAT, "callback_url: not a valid URL")
    numbers = [e164(number) for number in batch.to]
    if wrong := next((given for given, number in zip(batch.to, numbers, strict=True) if number is None), None):
        raise Refused(INVALID_FORMAT, f"Field 'to': {wrong} is not a valid phone number")
    return batch, [number for number in numbers if number]


@post("/xms/v1/{plan:str}/batches")
async def send(request: AnyRequest, plan: str) -> ASGIApp:
    """Take a text on for each of its recipients."""
    protocol = protocol_of(request, Sinch)
    try:
        batch, recipients = _read(await request.body())
    except Refused as exc:
        return answer(request, refusal(exc))
    batch_id, moment = f"01{secrets.token_hex(12).upper()}", time.time()
    messages = [_message(batch, recipient, batch_id, moment) for recipient in recipients]
    for message in messages:
        protocol.remember(message, batch.body)
    drafts = [Draft(message, Body(text=batch.body)) for message in messages]
    return take(request, drafts, as_json(_told(protocol, messages), 201))


@post("/xms/v1/{plan:str}/batches/dry_run", status_code=200)
async def dry_run(request: AnyRequest, plan: str) -> ASGIApp:
    """Check a request without sending."""
    try:
        batch, recipients = _read(await request.body())
    except Refused as exc:
        return answer(request, refusal(exc))
    count = parts(batch.body) * len(recipients)
    told = {"number_of_recipients": len(recipients), "number_of_messages": count}
    return answer(request, as_json(told), note="checked only")


def _message(batch: Batch, recipient: str, batch_id: str, moment: float) -> Message:
    delivery, attempt = landed_ids(batch.client_reference)
    return Message(
        id=secrets.token_hex(8),
        provider=NAME,
        channel=Sms.channel,
        message_id=batch_id,
        recipient=recipient,
        sender=batch.from_ or "",
        accepted_at=moment,
        size=len(batch.body.encode()),
        landed_delivery=delivery,
        landed_attempt=attempt,
        callback=batch.callback_url,
        details={
            "report": batch.delivery_report,
            "reference": batch.client_reference,
            "to": batch.to,
            "parts": parts(batch.body),
            "encoding": "GSM" if is_gsm(batch.body) else "UNICODE",
            "expire_at": batch.expire_at,
        },
    )


# Lookups ------------------------------------------------------------------------------------------------------------


@get("/xms/v1/{plan:str}/batches")
async def list_batches(request: AnyRequest, plan: str) -> ASGIApp:
    """Batches, newest first, by ``client_reference`` and by when they were made."""
    protocol, params = protocol_of(request, Sinch), request.query_params
    try:
        number, size = _paging(params)
        fits = _in_time(params)
    except Refused as exc:
        return answer(request, refusal(exc))
    batches = [sent for sent in _batches(protocol, params.get("client_reference")) if fits(sent[0].accepted_at)]
    page = [_told(protocol, sent) for sent in batches[number * size :][:size]]
    told = {"count": len(batches), "page": number, "page_size": len(page), "batches": page}
    return answer(request, as_json(told))


@get("/xms/v1/{plan:str}/batches/{batch_id:str}")
async def one_batch(request: AnyRequest, plan: str, batch_id: str) -> ASGIApp:
    protocol = protocol_of(request, Sinch)
    sent = _sent(protocol, batch_id)
    return answer(request, as_json(_told(protocol, sent)) if sent else not_found())


@get("/xms/v1/{plan:str}/delivery_reports")
async def list_reports(request: AnyRequest, plan: str) -> ASGIApp:
    """What became of each recipient so far, newest batch first; ``status`` and ``code`` take lists with commas."""
    protocol, params = protocol_of(request, Sinch), request.query_params
    try:
        number, size = _paging(params)
        fits = _in_time(params)
    except Refused as exc:
        return answer(request, refusal(exc))
    reports = [
        report
        for sent in _batches(protocol, params.get("client_reference"))
        for message in sent
        if (report := latest(protocol, message)) and fits(message.accepted_at)
    ]
    wanted = {name: _listed(params, name) for name in ("status", "code") if params.get(name)}
    found = [report for report in reports if all(str(report[name]) in values for name, values in wanted.items())]
    page = found[number * size :][:size]
    told = {"count": len(found), "page": number, "page_size": len(page), "delivery_reports": page}
    return answer(request, as_json(told))


@get("/xms/v1/{plan:str}/batches/{batch_id:str}/delivery_report")
async def batch_report(request: AnyRequest, plan: str, batch_id: str) -> ASGIApp:
    """The recipients of a batch by what became of them; ``type=full`` names them."""
    protocol = protocol_of(request, Sinch)
    sent = _sent(protocol, batch_id)
    if not sent:
        return answer(request, not_found())
    told = [(message, _progress(protocol, message)) for message in sent]
    is_full = request.query_params.get("type", "summary") == "full"
    return answer(request, as_json(_summary(told, is_full=is_full)))


@get("/xms/v1/{plan:str}/batches/{batch_id:str}/delivery_report/{msisdn:str}")
async def recipient_report(request: AnyRequest, plan: str, batch_id: str, msisdn: str) -> ASGIApp:
    protocol = protocol_of(request, Sinch)
    message = next((one for one in _sent(protocol, batch_id) if one.recipient == e164(msisdn)), None)
    report = latest(protocol, message) if message else None
    return answer(request, as_json(report) if report else not_found())


def not_found() -> ASGIResponse:
    return problem(404, "resource_not_found", "No such resource")


def _paging(params: Mapping[str, str]) -> tuple[int, int]:
    """The number of the page, from 0, and its size."""
    number, size = params.get("page", "0"), params.get("page_size", str(DEFAULT_PAGE))
    if not number.isdecimal() or not size.isdecimal() or not 1 <= int(size) <= MAX_PAGE:
        raise Refused(VIOLATION, f"page and page_size must be numbers, page_size at most {MAX_PAGE}")
    return int(number), int(size)


def _in_time(params: Mapping[str, str]) -> Callable[[float], bool]:
    """Whether a moment is between ``start_date`` and ``end_date``. Raises ``Refused``."""
    try:
        start, end = (_moment(params.get(name)) for name in ("start_date", "end_date"))
    except ValueError as exc:
        raise Refused(INVALID_FORMAT, "start_date and end_date must be ISO 8601") from exc
    return lambda at: (start is None or start <= at) and (end is None or at < end)


def _moment(value: str | None) -> float | None:
    if not value:
        return None
    moment = datetime.fromisoformat(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _listed(params: Any, name: str) -> set[str]:
    return {word for value in params.getall(name) for word in value.split(",")}


def _batches(protocol: Sinch, reference: str | None) -> Iterator[list[Message]]:
    """The batches with this reference, or all of them, newest first, each as its messages."""
    account = protocol.sandbox.world.account(NAME)
    delivery, _ = landed_ids(reference)
    fitting = (ref for ref in reversed(account.messages) if delivery is None or ref.landed_delivery == delivery)
    for batch_id in dict.fromkeys(ref.message_id for ref in fitting):
        sent = _sent(protocol, batch_id)
        if reference is None or sent[0].details["reference"] == reference:
            yield sent


def _sent(protocol: Sinch, batch_id: str) -> list[Message]:
    refs = protocol.sandbox.world.account(NAME).messages_by_message_id.get(batch_id, [])
    return [message_at(protocol.sandbox, ref) for ref in refs]


def _told(protocol: Sinch, sent: Sequence[Message]) -> dict[str, Any]:
    """A batch as the API tells it."""
    first = sent[0]
    moment = iso_time(first.accepted_at)
    told = {
        "id": first.message_id,
        "to": [one.recipient.removeprefix("+") for one in sent],
        "from": first.sender,
        "canceled": False,
        "body": protocol.text_of(first),
        "type": "mt_text",
        "created_at": moment,
        "modified_at": moment,
        "delivery_report": first.details["report"],
        "expire_at": first.details["expire_at"],
        "flash_message": False,
        "feedback_enabled": False,
    }
    optional = {"callback_url": first.callback, "client_reference": first.details["reference"]}
    return told | {name: value for name, value in optional.items() if value is not None}


# Reports ------------------------------------------------------------------------------------------------------------

Progress = tuple[str, int, float]  # status, code, when


def _state(event: str, failure_reason: str | None) -> tuple[str, int]:
    return _FAILURES[failure_reason or "failed"] if event == "failed" else _STATUSES[event]


def _progress(protocol: Sinch, message: Message) -> Progress:
    """What became of a message so far."""
    reported = [event for event in _events(protocol, message) if event.event in _STATUSES or event.event == "failed"]
    if not reported:
        return *_STATUSES["queued"], message.accepted_at
    return *_state(reported[-1].event, reported[-1].reason), reported[-1].timestamp


def _events(protocol: Sinch, message: Message) -> Iterable[EventData]:
    return (event for _, event in events_of(protocol.sandbox, message))


def latest(protocol: Sinch, message: Message) -> dict[str, Any] | None:
    """The recipient's report as of now; none when no report was asked for."""
    return None if message.details["report"] == "none" else report(message, _progress(protocol, message))


def report(message: Message, progress: Progress) -> dict[str, Any]:
    """One recipient's delivery report."""
    status, code, at = progress
    told: dict[str, Any] = {
        "type": "recipient_delivery_report_sms",
        "batch_id": message.message_id,
        "recipient": message.recipient.removeprefix("+"),
        "code": code,
        "status": status,
        "at": iso_time(at),
        "operator_status_at": iso_time(at),
        "number_of_message_parts": message.details["parts"],
        "encoding": message.details["encoding"],
    }
    optional = {"client_reference": message.details["reference"], "applied_originator": message.sender or None}
    return told | {name: value for name, value in optional.items() if value is not None}


def _summary(told: Sequence[tuple[Message, Progress]], *, is_full: bool) -> dict[str, Any]:
    """A whole batch's delivery report: recipients counted by status and code, and named in a full one."""
    counts = Counter((status, code) for _, (status, code, _) in told)
    statuses: list[dict[str, Any]] = [
        {"code": code, "status": status, "count": count} for (status, code), count in counts.items()
    ]
    for entry in statuses if is_full else ():
        entry["recipients"] = [
            message.recipient.removeprefix("+")
            for message, (status, code, _) in told
            if (status, code) == (entry["status"], entry["code"])
        ]
    first = told[0][0]
    summary = {
        "type": "delivery_report_sms",
        "batch_id": first.message_id,
        "total_message_count": sum(message.details["parts"] for message, _ in told),
        "statuses": statuses,
    }
    reference = first.details["reference"]
    return summary | ({"client_reference": reference} if reference is not None else {})


# Callbacks ----------------------------------------------------------------------------------------------------------


def sign(secret: str, body: bytes, *, nonce: str, timestamp: str) -> str:
    """HMAC-SHA256 over body, nonce and timestamp with dots between."""
    signed = b".".join((body, nonce.encode(), timestamp.encode()))
    return base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()


class Sinch(Sms):
    """One service plan whose callbacks are signed. A refused one is tried again after 5, 10, 20, 40 and 80 seconds."""

    name = NAME
    settings_type = SinchSettings
    forgeries = (Forgery.REPLAYED, Forgery.BAD_SIGNATURE)
    retry_seconds = (5, 10, 20, 40, 80)
    paths = ("/xms/",)
    routes = (send, dry_run, list_batches, one_batch, list_reports, batch_report, recipient_report)
    settings: SinchSettings

    def authorise(self, request: AnyRequest) -> ASGIResponse | None:
        if not is_same(request.headers.get("authorization"), f"Bearer {self.settings.api_token}"):
            return self.refused(Reason.UNAUTHORIZED)
        if request.path_params.get("plan") != self.settings.service_plan_id:
            return self.refused(Reason.UNAUTHORIZED)
        return None

    def is_send(self, request: AnyRequest) -> bool:
        return request.method == "POST" and not request.url.path.endswith("/dry_run")

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        if reason == Reason.WRONG_RESPONSE:
            return captive_page()
        status, code, text = _REFUSALS[reason]
        recipient, sender = (message.recipient, message.sender) if message else ("", "")
        return problem(status, code, text.format(recipient=recipient, sender=sender))

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return not_found() if status == 404 else problem(status, "invalid_request", detail)

    def payload(self, message: Message, step: Step, happening: Happening) -> dict[str, Any] | None:
        if step.event == "replied":
            return _inbound(message, step.text, happening)
        progress = (*_state(step.event, _reason(step.failure)), happening.timestamp)
        if message.details["report"] not in ("summary", "full"):
            return report(message, progress)
        return self._batch_report(message, step, progress)

    def is_posted(self, message: Message, step: Step) -> bool:
        return step.event == "replied" or step.event in _REPORTED[message.details["report"]]

    def callback(self, message: Message, step: Step) -> str | None:
        return None if step.event == "replied" else message.callback

    def outgoing(self, postings: Sequence[Posting]) -> Outgoing:
        [posting] = postings
        body, headers = bytes(posting.payload), {"Content-Type": "application/json", "User-Agent": "Sinch-XMS"}
        posting.signed = posting.replays.signed if posting.replays else self._signature(posting, body)
        return Outgoing(headers | posting.signed, body)

    def _signature(self, posting: Posting, body: bytes) -> dict[str, str]:
        secret = self.settings.webhook_secret if posting.forgery is None else "not the webhook secret"
        nonce, timestamp = secrets.token_hex(16), str(int(time.time()))
        return {
            "x-sinch-webhook-signature": sign(secret, body, nonce=nonce, timestamp=timestamp),
            "x-sinch-webhook-signature-nonce": nonce,
            "x-sinch-webhook-signature-timestamp": timestamp,
            "x-sinch-webhook-signature-algorithm": "HmacSHA256",
        }

    def _batch_report(self, message: Message, step: Step, progress: Progress) -> dict[str, Any] | None:
        """The whole batch's report, once nothing more can become of any recipient."""
        if step.event not in _FINAL:
            return None
        told = []
        for one in _sent(self, message.message_id):
            if one.id == message.id:
                told.append((one, progress))
            elif any(event.event in _FINAL for event in _events(self, one)):
                told.append((one, _progress(self, one)))
            else:
                return None
        return _summary(told, is_full=message.details["report"] == "full")


def _reason(failure: Failure | None) -> str | None:
    return failure.reason if failure else None


def _inbound(message: Message, text: str, happening: Happening) -> dict[str, Any]:
    told = {
        "type": "mo_text",
        "id": f"01{hashlib.sha256(happening.event_id.encode()).hexdigest()[:24].upper()}",
        "from": message.recipient.removeprefix("+"),
        "to": message.sender.removeprefix("+"),
        "body": text,
        "operator_id": "310410",
        "received_at": iso_time(happening.timestamp),
        "sent_at": iso_time(happening.timestamp),
    }
    reference = message.details["reference"]
    return told | ({"client_reference": reference} if reference is not None else {})
