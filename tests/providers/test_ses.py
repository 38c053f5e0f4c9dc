"""The SES adapter on bytes: requests it builds and signs, answers it reads, events it believes and refuses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.header import decode_header, make_header
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.domain.models import BounceClass, Channel, EvidenceKind, OutcomeKind
from app.errors import ConfigurationError, InvalidFields, WebhookRefused
from app.providers.base import SENDER_REFUSED, AttemptRef, EmailMessage, LookupVerdict, ProviderResponse
from app.providers.registry import make_provider
from app.providers.ses import Ses, SesAccount
from tests.messages import CONTEXT, DELIVERY, NOW, email_message, posted
from tests.providers import sns_signer as signer
from tests.providers.sns_signer import TOPIC, confirmation, signed

ACCOUNT = SesAccount("eu-west-1", "AKIDEXAMPLE", "SECRET", (TOPIC,), configuration_set="landed")
SES = Ses(ACCOUNT)
MESSAGE = email_message(to="zoe@example.com")
MESSAGE_ID = "0102018b3c4d5e6f-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee-000000"


def payload(message: EmailMessage = MESSAGE, ses: Ses = SES) -> dict[str, Any]:
    return json.loads(ses.build(message, CONTEXT).body)


def answer(
    status: int, body: str | bytes | Mapping[str, Any] = b"", headers: Mapping[str, str] | None = None
) -> ProviderResponse:
    if isinstance(body, Mapping):
        body = json.dumps(body)
    return ProviderResponse(status, headers or {}, body.encode() if isinstance(body, str) else body)


# -- building ------------------------------------------------------------------------------------------------


def test_a_send_carries_the_message_and_our_ids():
    request = SES.build(MESSAGE, CONTEXT)
    assert (request.method, request.url) == ("POST", "https://email.eu-west-1.amazonaws.com/v2/email/outbound-emails")
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["X-Amz-Date"] == "20260301T120000Z"
    assert json.loads(request.body) == {
        "FromEmailAddress": "=?utf-8?q?Acme_=26_S=C3=B6hne?= <shop@mg.example.com>",
        "Destination": {"ToAddresses": ["zoe@example.com"]},
        "Content": {
            "Simple": {
                "Subject": {"Data": MESSAGE.subject, "Charset": "UTF-8"},
                "Body": {
                    "Text": {"Data": MESSAGE.text, "Charset": "UTF-8"},
                    "Html": {"Data": MESSAGE.html, "Charset": "UTF-8"},
                },
            }
        },
        "EmailTags": [
            {"Name": "landed_delivery", "Value": str(DELIVERY)},
            {"Name": "landed_attempt", "Value": "2"},
            {"Name": "landed_label_order_shipped", "Value": "1"},
        ],
        "ConfigurationSetName": "landed",
    }


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_arrives_unchanged(text):
    assert payload(replace(MESSAGE, text=text))["Content"]["Simple"]["Body"]["Text"]["Data"] == text


def test_text_alone_has_no_html_part():
    assert "Html" not in payload(replace(MESSAGE, html=None))["Content"]["Simple"]["Body"]


def test_headers_pass_through():
    headers = {"List-Unsubscribe": "<https://a.example/u/1>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    sent = payload(replace(MESSAGE, headers=headers, reply_to="Hilfe für Sie <help@example.com>"))
    assert sent["Content"]["Simple"]["Headers"] == [{"Name": n, "Value": v} for n, v in headers.items()]
    (reply_to,) = sent["ReplyToAddresses"]
    assert str(make_header(decode_header(reply_to))) == "Hilfe für Sie <help@example.com>"


def test_a_header_travels_in_ascii():
    (header,) = payload(replace(MESSAGE, headers={"X-Note": "größer " * 20}))["Content"]["Simple"]["Headers"]
    assert header["Value"].isascii()
    assert header["Value"].isprintable()
    assert str(make_header(decode_header(header["Value"]))) == "größer " * 20


@pytest.mark.parametrize("headers", [{"X-Note": "x" * 991}, {"X-" + "N" * 125: "x"}, {"X-Note": "ü" * 500}])
def test_a_header_ses_would_not_take_is_refused(headers):
    with pytest.raises(InvalidFields, match="996 characters"):
        payload(replace(MESSAGE, headers=headers))


def test_tags_keep_the_characters_ses_takes():
    sent = payload(replace(MESSAGE, category="order shipped", tags=("größe:1", "x" * 300, "order shipped")))
    names = [tag["Name"] for tag in sent["EmailTags"][2:]]
    assert names == ["landed_label_order_shipped", "landed_label_gr__e_1", "landed_label_" + "x" * 200]
    assert all(len(name) <= 256 for name in names)


@pytest.mark.parametrize(("account", "message"), [(True, False), (False, True)])
def test_in_test_mode_the_simulator_gets_it_and_no_person(account, message):
    ses = Ses(replace(ACCOUNT, test_mode=account))
    sent = payload(replace(MESSAGE, test_mode=message), ses)
    assert sent["Destination"] == {"ToAddresses": ["success@simulator.amazonses.com"]}


def test_what_is_tracked_goes_by_the_configuration_set_that_tracks():
    tracking = Ses(replace(ACCOUNT, tracking_configuration_set="tracked"))
    assert tracking.capabilities.tracks_engagement
    assert payload(MESSAGE, tracking)["ConfigurationSetName"] == "landed"
    assert payload(replace(MESSAGE, track_opens=True), tracking)["ConfigurationSetName"] == "tracked"
    assert payload(replace(MESSAGE, track_clicks=True), tracking)["ConfigurationSetName"] == "tracked"


def test_where_ses_tracks_nothing_our_own_pixel_must():
    assert not SES.capabilities.tracks_engagement
    assert payload(replace(MESSAGE, track_opens=True))["ConfigurationSetName"] == "landed"


def test_an_identity_may_have_a_configuration_set_of_its_own():
    assert "ConfigurationSetName" not in payload(MESSAGE, Ses(replace(ACCOUNT, configuration_set=None)))


@pytest.mark.parametrize("evil", ["a\r\nBcc: victim@example.com", "a\nb", "a\rb", "a\0b", "a\x0bb"])
@pytest.mark.parametrize("name", ["to", "sender", "subject", "reply_to", "category", "tags", "headers.X-Note"])
def test_no_field_smuggles_in_a_header(name, evil):
    value = {"tags": (evil,), "headers.X-Note": {"X-Note": evil}}.get(name, evil)
    with pytest.raises(InvalidFields) as refused:
        SES.build(replace(MESSAGE, **{name.partition(".")[0]: value}), CONTEXT)
    assert [error.field for error in refused.value.errors] == [name]


@pytest.mark.parametrize("name", ["X-Note\r\nBcc", "X Note", "X:Note", "", "Bcc", "message-id", "To", "X-Nöte", "Date"])
def test_no_header_name_that_could_redirect_or_rename_the_message(name):
    with pytest.raises(InvalidFields):
        SES.build(replace(MESSAGE, headers={name: "x"}), CONTEXT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("to", "a@example.com,b@example.com"),
        ("to", "zoë@example.com"),
        ("sender", "zoë@example.com"),
        ("sender", "Shop"),
        ("sender", "Shop <shop@localhost>"),
        ("sender", '"sh op"@example.com'),
        ("reply_to", "help@exa_mple.com"),
        ("reply_to", "nobody"),
    ],
)
def test_an_address_ses_cannot_carry_is_refused(field, value):
    with pytest.raises(InvalidFields) as refused:
        payload(replace(MESSAGE, **{field: value}))
    assert [error.field for error in refused.value.errors] == [field]


def test_a_session_token_travels_signed():
    request = Ses(replace(ACCOUNT, session_token="TOKEN")).build(MESSAGE, CONTEXT)
    assert request.headers["X-Amz-Security-Token"] == "TOKEN"
    assert "x-amz-security-token" in request.headers["Authorization"]


def test_a_proxy_is_signed_for_by_its_own_name():
    request = Ses(replace(ACCOUNT, base_url="http://127.0.0.1:4100")).build(MESSAGE, CONTEXT)
    assert request.url == "http://127.0.0.1:4100/v2/email/outbound-emails"
    assert request.headers["Host"] == "127.0.0.1:4100"


def test_a_key_is_in_no_repr_of_a_request():
    request = Ses(replace(ACCOUNT, session_token="TOKEN")).build(MESSAGE, CONTEXT)
    assert not any(secret in repr(request) for secret in ("SECRET", "TOKEN", "zoe@example.com"))


# -- the account ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"region": "europe"}, "region"),
        ({"region": "eu-west-1.evil.example/"}, "region"),
        ({"access_key_id": ""}, "access_key_id"),
        ({"secret_access_key": ""}, "secret_access_key"),
        ({"topic_arns": ()}, "topic_arns"),
        ({"topic_arns": ("x",)}, "topic_arns"),
        ({"configuration_set": "a b"}, "configuration_set"),
        ({"tracking_configuration_set": ""}, "configuration_set"),
        ({"base_url": "https://ses.example.com/v2"}, "base_url"),
        ({"sns_base_url": "ftp://sns.example.com"}, "sns_base_url"),
        ({"trust_any_certificate": True}, "sns_base_url"),
        ({"sns_ca": "x"}, "sns_ca"),
        ({"webhook_max_age_seconds": -1}, "webhook_max_age_seconds"),
    ],
)
def test_an_account_that_cannot_work_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        replace(ACCOUNT, **wrong)


def test_an_account_does_not_print_its_keys():
    assert not any(key in repr(replace(ACCOUNT, session_token="TOKEN")) for key in ("SECRET", "TOKEN"))


def test_an_account_is_made_from_settings_and_secret_files(tmp_path):
    (tmp_path / "key").write_text("SECRET-from-file\n")
    (tmp_path / "ca.pem").write_bytes(signer.root().pem)
    settings = {
        "adapter": "ses",
        "region": "eu-west-1",
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key_file": str(tmp_path / "key"),
        "topic_arns": [TOPIC],
        "sns_ca_file": str(tmp_path / "ca.pem"),
        "insights": "true",
    }
    provider = make_provider("main", settings)
    assert isinstance(provider, Ses)
    assert provider.account.secret_access_key == "SECRET-from-file"
    assert provider.trust.ca is not None
    assert provider.capabilities.channel is Channel.EMAIL
    assert provider.capabilities.can_look_up


def test_wrong_settings_are_named_and_secrets_are_not():
    settings = {"adapter": "ses", "region": "x", "access_key_id": "A", "secret_access_key": "SECRET", "topic_arns": []}
    with pytest.raises(ConfigurationError) as refused:
        make_provider("main", settings)
    assert "region" in refused.value.detail
    assert "SECRET" not in refused.value.detail


# -- answers to a send ---------------------------------------------------------------------------------------


def test_an_id_is_acceptance():
    outcome = SES.interpret(answer(200, {"MessageId": MESSAGE_ID}), NOW)
    assert (outcome.kind, outcome.provider_message_id) == (OutcomeKind.ACCEPTED, MESSAGE_ID)


def failure(status: int, error: str, message: str = "", key: str = "message") -> ProviderResponse:
    return answer(status, {key: message}, {"x-amzn-errortype": f"{error}:http://internal.amazon.com/coral/com/"})


NOT_VERIFIED = (
    "Email address is not verified. The following identities failed the check in region EU-WEST-1: a@example.com"
)


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (answer(200, ""), OutcomeKind.UNKNOWN),
        (answer(200, "<html>OK</html>"), OutcomeKind.UNKNOWN),
        (answer(200, '{"MessageId":"0102'), OutcomeKind.UNKNOWN),
        (answer(200, {"MessageId": ""}), OutcomeKind.UNKNOWN),
        (answer(200, {"MessageId": []}), OutcomeKind.UNKNOWN),
        (answer(200, "[" * 100_000), OutcomeKind.UNKNOWN),
        (answer(204), OutcomeKind.UNKNOWN),
        (answer(301), OutcomeKind.UNAUTHORIZED),
        (answer(303), OutcomeKind.UNKNOWN),
        (failure(429, "TooManyRequestsException", "Maximum sending rate exceeded."), OutcomeKind.RATE_LIMITED),
        (failure(400, "ThrottlingException", "Daily message quota exceeded."), OutcomeKind.RATE_LIMITED),
        (failure(400, "Throttling", "Rate exceeded"), OutcomeKind.RATE_LIMITED),
        (failure(400, "LimitExceededException", "Sending quota exceeded"), OutcomeKind.RATE_LIMITED),
        (failure(400, "LimitExceededException", "Too many resources of this type"), OutcomeKind.UNAUTHORIZED),
        (failure(400, "MessageRejected", NOT_VERIFIED), OutcomeKind.UNAUTHORIZED),
        (failure(400, "MessageRejected", "Attachment type is not allowed"), OutcomeKind.REJECTED),
        (failure(400, "BadRequestException", "Missing final '@domain'"), OutcomeKind.RECIPIENT_INVALID),
        (failure(400, "BadRequestException", "Invalid header: X-Note"), OutcomeKind.REJECTED),
        (failure(400, "BadRequestException", "Recipient address is invalid"), OutcomeKind.RECIPIENT_INVALID),
        (failure(400, "BadRequestException", "Illegal address"), OutcomeKind.RECIPIENT_INVALID),
        (failure(400, "BadRequestException", "Local address contains control or whitespace"), "recipient_invalid"),
        (failure(400, "BadRequestException", "Domain contains illegal character"), OutcomeKind.RECIPIENT_INVALID),
        (failure(400, "BadRequestException", "Invalid tag <x>"), OutcomeKind.REJECTED),
        (failure(400, "MailFromDomainNotVerifiedException"), OutcomeKind.UNAUTHORIZED),
        (failure(400, "AccountSuspendedException"), OutcomeKind.UNAUTHORIZED),
        (failure(400, "SendingPausedException"), OutcomeKind.UNAUTHORIZED),
        (failure(404, "NotFoundException", "Configuration set <landed> does not exist."), OutcomeKind.UNAUTHORIZED),
        (failure(403, "AccessDeniedException"), OutcomeKind.UNAUTHORIZED),
        (failure(403, "InvalidClientTokenId"), OutcomeKind.UNAUTHORIZED),
        (failure(403, "UnrecognizedClientException"), OutcomeKind.UNAUTHORIZED),
        (failure(403, "SignatureDoesNotMatch"), OutcomeKind.UNAUTHORIZED),
        (failure(403, "ExpiredTokenException"), OutcomeKind.UNAUTHORIZED),
        (failure(400, "RequestExpired"), OutcomeKind.UNAUTHORIZED),
        (failure(400, "InvalidSignatureException"), OutcomeKind.UNAUTHORIZED),
        (failure(403, "InventedTomorrow"), OutcomeKind.UNAUTHORIZED),
        (failure(400, "InventedTomorrow"), OutcomeKind.REJECTED),
        (answer(400, {"__type": "com.amazonaws.ses#MessageRejected", "message": NOT_VERIFIED}), "unauthorized"),
        (answer(400, {"code": "AccountSuspendedException"}), OutcomeKind.UNAUTHORIZED),
        (answer(401), OutcomeKind.UNAUTHORIZED),
        (answer(404, "<html>"), OutcomeKind.UNAUTHORIZED),
        (answer(408), OutcomeKind.UNKNOWN),
        (answer(413, "Request Entity Too Large"), OutcomeKind.REJECTED),
        (answer(429), OutcomeKind.RATE_LIMITED),
        (failure(500, "InternalFailure"), OutcomeKind.UNKNOWN),
        (failure(500, "InternalServiceError"), OutcomeKind.UNKNOWN),
        (failure(503, "ServiceUnavailable"), OutcomeKind.UNKNOWN),
        (failure(500, "ThrottlingException"), OutcomeKind.UNKNOWN),
        (answer(502, "<html>Bad Gateway</html>"), OutcomeKind.UNKNOWN),
        (answer(504), OutcomeKind.UNKNOWN),
    ],
)
def test_every_answer_has_its_class(response, kind):
    outcome = SES.interpret(response, NOW)
    assert outcome.kind == kind
    assert outcome.status_code == response.status
    assert outcome.detail
    assert outcome.provider_message_id is None


@pytest.mark.parametrize(
    ("response", "kind", "reason"),
    [
        (failure(400, "MailFromDomainNotVerifiedException"), OutcomeKind.UNAUTHORIZED, SENDER_REFUSED),
        (failure(400, "MessageRejected", NOT_VERIFIED), OutcomeKind.UNAUTHORIZED, SENDER_REFUSED),
        (failure(400, "AccountSuspendedException", NOT_VERIFIED), OutcomeKind.UNAUTHORIZED, None),
        (failure(400, "SendingPausedException"), OutcomeKind.UNAUTHORIZED, None),
        (failure(403, "AccessDeniedException"), OutcomeKind.UNAUTHORIZED, None),
        (failure(404, "NotFoundException"), OutcomeKind.UNAUTHORIZED, None),
        (failure(400, "MessageRejected", "Attachment type is not allowed"), OutcomeKind.REJECTED, None),
        (failure(500, "MailFromDomainNotVerifiedException"), OutcomeKind.UNKNOWN, None),
    ],
)
def test_a_sender_that_is_not_verified_says_nothing_about_the_others(response, kind, reason):
    outcome = SES.interpret(response, NOW)
    assert (outcome.kind, outcome.reason) == (kind, reason)


def test_details_hold_no_address():
    detail = SES.interpret(failure(400, "MessageRejected", NOT_VERIFIED), NOW).detail
    assert detail.endswith("<address>")
    assert "@" not in detail


@pytest.mark.parametrize(
    ("words", "headers", "seconds"),
    [
        ("Daily message quota exceeded.", {}, 3600),
        ("Maximum sending rate exceeded.", {}, None),
        ("Daily message quota exceeded.", {"retry-after": "17"}, 17),
        ("", {"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"}, 30),
        ("", {"retry-after": "soon"}, None),
    ],
)
def test_a_spent_quota_waits_longer_than_a_burst(words, headers, seconds):
    response = answer(400, {"message": words}, {"x-amzn-errortype": "ThrottlingException", **headers})
    assert SES.interpret(response, NOW).retry_after_seconds == seconds


HEADERS = st.dictionaries(
    st.sampled_from(["x-amzn-errortype", "retry-after"]), st.text() | st.sampled_from(["MessageRejected", "nan", "-1"])
)


@given(st.integers(100, 599), HEADERS, st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_answer_is_classified_and_only_an_id_is_acceptance(status, headers, body):
    outcome = SES.interpret(answer(status, body, headers), NOW)
    assert (outcome.kind is OutcomeKind.ACCEPTED) <= (b'"MessageId"' in body)


# -- signatures ----------------------------------------------------------------------------------------------


def refusal(body: bytes, ses: Ses = SES) -> tuple[str, int]:
    with pytest.raises(WebhookRefused) as refused:
        ses.verify(posted(body), NOW, signer.amazon().pem)
    return refused.value.reason, refused.value.http_status


def test_a_notification_is_believed_by_the_certificate_it_names():
    request = posted(json.dumps(signed(event("Delivery"))))
    url = SES.key_url(request)
    assert url == signer.CERTIFICATE_URL
    SES.verify(request, NOW, signer.amazon().pem)
    assert SES.replay_token(request) is None  # the signature covers the body


def test_no_certificate_is_fetched_for_a_strangers_message():
    for change in (
        {"TopicArn": "arn:aws:sns:eu-west-1:999999999999:x"},
        {"SigningCertURL": "https://evil.example/x.pem"},
    ):
        with pytest.raises(WebhookRefused):
            SES.key_url(posted(json.dumps(signed("x", **change))))


def test_a_forgery_is_refused():
    assert refusal(json.dumps({**signed(event("Delivery")), "Message": "{}"}).encode()) == ("forged", 403)
    assert refusal(b"{}") == ("malformed", 400)


def test_a_certificate_that_could_not_be_fetched_makes_sns_come_again():
    with pytest.raises(WebhookRefused) as refused:
        SES.verify(posted(json.dumps(signed("x"))), NOW, None)
    assert refused.value.http_status == 503


def test_sha1_is_the_accounts_to_allow():
    body = json.dumps(signed("x", version="1")).encode()
    assert refusal(body) == ("forged", 403)
    Ses(replace(ACCOUNT, allow_signature_v1=True)).verify(posted(body), NOW, signer.amazon().pem)


def test_a_subscription_is_confirmed_once_it_is_believed():
    request = posted(json.dumps(confirmation()))
    SES.verify(request, NOW, signer.amazon().pem)
    asked = SES.confirmation(request)
    assert asked is not None
    assert (asked.method, asked.url, asked.body) == ("GET", signer.SUBSCRIBE_URL, b"")
    assert SES.parse(request) == ()


def test_a_confirmation_that_leads_elsewhere_is_refused():
    request = posted(json.dumps(confirmation(SubscribeURL="https://evil.example/?Action=ConfirmSubscription")))
    with pytest.raises(WebhookRefused, match="SubscribeURL"):
        SES.verify(request, NOW, signer.amazon().pem)
    with pytest.raises(WebhookRefused, match="SubscribeURL"):
        SES.confirmation(request)


def test_an_end_of_the_subscription_is_taken_note_of_and_nothing_is_visited():
    request = posted(json.dumps(confirmation("UnsubscribeConfirmation")))
    SES.verify(request, NOW, signer.amazon().pem)
    with capture_logs() as logs:
        assert SES.parse(request) == ()
        assert SES.confirmation(request) is None
    # No event comes any more, so an operator has to hear of it. Its token could subscribe anew, and is not shown.
    assert logs == [{"event": "subscription_ended", "log_level": "error", "provider": "ses", "topic": TOPIC}]


@pytest.mark.parametrize("body", [confirmation(), signed("Successfully validated SNS topic")])
def test_nothing_else_is_taken_for_the_end_of_a_subscription(body):
    with capture_logs() as logs:
        SES.parse(posted(json.dumps(body)))
    assert logs == []


@pytest.mark.parametrize(
    "words",
    [
        "Successfully validated SNS topic for Amazon SES event publishing.",
        json.dumps({"notificationType": "AmazonSnsSubscriptionSucceeded", "message": "You have subscribed"}),
    ],
)
def test_what_is_said_of_the_set_up_is_no_event(words):
    request = posted(json.dumps(signed(words)))
    SES.verify(request, NOW, signer.amazon().pem)
    assert SES.parse(request) == ()
    assert SES.confirmation(request) is None


# -- events --------------------------------------------------------------------------------------------------

AT = "2026-03-01T11:59:30.123Z"
MAIL = {
    "timestamp": "2026-03-01T11:59:00.000Z",
    "source": "shop@mg.example.com",
    "sourceArn": "arn:aws:ses:eu-west-1:123456789012:identity/mg.example.com",
    "sendingAccountId": "123456789012",
    "messageId": MESSAGE_ID,
    "destination": ["alice@example.com"],
    "headersTruncated": False,
    "headers": [{"name": "Subject", "value": "Hi"}],
    "commonHeaders": {"from": ["shop@mg.example.com"], "to": ["alice@example.com"], "messageId": MESSAGE_ID},
    "tags": {
        "ses:configuration-set": ["landed"],
        "ses:source-ip": ["192.0.2.1"],
        "landed_delivery": [str(DELIVERY)],
        "landed_attempt": ["2"],
        "landed_label_order_shipped": ["1"],
    },
}
RECIPIENT = {
    "emailAddress": "alice@example.com",
    "action": "failed",
    "status": "5.1.1",
    "diagnosticCode": "smtp; 550 5.1.1 user unknown",
}
PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "Send": ("send", {}),
    "Delivery": (
        "delivery",
        {
            "timestamp": AT,
            "processingTimeMillis": 546,
            "recipients": ["alice@example.com"],
            "smtpResponse": "250 2.0.0 OK",
            "reportingMTA": "a8-70.smtp-out.amazonses.com",
        },
    ),
    "Bounce": (
        "bounce",
        {
            "bounceType": "Permanent",
            "bounceSubType": "General",
            "bouncedRecipients": [RECIPIENT],
            "timestamp": AT,
            "feedbackId": "0100-feedback",
            "reportingMTA": "dsn; mta.example.com",
        },
    ),
    "Complaint": (
        "complaint",
        {
            "complainedRecipients": [{"emailAddress": "alice@example.com"}],
            "timestamp": AT,
            "feedbackId": "0100-complaint",
            "complaintSubType": None,
            "userAgent": "Amazon SES Mailbox Simulator",
            "complaintFeedbackType": "abuse",
            "arrivalDate": AT,
        },
    ),
    "Reject": ("reject", {"reason": "Bad content"}),
    "DeliveryDelay": (
        "deliveryDelay",
        {
            "delayType": "TransientCommunicationFailure",
            "expirationTime": "2026-03-01T23:59:00.000Z",
            "delayedRecipients": [
                {**RECIPIENT, "status": "4.4.1", "diagnosticCode": "smtp; 421 4.4.1 Unable to connect"}
            ],
            "timestamp": AT,
        },
    ),
    "Rendering Failure": ("failure", {"templateName": "welcome", "errorMessage": "Attribute 'name' is missing"}),
    "Open": ("open", {"ipAddress": "192.0.2.7", "timestamp": AT, "userAgent": "Mozilla/5.0"}),
    "Click": (
        "click",
        {"ipAddress": "192.0.2.7", "timestamp": AT, "userAgent": "Mozilla/5.0", "link": "https://a.example/x"},
    ),
    "Subscription": (
        "subscription",
        {
            "contactList": "ours",
            "timestamp": AT,
            "source": "UnsubscribeHeader",
            "newTopicPreferences": {"unsubscribeAll": True, "topicSubscriptionStatus": []},
            "oldTopicPreferences": {"unsubscribeAll": False, "topicSubscriptionStatus": []},
        },
    ),
}


def event(name: str, mail: Mapping[str, Any] = MAIL, **changes: Any) -> dict[str, Any]:
    part, fields = PARTS[name]
    return {"eventType": name, "mail": mail, part: {**fields, **changes}}


def read_all(data: Any):
    return SES.parse(posted(json.dumps(signed(data))))


def read(data: Any):
    (evidence,) = read_all(data)
    return evidence


def test_a_delivery_is_evidence_for_its_very_attempt():
    evidence = read(event("Delivery"))
    assert evidence.kind is EvidenceKind.DELIVERED
    assert evidence.occurred_at == datetime(2026, 3, 1, 11, 59, 30, 123000, UTC)
    assert (evidence.delivery_id, evidence.attempt_no) == (DELIVERY, 2)
    assert evidence.provider_message_id == MESSAGE_ID
    assert evidence.address == "alice@example.com"
    assert evidence.bounce_class is None
    assert evidence.suppress_reason is None
    assert evidence.data == {"message": "250 2.0.0 OK", "reporting_mta": "a8-70.smtp-out.amazonses.com"}


@pytest.mark.parametrize(
    ("name", "kind", "suppress"),
    [
        ("Send", EvidenceKind.ACCEPTED, None),
        ("Delivery", EvidenceKind.DELIVERED, None),
        ("Bounce", EvidenceKind.BOUNCED, "hard_bounce"),
        ("Complaint", EvidenceKind.COMPLAINED, "complaint"),
        ("Reject", EvidenceKind.FAILED, None),
        ("DeliveryDelay", EvidenceKind.DEFERRED, None),
        ("Rendering Failure", EvidenceKind.FAILED, None),
        ("Open", EvidenceKind.OPENED, None),
        ("Click", EvidenceKind.CLICKED, None),
        ("Subscription", EvidenceKind.UNSUBSCRIBED, "unsubscribe"),
    ],
)
def test_every_event_has_its_kind(name, kind, suppress):
    evidence = read(event(name))
    assert (evidence.kind, evidence.suppress_reason) == (kind, suppress)
    assert (evidence.delivery_id, evidence.attempt_no) == (DELIVERY, 2)
    assert evidence.address == "alice@example.com"


def test_an_event_invented_tomorrow_is_kept_and_changes_nothing():
    evidence = read({"eventType": "Levitation", "mail": MAIL, "levitation": {}})
    assert (evidence.kind, evidence.suppress_reason) == (EvidenceKind.OTHER, None)


def test_feedback_notifications_read_the_same_but_for_our_ids():
    """Identity-level feedback carries no tags: such an event is matched by SES's message id."""
    mail = {name: value for name, value in MAIL.items() if name != "tags"}
    published, feedback = event("Bounce"), event("Bounce", mail)
    feedback["notificationType"] = feedback.pop("eventType")
    evidence = read(feedback)
    assert (evidence.delivery_id, evidence.attempt_no, evidence.provider_message_id) == (None, None, MESSAGE_ID)
    assert evidence.event_key == read(published).event_key


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"landed_delivery": [str(DELIVERY)]},
        {"landed_delivery": [], "landed_attempt": []},
        {"landed_delivery": ["x"], "landed_attempt": ["1"]},
        {"landed_delivery": [str(DELIVERY)], "landed_attempt": ["0"]},
        {"landed_delivery": [str(DELIVERY)], "landed_attempt": ["٢"]},
        {"landed_delivery": [str(DELIVERY)], "landed_attempt": ["99999"]},
        {"landed_delivery": str(DELIVERY), "landed_attempt": "1"},
        None,
        [],
    ],
)
def test_a_message_that_is_not_ours_has_no_ids(tags):
    evidence = read(event("Delivery", {**MAIL, "tags": tags}))
    assert (evidence.delivery_id, evidence.attempt_no) == (None, None)


