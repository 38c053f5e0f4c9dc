"""The Messages API: outbound messages, searched by what they carry, and one message's details."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from litestar import get
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from app.sandbox.emails import event_at, events_of, landed_ids, message_at
from app.sandbox.httpapi import AnyRequest, answer, as_json, sandbox_of
from app.sandbox.postmark.answers import refusal
from app.sandbox.postmark.events import detail, postmark_time
from app.sandbox.postmark.submission import Refused
from app.sandbox.runtime import Sandbox
from app.sandbox.world import Message

NAME: Final = "postmark"
MAX_COUNT: Final = 500
MAX_REACH: Final = 10_000

Test = Callable[[Message], bool]
Sent = list[Message]  # the messages of one MessageID, one for each recipient


@get("/messages/outbound")
async def search(request: AnyRequest) -> ASGIApp:
    """The messages that fit every filter, newest first, in pages by ``count`` and ``offset``."""
    try:
        count, offset = _number(request.query_params, "count"), _number(request.query_params, "offset")
        if count > MAX_COUNT or count + offset > MAX_REACH:
            raise Refused(600, f"count may be {MAX_COUNT} at the most, count and offset together {MAX_REACH}.")
        tests = [_test(name, value) for name, value in request.query_params.items() if value and name not in _PAGING]
    except Refused as exc:
        return answer(request, refusal(exc))
    sent = _sent(sandbox_of(request), request.query_params)
    found = [one for one in sent if all(any(map(test, one)) for test in tests)]
    page = [_summary(sent) for sent in found[offset : offset + count]]
    return answer(request, as_json({"TotalCount": len(found), "Messages": page}))


@get("/messages/outbound/{message_id:str}/details")
async def details(request: AnyRequest, message_id: str) -> ASGIApp:
    """One message with its body, while that is kept, and its events."""
    sandbox = sandbox_of(request)
    refs = sandbox.world.account(NAME).messages_by_message_id.get(message_id)
    if not refs:
        return answer(request, not_found())
    sent = [message_at(sandbox, ref) for ref in refs]
    events = [
        told
        for message in sent
        for _, event in events_of(sandbox, message)
        if (told := detail(message, event, msgspec.json.decode(event.payload)))
    ]
    mail = sandbox.world.mailbox.get(sent[0].id)
    body = mail.body if mail else None
    texts = {"TextBody": (body and body.text) or "", "HtmlBody": (body and body.html) or "", "Body": ""}
    return answer(request, as_json(_summary(sent) | texts | {"MessageEvents": events}))


@get("/bounces/{bounce_id:int}")
async def bounce(request: AnyRequest, bounce_id: int) -> ASGIApp:
    """One bounce, as its webhook told it."""
    sandbox = sandbox_of(request)
    for ref in reversed(sandbox.world.account(NAME).events):
        if ref.event in _BOUNCED:
            told = msgspec.json.decode(event_at(sandbox, ref).payload)
            if told["ID"] == bounce_id:
                return answer(request, as_json(told))
    return answer(request, refusal(Refused(407, "Bounce not found."), 404))


#: Events that Postmark keeps as bounces.
_BOUNCED: Final = frozenset({"failed", "rejected", "complained"})


def not_found() -> ASGIResponse:
    return refusal(Refused(701, "This message was not found."))


_PAGING: Final = frozenset({"count", "offset"})


def _number(params: Mapping[str, str], name: str) -> int:
    value = params.get(name, "")
    if not value.isdecimal():
        raise Refused(600, f"The '{name}' parameter is required and must be a number.")
    return int(value)


def _test(name: str, value: str) -> Test:
    """Whether a message fits one filter. Raises ``Refused``."""
    if name.startswith("metadata_"):
        key = name.removeprefix("metadata_")
        return lambda message: message.variables.get(key) == value
    plain: Mapping[str, Test] = {
        "recipient": lambda message: message.recipient.lower() == value.lower(),
        "fromemail": lambda message: message.sender.lower() == value.lower(),
        "tag": lambda message: value in message.tags,
        "subject": lambda message: value.lower() in message.title.lower(),
        "messagestream": lambda message: message.details["stream"] == value,
        "status": lambda message: value.lower() in ("sent", "processed"),
    }
    if name in plain:
        return plain[name]
    if name in ("fromdate", "todate"):
        return _dated(name, value)
    raise Refused(600, f"Unknown parameter '{name}'.")


def _dated(name: str, value: str) -> Test:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as exc:
        raise Refused(600, f"The '{name}' parameter is not a date.") from exc
    at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if name == "fromdate":
        return lambda message: message.accepted_at >= at
    return lambda message: message.accepted_at <= at


def _sent(sandbox: Sandbox, params: Mapping[str, str]) -> Iterator[Sent]:
    """The sends that may fit, newest first; a recipient or a reference of the sender's narrows them down to a few."""
    account = sandbox.world.account(NAME)
    refs = account.messages_to(params["recipient"]) if params.get("recipient") else account.messages
    values = [value for name, value in params.items() if name.startswith("metadata_")]
    delivery, _ = landed_ids(*values)
    for message_id in dict.fromkeys(
        ref.message_id for ref in reversed(refs) if delivery is None or ref.landed_delivery == delivery
    ):
        yield [message_at(sandbox, ref) for ref in account.messages_by_message_id[message_id]]


def _summary(sent: Sent) -> dict[str, Any]:
    message = sent[0]
    groups: Mapping[str, list[str]] = message.details["recipients"]
    people = {name: [{"Email": address, "Name": ""} for address in groups[name]] for name in ("To", "Cc", "Bcc")}
    return {
        "MessageID": message.message_id,
        "MessageStream": message.details["stream"],
        **people,
        "Recipients": [one.recipient for one in sent],
        "ReceivedAt": postmark_time(message.accepted_at),
        "From": message.headers["From"],
        "Subject": message.title,
        "Tag": message.tags[0] if message.tags else "",
        "Attachments": [],
        "Status": "Sent",
        "TrackOpens": message.details["track_opens"],
        "TrackLinks": message.details["track_links"],
        "Metadata": message.variables,
        "Sandboxed": False,
    }
