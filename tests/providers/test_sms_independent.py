"""The vendors' own Python clients and our adapters, side by side: requests that look alike, signatures both believe."""

from __future__ import annotations

import hashlib
import json
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import httpx
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from sinch import SinchClient
from sinch.domains.sms.sinch_events.v1 import SmsSinchEvent
from twilio.request_validator import RequestValidator
from twilio.rest import Client as TwilioClient
from vonage_http_client import Auth, HttpClient, HttpClientOptions
from vonage_sms import Sms
from vonage_sms import SmsMessage as VonageMessage
from werkzeug import Request

from app.errors import WebhookRefused
from app.providers.base import AttemptRef, Provider, ProviderRequest, WebhookRequest
from app.providers.sinch import Sinch, SinchAccount
from app.providers.twilio import Twilio, TwilioAccount
from app.providers.vonage import Vonage, VonageAccount
from tests.messages import CONTEXT, DELIVERY, NOW, posted, sms_message

MESSAGE = sms_message(text="Größe: 5 & mehr = 100% {€} + 😀", expires_at=NOW + timedelta(hours=1))
ATTEMPT = AttemptRef(DELIVERY, 2, NOW - timedelta(hours=1), MESSAGE.to, None)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FIELDS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9).filter(lambda name: name != "sig"),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    max_size=6,
)


@pytest.fixture
def server():
    with HTTPServer() as server:
        yield server


def last(server: HTTPServer) -> Request:
    return server.log[-1][0]


def ask(request: ProviderRequest, **options) -> None:
    with httpx.Client(**options) as client:
        client.request(
            request.method, request.url, headers=dict(request.headers), content=request.body
        ).raise_for_status()


def shape(request: Request):
    return (
        request.method,
        request.path,
        request.headers.get("Authorization"),
        sorted(request.form.items(multi=True)),
        sorted(request.args.items(multi=True)),
        request.get_json(silent=True),
    )


def believed(provider: Provider, request: WebhookRequest, now: datetime = NOW) -> bool:
    try:
        provider.verify(request, now)
    except WebhookRefused:
        return False
    return True


# -- Twilio --------------------------------------------------------------------------------------------------

ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
SID = "SM" + "a1" * 16
TWILIO = TwilioAccount(ACCOUNT_SID, "auth-token", sender="+14155550100", shared_key="shared-key")
URLS = st.sampled_from(["https://a.example/x?mid=1.2", "https://a.example:443/x", "http://a.example:8080/x?a=%20&b="])


@pytest.fixture
def twilio(server):
    client = TwilioClient(ACCOUNT_SID, "auth-token")
    client.api.base_url = server.url_for("").rstrip("/")
    yield client
    client.http_client.session.close()


def ours_at(server: HTTPServer) -> Twilio:
    return Twilio(replace(TWILIO, base_url=server.url_for("").rstrip("/")))


def test_twilio_a_send_looks_like_the_official_clients(server, twilio):
    server.expect_request(f"/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json", "POST").respond_with_json(
        {"sid": SID}, 201
    )
    callback = f"{CONTEXT.webhook_url}?mid={MESSAGE.reference}#rc=5&rp=all&ct=2000&rt=5000&tt=15000"
    made = twilio.messages.create(
        to=MESSAGE.to,
        from_="+14155550100",
        body=MESSAGE.text,
        smart_encoded=False,
        status_callback=callback,
        validity_period=3600,
    )
    assert made.sid == SID
    expected = shape(last(server))
    ask(ours_at(server).build(MESSAGE, CONTEXT))
    assert last(server).form["Body"] == MESSAGE.text
    assert shape(last(server)) == expected


def test_twilio_lookups_look_like_the_official_clients(server, twilio):
    server.expect_request(f"/2010-04-01/Accounts/{ACCOUNT_SID}/Messages/{SID}.json").respond_with_json({"sid": SID})
    server.expect_request(f"/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json").respond_with_json(
        {"messages": [], "next_page_uri": None}
    )
    twilio.messages(SID).fetch()
    one = shape(last(server))
    ask(ours_at(server).build_lookup(replace(ATTEMPT, provider_message_id=SID), NOW))
    assert shape(last(server)) == one
    twilio.messages.list(to=MESSAGE.to, page_size=300)
    many = shape(last(server))
    ask(ours_at(server).build_lookup(ATTEMPT, NOW))
    assert shape(last(server)) == many


@given(FIELDS, URLS, st.sampled_from([("auth-token", None), ("shared-key", "HMAC_SHA256"), ("another", None)]))
def test_twilio_forms_are_believed_when_the_official_validator_signed_them(fields, url, signed_by):
    key, algorithm = signed_by
    validator = RequestValidator(key)
    headers = {**FORM, "X-Twilio-Signature": validator.compute_signature(url, fields, algorithm)}
    if algorithm:
        headers["X-Twilio-Webhooks-Signature-Settings"] = f"key=1,algorithm={algorithm}"
    request = posted(urlencode(fields), headers, url=url)
    assert believed(Twilio(TWILIO), request) == (key != "another")
    assert validator.validate(url, fields, headers["X-Twilio-Signature"], algorithm)


