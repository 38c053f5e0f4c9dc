"""AWS End User Messaging SMS: texts by SendTextMessage, their events through an SNS topic, and what people answer.

Whatever is wrong with a request is answered 400, in the JSON 1.0 protocol: the error's name in the body says what.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from uuid import NAMESPACE_URL, uuid4, uuid5

import msgspec
from litestar import post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp
from msgspec import Meta

from app.sandbox.aws.publisher import Publisher
from app.sandbox.aws.sigv4 import Unsigned
from app.sandbox.calls import Draft
from app.sandbox.config import setting
from app.sandbox.emails import landed_ids
from app.sandbox.httpapi import AnyRequest, answer, captive_page, protocol_of, settings_of, take
from app.sandbox.protocol import Happening
from app.sandbox.scripting import Reason, Step
from app.sandbox.sms.phones import Sms, is_gsm, keyword, parts
from app.sandbox.sms.scripts import RECIPIENT_OPTED_OUT, REFUSED
from app.sandbox.world import Body, Message

NAME: Final = "aws_sms"
SERVICE: Final = "sms-voice"
TARGET: Final = "PinpointSMSVoiceV2.SendTextMessage"
JSON: Final = "application/x-amz-json-1.0"

#: Error, reason and the field at fault of each refusal that is answered 400.
_REFUSALS: Final[Mapping[str, tuple[str, str | None, str | None]]] = {
    Reason.RATE_LIMITED: ("ThrottlingException", None, None),
    Reason.UNAUTHORIZED: ("UnrecognizedClientException", None, None),
    Reason.SENDER_REFUSED: ("ConflictException", "NO_ORIGINATION_IDENTITIES_FOUND", None),
    Reason.INVALID_RECIPIENT: ("ValidationException", "INVALID_PARAMETER", "DestinationPhoneNumber"),
    Reason.CONTENT_REFUSED: ("ValidationException", "INVALID_PARAMETER", "MessageBody"),
    RECIPIENT_OPTED_OUT: ("ConflictException", "DESTINATION_PHONE_NUMBER_OPTED_OUT", None),
}
#: What becomes of a text, by the step of its script.
_STATUSES: Final[Mapping[str, tuple[str, str]]] = {
    "queued": ("QUEUED", "Message has been queued"),
    "sent": ("SUCCESSFUL", "Message has been accepted by phone carrier"),
    "delivered": ("DELIVERED", "Message has been accepted by phone"),
}
#: And by why it did not get through.
_FAILURES: Final[Mapping[str, tuple[str, str]]] = {
    "unknown": ("INVALID", "Invalid phone number"),
    "landline": ("CARRIER_UNREACHABLE", "Phone carrier is currently unreachable/unavailable"),
    "filtered": ("SPAM", "Blocked as spam by phone carrier"),
    "unreachable": ("UNREACHABLE", "Phone is currently unreachable/unavailable"),
    "blocked": ("BLOCKED", "Phone has blocked SMS"),
    "failed": ("UNKNOWN", "Unknown error attempting to reach phone"),
    "expired": ("TTL_EXPIRED", "Message could not be delivered within the time to live"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSmsSettings:
    access_key_id: str = setting("AKIASANDBOXLANDED000", "Access key id that callers of the SMS API must sign with.")
    secret_access_key: str = setting("sandbox-secret-access-key", "The secret of that access key.", secret=True)
    region: str = setting("eu-west-1", "Region of the SMS API and of the SNS topic.")
    configuration_set: str = setting("landed", "The configuration set there is.")
    topic_arn: str = setting(
        "arn:aws:sns:eu-west-1:123456789012:landed-texts", "SNS topic that events and answers go through."
    )


class SendTextMessage(msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    """The operation's input, with the limits of Amazon's model."""

    destination_phone_number: Annotated[str, Meta(pattern=r"^\+?[1-9][0-9]{1,18}$", max_length=20)]
    message_body: Annotated[str, Meta(min_length=1, max_length=1600)]
    origination_identity: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_:/+-]+$", max_length=256)] | None = None
    message_type: Literal["TRANSACTIONAL", "PROMOTIONAL"] = "TRANSACTIONAL"
    configuration_set_name: str | None = None
    time_to_live: Annotated[int, Meta(ge=5, le=259_200)] | None = None
    context: Annotated[dict[str, Annotated[str, Meta(min_length=1, max_length=800)]], Meta(max_length=5)] = {}
    max_price: Annotated[str, Meta(pattern=r"^[0-9]{0,2}\.[0-9]{1,5}$")] | None = None
    dry_run: bool = False


class Refused(Exception):
    """A request that Amazon answers with 400"""

    def __init__(self, error: str, text: str, *, reason: str | None = None, field: str | None = None) -> None:
        super().__init__(text)
        self.error = error
        self.reason = reason
        self.field = field


def refusal(exc: Refused) -> ASGIResponse:
    fields = [{"Name": exc.field, "Message": str(exc)}] if exc.field else None
    more = {"Reason": exc.reason, "Fields": fields}
    return problem(400, exc.error, str(exc), {name: value for name, value in more.items() if value})


def problem(status: int, error: str, text: str, more: Mapping[str, Any] | None = None) -> ASGIResponse:
    told = {"__type": f"com.amazonaws.pinpointsmsvoicev2#{error}", "Message": text}
    return reply({**told, **(more or {})}, status)


def reply(payload: Mapping[str, Any], status: int = 200) -> ASGIResponse:
    headers = {"x-amzn-RequestId": str(uuid4())}
    return ASGIResponse(body=msgspec.json.encode(payload), status_code=status, media_type=JSON, headers=headers)


@post("/", status_code=200)
async def send(request: AnyRequest) -> ASGIApp:
    """Take a text on, or do to the caller what its number asks for; a dry run takes nothing on."""
    protocol = protocol_of(request, AwsSms)
    try:
        asked = _read(request.headers.get("x-amz-target"), await request.body(), settings_of(request, AwsSmsSettings))
    except Refused as exc:
        return answer(request, refusal(exc))
    message = _message(asked)
    accepted = reply({"MessageId": message.message_id})
    if asked.dry_run:
        return answer(request, accepted, note="dry run")
    protocol.remember(message, asked.message_body)
    return take(request, [Draft(message, Body(text=asked.message_body))], accepted)


def _read(target: str | None, body: bytes, settings: AwsSmsSettings) -> SendTextMessage:
    """The operation that is asked for. Raises ``Refused``."""
    if target != TARGET:
        raise Refused("UnknownOperationException", f"Unknown operation {target}")
    try:
        asked = msgspec.json.decode(body, type=SendTextMessage)
    except msgspec.ValidationError as exc:
        found = re.search(r"`\$\.(\w+)", str(exc))
        raise Refused(
            "ValidationException", str(exc), reason="INVALID_PARAMETER", field=found[1] if found else None
        ) from exc
    except msgspec.DecodeError as exc:
        raise Refused("SerializationException", "the body is no JSON") from exc
    if not asked.message_body.strip():
        raise Refused("ValidationException", "blank", reason="INVALID_PARAMETER", field="MessageBody")
    if asked.configuration_set_name not in (None, settings.configuration_set):
        raise Refused("ResourceNotFoundException", f"Resource not found: {asked.configuration_set_name}")
    return asked


def _message(asked: SendTextMessage) -> Message:
    delivery, attempt = landed_ids(*asked.context.values())
    return Message(
        id=secrets.token_hex(8),
        provider=NAME,
        channel=Sms.channel,
        message_id=str(uuid4()),
        recipient=f"+{asked.destination_phone_number.removeprefix('+')}",
        sender=asked.origination_identity or "",
        accepted_at=time.time(),
        size=len(asked.message_body.encode()),
        landed_delivery=delivery,
        landed_attempt=attempt,
        details={
            "context": asked.context,
            "events": asked.configuration_set_name is not None,
            "encoding": "GSM" if is_gsm(asked.message_body) else "Unicode",
            "parts": parts(asked.message_body),
            "type": asked.message_type,
        },
    )


class AwsSms(Publisher, Sms):
    """One account in one region. Who answers STOP joins its opt-out list, and is refused from then on."""

    name = NAME
    settings_type = AwsSmsSettings
    on_list = REFUSED
    paths = ()
    routes = (send,)
    settings: AwsSmsSettings

    async def check(self, request: AnyRequest) -> ASGIResponse | None:
        try:
            await self.check_signature(request, SERVICE)
        except Unsigned as exc:
            return problem(400, exc.kind, str(exc))
        return None

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        match reason:
            case Reason.WRONG_RESPONSE:
                return captive_page()
            case Reason.UNAVAILABLE:
                return problem(503, "ServiceUnavailableException", "Service Unavailable")
            case Reason.BROKEN:
                return problem(500, "InternalServerException", "The API encountered an unexpected error")
            case _:
                error, why, field = _REFUSALS[reason]
                return refusal(Refused(error, f"Refused: {why or error}", reason=why, field=field))

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return problem(status, "UnknownOperationException", detail)

    def is_posted(self, message: Message, step: Step) -> bool:
        return step.event == "replied" or bool(message.details["events"])

    def payload(self, message: Message, step: Step, happening: Happening) -> dict[str, Any] | None:
        return _inbound(message, step.text, happening) if step.event == "replied" else _event(message, step, happening)


def _event(message: Message, step: Step, happening: Happening) -> dict[str, Any]:
    """An event as "Example event data" has it; times in milliseconds."""
    status, words = _FAILURES[step.failure.reason] if step.failure else _STATUSES[step.event]
    return {
        "eventType": f"TEXT_{status}",
        "eventVersion": "1.0",
        "eventTimestamp": round(happening.timestamp * 1000),
        "isFinal": step.event in ("delivered", "failed"),
        "originationPhoneNumber": message.sender,
        "destinationPhoneNumber": message.recipient,
        "isoCountryCode": "US",
        "isInternationalSend": False,
        "mcc": "310",
        "mnc": "410",
        "carrierName": "Sandbox Mobile",
        "messageId": message.message_id,
        "messageRequestTimestamp": round(message.accepted_at * 1000),
        "messageEncoding": message.details["encoding"],
        "messageType": message.details["type"],
        "messageStatus": status,
        "messageStatusDescription": words,
        "context": message.details["context"],
        "totalMessageParts": message.details["parts"],
        "totalMessagePrice": 0.00581,
        "totalCarrierFee": 0.00266,
    }


def _inbound(message: Message, text: str, happening: Happening) -> dict[str, Any]:
    """A message to us, as "Example of a two-way SMS message payload" has it."""
    return {
        "originationNumber": message.recipient,
        "destinationNumber": message.sender,
        "messageKeyword": keyword(text) or "KEYWORD_SANDBOX",
        "messageBody": text,
        "inboundMessageId": str(uuid5(NAMESPACE_URL, happening.event_id)),
        "previousPublishedMessageId": message.message_id,
    }
