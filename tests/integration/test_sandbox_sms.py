"""The sandbox's SMS vendors, as a process, against the vendors' own clients and plain HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from urllib.parse import parse_qsl
from uuid import uuid4

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from sinch.domains.sms.sinch_events.v1 import SmsSinchEvent
from twilio.base.exceptions import TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.request_validator import RequestValidator
from twilio.rest import Client
from vonage_http_client import Auth

from app.sandbox.sms.scripts import SMS
from app.sandbox.sms.twilio import sign
from tests.sandbox_process import SandboxProcess, free_port, wait_until
from tests.sandbox_receiver import Post, Receiver

ACCOUNT, TOKEN = "AC" + "5a" * 16, "sandbox-auth-token"
SERVICE = "MG" + "7c" * 16
PLAN, BEARER = "sandbox-service-plan", {"Authorization": "Bearer sandbox-api-token"}
VONAGE = {"api_key": "5adb0x01", "api_secret": "sandbox-api-secret"}
AWS_KEY = Credentials("AKIASANDBOXLANDED000", "sandbox-secret-access-key")
CALLBACK_SCRIPTS = ("callback-lost", "callback-thrice", "callbacks-out-of-order", "callback-forged")
NUMBERS = {script.name: script.asked_by[-4:] for group in SMS.groups.values() for script in group}

_areas = count(201)


def number(script: str = "") -> str:
    """A number of its own that plays this script; one that plays none otherwise."""
    return f"+1{next(_areas)}555{NUMBERS.get(script, '0100')}"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        receiver.status_for = taken
        yield receiver


def taken(post: Post) -> int:
    """Takes everything, and confirms a subscription as the API does."""
    if post.headers.get("x-amz-sns-message-type") == "SubscriptionConfirmation":
        httpx.get(json.loads(post.body)["SubscribeURL"], timeout=10).raise_for_status()
    return 200


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[SandboxProcess]:
    ledger: Path = tmp_path_factory.mktemp("sandbox") / "ledger.jsonl"
    with SandboxProcess(ledger, webhook_base_url=f"{receiver.url}/hooks", hold_seconds=1) as process:
        yield process


class Rerouted(TwilioHttpClient):
    """Twilio's own HTTP client, with the sandbox in the place of Twilio."""

    def __init__(self, origin: str) -> None:
        super().__init__()
        self._origin = origin

    def request(self, method, url, *args, **kwargs):  # type: ignore[no-untyped-def]
        return super().request(method, url.replace("https://api.twilio.com", self._origin), *args, **kwargs)


@pytest.fixture(scope="module")
def twilio(sandbox: SandboxProcess) -> Client:
    return Client(ACCOUNT, TOKEN, http_client=Rerouted(sandbox.url))


def twilio_send(sandbox: SandboxProcess, number: str, /, **fields: str) -> httpx.Response:
    form = {"To": number, "From": "+14155550199", "Body": "Your code is 123456", **fields}
    path = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    return httpx.post(sandbox.url + path, data=form, auth=(ACCOUNT, TOKEN), timeout=30)


def sinch_send(sandbox: SandboxProcess, number: str, /, **fields: object) -> httpx.Response:
    batch = {"from": "+14155550199", "to": [number], "body": "Your code", "delivery_report": "per_recipient", **fields}
    return httpx.post(f"{sandbox.url}/xms/v1/{PLAN}/batches", json=batch, headers=BEARER, timeout=30)


def vonage_send(sandbox: SandboxProcess, number: str, /, **fields: str) -> httpx.Response:
    form = {**VONAGE, "to": number, "from": "14155550199", "text": "Your code", **fields}
    return httpx.post(f"{sandbox.url}/sms/json", data=form, timeout=30)


def aws_send(sandbox: SandboxProcess, number: str, /, **fields: object) -> httpx.Response:
    asked = {"DestinationPhoneNumber": number, "OriginationIdentity": "+14155550199", "MessageBody": "Your code"}
    headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "PinpointSMSVoiceV2.SendTextMessage"}
    body = json.dumps({**asked, "ConfigurationSetName": "landed", **fields})
    request = AWSRequest("POST", f"{sandbox.url}/", headers=headers, data=body)
    SigV4Auth(AWS_KEY, "sms-voice", "eu-west-1").add_auth(request)
    return httpx.post(request.url, headers=dict(request.headers), content=body, timeout=30)