def test_one_fact_through_two_topics_is_one():
    """SNS gives each notification an id of its own, and the two may differ in their wording."""
    first = SES.parse(posted(json.dumps(signed(event("Bounce"), MessageId="one"))))
    second = SES.parse(posted(json.dumps(signed(event("Bounce", feedbackId="other"), MessageId="two"))))
    assert [e.event_key for e in first] == [e.event_key for e in second]


def test_different_facts_have_different_keys():
    facts = [
        *(event(name) for name in PARTS),
        event("Open", timestamp="2026-03-01T11:59:31.000Z"),
        event("Click", link="https://a.example/y"),
        event("DeliveryDelay", timestamp="2026-03-01T11:59:31.000Z"),
        event("Bounce", bounceType="Transient", bounceSubType="MailboxFull"),
        event("Delivery", recipients=["bob@example.com"]),
        event("Delivery", {**MAIL, "messageId": "another"}),
    ]
    keys = [read(fact).event_key for fact in facts]
    assert len(set(keys)) == len(keys)


def test_no_key_holds_an_address():
    assert not any("@" in read(event(name)).event_key for name in PARTS)


def test_each_recipient_of_a_bounce_has_evidence_of_its_own():
    bounced = [RECIPIENT, {**RECIPIENT, "emailAddress": "bob@example.com", "status": "5.7.1"}]
    evidence = read_all(event("Bounce", bouncedRecipients=bounced))
    assert [(e.address, e.bounce_class) for e in evidence] == [
        ("alice@example.com", BounceClass.HARD),
        ("bob@example.com", BounceClass.REPUTATION),
    ]
    assert len({e.event_key for e in evidence}) == 2


