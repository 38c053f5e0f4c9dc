"""The Email Logs API: a small query language over the messages that were sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

import msgspec
from litestar import get, post
from litestar.types import ASGIApp

from app.sandbox.emails import events_of, iso_time, message_at
from app.sandbox.httpapi import AnyRequest, answer, as_json, sandbox_of
from app.sandbox.runtime import Sandbox
from app.sandbox.sendgrid.answers import errors
from app.sandbox.sendgrid.events import Logged, status_of
from app.sandbox.world import Message, MessageRef

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 10
MAX_EVENTS: Final = 100
NAME: Final = "sendgrid"

_TEXT: Final = r"""(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)')"""
_EQUALS: Final = re.compile(rf"(?P<field>sg_message_id|subject|to_email|reason)\s*=\s*{_TEXT}")
_IN: Final = re.compile(r"(?P<field>status|categories)\s+IN\s*\((?P<values>[^()]*)\)")
_CREATED: Final = re.compile(rf"sg_message_id_created_at\s*(?P<sign>>=|<=|>|<)\s*TIMESTAMP\s+{_TEXT}")
_VALUE: Final = re.compile(_TEXT)
_AND: Final = re.compile(r"""\s+AND\s+(?=(?:[^"']*["'][^"']*["'])*[^"']*$)""")

_decode = msgspec.json.Decoder(Logged | None).decode
Test = Callable[["Row"], bool]


class BadQuery(Exception):
    """A query that SendGrid answers with 400"""


class Search(msgspec.Struct, frozen=True):
    """The body of ``POST /v3/logs``."""

    query: str = ""
    limit: int = DEFAULT_LIMIT


class Row:
    """One message as a query sees it."""

    def __init__(self, message: Message, events: list[dict[str, Any]]) -> None:
        self.message = message
        self.events = events
        self.status, self.reason = status_of(events)

    def summary(self) -> dict[str, Any]:
        return {
            "from_email": self.message.sender,
            "sg_message_id": self.message.message_id,
            "subject": self.message.title,
            "to_email": self.message.recipient,
            "reason": self.reason,
            "status": self.status,
            "sg_message_id_created_at": iso_time(self.message.accepted_at),
        }


@post("/v3/logs", status_code=200)
async def search(request: AnyRequest) -> ASGIApp:
    """The messages that fit every condition, newest first."""
    try:
        asked = msgspec.json.decode(await request.body(), type=Search)
        tests = _tests(asked.query)
    except (BadQuery, msgspec.DecodeError, ValueError) as exc:
        return answer(request, errors(400, f"invalid query: {exc}", "query"))
    if not 1 <= asked.limit <= MAX_LIMIT:
        return answer(request, errors(400, f"limit must be 1 to {MAX_LIMIT}", "limit"))
    found = []
    for row in _rows(sandbox_of(request), asked.query):
        if all(test(row) for test in tests):
            found.append(row.summary())
        if len(found) == asked.limit:
            break
    return answer(request, as_json({"messages": found}))


@get("/v3/logs/{sg_message_id:str}")
async def one(request: AnyRequest, sg_message_id: str) -> ASGIApp:
    """Everything about one message."""
    sandbox = sandbox_of(request)
    refs = sandbox.world.account(NAME).messages_by_message_id.get(sg_message_id)
    if not refs:
        return answer(request, errors(404, "message not found"))
    row = _row(sandbox, refs[0])
    summary = row.summary()
    del summary["sg_message_id_created_at"], summary["reason"]
    more = {"category": row.message.tags, "custom_args": row.message.variables}
    details = {
        "events": [event | more for event in row.events[-MAX_EVENTS:]],
        "client_ip": "127.0.0.1",
        "api_key_id": "sandbox",
        "outbound_ip": "192.0.2.25",
    }
    return answer(request, as_json(summary | more | details))


def _rows(sandbox: Sandbox, query: str) -> Iterator[Row]:
    """The messages that may fit, newest first; a recipient narrows them down to that recipient's few."""
    account = sandbox.world.account(NAME)
    wanted = next((_text(found) for found in _EQUALS.finditer(query) if found["field"] == "to_email"), None)
    refs = account.messages if wanted is None else account.messages_to(wanted)
    return (_row(sandbox, ref) for ref in reversed(refs))


def _row(sandbox: Sandbox, ref: MessageRef) -> Row:
    message = message_at(sandbox, ref)
    received = {
        "event": "received",
        "email": message.recipient,
        "timestamp": int(message.accepted_at),
        "sg_event_id": f"recv-{message.id}",
        "recv_msgid": message.details["x_message_id"],
    }
    happened = [_decode(data.payload) for _, data in events_of(sandbox, message)]
    return Row(message, [received, *(logged.event for logged in happened if logged)])


def _text(found: re.Match[str]) -> str:
    return found["double"] if found["double"] is not None else found["single"]


def _tests(query: str) -> list[Test]:
    """A test for each condition, joined by AND alone. Raises ``BadQuery``."""
    return [_test(condition.strip()) for condition in _AND.split(query) if condition.strip()]


def _test(condition: str) -> Test:
    if found := _EQUALS.fullmatch(condition):
        name, wanted = found["field"], _text(found)
        return lambda row: row.summary()[name] == wanted
    if found := _IN.fullmatch(condition):
        values = {_text(value) for value in _VALUE.finditer(found["values"])}
        if found["field"] == "status":
            return lambda row: row.status in values
        return lambda row: bool(values & set(row.message.tags))
    if found := _CREATED.fullmatch(condition):
        return _created(found["sign"], datetime.fromisoformat(_text(found)).timestamp())
    raise BadQuery(condition)


def _created(sign: str, moment: float) -> Test:
    compare: dict[str, Test] = {
        ">": lambda row: row.message.accepted_at > moment,
        "<": lambda row: row.message.accepted_at < moment,
        ">=": lambda row: row.message.accepted_at >= moment,
        "<=": lambda row: row.message.accepted_at <= moment,
    }
    return compare[sign]
