"""The Postmark adapter on bytes: requests it builds, answers it reads, webhooks it believes and refuses."""

from __future__ import annotations

import contextlib
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import BounceClass, EvidenceKind, OutcomeKind
from app.errors import ConfigurationError, InvalidFields, WebhookRefused
from app.providers.base import SENDER_REFUSED, AttemptRef, EmailMessage, LookupVerdict, ProviderResponse, WebhookRequest
from app.providers.postmark import Postmark, PostmarkAccount
from app.providers.registry import make_provider
from tests.messages import CONTEXT, DELIVERY, NOW, email_message, posted

ACCOUNT = PostmarkAccount("token-send", webhook_user="landed", webhook_password="pass:word")
POSTMARK = Postmark(ACCOUNT)
MESSAGE = email_message()
REFERENCE = f"{DELIVERY}.2"
MESSAGE_ID = "883953f4-6105-42a2-a16a-77a8eac79483"


def payload(message: EmailMessage = MESSAGE, postmark: Postmark = POSTMARK) -> dict[str, Any]:
    return json.loads(postmark.build(message, CONTEXT).body)


def answer(
    status: int, body: str | bytes | Mapping[str, Any] = b"", headers: Mapping[str, str] | None = None
) -> ProviderResponse:
    if isinstance(body, Mapping):
        body = json.dumps(body)
    return ProviderResponse(status, headers or {}, body.encode() if isinstance(body, str) else body)


# -- building ------------------------------------------------------------------------------------------------


def test_a_send_carries_the_message_and_our_reference():
    request = POSTMARK.build(MESSAGE, CONTEXT)
    assert (request.method, request.url) == ("POST", "https://api.postmarkapp.com/email")
    assert request.headers == {
        "X-Postmark-Server-Token": "token-send",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    assert json.loads(request.body) == {
        "From": "Acme & Söhne <shop@mg.example.com>",
        "To": "zoë@example.com",
        "Subject": MESSAGE.subject,
        "HtmlBody": MESSAGE.html,
        "TextBody": MESSAGE.text,
        "Tag": "order_shipped",
        "Metadata": {"landed_reference": REFERENCE},
        "MessageStream": "outbound",
        "TrackOpens": False,
        "TrackLinks": "None",
    }


def test_metadata_keeps_postmarks_limits():
    ((name, value),) = payload(replace(MESSAGE, attempt_no=32767))["Metadata"].items()
    assert len(name) <= 20
    assert len(value) <= 80


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_arrives_unchanged(text):
    assert payload(replace(MESSAGE, text=text))["TextBody"] == text


def test_a_part_that_is_empty_is_left_out():
    assert "HtmlBody" not in payload(replace(MESSAGE, html=None))
    assert "TextBody" not in payload(replace(MESSAGE, text=""))


def test_each_class_may_have_a_stream_of_its_own():
    assert payload(MESSAGE, Postmark(replace(ACCOUNT, message_stream="broadcast")))["MessageStream"] == "broadcast"


@pytest.mark.parametrize(("account", "message"), [(True, False), (False, True)])
def test_in_test_mode_postmark_checks_and_sends_nothing(account, message):
    postmark = Postmark(replace(ACCOUNT, test_mode=account))
    request = postmark.build(replace(MESSAGE, test_mode=message), CONTEXT)
    assert request.headers["X-Postmark-Server-Token"] == "POSTMARK_API_TEST"


def test_tracking_is_said_outright():
    sent = payload(replace(MESSAGE, track_opens=True, track_clicks=True))
    assert (sent["TrackOpens"], sent["TrackLinks"]) == (True, "HtmlAndText")
    assert POSTMARK.capabilities.tracks_engagement


def test_headers_pass_through():
    headers = {"List-Unsubscribe": "<https://a.example/u/1>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    sent = payload(replace(MESSAGE, headers=headers, reply_to="help@example.com"))
    assert sent["Headers"] == [{"Name": name, "Value": value} for name, value in headers.items()]
    assert sent["ReplyTo"] == "help@example.com"


@pytest.mark.parametrize("evil", ["a\r\nBcc: victim@example.com", "a\nb", "a\rb", "a\0b", "a\x0bb"])
@pytest.mark.parametrize("name", ["to", "sender", "subject", "reply_to", "category", "tags", "headers.X-Note"])
def test_no_field_smuggles_in_a_header(name, evil):
    value = {"tags": (evil,), "headers.X-Note": {"X-Note": evil}}.get(name, evil)
    with pytest.raises(InvalidFields) as refused:
        POSTMARK.build(replace(MESSAGE, **{name.partition(".")[0]: value}), CONTEXT)
    assert [error.field for error in refused.value.errors] == [name]


@pytest.mark.parametrize("name", ["X-Note\r\nBcc", "X Note", "X:Note", "", "Bcc", "message-id", "To", "X-Nöte"])
def test_no_header_name_that_could_redirect_or_rename_the_message(name):
    with pytest.raises(InvalidFields):
        POSTMARK.build(replace(MESSAGE, headers={name: "x"}), CONTEXT)


@pytest.mark.parametrize(("field", "value"), [("to", "a@example.com,b@example.com"), ("sender", "Shop")])
def test_an_address_that_is_none_is_refused(field, value):
    with pytest.raises(InvalidFields):
        payload(replace(MESSAGE, **{field: value}))


# -- the account ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"server_token": ""}, "server_token"),
        ({"webhook_user": None}, "go together"),
        ({"webhook_password": ""}, "go together"),
        ({"webhook_user": None, "webhook_password": None}, "must be set"),
        ({"webhook_user": None, "webhook_password": None, "webhook_token": ""}, "must be set"),
        ({"webhook_user": "a:b"}, "colon"),
        ({"message_stream": "a b"}, "message_stream"),
        ({"base_url": "https://api.example.com/v1"}, "base_url"),
        ({"lookup_settle_seconds": -1.0}, "lookup_settle_seconds"),
    ],
)
def test_an_account_that_cannot_work_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        replace(ACCOUNT, **wrong)