def test_an_open_of_a_message_to_many_is_nobodys_in_particular():
    (evidence,) = read_all(event("Open", {**MAIL, "destination": ["a@example.com", "b@example.com"]}))
    assert evidence.address is None


@pytest.mark.parametrize("timestamp", [None, "", "soon", 7, [], "9999-12-31T23:59:59Z"])
def test_an_event_without_a_time_of_its_own_has_the_messages(timestamp):
    assert read(event("Delivery", timestamp=timestamp)).occurred_at == datetime(2026, 3, 1, 11, 59, tzinfo=UTC)
    nothing = event("Delivery", {**MAIL, "timestamp": timestamp}, timestamp=timestamp)
    assert read(nothing).occurred_at == datetime(2026, 3, 1, 12, 0, 0, 655000, UTC)  # when SNS sent it


HARD = (EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce")
SOFT = (EvidenceKind.BOUNCED, BounceClass.SOFT, None)
REPUTATION = (EvidenceKind.BOUNCED, BounceClass.REPUTATION, None)
CONTENT = (EvidenceKind.BOUNCED, BounceClass.CONTENT, None)
ON_ITS_LIST = (EvidenceKind.FAILED, BounceClass.PROVIDER_SUPPRESSED, "provider_suppressed")
NOTED = (EvidenceKind.OTHER, None, None)
NO_DSN = {"emailAddress": "alice@example.com"}


@pytest.mark.parametrize(
    ("bounce_type", "sub_type", "recipient", "verdict"),
    [
        ("Permanent", "General", RECIPIENT, HARD),
        ("Permanent", "General", NO_DSN, HARD),
        ("Permanent", "NoEmail", RECIPIENT, HARD),
        ("Permanent", "InventedTomorrow", RECIPIENT, HARD),
        ("Permanent", "", RECIPIENT, HARD),
        # We are refused, not the address.
        ("Permanent", "General", {**RECIPIENT, "status": "5.7.1"}, REPUTATION),
        ("Permanent", "General", {**NO_DSN, "diagnosticCode": "smtp; 550 5.7.26 DMARC"}, REPUTATION),
        ("Permanent", "General", {**RECIPIENT, "status": "5.1.8"}, REPUTATION),
        # On SES's own lists: mirrored into ours.
        ("Permanent", "Suppressed", RECIPIENT, ON_ITS_LIST),
        ("Permanent", "OnAccountSuppressionList", NO_DSN, ON_ITS_LIST),
        # This message is over, the address may be fine.
        ("Transient", "General", {**RECIPIENT, "status": "4.4.7"}, SOFT),
        ("Transient", "MailboxFull", {**RECIPIENT, "status": "5.2.2"}, SOFT),
        ("Transient", "MailboxFull", NO_DSN, SOFT),
        ("Transient", "InventedTomorrow", RECIPIENT, SOFT),
        ("Undetermined", "Undetermined", NO_DSN, SOFT),
        ("Undetermined", "Undetermined", RECIPIENT, SOFT),
        (None, None, NO_DSN, SOFT),
        # This message is refused.
        ("Transient", "MessageTooLarge", RECIPIENT, CONTENT),
        ("Transient", "ContentRejected", RECIPIENT, CONTENT),
        ("Transient", "AttachmentRejected", RECIPIENT, CONTENT),
        # An absence note comes as a bounce without a delivery report: the message arrived.
        ("Transient", "General", NO_DSN, NOTED),
    ],
)
def test_a_bounce_blames_the_address_only_on_plain_signs(bounce_type, sub_type, recipient, verdict):
    fact = event("Bounce", bounceType=bounce_type, bounceSubType=sub_type, bouncedRecipients=[recipient])
    evidence = read(fact)
    assert (evidence.kind, evidence.bounce_class, evidence.suppress_reason) == verdict


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, (EvidenceKind.COMPLAINED, None, "complaint")),
        ({"complaintFeedbackType": None}, (EvidenceKind.COMPLAINED, None, "complaint")),
        ({"complaintFeedbackType": "fraud"}, (EvidenceKind.COMPLAINED, None, "complaint")),
        ({"complaintFeedbackType": "not-spam"}, NOTED),
        ({"complaintSubType": "OnAccountSuppressionList"}, ON_ITS_LIST),
    ],
)
def test_a_complaint_suppresses_unless_it_is_the_opposite(changes, verdict):
    evidence = read(event("Complaint", **changes))
    assert (evidence.kind, evidence.bounce_class, evidence.suppress_reason) == verdict


