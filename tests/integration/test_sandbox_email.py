"""The email protocols of the sandbox beside Mailgun's, against official clients and against code of their own."""

from __future__ import annotations

import base64
import json
import smtplib
import ssl
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from uuid import uuid4

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from sendgrid import SendGridAPIClient
from sendgrid.helpers.eventwebhook import EventWebhook
from sendgrid.helpers.mail import Category, CustomArg, Mail

from tests.sandbox_process import Hub, Post, SandboxProcess, free_port, wait_until

SES_KEY = "AKIASANDBOXLANDED000"
SES_SECRET = "sandbox-secret-access-key"
SENDGRID_KEY = "SG.sandbox-api-key"
POSTMARK_TOKEN = "sandbox-server-token"
SMTP_LOGIN = ("landed", "sandbox-smtp-password")
SENDER = "shop@sandbox.landed.test"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def smtp_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory, hub, smtp_port) -> Iterator[SandboxProcess]:
    ledger = tmp_path_factory.mktemp("sandbox") / "ledger.jsonl"
    with SandboxProcess(ledger, webhook_base_url=hub.base_url, smtp_port=smtp_port, hold_seconds=1) as process:
        yield process


def address(script: str) -> str:
    return f"{script}+{uuid4().hex[:12]}@example.com"


def reference() -> str:
    return f"{uuid4()}.1"


# --- Amazon SES ---------------------------------------------------------------------------------------------


def ses(sandbox: SandboxProcess, secret: str = SES_SECRET, region: str = "eu-west-1"):
    return boto3.client(
        "sesv2",
        endpoint_url=sandbox.url,
        region_name=region,
        aws_access_key_id=SES_KEY,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=30),
    )


def send_by_ses(sandbox: SandboxProcess, to: str, delivery: str = "", **changes: object) -> str:
    request = {
        "FromEmailAddress": f"Shop <{SENDER}>",
        "Destination": {"ToAddresses": [to]},
        "Content": {"Simple": {"Subject": {"Data": "Hello"}, "Body": {"Text": {"Data": "Hi"}}}},
        "EmailTags": [{"Name": "landed_delivery", "Value": delivery or "d"}, {"Name": "landed_attempt", "Value": "1"}],
        **changes,
    }
    return ses(sandbox).send_email(**request)["MessageId"]


def sns_is_signed(sandbox: SandboxProcess, message: dict) -> bool:
    """AWS's documented check, written here on its own."""
    keys = {
        "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
        "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    }[message["Type"]]
    text = "".join(f"{key}\n{message[key]}\n" for key in keys if key in message)
    certificate = x509.load_pem_x509_certificate(httpx.get(message["SigningCertURL"]).content)
    signature = base64.b64decode(message["Signature"])
    try:
        certificate.public_key().verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())
    except Exception:
        return False
    return True


def sns_messages(hub: Hub, *about: str) -> list[dict]:
    return [json.loads(post.body) for post in hub.of("ses", *about)]


def ses_events(hub: Hub, message_id: str) -> list[dict]:
    found = (json.loads(message["Message"]) for message in sns_messages(hub, message_id))
    return [event for event in found if event["mail"]["messageId"] == message_id]


SES_STORIES = {
    "ann": ["Send", "Delivery"],
    "bounce": ["Send", "Bounce"],
    "soft-bounce": ["Send", "DeliveryDelay", "Bounce"],
    "deferred": ["Send", "DeliveryDelay", "DeliveryDelay", "Delivery"],
    "blocked": ["Send", "Bounce"],
    "async-bounce": ["Send", "Delivery", "Bounce"],
    "complaint": ["Send", "Delivery", "Complaint"],
    "unsubscribe": ["Send", "Delivery", "Subscription"],
    "open": ["Send", "Delivery", "Open"],
    "click": ["Send", "Delivery", "Open", "Click"],
    "suppressed": ["Send", "Bounce"],
    "rejected": ["Reject"],
    "rendering-failure": ["Send", "Rendering Failure"],
}


@pytest.mark.parametrize(("script", "expected"), SES_STORIES.items())
def test_ses_tells_a_story_in_signed_notifications(sandbox, hub, script, expected):
    to = address(script)

    message_id = send_by_ses(sandbox, to, delivery="d-1")
    sandbox.wait_until_settled()

    events = ses_events(hub, message_id)
    assert sorted(event["eventType"] for event in events) == sorted(expected)
    assert all(event["mail"]["tags"]["landed_delivery"] == ["d-1"] for event in events)
    assert all(sns_is_signed(sandbox, message) for message in sns_messages(hub, message_id))
    [accepted] = sandbox.ledger(kind="accepted", recipient=to)
    assert (accepted["provider"], accepted["landed_delivery"], accepted["landed_attempt"]) == ("ses", "d-1", "1")


SES_BOUNCES = {
    "bounce": ("Permanent", "General"),
    "soft-bounce": ("Transient", "MailboxFull"),
    "blocked": ("Transient", "ContentRejected"),
    "suppressed": ("Permanent", "OnAccountSuppressionList"),
}


@pytest.mark.parametrize(("script", "expected"), SES_BOUNCES.items())
def test_ses_says_why_it_bounced(sandbox, hub, script, expected):
    message_id = send_by_ses(sandbox, address(script))
    sandbox.wait_until_settled()

    bounces = [event["bounce"] for event in ses_events(hub, message_id) if event["eventType"] == "Bounce"]

    assert [(bounce["bounceType"], bounce["bounceSubType"]) for bounce in bounces] == [expected]