def test_an_account_does_not_print_its_keys():
    account = replace(ACCOUNT, webhook_token="hook-token")
    assert not any(key in repr(account) for key in ("token-send", "pass:word", "hook-token"))


def test_an_account_is_made_from_settings_and_secret_files(tmp_path):
    (tmp_path / "token").write_text("token-from-file\n")
    settings = {
        "adapter": "postmark",
        "server_token_file": str(tmp_path / "token"),
        "webhook_token": "t",
        "lookup_settle_seconds": "600",
    }
    provider = make_provider("main", settings)
    assert isinstance(provider, Postmark)
    assert provider.account.server_token == "token-from-file"
    assert provider.capabilities.lookup_settle_seconds == 600


def test_wrong_settings_are_named_and_secrets_are_not():
    settings = {"adapter": "postmark", "server_token": "SECRET", "webhook_user": "landed"}
    with pytest.raises(ConfigurationError) as refused:
        make_provider("main", settings)
    assert "webhook_password" in refused.value.detail
    assert "SECRET" not in refused.value.detail


# -- answers to a send ---------------------------------------------------------------------------------------


def test_an_id_is_acceptance():
    body = {"To": "zoe@example.com", "MessageID": MESSAGE_ID, "ErrorCode": 0, "Message": "OK", "SubmittedAt": "x"}
    outcome = POSTMARK.interpret(answer(200, body), NOW)
    assert (outcome.kind, outcome.provider_message_id) == (OutcomeKind.ACCEPTED, MESSAGE_ID)


def error(code: Any, message: str = "", **more: Any) -> dict[str, Any]:
    return {"ErrorCode": code, "Message": message, **more}