def topics(**statuses: str) -> dict[str, Any]:
    listed = [{"topicName": name, "subscriptionStatus": status} for name, status in statuses.items()]
    return {"unsubscribeAll": False, "topicSubscriptionStatus": listed}


@pytest.mark.parametrize(
    ("new", "old", "kind"),
    [
        (topics(news="OptOut"), topics(news="OptIn"), EvidenceKind.UNSUBSCRIBED),
        (topics(news="OptIn"), topics(news="OptOut"), EvidenceKind.OTHER),
        (topics(news="OptOut", tips="OptIn"), topics(news="OptOut", tips="OptOut"), EvidenceKind.OTHER),
        (None, None, EvidenceKind.OTHER),
    ],
)
def test_only_a_step_out_is_an_unsubscription(new, old, kind):
    assert read(event("Subscription", newTopicPreferences=new, oldTopicPreferences=old)).kind is kind


def test_nobodys_ip_address_is_kept():
    assert "192.0.2.7" not in json.dumps([dict(read(event(name)).data) for name in ("Open", "Click")])


@pytest.mark.parametrize(
    "data",
    [None, 7, [], {}, "plain words", "{", event("Send", {}), {"mail": MAIL}, {"eventType": "Send"}, {"eventType": {}}],
)
def test_what_is_no_event_is_malformed(data):
    with pytest.raises(WebhookRefused) as refused:
        read_all(data)
    assert (refused.value.reason, refused.value.http_status) == ("malformed", 400)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