SENDS = {"twilio": twilio_send, "sinch": sinch_send, "vonage": vonage_send, "aws_sms": aws_send}


def aws_messages(receiver: Receiver, number: str, path: str = "/hooks/aws_sms") -> list[dict]:
    """What the topic said about a number, in the order it came."""
    notifications = [json.loads(post.body) for post in receiver.posts(path) if number[1:].encode() in post.body]
    return [json.loads(notification["Message"]) for notification in notifications]


def answers(sandbox: SandboxProcess, vendor: str, recipient: str, words: str) -> None:
    reply = {"recipient": recipient, "text": words}
    httpx.post(f"{sandbox.url}/sandbox/{vendor}/replies", json=reply, timeout=30).raise_for_status()
    sandbox.wait_until_settled()


def form_of(post: Post) -> dict[str, str]:
    return dict(parse_qsl(post.body.decode(), keep_blank_values=True))


# --- Twilio ---------------------------------------------------------------------------------------------------------


def test_twilios_own_client_sends_fetches_and_pages(sandbox, twilio):
    to = number()

    sent = [twilio.messages.create(to=to, from_="+14155550199", body=f"text {n}") for n in range(5)]
    sandbox.wait_until_settled()

    assert {message.status for message in sent} == {"queued"}
    assert re.fullmatch(r"SM[0-9a-f]{32}", sent[0].sid)
    fetched = twilio.messages(sent[0].sid).fetch()
    assert (fetched.status, fetched.body, fetched.num_segments) == ("delivered", "text 0", "1")
    assert fetched.date_sent is not None
    listed = twilio.messages.list(to=to, page_size=2)
    assert [message.sid for message in listed] == [message.sid for message in reversed(sent)]


def test_a_twilio_list_is_narrowed_by_day_and_sender(sandbox, twilio):
    to = number()
    sent = twilio.messages.create(to=to, from_="+14155550199", body="text")
    sandbox.wait_until_settled()
    path = f"{sandbox.url}/2010-04-01/Accounts/{ACCOUNT}/Messages.json"

    def found(**params: str) -> list[str]:
        page = httpx.get(path, params={"To": to, **params}, auth=(ACCOUNT, TOKEN)).json()
        return [message["sid"] for message in page["messages"]]

    assert found(**{"DateSent>": "2020-01-01"}) == [sent.sid]
    assert found(**{"DateSent<": "2020-01-01"}) == []
    assert found(From="+14155550199") == [sent.sid]
    assert found(From="+14155550198") == []


def test_a_twilio_callback_is_signed_as_their_validator_wants_it(sandbox, receiver):
    to, delivery = number(), str(uuid4())
    callback = f"{receiver.url}/status?mid={delivery}.3&name=a%20b"

    answer = twilio_send(sandbox, to, StatusCallback=callback)
    sandbox.wait_until_settled()

    posts = [post for post in receiver.posts("/status") if delivery in post.path]
    assert sorted(form_of(post)["MessageStatus"] for post in posts) == ["delivered", "sent"]
    for post in posts:
        signature = post.headers["x-twilio-signature"]
        assert RequestValidator(TOKEN).validate(callback, form_of(post), signature)
    [accepted] = sandbox.ledger(kind="accepted", recipient=to)
    assert (accepted["landed_delivery"], accepted["landed_attempt"]) == (delivery, "3")
    assert accepted["message_id"] == answer.json()["sid"]
    assert "code is" not in sandbox.ledger_path.read_text()


def test_twilio_posts_no_status_without_a_callback(sandbox, receiver):
    to = number()
    twilio_send(sandbox, to)
    sandbox.wait_until_settled()
    assert not [post for post in receiver.posts() if to.removeprefix("+").encode() in post.body]


