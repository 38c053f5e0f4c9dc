"""Messages of SNS: whose they are, what is believed, and where we let ourselves be sent."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import WebhookRefused
from app.providers import sns
from app.providers.sns import SnsTrust
from tests.messages import NOW, posted
from tests.providers import sns_signer as signer
from tests.providers.sns_signer import confirmation, issue, signed

TRUST = SnsTrust((signer.TOPIC,))
BASE = "http://127.0.0.1:4100"
SANDBOX = SnsTrust((signer.TOPIC,), base_url=BASE, trust_any_certificate=True)


def check(
    fields: Any, trust: SnsTrust = TRUST, pem: bytes | None = None, headers: dict[str, str] | None = None, now=NOW
) -> sns.SnsMessage:
    request = posted(json.dumps(fields), headers)
    message = sns.read(request)
    sns.check_ours(message, request.headers, trust)
    sns.certificate_url(message, trust)
    sns.verify(message, trust, signer.amazon().pem if pem is None else pem, now)
    return message


def refusal(*args: Any, **kwargs: Any) -> tuple[str, int]:
    with pytest.raises(WebhookRefused) as refused:
        check(*args, **kwargs)
    return refused.value.reason, refused.value.http_status


FORGED, MALFORMED, STALE = ("forged", 403), ("malformed", 400), ("stale", 400)


# -- believing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        signed("Hello"),
        signed("Hello", Subject="A subject"),
        signed('größer\n"quoted"\t\U0001f600 \\u0000 </script>'),
        signed(""),
        signed("{}", UnsubscribeURL=f"{signer.HOST}/?Action=Unsubscribe"),
        confirmation(),
        confirmation("UnsubscribeConfirmation"),
    ],
)
def test_what_sns_signed_for_our_topic_is_believed(message):
    assert check(message).type == message["Type"]


@pytest.mark.parametrize(
    "change",
    [
        {"Message": "Hello!"},
        {"MessageId": "another"},
        {"Timestamp": "2026-03-01T12:00:01.655Z"},
        {"Subject": "added"},
        {"Signature": ""},
        {"Signature": "AAAA"},
        {"Signature": "not base64!"},
        {"Signature": "ü"},
    ],
)
def test_a_message_that_was_changed_is_refused(change):
    assert refusal({**signed("Hello"), **change}) == FORGED


@pytest.mark.parametrize("change", [{"Token": "x"}, {"SubscribeURL": f"{signer.HOST}/?Action=Other"}])
@pytest.mark.parametrize("kind", ["SubscriptionConfirmation", "UnsubscribeConfirmation"])
def test_a_confirmation_that_was_changed_is_refused(kind, change):
    assert refusal({**confirmation(kind), **change}) == FORGED


def test_a_notification_is_not_taken_for_a_confirmation():
    assert refusal({**confirmation(), "Type": "Notification"}) == FORGED


def test_another_certificate_proves_nothing():
    assert refusal(signed("Hello"), pem=issue("sns.amazonaws.com", signer.root()).pem) == FORGED


def test_amazon_signs_for_anybody_so_the_topic_must_be_ours():
    theirs = signed("Hello", TopicArn="arn:aws:sns:eu-west-1:999999999999:ses-events")
    assert refusal(theirs) == FORGED


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-amz-sns-topic-arn", "arn:aws:sns:eu-west-1:123456789012:another"),
        ("x-amz-sns-message-id", "another"),
        ("x-amz-sns-message-type", "SubscriptionConfirmation"),
    ],
)
def test_headers_that_contradict_the_body_are_refused(header, value):
    assert refusal(signed("Hello"), headers={header: value}) == FORGED


def test_headers_that_agree_are_fine():
    message = signed("Hello")
    check(
        message,
        headers={
            "x-amz-sns-topic-arn": signer.TOPIC,
            "x-amz-sns-message-id": message["MessageId"],
            "x-amz-sns-message-type": "Notification",
        },
    )


# -- signature versions --------------------------------------------------------------------------------------


def test_sha1_is_refused_unless_it_is_allowed():
    assert refusal(signed("Hello", version="1")) == FORGED
    check(signed("Hello", version="1"), replace(TRUST, allow_signature_v1=True))
    check(signed("Hello", version="2"), replace(TRUST, allow_signature_v1=True))


@pytest.mark.parametrize("version", ["3", "", "01", "2 "])
def test_no_other_version_is_known(version):
    message = {**signed("Hello"), "SignatureVersion": version}
    assert refusal(message, replace(TRUST, allow_signature_v1=True)) == FORGED


def test_a_version_is_no_number():
    assert refusal({**signed("Hello"), "SignatureVersion": 2}) == MALFORMED


# -- freshness -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("age", [timedelta(minutes=64), timedelta(0), timedelta(minutes=-4)])
def test_a_late_retry_is_taken(age):
    check(signed("Hello", when=NOW - age))


@pytest.mark.parametrize("age", [timedelta(minutes=66), timedelta(days=2), timedelta(minutes=-6)])
def test_a_replay_is_refused(age):
    assert refusal(signed("Hello", when=NOW - age)) == STALE


@pytest.mark.parametrize("timestamp", ["", "soon", "0001-01-01T00:00:00Z", "٢٠٢٦-03-01"])
def test_a_message_without_a_time_is_refused(timestamp):
    assert refusal(signed("Hello", Timestamp=timestamp)) == MALFORMED


# -- the certificate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pem", [b"", b"<html>", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_certificate_that_could_not_be_had_makes_sns_come_again(pem):
    assert refusal(signed("Hello"), pem=pem) == ("unverifiable", 503)


def test_no_certificate_at_all_makes_sns_come_again():
    with pytest.raises(WebhookRefused) as refused:
        sns.verify(sns.read(posted(json.dumps(signed("Hello")))), TRUST, None, NOW)
    assert refused.value.http_status == 503


@pytest.mark.parametrize(
    "name", ["example.com", "sns.amazonaws.com.evil.example", "xsns.amazonaws.com", "amazonaws.com"]
)
def test_the_certificate_is_for_sns(name):
    other = issue(name, signer.intermediate())
    assert refusal(signed("Hello", by=other), pem=other.pem) == FORGED


@pytest.mark.parametrize(
    "name", ["sns.amazonaws.com", "sns.eu-west-1.amazonaws.com", "sns.cn-north-1.amazonaws.com.cn"]
)
def test_the_certificate_may_name_a_region(name):
    other = issue(name, signer.intermediate())
    check(signed("Hello", by=other), pem=other.pem)


@pytest.mark.parametrize("now", [NOW - timedelta(days=31), NOW + timedelta(days=336)])
def test_the_certificate_is_valid_now(now):
    assert refusal(signed("Hello", when=now), now=now) == FORGED


def chained(*anchors: signer.Issued) -> SnsTrust:
    return replace(TRUST, ca="".join(anchor.pem.decode() for anchor in anchors))


def test_the_chain_is_followed_to_what_is_trusted():
    check(signed("Hello"), chained(signer.intermediate()))
    check(signed("Hello"), chained(signer.root()), pem=signer.amazon().pem + signer.intermediate().pem)


def test_a_chain_that_leads_elsewhere_is_refused():
    stranger = issue("Another Root", authority=True)
    assert refusal(signed("Hello"), chained(stranger)) == FORGED
    assert refusal(signed("Hello"), chained(signer.root())) == FORGED  # the intermediate is nowhere to be had
    own = issue("sns.amazonaws.com")
    assert refusal(signed("Hello", by=own), chained(signer.intermediate()), pem=own.pem) == FORGED


def test_a_sandbox_signs_its_own():
    own = issue("sandbox.example")
    message = signed("Hello", by=own, SigningCertURL=f"{BASE}/sns/certificate.pem")
    check(message, SANDBOX, pem=own.pem)
    assert refusal({**message, "Message": "changed"}, SANDBOX, pem=own.pem) == FORGED


# -- where we let ourselves be sent --------------------------------------------------------------------------

ELSEWHERE = [
    "https://evil.example/SimpleNotificationService-1.pem",
    "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
    "https://sns.eu-west-1.amazonaws.com.evil.example/x.pem",
    "https://sns.eu-west-1.amazonaws.com:8443/x.pem",
    "https://sns.eu-west-1.amazonaws.com@evil.example/x.pem",
    "https://user@sns.eu-west-1.amazonaws.com/x.pem",
    "https://sns.eu-west-1.amazonaws.com\\@evil.example/x.pem",
    "https://sns.eu-west-1.amazonaws.com#@evil.example/x.pem",
    "https://sns.eu-west-1.amazonaws.com/x.pem?a=b",
    "https://sns.eu-west-1.amazonaws.com/x.pem#a",
    "https://sns.eu-west-1.amazonaws.com/x.pem\n",
    " https://sns.eu-west-1.amazonaws.com/x.pem",
    "https://sns.eu-west-1.amazonaws.com/../x.pem",
    "https://sns.eu-west-1.amazonaws.com/x.txt",
    "https://sns.x.amazonaws.com/x.pem",
    "https://snsXeu-west-1.amazonaws.com/x.pem",
    "https://sns.eu-west-1.evil.amazonaws.com/x.pem",
    "https://s3.amazonaws.com/bucket/SimpleNotificationService-1.pem",
    "https://sns.eu-wést-1.amazonaws.com/x.pem",
    "file:///etc/passwd.pem",
    "//evil.example/x.pem",
    "https://",
    "",
]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_no_certificate_is_fetched_from_anywhere_else(url):
    message = sns.read(posted(json.dumps({**signed("Hello"), "SigningCertURL": url})))
    with pytest.raises(WebhookRefused, match="not an address of SNS"):
        sns.certificate_url(message, TRUST)


@pytest.mark.parametrize("host", ["sns.us-east-1.amazonaws.com", "sns.cn-north-1.amazonaws.com.cn"])
def test_amazons_own_addresses_are_known(host):
    url = f"https://{host}/SimpleNotificationService-9c6465fa7f48f5cacd23014631ec1136.pem"
    assert sns.certificate_url(sns.read(posted(json.dumps(signed("Hello", SigningCertURL=url)))), TRUST) == url


@pytest.mark.parametrize(
    "url", [f"{BASE}0/x.pem", f"{BASE}@evil.example/x.pem", "http://127.0.0.1:41000/x.pem", signer.CERTIFICATE_URL]
)
def test_a_sandbox_serves_its_own_certificate_and_nobody_elses(url):
    message = sns.read(posted(json.dumps(signed("Hello", SigningCertURL=url))))
    with pytest.raises(WebhookRefused):
        sns.certificate_url(message, SANDBOX)


def test_a_subscription_is_confirmed_where_sns_says():
    assert sns.subscribe_url(sns.read(posted(json.dumps(confirmation()))), TRUST) == signer.SUBSCRIBE_URL


@pytest.mark.parametrize("url", [url for url in ELSEWHERE if not url.endswith("?a=b")])
def test_a_subscription_is_confirmed_nowhere_else(url):
    message = sns.read(posted(json.dumps(confirmation(SubscribeURL=url))))
    with pytest.raises(WebhookRefused):
        sns.subscribe_url(message, TRUST)


# -- what is no message --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000, b'{"Type": "Notification"}', b'{"Type": []}']
    + [json.dumps({**signed("Hello"), "Message": value}).encode() for value in (None, 7, [], {})]
    + [json.dumps({**confirmation(), "Token": None}).encode()],
)
def test_nonsense_is_refused(body):
    with pytest.raises(WebhookRefused) as refused:
        sns.read(posted(body))
    assert (refused.value.reason, refused.value.http_status) == MALFORMED


def test_raw_delivery_is_named_for_it_has_no_signature():
    with pytest.raises(WebhookRefused, match="raw message delivery is on"):
        sns.read(posted('{"eventType": "Send"}', {"x-amz-sns-rawdelivery": "true"}))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"topic_arns": ()}, "topic_arns"),
        ({"topic_arns": ("ses-events",)}, "topic_arns"),
        ({"topic_arns": ("arn:aws:sqs:eu-west-1:123456789012:q",)}, "topic_arns"),
        ({"trust_any_certificate": True}, "sns_base_url"),
        ({"ca": "no certificate"}, "sns_ca"),
    ],
)
def test_trust_that_could_not_work_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        replace(TRUST, **wrong)


JSON = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=2)
FIELDS = ("Type", "MessageId", "TopicArn", "Message", "Timestamp", "SignatureVersion", "Signature", "SigningCertURL")


@given(st.binary() | st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)).map(json.dumps).map(str.encode))
def test_read_raises_nothing_but_a_refusal(body):
    with contextlib.suppress(WebhookRefused):
        sns.read(posted(body))


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS[1:], st.text())), st.binary(max_size=200))
def test_verify_raises_nothing_but_a_refusal(changes, pem):
    message = {**signed("Hello"), **changes}
    with contextlib.suppress(WebhookRefused):
        check(message, pem=pem)
    with contextlib.suppress(WebhookRefused):
        check(message)