WORDS = sorted({key for _, fields in PARTS.values() for key in fields})
PART = st.dictionaries(st.sampled_from(WORDS), JSON) | JSON
EVENTS = st.fixed_dictionaries(
    {
        "eventType": st.sampled_from(sorted(PARTS)),
        "mail": st.fixed_dictionaries(
            {"messageId": st.just(MESSAGE_ID)}, optional={"tags": JSON, "destination": JSON, "timestamp": JSON}
        ),
    },
    optional={part: PART for part, _ in PARTS.values()},
)


@given(st.binary() | JSON.map(json.dumps).map(str.encode) | JSON.map(signed).map(json.dumps).map(str.encode))
def test_parse_and_verify_raise_nothing_but_a_refusal(body):
    request = posted(body)
    for ask in (SES.parse, SES.key_url, SES.confirmation):
        with contextlib.suppress(WebhookRefused):
            ask(request)
    with contextlib.suppress(WebhookRefused):
        SES.verify(request, NOW, signer.amazon().pem)


@given(EVENTS)
def test_any_event_becomes_evidence_that_any_store_takes(data):
    for evidence in read_all(data):
        words = [evidence.event_key, evidence.provider_message_id or "", evidence.address or ""]
        stored = json.dumps([words, dict(evidence.data)], allow_nan=False, ensure_ascii=False).encode()
        assert b"\\u0000" not in stored
        assert len(stored) < 64 * 1024


