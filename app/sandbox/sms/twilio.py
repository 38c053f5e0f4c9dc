"""Twilio's Programmable Messaging: messages, status callbacks, and what people answer.

The callbacks go where a message's ``StatusCallback`` says, which is also all that carries the sender's own id.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

import msgspec
from litestar import get, post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp
from yarl import URL

from app.sandbox.calls import Draft
from app.sandbox.config import setting
from app.sandbox.emails import events_of, landed_ids, message_at
from app.sandbox.httpapi import (
    AnyRequest,
    answer,
    as_json,
    basic_credentials,
    captive_page,
    is_same,
    protocol_of,
    sandbox_of,
    take,
)
from app.sandbox.protocol import Forgery, Happening, Outgoing, Posting
from app.sandbox.scripting import Reason, Step
from app.sandbox.sms.phones import Sms, e164, keyword, parts
from app.sandbox.sms.scripts import NOT_MOBILE, RECIPIENT_OPTED_OUT, REFUSED
from app.sandbox.world import Body, EventData, Message

NAME: Final = "twilio"
API_VERSION: Final = "2010-04-01"
MAX_TEXT: Final = 1600
MAX_VALIDITY_SECONDS: Final = 36_000
DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 1000
MAX_FIELDS: Final = 200
MAX_CALLBACK_RETRIES: Final = 5

_SERVICE: Final = re.compile(r"MG[0-9a-f]{32}")
_SENDER: Final = re.compile(r"\+[1-9]\d{1,14}|[1-9]\d{2,7}|[A-Za-z0-9 ]{1,11}")

#: Status, code and words of each refusal.
_REFUSALS: Final[Mapping[str, tuple[int, int, str]]] = {
    Reason.RATE_LIMITED: (429, 20429, "Too many requests"),
    Reason.UNAVAILABLE: (503, 20503, "Service unavailable"),
    Reason.BROKEN: (500, 20500, "Internal server error"),
    Reason.UNAUTHORIZED: (401, 20003, "Authenticate"),
    Reason.SENDER_REFUSED: (
        400,
        21606,
        "The 'From' phone number provided ({sender}) is not a valid message-capable Twilio phone number for this "
        "destination.",
    ),
    Reason.INVALID_RECIPIENT: (400, 21211, "Invalid 'To' Phone Number: {hidden}"),
    Reason.CONTENT_REFUSED: (400, 21617, "The concatenated message body exceeds the 1600 character limit"),
    NOT_MOBILE: (400, 21614, "'To' number: {recipient}, is not a mobile number"),
    RECIPIENT_OPTED_OUT: (400, 21610, "Attempt to send to unsubscribed recipient"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TwilioSettings:
    account_sid: str = setting("AC" + "5a" * 16, "Twilio account.")
    auth_token: str = setting("sandbox-auth-token", "Its auth token, which also signs the callbacks.", secret=True)
    api_key_sid: str = setting("SK" + "5b" * 16, "API key that may send for the account.")
    api_key_secret: str = setting("sandbox-api-key-secret", "Its secret.", secret=True)
    service_number: str = setting("+15005550006", "Number that a messaging service sends from.")
    advanced_opt_out: bool = setting(False, "Whether inbound messages say OptOutType.")


class Refused(Exception):
    """A send that Twilio answers with 400"""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Form:
    """The fields of a request, each by the last value given."""

    def __init__(self, body: bytes) -> None:
        try:
            fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError as exc:
            raise Refused(20001, "malformed request body") from exc
        self._fields = {name: values[-1] for name, values in fields.items()}

    def get(self, name: str) -> str:
        return self._fields.get(name, "")


def problem(status: int, code: int, text: str) -> ASGIResponse:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return as_json({"code": code, "message": text, "more_info": more, "status": status}, status)


# The Messages resource ----------------------------------------------------------------------------------------------


@post("/2010-04-01/Accounts/{account:str}/Messages.json")
async def create(request: AnyRequest, account: str) -> ASGIApp:
    """Take a text on, or do to the caller what its number asks for."""
    protocol = protocol_of(request, Twilio)
    try:
        message, text = _read(Form(await request.body()))
    except Refused as exc:
        return answer(request, problem(400, exc.code, str(exc)))
    protocol.remember(message, text)
    created = as_json(resource(protocol, message, []), 201)
    return take(request, [Draft(message, Body(text=text))], created)


@get("/2010-04-01/Accounts/{account:str}/Messages.json")
async def list_messages(request: AnyRequest, account: str) -> ASGIApp:
    """Messages, newest first, that fit every filter; ``next_page_uri`` leads to the older ones."""
    protocol, params = protocol_of(request, Twilio), request.query_params
    try:
        size, filters = _page_size(params), Filters.read(params)
    except Refused as exc:
        return answer(request, problem(400, exc.code, str(exc)))
    page: list[dict[str, Any]] = []
    more = False
    for told in _after(params.get("PageToken"), _sent(protocol, filters)):
        if more := len(page) == size:
            break
        page.append(told)
    return answer(request, as_json(_paged(request, page, size, more=more)))


@get("/2010-04-01/Accounts/{account:str}/Messages/{sid:str}")
async def fetch(request: AnyRequest, account: str, sid: str) -> ASGIApp:
    """One message, by the id that ``create`` answered."""
    protocol = protocol_of(request, Twilio)
    refs = sandbox_of(request).world.account(NAME).messages_by_message_id.get(sid.removesuffix(".json"))
    if not refs:
        return answer(request, not_found(request.url.path))
    message = message_at(protocol.sandbox, refs[0])
    return answer(request, as_json(resource(protocol, message, _events(protocol, message))))


def not_found(path: str) -> ASGIResponse:
    return problem(404, 20404, f"The requested resource {path} was not found")


def _read(form: Form) -> tuple[Message, str]:
    """The message a form asks for, and its text. Raises ``Refused``."""
    to, sender, service, text = form.get("To"), form.get("From"), form.get("MessagingServiceSid"), form.get("Body")
    if not to:
        raise Refused(21604, "A 'To' phone number is required.")
    if not to.startswith("+") or e164(to) is None:
        raise Refused(21211, f"Invalid 'To' Phone Number: {_hidden(to)}")
    if not sender and not service:
        raise Refused(21603, "A 'From' phone number is required.")
    if (service and not _SERVICE.fullmatch(service)) or (sender and not _SENDER.fullmatch(sender)):
        raise Refused(21212, f"Invalid From Number (caller ID): {sender or service}")
    if not text:
        raise Refused(21602, "Message body is required.")
    if len(text) > MAX_TEXT:
        raise Refused(21617, _REFUSALS[Reason.CONTENT_REFUSED][2])
    _check_validity(form.get("ValidityPeriod"))
    callback = _checked_callback(form.get("StatusCallback"))
    delivery, attempt = landed_ids(callback)
    message = Message(
        id=secrets.token_hex(8),
        provider=NAME,
        channel=Sms.channel,
        message_id=f"SM{secrets.token_hex(16)}",
        recipient=to,
        sender=sender or service,
        accepted_at=time.time(),
        size=len(text.encode()),
        landed_delivery=delivery,
        landed_attempt=attempt,
        callback=callback,
        details={"from": sender or None, "service": service or None, "segments": parts(text)},
    )
    return message, text


def _check_validity(value: str) -> None:
    if value and not (value.isdecimal() and 1 <= int(value) <= MAX_VALIDITY_SECONDS):
        raise Refused(20001, f"ValidityPeriod must be between 1 and {MAX_VALIDITY_SECONDS} seconds")


def _checked_callback(url: str) -> str | None:
    if not url:
        return None
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in ("http", "https") or not parsed.host or "_" in parsed.host:
        raise Refused(21609, f"The StatusCallback URL {url} is not a valid URL.")
    return url


def _hidden(number: str) -> str:
    """A number as Twilio shows it in errors."""
    return number[:-4] + "XXXX"


# Messages as they are told ------------------------------------------------------------------------------------------


def _status(step_or_event: str) -> str:
    return "undelivered" if step_or_event == "failed" else step_or_event


def resource(protocol: Twilio, message: Message, events: Sequence[EventData]) -> dict[str, Any]:
    """A message as the API tells it, after these events."""
    account, details = protocol.settings.account_sid, message.details
    uri = f"/{API_VERSION}/Accounts/{account}/Messages/{message.message_id}.json"
    happened = {event.event: event for event in events}
    failure = happened.get("failed")
    told = next((event.event for event in reversed(events) if event.event in ("sent", "delivered", "failed")), None)
    sent = happened.get("sent")
    return {
        "account_sid": account,
        "api_version": API_VERSION,
        "body": protocol.text_of(message),
        "date_created": rfc2822(message.accepted_at),
        "date_sent": rfc2822(sent.timestamp) if sent else None,
        "date_updated": rfc2822(events[-1].timestamp if events else message.accepted_at),
        "direction": "outbound-api",
        "error_code": failure.code if failure else None,
        "error_message": None,
        "from": details["from"] or (protocol.settings.service_number if sent else None),
        "messaging_service_sid": details["service"],
        "num_media": "0",
        "num_segments": "0" if details["service"] and not sent else str(details["segments"]),
        "price": None,
        "price_unit": "USD",
        "sid": message.message_id,
        "status": _status(told) if told else ("accepted" if details["service"] else "queued"),
        "subresource_uris": {"media": uri.replace(".json", "/Media.json")},
        "to": message.recipient,
        "uri": uri,
    }


def rfc2822(timestamp: float) -> str:
    return format_datetime(datetime.fromtimestamp(timestamp, UTC))


def _events(protocol: Twilio, message: Message) -> list[EventData]:
    return [event for _, event in events_of(protocol.sandbox, message)]


@dataclass(frozen=True, slots=True)
class Filters:
    """What a list is narrowed to. days: bounds of the day a message was sent on, by operator; GMT."""

    to: str
    sender: str
    days: Mapping[str, str]

    @classmethod
    def read(cls, params: Mapping[str, str]) -> Filters:
        """From the query, where ``DateSent>=2026-01-31`` is a parameter named ``DateSent>``. Raises ``Refused``."""
        days = {
            name.removeprefix("DateSent"): params[name]
            for name in ("DateSent", "DateSent<", "DateSent>")
            if params.get(name)
        }
        try:
            days = {sign: datetime.fromisoformat(value).date().isoformat() for sign, value in days.items()}
        except ValueError as exc:
            raise Refused(20001, "DateSent must be a date, YYYY-MM-DD") from exc
        return cls(params.get("To", ""), params.get("From", ""), days)

    def fit(self, told: Mapping[str, Any], sent_at: float | None) -> bool:
        """Whether a message fits; one that has not been sent fits no date."""
        if (self.to and told["to"] != self.to) or (self.sender and told["from"] != self.sender):
            return False
        if not self.days:
            return True
        if sent_at is None:
            return False
        day = datetime.fromtimestamp(sent_at, UTC).date().isoformat()
        tests = {"": day.__eq__, "<": day.__le__, ">": day.__ge__}
        return all(tests[sign](bound) for sign, bound in self.days.items())


def _sent(protocol: Twilio, filters: Filters) -> Iterator[dict[str, Any]]:
    account = protocol.sandbox.world.account(NAME)
    for ref in reversed(account.messages_to(filters.to) if filters.to else account.messages):
        message = message_at(protocol.sandbox, ref)
        events = _events(protocol, message)
        told = resource(protocol, message, events)
        if filters.fit(told, next((event.timestamp for event in events if event.event == "sent"), None)):
            yield told


def _after(token: str | None, messages: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The messages that follow the last one of the page before, which is what the token names."""
    if token:
        sid = token.removeprefix("PA")
        for told in messages:
            if told["sid"] == sid:
                break
    return messages


