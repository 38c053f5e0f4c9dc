"""The SendGrid adapter on bytes: requests it builds, answers it reads, webhooks it believes and refuses."""

from __future__ import annotations

import contextlib
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import BounceClass, EvidenceKind, OutcomeKind
from app.errors import ConfigurationError, InvalidFields, WebhookRefused
from app.providers.base import SENDER_REFUSED, AttemptRef, EmailMessage, LookupVerdict, ProviderResponse, WebhookRequest
from app.providers.registry import make_provider
from app.providers.sendgrid import SendGrid, SendGridAccount
from tests.messages import CONTEXT, DELIVERY, NOW, email_message, posted

KEY = ec.generate_private_key(ec.SECP256R1())
SIGNATURE = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP = "X-Twilio-Email-Event-Webhook-Timestamp"


def public(key: Any, encoding: serialization.Encoding = serialization.Encoding.DER) -> str:
    encoded = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode() if encoding is serialization.Encoding.PEM else b64encode(encoded).decode()


#: A key on a curve that no library knows: its number is one byte away from P-256's.
NO_CURVE = b64encode(
    KEY.public_key()
    .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    .replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f"))
).decode()
ACCOUNT = SendGridAccount("SG.key-send", public(KEY))
SENDGRID = SendGrid(ACCOUNT)
FOR_TESTS = SendGrid(replace(ACCOUNT, test_mode=True))
MESSAGE = email_message()
SG_ID = "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0"


def payload(message: EmailMessage = MESSAGE, sendgrid: SendGrid = SENDGRID) -> dict[str, Any]:
    return json.loads(sendgrid.build(message, CONTEXT).body)


def answer(
    status: int, body: str | bytes | Mapping[str, Any] = b"", headers: Mapping[str, str] | None = None
) -> ProviderResponse:
    if isinstance(body, Mapping):
        body = json.dumps(body)
    return ProviderResponse(status, headers or {}, body.encode() if isinstance(body, str) else body)


# -- building ------------------------------------------------------------------------------------------------


def test_a_send_carries_the_message_and_our_ids():
    request = SENDGRID.build(MESSAGE, CONTEXT)
    assert (request.method, request.url) == ("POST", "https://api.sendgrid.com/v3/mail/send")
    assert request.headers == {"Authorization": "Bearer SG.key-send", "Content-Type": "application/json"}
    assert json.loads(request.body) == {
        "personalizations": [{"to": [{"email": "zoë@example.com"}]}],
        "from": {"email": "shop@mg.example.com", "name": "Acme & Söhne"},
        "subject": MESSAGE.subject,
        "content": [
            {"type": "text/plain", "value": MESSAGE.text},
            {"type": "text/html", "value": MESSAGE.html},
        ],
        "categories": ["order_shipped"],
        "custom_args": {"landed_delivery": str(DELIVERY), "landed_attempt": "2"},
        "tracking_settings": {
            "click_tracking": {"enable": False, "enable_text": False},
            "open_tracking": {"enable": False},
            "subscription_tracking": {"enable": False},
        },
    }


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_arrives_unchanged(text):
    assert payload(replace(MESSAGE, text=text))["content"][0] == {"type": "text/plain", "value": text}


def test_a_part_that_is_empty_is_left_out():
    assert [part["type"] for part in payload(replace(MESSAGE, html=None))["content"]] == ["text/plain"]
    assert [part["type"] for part in payload(replace(MESSAGE, text=""))["content"]] == ["text/html"]


def test_the_european_region_has_its_own_host():
    eu = SendGrid(replace(ACCOUNT, region="eu"))
    assert eu.build(MESSAGE, CONTEXT).url == "https://api.eu.sendgrid.com/v3/mail/send"


@pytest.mark.parametrize(("account", "message"), [(True, False), (False, True)])
def test_test_mode_is_the_accounts_or_the_messages(account, message):
    sendgrid = SendGrid(replace(ACCOUNT, test_mode=account))
    sent = payload(replace(MESSAGE, test_mode=message), sendgrid)
    assert sent["mail_settings"] == {"sandbox_mode": {"enable": True}}


def test_tracking_is_said_outright():
    settings = payload(replace(MESSAGE, track_opens=True, track_clicks=True))["tracking_settings"]
    assert settings["open_tracking"] == {"enable": True}
    assert settings["click_tracking"] == {"enable": True, "enable_text": False}
    assert SENDGRID.capabilities.tracks_engagement