def test_twilio_with_a_messaging_service_begins_accepted_and_chooses_its_number(sandbox, twilio):
    sent = twilio.messages.create(to=number(), messaging_service_sid=SERVICE, body="text")
    assert (sent.status, sent.from_, sent.num_segments) == ("accepted", None, "0")
    sandbox.wait_until_settled()
    assert twilio.messages(sent.sid).fetch().from_ == "+15005550006"


def test_twilio_tries_a_callback_again_as_its_url_asks(sandbox, receiver):
    stubborn, default = f"/stubborn-{uuid4().hex}", f"/default-{uuid4().hex}"
    receiver.status_for = lambda post: 503 if post.path in (stubborn, default) else taken(post)
    script = "never-confirmed"  # a single callback

    twilio_send(sandbox, number(script), StatusCallback=f"{receiver.url}{stubborn}#rc=3&rp=5xx")
    twilio_send(sandbox, number(script), StatusCallback=f"{receiver.url}{default}")
    sandbox.wait_until_settled()

    assert len(receiver.posts(stubborn)) == 4
    assert len({post.headers["i-twilio-idempotency-token"] for post in receiver.posts(stubborn)}) == 1
    assert len(receiver.posts(default)) == 1


def test_twilio_tries_a_callback_once_more_that_could_not_connect(sandbox):
    delivery = str(uuid4())
    url = f"http://127.0.0.1:{free_port()}/gone?mid={delivery}.1"
    twilio_send(sandbox, number("never-confirmed"), StatusCallback=url)
    sandbox.wait_until_settled()
    tries = sandbox.ledger(kind="webhook", landed_delivery=delivery)
    assert [entry["data"]["attempt"] for entry in tries] == [1, 2]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("unknown-number", 30005),
        ("landline", 30006),
        ("filtered", 30007),
        ("unreachable", 30003),
        ("blocked", 30004),
        ("failed", 30008),
    ],
)
def test_twilio_says_why_a_text_did_not_arrive(sandbox, twilio, script, code):
    sent = twilio.messages.create(to=number(script), from_="+14155550199", body="text")
    sandbox.wait_until_settled()
    fetched = twilio.messages(sent.sid).fetch()
    assert (fetched.status, fetched.error_code) == ("undelivered", code)


def test_a_text_that_is_never_confirmed_stays_sent(sandbox, twilio):
    sent = twilio.messages.create(to=number("never-confirmed"), from_="+14155550199", body="text")
    sandbox.wait_until_settled()
    assert twilio.messages(sent.sid).fetch().status == "sent"


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ("rate-limited", 429, 20429),
        ("outage", 503, 20503),
        ("unauthorized", 401, 20003),
        ("sender-refused", 400, 21606),
        ("invalid-number", 400, 21211),
        ("not-mobile", 400, 21614),
        ("opted-out", 400, 21610),
        ("content-refused", 400, 21617),
    ],
)
def test_twilio_refuses_in_its_own_words(sandbox, twilio, script, status, code):
    with pytest.raises(TwilioRestException) as refused:
        twilio.messages.create(to=number(script), from_="+14155550199", body="text")
    assert (refused.value.status, refused.value.code) == (status, code)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"To": ""}, 21604),
        ({"To": "4155550100"}, 21211),
        ({"From": ""}, 21603),
        ({"From": "?"}, 21212),
        ({"Body": ""}, 21602),
        ({"Body": "a" * 1601}, 21617),
        ({"StatusCallback": "not a url"}, 21609),
        ({"StatusCallback": "https://under_score.example.com/x"}, 21609),
    ],
)
def test_twilio_refuses_what_is_wrong_with_a_request(sandbox, changes, code):
    answer = twilio_send(sandbox, number(), **changes)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_twilio_lets_nobody_in_without_the_right_credentials(sandbox):
    path = f"{sandbox.url}/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    assert httpx.get(path, auth=(ACCOUNT, "wrong")).json()["code"] == 20003
    assert httpx.get(path.replace("5a5a", "5a5b"), auth=(ACCOUNT, TOKEN)).json()["code"] == 20404
    assert httpx.get(path, auth=("SK" + "5b" * 16, "sandbox-api-key-secret")).status_code == 200
    assert httpx.get(f"{sandbox.url}/2010-04-01/Nothing", auth=(ACCOUNT, TOKEN)).json()["code"] == 20404