def _page_size(params: Mapping[str, str]) -> int:
    value = params.get("PageSize", str(DEFAULT_PAGE))
    if not value.isdecimal() or int(value) < 1:
        raise Refused(20001, "PageSize must be a positive number")
    return min(int(value), MAX_PAGE)


def _paged(request: AnyRequest, page: list[dict[str, Any]], size: int, *, more: bool) -> dict[str, Any]:
    number = int(request.query_params.get("Page", "0") or "0")
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in _PAGING]

    def uri(number: int, token: str | None = None) -> str:
        paging = [("PageSize", str(size)), ("Page", str(number)), *([("PageToken", token)] if token else [])]
        return f"{request.url.path}?{urlencode([*kept, *paging])}"

    return {
        "first_page_uri": uri(0),
        "end": number * size + max(0, len(page) - 1),
        "messages": page,
        "next_page_uri": uri(number + 1, f"PA{page[-1]['sid']}") if more else None,
        "page": number,
        "page_size": size,
        "previous_page_uri": None,
        "start": number * size,
        "uri": uri(number, request.query_params.get("PageToken")),
    }


_PAGING: Final = frozenset({"PageSize", "Page", "PageToken"})


# Callbacks ----------------------------------------------------------------------------------------------------------


def sign(token: str, url: str, params: Mapping[str, str]) -> str:
    """HMAC-SHA1 over the URL as it is requested and the parameters in order of their names ("Webhooks security")."""
    text = url + "".join(name + params[name] for name in sorted(params))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