def test_headers_pass_through():
    headers = {"List-Unsubscribe": "<https://a.example/u/1>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    sent = payload(replace(MESSAGE, headers=headers, reply_to="help@example.com"))
    assert sent["headers"] == headers
    assert sent["reply_to"] == {"email": "help@example.com"}


def test_categories_keep_sendgrids_limits():
    sent = payload(replace(MESSAGE, tags=("order_shipped", "größe", "x" * 300, *(f"t{i}" for i in range(20)))))
    assert sent["categories"][:3] == ["order_shipped", "gr??e", "x" * 255]
    assert len(sent["categories"]) == 10


@pytest.mark.parametrize("evil", ["a\r\nBcc: victim@example.com", "a\nb", "a\rb", "a\0b", "a\x0bb"])
@pytest.mark.parametrize("name", ["to", "sender", "subject", "reply_to", "category", "tags", "headers.X-Note"])
def test_no_field_smuggles_in_a_header(name, evil):
    value = {"tags": (evil,), "headers.X-Note": {"X-Note": evil}}.get(name, evil)
    with pytest.raises(InvalidFields) as refused:
        SENDGRID.build(replace(MESSAGE, **{name.partition(".")[0]: value}), CONTEXT)
    assert [error.field for error in refused.value.errors] == [name]


@pytest.mark.parametrize(
    "name",
    ["X-Note\r\nBcc", "X Note", "X:Note", "", "Bcc", "message-id", "To", "X-Nöte", "x-sg-id", "X-SG-EID", "Received"],
)
def test_no_header_name_that_could_redirect_or_rename_the_message(name):
    with pytest.raises(InvalidFields):
        SENDGRID.build(replace(MESSAGE, headers={name: "x"}), CONTEXT)


@pytest.mark.parametrize(
    ("field", "value"), [("to", "a@example.com,b@example.com"), ("sender", "Shop"), ("reply_to", "x")]
)
def test_an_address_that_is_none_is_refused(field, value):
    with pytest.raises(InvalidFields):
        payload(replace(MESSAGE, **{field: value}))


# -- the account ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"api_key": ""}, "api_key"),
        ({"webhook_public_key": ""}, "webhook_public_key"),
        ({"webhook_public_key": "AAAA"}, "webhook_public_key"),
        ({"webhook_public_key": "not base64!"}, "webhook_public_key"),
        ({"webhook_public_key": public(ec.generate_private_key(ec.SECP384R1()))}, "P-256"),
        ({"webhook_public_key": NO_CURVE}, "webhook_public_key"),
        ({"base_url": "https://api.example.com/v3"}, "base_url"),
        ({"lookup_settle_seconds": -1.0}, "lookup_settle_seconds"),
    ],
)
def test_an_account_that_cannot_work_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        replace(ACCOUNT, **wrong)


def test_the_public_key_may_be_pem():
    assert SendGrid(replace(ACCOUNT, webhook_public_key=public(KEY, serialization.Encoding.PEM)))


def test_an_account_does_not_print_its_keys():
    account = replace(ACCOUNT, lookup_api_key="SG.key-lookup")
    assert not any(key in repr(account) for key in ("key-send", "key-lookup"))


def test_an_account_is_made_from_settings_and_secret_files(tmp_path):
    (tmp_path / "key").write_text("SG.from-file\n")
    settings = {
        "adapter": "sendgrid",
        "api_key_file": str(tmp_path / "key"),
        "webhook_public_key": public(KEY),
        "lookup_settle_seconds": "600",
    }
    provider = make_provider("main", settings)
    assert isinstance(provider, SendGrid)
    assert provider.account.api_key == "SG.from-file"
    assert provider.capabilities.lookup_settle_seconds == 600


def test_wrong_settings_are_named_and_secrets_are_not():
    settings = {"adapter": "sendgrid", "api_key": "SECRET", "webhook_public_key": public(KEY), "region": "fr"}
    with pytest.raises(ConfigurationError) as refused:
        make_provider("main", settings)
    assert "providers.main.region" in refused.value.detail
    assert "SECRET" not in refused.value.detail


# -- answers to a send ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_id", ["14c5d75ce93", "14c5d75ce93.recvd-abc-0"])
def test_an_id_is_acceptance_and_is_the_one_events_begin_with(given_id):
    outcome = SENDGRID.interpret(answer(202, "", {"x-message-id": given_id}), NOW)
    assert (outcome.kind, outcome.provider_message_id) == (OutcomeKind.ACCEPTED, "14c5d75ce93")


def test_sandbox_mode_is_answered_200_and_has_no_id():
    outcome = FOR_TESTS.interpret(answer(200), NOW)
    assert (outcome.kind, outcome.provider_message_id) == (OutcomeKind.ACCEPTED, None)
    assert "not sent" in outcome.detail
    assert FOR_TESTS.capabilities.takes_tests


@pytest.mark.parametrize("body", ["", "\r\n"])
def test_a_bare_200_proves_nothing_where_messages_are_really_sent(body):
    """A proxy that answers in SendGrid's place must not end a delivery well. So a live account is given no tests."""
    assert SENDGRID.interpret(answer(200, body), NOW).kind is OutcomeKind.UNKNOWN
    assert not SENDGRID.capabilities.takes_tests