def test_ses_posts_nothing_before_the_subscription_is_confirmed(tmp_path):
    with Hub(confirms=False) as hub, SandboxProcess(tmp_path / "l.jsonl", webhook_base_url=hub.base_url) as sandbox:
        message_id = send_by_ses(sandbox, address("ann"))
        [asked, *_] = wait_until(lambda: sns_messages(hub, "SubscriptionConfirmation"))
        wait_until(lambda: sandbox.summary()["messages_under_way"] == 0)
        assert sns_is_signed(sandbox, asked)
        assert ses_events(hub, message_id) == []
        assert sandbox.summary()["webhooks_owed"] == 2

        wrong = httpx.get(asked["SubscribeURL"].replace(asked["Token"], "x"))
        httpx.get(asked["SubscribeURL"]).raise_for_status()
        sandbox.wait_until_settled()

        assert wrong.status_code == 400
        assert sorted(event["eventType"] for event in ses_events(hub, message_id)) == ["Delivery", "Send"]
        plain = wait_until(lambda: sns_messages(hub, "Successfully validated SNS topic"))
        assert "Subject" not in plain[0]

        sandbox.kill()
        sandbox.start()
        message_id = send_by_ses(sandbox, address("ann"))
        sandbox.wait_until_settled()
        assert len(ses_events(hub, message_id)) == 2


def test_ses_comes_again_after_5xx_alone(tmp_path):
    with Hub() as hub, SandboxProcess(tmp_path / "l.jsonl", webhook_base_url=hub.base_url, speed=10_000) as sandbox:
        wait_until(lambda: sns_messages(hub, "Successfully validated SNS topic"))
        hub.statuses = [500, 503, 404]
        to = address("rejected")
        message_id = send_by_ses(sandbox, to)
        sandbox.wait_until_settled()

        tries = sandbox.ledger(kind="webhook", recipient=to)
        assert [entry["status"] for entry in tries] == [500, 503, 404]
        assert len({message["MessageId"] for message in sns_messages(hub, message_id)}) == 1


def test_ses_forgeries_each_fail_in_their_own_way(sandbox, hub):
    message_id = send_by_ses(sandbox, address("forged-webhook"))
    sandbox.wait_until_settled()
    wait_until(lambda: len(ses_events(hub, message_id)) == 5)

    lies = [m for m in sns_messages(hub, message_id) if json.loads(m["Message"])["eventType"] == "Delivery"]
    unsigned, stale, foreign = lies

    assert not sns_is_signed(sandbox, unsigned)
    assert sns_is_signed(sandbox, stale)
    assert stale["Timestamp"] < unsigned["Timestamp"]
    assert sns_is_signed(sandbox, foreign)
    assert foreign["TopicArn"] != unsigned["TopicArn"]


SES_REFUSALS = {
    "rate-limited": (429, "TooManyRequestsException"),
    "outage": (503, "ServiceUnavailable"),
    "unauthorized": (403, "UnrecognizedClientException"),
    "domain-disabled": (400, "MessageRejected"),
    "invalid-address": (400, "BadRequestException"),
    "permanent-4xx": (400, "MessageRejected"),
    "error-after-accept": (500, "InternalFailure"),
}


@pytest.mark.parametrize(("script", "expected"), SES_REFUSALS.items())
def test_ses_refuses_in_its_own_words(sandbox, script, expected):
    with pytest.raises(ClientError) as refused:
        send_by_ses(sandbox, address(script))

    answer = refused.value.response
    assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]) == expected


@pytest.mark.parametrize("script", ["timeout-after-accept", "reset-after-accept"])
def test_ses_may_accept_and_not_answer(sandbox, script):
    to = address(script)
    with pytest.raises(HTTPClientError):
        send_by_ses(sandbox, to)

    assert len(sandbox.ledger(kind="accepted", recipient=to)) == 1


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"ConfigurationSetName": "none-such"}, "NotFoundException"),
        ({"EmailTags": [{"Name": "a b", "Value": "c"}]}, "BadRequestException"),
        ({"Destination": {"ToAddresses": [f"u{n}@example.com" for n in range(51)]}}, "BadRequestException"),
        ({"Destination": {"ToAddresses": ["nobody"]}}, "BadRequestException"),
        ({"Destination": {"ToAddresses": ["zoë@example.com"]}}, "BadRequestException"),
    ],
)
def test_a_wrong_request_to_ses_is_refused(sandbox, change, kind):
    with pytest.raises(ClientError) as refused:
        send_by_ses(sandbox, address("ann"), **change)
    assert refused.value.response["Error"]["Code"] == kind


@pytest.mark.parametrize(
    ("client", "kind"),
    [({"secret": "wrong"}, "InvalidSignatureException"), ({"region": "us-east-1"}, "InvalidSignatureException")],
)
def test_a_request_to_ses_that_is_signed_wrongly_is_refused(sandbox, client, kind):
    with pytest.raises(ClientError) as refused:
        ses(sandbox, **client).get_account()
    assert refused.value.response["Error"]["Code"] == kind


@pytest.mark.parametrize(("header", "status"), [(None, 403), ("AWS4-HMAC-SHA256 nonsense", 400), ("Bearer x", 400)])
def test_a_request_to_ses_without_a_signature_is_refused(sandbox, header, status):
    headers = {"Authorization": header} if header else {}

    answer = httpx.post(f"{sandbox.url}/v2/email/outbound-emails", json={}, headers=headers)

    assert answer.status_code == status
    assert answer.headers["x-amzn-errortype"]


