"""SendGrid's own Python and Node.js libraries beside our adapter: the body they build, the signatures they believe."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sendgrid.helpers.eventwebhook import EventWebhook
from sendgrid.helpers.mail import (
    Category,
    ClickTracking,
    CustomArg,
    Email,
    Header,
    Mail,
    MailSettings,
    OpenTracking,
    ReplyTo,
    SandBoxMode,
    SubscriptionTracking,
    TrackingSettings,
)

from app.errors import WebhookRefused
from app.providers.sendgrid import SendGrid, SendGridAccount
from tests.messages import CONTEXT, DELIVERY, email_message, posted
from tests.node_peers import run_node

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = b64encode(
    KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
).decode()
SENDGRID = SendGrid(SendGridAccount("SG.key", PUBLIC))
NOW = datetime.now(UTC)


def test_a_send_looks_like_the_official_clients():
    message = email_message(
        reply_to="help@example.com",
        headers={"List-Unsubscribe": "<https://a.example/u?x=1&y=2>"},
        tags=("spring",),
        track_opens=True,
        test_mode=True,
    )
    theirs = Mail(
        from_email=Email("shop@mg.example.com", "Acme & Söhne"),
        to_emails=message.to,
        subject=message.subject,
        plain_text_content=message.text,
        html_content=message.html,
    )
    theirs.reply_to = ReplyTo("help@example.com")
    theirs.category = [Category("order_shipped"), Category("spring")]
    theirs.custom_arg = [CustomArg("landed_delivery", str(DELIVERY)), CustomArg("landed_attempt", "2")]
    theirs.header = Header("List-Unsubscribe", "<https://a.example/u?x=1&y=2>")
    theirs.mail_settings = MailSettings(sandbox_mode=SandBoxMode(enable=True))
    theirs.tracking_settings = TrackingSettings(
        ClickTracking(enable=False, enable_text=False), OpenTracking(enable=True), SubscriptionTracking(enable=False)
    )
    assert json.loads(SENDGRID.build(message, CONTEXT).body) == unordered(theirs.get())


def unordered(body: dict[str, Any]) -> dict[str, Any]:
    """Their builder writes categories last first."""
    return {**body, "categories": sorted(body["categories"])}


BODIES = ['[{"event":"open","email":"zoë@example.com"}]', "[]\r\n", '[{"a":"\\u0000 \U0001f600"}]\r\n', ""]


def signature(body: str, timestamp: str) -> str:
    return b64encode(KEY.sign(timestamp.encode() + body.encode(), ec.ECDSA(hashes.SHA256()))).decode()


def believed(body: str, signed: str, timestamp: str) -> bool:
    headers = {
        "X-Twilio-Email-Event-Webhook-Signature": signed,
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
    }
    try:
        SENDGRID.verify(posted(body, headers), NOW)
    except WebhookRefused:
        return False
    return True


def samples() -> list[tuple[str, str, str, bool]]:
    """Bodies with their signature and timestamp, and whether they belong together."""
    timestamp = str(int(NOW.timestamp()))
    good = [(body, signature(body, timestamp), timestamp, True) for body in BODIES]
    changed = [(body + " ", signed, timestamp, False) for body, signed, timestamp, _ in good]
    moved = [(body, signed, str(int(timestamp) - 1), False) for body, signed, timestamp, _ in good]
    return good + changed + moved


def test_signatures_are_judged_as_the_python_library_judges_them():
    theirs = EventWebhook()
    key = theirs.convert_public_key_to_ecdsa(PUBLIC)
    for body, signed, timestamp, genuine in samples():
        assert bool(theirs.verify_signature(body, signed, timestamp, key)) is genuine
        assert believed(body, signed, timestamp) is genuine


VERIFY = """
const { EventWebhook } = require('@sendgrid/eventwebhook');
const webhook = new EventWebhook();
const key = webhook.convertPublicKeyToECDSA(given.key);
answer(given.samples.map(([body, signed, timestamp]) => webhook.verifySignature(key, body, signed, timestamp)));
"""


def test_signatures_are_judged_as_the_node_library_judges_them():
    given = samples()
    theirs = run_node(VERIFY, {"key": PUBLIC, "samples": [sample[:3] for sample in given]})
    assert theirs == [genuine for *_, genuine in given]
    assert theirs == [believed(*sample[:3]) for sample in given]


@pytest.mark.parametrize("body", BODIES)
def test_the_library_reads_a_key_in_pem_too(body):
    pem = f"-----BEGIN PUBLIC KEY-----\n{PUBLIC}\n-----END PUBLIC KEY-----\n"
    timestamp = str(int(NOW.timestamp()))
    headers = {
        "X-Twilio-Email-Event-Webhook-Signature": signature(body, timestamp),
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
    }
    SendGrid(SendGridAccount("SG.key", pem)).verify(posted(body, headers), NOW)