INACTIVE = "Message OK, but will not deliver to these inactive addresses: zoe@example.com."


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "", OutcomeKind.UNKNOWN),
        (200, "<html>OK</html>", OutcomeKind.UNKNOWN),
        (200, '{"MessageID":"8839', OutcomeKind.UNKNOWN),
        (200, error(0, "OK"), OutcomeKind.UNKNOWN),
        (200, error(0, "OK", MessageID=""), OutcomeKind.UNKNOWN),
        (200, {"MessageID": MESSAGE_ID}, OutcomeKind.UNKNOWN),
        (200, error(None, "OK", MessageID=MESSAGE_ID), OutcomeKind.UNKNOWN),
        (200, error(False, "OK", MessageID=MESSAGE_ID), OutcomeKind.UNKNOWN),
        (200, "[" * 100_000, OutcomeKind.UNKNOWN),
        (202, error(0, "OK", MessageID=MESSAGE_ID), OutcomeKind.UNKNOWN),
        (200, error(0, INACTIVE, MessageID=MESSAGE_ID), OutcomeKind.RECIPIENT_INVALID),
        (200, error(406, "inactive"), OutcomeKind.RECIPIENT_INVALID),
        (301, "", OutcomeKind.UNAUTHORIZED),
        (303, "", OutcomeKind.UNKNOWN),
        (401, error(10, "No Account or Server API tokens were supplied"), OutcomeKind.UNAUTHORIZED),
        (403, "<html>403 Forbidden</html>", OutcomeKind.UNAUTHORIZED),
        (404, "", OutcomeKind.UNAUTHORIZED),
        (408, "", OutcomeKind.UNKNOWN),
        (413, "", OutcomeKind.REJECTED),
        (415, "", OutcomeKind.REJECTED),
        (422, error(10, "Bad token"), OutcomeKind.UNAUTHORIZED),
        (422, error(100, "Maintenance"), OutcomeKind.TRANSIENT),
        (422, error(300, "Error parsing 'To': Illegal email address 'x'."), OutcomeKind.RECIPIENT_INVALID),
        (422, error(300, "Error parsing 'From': Illegal email address 'x'."), OutcomeKind.REJECTED),
        (422, error(300, "Provide either email TextBody or HtmlBody or both."), OutcomeKind.REJECTED),
        (422, error(400, "The 'From' address you supplied is not a Sender Signature"), OutcomeKind.UNAUTHORIZED),
        (422, error(401, "Sender signature not confirmed"), OutcomeKind.UNAUTHORIZED),
        (422, error(402, "Invalid JSON"), OutcomeKind.REJECTED),
        (422, error(405, "Not allowed to send: out of credits"), OutcomeKind.UNAUTHORIZED),
        (422, error(406, "You tried to send to a recipient that has been marked as inactive."), "recipient_invalid"),
        (422, error(409, "JSON required"), OutcomeKind.REJECTED),
        (422, error(410, "Too many batch messages"), OutcomeKind.REJECTED),
        (422, error(411, "Forbidden attachment type"), OutcomeKind.REJECTED),
        (422, error(412, "Account is pending"), OutcomeKind.UNAUTHORIZED),
        (422, error(413, "Account may not send"), OutcomeKind.UNAUTHORIZED),
        (422, error(429, "Rate limit exceeded"), OutcomeKind.RATE_LIMITED),
        (422, error(31337, "Invented tomorrow"), OutcomeKind.REJECTED),
        (422, "", OutcomeKind.REJECTED),
        (429, "", OutcomeKind.RATE_LIMITED),
        (500, error(0, "OK", MessageID=MESSAGE_ID), OutcomeKind.UNKNOWN),
        (502, "<html>Bad Gateway</html>", OutcomeKind.UNKNOWN),
        (503, error(100, "Maintenance"), OutcomeKind.UNKNOWN),
        (504, "", OutcomeKind.UNKNOWN),
    ],
)
def test_every_answer_has_its_class(status, body, kind):
    outcome = POSTMARK.interpret(answer(status, body), NOW)
    assert outcome.kind == kind
    assert outcome.status_code == status
    assert outcome.detail
    assert outcome.provider_message_id is None


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (422, 400, SENDER_REFUSED),
        (422, 401, SENDER_REFUSED),
        (200, 401, SENDER_REFUSED),
        (422, 10, None),
        (422, 405, None),
        (422, 412, None),
        (422, 413, None),
        (401, 10, None),
        (401, 401, None),  # where the request was not read, no sender was either
        (403, 400, None),
    ],
)
def test_a_sender_that_is_not_verified_says_nothing_about_the_others(status, code, reason):
    outcome = POSTMARK.interpret(answer(status, error(code, "words")), NOW)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.UNAUTHORIZED, reason)


def test_a_rate_limit_says_when_to_come_back():
    assert POSTMARK.interpret(answer(429, "", {"retry-after": "17"}), NOW).retry_after_seconds == 17
    assert POSTMARK.interpret(answer(429), NOW).retry_after_seconds is None