def test_ses_tells_insights_and_unlists(sandbox):
    to, client = address("bounce"), ses(sandbox)
    message_id = send_by_ses(sandbox, to, delivery="d-7")
    sandbox.wait_until_settled()

    insights = client.get_message_insights(MessageId=message_id)
    listed = client.get_suppressed_destination(EmailAddress=to)["SuppressedDestination"]
    second = send_by_ses(sandbox, to)
    sandbox.wait_until_settled()
    dropped = client.get_message_insights(MessageId=second)["Insights"][0]["Events"][-1]
    client.delete_suppressed_destination(EmailAddress=to)

    assert {"Name": "landed_delivery", "Value": "d-7"} in insights["EmailTags"]
    assert [event["Type"] for event in insights["Insights"][0]["Events"]] == ["SEND", "BOUNCE"]
    assert listed["Reason"] == "BOUNCE"
    assert dropped["Details"]["Bounce"]["BounceSubType"] == "OnAccountSuppressionList"
    with pytest.raises(client.exceptions.NotFoundException):
        client.get_suppressed_destination(EmailAddress=to)


def test_ses_takes_raw_messages_with_tags_in_a_header(sandbox, hub):
    to = address("ann")
    raw = (
        f"From: {SENDER}\r\nTo: {to}\r\nSubject: Raw\r\nX-SES-MESSAGE-TAGS: landed_delivery=d-9, a=b\r\n\r\nHi".encode()
    )

    message_id = send_by_ses(sandbox, to, Content={"Raw": {"Data": raw}}, EmailTags=[])
    sandbox.wait_until_settled()

    [event, _] = ses_events(hub, message_id)
    assert event["mail"]["tags"]["a"] == ["b"]
    assert sandbox.ledger(kind="accepted", recipient=to)[0]["landed_delivery"] == "d-9"


# --- SendGrid -----------------------------------------------------------------------------------------------


def sendgrid(sandbox: SandboxProcess, key: str = SENDGRID_KEY) -> SendGridAPIClient:
    return SendGridAPIClient(key, host=sandbox.url)


def mail(to: str, delivery: str = "d") -> Mail:
    message = Mail(SENDER, to, "Hello", plain_text_content="Hi")
    message.add_custom_arg(CustomArg("landed_delivery", delivery))
    message.add_custom_arg(CustomArg("landed_attempt", "1"))
    message.add_category(Category("orders"))
    return message


def raw_mail(sandbox: SandboxProcess, to: str, **changes: object) -> httpx.Response:
    body = {**mail(to).get(), **changes}
    headers = {"Authorization": f"Bearer {SENDGRID_KEY}"}
    return httpx.post(f"{sandbox.url}/v3/mail/send", json=body, headers=headers, timeout=30)


def sendgrid_events(hub: Hub, to: str) -> list[dict]:
    return [event for post in hub.of("sendgrid", to) for event in json.loads(post.body) if event["email"] == to]


def sendgrid_is_signed(sandbox: SandboxProcess, post: Post) -> bool:
    """By SendGrid's own helper, with the key that the API shows."""
    headers = {"Authorization": f"Bearer {SENDGRID_KEY}"}
    key = httpx.get(f"{sandbox.url}/v3/user/webhooks/event/settings/signed", headers=headers).json()["public_key"]
    name = "x-twilio-email-event-webhook"
    return EventWebhook(key).verify_signature(
        post.body.decode(), post.headers[f"{name}-signature"], post.headers[f"{name}-timestamp"]
    )


SENDGRID_STORIES = {
    "ann": ["processed", "delivered"],
    "bounce": ["processed", "bounce bounce"],
    "soft-bounce": ["processed", "deferred", "bounce blocked"],
    "deferred": ["processed", "deferred", "deferred", "delivered"],
    "blocked": ["processed", "bounce blocked"],
    "complaint": ["processed", "delivered", "spamreport"],
    "unsubscribe": ["processed", "delivered", "unsubscribe"],
    "open": ["processed", "delivered", "open"],
    "click": ["processed", "delivered", "open", "click"],
    "suppressed": ["processed", "dropped"],
    "rejected": ["dropped"],
}


@pytest.mark.parametrize(("script", "expected"), SENDGRID_STORIES.items())
def test_sendgrid_tells_a_story_in_signed_batches(sandbox, hub, script, expected):
    to = address(script)

    answer = sendgrid(sandbox).send(mail(to, "d-2"))
    sandbox.wait_until_settled()

    events, posts = sendgrid_events(hub, to), hub.of("sendgrid", to)
    assert (answer.status_code, answer.body) == (202, b"")
    story = [f"{event['event']} {event['type']}" if "type" in event else event["event"] for event in events]
    assert sorted(story) == sorted(expected)
    assert all(event["landed_delivery"] == "d-2" and event["category"] == "orders" for event in events)
    assert all(event["sg_message_id"].startswith(f"{answer.headers['X-Message-Id']}.") for event in events)
    assert all(post.body.endswith(b"]\r\n") and sendgrid_is_signed(sandbox, post) for post in posts)
    [accepted] = sandbox.ledger(kind="accepted", recipient=to)
    assert (accepted["provider"], accepted["landed_delivery"], accepted["landed_attempt"]) == ("sendgrid", "d-2", "1")