# -- looking up ----------------------------------------------------------------------------------------------

OPENED = NOW - timedelta(hours=1)
ATTEMPT = AttemptRef(DELIVERY, 2, OPENED, "alice@example.com", MESSAGE_ID)
LOST = replace(ATTEMPT, provider_message_id=None)
ASKED = Ses(replace(ACCOUNT, insights=True))


def look(response: ProviderResponse, attempt: AttemptRef = ATTEMPT, now: datetime = NOW):
    return ASKED.interpret_lookup(attempt, response, now)


def insights(*events: Mapping[str, Any], tags: Any = None) -> ProviderResponse:
    listed = [{"Destination": "alice@example.com", "Isp": "Example", "Events": list(events)}]
    return answer(200, {"MessageId": MESSAGE_ID, "EmailTags": tags, "Insights": listed})


def test_ses_can_be_asked_only_where_the_account_pays_for_it():
    assert not SES.capabilities.can_look_up
    assert ASKED.capabilities.can_look_up
    assert ASKED.capabilities.lookup_settle_seconds is None


def test_a_lookup_asks_for_the_insights_of_the_message():
    request = ASKED.build_lookup(ATTEMPT, NOW)
    assert (request.method, urlsplit(request.url).path) == ("GET", f"/v2/email/insights/{MESSAGE_ID}/")
    assert request.body == b""
    assert request.headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")