def test_twilio_refuses_who_answered_stop_until_start(sandbox, receiver):
    to = number("answers-stop")

    twilio_send(sandbox, to)
    wait_until(lambda: sandbox.ledger(kind="suppression", recipient=to))
    refused = twilio_send(sandbox, to)
    answers(sandbox, "twilio", to, "START")
    again = twilio_send(sandbox, to)
    sandbox.wait_until_settled()

    assert (refused.status_code, refused.json()["code"]) == (400, 21610)
    assert again.status_code == 201
    inbound = [form_of(post) for post in receiver.posts("/hooks/twilio") if form_of(post)["From"] == to]
    assert {"STOP", "START"} <= {message["Body"] for message in inbound}
    assert {message["SmsStatus"] for message in inbound} == {"received"}
    assert {message["To"] for message in inbound} == {"+14155550199"}


# --- Sinch ----------------------------------------------------------------------------------------------------------


def test_sinch_reports_each_status_with_our_reference_and_a_signature_their_client_believes(sandbox, receiver):
    to, reference, url = number(), f"{uuid4()}.2", f"{receiver.url}/sinch-{uuid4().hex}"

    answer = sinch_send(sandbox, to, client_reference=reference, callback_url=url)
    sandbox.wait_until_settled()

    assert answer.status_code == 201
    posts = receiver.posts(url.removeprefix(receiver.url))
    events = SmsSinchEvent("sandbox-webhook-secret")
    assert all(events.validate_authentication_header(post.headers, post.body) for post in posts)
    reports = [events.parse_event(post.body) for post in posts]
    assert sorted((report.code, report.status) for report in reports) == [
        (0, "DELIVERED"),
        (400, "QUEUED"),
        (401, "DISPATCHED"),
    ]
    assert {report.client_reference for report in reports} == {reference}
    assert {report.batch_id for report in reports} == {answer.json()["id"]}
    [accepted] = sandbox.ledger(kind="accepted", recipient=to)
    assert f"{accepted['landed_delivery']}.{accepted['landed_attempt']}" == reference


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", []),
        ("per_recipient_final", ["recipient_delivery_report_sms"]),
        ("summary", ["delivery_report_sms"]),
        ("full", ["delivery_report_sms"]),
    ],
)
def test_sinch_posts_the_kind_of_report_that_was_asked_for(sandbox, receiver, kind, expected):
    path = f"/report-{uuid4().hex}"
    both = [number(), number("unknown-number")]

    answer = sinch_send(sandbox, both[0], to=both, delivery_report=kind, callback_url=receiver.url + path)
    sandbox.wait_until_settled()

    reports = [json.loads(post.body) for post in receiver.posts(path)]
    assert [report["type"] for report in reports] == expected * (2 if kind == "per_recipient_final" else 1)
    if kind == "full":
        told = {status["status"]: status["recipients"] for status in reports[0]["statuses"]}
        assert told == {"DELIVERED": [both[0].removeprefix("+")], "ABORTED": [both[1].removeprefix("+")]}
    assert answer.json()["to"] == [one.removeprefix("+") for one in both]