def test_sendgrid_gathers_events_into_one_post(tmp_path):
    with Hub() as hub, SandboxProcess(tmp_path / "l.jsonl", webhook_base_url=hub.base_url, speed=2) as sandbox:
        to = [address("ann") for _ in range(5)]
        for recipient in to:
            sendgrid(sandbox).send(mail(recipient))
        sandbox.wait_until_settled()

        assert max(len(json.loads(post.body)) for post in hub.of("sendgrid")) >= 5
        assert all(len(sendgrid_events(hub, recipient)) == 2 for recipient in to)


def test_a_late_bounce_of_sendgrid_lacks_what_only_the_sending_server_knew(sandbox, hub):
    to = address("async-bounce")
    sendgrid(sandbox).send(mail(to))
    sandbox.wait_until_settled()

    [bounce] = [event for event in sendgrid_events(hub, to) if event["event"] == "bounce"]

    assert not {"sg_message_id", "smtp-id", "ip"} & bounce.keys()


def test_a_forged_post_of_sendgrid_does_not_verify(sandbox, hub):
    to = address("forged-webhook")
    sendgrid(sandbox).send(mail(to))
    sandbox.wait_until_settled()
    wait_until(lambda: len(sendgrid_events(hub, to)) == 3)

    [lie] = [post for post in hub.of("sendgrid", to) if b'"delivered"' in post.body]

    assert not sendgrid_is_signed(sandbox, lie)


SENDGRID_REFUSALS = {
    "rate-limited": 429,
    "outage": 503,
    "unauthorized": 401,
    "domain-disabled": 403,
    "invalid-address": 400,
    "permanent-4xx": 400,
    "error-after-accept": 500,
}


@pytest.mark.parametrize(("script", "status"), SENDGRID_REFUSALS.items())
def test_sendgrid_refuses_in_its_own_words(sandbox, script, status):
    answer = raw_mail(sandbox, address(script))

    assert answer.status_code == status
    assert answer.json()["errors"][0]["message"]
    assert ("x-ratelimit-reset" in answer.headers) is (status == 429)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"personalizations": []}, "personalizations"),
        ({"personalizations": [{"to": []}]}, "personalizations.0.to"),
        ({"personalizations": [{"to": [{"email": "nobody"}]}]}, "personalizations.0.to.0.email"),
        ({"content": []}, "content"),
        ({"content": [{"type": "text/html", "value": "x"}, {"type": "text/plain", "value": "x"}]}, "content.0.type"),
        ({"headers": {"Subject": "x"}}, "headers"),
        ({"categories": [str(n) for n in range(11)]}, "categories"),
        ({"custom_args": {"a": 1}}, "custom_args.0"),
        ({"custom_args": {"a": "x" * 10_001}}, "custom_args"),
    ],
)
def test_a_wrong_request_to_sendgrid_is_refused_where_it_is_wrong(sandbox, changes, field):
    answer = raw_mail(sandbox, address("ann"), **changes)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == field


def test_sandbox_mode_of_sendgrid_sends_nothing(sandbox):
    to = address("ann")

    answer = raw_mail(sandbox, to, mail_settings={"sandbox_mode": {"enable": True}})

    assert answer.status_code == 200
    assert sandbox.ledger(kind="accepted", recipient=to) == []