def test_a_message_id_cannot_lead_to_another_page():
    request = ASKED.build_lookup(replace(ATTEMPT, provider_message_id="../account?x#y"), NOW)
    assert urlsplit(request.url).path == "/v2/email/insights/..%2Faccount%3Fx%23y/"


def test_insights_are_evidence_under_the_same_keys_as_notifications():
    at = datetime(2026, 3, 1, 11, 59, 30, 123000, UTC).timestamp()
    found = look(
        insights(
            {"Timestamp": at - 30, "Type": "SEND"},
            {"Timestamp": at, "Type": "DELIVERY"},
            {
                "Timestamp": at,
                "Type": "BOUNCE",
                "Details": {
                    "Bounce": {"BounceType": "PERMANENT", "BounceSubType": "General", "DiagnosticCode": "smtp; 550"}
                },
            },
            {"Timestamp": at, "Type": "COMPLAINT", "Details": {"Complaint": {"ComplaintFeedbackType": "abuse"}}},
            {"Timestamp": at, "Type": "RENDERING_FAILURE"},
            {"Timestamp": at, "Type": "DELIVERY_DELAY"},
            tags=[{"Name": "landed_delivery", "Value": str(DELIVERY)}, {"Name": "landed_attempt", "Value": "2"}],
        )
    )
    assert found.verdict is LookupVerdict.FOUND
    by_notification = [
        read(event(name)) for name in ("Send", "Delivery", "Bounce", "Complaint", "Rendering Failure", "DeliveryDelay")
    ]
    assert [e.kind for e in found.evidence] == [e.kind for e in by_notification]
    assert [e.event_key for e in found.evidence] == [e.event_key for e in by_notification]
    assert {(e.delivery_id, e.attempt_no) for e in found.evidence} == {(DELIVERY, 2)}
    assert found.evidence[2].suppress_reason == "hard_bounce"