@pytest.mark.parametrize("sent", [b'{"MessageSid": "SM1"}', b'{"MessageSid": "SM2"}'])
def test_twilio_json_is_believed_when_the_official_validator_does(sent):
    signed = b'{"MessageSid": "SM1"}'
    url = f"https://a.example/x?mid=1.2&bodySHA256={hashlib.sha256(signed).hexdigest()}"
    validator = RequestValidator("auth-token")
    signature = validator.compute_signature(url, {})
    request = posted(sent, {"Content-Type": "application/json", "X-Twilio-Signature": signature}, url=url)
    assert believed(Twilio(TWILIO), request) == validator.validate(url, sent.decode(), signature) == (sent == signed)


@given(URLS, URLS)
def test_twilio_urls_are_told_apart_as_the_official_validator_does(signed, received):
    validator = RequestValidator("auth-token")
    signature = validator.compute_signature(signed, {"a": "1"})
    request = posted("a=1", {**FORM, "X-Twilio-Signature": signature}, url=received)
    assert believed(Twilio(TWILIO), request) == validator.validate(received, {"a": "1"}, signature)


# -- Sinch ---------------------------------------------------------------------------------------------------

SINCH = SinchAccount("plan-1", "api-token", "+14155550100", webhook_secret="hook-secret")


@pytest.fixture
def sinch(server):
    client = SinchClient(service_plan_id="plan-1", sms_api_token="api-token", sms_region="us")
    client.configuration.sms_domain_with_service_plan_id = server.url_for("").rstrip("/")
    yield client
    client.configuration.transport.http_session.close()


def test_sinch_a_send_looks_like_the_official_clients(server, sinch):
    server.expect_request("/xms/v1/plan-1/batches", "POST").respond_with_json({"id": "B1", "type": "mt_text"}, 201)
    made = sinch.sms.batches.send_sms(
        to=[MESSAGE.to],
        from_="+14155550100",
        body=MESSAGE.text,
        delivery_report="per_recipient",
        client_reference=MESSAGE.reference,
        event_destination_target=CONTEXT.webhook_url,
        expire_at=MESSAGE.expires_at,
    )
    assert made.id == "B1"
    *expected, theirs = shape(last(server))
    ask(Sinch(replace(SINCH, base_url=server.url_for("").rstrip("/"))).build(MESSAGE, CONTEXT))
    *seen, ours = shape(last(server))
    assert seen == expected
    assert datetime.fromisoformat(ours.pop("expire_at")) == datetime.fromisoformat(theirs.pop("expire_at"))
    assert ours == theirs


@pytest.mark.parametrize("known", [None, "B1"])
def test_sinch_lookups_look_like_the_official_clients(server, sinch, known):
    listed = {"count": 0, "page": 0, "page_size": 30}
    server.expect_request("/xms/v1/plan-1/batches").respond_with_json({**listed, "batches": []})
    server.expect_request("/xms/v1/plan-1/delivery_reports").respond_with_json({**listed, "delivery_reports": []})
    list_ = sinch.sms.batches.list if known is None else sinch.sms.delivery_reports.list
    list_(client_reference=ATTEMPT.reference, start_date=ATTEMPT.opened_at - timedelta(minutes=5))
    method, path, authorization, _, query, _ = shape(last(server))
    request = Sinch(replace(SINCH, base_url=server.url_for("").rstrip("/"))).build_lookup(
        replace(ATTEMPT, provider_message_id=known), NOW
    )
    ask(request)
    theirs, ours = dict(query), last(server).args
    assert (method, path, authorization) == shape(last(server))[:3]
    assert ours["client_reference"] == theirs["client_reference"]
    assert datetime.fromisoformat(ours["start_date"]) == datetime.fromisoformat(theirs["start_date"])


REPORT = {
    "type": "recipient_delivery_report_sms",
    "batch_id": "01FC66621XXXXX119Z8PMV1QPQ",
    "recipient": "14155550101",
    "code": 0,
    "status": "DELIVERED",
    "at": "2026-03-01T11:59:30.123Z",
    "client_reference": MESSAGE.reference,
}
INBOUND = {
    "type": "mo_text",
    "id": "01FC66621XXXXX119Z8PMV1QPR",
    "from": "14155550101",
    "to": "14155550100",
    "body": "STOP ✋",
    "received_at": "2026-03-01T11:59:31Z",
}