def logs(sandbox: SandboxProcess, query: str, **more: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {SENDGRID_KEY}"}
    return httpx.post(f"{sandbox.url}/v3/logs", json={"query": query, **more}, headers=headers)


def test_sendgrids_logs_find_a_message_and_tell_its_arguments(sandbox):
    to = address("bounce")
    answer = raw_mail(sandbox, to, custom_args={"landed_delivery": "d-3"})
    sandbox.wait_until_settled()
    query = f'to_email="{to}" AND sg_message_id_created_at >= TIMESTAMP "2020-01-01T00:00:00Z"'

    [found] = logs(sandbox, query).json()["messages"]
    headers = {"Authorization": f"Bearer {SENDGRID_KEY}"}
    one = httpx.get(f"{sandbox.url}/v3/logs/{found['sg_message_id']}", headers=headers).json()

    assert (found["status"], found["to_email"]) == ("bounced", to)
    assert one["custom_args"] == {"landed_delivery": "d-3"}
    assert [event["event"] for event in one["events"]] == ["received", "processed", "bounce"]
    assert one["events"][0]["recv_msgid"] == answer.headers["x-message-id"]
    assert "landed_delivery" not in one["events"][1]


def test_sendgrids_query_language_joins_conditions(sandbox):
    to, tag = address("ann"), f"c-{uuid4().hex}"
    raw_mail(sandbox, to, categories=[tag])
    raw_mail(sandbox, address("bounce"), categories=[tag])
    sandbox.wait_until_settled()

    def count(query: str) -> int:
        return len(logs(sandbox, query).json()["messages"])

    assert count(f"categories IN ('{tag}')") == 2
    assert count(f"categories IN ('{tag}') AND status IN ('delivered', 'processed')") == 1
    assert count(f"categories IN ('{tag}') AND subject = 'Hello' AND to_email = \"{to}\"") == 1
    assert count(f"categories IN ('{tag}') AND sg_message_id_created_at > TIMESTAMP '2199-01-01T00:00:00Z'") == 0


@pytest.mark.parametrize("query", ["to_email LIKE 'x'", "a = 'b'", "to_email = 'x' OR to_email = 'y'", "status = 'x'"])
def test_a_wrong_query_to_sendgrid_is_refused(sandbox, query):
    assert logs(sandbox, query).status_code == 400


def test_sendgrid_lists_and_unlists(sandbox, hub):
    to, client = address("bounce"), sendgrid(sandbox)
    client.send(mail(to))
    sandbox.wait_until_settled()
    client.send(mail(to))
    sandbox.wait_until_settled()

    assert sendgrid_events(hub, to)[-1]["reason"] == "Bounced Address"
    path = client.client.suppression.bounces._(to)
    assert json.loads(path.get().body)[0]["email"] == to
    assert path.delete().status_code == 204
    assert json.loads(path.get().body) == []


def test_sendgrid_wants_its_key(sandbox):
    answer = httpx.post(f"{sandbox.url}/v3/mail/send", json={}, headers={"Authorization": "Bearer wrong"})

    assert answer.status_code == 401
    assert answer.json()["errors"][0]["message"] == "authorization required"


# --- Postmark -----------------------------------------------------------------------------------------------


def postmark(sandbox: SandboxProcess, method: str, path: str, token: str = POSTMARK_TOKEN, **more) -> httpx.Response:
    headers = {"X-Postmark-Server-Token": token, "Accept": "application/json"}
    return httpx.request(method, f"{sandbox.url}{path}", headers=headers, timeout=30, **more)


def send_by_postmark(sandbox: SandboxProcess, to: str, **changes: object) -> httpx.Response:
    email = {"From": SENDER, "To": to, "Subject": "Hello", "TextBody": "Hi", "Tag": "orders", **changes}
    return postmark(sandbox, "POST", "/email", json=email)


def postmark_records(hub: Hub, message_id: str) -> list[dict]:
    return [json.loads(post.body) for post in hub.of("postmark", message_id)]


POSTMARK_STORIES = {
    "ann": ["Delivery"],
    "bounce": ["Bounce HardBounce"],
    "soft-bounce": ["Bounce Transient", "Bounce SoftBounce"],
    "deferred": ["Bounce Transient", "Bounce Transient", "Delivery"],
    "blocked": ["Bounce Blocked"],
    "async-bounce": ["Delivery", "Bounce HardBounce"],
    "complaint": ["Delivery", "SpamComplaint SpamComplaint"],
    "unsubscribe": ["Delivery", "SubscriptionChange"],
    "open": ["Delivery", "Open"],
    "click": ["Delivery", "Open", "Click"],
    "rejected": ["Bounce VirusNotification"],
    "rendering-failure": ["Bounce TemplateRenderingFailed"],
}


@pytest.mark.parametrize(("script", "expected"), POSTMARK_STORIES.items())
def test_postmark_tells_a_story_behind_a_password(sandbox, hub, script, expected):
    to, mine = address(script), reference()

    answer = send_by_postmark(sandbox, to, Metadata={"landed_reference": mine}).json()
    sandbox.wait_until_settled()

    records = postmark_records(hub, answer["MessageID"])
    story = [f"{r['RecordType']} {r['Type']}" if "Type" in r else r["RecordType"] for r in records]
    assert (answer["ErrorCode"], answer["Message"]) == (0, "OK")
    assert sorted(story) == sorted(expected)
    assert all(record["Metadata"] == {"landed_reference": mine} for record in records)
    expected_credentials = base64.b64encode(b"landed:sandbox-webhook-password").decode()
    for post in hub.of("postmark", answer["MessageID"]):
        assert post.headers["authorization"] == f"Basic {expected_credentials}"
    [accepted] = sandbox.ledger(kind="accepted", recipient=to)
    assert f"{accepted['landed_delivery']}.{accepted['landed_attempt']}" == mine


def test_a_forged_post_of_postmark_knows_no_password(sandbox, hub):
    message_id = send_by_postmark(sandbox, address("forged-webhook")).json()["MessageID"]
    sandbox.wait_until_settled()
    posts = wait_until(lambda: (p := hub.of("postmark", message_id))[1:] and p)

    credentials = {json.loads(post.body)["RecordType"]: post.headers["authorization"] for post in posts}

    assert credentials["Delivery"] != credentials["Bounce"]


POSTMARK_REFUSALS = {
    "rate-limited": (429, 429),
    "outage": (503, 100),
    "unauthorized": (401, 10),
    "domain-disabled": (422, 400),
    "invalid-address": (422, 300),
    "permanent-4xx": (422, 300),
    "suppressed": (422, 406),
    "error-after-accept": (500, 500),
}


@pytest.mark.parametrize(("script", "expected"), POSTMARK_REFUSALS.items())
def test_postmark_refuses_in_its_own_words(sandbox, script, expected):
    answer = send_by_postmark(sandbox, address(script))

    assert (answer.status_code, answer.json()["ErrorCode"]) == expected


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"From": ""}, 300),
        ({"To": ""}, 300),
        ({"To": "nobody"}, 300),
        ({"TextBody": None}, 300),
        ({"MessageStream": "none-such"}, 1235),
        ({"Metadata": {"a" * 21: "b"}}, 300),
        ({"Metadata": {"a": "b" * 81}}, 300),
        ({"Metadata": {str(n): "b" for n in range(11)}}, 300),
        ({"To": ", ".join(f"u{n}@example.com" for n in range(51))}, 300),
    ],
)
def test_a_wrong_request_to_postmark_is_refused(sandbox, changes, code):
    answer = send_by_postmark(sandbox, address("ann"), **changes)

    assert (answer.status_code, answer.json()["ErrorCode"]) == (422, code)