def errors(message: str, field: Any = None) -> dict[str, Any]:
    return {"errors": [{"message": message, "field": field, "help": None}]}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (202, "", OutcomeKind.UNKNOWN),
        (202, "<html>", OutcomeKind.UNKNOWN),
        (200, "<html>OK</html>", OutcomeKind.UNKNOWN),
        (204, "", OutcomeKind.UNKNOWN),
        (301, "", OutcomeKind.UNAUTHORIZED),
        (303, "", OutcomeKind.UNKNOWN),
        (400, errors("The subject is required.", "subject"), OutcomeKind.REJECTED),
        (400, errors("Does not contain a valid address.", "from.email"), OutcomeKind.REJECTED),
        (400, errors("Does not contain a valid address.", "personalizations.0.to.0.email"), "recipient_invalid"),
        (400, errors("Bad Request", "null"), OutcomeKind.REJECTED),
        (400, "", OutcomeKind.REJECTED),
        (400, {"errors": 7}, OutcomeKind.REJECTED),
        (401, errors("authorization required"), OutcomeKind.UNAUTHORIZED),
        (401, errors("Maximum credits exceeded"), OutcomeKind.UNAUTHORIZED),
        (403, errors("The from address does not match a verified Sender Identity.", "from"), "unauthorized"),
        (403, errors("access forbidden"), OutcomeKind.UNAUTHORIZED),
        (404, "", OutcomeKind.UNAUTHORIZED),
        (405, "", OutcomeKind.UNAUTHORIZED),
        (406, "", OutcomeKind.REJECTED),
        (408, "", OutcomeKind.UNKNOWN),
        (413, "", OutcomeKind.REJECTED),
        (415, "", OutcomeKind.REJECTED),
        (429, errors("too many requests"), OutcomeKind.RATE_LIMITED),
        (500, errors("internal"), OutcomeKind.UNKNOWN),
        (502, "<html>Bad Gateway</html>", OutcomeKind.UNKNOWN),
        (503, "", OutcomeKind.UNKNOWN),
        (504, "", OutcomeKind.UNKNOWN),
    ],
)
def test_every_answer_has_its_class(status, body, kind):
    outcome = SENDGRID.interpret(answer(status, body), NOW)
    assert outcome.kind == kind
    assert outcome.status_code == status
    assert outcome.detail
    assert outcome.provider_message_id is None


IDENTITY = "The from address does not match a verified Sender Identity."


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (403, errors(IDENTITY, "from"), SENDER_REFUSED),
        (403, errors(IDENTITY), SENDER_REFUSED),
        (403, errors("Invented tomorrow", "from"), SENDER_REFUSED),
        (403, errors("access forbidden"), None),
        (403, "", None),
        (401, errors("authorization required"), None),
        (401, errors(IDENTITY, "from"), None),
        (404, errors(IDENTITY, "from"), None),
    ],
)
def test_a_sender_that_is_not_verified_says_nothing_about_the_others(status, body, reason):
    outcome = SENDGRID.interpret(answer(status, body), NOW)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.UNAUTHORIZED, reason)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-reset": f"{NOW.timestamp() + 2.5}"}, 2.5),
        ({"x-ratelimit-reset": f"{NOW.timestamp() - 5}"}, 0),
        ({"x-ratelimit-reset": "soon"}, None),
        ({"retry-after": "17", "x-ratelimit-reset": f"{NOW.timestamp() + 99}"}, 17),
        ({}, None),
    ],
)
def test_a_rate_limit_says_when_to_come_back(headers, seconds):
    outcome = SENDGRID.interpret(answer(429, "", headers), NOW)
    assert outcome.retry_after_seconds == (None if seconds is None else pytest.approx(seconds))


def test_details_hold_no_address():
    detail = SENDGRID.interpret(answer(400, errors("zoe@example.com is no good\r\n" + "x" * 900)), NOW).detail
    assert detail.startswith("<address> is no good x")
    assert len(detail) <= 300


HEADERS = st.dictionaries(st.sampled_from(["x-message-id", "retry-after", "x-ratelimit-reset"]), st.text())


@given(
    st.sampled_from([SENDGRID, FOR_TESTS]),
    st.integers(100, 599),
    HEADERS,
    st.binary(max_size=300) | st.text(max_size=300).map(str.encode),
)
def test_any_answer_is_classified_and_only_an_id_or_the_sandbox_is_acceptance(sendgrid, status, headers, body):
    outcome = sendgrid.interpret(answer(status, body, headers), NOW)
    if outcome.kind is OutcomeKind.ACCEPTED:
        assert 200 <= status < 300
        assert outcome.provider_message_id or (sendgrid is FOR_TESTS and status == 200 and not body.strip())


# -- signatures ----------------------------------------------------------------------------------------------