def test_details_hold_no_address():
    detail = POSTMARK.interpret(answer(422, error(406, "Found inactive addresses: zoe@example.com.")), NOW).detail
    assert detail == "Found inactive addresses: <address>"


@given(
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(["retry-after"]), st.text()),
    st.binary(max_size=300) | st.text(max_size=300).map(str.encode),
)
def test_any_answer_is_classified_and_only_an_id_is_acceptance(status, headers, body):
    outcome = POSTMARK.interpret(answer(status, body, headers), NOW)
    assert (outcome.kind is OutcomeKind.ACCEPTED) <= (b'"MessageID"' in body)


# -- credentials ---------------------------------------------------------------------------------------------


def basic(user: str = "landed", secret: str = str(ACCOUNT.webhook_password)) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{user}:{secret}".encode()).decode()}


def refusal(request: WebhookRequest, account: PostmarkAccount = ACCOUNT) -> tuple[str, int]:
    with pytest.raises(WebhookRefused) as refused:
        Postmark(account).verify(request, NOW)
    return refused.value.reason, refused.value.http_status


TOKEN_ONLY = PostmarkAccount("token-send", webhook_token="hook-token")
BOTH = replace(ACCOUNT, webhook_token="hook-token")
TOKEN = {"X-Landed-Token": "hook-token"}


@pytest.mark.parametrize(
    ("account", "headers"),
    [(ACCOUNT, basic()), (TOKEN_ONLY, TOKEN), (BOTH, basic() | TOKEN), (ACCOUNT, basic() | {"X-Landed-Token": "x"})],
)
def test_a_webhook_with_what_was_agreed_is_believed(account, headers):
    Postmark(account).verify(posted(b"{}", headers), NOW)


def test_the_name_of_the_scheme_may_be_in_any_case():
    header = basic()["Authorization"].replace("Basic", "bAsIc")
    POSTMARK.verify(posted(b"{}", {"Authorization": header}), NOW)


@pytest.mark.parametrize(
    ("account", "headers"),
    [
        (ACCOUNT, {}),
        (ACCOUNT, TOKEN),
        (ACCOUNT, basic(user="another")),
        (ACCOUNT, basic(secret="another")),
        (ACCOUNT, basic(user="", secret="")),
        (ACCOUNT, {"Authorization": "Basic"}),
        (ACCOUNT, {"Authorization": "Basic not base64!"}),
        (ACCOUNT, {"Authorization": "Basic /w=="}),
        (ACCOUNT, {"Authorization": basic()["Authorization"].replace("Basic", "Bearer")}),
        (TOKEN_ONLY, {}),
        (TOKEN_ONLY, basic()),
        (TOKEN_ONLY, {"X-Landed-Token": ""}),
        (TOKEN_ONLY, {"X-Landed-Token": "hook-tokex"}),
        (TOKEN_ONLY, {"X-Landed-Token": "hook-token\udcff"}),
        (BOTH, basic()),
        (BOTH, TOKEN),
    ],
)
def test_a_webhook_without_it_is_refused_and_may_come_again(account, headers):
    assert refusal(posted(b"{}", headers), account) == ("forged", 401)


def test_a_password_beyond_ascii_is_fine():
    account = replace(ACCOUNT, webhook_password="größer")
    Postmark(account).verify(posted(b"{}", basic(secret="größer")), NOW)


# -- events --------------------------------------------------------------------------------------------------