def test_postmark_refuses_who_bounced_and_says_so_when_only_some_did(sandbox):
    gone, fine = address("bounce"), address("ann")
    send_by_postmark(sandbox, gone)
    sandbox.wait_until_settled()

    alone, both = send_by_postmark(sandbox, gone).json(), send_by_postmark(sandbox, f"{gone}, {fine}").json()

    assert (alone["ErrorCode"], both["ErrorCode"]) == (406, 0)
    assert gone in both["Message"]
    assert len(sandbox.ledger(kind="accepted", recipient=gone)) == 1
    assert len(sandbox.ledger(kind="accepted", recipient=fine)) == 1

    unlist = {"Suppressions": [{"EmailAddress": gone}]}
    postmark(sandbox, "POST", "/message-streams/outbound/suppressions/delete", json=unlist)
    assert send_by_postmark(sandbox, gone).json()["ErrorCode"] == 0


def test_postmark_finds_a_message_by_its_metadata_and_tells_its_events(sandbox):
    mine, to = reference(), address("click")
    message_id = send_by_postmark(sandbox, to, Metadata={"landed_reference": mine}).json()["MessageID"]
    send_by_postmark(sandbox, to, Metadata={"landed_reference": reference()})
    sandbox.wait_until_settled()
    query = {"count": 10, "offset": 0, "metadata_landed_reference": mine}

    found = postmark(sandbox, "GET", "/messages/outbound", params=query).json()
    one = postmark(sandbox, "GET", f"/messages/outbound/{message_id}/details").json()
    by_recipient = postmark(sandbox, "GET", "/messages/outbound", params={"count": 1, "offset": 0, "recipient": to})

    assert [message["MessageID"] for message in found["Messages"]] == [message_id]
    assert found["Messages"][0]["Metadata"] == {"landed_reference": mine}
    assert [event["Type"] for event in one["MessageEvents"]] == ["Delivered", "Opened", "LinkClicked"]
    assert one["TextBody"] == "Hi"
    assert (by_recipient.json()["TotalCount"], len(by_recipient.json()["Messages"])) == (2, 1)


def test_postmark_tells_a_bounce_by_its_id(sandbox, hub):
    message_id = send_by_postmark(sandbox, address("bounce")).json()["MessageID"]
    sandbox.wait_until_settled()
    details = postmark(sandbox, "GET", f"/messages/outbound/{message_id}/details").json()
    bounce_id = details["MessageEvents"][0]["Details"]["BounceID"]

    told = postmark(sandbox, "GET", f"/bounces/{bounce_id}").json()

    assert told == postmark_records(hub, message_id)[0]
    assert postmark(sandbox, "GET", "/bounces/1").status_code == 404


def test_postmark_does_not_find_what_was_never_sent(sandbox):
    query = {"count": 10, "offset": 0, "metadata_landed_reference": reference()}

    assert postmark(sandbox, "GET", "/messages/outbound", params=query).json()["TotalCount"] == 0
    assert postmark(sandbox, "GET", f"/messages/outbound/{uuid4()}/details").json()["ErrorCode"] == 701
    assert postmark(sandbox, "GET", "/messages/outbound", params={"count": 501, "offset": 0}).status_code == 422
    assert postmark(sandbox, "GET", "/messages/outbound").status_code == 422


def test_postmark_wants_its_token_and_knows_one_to_try_with(sandbox):
    to = address("ann")
    email = {"From": SENDER, "To": to, "Subject": "Hello", "TextBody": "Hi"}

    assert postmark(sandbox, "POST", "/email", token="wrong", json=email).status_code == 401
    tried = postmark(sandbox, "POST", "/email", token="POSTMARK_API_TEST", json=email)

    assert tried.json()["Message"] == "Test job accepted"
    assert sandbox.ledger(kind="accepted", recipient=to) == []


# --- SMTP ---------------------------------------------------------------------------------------------------


def connected(sandbox: SandboxProcess, port: int) -> smtplib.SMTP:
    client = smtplib.SMTP("127.0.0.1", port, timeout=30)
    client.starttls(context=ssl.create_default_context(cafile=str(sandbox.ca_path)))
    client.login(*SMTP_LOGIN)
    return client


def submit(sandbox: SandboxProcess, port: int, to: str, mine: str, notify: str = "SUCCESS,FAILURE,DELAY") -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, to, "Grüße"
    message["Message-ID"] = f"<{mine}@bounces.landed.test>"
    message.set_content("Hello")
    client = connected(sandbox, port)
    try:
        client.sendmail(
            f"bounces+{mine}@bounces.landed.test",
            [to],
            message.as_bytes(policy=policy.SMTP),
            mail_options=["RET=HDRS", f"ENVID={mine}"],
            rcpt_options=[f"NOTIFY={notify}", f"ORCPT=rfc822;{to.replace('+', '+2B')}"],
        )
    finally:
        client.close()


def reports(hub: Hub, mine: str) -> list[EmailMessage]:
    return [message_from_bytes(post.body, policy=policy.default) for post in hub.of("smtp", mine)]


def status_of(report: EmailMessage) -> dict[str, str]:
    """The fields of a delivery-status part, those of the message and of the recipient together."""
    [part] = [part for part in report.walk() if part.get_content_type() == "message/delivery-status"]
    return {name: str(value) for block in part.get_payload() for name, value in block.items()}