def hook(body: bytes, *, key: Any = KEY, when: datetime = NOW, timestamp: str | None = None) -> WebhookRequest:
    stamp = str(int(when.timestamp())) if timestamp is None else timestamp
    signature = key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return posted(body, {SIGNATURE: b64encode(signature).decode(), TIMESTAMP: stamp})


def refusal(request: WebhookRequest) -> tuple[str, int]:
    with pytest.raises(WebhookRefused) as refused:
        SENDGRID.verify(request, NOW)
    return refused.value.reason, refused.value.http_status


@pytest.mark.parametrize("body", [b"[]", b'[{"event":"open"}]\r\n', b"[\xff\xfe]", b""])
def test_the_very_bytes_are_signed(body):
    SENDGRID.verify(hook(body), NOW)
    assert refusal(replace(hook(body), body=body + b"\n")) == ("forged", 401)


def test_nothing_needs_to_be_fetched_and_no_token_to_be_kept():
    assert SENDGRID.key_url(hook(b"[]")) is None
    assert SENDGRID.replay_token(hook(b"[]")) is None
    assert SENDGRID.confirmation(hook(b"[]")) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {TIMESTAMP: "1772366400"},
        {SIGNATURE: "AAAA"},
        {TIMESTAMP: "1772366400", SIGNATURE: ""},
        {TIMESTAMP: "1772366400", SIGNATURE: "not base64!"},
        {TIMESTAMP: "1772366400", SIGNATURE: "ü"},
        {TIMESTAMP: "soon", SIGNATURE: "AAAA"},
        {TIMESTAMP: "١٢٣", SIGNATURE: "AAAA"},
        {TIMESTAMP: "9" * 400, SIGNATURE: "AAAA"},
    ],
)
def test_a_webhook_without_a_signature_is_refused(headers):
    assert refusal(posted(b"[]", headers)) == ("forged", 401)


def test_a_signature_of_anothers_key_is_refused():
    assert refusal(hook(b"[]", key=ec.generate_private_key(ec.SECP256R1()))) == ("forged", 401)


def test_a_signature_cannot_be_moved_to_another_time():
    headers = {name.title(): value for name, value in hook(b"[]").headers.items()}
    assert refusal(posted(b"[]", headers | {TIMESTAMP: str(int(NOW.timestamp()) + 1)})) == ("forged", 401)


@pytest.mark.parametrize("age", [timedelta(hours=24, minutes=30), timedelta(0), timedelta(minutes=-4)])
def test_a_late_retry_is_taken(age):
    SENDGRID.verify(hook(b"[]", when=NOW - age), NOW)


@pytest.mark.parametrize("age", [timedelta(hours=25, seconds=1), timedelta(days=9), timedelta(minutes=-6)])
def test_a_replay_is_refused(age):
    assert refusal(hook(b"[]", when=NOW - age)) == ("stale", 400)


# -- events --------------------------------------------------------------------------------------------------

WHEN = 1513299569
COMMON: dict[str, Any] = {
    "email": "alice@example.com",
    "timestamp": WHEN,
    "smtp-id": "<14c5d75ce93.dfd.64b469@ismtpd-555>",
    "category": ["order_shipped", "spring"],
    "sg_event_id": "sg_event_id_1",
    "sg_message_id": SG_ID,
    "landed_delivery": str(DELIVERY),
    "landed_attempt": "2",
}
EVENTS: dict[str, dict[str, Any]] = {
    "processed": {"send_at": WHEN},
    "deferred": {"response": "400 try again later", "attempt": "5"},
    "delivered": {"response": "250 OK", "ip": "192.0.2.1", "tls": 1},
    "bounce": {
        "type": "bounce",
        "reason": "550 5.1.1 The email account that you tried to reach does not exist",
        "status": "5.1.1",
        "bounce_classification": "Invalid Address",
    },
    "dropped": {"reason": "Bounced Address", "status": "5.0.0"},
    "spamreport": {},
    "unsubscribe": {"useragent": "Mozilla/5.0", "ip": "192.0.2.7"},
    "group_unsubscribe": {"asm_group_id": 10, "useragent": "Mozilla/5.0", "url": "https://a.example/u"},
    "group_resubscribe": {"asm_group_id": 10},
    "open": {"useragent": "Mozilla/5.0", "ip": "192.0.2.7", "sg_machine_open": True},
    "click": {"useragent": "Mozilla/5.0", "url": "https://a.example/x", "url_offset": {"index": 0, "type": "html"}},
}


def event(name: str, **changes: Any) -> dict[str, Any]:
    return {**COMMON, "event": name, **EVENTS.get(name, {}), **changes}


def read_all(*events: Any):
    return SENDGRID.parse(posted(json.dumps(events)))


def read(data: Mapping[str, Any]):
    (evidence,) = read_all(data)
    return evidence