def test_sinch_finds_batches_and_reports_by_our_reference(sandbox):
    to, reference = number(), f"{uuid4()}.1"
    batch = sinch_send(sandbox, to, client_reference=reference).json()
    sandbox.wait_until_settled()

    def get(path: str, **params: str) -> dict:
        return httpx.get(f"{sandbox.url}/xms/v1/{PLAN}/{path}", params=params, headers=BEARER).json()

    assert [found["id"] for found in get("batches", client_reference=reference)["batches"]] == [batch["id"]]
    [report] = get("delivery_reports", client_reference=reference)["delivery_reports"]
    assert (report["status"], report["batch_id"], report["client_reference"]) == ("DELIVERED", batch["id"], reference)
    assert get("delivery_reports", client_reference=reference, status="FAILED")["count"] == 0
    assert get("batches", client_reference=f"{uuid4()}.1")["count"] == 0
    assert get("batches", client_reference=reference, end_date="2020-01-01T00:00:00Z")["count"] == 0
    assert get(f"batches/{batch['id']}")["client_reference"] == reference
    full = get(f"batches/{batch['id']}/delivery_report", type="full")
    assert full["statuses"] == [{"code": 0, "status": "DELIVERED", "count": 1, "recipients": [to.removeprefix("+")]}]
    assert get(f"batches/{batch['id']}/delivery_report/{to}")["status"] == "DELIVERED"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"to": ["not a number"]}, "syntax_invalid_parameter_format"),
        ({"to": []}, "syntax_constraint_violation"),
        ({"body": ""}, "syntax_constraint_violation"),
        ({"delivery_report": "sometimes"}, "syntax_constraint_violation"),
    ],
)
def test_sinch_refuses_what_is_wrong_with_a_request(sandbox, changes, code):
    answer = sinch_send(sandbox, number(), **changes)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_sinch_checks_without_sending_on_a_dry_run(sandbox):
    to = number()
    batch = {"from": "+14155550199", "to": [to], "body": "ü" * 71}
    told = httpx.post(f"{sandbox.url}/xms/v1/{PLAN}/batches/dry_run", json=batch, headers=BEARER).json()
    assert told == {"number_of_recipients": 1, "number_of_messages": 1}
    assert not sandbox.ledger(kind="accepted", recipient=to)


# --- Vonage ---------------------------------------------------------------------------------------------------------


def test_vonage_answers_200_and_posts_receipts_that_their_client_believes(sandbox, receiver):
    to, reference, path = number(), f"{uuid4()}.2", f"/v-{uuid4().hex}"

    answer = vonage_send(sandbox, to.removeprefix("+"), **{"client-ref": reference, "callback": receiver.url + path})
    sandbox.wait_until_settled()

    [message] = answer.json()["messages"]
    assert (message["status"], message["client-ref"]) == ("0", reference)
    receipts = [form_of(post) for post in receiver.posts(path)]
    assert sorted(receipt["status"] for receipt in receipts) == ["accepted", "delivered"]
    assert {receipt["err-code"] for receipt in receipts} == {"0"}
    assert {receipt["messageId"] for receipt in receipts} == {message["message-id"]}
    assert {receipt["client-ref"] for receipt in receipts} == {reference}
    auth = Auth(api_key="5adb0x01", signature_secret="sandbox-signature-secret", signature_method="sha256")
    assert all(auth.check_signature(dict(receipt)) for receipt in receipts)


@pytest.mark.parametrize(("method", "content_type"), [("GET", None), ("POST-JSON", "application/json")])
def test_vonage_posts_receipts_the_way_the_account_is_set_up(tmp_path, receiver, method, content_type):
    path = f"/way-{uuid4().hex}"
    with SandboxProcess(tmp_path / "ledger.jsonl", vonage_webhook_method=method) as sandbox:
        vonage_send(sandbox, "14155550100", callback=receiver.url + path)
        sandbox.wait_until_settled()
    posts = receiver.posts(path)
    auth = Auth(api_key="5adb0x01", signature_secret="sandbox-signature-secret", signature_method="sha256")
    assert len(posts) == 2
    for post in posts:
        params = json.loads(post.body) if post.body else dict(parse_qsl(post.path.partition("?")[2]))
        assert post.headers.get("content-type") == content_type
        assert auth.check_signature(params)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"api_secret": "wrong"}, "4"),
        ({"text": ""}, "2"),
        ({"to": "nobody"}, "3"),
        ({"callback": "http://127.0.0.1/" + "a" * 100}, "3"),
        ({"sig": "0" * 64, "timestamp": "1"}, "14"),
    ],
)
def test_vonage_says_200_to_what_is_wrong_with_a_request(sandbox, changes, status):
    answer = vonage_send(sandbox, number(), **changes)
    assert (answer.status_code, answer.json()["messages"][0]["status"]) == (200, status)