SMTP_STORIES = {
    "ann": [("delivered", "2.0.0")],
    "bounce": [("failed", "5.1.1")],
    "soft-bounce": [("delayed", "4.2.2"), ("failed", "5.2.2")],
    "deferred": [("delayed", "4.7.1"), ("delayed", "4.7.1"), ("delivered", "2.0.0")],
    "blocked": [("failed", "5.7.1")],
    "async-bounce": [("delivered", "2.0.0"), ("failed", "5.1.1")],
}


@pytest.mark.parametrize(("script", "expected"), SMTP_STORIES.items())
def test_a_mail_server_reports_what_it_was_asked_to(sandbox, hub, smtp_port, script, expected):
    to, mine = address(script), reference()

    submit(sandbox, smtp_port, to, mine)
    sandbox.wait_until_settled()

    found = reports(hub, mine)
    fields = [status_of(report) for report in found]
    assert sorted((field["Action"], field["Status"]) for field in fields) == sorted(expected)
    for report, field in zip(found, fields, strict=True):
        assert report.get_content_type() == "multipart/report"
        assert report["Return-Path"] == "<>"
        assert report["To"] == f"bounces+{mine}@bounces.landed.test"
        assert field["Original-Envelope-Id"] == mine
        assert field["Final-Recipient"] == f"rfc822; {to}"
        assert field["Original-Recipient"] == f"rfc822;{to}"
    assert {post.headers["authorization"] for post in hub.of("smtp", mine)} == {"Bearer sandbox-smtp-webhook-token"}
    [accepted] = sandbox.ledger(kind="accepted", recipient=to)
    assert f"{accepted['landed_delivery']}.{accepted['landed_attempt']}" == mine


@pytest.mark.parametrize(
    ("script", "notify"), [("ann", "FAILURE"), ("deferred", "FAILURE"), ("bounce", "NEVER"), ("bounce", "SUCCESS")]
)
def test_a_mail_server_reports_no_more_than_it_was_asked_to(sandbox, hub, smtp_port, script, notify):
    mine = reference()

    submit(sandbox, smtp_port, address(script), mine, notify)
    sandbox.wait_until_settled()

    assert reports(hub, mine) == []


def test_a_complaint_comes_as_arf_without_the_recipient(sandbox, hub, smtp_port):
    to, mine = address("complaint"), reference()

    submit(sandbox, smtp_port, to, mine, "FAILURE")
    sandbox.wait_until_settled()

    [complaint] = reports(hub, mine)
    types = [part.get_content_type() for part in complaint.walk()]
    assert "message/feedback-report" in types
    assert complaint.get_param("report-type") == "feedback-report"
    [post] = hub.of("smtp", mine)
    assert b"Feedback-Type: abuse" in post.body
    assert to.encode() not in post.body


def test_an_automatic_reply_is_marked_as_one(sandbox, hub, smtp_port):
    mine = reference()

    submit(sandbox, smtp_port, address("vacation"), mine, "FAILURE")
    sandbox.wait_until_settled()

    [reply] = reports(hub, mine)
    assert reply["Auto-Submitted"] == "auto-replied"
    assert not reply.is_multipart()


SMTP_REFUSALS = {
    "greylisted": 451,
    "mailbox-full": 452,
    "unknown-user": 550,
    "rate-limited": 454,
    "outage": 421,
    "unauthorized": 530,
    "domain-disabled": 550,
    "invalid-address": 550,
}


@pytest.mark.parametrize(("script", "code"), SMTP_REFUSALS.items())
def test_a_mail_server_turns_a_recipient_away(sandbox, smtp_port, script, code):
    to = address(script)
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        submit(sandbox, smtp_port, to, reference())

    assert refused.value.recipients[to][0] == code
    assert sandbox.ledger(kind="accepted", recipient=to) == []


@pytest.mark.parametrize(("script", "code"), {"policy": 554, "permanent-4xx": 554, "wrong-response": -1}.items())
def test_a_mail_server_turns_a_message_away(sandbox, smtp_port, script, code):
    to = address(script)
    with pytest.raises(smtplib.SMTPResponseException) as refused:
        submit(sandbox, smtp_port, to, reference())

    assert refused.value.smtp_code == code
    assert sandbox.ledger(kind="accepted", recipient=to) == []


@pytest.mark.parametrize(
    ("script", "accepted"),
    {
        "silent-at-rcpt": 0,
        "closed-at-data": 0,
        "hang": 0,
        "timeout-after-accept": 1,
        "reset-after-accept": 1,
        "error-after-accept": 1,
    }.items(),
)
def test_a_mail_server_may_fall_silent_or_vanish(sandbox, smtp_port, script, accepted):
    to = address(script)
    with pytest.raises((smtplib.SMTPServerDisconnected, OSError)):
        submit(sandbox, smtp_port, to, reference())

    assert len(sandbox.ledger(kind="accepted", recipient=to)) == accepted
    [response] = sandbox.ledger(kind="response", recipient=to)
    assert response["status"] is None


def test_a_greylisted_recipient_gets_in_at_the_third_call(sandbox, smtp_port):
    to = address("greylisted")
    for _ in range(2):
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            submit(sandbox, smtp_port, to, reference())

    submit(sandbox, smtp_port, to, reference())

    assert len(sandbox.ledger(kind="accepted", recipient=to)) == 1