WHEN = "2014-08-01T13:28:10.2735393-04:00"
COMMON: dict[str, Any] = {
    "MessageID": MESSAGE_ID,
    "ServerID": 23,
    "MessageStream": "outbound",
    "Tag": "order_shipped",
    "Metadata": {"landed_reference": REFERENCE},
}
EVENTS: dict[str, dict[str, Any]] = {
    "Delivery": {"Recipient": "alice@example.com", "DeliveredAt": WHEN, "Details": "250 OK"},
    "Bounce": {
        "ID": 42,
        "Type": "HardBounce",
        "TypeCode": 1,
        "Name": "Hard bounce",
        "Description": "The server was unable to deliver your message (ex: unknown user, mailbox not found).",
        "Details": "smtp;550 5.1.1 unknown user",
        "Email": "alice@example.com",
        "From": "shop@mg.example.com",
        "BouncedAt": WHEN,
        "DumpAvailable": True,
        "Inactive": True,
        "CanActivate": True,
        "Subject": "Hi",
    },
    "SpamComplaint": {"ID": 43, "Type": "SpamComplaint", "Email": "alice@example.com", "BouncedAt": WHEN},
    "Open": {
        "Recipient": "alice@example.com",
        "ReceivedAt": WHEN,
        "FirstOpen": True,
        "Client": {"Name": "Chrome", "Company": "Google", "Family": "Chrome"},
        "OS": {"Name": "OS X", "Company": "Apple", "Family": "OS X"},
        "Platform": "WebMail",
        "Geo": {"CountryISOCode": "RS", "Country": "Serbia", "IP": "192.0.2.7"},
    },
    "Click": {"Recipient": "alice@example.com", "ReceivedAt": WHEN, "OriginalLink": "https://a.example/x"},
    "SubscriptionChange": {
        "Recipient": "alice@example.com",
        "ChangedAt": WHEN,
        "Origin": "Recipient",
        "SuppressSending": True,
        "SuppressionReason": "ManualSuppression",
    },
}


def event(name: str, **changes: Any) -> dict[str, Any]:
    return {**COMMON, "RecordType": name, **EVENTS.get(name, {}), **changes}


def read(data: Any):
    (evidence,) = POSTMARK.parse(posted(json.dumps(data)))
    return evidence


def test_a_delivery_is_evidence_for_its_very_attempt():
    evidence = read(event("Delivery"))
    assert evidence.kind is EvidenceKind.DELIVERED
    assert evidence.occurred_at == datetime(2014, 8, 1, 17, 28, 10, 273539, UTC)
    assert (evidence.delivery_id, evidence.attempt_no) == (DELIVERY, 2)
    assert evidence.provider_message_id == MESSAGE_ID
    assert evidence.address == "alice@example.com"
    assert evidence.bounce_class is None
    assert evidence.suppress_reason is None
    assert evidence.data == {"message": "250 OK", "stream": "outbound"}


@pytest.mark.parametrize(
    ("name", "kind", "suppress"),
    [
        ("Delivery", EvidenceKind.DELIVERED, None),
        ("Bounce", EvidenceKind.BOUNCED, "hard_bounce"),
        ("SpamComplaint", EvidenceKind.COMPLAINED, "complaint"),
        ("Open", EvidenceKind.OPENED, None),
        ("Click", EvidenceKind.CLICKED, None),
        ("SubscriptionChange", EvidenceKind.UNSUBSCRIBED, "unsubscribe"),
        ("InventedTomorrow", EvidenceKind.OTHER, None),
    ],
)
def test_every_event_has_its_kind(name, kind, suppress):
    evidence = read(event(name))
    assert (evidence.kind, evidence.suppress_reason) == (kind, suppress)
    assert (evidence.delivery_id, evidence.attempt_no) == (DELIVERY, 2)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [],
        {},
        {"landed_reference": "x"},
        {"landed_reference": str(DELIVERY)},
        {"landed_reference": f"{DELIVERY}.0"},
        {"landed_reference": f"{DELIVERY}.٢"},
        {"landed_reference": f"{DELIVERY}.99999"},
        {"landed_reference": 7},
    ],
)
def test_a_message_that_is_not_ours_has_no_ids(metadata):
    evidence = read(event("Delivery", Metadata=metadata))
    assert (evidence.delivery_id, evidence.attempt_no) == (None, None)


def test_the_same_fact_has_the_same_key_and_others_have_not():
    assert read(event("Delivery")).event_key == read(event("Delivery", DeliveredAt="2014-08-01T17:28:10Z")).event_key
    facts = [
        *(event(name) for name in EVENTS),
        event("Bounce", ID=44),
        event("Open", ReceivedAt="2014-08-01T13:28:11Z"),
        event("Click", OriginalLink="https://a.example/y"),
        event("Delivery", Recipient="bob@example.com"),
        event("Delivery", MessageID="another"),
        event("SubscriptionChange", ChangedAt="2014-08-01T13:28:11Z"),
    ]
    keys = [read(fact).event_key for fact in facts]
    assert len(set(keys)) == len(keys)
    assert not any("@" in key for key in keys)