def test_vonage_takes_a_signature_in_place_of_the_secret(sandbox):
    fields = {"api_key": "5adb0x01", "to": number(), "from": "14155550199", "text": "a & b = c"}
    auth = Auth(api_key="5adb0x01", signature_secret="sandbox-signature-secret", signature_method="sha256")
    signed = auth.sign_params(fields)
    answer = httpx.post(f"{sandbox.url}/sms/json", data={**fields, "sig": signed}, timeout=30)
    assert answer.json()["messages"][0]["status"] == "0"


def test_a_long_text_through_vonage_has_one_entry_for_each_part(sandbox):
    answer = vonage_send(sandbox, number(), text="a" * 307).json()
    assert answer["message-count"] == "3"
    assert len({message["message-id"] for message in answer["messages"]}) == 3


# --- Amazon ---------------------------------------------------------------------------------------------------------


def test_amazon_publishes_each_event_with_our_context_to_the_topic(sandbox, receiver):
    to, reference = number(), f"{uuid4()}.2"

    answer = aws_send(sandbox, to, Context={"landed_reference": reference}, MessageType="PROMOTIONAL")
    sandbox.wait_until_settled()

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-amz-json-1.0")
    events = aws_messages(receiver, to)
    told = {event["eventType"]: event["isFinal"] for event in events}
    assert told == {"TEXT_QUEUED": False, "TEXT_SUCCESSFUL": False, "TEXT_DELIVERED": True}
    assert {event["messageId"] for event in events} == {answer.json()["MessageId"]}
    assert {event["context"]["landed_reference"] for event in events} == {reference}
    assert {(event["messageType"], event["messageEncoding"]) for event in events} == {("PROMOTIONAL", "GSM")}
    assert all(f"TEXT_{event['messageStatus']}" == event["eventType"] for event in events)
    [accepted] = sandbox.ledger(kind="accepted", recipient=to)
    assert f"{accepted['landed_delivery']}.{accepted['landed_attempt']}" == reference


def test_amazon_tells_nothing_of_a_text_without_a_configuration_set(sandbox, receiver):
    to = number("answers-help")
    aws_send(sandbox, to, ConfigurationSetName=None)
    sandbox.wait_until_settled()
    assert [message["messageBody"] for message in aws_messages(receiver, to)] == ["HELP"]


def test_amazon_keeps_what_it_has_to_say_until_the_subscription_is_confirmed(tmp_path, receiver):
    to, path = number(), f"/late-{uuid4().hex}"
    with SandboxProcess(tmp_path / "ledger.jsonl", webhook_base_url=f"{receiver.url}{path}") as sandbox:
        receiver.status_for = lambda post: 200  # heard, and not confirmed
        aws_send(sandbox, to)
        wait_until(lambda: receiver.posts(f"{path}/aws_sms"), what="the request to confirm")
        assert not aws_messages(receiver, to, path)
        receiver.status_for = taken
        sandbox.wait_until_settled()
        wait_until(lambda: len(aws_messages(receiver, to, f"{path}/aws_sms")) == 3, what="what was kept")


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("unknown-number", "INVALID"),
        ("landline", "CARRIER_UNREACHABLE"),
        ("filtered", "SPAM"),
        ("unreachable", "UNREACHABLE"),
        ("blocked", "BLOCKED"),
        ("failed", "UNKNOWN"),
        ("expired", "TTL_EXPIRED"),
    ],
)
def test_amazon_says_why_a_text_did_not_arrive(sandbox, receiver, script, status):
    to = number(script)
    aws_send(sandbox, to)
    sandbox.wait_until_settled()
    [end] = [event for event in aws_messages(receiver, to) if event["isFinal"]]
    assert (end["eventType"], end["messageStatus"]) == (f"TEXT_{status}", status)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"DestinationPhoneNumber": "nobody"}, "DestinationPhoneNumber"),
        ({"MessageBody": ""}, "MessageBody"),
        ({"MessageBody": "x" * 1601}, "MessageBody"),
        ({"MessageType": "URGENT"}, "MessageType"),
        ({"TimeToLive": 4}, "TimeToLive"),
        ({"MaxPrice": "200"}, "MaxPrice"),
        ({"Context": {str(n): "x" for n in range(6)}}, "Context"),
        ({"Context": {"a": ""}}, "Context"),
    ],
)
def test_amazon_names_the_field_that_is_wrong_with_a_request(sandbox, changes, field):
    answer = aws_send(sandbox, number(), **changes)
    assert answer.status_code == 400
    assert answer.json()["__type"].endswith("#ValidationException")
    assert (answer.json()["Reason"], [found["Name"] for found in answer.json()["Fields"]]) == (
        "INVALID_PARAMETER",
        [field],
    )