def test_insights_without_our_tags_are_still_of_the_attempt_they_were_asked_for():
    (evidence,) = look(insights({"Timestamp": NOW.timestamp(), "Type": "DELIVERY"})).evidence
    assert (evidence.delivery_id, evidence.attempt_no) == (DELIVERY, 2)


@pytest.mark.parametrize("response", [insights(), answer(404), answer(200, {}), insights({"Type": "LEVITATION"})])
def test_what_insights_lack_disproves_nothing(response):
    assert look(response).verdict is LookupVerdict.TOO_EARLY
    assert look(response, now=OPENED + timedelta(days=31)).verdict is LookupVerdict.UNANSWERABLE


@pytest.mark.parametrize("response", [answer(403), answer(429), answer(500), answer(400), answer(200, "[]")])
def test_a_question_that_failed_proves_nothing(response):
    assert look(response).verdict is LookupVerdict.UNAVAILABLE


@pytest.mark.parametrize("response", [answer(200, {"SendingEnabled": True}), answer(403), answer(500)])
def test_without_an_id_only_the_send_event_can_settle_it(response):
    """Absence never proves anything here: there is nothing that could be asked for."""
    assert urlsplit(ASKED.build_lookup(LOST, NOW).url).path == "/v2/email/account"
    soon = look(response, LOST, OPENED + timedelta(seconds=299))
    assert soon.verdict is LookupVerdict.TOO_EARLY
    assert look(response, LOST, OPENED + timedelta(seconds=300)).verdict is LookupVerdict.UNANSWERABLE


@given(st.integers(100, 599), st.binary() | JSON.map(json.dumps).map(str.encode) | JSON.map(lambda i: insights(i).body))
def test_no_answer_ever_says_not_sent(status, body):
    for attempt in (ATTEMPT, LOST):
        assert look(answer(status, body), attempt).verdict is not LookupVerdict.NOT_SENT