def test_a_delivery_is_evidence_for_its_very_attempt():
    evidence = read(event("delivered"))
    assert evidence.kind is EvidenceKind.DELIVERED
    assert evidence.occurred_at == datetime.fromtimestamp(WHEN, UTC)
    assert (evidence.delivery_id, evidence.attempt_no) == (DELIVERY, 2)
    assert evidence.provider_message_id == "14c5d75ce93"
    assert evidence.address == "alice@example.com"
    assert evidence.bounce_class is None
    assert evidence.suppress_reason is None
    assert evidence.data == {"message": "250 OK", "tls": 1}


@pytest.mark.parametrize(
    ("name", "kind", "suppress"),
    [
        ("processed", EvidenceKind.ACCEPTED, None),
        ("deferred", EvidenceKind.DEFERRED, None),
        ("delivered", EvidenceKind.DELIVERED, None),
        ("bounce", EvidenceKind.BOUNCED, "hard_bounce"),
        ("dropped", EvidenceKind.FAILED, "provider_suppressed"),
        ("spamreport", EvidenceKind.COMPLAINED, "complaint"),
        ("unsubscribe", EvidenceKind.UNSUBSCRIBED, "unsubscribe"),
        ("group_unsubscribe", EvidenceKind.UNSUBSCRIBED, "unsubscribe"),
        ("group_resubscribe", EvidenceKind.OTHER, None),
        ("open", EvidenceKind.OPENED, None),
        ("click", EvidenceKind.CLICKED, None),
        ("account_status_change", EvidenceKind.OTHER, None),
    ],
)
def test_every_event_has_its_kind(name, kind, suppress):
    evidence = read(event(name))
    assert (evidence.kind, evidence.suppress_reason) == (kind, suppress)


def test_one_webhook_holds_the_facts_of_many_messages():
    evidence = read_all(*(event(name) for name in EVENTS))
    assert len(evidence) == len(EVENTS)
    assert len({e.event_key for e in evidence}) == len(EVENTS)


def test_what_cannot_be_read_costs_its_neighbours_nothing():
    evidence = read_all(7, None, {}, event("delivered"), event("open", timestamp="soon"), {**COMMON, "event": []})
    assert [e.kind for e in evidence] == [EvidenceKind.DELIVERED]


def test_a_fact_told_again_under_another_event_id_is_the_same():
    assert read(event("open")).event_key == read(event("open", sg_event_id="another")).event_key


def test_different_facts_have_different_keys():
    facts = [
        *(event(name) for name in EVENTS),
        event("open", timestamp=WHEN + 1),
        event("click", url="https://a.example/y"),
        event("delivered", email="bob@example.com"),
        event("delivered", sg_message_id="another.filter.0"),
    ]
    keys = [read(fact).event_key for fact in facts]
    assert len(set(keys)) == len(keys)
    assert not any("@" in key for key in keys)


def test_a_late_bounce_may_lack_the_messages_id():
    late = event("bounce")
    del late["sg_message_id"]
    evidence = read(late)
    assert evidence.provider_message_id is None
    assert evidence.delivery_id == DELIVERY
    assert str(DELIVERY) in evidence.event_key
    bare = {name: value for name, value in late.items() if not name.startswith("landed_")}
    assert (read(bare).delivery_id, read(bare).address) == (None, "alice@example.com")
    assert read(bare).event_key != read({**bare, "sg_event_id": "another"}).event_key


@pytest.mark.parametrize(
    "args",
    [
        {"landed_delivery": "x"},
        {"landed_attempt": "x"},
        {"landed_attempt": "0"},
        {"landed_attempt": "٢"},
        {"landed_attempt": "99999"},
        {"landed_delivery": None, "landed_attempt": None},
        {"landed_delivery": {}, "landed_attempt": []},
    ],
)
def test_a_message_that_is_not_ours_has_no_ids(args):
    evidence = read(event("delivered", **args))
    assert (evidence.delivery_id, evidence.attempt_no) == (None, None)