def test_amazon_passes_a_stop_on_and_refuses_who_said_it_until_start(sandbox, receiver):
    to = number("answers-stop")

    sent = aws_send(sandbox, to).json()["MessageId"]
    wait_until(lambda: sandbox.ledger(kind="suppression", recipient=to))
    refused = aws_send(sandbox, to)
    answers(sandbox, "aws_sms", to, "START")
    again = aws_send(sandbox, to)
    sandbox.wait_until_settled()

    assert (refused.status_code, refused.json()["Reason"]) == (400, "DESTINATION_PHONE_NUMBER_OPTED_OUT")
    assert again.status_code == 200
    inbound = [message for message in aws_messages(receiver, to) if "inboundMessageId" in message]
    assert {"STOP", "START"} <= {message["messageBody"] for message in inbound}
    assert {(message["originationNumber"], message["destinationNumber"]) for message in inbound} == {
        (to, "+14155550199")
    }
    assert sent in {message["previousPublishedMessageId"] for message in inbound}


def test_amazons_events_are_lost_repeated_reversed_and_forged(sandbox, receiver):
    numbers = {script: number(script) for script in CALLBACK_SCRIPTS}
    for to in numbers.values():
        aws_send(sandbox, to)
        sandbox.wait_until_settled()

    def lies() -> set[str]:
        posted = sandbox.ledger(kind="webhook", provider="aws_sms")
        return {entry["data"]["forgery"] for entry in posted if entry["data"]["forgery"]}

    # A lie is owed to nobody: all may be settled while one is still on its way.
    wait_until(lambda: lies() == {"bad_signature", "stale", "foreign"}, what="a lie of each kind")
    told = {script: [event["messageStatus"] for event in aws_messages(receiver, to)] for script, to in numbers.items()}

    assert told["callback-lost"] == []
    assert told["callback-thrice"].count("DELIVERED") == 3
    assert (told["callbacks-out-of-order"][0], told["callbacks-out-of-order"][-1]) == ("DELIVERED", "QUEUED")
    assert told["callback-forged"].count("DELIVERED") == 3


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", SENDS)
def test_the_caller_is_told_what_the_number_asks_for(sandbox, vendor):
    send = SENDS[vendor]
    quiet, cut, wrong, never = (
        number(name) for name in ("timeout-after-accept", "reset-after-accept", "error-after-accept", "hang")
    )
    for to in (quiet, cut, never):  # held for a second and then cut off, or cut off at once
        with pytest.raises(httpx.ReadError):
            send(sandbox, to)
    assert send(sandbox, wrong).status_code == 500
    accepted = {entry["recipient"] for entry in sandbox.ledger(kind="accepted", provider=vendor)}
    assert {quiet, cut, wrong} <= accepted
    assert never not in accepted


@pytest.mark.parametrize("vendor", ["twilio", "sinch", "vonage"])
def test_callbacks_are_lost_repeated_reversed_and_forged(sandbox, receiver, vendor):
    key = {"twilio": "StatusCallback", "sinch": "callback_url", "vonage": "callback"}[vendor]
    paths = {script: f"/{script}-{uuid4().hex[:12]}" for script in CALLBACK_SCRIPTS}
    for script, path in paths.items():
        SENDS[vendor](sandbox, number(script), **{key: receiver.url + path})
        sandbox.wait_until_settled()

    def lies() -> set[str]:
        posted = sandbox.ledger(kind="webhook", provider=vendor)
        return {entry["data"]["forgery"] for entry in posted if entry["data"]["forgery"]}

    # A lie is owed to nobody: all may be settled while one is still on its way.
    wait_until(lambda: lies() == {"replayed", "bad_signature"}, what="a lie of each kind")
    told = {script: [post.body.lower() for post in receiver.posts(path)] for script, path in paths.items()}

    assert not told["callback-lost"]
    assert sum(b"delivered" in body for body in told["callback-thrice"]) == 3
    assert b"delivered" in told["callbacks-out-of-order"][0]
    assert b"delivered" not in told["callbacks-out-of-order"][-1]
    claims = [body for body in told["callback-forged"] if b"delivered" in body.replace(b"undelivered", b"")]
    assert len(claims) == 2