@pytest.mark.parametrize("when", [None, "", "soon", [], "9999-12-31T23:59:59Z"])
def test_a_fact_without_a_time_happened_when_it_came_but_its_key_has_no_such_time(when):
    early = POSTMARK.parse(posted(json.dumps(event("Open", ReceivedAt=when)), received_at=NOW))[0]
    late = POSTMARK.parse(posted(json.dumps(event("Open", ReceivedAt=when)), received_at=NOW + timedelta(hours=1)))[0]
    assert (early.occurred_at, late.occurred_at) == (NOW, NOW + timedelta(hours=1))
    assert early.event_key == late.event_key


HARD = (EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce")
SOFT = (EvidenceKind.BOUNCED, BounceClass.SOFT, None)
REPUTATION = (EvidenceKind.BOUNCED, BounceClass.REPUTATION, None)
CONTENT = (EvidenceKind.BOUNCED, BounceClass.CONTENT, None)
NOTED = (EvidenceKind.OTHER, None, None)


@pytest.mark.parametrize(
    ("bounce_type", "verdict"),
    [
        ("HardBounce", HARD),
        ("BadEmailAddress", HARD),
        ("SpamComplaint", (EvidenceKind.COMPLAINED, None, "complaint")),
        ("ManuallyDeactivated", (EvidenceKind.FAILED, BounceClass.PROVIDER_SUPPRESSED, "provider_suppressed")),
        ("Unsubscribe", (EvidenceKind.UNSUBSCRIBED, None, "unsubscribe")),
        ("Transient", (EvidenceKind.DEFERRED, None, None)),
        ("SoftBounce", SOFT),
        ("DnsError", SOFT),
        ("Unknown", SOFT),
        ("Undeliverable", SOFT),
        ("InventedTomorrow", SOFT),
        (None, SOFT),
        ("Blocked", REPUTATION),
        ("DMARCPolicy", REPUTATION),
        ("SpamNotification", CONTENT),
        ("VirusNotification", CONTENT),
        ("SMTPApiError", (EvidenceKind.FAILED, BounceClass.CONTENT, None)),
        ("TemplateRenderingFailed", (EvidenceKind.FAILED, BounceClass.CONTENT, None)),
        ("AutoResponder", NOTED),
        ("AddressChange", NOTED),
        ("ChallengeVerification", NOTED),
        ("Subscribe", NOTED),
    ],
)
def test_a_bounce_blames_the_address_only_on_plain_signs(bounce_type, verdict):
    evidence = read(event("Bounce", Type=bounce_type))
    assert (evidence.kind, evidence.bounce_class, evidence.suppress_reason) == verdict


@pytest.mark.parametrize(
    ("changes", "kind", "suppress"),
    [
        ({}, EvidenceKind.UNSUBSCRIBED, "unsubscribe"),
        ({"SuppressSending": False, "SuppressionReason": None}, EvidenceKind.OTHER, None),
        ({"SuppressSending": "true"}, EvidenceKind.OTHER, None),
        ({"Origin": "Customer"}, EvidenceKind.OTHER, "provider_suppressed"),
        ({"Origin": "Admin", "SuppressionReason": None}, EvidenceKind.OTHER, "provider_suppressed"),
        ({"SuppressionReason": "HardBounce"}, EvidenceKind.OTHER, "hard_bounce"),
        ({"SuppressionReason": "SpamComplaint"}, EvidenceKind.OTHER, "complaint"),
        ({"SuppressionReason": "InventedTomorrow"}, EvidenceKind.OTHER, "provider_suppressed"),
    ],
)
def test_only_the_recipients_own_hand_unsubscribes(changes, kind, suppress):
    evidence = read(event("SubscriptionChange", **changes))
    assert (evidence.kind, evidence.suppress_reason) == (kind, suppress)


def test_nobodys_ip_address_is_kept():
    data = dict(read(event("Open")).data)
    assert data["country"] == "Serbia"
    assert "192.0.2.7" not in json.dumps(data)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"RecordType": []}'])
def test_nonsense_is_refused_and_postmark_told_to_stop(body):
    with pytest.raises(WebhookRefused) as refused:
        POSTMARK.parse(posted(body))
    assert (refused.value.reason, refused.value.http_status) == ("malformed", 403)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FIELDS = sorted({name for fields in (*EVENTS.values(), COMMON) for name in fields})