HARD = (EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce")
SOFT = (EvidenceKind.BOUNCED, BounceClass.SOFT, None)
REPUTATION = (EvidenceKind.BOUNCED, BounceClass.REPUTATION, None)
CONTENT = (EvidenceKind.BOUNCED, BounceClass.CONTENT, None)


def bounced(classification: str = "", status: str = "", reason: str = "", kind: str = "bounce") -> dict[str, Any]:
    return event("bounce", bounce_classification=classification, status=status, reason=reason, type=kind)


@pytest.mark.parametrize(
    ("failure", "verdict"),
    [
        # The address is bad.
        (bounced("Invalid Address", "5.1.1"), HARD),
        (bounced("Invalid Address", "", "550 unknown"), HARD),
        (bounced("Unclassified", "5.1.1"), HARD),
        (bounced("", "5.1.10"), HARD),
        (bounced("", "550", "550 No such user"), HARD),
        (bounced("", "", "550 No such user"), HARD),
        (bounced("Unclassified", "5.0.0", "550 No such user"), HARD),
        # We are refused, not the address.
        (bounced("Reputation", "5.7.1"), REPUTATION),
        (bounced("Frequency or Volume Too High", "4.7.0"), REPUTATION),
        (bounced("", "5.7.26", "550 5.7.26 DMARC"), REPUTATION),
        (bounced("Invalid Address", "5.1.8", "Sender address rejected"), REPUTATION),
        (bounced("Unclassified", "550", "550 blocked using dnsbl.example"), REPUTATION),
        # This message is refused.
        (bounced("Content", "5.6.0"), CONTENT),
        # This message is over, the address may be fine.
        (bounced("Mailbox Unavailable", "5.2.2", "552 mailbox full"), SOFT),
        (bounced("Technical", "4.4.1"), SOFT),
        (bounced("Unclassified", "5.3.0"), SOFT),
        (bounced("", "552", "552 mailbox full"), SOFT),
        (bounced("", "5.2.2", "550 5.2.2 mailbox full"), SOFT),
        (bounced(), SOFT),
        (bounced("Invented Tomorrow"), SOFT),
        # A block never blames the address.
        (bounced("Invalid Address", "5.1.1", "550", kind="blocked"), REPUTATION),
        (bounced("", "550", "550 No such user", kind="blocked"), REPUTATION),
        (bounced("Content", "5.6.0", kind="blocked"), CONTENT),
        (bounced("Reputation", "5.7.1", kind="blocked"), REPUTATION),
        (bounced("Mailbox Unavailable", "4.2.2", kind="blocked"), SOFT),
        (bounced("", "4.4.7", kind="blocked"), SOFT),
    ],
)
def test_a_bounce_blames_the_address_only_on_plain_signs(failure, verdict):
    evidence = read(failure)
    assert (evidence.kind, evidence.bounce_class, evidence.suppress_reason) == verdict


@pytest.mark.parametrize(
    ("reason", "bounce_class", "suppress"),
    [
        ("Bounced Address", BounceClass.PROVIDER_SUPPRESSED, "provider_suppressed"),
        ("Bounced Address\n", BounceClass.PROVIDER_SUPPRESSED, "provider_suppressed"),
        ("Unsubscribed Address", BounceClass.PROVIDER_SUPPRESSED, "provider_suppressed"),
        ("Spam Reporting Address", BounceClass.PROVIDER_SUPPRESSED, "provider_suppressed"),
        ("Invalid", BounceClass.HARD, "hard_bounce"),
        ("Spam Content", BounceClass.CONTENT, None),
        ("Invalid SMTPAPI header", BounceClass.CONTENT, None),
        ("Recipient List over Package Quota", None, None),
        ("Invented Tomorrow", None, None),
        (None, None, None),
    ],
)
def test_a_drop_says_whose_fault_it_was(reason, bounce_class, suppress):
    evidence = read(event("dropped", reason=reason, email=""))
    assert (evidence.kind, evidence.bounce_class) == (EvidenceKind.FAILED, bounce_class)
    assert evidence.suppress_reason == suppress
    assert evidence.address is None


@pytest.mark.parametrize(
    ("name", "category", "scope"),
    [
        ("unsubscribe", ["order_shipped"], "all"),
        ("group_unsubscribe", ["order_shipped", "x"], "order_shipped"),
        ("group_unsubscribe", "order_shipped", "order_shipped"),
        ("group_unsubscribe", [], "all"),
        ("group_unsubscribe", None, "all"),
        ("group_unsubscribe", [None], "all"),
    ],
)
def test_an_unsubscribe_covers_the_category_it_came_from_or_everything(name, category, scope):
    assert read(event(name, category=category)).data["scope"] == scope


def test_an_open_by_a_machine_says_so_and_nobodys_ip_address_is_kept():
    evidence = read(event("open"))
    assert evidence.data["machine_open"] is True
    assert "192.0.2.7" not in json.dumps(dict(evidence.data))


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"null", b"7", b"\xff\xfe", b"[" * 100_000, b"[7]", b"[{}]"])
def test_what_is_no_list_of_events_is_malformed(body):
    with pytest.raises(WebhookRefused) as refused:
        SENDGRID.parse(posted(body))
    assert (refused.value.reason, refused.value.http_status) == ("malformed", 400)


def test_an_empty_list_is_no_event():
    assert SENDGRID.parse(posted(b"[]")) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FIELDS = sorted({name for fields in (*EVENTS.values(), COMMON) for name in fields} - {"timestamp"})
ANY_EVENT = st.fixed_dictionaries(
    {"event": st.sampled_from(sorted(EVENTS)), "timestamp": st.just(WHEN)}, optional=dict.fromkeys(FIELDS, JSON)
)


