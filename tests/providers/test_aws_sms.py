"""The adapter of Amazon's texts on bytes: requests it signs, answers it reads, events it believes and refuses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.domain.models import BounceClass, Channel, Evidence, EvidenceKind, OutcomeKind
from app.errors import ConfigurationError, InvalidFields, WebhookRefused
from app.providers.aws_sms import AwsSms, AwsSmsAccount
from app.providers.base import SENDER_REFUSED, AttemptRef, LookupVerdict, ProviderResponse, SmsMessage
from app.providers.registry import make_provider
from tests.messages import CONTEXT, DELIVERY, NOW, posted, sms_message
from tests.providers import sns_signer as signer
from tests.providers.sns_signer import TOPIC, confirmation, signed

MESSAGE_ID = "862a8790-60c0-4430-9b2b-658bd3a1f0c2"
REFERENCE = f"{DELIVERY}.2"
ACCOUNT = AwsSmsAccount("eu-west-1", "AKIDEXAMPLE", "SECRET", "+14155550100", "landed", (TOPIC,))
AWS = AwsSms(ACCOUNT)
MESSAGE = sms_message()


def payload(message: SmsMessage = MESSAGE, aws: AwsSms = AWS) -> dict[str, Any]:
    return json.loads(aws.build(message, CONTEXT).body)


def answer(status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> ProviderResponse:
    return ProviderResponse(status, headers or {}, body if isinstance(body, bytes) else json.dumps(body).encode())


# -- building ------------------------------------------------------------------------------------------------


def test_a_send_carries_the_text_and_our_reference():
    request = AWS.build(MESSAGE, CONTEXT)
    assert (request.method, request.url, request.timeout_seconds) == (
        "POST",
        "https://sms-voice.eu-west-1.amazonaws.com/",
        10.0,
    )
    assert request.headers["Content-Type"] == "application/x-amz-json-1.0"
    assert request.headers["X-Amz-Target"] == "PinpointSMSVoiceV2.SendTextMessage"
    assert request.headers["X-Amz-Date"] == "20260301T120000Z"
    assert "/eu-west-1/sms-voice/aws4_request" in request.headers["Authorization"]
    assert json.loads(request.body) == {
        "DestinationPhoneNumber": "+14155550101",
        "OriginationIdentity": "+14155550100",
        "MessageBody": "Your code is 123456",
        "MessageType": "TRANSACTIONAL",
        "ConfigurationSetName": "landed",
        "TimeToLive": 86400,
        "Context": {"landed_reference": REFERENCE},
    }


@pytest.mark.parametrize(
    ("klass", "kind"), [("transactional", "TRANSACTIONAL"), ("alert", "TRANSACTIONAL"), ("promotional", "PROMOTIONAL")]
)
def test_a_texts_type_is_that_of_its_category_unless_the_account_says_otherwise(klass, kind):
    message = replace(MESSAGE, klass=klass)
    assert payload(message)["MessageType"] == kind
    assert payload(message, AwsSms(replace(ACCOUNT, message_type="TRANSACTIONAL")))["MessageType"] == "TRANSACTIONAL"


@pytest.mark.parametrize(("offset", "ttl"), [(3600, 3600), (86400 * 9, 259_200), (3, 5), (-5, 5)])
def test_a_text_is_not_handed_on_after_it_expired(offset, ttl):
    assert payload(replace(MESSAGE, expires_at=NOW + timedelta(seconds=offset)))["TimeToLive"] == ttl


@pytest.mark.parametrize(("account", "message"), [(True, False), (False, True)])
def test_a_test_is_checked_by_amazon_and_reaches_nobody(account, message):
    aws = AwsSms(replace(ACCOUNT, test_mode=account))
    assert aws.capabilities.takes_tests
    assert payload(replace(MESSAGE, test_mode=message), aws)["DryRun"] is True
    assert "DryRun" not in payload()


def test_a_text_that_would_cost_too_much_is_for_amazon_to_refuse():
    assert payload(aws=AwsSms(replace(ACCOUNT, price_max="0.20")))["MaxPrice"] == "0.20"


def test_a_session_token_travels_signed():
    request = AwsSms(replace(ACCOUNT, session_token="TOKEN")).build(MESSAGE, CONTEXT)
    assert request.headers["X-Amz-Security-Token"] == "TOKEN"
    assert "x-amz-security-token" in request.headers["Authorization"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1600).filter(str.strip))
def test_any_text_arrives_unchanged(text):
    assert payload(replace(MESSAGE, text=text))["MessageBody"] == text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"to": "14155550101"}, "to"),
        ({"to": "+14155550101,+14155550102"}, "to"),
        ({"text": ""}, "text"),
        ({"text": " \n "}, "text"),
        ({"text": "x" * 1601}, "text"),
        ({"text": "\ud83d"}, "text"),
    ],
)
def test_what_must_never_leave_is_refused_by_name(changes, field):
    with pytest.raises(InvalidFields) as caught:
        AWS.build(sms_message(**changes), CONTEXT)
    assert [error.field for error in caught.value.errors] == [field]


# -- the account ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"region": "europe"}, "region"),
        ({"region": "eu-west-1.evil.example/"}, "region"),
        ({"access_key_id": ""}, "access_key_id"),
        ({"secret_access_key": ""}, "secret_access_key"),
        ({"sender": ""}, "sender"),
        ({"sender": "My Shop"}, "sender"),
        ({"configuration_set": ""}, "configuration_set"),
        ({"configuration_set": "a b"}, "configuration_set"),
        ({"topic_arns": ()}, "topic_arns"),
        ({"topic_arns": ("x",)}, "topic_arns"),
        ({"price_max": "1"}, "price_max"),
        ({"price_max": "200.0"}, "price_max"),
        ({"base_url": "https://sms.example.com/v2"}, "base_url"),
        ({"sns_base_url": "ftp://sns.example.com"}, "sns_base_url"),
        ({"trust_any_certificate": True}, "sns_base_url"),
        ({"sns_ca": "x"}, "sns_ca"),
        ({"webhook_max_age_seconds": -1}, "webhook_max_age_seconds"),
    ],
)
def test_an_account_that_cannot_work_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        replace(ACCOUNT, **wrong)


@pytest.mark.parametrize(
    "sender",
    ["+14155550100", "72345", "MyShop", "pool-a1b2c3", "arn:aws:sms-voice:eu-west-1:123456789012:sender-id/MyShop/GB"],
)
def test_whatever_amazon_takes_for_a_sender_is_one(sender):
    assert payload(aws=AwsSms(replace(ACCOUNT, sender=sender)))["OriginationIdentity"] == sender


def test_nothing_prints_a_secret_or_the_text():
    account = replace(ACCOUNT, session_token="TOKEN")
    shown = repr(account) + repr(AwsSms(account).build(MESSAGE, CONTEXT))
    assert not any(secret in shown for secret in ("SECRET", "TOKEN", "Your code", "4155550101"))


def test_an_account_is_made_from_settings_and_secret_files(tmp_path):
    (tmp_path / "key").write_text("SECRET-from-file\n")
    settings = {
        "adapter": "aws_sms",
        "region": "eu-west-1",
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key_file": str(tmp_path / "key"),
        "sender": "MyShop",
        "configuration_set": "landed",
        "topic_arns": [TOPIC],
        "base_url": "http://127.0.0.1:1",
    }
    provider = make_provider("main", settings)
    assert isinstance(provider, AwsSms)
    assert provider.account.secret_access_key == "SECRET-from-file"
    assert provider.build(MESSAGE, CONTEXT).url == "http://127.0.0.1:1/"
    assert provider.capabilities.channel is Channel.SMS
    with pytest.raises(ConfigurationError, match=r"providers\.main\.message_type"):
        make_provider("main", settings | {"message_type": "URGENT"})


def test_wrong_settings_are_named_and_secrets_are_not():
    settings = {"adapter": "aws_sms", "region": "x", "access_key_id": "A", "secret_access_key": "SECRET"}
    with pytest.raises(ConfigurationError) as refused:
        make_provider("main", settings | {"sender": "s", "topic_arns": [TOPIC]})
    assert "configuration_set" in refused.value.detail
    assert "SECRET" not in refused.value.detail


# -- answers to a send ---------------------------------------------------------------------------------------


def test_an_id_is_acceptance():
    outcome = AWS.interpret(answer(200, {"MessageId": MESSAGE_ID}), NOW)
    assert (outcome.kind, outcome.provider_message_id) == (OutcomeKind.ACCEPTED, MESSAGE_ID)


def error(name: str, reason: str | None = None, *fields: str, status: int = 400, **more: Any) -> ProviderResponse:
    told = {"__type": f"com.amazonaws.pinpointsmsvoicev2#{name}", "Message": "words", **more}
    if reason is not None:
        told["Reason"] = reason
    if fields:
        told["Fields"] = [{"Name": name, "Message": "wrong"} for name in fields]
    return answer(status, told)


@pytest.mark.parametrize(
    ("name", "reason", "kind", "end"),
    [
        ("ThrottlingException", None, OutcomeKind.RATE_LIMITED, None),
        ("Throttling", None, OutcomeKind.RATE_LIMITED, None),
        ("ServiceQuotaExceededException", "MONTHLY_SPEND_LIMIT_REACHED_FOR_TEXT", OutcomeKind.UNAUTHORIZED, None),
        ("AccessDeniedException", None, OutcomeKind.UNAUTHORIZED, None),
        ("AccessDeniedException", "ACCOUNT_DISABLED", OutcomeKind.UNAUTHORIZED, None),
        ("AccessDeniedException", "INSUFFICIENT_ACCOUNT_REPUTATION", OutcomeKind.UNAUTHORIZED, None),
        ("UnrecognizedClientException", None, OutcomeKind.UNAUTHORIZED, None),
        ("InvalidSignatureException", None, OutcomeKind.UNAUTHORIZED, None),
        ("MissingAuthenticationTokenException", None, OutcomeKind.UNAUTHORIZED, None),
        ("ExpiredTokenException", None, OutcomeKind.UNAUTHORIZED, None),
        ("UnknownOperationException", None, OutcomeKind.UNAUTHORIZED, None),
        ("ResourceNotFoundException", None, OutcomeKind.UNAUTHORIZED, None),
        ("ConflictException", "DESTINATION_PHONE_NUMBER_OPTED_OUT", OutcomeKind.RECIPIENT_INVALID, "opted_out"),
        ("ConflictException", "DESTINATION_PHONE_NUMBER_NOT_VERIFIED", OutcomeKind.UNAUTHORIZED, SENDER_REFUSED),
        ("ConflictException", "NO_ORIGINATION_IDENTITIES_FOUND", OutcomeKind.UNAUTHORIZED, SENDER_REFUSED),
        ("ConflictException", "MESSAGE_TYPE_MISMATCH", OutcomeKind.UNAUTHORIZED, SENDER_REFUSED),
        ("ConflictException", "REGISTRATION_NOT_COMPLETE", OutcomeKind.UNAUTHORIZED, SENDER_REFUSED),
        ("ConflictException", "RESOURCE_NOT_ACTIVE", OutcomeKind.UNAUTHORIZED, None),
        ("ConflictException", "NUMBER_CAPABILITIES_MISMATCH", OutcomeKind.UNAUTHORIZED, None),
        ("ConflictException", "DESTINATION_COUNTRY_BLOCKED_BY_PROTECT_CONFIGURATION", OutcomeKind.REJECTED, None),
        (
            "ConflictException",
            "DESTINATION_PHONE_NUMBER_BLOCKED_BY_PROTECT_NUMBER_OVERRIDE",
            OutcomeKind.REJECTED,
            None,
        ),
        ("ConflictException", "INVENTED_TOMORROW", OutcomeKind.REJECTED, None),
        ("ValidationException", "DESTINATION_COUNTRY_BLOCKED", OutcomeKind.REJECTED, None),
        ("ValidationException", "COUNTRY_NOT_ENABLED", OutcomeKind.REJECTED, None),
        ("ValidationException", "INTERNATIONAL_SENDING_NOT_SUPPORTED", OutcomeKind.REJECTED, None),
        ("ValidationException", "PRICE_OVER_THRESHOLD", OutcomeKind.REJECTED, None),
        ("ValidationException", "INVALID_IDENTITY_FOR_DESTINATION_COUNTRY", OutcomeKind.UNAUTHORIZED, SENDER_REFUSED),
        ("ValidationException", "SENDER_ID_NOT_SUPPORTED", OutcomeKind.UNAUTHORIZED, SENDER_REFUSED),
        ("ValidationException", "SENDER_ID_NOT_REGISTERED", OutcomeKind.UNAUTHORIZED, SENDER_REFUSED),
        ("ValidationException", "SENDER_ID_REQUIRES_REGISTRATION", OutcomeKind.UNAUTHORIZED, SENDER_REFUSED),
        ("ValidationException", "CHANNEL_NOT_ENABLED", OutcomeKind.UNAUTHORIZED, None),
        ("ValidationException", "INVALID_PARAMETER", OutcomeKind.REJECTED, None),
        ("ValidationException", None, OutcomeKind.REJECTED, None),
        ("SerializationException", None, OutcomeKind.REJECTED, None),
        ("InventedTomorrowException", None, OutcomeKind.REJECTED, None),
    ],
)
def test_every_refusal_has_its_class(name, reason, kind, end):
    outcome = AWS.interpret(error(name, reason), NOW)
    assert (outcome.kind, outcome.reason, outcome.status_code) == (kind, end, 400)
    assert name in outcome.detail
    assert (reason or "") in outcome.detail
    in_header = answer(400, {"Message": "words", "Reason": reason}, {"x-amzn-errortype": f"{name}:http://amazon.com/"})
    assert AWS.interpret(in_header, NOW).kind is kind


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (("DestinationPhoneNumber",), OutcomeKind.RECIPIENT_INVALID),
        (("destinationPhoneNumber",), OutcomeKind.RECIPIENT_INVALID),
        (("OriginationIdentity",), OutcomeKind.UNAUTHORIZED),
        (("ConfigurationSetName",), OutcomeKind.UNAUTHORIZED),
        (("MessageBody",), OutcomeKind.REJECTED),
        (("DestinationPhoneNumber", "MessageBody"), OutcomeKind.REJECTED),
        ((), OutcomeKind.REJECTED),
    ],
)
def test_a_field_that_failed_validation_says_whose_fault_it_is(fields, kind):
    outcome = AWS.interpret(error("ValidationException", "INVALID_PARAMETER", *fields), NOW)
    assert (outcome.kind, outcome.reason) == (kind, None)


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (answer(200), OutcomeKind.UNKNOWN),
        (answer(200, b"<html>OK</html>"), OutcomeKind.UNKNOWN),
        (answer(200, b'{"MessageId":"862a'), OutcomeKind.UNKNOWN),
        (answer(200, {"MessageId": ""}), OutcomeKind.UNKNOWN),
        (answer(200, {"MessageId": ["x"]}), OutcomeKind.UNKNOWN),
        (answer(202, {"MessageId": MESSAGE_ID}), OutcomeKind.UNKNOWN),
        (answer(302), OutcomeKind.UNAUTHORIZED),
        (answer(403), OutcomeKind.UNAUTHORIZED),
        (answer(404, b"<html>"), OutcomeKind.UNAUTHORIZED),
        (answer(408), OutcomeKind.UNKNOWN),
        (answer(413), OutcomeKind.REJECTED),
        (answer(429), OutcomeKind.RATE_LIMITED),
        (error("InternalServerException", status=500), OutcomeKind.UNKNOWN),
        (error("ThrottlingException", status=500), OutcomeKind.UNKNOWN),
        (error("ConflictException", "DESTINATION_PHONE_NUMBER_OPTED_OUT", status=503), OutcomeKind.UNKNOWN),
        (answer(502, b"<html>Bad Gateway</html>"), OutcomeKind.UNKNOWN),
    ],
)
def test_an_answer_that_names_nothing_is_judged_by_its_status(response, kind):
    outcome = AWS.interpret(response, NOW)
    assert (outcome.kind, outcome.status_code, outcome.provider_message_id) == (kind, response.status, None)
    assert outcome.detail


def test_a_limit_says_when_to_come_back():
    throttled = answer(400, {"__type": "ThrottlingException", "Message": "Rate exceeded"}, {"retry-after": "7"})
    assert AWS.interpret(throttled, NOW).retry_after_seconds == 7
    assert AWS.interpret(error("ThrottlingException"), NOW).retry_after_seconds is None


def test_details_hold_neither_a_number_nor_what_amazon_quotes_of_the_text():
    quoted = "1 validation error detected: Value 'Your code is 123456' at 'messageBody' failed to satisfy constraint"
    for name in ("ValidationException", "SerializationException", ""):
        assert "123456" not in AWS.interpret(error(name, Message=quoted), NOW).detail
    opted_out = 'Conflict Occurred - Reason="DESTINATION_PHONE_NUMBER_OPTED_OUT" ResourceId="+14155550101"'
    detail = AWS.interpret(error("ConflictException", Message=opted_out), NOW).detail
    assert detail.endswith('ResourceId="<number>"')


HEADERS = st.dictionaries(
    st.sampled_from(["x-amzn-errortype", "retry-after"]), st.text() | st.sampled_from(["ConflictException", "-1"])
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.sampled_from(["DestinationPhoneNumber"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Name", "Message"]), inner),
    max_leaves=5,
)
ANSWERS = st.dictionaries(st.sampled_from(["MessageId", "Message", "Reason", "Fields", "__type", "code"]), JSON)


@given(st.integers(100, 599), HEADERS, st.binary(max_size=300) | ANSWERS)
def test_any_answer_is_classified_and_only_an_id_is_acceptance(status, headers, body):
    outcome = AWS.interpret(answer(status, body, headers), NOW)
    if outcome.kind is OutcomeKind.ACCEPTED:
        assert status == 200
        assert isinstance(body, dict)
        assert str(body["MessageId"])[:64] == outcome.provider_message_id


# -- signatures ----------------------------------------------------------------------------------------------

EVENT = {
    "eventType": "TEXT_SUCCESSFUL",
    "eventVersion": "1.0",
    "eventTimestamp": 1772366399123,
    "isFinal": True,
    "originationPhoneNumber": "+14155550100",
    "destinationPhoneNumber": "+14155550101",
    "isoCountryCode": "US",
    "isInternationalSend": False,
    "mcc": "310",
    "mnc": "800",
    "carrierName": "Example Mobile",
    "messageId": MESSAGE_ID,
    "messageRequestTimestamp": 1772366398000,
    "messageEncoding": "GSM",
    "messageType": "TRANSACTIONAL",
    "messageStatus": "SUCCESSFUL",
    "messageStatusDescription": "Message has been accepted by phone carrier",
    "context": {"landed_reference": REFERENCE},
    "totalMessageParts": 1,
    "totalMessagePrice": 0.09582,
    "totalCarrierFee": 0.0,
}
INBOUND = {
    "originationNumber": "+14155550101",
    "destinationNumber": "+14155550100",
    "messageKeyword": "JOIN",
    "messageBody": "STOP",
    "inboundMessageId": "cae173d2-66b9-564c-8309-21f858e9fb84",
    "previousPublishedMessageId": MESSAGE_ID,
}


def parsed(message: Any, aws: AwsSms = AWS, **changes: Any) -> list[Evidence]:
    request = posted(json.dumps(signed(message, **changes)))
    assert aws.key_url(request) == signer.CERTIFICATE_URL
    aws.verify(request, NOW, signer.amazon().pem)
    return list(aws.parse(request))


def refusal(fields: Mapping[str, Any]) -> tuple[str, int]:
    with pytest.raises(WebhookRefused) as refused:
        AWS.verify(posted(json.dumps(fields)), NOW, signer.amazon().pem)
    return refused.value.reason, refused.value.http_status


def test_what_sns_did_not_sign_for_a_topic_of_ours_is_refused():
    assert refusal({**signed(EVENT), "Message": json.dumps(EVENT | {"eventType": "TEXT_DELIVERED"})}) == ("forged", 403)
    assert refusal(signed(EVENT, TopicArn="arn:aws:sns:eu-west-1:999999999999:x")) == ("forged", 403)
    assert refusal(signed(EVENT, SigningCertURL="https://evil.example/x.pem")) == ("forged", 403)
    assert refusal(signed(EVENT, version="1")) == ("forged", 403)
    assert refusal(signed(EVENT, when=NOW - timedelta(hours=2))) == ("stale", 400)
    assert refusal({}) == ("malformed", 400)


def test_a_certificate_that_could_not_be_fetched_makes_sns_come_again():
    with pytest.raises(WebhookRefused) as refused:
        AWS.verify(posted(json.dumps(signed(EVENT))), NOW, None)
    assert refused.value.http_status == 503


def test_a_subscription_is_confirmed_once_it_is_believed():
    request = posted(json.dumps(confirmation()))
    AWS.verify(request, NOW, signer.amazon().pem)
    asked = AWS.confirmation(request)
    assert asked is not None
    assert (asked.method, asked.url) == ("GET", signer.SUBSCRIBE_URL)
    assert AWS.parse(request) == ()
    assert AWS.confirmation(posted(json.dumps(signed(EVENT)))) is None


def test_a_subscription_that_ended_is_an_error_in_the_log():
    with capture_logs() as logs:
        assert AWS.parse(posted(json.dumps(confirmation("UnsubscribeConfirmation")))) == ()
    [entry] = logs
    assert (entry["event"], entry["provider"], entry["log_level"]) == ("subscription_ended", "aws_sms", "error")


# -- events --------------------------------------------------------------------------------------------------


def test_an_event_names_its_attempt():
    assert parsed(EVENT) == [
        Evidence(
            kind=EvidenceKind.ACCEPTED,
            event_key=f"{MESSAGE_ID}:TEXT_SUCCESSFUL",
            occurred_at=datetime(2026, 3, 1, 11, 59, 59, 123000, UTC),
            delivery_id=DELIVERY,
            attempt_no=2,
            provider_message_id=MESSAGE_ID,
            address="+14155550101",
            data={
                "status": "TEXT_SUCCESSFUL",
                "message": "Message has been accepted by phone carrier",
                "country": "US",
                "carrier": "Example Mobile",
            },
        )
    ]


@pytest.mark.parametrize(
    ("kind", "meant", "bounce", "suppress"),
    [
        ("TEXT_PENDING", EvidenceKind.ACCEPTED, None, None),
        ("TEXT_QUEUED", EvidenceKind.ACCEPTED, None, None),
        ("TEXT_SENT", EvidenceKind.ACCEPTED, None, None),
        ("TEXT_SUCCESSFUL", EvidenceKind.ACCEPTED, None, None),
        ("TEXT_UNKNOWN", EvidenceKind.ACCEPTED, None, None),
        ("TEXT_DELIVERED", EvidenceKind.DELIVERED, None, None),
        ("TEXT_INVALID", EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce"),
        ("TEXT_INVALID_MESSAGE", EvidenceKind.FAILED, BounceClass.CONTENT, None),
        ("TEXT_UNREACHABLE", EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        ("TEXT_CARRIER_UNREACHABLE", EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        ("TEXT_BLOCKED", EvidenceKind.BOUNCED, BounceClass.SOFT, None),
        ("TEXT_CARRIER_BLOCKED", EvidenceKind.BOUNCED, BounceClass.REPUTATION, None),
        ("TEXT_SPAM", EvidenceKind.BOUNCED, BounceClass.REPUTATION, None),
        ("TEXT_TTL_EXPIRED", EvidenceKind.FAILED, None, None),
        ("TEXT_PROTECT_BLOCKED", EvidenceKind.FAILED, None, None),
        ("TEXT_INVENTED_TOMORROW", EvidenceKind.OTHER, None, None),
        ("VOICE_COMPLETED", EvidenceKind.OTHER, None, None),
        ("RCS_DELIVERED", EvidenceKind.OTHER, None, None),
    ],
)
def test_every_event_has_its_meaning(kind, meant, bounce, suppress):
    [evidence] = parsed(EVENT | {"eventType": kind})
    assert (evidence.kind, evidence.bounce_class, evidence.suppress_reason) == (meant, bounce, suppress)
    assert evidence.event_key == f"{MESSAGE_ID}:{kind}"


def test_an_event_told_twice_is_one_fact_however_sns_names_it():
    again = parsed(EVENT, MessageId="another", when=NOW + timedelta(minutes=1))
    assert [fact.event_key for fact in again] == [fact.event_key for fact in parsed(EVENT)]


@pytest.mark.parametrize(
    "context",
    [None, {}, [], "x", {"landed_reference": None}, {"landed_reference": "1.2"}, {"landed_reference": f"{DELIVERY}.0"}],
)
def test_an_event_of_somebody_elses_text_names_no_attempt(context):
    [evidence] = parsed(EVENT | {"context": context})
    assert (evidence.delivery_id, evidence.attempt_no) == (None, None)
    assert evidence.provider_message_id == MESSAGE_ID


@pytest.mark.parametrize("when", [None, "soon", [], -1, 10**30])
def test_an_event_without_a_time_happened_when_sns_said_so(when):
    [evidence] = parsed(EVENT | {"eventTimestamp": when})
    assert evidence.occurred_at == datetime(2026, 3, 1, 12, 0, 0, 655000, UTC)


def test_evidence_holds_no_number_in_full_and_no_context():
    [evidence] = parsed(EVENT | {"messageStatusDescription": "No route to +14155550101 now"})
    assert evidence.data["message"] == "No route to <number> now"
    assert not any(part in str(evidence.data) for part in ("4155550101", "4155550100", str(DELIVERY)))


@pytest.mark.parametrize(
    "message",
    ["", "words", "[]", "{}", {"eventType": "TEXT_DELIVERED"}, EVENT | {"messageId": "a/b"}, {"messageId": "x"}],
)
def test_what_is_no_event_is_refused(message):
    with pytest.raises(WebhookRefused) as refused:
        AWS.parse(posted(json.dumps(signed(message))))
    assert refused.value.reason == "malformed"


def test_what_amazon_says_of_the_set_up_is_no_fact():
    assert parsed("Successfully validated SNS topic for event publishing.") == []


@given(
    st.dictionaries(st.sampled_from([*EVENT, *INBOUND]), JSON).map(json.dumps)
    | st.dictionaries(st.sampled_from([*EVENT, *INBOUND]), JSON).map(lambda fields: json.dumps(EVENT | fields))
    | st.text()
)
def test_any_message_is_read_or_refused(message):
    with contextlib.suppress(WebhookRefused):
        for evidence in AWS.parse(posted(json.dumps({**signed("x"), "Message": message}))):
            assert evidence.kind is not EvidenceKind.DELIVERED or "TEXT_DELIVERED" in message


# -- what people answer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "kind", "keyword"),
    [
        ("STOP", EvidenceKind.OPTED_OUT, "STOP"),
        ("Stop!", EvidenceKind.OPTED_OUT, "STOP"),
        ("arret", EvidenceKind.OPTED_OUT, "STOP"),
        ("REMOVE", EvidenceKind.OPTED_OUT, "STOP"),
        (" td ", EvidenceKind.OPTED_OUT, "STOP"),
        ("START", EvidenceKind.OPTED_IN, "START"),
        ("HELP", EvidenceKind.OTHER, "HELP"),
        ("Thank you, please stop by at 5 pm", EvidenceKind.OTHER, None),
        ("remove the parcel", EvidenceKind.OTHER, None),
        (None, EvidenceKind.OTHER, None),
    ],
)
def test_what_people_answer_is_heard(words, kind, keyword):
    [evidence] = parsed(INBOUND | {"messageBody": words})
    assert (evidence.kind, evidence.address) == (kind, "+14155550101")
    assert evidence.event_key == "inbound:cae173d2-66b9-564c-8309-21f858e9fb84"
    assert evidence.occurred_at == datetime(2026, 3, 1, 12, 0, 0, 655000, UTC)
    assert evidence.data == {"inbound": True, "keyword": keyword, "to": "…0100"}


def test_the_keyword_a_number_is_registered_for_is_nobodys_wish():
    [evidence] = parsed(INBOUND | {"messageKeyword": "STOP", "messageBody": "see you"})
    assert evidence.kind is EvidenceKind.OTHER


# -- looking up ------------------------------------------------------------------------------------------------


def test_nobody_can_be_asked():
    assert not AWS.capabilities.can_look_up
    assert not AWS.capabilities.accepts_client_id
    attempt = AttemptRef(DELIVERY, 2, NOW, "+14155550101", None)
    assert AWS.interpret_lookup(attempt, answer(200), NOW).verdict is LookupVerdict.UNANSWERABLE