def test_a_mail_server_wants_its_user(sandbox, smtp_port):
    client = smtplib.SMTP("127.0.0.1", smtp_port, timeout=30)
    try:
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login(SMTP_LOGIN[0], "wrong")
        assert refused.value.smtp_code == 535
        assert client.mail(SENDER)[0] == 530
    finally:
        client.close()


def test_tls_from_the_first_byte(tmp_path):
    port = free_port()
    with SandboxProcess(tmp_path / "l.jsonl", smtp_tls_port=port) as sandbox:
        context = ssl.create_default_context(cafile=str(sandbox.ca_path))
        to = address("ann")
        with smtplib.SMTP_SSL("127.0.0.1", port, timeout=30, context=context) as client:
            client.login(*SMTP_LOGIN)
            client.sendmail(SENDER, [to], b"Subject: Hello\r\n\r\nHi")

        assert len(sandbox.ledger(kind="accepted", recipient=to)) == 1


SMTP_FAULTS = {
    "refuse": None,
    "error": 421,
    "rate_limit": 454,
    "unauthorized": 530,
    "hang": None,
    "accept_then_reset": None,
}


@pytest.mark.parametrize(("mode", "code"), SMTP_FAULTS.items())
def test_a_fault_of_the_mail_server_meets_a_message(sandbox, smtp_port, mode, code):
    to = address("ann")
    sandbox.set_fault(mode, provider="smtp")
    try:
        with pytest.raises((smtplib.SMTPException, OSError)) as failed:
            submit(sandbox, smtp_port, to, reference())
    finally:
        sandbox.set_fault("ok", provider="smtp")

    assert getattr(failed.value, "smtp_code", None) == code
    assert len(sandbox.ledger(kind="accepted", recipient=to)) == (mode == "accept_then_reset")


# --- all of them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["ses", "sendgrid", "postmark"])
@pytest.mark.parametrize(("mode", "status"), [("error", 503), ("rate_limit", 429), ("unauthorized", 401)])
def test_a_fault_of_one_provider_leaves_the_others_alone(sandbox, provider, mode, status):
    def statuses() -> dict[str, int]:
        try:
            send_by_ses(sandbox, address("ann"))
            by_ses = 200
        except ClientError as exc:
            by_ses = exc.response["ResponseMetadata"]["HTTPStatusCode"]
        others = {
            "sendgrid": raw_mail(sandbox, address("ann")).status_code,
            "postmark": send_by_postmark(sandbox, address("ann")).status_code,
        }
        return {"ses": by_ses, **others}

    sandbox.set_fault(mode, provider=provider)
    try:
        during = statuses()
    finally:
        sandbox.set_fault("ok", provider=provider)

    if (provider, mode) == ("ses", "unauthorized"):
        status = 403  # as AWS has it
    assert during == {"ses": 200, "sendgrid": 202, "postmark": 200} | {provider: status}


def test_every_message_is_on_the_mailbox_page_with_its_provider(sandbox, smtp_port):
    to = address("ann")
    send_by_ses(sandbox, to)
    raw_mail(sandbox, to)
    send_by_postmark(sandbox, to)
    submit(sandbox, smtp_port, to, reference())

    page = httpx.get(f"{sandbox.url}/", params={"to": to}).text
    narrowed = httpx.get(f"{sandbox.url}/", params={"to": to, "provider": "postmark"}).text

    for provider in ("ses", "sendgrid", "postmark", "smtp"):
        assert f'email <span class="quiet">{provider}</span>' in page
    assert narrowed.count('email <span class="quiet">') == 1


def test_no_secret_and_no_body_is_on_the_ledger(sandbox, smtp_port):
    send_by_ses(
        sandbox, address("ann"), Content={"Simple": {"Subject": {"Data": "S"}, "Body": {"Text": {"Data": "swordfish"}}}}
    )
    raw_mail(sandbox, address("ann"), content=[{"type": "text/plain", "value": "swordfish"}])
    send_by_postmark(sandbox, address("ann"), TextBody="swordfish")
    client = connected(sandbox, smtp_port)
    client.sendmail(SENDER, [address("ann")], b"Subject: S\r\n\r\nswordfish")
    client.close()
    sandbox.wait_until_settled()

    written = sandbox.ledger_path.read_text() + sandbox.output_path.read_text()

    for secret in (SES_SECRET, SENDGRID_KEY, POSTMARK_TOKEN, SMTP_LOGIN[1], "sandbox-webhook-password", "swordfish"):
        assert secret not in written
    assert "Traceback" not in written


def test_a_killed_sandbox_posts_to_every_provider_what_it_owed(tmp_path):
    with Hub() as hub, SandboxProcess(tmp_path / "l.jsonl", webhook_base_url=hub.base_url, speed=3000) as sandbox:
        to = address("bounce")
        wait_until(lambda: sns_messages(hub, "Successfully validated SNS topic"))
        hub.statuses = [503] * 1000
        send_by_ses(sandbox, to)
        raw_mail(sandbox, to)
        send_by_postmark(sandbox, to)
        wait_until(lambda: sandbox.ledger(kind="webhook", recipient=to, provider="postmark"))
        sandbox.kill()
        hub.statuses.clear()

        sandbox.start()
        sandbox.wait_until_settled()

        assert len(hub.of("ses", to)) >= 2
        assert {event["event"] for event in sendgrid_events(hub, to)} == {"processed", "bounce"}
        assert len(hub.of("postmark", to)) >= 1