@given(st.binary() | JSON.map(json.dumps).map(str.encode) | st.lists(JSON).map(json.dumps).map(str.encode))
def test_parse_raises_nothing_but_a_refusal(body):
    with contextlib.suppress(WebhookRefused):
        SENDGRID.parse(posted(body))


@given(st.dictionaries(st.sampled_from([SIGNATURE, TIMESTAMP]), st.text()), st.binary())
def test_verify_refuses_whatever_was_not_signed(headers, body):
    with pytest.raises(WebhookRefused):
        SENDGRID.verify(posted(body, headers), NOW)


@given(ANY_EVENT)
def test_any_event_becomes_evidence_that_any_store_takes(data):
    evidence = read(data)
    words = [evidence.event_key, evidence.provider_message_id or "", evidence.address or ""]
    stored = json.dumps([words, dict(evidence.data)], allow_nan=False, ensure_ascii=False).encode()
    assert b"\\u0000" not in stored
    assert len(stored) < 64 * 1024


# -- looking up ----------------------------------------------------------------------------------------------

OPENED = NOW - timedelta(hours=1)
ATTEMPT = AttemptRef(DELIVERY, 2, OPENED, "alice@example.com", None)
KNOWN = replace(ATTEMPT, provider_message_id="14c5d75ce93")
SETTLING = SendGrid(replace(ACCOUNT, lookup_settle_seconds=600.0))


def summary(sg_id: str = SG_ID, to: str = "alice@example.com") -> dict[str, Any]:
    return {"sg_message_id": sg_id, "to_email": to, "from_email": "shop@mg.example.com", "subject": "Hi", "status": "x"}


def listed(*messages: Any) -> ProviderResponse:
    return answer(200, {"messages": list(messages)})


def details(*events: Mapping[str, Any], args: Any = None, sg_id: str = SG_ID) -> ProviderResponse:
    ours = {"landed_delivery": str(DELIVERY), "landed_attempt": "2"}
    return answer(
        200,
        {
            "sg_message_id": sg_id,
            "to_email": "alice@example.com",
            "status": "delivered",
            "category": ["order_shipped"],
            "custom_args": ours if args is None else args,
            "events": list(events),
        },
    )


def look(response: ProviderResponse, attempt: AttemptRef = ATTEMPT, sendgrid: SendGrid = SENDGRID, now: datetime = NOW):
    return sendgrid.interpret_lookup(attempt, response, now)


def test_a_lookup_searches_the_logs_by_recipient_and_time():
    request = SENDGRID.build_lookup(ATTEMPT, NOW)
    assert (request.method, request.url) == ("POST", "https://api.sendgrid.com/v3/logs")
    assert json.loads(request.body) == {
        "query": 'sg_message_id_created_at >= TIMESTAMP "2026-03-01T10:59:00Z" AND '
        'sg_message_id_created_at <= TIMESTAMP "2026-03-01T11:05:00Z" AND to_email = "alice@example.com"',
        "limit": 1000,
    }


@pytest.mark.parametrize("address", ['"a\\"b"@example.com', "Alice@example.com", "a'b@example.com", "a b@example.com"])
def test_an_address_that_could_end_or_miss_the_query_is_left_out_of_it(address):
    query = json.loads(SENDGRID.build_lookup(replace(ATTEMPT, address=address), NOW).body)["query"]
    assert "to_email" not in query


def test_a_sending_key_cannot_read_logs_so_lookups_may_have_their_own():
    sendgrid = SendGrid(replace(ACCOUNT, lookup_api_key="SG.key-lookup"))
    assert sendgrid.build(MESSAGE, CONTEXT).headers["Authorization"] == "Bearer SG.key-send"
    assert sendgrid.build_lookup(ATTEMPT, NOW).headers["Authorization"] == "Bearer SG.key-lookup"


def test_a_candidate_is_looked_at_next():
    lookup = look(listed(summary(), summary("other.x", "bob@example.com"), 7, {}))
    assert lookup.verdict is LookupVerdict.TOO_EARLY
    assert lookup.next_request is not None
    assert (lookup.next_request.method, lookup.next_request.url) == ("GET", f"https://api.sendgrid.com/v3/logs/{SG_ID}")
    assert lookup.next_request.headers["Authorization"] == "Bearer SG.key-send"


def test_the_message_sendgrid_named_is_looked_at_among_others():
    lookup = look(listed(summary("aaa.1"), summary(), summary("zzz.1")), KNOWN)
    assert lookup.next_request is not None
    assert lookup.next_request.url.endswith(SG_ID)