ANY_EVENT = st.fixed_dictionaries({"RecordType": st.sampled_from(sorted(EVENTS))}, optional=dict.fromkeys(FIELDS, JSON))


@given(st.binary() | JSON.map(json.dumps).map(str.encode))
def test_parse_raises_nothing_but_a_refusal(body):
    with contextlib.suppress(WebhookRefused):
        POSTMARK.parse(posted(body))


@given(st.dictionaries(st.sampled_from(["Authorization", "X-Landed-Token"]), st.text()), st.binary())
def test_verify_refuses_whatever_does_not_bring_the_password(headers, body):
    with pytest.raises(WebhookRefused):
        POSTMARK.verify(posted(body, headers), NOW)


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
KNOWN = replace(ATTEMPT, provider_message_id=MESSAGE_ID)
SETTLING = Postmark(replace(ACCOUNT, lookup_settle_seconds=600.0))
DETAILS_URL = f"https://api.postmarkapp.com/messages/outbound/{MESSAGE_ID}/details"


def message(reference: Any = REFERENCE, **changes: Any) -> dict[str, Any]:
    return {
        "MessageID": MESSAGE_ID,
        "To": [{"Email": "alice@example.com", "Name": None}],
        "ReceivedAt": WHEN,
        "Status": "Sent",
        "Metadata": {"landed_reference": reference},
        **changes,
    }


def listed(*messages: Any) -> ProviderResponse:
    return answer(200, {"TotalCount": len(messages), "Messages": list(messages)})


def details(*events: Any) -> ProviderResponse:
    return answer(200, {"MessageID": MESSAGE_ID, "ReceivedAt": WHEN, "Status": "Sent", "MessageEvents": list(events)})


def happened(kind: str, **details: Any) -> dict[str, Any]:
    return {"Recipient": "alice@example.com", "Type": kind, "ReceivedAt": WHEN, "Details": details}


def look(response: ProviderResponse, attempt: AttemptRef = ATTEMPT, postmark: Postmark = POSTMARK, now: datetime = NOW):
    return postmark.interpret_lookup(attempt, response, now)


def test_a_lookup_searches_for_our_reference():
    request = POSTMARK.build_lookup(ATTEMPT, NOW)
    url = urlsplit(request.url)
    assert (request.method, f"{url.netloc}{url.path}") == ("GET", "api.postmarkapp.com/messages/outbound")
    assert parse_qs(url.query) == {
        "count": ["50"],
        "offset": ["0"],
        "messagestream": ["outbound"],
        "metadata_landed_reference": [REFERENCE],
    }
    assert request.headers["X-Postmark-Server-Token"] == "token-send"


def test_a_message_whose_id_is_known_is_asked_for_by_it():
    assert POSTMARK.build_lookup(KNOWN, NOW).url == DETAILS_URL


def test_a_message_id_cannot_lead_to_another_page():
    request = POSTMARK.build_lookup(replace(KNOWN, provider_message_id="../../bounces?x#y"), NOW)
    assert request.url == "https://api.postmarkapp.com/messages/outbound/..%2F..%2Fbounces%3Fx%23y/details"


def test_what_is_found_was_taken_and_its_details_come_next():
    lookup = look(listed(message("another.1"), 7, message()))
    assert lookup.verdict is LookupVerdict.FOUND
    (evidence,) = lookup.evidence
    assert (evidence.kind, evidence.delivery_id, evidence.attempt_no) == (EvidenceKind.ACCEPTED, DELIVERY, 2)
    assert evidence.provider_message_id == MESSAGE_ID
    assert evidence.occurred_at == datetime(2014, 8, 1, 17, 28, 10, 273539, UTC)
    assert lookup.next_request is not None
    assert lookup.next_request.url == DETAILS_URL


