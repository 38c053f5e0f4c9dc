"""The Sinch adapter on bytes: batches it builds, answers it reads, webhooks it believes and refuses."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import BounceClass, EvidenceKind, OutcomeKind
from app.errors import ConfigurationError, InvalidFields, WebhookRefused
from app.providers.base import AttemptRef, LookupVerdict, ProviderResponse, SendContext, WebhookRequest
from app.providers.registry import make_provider
from app.providers.sinch import Sinch, SinchAccount
from tests.messages import CONTEXT, DELIVERY, NOW, posted, sms_message

BATCH = "01FC66621XXXXX119Z8PMV1QPQ"
REFERENCE = f"{DELIVERY}.2"
ACCOUNT = SinchAccount("plan-1", "api-token", "+14155550100", webhook_secret="hook-secret", lookup_settle_seconds=600.0)
SINCH = Sinch(ACCOUNT)
UNSIGNED = Sinch(replace(ACCOUNT, webhook_secret=None, webhook_username="landed", webhook_password="pass:word"))
MESSAGE = sms_message()
PLAN = "https://us.sms.api.sinch.com/xms/v1/plan-1"


def batch(message=MESSAGE, sinch=SINCH, context=CONTEXT) -> dict[str, Any]:
    return json.loads(sinch.build(message, context).body)


def answer(status: int, body: Any = b"", **headers: str) -> ProviderResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ProviderResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def signed(
    payload: Any,
    *,
    key: str = "hook-secret",
    at: datetime = NOW,
    nonce: str = "01FJA8B4A7BM43YGWSG9GBV067",
    **changes: str,
) -> WebhookRequest:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    timestamp = str(int(at.timestamp()))
    mac = hmac.new(key.encode(), body + f".{nonce}.{timestamp}".encode(), hashlib.sha256).digest()
    headers = {
        "x-sinch-webhook-signature": b64encode(mac).decode(),
        "x-sinch-webhook-signature-nonce": nonce,
        "x-sinch-webhook-signature-timestamp": timestamp,
        "x-sinch-webhook-signature-algorithm": "HmacSHA256",
    }
    return posted(body, headers | {f"x-sinch-webhook-{name.replace('_', '-')}": v for name, v in changes.items()})


def report(status: str, code: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "type": "recipient_delivery_report_sms",
        "batch_id": BATCH,
        "recipient": "14155550101",
        "status": status,
        "code": code,
        "at": "2026-03-01T11:59:30.123Z",
        "client_reference": REFERENCE,
        "operator": "12345",
    } | more


def inbound(body: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "mo_text",
        "id": "01FC66621XXXXX119Z8PMV1QPR",
        "from": "14155550101",
        "to": "14155550100",
        "body": body,
        "received_at": "2026-03-01T11:59:31Z",
    } | more


# -- building ------------------------------------------------------------------------------------------------


def test_a_batch_carries_one_recipient_and_our_reference():
    request = SINCH.build(MESSAGE, CONTEXT)
    assert (request.method, request.url, request.timeout_seconds) == ("POST", f"{PLAN}/batches", 10.0)
    assert request.headers == {"Authorization": "Bearer api-token", "Content-Type": "application/json"}
    assert batch() == {
        "from": "+14155550100",
        "to": ["+14155550101"],
        "body": "Your code is 123456",
        "type": "mt_text",
        "delivery_report": "per_recipient",
        "client_reference": REFERENCE,
        "callback_url": CONTEXT.webhook_url,
        "expire_at": "2026-03-02T12:00:00.000Z",
    }


def test_a_callback_is_asked_for_only_where_it_would_be_believed():
    assert "callback_url" not in batch(context=SendContext(NOW, "account"))
    assert "callback_url" not in batch(sinch=UNSIGNED)  # the plan's own callback brings the password, ours would not


@pytest.mark.parametrize(("offset", "expires"), [(3600, 3600), (86400 * 9, 86400 * 3), (-5, 0)])
def test_a_text_is_not_delivered_after_it_expired(offset, expires):
    given = batch(replace(MESSAGE, expires_at=NOW + timedelta(seconds=offset)))["expire_at"]
    assert datetime.fromisoformat(given) == NOW + timedelta(seconds=expires)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_arrives_unchanged(text):
    assert batch(replace(MESSAGE, text=text))["body"] == text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"to": "14155550101"}, "to"),
        ({"to": "group"}, "to"),
        ({"text": ""}, "text"),
    ],
)
def test_what_must_never_leave_is_refused_by_name(changes, field):
    with pytest.raises(InvalidFields) as caught:
        SINCH.build(sms_message(**changes), CONTEXT)
    assert [error.field for error in caught.value.errors] == [field]


@pytest.mark.parametrize(
    ("changes", "host"),
    [({"region": "eu"}, "https://eu.sms.api.sinch.com"), ({"base_url": "http://127.0.0.1:1"}, "http://127.0.0.1:1")],
)
def test_each_region_has_its_host(changes, host):
    assert Sinch(replace(ACCOUNT, **changes)).build(MESSAGE, CONTEXT).url == f"{host}/xms/v1/plan-1/batches"


# -- the account ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"service_plan_id": "plan/1"}, "service_plan_id"),
        ({"service_plan_id": ""}, "service_plan_id"),
        ({"api_token": ""}, "api_token"),
        ({"api_token": "a\r\nX: b"}, "api_token"),
        ({"sender": ""}, "sender"),
        ({"webhook_secret": None}, "either webhook_secret or"),
        ({"webhook_username": "u", "webhook_password": "p"}, "either webhook_secret or"),
        ({"webhook_username": "u"}, "belong together"),
        ({"base_url": "https://us.sms.api.sinch.com/xms"}, "base_url"),
        ({"lookup_settle_seconds": -1.0}, "lookup_settle_seconds"),
    ],
)
def test_an_account_that_cannot_work_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        replace(ACCOUNT, **wrong)


def test_nothing_prints_a_secret():
    shown = "".join(map(repr, (ACCOUNT, UNSIGNED.account, SINCH.build(MESSAGE, CONTEXT))))
    assert not any(secret in shown for secret in ("api-token", "hook-secret", "pass:word"))


def test_an_account_is_made_from_settings():
    settings = {"adapter": "sinch", "service_plan_id": "p", "api_token": "t", "sender": "Acme", "webhook_secret": "s"}
    assert isinstance(make_provider("main", settings | {"region": "ca"}), Sinch)
    with pytest.raises(ConfigurationError, match=r"providers\.main\.region"):
        make_provider("main", settings | {"region": "mars"})


# -- answers to a send ---------------------------------------------------------------------------------------


def test_an_answer_with_a_batch_id_is_accepted():
    outcome = SINCH.interpret(answer(201, {"id": BATCH, "client_reference": REFERENCE, "canceled": False}), NOW)
    assert (outcome.kind, outcome.provider_message_id) == (OutcomeKind.ACCEPTED, BATCH)


@pytest.mark.parametrize("body", [b"", b"{", [], {}, {"id": ""}, {"id": "a/b"}, {"id": None}])
def test_an_answer_of_success_without_an_id_is_unknown(body):
    assert SINCH.interpret(answer(201, body), NOW).kind is OutcomeKind.UNKNOWN


@pytest.mark.parametrize(
    ("http", "code", "words", "kind"),
    [
        (400, "syntax_invalid_json", "", OutcomeKind.REJECTED),
        (400, "syntax_constraint_violation", "The request body doesn't fulfil the constraints", OutcomeKind.REJECTED),
        (400, "syntax_invalid_parameter_format", "The recipient number is invalid.", OutcomeKind.RECIPIENT_INVALID),
        (400, "syntax_invalid_parameter_format", "Field 'to': not an MSISDN", OutcomeKind.RECIPIENT_INVALID),
        (400, "syntax_invalid_parameter_format", "to[0] is not an MSISDN", OutcomeKind.RECIPIENT_INVALID),
        (400, "syntax_invalid_parameter_format", "Field 'from': failed to parse", OutcomeKind.REJECTED),
        (401, "", "", OutcomeKind.UNAUTHORIZED),
        (402, "", "", OutcomeKind.UNAUTHORIZED),
        (403, "missing_callback_url", "", OutcomeKind.UNAUTHORIZED),
        (403, "blocked_account", "", OutcomeKind.UNAUTHORIZED),
        (403, "unknown_group", "", OutcomeKind.REJECTED),
        (403, "unknown_campaign", "", OutcomeKind.REJECTED),
        (404, "", "", OutcomeKind.UNAUTHORIZED),
        (307, "", "", OutcomeKind.UNAUTHORIZED),
        (408, "", "", OutcomeKind.UNKNOWN),
        (413, "", "", OutcomeKind.REJECTED),
        (429, "", "", OutcomeKind.RATE_LIMITED),
        (500, "syntax_invalid_json", "", OutcomeKind.UNKNOWN),
        (503, "", "", OutcomeKind.UNKNOWN),
    ],
)
def test_every_refusal_has_its_class(http, code, words, kind):
    outcome = SINCH.interpret(answer(http, {"code": code, "text": words}, retry_after="3"), NOW)
    assert outcome.kind is kind
    assert outcome.retry_after_seconds == (3.0 if kind is OutcomeKind.RATE_LIMITED else None)
    assert outcome.reason is None  # the sender is the account's, and no code speaks of it alone
    assert outcome.detail == ": ".join(filter(None, (code, words))) or f"HTTP {http}"


def test_details_are_one_line_and_name_no_number():
    outcome = SINCH.interpret(answer(400, {"code": "x", "text": "14155550101\nis invalid"}), NOW)
    assert outcome.detail == "x: <number> is invalid"


# -- who sent a webhook --------------------------------------------------------------------------------------


def test_a_signed_webhook_is_believed_for_as_long_as_sinch_comes_again():
    for age in (timedelta(0), timedelta(hours=46), timedelta(minutes=-4)):
        SINCH.verify(signed(report("DELIVERED", 0), at=NOW - age), NOW)


@pytest.mark.parametrize("age", [timedelta(hours=49), timedelta(minutes=-6)])
def test_a_signature_from_another_time_is_stale(age):
    with pytest.raises(WebhookRefused) as caught:
        SINCH.verify(signed(report("DELIVERED", 0), at=NOW - age), NOW)
    assert caught.value.reason == "stale"


@pytest.mark.parametrize(
    "request_",
    [
        posted(b"{}"),
        signed({}, key="another"),
        signed({}, signature="x"),
        signed({}, signature="\udcff"),
        signed({}, signature_nonce=""),
        signed({}, signature_timestamp=""),
        signed({}, signature_nonce="another"),
        signed({}, signature_timestamp=str(int(NOW.timestamp()) - 1)),
        signed({}, signature_algorithm="HmacSHA1"),
        replace(signed({}), body=b"{} "),
    ],
)
def test_anything_else_is_forged(request_):
    with pytest.raises(WebhookRefused) as caught:
        SINCH.verify(request_, NOW)
    assert (caught.value.reason, caught.value.http_status) == ("forged", 401)


def test_two_secrets_are_believed_while_one_is_rotated_out():
    sinch = Sinch(replace(ACCOUNT, webhook_secret="newer", previous_webhook_secret="hook-secret"))
    sinch.verify(signed({}), NOW)
    sinch.verify(signed({}, key="newer"), NOW)


def basic(credentials: str) -> WebhookRequest:
    return posted(b"{}", {"Authorization": "Basic " + b64encode(credentials.encode()).decode()})


def test_an_unsigned_webhook_brings_the_password():
    UNSIGNED.verify(basic("landed:pass:word"), NOW)
    for request in (basic("landed:another"), basic(":"), basic("None:None"), posted(b"{}"), signed({})):
        with pytest.raises(WebhookRefused, match="password"):
            UNSIGNED.verify(request, NOW)
    with pytest.raises(WebhookRefused):
        SINCH.verify(basic("landed:pass:word"), NOW)


# -- delivery reports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind", "bounce"),
    [
        ("QUEUED", 400, EvidenceKind.ACCEPTED, None),
        ("DISPATCHED", 401, EvidenceKind.ACCEPTED, None),
        ("Dispatched", 401, EvidenceKind.ACCEPTED, None),
        ("UNKNOWN", None, EvidenceKind.ACCEPTED, None),
        ("DELIVERED", 0, EvidenceKind.DELIVERED, None),
        ("ABORTED", None, EvidenceKind.FAILED, None),
        ("ABORTED", 402, EvidenceKind.BOUNCED, BounceClass.SOFT),
        ("ABORTED", 403, EvidenceKind.FAILED, None),
        ("ABORTED", 404, EvidenceKind.FAILED, None),
        ("ABORTED", 405, EvidenceKind.FAILED, BounceClass.CONTENT),
        ("EXPIRED", 406, EvidenceKind.FAILED, None),
        ("EXPIRED", 34, EvidenceKind.BOUNCED, BounceClass.SOFT),
        ("CANCELLED", 407, EvidenceKind.FAILED, None),
        ("REJECTED", 408, EvidenceKind.FAILED, BounceClass.CONTENT),
        ("ABORTED", 410, EvidenceKind.BOUNCED, BounceClass.REPUTATION),
        ("ABORTED", 411, EvidenceKind.FAILED, BounceClass.CONTENT),
        ("ABORTED", 412, EvidenceKind.BOUNCED, BounceClass.REPUTATION),
        ("ABORTED", 413, EvidenceKind.FAILED, None),
        ("REJECTED", 61, EvidenceKind.BOUNCED, BounceClass.SOFT),
        ("FAILED", 5, EvidenceKind.BOUNCED, BounceClass.SOFT),
        ("DELETED", None, EvidenceKind.BOUNCED, BounceClass.SOFT),
        ("SOMETHING_NEW", 1, EvidenceKind.OTHER, None),
        ("DELIVERED", 402, EvidenceKind.DELIVERED, None),
    ],
)
def test_each_report_is_evidence_about_our_attempt(status, code, kind, bounce):
    (evidence,) = SINCH.parse(signed(report(status, code)))
    assert (evidence.kind, evidence.bounce_class, evidence.suppress_reason) == (kind, bounce, None)
    assert evidence.event_key == f"{BATCH}:{status.upper()}:{'' if code is None else code}"
    assert (evidence.delivery_id, evidence.attempt_no, evidence.provider_message_id) == (DELIVERY, 2, BATCH)
    assert evidence.address == "+14155550101"
    assert evidence.occurred_at == datetime(2026, 3, 1, 11, 59, 30, 123000, UTC)
    assert evidence.data["operator"] == "12345"


def test_a_report_about_a_batch_is_one_about_its_recipient():
    payload = {
        "type": "delivery_report_sms",
        "batch_id": BATCH,
        "client_reference": REFERENCE,
        "total_message_count": 1,
        "statuses": [{"code": 0, "status": "DELIVERED", "count": 1, "recipients": ["14155550101"]}],
    }
    (evidence,) = SINCH.parse(signed(payload))
    assert (evidence.kind, evidence.delivery_id, evidence.address) == (EvidenceKind.DELIVERED, DELIVERY, "+14155550101")
    assert evidence.event_key == SINCH.parse(signed(report("DELIVERED", 0)))[0].event_key
    assert evidence.occurred_at == NOW  # such a report names no time


@pytest.mark.parametrize("at", [None, "", "yesterday", 7, "0001-01-01T00:00:00+14:00"])
def test_a_report_without_a_time_happened_when_it_came(at):
    later = replace(signed(report("DELIVERED", 0, at=at)), received_at=NOW + timedelta(seconds=5))
    (evidence,) = SINCH.parse(later)
    assert (evidence.occurred_at, evidence.event_key) == (NOW + timedelta(seconds=5), f"{BATCH}:DELIVERED:0")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{",
        {},
        {"type": None},
        report(""),
        report("DELIVERED", 0, batch_id=None),
        report("QUEUED", batch_id="a/b"),
        inbound("x", id=""),
    ],
)
def test_what_is_no_report_is_malformed(payload):
    with pytest.raises(WebhookRefused) as caught:
        SINCH.parse(signed(payload))
    assert caught.value.reason == "malformed"


def test_a_webhook_of_a_type_nobody_knows_yet_is_kept():
    (evidence,) = SINCH.parse(signed({"type": "feedback"}))
    assert (evidence.kind, evidence.data) == (EvidenceKind.OTHER, {"type": "feedback"})
    assert evidence.event_key == SINCH.parse(signed({"type": "feedback"}, nonce="2"))[0].event_key


# -- inbound messages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "kind", "keyword"),
    [
        (inbound("STOP"), EvidenceKind.OPTED_OUT, "STOP"),
        (inbound("Opt out."), EvidenceKind.OPTED_OUT, "STOP"),
        (inbound("unstop"), EvidenceKind.OPTED_IN, "START"),
        (inbound("INFO"), EvidenceKind.OTHER, "HELP"),
        (inbound("my PIN is 4711"), EvidenceKind.OTHER, None),
        (inbound("U1RPUA==", type="mo_binary"), EvidenceKind.OTHER, None),
    ],
)
def test_an_answer_of_a_recipient_opts_out_or_in(payload, kind, keyword):
    (evidence,) = SINCH.parse(signed(payload | {"client_reference": REFERENCE}))
    assert (evidence.kind, evidence.address) == (kind, "+14155550101")
    assert evidence.data == {"inbound": True, "keyword": keyword, "to": "…0100"}
    assert evidence.event_key == "inbound:01FC66621XXXXX119Z8PMV1QPR"
    assert evidence.occurred_at == datetime(2026, 3, 1, 11, 59, 31, tzinfo=UTC)
    assert (evidence.delivery_id, evidence.provider_message_id) == (None, None)
    assert "4711" not in repr(evidence)


# -- looking up ----------------------------------------------------------------------------------------------

OPENED = NOW - timedelta(minutes=15)
ATTEMPT = AttemptRef(DELIVERY, 2, OPENED, "+14155550101", None)
KNOWN = replace(ATTEMPT, provider_message_id=BATCH)
LISTED = {"id": BATCH, "client_reference": REFERENCE, "created_at": "2026-03-01T11:45:01Z", "to": ["14155550101"]}


def look(response: ProviderResponse, attempt: AttemptRef = ATTEMPT, now=NOW, sinch: Sinch = SINCH):
    return sinch.interpret_lookup(attempt, response, now)


@pytest.mark.parametrize(("attempt", "what"), [(ATTEMPT, "batches"), (KNOWN, "delivery_reports")])
def test_a_lookup_asks_by_our_reference_from_before_the_attempt(attempt, what):
    request = SINCH.build_lookup(attempt, NOW)
    url, _, query = request.url.partition("?")
    assert (request.method, url, request.headers) == ("GET", f"{PLAN}/{what}", {"Authorization": "Bearer api-token"})
    assert parse_qs(query) == {"client_reference": [REFERENCE], "start_date": ["2026-03-01T11:40:00.000Z"]}


def test_a_batch_that_is_listed_was_sent_and_its_report_is_asked_for():
    lookup = look(answer(200, {"count": 1, "page": 0, "page_size": 30, "batches": [LISTED]}))
    assert lookup.verdict is LookupVerdict.FOUND
    (evidence,) = lookup.evidence
    assert (evidence.kind, evidence.provider_message_id) == (EvidenceKind.ACCEPTED, BATCH)
    assert (evidence.delivery_id, evidence.attempt_no) == (DELIVERY, 2)
    assert evidence.occurred_at == datetime(2026, 3, 1, 11, 45, 1, tzinfo=UTC)
    assert lookup.next_request == SINCH.build_lookup(KNOWN, NOW)


def test_a_report_that_is_listed_is_the_fact_a_webhook_would_have_told():
    lookup = look(answer(200, {"count": 1, "delivery_reports": [report("DELIVERED", 0)]}), KNOWN)
    assert (lookup.verdict, lookup.next_request) == (LookupVerdict.FOUND, None)
    assert tuple(lookup.evidence) == SINCH.parse(signed(report("DELIVERED", 0)))


@pytest.mark.parametrize("payload", [{"batches": []}, {"count": 0, "page": 0}])
@pytest.mark.parametrize(
    ("settle", "age", "known", "verdict"),
    [
        (600.0, 900, False, LookupVerdict.NOT_SENT),
        (600.0, 599, False, LookupVerdict.TOO_EARLY),
        (None, 900, False, LookupVerdict.TOO_EARLY),
        (600.0, 900, True, LookupVerdict.TOO_EARLY),  # it was accepted: only its report is missing
        (600.0, 4 * 86400, False, LookupVerdict.UNANSWERABLE),
    ],
)
def test_absence_proves_only_what_the_account_says_it_does(payload, settle, age, known, verdict):
    sinch = Sinch(replace(ACCOUNT, lookup_settle_seconds=settle))
    attempt = KNOWN if known else ATTEMPT
    assert look(answer(200, payload), attempt, OPENED + timedelta(seconds=age), sinch).verdict is verdict


@pytest.mark.parametrize(
    "response",
    [
        answer(401, {"batches": []}),
        answer(404, {"batches": []}),
        answer(500, {"batches": []}),
        answer(200, b"{"),
        answer(200, {}),
        answer(200, {"count": 3}),
        answer(200, {"count": 1, "batches": None}),
        answer(200, {"count": 1, "batches": ["x"]}),
        answer(200, {"count": 31, "page": 0, "batches": []}),
        answer(200, {"batches": {"id": "x"}}),
        answer(200, {"batches": [LISTED | {"client_reference": "other"}]}),  # the filter was ignored: absence unproved
        answer(200, {"batches": [{"client_reference": REFERENCE}]}),
    ],
)
def test_a_question_that_failed_is_no_answer(response):
    lookup = look(response)
    assert (lookup.verdict, lookup.evidence, lookup.next_request) == (LookupVerdict.UNAVAILABLE, (), None)


# -- whatever comes ------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.just(BATCH)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner))
TYPES = st.sampled_from(["recipient_delivery_report_sms", "delivery_report_sms", "mo_text", "mo_binary", "x"])
FIELDS = st.fixed_dictionaries({}, optional=dict.fromkeys([*report(""), *inbound(""), "statuses"], JSON))
PAYLOADS = JSON | st.tuples(FIELDS, TYPES).map(lambda pair: report("FAILED", 5) | pair[0] | {"type": pair[1]})
BODIES = st.binary(max_size=100) | PAYLOADS.map(lambda value: json.dumps(value).encode())


@given(BODIES, st.text(), st.text(), st.text())
def test_whatever_comes_a_webhook_is_read_or_refused(body, signature, nonce, authorization):
    request = signed(body, signature=signature, signature_nonce=nonce)
    with pytest.raises(WebhookRefused):
        SINCH.verify(request, NOW)
    with pytest.raises(WebhookRefused):
        UNSIGNED.verify(posted(body, {"Authorization": authorization}), NOW)
    SINCH.verify(signed(body), NOW)
    with contextlib.suppress(WebhookRefused):
        for evidence in SINCH.parse(request):
            assert 0 < len(evidence.event_key) <= 200
            json.dumps(evidence.data).encode()


@given(st.integers(100, 599), BODIES, st.text())
def test_whatever_comes_an_answer_has_a_meaning(http, body, wait):
    outcome = SINCH.interpret(ProviderResponse(http, {"retry-after": wait}, body), NOW)
    assert len(outcome.detail) <= 400


ITEMS: st.SearchStrategy[Any] = (
    JSON | FIELDS.map(lambda odd: report("FAILED", 5) | odd) | JSON.map(lambda odd: LISTED | {"id": odd})
)


@given(st.lists(ITEMS, max_size=3) | JSON, st.sampled_from(["batches", "delivery_reports"]), st.integers(199, 201))
def test_whatever_comes_a_lookup_has_a_verdict(items, what, http):
    payload: Mapping[str, Any] = {what: items}
    assert look(answer(http, payload)).verdict in LookupVerdict