@pytest.mark.parametrize("seconds", [1, 5, 60, 300, 3600])
@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_of_several_candidates_each_has_its_turn(count, seconds):
    """However regularly lookups come: at every fifth second, a count of five would otherwise show one of them only."""
    ids = [f"{i}.1" for i in range(count)]
    several = listed(*map(summary, ids))
    times = [NOW + timedelta(seconds=seconds * i) for i in range(20 * count)]
    turns = [look(several, now=now).next_request for now in times]
    assert {turn.url.rpartition("/")[2] for turn in turns if turn} == set(ids)


def test_a_message_id_cannot_lead_to_another_page():
    lookup = look(listed(summary("../suppression?x#y")))
    assert lookup.next_request is not None
    assert lookup.next_request.url == "https://api.sendgrid.com/v3/logs/..%2Fsuppression%3Fx%23y"


def test_details_are_evidence_under_the_same_keys_as_webhooks():
    told = [event("processed"), event("delivered"), event("bounce"), event("click")]
    kept = [{name: value for name, value in fact.items() if not name.startswith("landed_")} for fact in told]
    found = look(details({"event": "received", "timestamp": WHEN, "recv_msgid": "14c5d75ce93"}, *kept))
    assert found.verdict is LookupVerdict.FOUND
    assert [e.kind for e in found.evidence][0] is EvidenceKind.ACCEPTED
    by_webhook = [read(fact) for fact in told]
    assert [e.event_key for e in found.evidence[1:]] == [e.event_key for e in by_webhook]
    assert [(e.kind, e.bounce_class, dict(e.data)) for e in found.evidence[1:]] == [
        (e.kind, e.bounce_class, dict(e.data)) for e in by_webhook
    ]
    assert {(e.delivery_id, e.attempt_no) for e in found.evidence} == {(DELIVERY, 2)}


def test_details_without_our_arguments_are_ours_by_sendgrids_id():
    assert look(details(event("delivered"), args={}), KNOWN).verdict is LookupVerdict.FOUND
    assert look(details(event("delivered"), args={}), ATTEMPT).verdict is LookupVerdict.TOO_EARLY


@pytest.mark.parametrize("args", [{}, {"landed_delivery": str(DELIVERY), "landed_attempt": "1"}, [], "x"])
def test_another_message_proves_nothing(args):
    lookup = look(details(event("delivered"), args=args), sendgrid=SETTLING)
    assert (lookup.verdict, lookup.evidence) == (LookupVerdict.TOO_EARLY, ())


def test_a_message_in_the_logs_was_taken_even_without_events():
    (evidence,) = look(details()).evidence
    assert (evidence.kind, evidence.delivery_id, evidence.attempt_no) == (EvidenceKind.ACCEPTED, DELIVERY, 2)


def test_absence_proves_nothing_unless_the_account_says_since_when():
    assert look(listed()).verdict is LookupVerdict.TOO_EARLY
    assert look(listed(), sendgrid=SETTLING).verdict is LookupVerdict.NOT_SENT
    early = OPENED + timedelta(seconds=599)
    assert look(listed(), sendgrid=SETTLING, now=early).verdict is LookupVerdict.TOO_EARLY


def test_absence_proves_nothing_once_the_provider_has_forgotten():
    late = OPENED + timedelta(days=30, seconds=1)
    assert look(listed(), sendgrid=SETTLING, now=late).verdict is LookupVerdict.UNANSWERABLE


def test_absence_never_disproves_what_the_provider_confirmed():
    assert look(listed(), KNOWN, SETTLING).verdict is LookupVerdict.TOO_EARLY
    assert look(listed(summary("another.1")), KNOWN, SETTLING).verdict is LookupVerdict.TOO_EARLY


def test_a_full_list_may_have_left_ours_out():
    others = [summary(f"{i}.1", "bob@example.com") for i in range(1000)]
    assert look(listed(*others), sendgrid=SETTLING).verdict is LookupVerdict.TOO_EARLY


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, ""),
        (403, ""),
        (429, ""),
        (500, {"messages": []}),
        (503, ""),
        (200, ""),
        (200, "[]"),
        (200, {"messages": 7}),
    ],
)
def test_a_question_that_failed_proves_nothing(status, body):
    assert look(answer(status, body), sendgrid=SETTLING).verdict is LookupVerdict.UNAVAILABLE


def test_a_candidate_that_is_gone_proves_nothing():
    assert look(answer(404), sendgrid=SETTLING).verdict is LookupVerdict.TOO_EARLY


@given(
    st.integers(100, 599),
    st.binary()
    | JSON.map(json.dumps).map(str.encode)
    | JSON.map(lambda item: json.dumps({"messages": item}).encode())
    | st.lists(JSON, max_size=3).map(lambda events: details(*events).body),
)
def test_no_answer_but_a_settled_list_without_us_says_not_sent(status, body):
    verdict = look(answer(status, body), sendgrid=SETTLING).verdict
    assert (verdict is LookupVerdict.NOT_SENT) <= (status == 200 and b'"messages": [' in body)