def test_details_are_evidence_under_the_same_keys_as_webhooks():
    lookup = look(
        details(
            happened("Transient", DeliveryMessage="smtp;421 try later"),
            happened("Delivered", DeliveryMessage="250 OK", DestinationServer="mx.example.com"),
            happened("Opened", Summary="Email opened"),
            happened("LinkClicked", Summary="Link clicked", Link="https://a.example/x"),
            happened("SubscriptionChanged", Origin="Recipient", SuppressSending="True"),
            happened("InventedTomorrow"),
            7,
        ),
        KNOWN,
    )
    assert lookup.verdict is LookupVerdict.FOUND
    kinds = [EvidenceKind.ACCEPTED, EvidenceKind.DEFERRED, EvidenceKind.DELIVERED, EvidenceKind.OPENED]
    assert [e.kind for e in lookup.evidence] == [*kinds, EvidenceKind.CLICKED, EvidenceKind.UNSUBSCRIBED]
    by_webhook = [read(event(name)) for name in ("Delivery", "Open", "Click", "SubscriptionChange")]
    assert [e.event_key for e in lookup.evidence[2:]] == [e.event_key for e in by_webhook]
    assert {(e.delivery_id, e.attempt_no) for e in lookup.evidence} == {(DELIVERY, 2)}
    assert lookup.next_request is None


def test_what_kind_a_bounce_was_is_asked_next():
    lookup = look(details(happened("Bounced", Summary="smtp;550", BounceID="42")), KNOWN)
    assert [e.kind for e in lookup.evidence] == [EvidenceKind.ACCEPTED]
    assert lookup.next_request is not None
    assert lookup.next_request.url == "https://api.postmarkapp.com/bounces/42"
    bounce = {name: value for name, value in event("Bounce").items() if name not in ("RecordType", "Metadata")}
    found = look(answer(200, bounce), KNOWN)
    (evidence,) = found.evidence
    told = read(event("Bounce"))
    assert found.verdict is LookupVerdict.FOUND
    assert (evidence.kind, evidence.suppress_reason, evidence.event_key) == (told.kind, "hard_bounce", told.event_key)
    assert (evidence.delivery_id, evidence.attempt_no) == (DELIVERY, 2)


def test_a_bounce_that_has_no_id_is_soft():
    lookup = look(details(happened("Bounced", Summary="smtp;550")), KNOWN)
    assert [e.bounce_class for e in lookup.evidence] == [None, BounceClass.SOFT]


def test_absence_proves_nothing_unless_the_account_says_since_when():
    assert look(listed()).verdict is LookupVerdict.TOO_EARLY
    assert look(listed(), postmark=SETTLING).verdict is LookupVerdict.NOT_SENT
    early = OPENED + timedelta(seconds=599)
    assert look(listed(), postmark=SETTLING, now=early).verdict is LookupVerdict.TOO_EARLY


def test_absence_proves_nothing_once_the_provider_has_forgotten():
    late = OPENED + timedelta(days=45, seconds=1)
    assert look(listed(), postmark=SETTLING, now=late).verdict is LookupVerdict.UNANSWERABLE


@pytest.mark.parametrize("response", [listed(), answer(404, error(701, "not found"))])
def test_absence_never_disproves_what_the_provider_confirmed(response):
    assert look(response, KNOWN, SETTLING).verdict is LookupVerdict.TOO_EARLY


def test_a_search_that_lists_others_has_not_searched():
    lookup = look(listed(message("another.1")), postmark=SETTLING)
    assert (lookup.verdict, lookup.next_request) == (LookupVerdict.TOO_EARLY, None)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, error(10)),
        (404, ""),
        (422, error(600)),
        (429, ""),
        (500, {"TotalCount": 0, "Messages": []}),
        (503, ""),
        (200, ""),
        (200, "[]"),
        (200, {"Messages": 7}),
        (200, {"MessageEvents": 7}),
        (200, {"Type": "HardBounce"}),
    ],
)
def test_a_question_that_failed_proves_nothing(status, body):
    assert look(answer(status, body), postmark=SETTLING).verdict is LookupVerdict.UNAVAILABLE


@given(
    st.integers(100, 599),
    st.binary()
    | JSON.map(json.dumps).map(str.encode)
    | JSON.map(lambda item: json.dumps({"Messages": item}).encode())
    | JSON.map(lambda item: json.dumps({"MessageEvents": item}).encode())
    | st.lists(JSON, max_size=3).map(lambda events: details(*events).body)
    | ANY_EVENT.map(json.dumps).map(str.encode),
)
def test_no_answer_but_a_settled_empty_list_says_not_sent(status, body):
    verdict = look(answer(status, body), postmark=SETTLING).verdict
    assert (verdict is LookupVerdict.NOT_SENT) <= (status == 200 and b'"Messages": []' in body)
