"""Vonage's SMS API: texts, delivery receipts, and what people answer.

Whatever is wrong with a request, the answer is 200: the status of each message says what.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec
from litestar import post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp
from yarl import URL

from app.sandbox.calls import Draft
from app.sandbox.config import setting
from app.sandbox.emails import landed_ids
from app.sandbox.httpapi import (
    AnyRequest,
    answer,
    as_json,
    as_text,
    basic_credentials,
    captive_page,
    is_same,
    protocol_of,
    settings_of,
    take,
)
from app.sandbox.protocol import Forgery, Happening, Outgoing, Posting
from app.sandbox.scripting import Reason, Step
from app.sandbox.sms.phones import Sms, e164, is_gsm, parts
from app.sandbox.sms.scripts import RECIPIENT_OPTED_OUT
from app.sandbox.world import Body, Message

NAME: Final = "vonage"
MAX_CALLBACK: Final = 100
MAX_REFERENCE: Final = 100
MAX_TEXT: Final = 3200
MAX_FIELDS: Final = 200
#: How old a signed request may be.
SIGNATURE_SECONDS: Final = 300

_METHODS: Final = ("POST", "POST-JSON", "GET")
_HASHES: Final = ("md5", "sha1", "sha256", "sha512")
#: Status and words of each refusal that is answered 200.
_REFUSALS: Final[Mapping[str, tuple[int, str]]] = {
    Reason.RATE_LIMITED: (1, "Throughput Rate Exceeded"),
    Reason.UNAUTHORIZED: (4, "Bad Credentials"),
    Reason.SENDER_REFUSED: (15, "Invalid sender address"),
    Reason.INVALID_RECIPIENT: (6, "The message was invalid - unrecognised number prefix"),
    Reason.CONTENT_REFUSED: (3, "Invalid value for parameter: text"),
    RECIPIENT_OPTED_OUT: (7, "Number barred"),
}
#: Status and err-code of a receipt that says the text did not get through, by why.
_FAILURES: Final = {
    "unknown": ("failed", 3),
    "landline": ("failed", 12),
    "filtered": ("rejected", 6),
    "unreachable": ("failed", 2),
    "blocked": ("rejected", 14),
    "failed": ("failed", 1),
    "expired": ("expired", 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VonageSettings:
    api_key: str = setting("5adb0x01", "Vonage API key.")
    api_secret: str = setting("sandbox-api-secret", "Its secret.", secret=True)
    signature_secret: str = setting(
        "sandbox-signature-secret", "Secret that receipts are signed with; empty signs none.", secret=True
    )
    signature_method: str = setting("sha256", f"Hash of the signatures: {', '.join(_HASHES)}.")
    webhook_method: str = setting("POST", f"How receipts are posted: {', '.join(_METHODS)}.")

    def __post_init__(self) -> None:
        if self.signature_method not in _HASHES:
            raise ValueError(f"--vonage-signature-method must be one of {', '.join(_HASHES)}")
        if self.webhook_method not in _METHODS:
            raise ValueError(f"--vonage-webhook-method must be one of {', '.join(_METHODS)}")


class Refused(Exception):
    """A send that Vonage answers with a status other than 0"""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def refusal(exc: Refused) -> ASGIResponse:
    return as_json({"message-count": "1", "messages": [{"status": str(exc.status), "error-text": str(exc)}]})


def sign(params: Mapping[str, Any], secret: str, method: str) -> str:
    """HMAC over ``&name=value`` of each parameter in order of the names, ``&`` and ``=`` in values made ``_``."""
    digest = hmac.new(secret.encode(), digestmod=method)
    for name in sorted(params):
        value = str(params[name]).replace("&", "_").replace("=", "_")
        digest.update(f"&{name}={value}".encode())
    return digest.hexdigest()


async def _params(request: AnyRequest) -> dict[str, str]:
    """The parameters of a request: JSON or a form, and the query beside it. Raises ``Refused``."""
    body = await request.body()
    given: dict[str, str] = dict(request.query_params.items())
    try:
        if "json" in request.headers.get("content-type", ""):
            given |= {name: _text(value) for name, value in msgspec.json.decode(body, type=dict[str, Any]).items()}
        else:
            given |= dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except (ValueError, msgspec.DecodeError) as exc:
        raise Refused(3, "Invalid request body") from exc
    return given


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@post("/sms/json", status_code=200)
async def send(request: AnyRequest) -> ASGIApp:
    """Take a text on, or do to the caller what its number asks for."""
    try:
        message, text = _message(await _params(request))
    except Refused as exc:
        return answer(request, refusal(exc))
    protocol_of(request, Vonage).remember(message, text)
    return take(request, [Draft(message, Body(text=text))], as_json(_accepted(message)))


def _message(params: Mapping[str, str]) -> tuple[Message, str]:
    """The message that the parameters ask for, and its text. Raises ``Refused``."""
    for name in ("to", "from", "text"):
        if not params.get(name):
            raise Refused(2, f"Missing {name} param")
    text, reference, callback = params["text"], params.get("client-ref") or None, params.get("callback") or None
    recipient = e164(params["to"])
    if recipient is None:
        raise Refused(3, "Invalid value for parameter: to")
    if len(text) > MAX_TEXT:
        raise Refused(12, "Message too long")
    if len(reference or "") > MAX_REFERENCE:
        raise Refused(3, "Invalid value for parameter: client-ref")
    if callback and (len(callback) > MAX_CALLBACK or not callback.startswith(("http://", "https://"))):
        raise Refused(3, "Invalid value for parameter: callback")
    delivery, attempt = landed_ids(reference)
    message = Message(
        id=secrets.token_hex(8),
        provider=NAME,
        channel=Sms.channel,
        message_id=secrets.token_hex(8).upper(),
        recipient=recipient,
        sender=params["from"],
        accepted_at=time.time(),
        size=len(text.encode()),
        landed_delivery=delivery,
        landed_attempt=attempt,
        callback=callback,
        details={
            "reference": reference,
            "parts": parts(_as_sent(text, params.get("type", "text"))),
            "receipts": params.get("status-report-req", "1").lower() not in ("0", "false"),
        },
    )
    return message, text


def _as_sent(text: str, kind: str) -> str:
    """A text of type ``text`` loses what the GSM alphabet does not have; only ``unicode`` keeps it."""
    return text if kind == "unicode" else "".join(sign if is_gsm(sign) else "?" for sign in text)


def _accepted(message: Message) -> dict[str, Any]:
    """One entry for each part that the text travels in; the first has the id that receipts name."""
    count = message.details["parts"]
    ids = [message.message_id, *(secrets.token_hex(8).upper() for _ in range(count - 1))]
    entries = [
        {
            "to": message.recipient.removeprefix("+"),
            "message-id": part_id,
            "status": "0",
            "remaining-balance": "15.53590000",
            "message-price": "0.03330000",
            "network": "310410",
        }
        for part_id in ids
    ]
    if message.details["reference"]:
        entries = [entry | {"client-ref": message.details["reference"]} for entry in entries]
    return {"message-count": str(count), "messages": entries}


class Vonage(Sms):
    """One account whose receipts are signed. A refused one is tried again, for about a day."""

    name = NAME
    settings_type = VonageSettings
    forgeries = (Forgery.REPLAYED, Forgery.BAD_SIGNATURE)
    retry_seconds = (60, 300, 900, 3600, 14_400, 57_600)
    paths = ("/sms/",)
    routes = (send,)
    settings: VonageSettings

    def authorise(self, request: AnyRequest) -> ASGIResponse | None:
        return None  # credentials come with the parameters: ``check``

    async def check(self, request: AnyRequest) -> ASGIResponse | None:
        """Key and secret as parameters or by Basic auth, or a signature in place of the secret."""
        known = settings_of(request, VonageSettings)
        if is_same(basic_credentials(request), f"{known.api_key}:{known.api_secret}"):
            return None
        try:
            given = await _params(request)
        except Refused as exc:
            return refusal(exc)
        if given.get("api_key") != known.api_key:
            return self.refused(Reason.UNAUTHORIZED)
        if "sig" in given:
            return None if self._is_signed(given) else refusal(Refused(14, "Invalid Signature"))
        return None if is_same(given.get("api_secret"), known.api_secret) else self.refused(Reason.UNAUTHORIZED)

    def _is_signed(self, given: Mapping[str, str]) -> bool:
        if not self.settings.signature_secret:
            return False
        params = {name: value for name, value in given.items() if name != "sig"}
        moment = params.get("timestamp", "")
        is_fresh = moment.isdecimal() and abs(time.time() - int(moment)) <= SIGNATURE_SECONDS
        expected = sign(params, self.settings.signature_secret, self.settings.signature_method)
        return is_fresh and is_same(given["sig"].lower(), expected)

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        match reason:
            case Reason.WRONG_RESPONSE:
                return captive_page()
            case Reason.UNAVAILABLE:
                return as_text("Service Unavailable", 503)
            case Reason.BROKEN:
                return as_text("Internal Server Error", 500)
            case _:
                return refusal(Refused(*_REFUSALS[reason]))

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return as_text(detail, status)

    def payload(self, message: Message, step: Step, happening: Happening) -> dict[str, str] | None:
        match step.event:
            case "queued":
                return None  # the answer to the call has said so
            case "replied":
                return self._inbound(message, step.text, happening)
            case _:
                return self._receipt(message, step, happening)

    def is_posted(self, message: Message, step: Step) -> bool:
        return step.event == "replied" or bool(message.details["receipts"])

    def callback(self, message: Message, step: Step) -> str | None:
        return None if step.event == "replied" else message.callback

    def outgoing(self, postings: Sequence[Posting]) -> Outgoing:
        """The parameters with their signature, the way the account is set to post."""
        [posting] = postings
        params = msgspec.json.decode(posting.payload, type=dict[str, str]) | self._signature(posting)
        agent = {"User-Agent": "Nexmo/MessagingHUB/v1.0"}
        match self.settings.webhook_method:
            case "GET":
                return Outgoing(agent, b"", str(URL(posting.url).update_query(params)), "GET")
            case "POST-JSON":
                return Outgoing(agent | {"Content-Type": "application/json"}, msgspec.json.encode(params))
            case _:
                form = {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}
                return Outgoing(agent | form, urlencode(params).encode())

    def _signature(self, posting: Posting) -> dict[str, str]:
        """What signing adds to the parameters; a replay adds what a genuine post was signed with."""
        if not self.settings.signature_secret:
            return {}
        if posting.replays is None:
            genuine = posting.forgery is None
            secret = self.settings.signature_secret if genuine else "not the signature secret"
            added = {"timestamp": str(int(time.time())), "nonce": secrets.token_hex(16)}
            params = msgspec.json.decode(posting.payload, type=dict[str, str]) | added
            posting.signed = added | {"sig": sign(params, secret, self.settings.signature_method)}
        else:
            posting.signed = posting.replays.signed
        signature: dict[str, str] = posting.signed
        return signature

    def _receipt(self, message: Message, step: Step, happening: Happening) -> dict[str, str]:
        status, code = {"sent": ("accepted", 0), "delivered": ("delivered", 0)}.get(step.event, ("unknown", 1))
        if step.failure:
            status, code = _FAILURES[step.failure.reason]
        moment = datetime.fromtimestamp(happening.timestamp, UTC)
        receipt = {
            "api-key": self.settings.api_key,
            "err-code": str(code),
            "message-timestamp": f"{moment:%Y-%m-%d %H:%M:%S}",
            "messageId": message.message_id,
            "msisdn": message.recipient.removeprefix("+"),
            "network-code": "310410",
            "price": "0.03330000",
            "scts": f"{moment:%y%m%d%H%M}",
            "status": status,
            "to": message.sender.removeprefix("+"),
        }
        return receipt | ({"client-ref": message.details["reference"]} if message.details["reference"] else {})

    def _inbound(self, message: Message, text: str, happening: Happening) -> dict[str, str]:
        moment = datetime.fromtimestamp(happening.timestamp, UTC)
        return {
            "api-key": self.settings.api_key,
            "keyword": text.split()[0].upper() if text.split() else "",
            "message-timestamp": f"{moment:%Y-%m-%d %H:%M:%S}",
            "messageId": hashlib.sha256(happening.event_id.encode()).hexdigest()[:16].upper(),
            "msisdn": message.recipient.removeprefix("+"),
            "text": text,
            "to": message.sender.removeprefix("+"),
            "type": "text" if is_gsm(text) else "unicode",
        }