@pytest.mark.parametrize("payload", [REPORT, INBOUND])
@pytest.mark.parametrize("tampered", [False, True])
def test_sinch_events_are_believed_and_read_as_the_official_client_does(payload, tampered):
    from sinch.domains.authentication.sinch_events.v1.authentication_validation import (
        calculate_sinch_event_signature,
        compute_signed_data,
    )

    body, nonce, timestamp = json.dumps(payload, ensure_ascii=False), "nonce-1", str(int(NOW.timestamp()))
    signature = calculate_sinch_event_signature(compute_signed_data(body, nonce, timestamp), "hook-secret")
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "X-Sinch-Webhook-Signature": signature,
        "X-Sinch-Webhook-Signature-Nonce": nonce,
        "X-Sinch-Webhook-Signature-Timestamp": timestamp,
        "X-Sinch-Webhook-Signature-Algorithm": "HmacSHA256",
    }
    raw = (body + " " * tampered).encode()
    events, ours = SmsSinchEvent("hook-secret"), posted(raw, headers)
    assert believed(Sinch(SINCH), ours) == events.validate_authentication_header(headers, raw) == (not tampered)
    theirs = events.parse_event(raw, headers)
    (evidence,) = Sinch(SINCH).parse(ours)
    assert evidence.occurred_at == (theirs.at if payload is REPORT else theirs.received_at)
    assert evidence.provider_message_id == getattr(theirs, "batch_id", None)


# -- Vonage --------------------------------------------------------------------------------------------------

VONAGE = VonageAccount("api-key", "+14155550100", "signing-secret", api_secret="api-secret")


@pytest.fixture
def tls(tmp_path):
    """A server that the official client, which knows no http, can be pointed to; with the CA to trust."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with HTTPServer(ssl_context=context) as server:
        server.expect_request("/sms/json", "POST").respond_with_json(
            {"message-count": "1", "messages": [{"to": "14155550101", "message-id": "1", "status": "0"}]}
        )
        yield server, str(tmp_path / "ca.pem")


def test_vonage_a_send_looks_like_the_official_clients(tls):
    server, authority = tls
    client = HttpClient(
        Auth(api_key="api-key", api_secret="api-secret"), HttpClientOptions(rest_host=f"localhost:{server.port}")
    )
    client._session.trust_env, client._session.verify = False, authority
    message = VonageMessage(
        to="14155550101",
        from_="14155550100",
        text=MESSAGE.text,
        type="unicode",
        ttl=3600000,
        client_ref=MESSAGE.reference,
        callback=CONTEXT.webhook_url,
        status_report_req=True,
    )
    assert Sms(client).send(message).messages[0].message_id == "1"
    expected = dict(last(server).form) | {"status-report-req": "true"}
    # Sms.send brings the credentials in a header; as fields the same client writes them so.
    client.post(f"localhost:{server.port}", "/sms/json", {"x": "1"}, "body", "form")
    expected |= {name: value for name, value in last(server).form.items() if name != "x"}
    client._session.close()
    ask(
        Vonage(replace(VONAGE, base_url=f"https://localhost:{server.port}")).build(MESSAGE, CONTEXT),
        verify=ssl.create_default_context(cafile=authority),
    )
    assert dict(last(server).form) == expected


METHODS = ["md5", "sha1", "sha256", "sha512"]


@pytest.mark.parametrize("method", METHODS)
def test_vonage_a_signed_send_is_believed_by_the_official_client(method):
    account = replace(VONAGE, api_secret=None, signature_method=method)
    body = Vonage(account).build(MESSAGE, CONTEXT).body
    auth = Auth(api_key="api-key", signature_secret="signing-secret", signature_method=method)
    assert auth.check_signature(dict(httpx.QueryParams(body.decode())))
    forged = dict(httpx.QueryParams(body.decode())) | {"to": "14155550102"}
    assert not auth.check_signature(forged)


@pytest.mark.parametrize("method", METHODS)
@given(FIELDS, st.sampled_from(["form", "get", "json"]), st.sampled_from(["signing-secret", "another"]))
def test_vonage_webhooks_are_believed_when_the_official_client_signed_them(method, fields, style, key):
    now = datetime.now(UTC)  # the official client has a clock of its own
    auth = Auth(api_key="api-key", signature_secret=key, signature_method=method)
    params = {**fields, "timestamp": str(int(now.timestamp()))}
    signed = params | {"sig": auth.sign_params(dict(params))}
    request = {
        "form": posted(urlencode(signed), FORM),
        "get": posted(b"", url=f"{CONTEXT.webhook_url}?{urlencode(signed)}", method="GET"),
        "json": posted(json.dumps(signed), {"Content-Type": "application/json"}),
    }[style]
    assert believed(Vonage(replace(VONAGE, signature_method=method)), request, now) == (key == "signing-secret")
    assert auth.check_signature(dict(signed))