@pytest.mark.parametrize("vendor", SENDS)
def test_a_person_answers_whenever_a_test_wants_it(sandbox, receiver, vendor):
    to = number()
    SENDS[vendor](sandbox, to)
    sandbox.wait_until_settled()

    answers(sandbox, vendor, to, "Stop")

    posts = [post for post in receiver.posts(f"/hooks/{vendor}") if to[1:].encode() in post.body]
    assert any(b"Stop" in post.body for post in posts)
    again = {"twilio": 400, "aws_sms": 400, "sinch": 201, "vonage": 200}
    assert SENDS[vendor](sandbox, to).status_code == again[vendor]
    nobody = httpx.post(f"{sandbox.url}/sandbox/{vendor}/replies", json={"recipient": number(), "text": "Stop"})
    assert nobody.status_code == 404


@pytest.mark.parametrize("vendor", SENDS)
@pytest.mark.parametrize(("mode", "status"), [("error", 503), ("unauthorized", 401)])
def test_a_fault_of_one_vendor_leaves_the_others_alone(sandbox, vendor, mode, status):
    sandbox.set_fault(mode, provider=vendor)
    try:
        told = {name: send(sandbox, number()).status_code for name, send in SENDS.items()}
    finally:
        sandbox.set_fault("ok")
    if mode == "unauthorized":  # Vonage and Amazon say so in the body
        status = {"vonage": 200, "aws_sms": 400}.get(vendor, status)
    assert told.pop(vendor) == status
    assert set(told.values()) <= {200, 201}


def test_texts_are_told_again_after_a_restart_without_their_words(tmp_path, receiver):
    to, path = number(), f"/restart-{uuid4().hex}"
    with SandboxProcess(tmp_path / "ledger.jsonl", speed=0.001) as sandbox:
        sid = twilio_send(sandbox, to, StatusCallback=receiver.url + path).json()["sid"]
        sandbox.kill()
    with SandboxProcess(tmp_path / "ledger.jsonl") as sandbox:
        sandbox.wait_until_settled()
        told = httpx.get(
            f"{sandbox.url}/2010-04-01/Accounts/{ACCOUNT}/Messages/{sid}.json", auth=(ACCOUNT, TOKEN)
        ).json()
    assert (told["status"], told["body"], told["to"]) == ("delivered", "", to)
    assert len(receiver.posts(path)) == 2


def test_the_page_shows_texts_and_which_number_does_what(sandbox):
    to = number("landline")
    twilio_send(sandbox, to)
    sandbox.wait_until_settled()
    page = httpx.get(sandbox.url, params={"provider": "twilio", "to": to}).text
    assert "Your code is 123456" in page
    assert "failed" in page
    assert "…5550131" in page


def test_twilios_documented_signature_comes_out():
    """The vector of "Webhooks security"."""
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    params = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675309",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
    }
    assert sign("12345", url, params) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


def test_every_script_of_a_number_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
    for group in SMS.groups.values():
        for script in group:
            assert f"| `{script.asked_by}` | `{script.name}` | {script.does} |" in text


def test_an_answer_out_of_turn_leaves_the_script_as_it_is(tmp_path):
    to = number()
    with SandboxProcess(tmp_path / "ledger.jsonl", speed=2) as sandbox:
        vonage_send(sandbox, to)
        httpx.post(f"{sandbox.url}/sandbox/vonage/replies", json={"recipient": to, "text": "Hello"}).raise_for_status()
        sandbox.wait_until_settled()
        events = [entry["data"]["event"] for entry in sandbox.ledger(kind="event", recipient=to)]
    assert events == ["queued", "replied", "sent", "delivered"]