def overrides(url: str) -> tuple[int, frozenset[str]]:
    """How often a callback is tried again, and after what: the URL's fragment ("Connection overrides")."""
    given = parse_qs(URL(url).fragment)
    count = given.get("rc", ["1"])[-1]
    retries = min(int(count), MAX_CALLBACK_RETRIES) if count.isdecimal() else 1
    return retries, frozenset(given.get("rp", ["ct"])[-1].split(","))


def _outcome(status: int | None) -> frozenset[str]:
    """The retry policies that an answer falls under."""
    if status is None:
        return frozenset({"ct", "rt", "all"})
    return frozenset({f"{status // 100}xx", "all"}) if status >= 400 else frozenset()


class Twilio(Sms):
    """One account. A status callback that cannot be delivered is tried once more, unless its URL asks for more."""

    name = NAME
    settings_type = TwilioSettings
    on_list = REFUSED
    forgeries = (Forgery.REPLAYED, Forgery.BAD_SIGNATURE)
    paths = ("/2010-04-01/",)
    routes = (create, list_messages, fetch)
    settings: TwilioSettings

    def authorise(self, request: AnyRequest) -> ASGIResponse | None:
        given, known = basic_credentials(request), self.settings
        pairs = ((known.account_sid, known.auth_token), (known.api_key_sid, known.api_key_secret))
        if not any(is_same(given, f"{user}:{password}") for user, password in pairs):
            return problem(401, 20003, "Authenticate")
        if request.path_params.get("account") != known.account_sid:
            return not_found(request.url.path)
        return None

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        if reason == Reason.WRONG_RESPONSE:
            return captive_page()
        status, code, text = _REFUSALS[reason]
        recipient, sender = (message.recipient, message.sender) if message else ("", "")
        response = problem(status, code, text.format(recipient=recipient, hidden=_hidden(recipient), sender=sender))
        if reason == Reason.RATE_LIMITED:
            response.headers.add("Twilio-Concurrent-Requests", "101")
        return response

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return problem(status, {404: 20404, 405: 20004}.get(status, 20001), detail)

    def payload(self, message: Message, step: Step, happening: Happening) -> dict[str, str] | None:
        match step.event:
            case "queued":
                return None  # the answer to the call has said so
            case "replied":
                return self._inbound(message, step.text, happening)
            case _:
                return self._status(message, step, happening)

    def is_posted(self, message: Message, step: Step) -> bool:
        """Statuses go to the ``StatusCallback`` alone, what people answer to the number's own URL."""
        return step.event == "replied" or message.callback is not None

    def callback(self, message: Message, step: Step) -> str | None:
        return None if step.event == "replied" else message.callback

    def settles(self, posting: Posting, status: int | None) -> bool:
        return not (_outcome(status) & overrides(posting.url)[1])

    def waits(self, posting: Posting) -> Sequence[float]:
        return (1.0,) * overrides(posting.url)[0]

    def outgoing(self, postings: Sequence[Posting]) -> Outgoing:
        """The form, signed with the URL as it goes out: without the fragment, which is for Twilio."""
        [posting] = postings
        params = msgspec.json.decode(posting.payload, type=dict[str, str])
        url = str(URL(posting.url).with_fragment(None))
        token = self.settings.auth_token if posting.forgery is not Forgery.BAD_SIGNATURE else "not the auth token"
        posting.signed = posting.replays.signed if posting.replays else sign(token, url, params)
        headers = {
            "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
            "User-Agent": "TwilioProxy/1.1",
            "I-Twilio-Idempotency-Token": posting.event_id,
            "X-Twilio-Signature": str(posting.signed),
        }
        return Outgoing(headers, urlencode(params).encode(), url)

    def _status(self, message: Message, step: Step, happening: Happening) -> dict[str, str]:
        status = _status(step.event)
        params = {
            "AccountSid": self.settings.account_sid,
            "ApiVersion": API_VERSION,
            "From": message.details["from"] or self.settings.service_number,
            "MessageSid": message.message_id,
            "MessageStatus": status,
            "SmsSid": message.message_id,
            "SmsStatus": status,
            "To": message.recipient,
        }
        if message.details["service"]:
            params["MessagingServiceSid"] = message.details["service"]
        if step.failure:
            params["ErrorCode"] = str(step.failure.code)
        if status != "sent":
            params["RawDlrDoneDate"] = f"{datetime.fromtimestamp(happening.timestamp, UTC):%y%m%d%H%M}"
        return params

    def _inbound(self, message: Message, text: str, happening: Happening) -> dict[str, str]:
        """What somebody answered, under an id of its own."""
        sid = f"SM{hashlib.md5(happening.event_id.encode(), usedforsecurity=False).hexdigest()}"
        params = {
            "AccountSid": self.settings.account_sid,
            "ApiVersion": API_VERSION,
            "Body": text,
            "From": message.recipient,
            "FromCountry": "US",
            "MessageSid": sid,
            "NumMedia": "0",
            "NumSegments": str(parts(text)),
            "SmsMessageSid": sid,
            "SmsSid": sid,
            "SmsStatus": "received",
            "To": message.details["from"] or self.settings.service_number,
            "ToCountry": "US",
        }
        if message.details["service"]:
            params["MessagingServiceSid"] = message.details["service"]
        if self.settings.advanced_opt_out and (kind := keyword(text)):
            params["OptOutType"] = kind
        return params
