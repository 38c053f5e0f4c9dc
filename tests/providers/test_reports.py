"""Bounces and complaints as raw messages: what they prove, of which attempt, and what nobody may make us believe."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.models import BounceClass, Evidence, EvidenceKind
from app.errors import WebhookRefused
from app.providers.smtp import Smtp, SmtpAccount
from tests.messages import CONTEXT, DELIVERY, email_message, posted

SMTP = Smtp(SmtpAccount("relay.test", "mail.test", "a-token-of-some-length"))
SENT = SMTP.build(email_message(to="ada@example.test"), CONTEXT)
REFERENCE = SENT.envelope_id or ""
HEADERS = SENT.message.partition(b"\r\n\r\n")[0].decode()
MESSAGE_ID = f"{HEADERS.partition('Message-ID: <')[2].partition('>')[0]}"
RECEIVED = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)
DATE = "Sun, 1 Mar 2026 13:00:01 +0100"
OCCURRED = datetime(2026, 3, 1, 12, 0, 1, tzinfo=UTC)
OURS = (DELIVERY, 2, MESSAGE_ID)

ABOUT = f"Reporting-MTA: dns; relay.test\nX-Postfix-Queue-ID: 4b1\nOriginal-Envelope-Id: {REFERENCE}\n"
FAILED = """Final-Recipient: rfc822; ada@example.test
Original-Recipient: rfc822;ada@example.test
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.example.test
Diagnostic-Code: smtp; 550 5.1.1 <ada@example.test>: Recipient address rejected:
    User unknown in virtual mailbox table
"""


def report(
    about: str = ABOUT,
    recipients: Sequence[str] = (FAILED,),
    *,
    to: str = "bounces@mail.test",
    head: str = f"Message-ID: <r1@relay.test>\nDate: {DATE}\n",
    returned: str | None = None,
    kind: str = "delivery-status",
) -> bytes:
    """A report as a mail server writes it."""
    blocks = "\n".join((about, *recipients))
    returned_part = "" if returned is None else f"--b1\nContent-Type: text/rfc822-headers\n\n{returned}\n\n"
    return (
        f"From: MAILER-DAEMON@relay.test\nTo: {to}\nAuto-Submitted: auto-replied\nMIME-Version: 1.0\n{head}"
        f'Content-Type: multipart/report; report-type={kind};\n\tboundary="b1"\n\nThis is a MIME message.\n\n'
        f"--b1\nContent-Type: text/plain; charset=us-ascii\n\nI'm sorry to have to inform you.\n\n"
        f"--b1\nContent-Type: message/{kind}\n\n{blocks}\n{returned_part}--b1--\n"
    ).encode()


def read(raw: bytes | str, smtp: Smtp = SMTP) -> Sequence[Evidence]:
    return smtp.parse(replace(posted(raw), received_at=RECEIVED))


def only(raw: bytes | str, smtp: Smtp = SMTP) -> Evidence:
    (evidence,) = read(raw, smtp)
    return evidence


def refused(raw: bytes | str) -> tuple[str, int]:
    with pytest.raises(WebhookRefused) as caught:
        read(raw)
    return caught.value.reason, caught.value.http_status


def ids(evidence: Evidence) -> tuple[object, object, object]:
    return evidence.delivery_id, evidence.attempt_no, evidence.provider_message_id


def failed(status: str, diagnostic: str | None = None, *, action: str = "failed") -> str:
    lines = f"Final-Recipient: rfc822; ada@example.test\nAction: {action}\nStatus: {status}\n"
    return lines if diagnostic is None else f"{lines}Diagnostic-Code: {diagnostic}\n"


# -- delivery reports ----------------------------------------------------------------------------------------


def test_an_unknown_user_is_a_hard_bounce_of_the_attempt():
    evidence = only(report())
    assert evidence.kind is EvidenceKind.BOUNCED
    assert (evidence.bounce_class, evidence.suppress_reason) == (BounceClass.HARD, "hard_bounce")
    assert ids(evidence) == OURS
    assert evidence.occurred_at == OCCURRED
    assert evidence.address == "ada@example.test"
    assert evidence.data == {
        "report": "delivery",
        "action": "failed",
        "status": "5.1.1",
        "diagnostic": "smtp; 550 5.1.1 <<address>>: Recipient address rejected: User unknown in virtual mailbox table",
        "remote_mta": "mx.example.test",
        "reporting_mta": "relay.test",
    }


@pytest.mark.parametrize(
    ("action", "status", "kind"),
    [
        ("failed", "5.0.0", EvidenceKind.BOUNCED),
        ("Failed (gave up)", "4.4.7", EvidenceKind.BOUNCED),
        ("delayed", "4.4.1", EvidenceKind.DEFERRED),
        ("delivered", "2.0.0", EvidenceKind.DELIVERED),
        ("relayed", "2.0.0", EvidenceKind.ACCEPTED),
        ("expanded", "2.0.0", EvidenceKind.ACCEPTED),
        ("exploded", "5.0.0", EvidenceKind.OTHER),
        ("", "5.1.1", EvidenceKind.OTHER),
        ("delivered", "5.1.1", EvidenceKind.OTHER),
        ("failed", "2.0.0", EvidenceKind.OTHER),
        ("delayed", "2.0.0", EvidenceKind.OTHER),
    ],
)
def test_an_action_means_what_its_status_allows(action, status, kind):
    evidence = only(report(recipients=[failed(status, action=action)]))
    assert evidence.kind is kind
    assert ids(evidence) == OURS
    assert (evidence.bounce_class is None) == (kind is not EvidenceKind.BOUNCED)


def test_relayed_proves_delivery_where_the_account_says_so():
    direct = Smtp(replace(SMTP.account, relayed_is_delivered=True))
    assert only(report(recipients=[failed("2.0.0", action="relayed")]), direct).kind is EvidenceKind.DELIVERED
    assert only(report(recipients=[failed("2.0.0", action="expanded")]), direct).kind is EvidenceKind.ACCEPTED
    assert only(report(recipients=[failed("5.0.0", action="relayed")]), direct).kind is EvidenceKind.OTHER


HARD, SOFT, CONTENT, REPUTATION = BounceClass.HARD, BounceClass.SOFT, BounceClass.CONTENT, BounceClass.REPUTATION


@pytest.mark.parametrize(
    ("status", "diagnostic", "expected"),
    [
        ("5.1.1", None, HARD),
        ("5.1.1", 'x-postfix; unknown user: "nobody"', HARD),
        ("5.1.10", "smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found", HARD),
        ("5.0.0", "smtp; 550 #5.1.0 Address rejected: no such user", HARD),
        ("5.0.0", "smtp; 550 No such user here", HARD),
        ("5.2.1", "smtp; 550 5.2.1 disabled", HARD),
        ("5.1.2", "dns; Host not found", HARD),
        ("5.0.0", "smtp; 550", SOFT),
        ("5.0.0", "smtp; 550 Requested action not taken: mailbox unavailable", SOFT),
        ("5.0.0", "x-unix; 67", SOFT),
        ("5.2.2", "smtp; 552 5.2.2 over quota", SOFT),
        ("4.2.2", "smtp; 452 4.2.2 over quota", SOFT),
        ("4.4.1", "x-postfix; connect to mx.example.test: Connection timed out", SOFT),
        ("5.4.4", "x-postfix; Host or domain name not found", SOFT),
        ("4.7.1", "smtp; 451 4.7.1 Greylisted", SOFT),
        ("5.3.4", "smtp; 552 5.3.4 too big", CONTENT),
        ("5.6.0", None, CONTENT),
        ("5.5.2", "smtp; 500 5.5.2 what?", CONTENT),
        ("5.7.1", "smtp; 550 5.7.1 blocked", REPUTATION),
        ("5.1.1", "smtp; 550 5.7.1 blocked by a list", REPUTATION),
        ("5.0.0", "smtp; 554 blocked using a dnsbl", REPUTATION),
        ("5.1.8", "smtp; 550 5.1.8 sender domain", REPUTATION),
        ("5.7.26", None, REPUTATION),
        ("5.0.0", "smtp; 554 5.7.1 Relay access denied", REPUTATION),
        ("5.5.0", "smtp; 530 5.7.0 Must issue STARTTLS", REPUTATION),
    ],
)
def test_a_bounce_blames_the_address_on_plain_signs_alone(status, diagnostic, expected):
    evidence = only(report(recipients=[failed(status, diagnostic)]))
    assert evidence.bounce_class is expected
    assert (evidence.suppress_reason == "hard_bounce") == (expected is HARD)


def test_the_failure_of_what_lies_behind_an_address_does_not_condemn_the_address():
    behind = FAILED.replace("Final-Recipient: rfc822; ada@example.test", "Final-Recipient: rfc822; old@elsewhere.test")
    evidence = only(report(recipients=[behind]))
    assert (evidence.kind, evidence.bounce_class, evidence.suppress_reason) == (EvidenceKind.BOUNCED, SOFT, None)
    assert evidence.address == "ada@example.test"


@pytest.mark.parametrize("original", ["ada+2Bnews@Example.test", "ada+news@example.test", "<ada+news@example.test>"])
def test_an_address_is_the_same_in_xtext_and_in_any_case(original):
    block = FAILED.replace("; ada@", "; ada+news@").replace(";ada@example.test", f";{original}")
    assert only(report(recipients=[block])).bounce_class is HARD


def test_each_recipient_of_a_report_is_a_fact_of_its_own():
    delivered = failed("2.0.0", action="delivered").replace("ada@", "bob@")
    first, second = read(report(recipients=[FAILED, delivered]))
    assert (first.kind, second.kind) == (EvidenceKind.BOUNCED, EvidenceKind.DELIVERED)
    assert first.event_key != second.event_key


def test_one_block_for_everything_is_read_all_the_same():
    assert only(report(about=ABOUT + FAILED, recipients=[])).bounce_class is HARD


# -- whose it is ---------------------------------------------------------------------------------------------

NO_ID = "Reporting-MTA: dns; relay.test\n"
XTEXT = REFERENCE.replace("-", "+2D")


@pytest.mark.parametrize(
    "raw",
    [
        report(),
        report(ABOUT.replace(REFERENCE, XTEXT)),
        report(ABOUT.replace(REFERENCE, REFERENCE.upper())),
        report(NO_ID, to=SENT.envelope_from),
        report(NO_ID, to=f"<{SENT.envelope_from}>"),
        report(NO_ID, head=f"Delivered-To: {SENT.envelope_from}\n"),
        report(NO_ID, head=f"X-Original-To: {SENT.envelope_from}\n"),
        report(NO_ID, head=f"Envelope-To: {SENT.envelope_from}\n"),
        report(NO_ID, returned=HEADERS),
        report(NO_ID, returned=f"Return-Path: <{SENT.envelope_from}>\nSubject: x"),
        report(NO_ID, returned=f"X-Landed-Reference: {REFERENCE}"),
        report(NO_ID, returned=HEADERS).replace(b"text/rfc822-headers", b"message/rfc822"),
    ],
)
def test_a_report_is_known_by_envelope_id_or_recipient_or_returned_headers(raw):
    assert ids(only(raw)) == OURS


def test_a_message_id_alone_names_the_delivery_and_leaves_the_attempt_to_the_record():
    evidence = only(report(NO_ID, returned=f"Message-ID: <{MESSAGE_ID}>"))
    assert ids(evidence) == (DELIVERY, None, MESSAGE_ID)


@pytest.mark.parametrize(
    "raw",
    [
        report(NO_ID),
        report(NO_ID, to="bounces+whatever@mail.test", returned="Message-ID: <1@elsewhere.test>"),
        report(f"Original-Envelope-Id: {DELIVERY}.2\n"),
        report(f"Original-Envelope-Id: {REFERENCE[:-3]}aaa\n"),
        report(NO_ID, returned=f"Message-ID: <{DELIVERY}@mail.test>"),
    ],
)
def test_a_report_without_a_reference_that_we_signed_moves_nothing(raw):
    """Knowing a delivery's id is not having had its message."""
    assert refused(raw) == ("unidentified", 202)


# -- the same report again -----------------------------------------------------------------------------------


def test_a_report_delivered_twice_is_one_fact():
    again = b"Received: from a by b; Mon, 2 Mar 2026 00:00:00 +0000\nReturn-Path: <>\n" + report()
    assert only(report()).event_key == only(again).event_key
    later = SMTP.parse(replace(posted(report()), received_at=RECEIVED + timedelta(days=2)))
    assert (later[0].event_key, later[0].occurred_at) == (only(report()).event_key, OCCURRED)


def test_without_a_message_id_it_is_known_by_what_it_says():
    def without(**changes: str) -> Evidence:
        about = ABOUT + f"Arrival-Date: {changes.get('arrival', DATE)}\n"
        block = FAILED + f"Last-Attempt-Date: {changes.get('last', DATE)}\n"
        return only(report(about, [block], head=f"Date: {DATE}\n"))

    assert without().event_key == without().event_key
    assert without(arrival="Sat, 28 Feb 2026 13:00:01 +0100").event_key != without().event_key
    assert without(last="Sat, 28 Feb 2026 13:00:01 +0100").event_key != without().event_key


def test_what_differs_is_another_fact():
    keys = {
        only(raw).event_key
        for raw in (
            report(),
            report(head=f"Message-ID: <r2@relay.test>\nDate: {DATE}\n"),
            report(recipients=[failed("4.4.1", action="delayed")]),
            report(recipients=[failed("5.1.2")]),
            report(recipients=[FAILED.replace("Final-Recipient: rfc822; ada", "Final-Recipient: rfc822; bob")]),
        )
    }
    assert len(keys) == 5
    assert all(len(key) < 100 for key in keys)


# -- when ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("date", "last_attempt", "expected"),
    [
        (DATE, None, OCCURRED),
        ("Sun, 1 Mar 2026 12:00:01 -0000", None, OCCURRED),
        ("nonsense", DATE, OCCURRED),
        ("Thu, 1 Jan 1970 00:00:00 +0000", DATE, OCCURRED),
        ("Fri, 1 Jan 2100 00:00:00 +0000", DATE, OCCURRED),
        ("Sun, 1 Mar 2026 12:00:06 +0000", None, RECEIVED),
        ("Sun, 32 Mar 2026 99:99:99 +9999", None, RECEIVED),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None, RECEIVED),
        ("Sat, 1 Jan 0001 00:00:00 +2359", None, RECEIVED),
        ("", None, RECEIVED),
        ("Tue, 24 Feb 2026 12:00:00 +0000", None, datetime(2026, 2, 24, 12, 0, tzinfo=UTC)),
    ],
)
def test_a_date_that_cannot_be_true_is_not_believed(date, last_attempt, expected):
    block = FAILED + (f"Last-Attempt-Date: {last_attempt}\n" if last_attempt else "")
    assert only(report(recipients=[block], head=f"Date: {date}\n")).occurred_at == expected


# -- complaints ----------------------------------------------------------------------------------------------


def feedback(kind: str = "abuse", *, returned: str | None = HEADERS, extra: str = "") -> bytes:
    about = f"Feedback-Type: {kind}\nUser-Agent: SomeGenerator/1.0\nVersion: 1\n{extra}"
    return report(about, (), returned=returned, kind="feedback-report", to="abuse@mail.test")


def test_a_complaint_suppresses_its_address():
    evidence = only(feedback(extra="Original-Rcpt-To: <ada@example.test>\nReported-Domain: mail.test\n"))
    assert (evidence.kind, evidence.suppress_reason) == (EvidenceKind.COMPLAINED, "complaint")
    assert ids(evidence) == OURS
    assert evidence.address == "ada@example.test"
    assert evidence.occurred_at == OCCURRED
    assert evidence.data == {
        "report": "feedback",
        "feedback_type": "abuse",
        "user_agent": "SomeGenerator/1.0",
        "reported_domain": "mail.test",
    }


@pytest.mark.parametrize(
    ("kind", "complained"),
    [
        ("abuse", True),
        ("Fraud", True),
        ("not-spam", False),
        ("virus", False),
        ("other", False),
        ("auth-failure", False),
    ],
)
def test_only_who_complains_is_suppressed(kind, complained):
    evidence = only(feedback(kind))
    assert (evidence.kind is EvidenceKind.COMPLAINED) == complained
    assert (evidence.suppress_reason == "complaint") == complained
    assert ids(evidence) == OURS


@pytest.mark.parametrize(
    "raw",
    [
        feedback(returned="Subject: hello\nTo: <redacted>\nX-Landed-Reference: " + REFERENCE),
        feedback(returned=None, extra=f"Original-Envelope-Id: {REFERENCE}\n"),
        feedback(returned=None, extra=f"Original-Mail-From: <{SENT.envelope_from}>\n"),
        feedback().replace(b"text/rfc822-headers", b"message/rfc822"),
    ],
)
def test_a_redacted_complaint_is_known_by_our_reference(raw):
    assert ids(only(raw)) == OURS


def test_a_complaint_delivered_twice_is_one_fact():
    assert only(feedback()).event_key == only(feedback()).event_key
    assert only(feedback()).event_key != only(feedback("not-spam")).event_key


# -- what is no report ---------------------------------------------------------------------------------------

TO_US = f"To: {SENT.envelope_from}\nMessage-ID: <1@example.test>\nDate: {DATE}\n"


@pytest.mark.parametrize(
    "raw",
    [
        f"{TO_US}Auto-Submitted: auto-replied\nSubject: Out of office\n\nBack on Monday.\n",
        f"{TO_US}Auto-Submitted: auto-generated (vacation)\n\n\n",
        f"{TO_US}Precedence: auto_reply\n\n\n",
        f"{TO_US}X-Autoreply: yes\n\n\n",
        "To: bounces@mail.test\nAuto-Submitted: auto-replied\n\n\n",
        f"{TO_US}Content-Type: multipart/report; report-type=disposition-notification; boundary=b\n\n--b\n\nRead.\n",
    ],
)
def test_an_automatic_reply_is_no_bounce(raw):
    assert read(raw) == ()


def test_an_answer_that_nobody_can_classify_goes_on_the_timeline():
    evidence = only(f"{TO_US}Auto-Submitted: no\nSubject: failure notice for ada@example.test\n\nHi. This is qmail.\n")
    assert (evidence.kind, evidence.suppress_reason) == (EvidenceKind.OTHER, None)
    assert ids(evidence) == OURS
    assert evidence.data == {"report": "unknown", "subject": "failure notice for <address>"}


def test_mail_for_somebody_else_is_counted_and_let_go():
    assert refused("To: bounces@mail.test\nSubject: buy this\n\nNow.\n") == ("not_a_report", 202)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n\n\n",
        b"no header here",
        b"\x00\xff\xfe",
        report(recipients=[]),
        report().replace(b"message/delivery-status", b"text/plain"),
        report().replace(b"--b1", b"--b2"),
        feedback("abuse").replace(b"Feedback-Type", b"X-Type"),
        feedback("abuse").replace(b"message/feedback-report", b"text/plain"),
    ],
)
def test_nonsense_is_malformed(raw):
    assert refused(raw) == ("malformed", 422)


# -- how it comes --------------------------------------------------------------------------------------------


def encoded(how: str) -> bytes:
    raw = report()
    begin = raw.index(b"Reporting-MTA")
    end = raw.index(b"--b1--")
    blocks = raw[begin:end]
    coded = b64encode(blocks) + b"\n" if how == "base64" else blocks.replace(b"=", b"=3D").replace(b"-", b"=2D")
    head = raw[:begin].removesuffix(b"\n") + f"Content-Transfer-Encoding: {how}\n\n".encode()
    return head + coded + raw[end:]


@pytest.mark.parametrize(
    "raw",
    [
        report().replace(b"\n", b"\r\n"),
        b"From MAILER-DAEMON Sun Mar  1 12:00:01 2026\n" + report(),
        report().replace(b"--b1--\n", b""),
        report(returned=HEADERS)[:-30],
        report(returned="X: " + "x" * 2_000_000),
        b'Content-Type: multipart/mixed; boundary="outer"\nTo: x@mail.test\nMessage-ID: <r1@relay.test>\nDate: '
        + f"{DATE}\n\n--outer\n".encode()
        + report()
        + b"\n--outer\nContent-Type: text/plain\n\nA list's footer.\n--outer--\n",
        encoded("base64"),
        encoded("quoted-printable"),
        report().replace(b"delivery-status", b"global-delivery-status"),
        report().replace(b'boundary="b1"', b"boundary=b1"),
        report().replace(b"\n--b1\n", b"\n--b1  \n"),
        report(recipients=["  \n" + FAILED]),
    ],
    ids=[
        "CRLF",
        "mbox",
        "no end",
        "cut short",
        "long",
        "wrapped",
        "base64",
        "qp",
        "global",
        "bare",
        "blanks",
        "blank lines",
    ],
)
def test_a_report_is_read_however_it_comes(raw):
    evidence = only(raw)
    assert (evidence.bounce_class, ids(evidence), evidence.occurred_at) == (HARD, OURS, OCCURRED)


def test_a_report_inside_of_a_returned_message_is_not_ours_to_act_on():
    forwarded = "\n".join(["Subject: fwd", "MIME-Version: 1.0", report().decode()])
    outer = (
        f"{TO_US}Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: message/rfc822\n\n{forwarded}\n--o--\n"
    )
    assert only(outer).kind is EvidenceKind.OTHER


def nested(levels: int) -> bytes:
    opening = "".join(f'Content-Type: multipart/mixed; boundary="n{i}"\n\n--n{i}\n' for i in range(levels))
    return f"Subject: deep\n{opening}".encode() + report()


def test_depth_and_number_have_an_end():
    assert refused(nested(10_000))[0] == "not_a_report"
    many = report(recipients=[failed("5.1.1").replace("ada", f"a{i}") for i in range(5_000)])
    assert len(read(many)) == 50
    parts = b"Content-Type: multipart/mixed; boundary=p\nTo: x@y.test\n\n" + b"--p\n\nx\n" * 100_000 + report()
    assert refused(parts)[0] == "not_a_report"


@pytest.mark.parametrize(
    "raw",
    [
        report(NO_ID, to=(REFERENCE[:-1] + "!") * 20_000),
        report(NO_ID, head="".join(f"Delivered-To: {i}\n" for i in range(60_000))),
        report(about="a@" * 400_000),
        report(recipients=[failed("5.1.1", "smtp; 550 " + "a" * 500_000 + "@")]),
        report(recipients=["\n \n" * 300_000]),
        b"Content-Type: multipart/report; boundary=b" + b"; a=b" * 12_000 + b"\n\n" + b"--b" * 300_000,
        b"Subject: " + b"=?utf-8?q?x?= " * 60_000 + b"\n\n",
        b"A: \n" + b" \n" * 500_000,
        b"\n --b" * 200_000,
        b"Date: " + b"(" * 60_000 + b"\n\n",
    ],
)
@pytest.mark.timeout(5)
def test_hostile_mail_costs_no_more_than_it_is_long(raw):
    with suppress(WebhookRefused):
        read(raw)


OPEN_QUOTE = 'Content-Type: multipart/report; report-type=delivery-status; boundary="b1"; x="'


def typed(content_type: str) -> bytes:
    """A report under a content type of a stranger's making. Read, it would be a bounce."""
    before, _, rest = report().decode().replace("Auto-Submitted: auto-replied\n", "").partition("Content-Type: ")
    return f"{before}{content_type}{rest[rest.index(chr(10) * 2) :]}".encode()


def wrapped(*parts: bytes) -> bytes:
    inside = b"".join(b"--o\n" + part + b"\n" for part in parts)
    return b"Subject: fwd\nContent-Type: multipart/mixed; boundary=o\n\n" + inside + b"--o--\n"


@pytest.mark.parametrize("junk", [";" * 60_000, ";" * 30, "a" * 2000], ids=["both", "many", "long"])
@pytest.mark.parametrize("wrap", [bytes, wrapped], ids=["top", "nested"])
def test_a_content_type_that_would_cost_much_to_read_is_not_looked_into(junk, wrap):
    """The stdlib takes seconds for the first of these, and the event loop stands still meanwhile."""
    assert refused(wrap(typed(OPEN_QUOTE + junk))) == ("not_a_report", 202)
    assert only(wrap(typed(OPEN_QUOTE + '"'))).bounce_class is HARD, "it is the junk that is not looked into"


@pytest.mark.timeout(10)  # half a minute, were they read
def test_many_parts_with_an_open_quote_cost_no_more_than_they_are_long():
    assert refused(wrapped(*[(OPEN_QUOTE + ";" * 60_000 + "\n\nx\n").encode()] * 16)) == ("not_a_report", 202)


@pytest.mark.parametrize(
    ("parameters", "verdict"),
    [
        (
            "boundary*=a; boundary*0=b",
            ("malformed", 422),
        ),  # pieces with a number and without: the stdlib cannot sort them
        ("boundary*=idna'x'y", ("malformed", 422)),
        ("boundary*=undefined'x'y", ("malformed", 422)),
        (f"boundary*{'9' * 5000}=x", ("not_a_report", 202)),  # more digits than Python reads
    ],
    ids=["mixed", "idna", "undefined", "digits"],
)
@pytest.mark.parametrize("wrap", [bytes, wrapped], ids=["top", "nested"])
def test_parameters_in_pieces_that_make_no_sense_are_refused_for_good(parameters, verdict, wrap):
    """Anything but a refusal would be answered 500, and the mail server come again for days."""
    assert refused(wrap(typed(f"Content-Type: multipart/report; {parameters}"))) == verdict


@given(st.binary(max_size=2000))
@example(b"Content-Type: multipart/report; boundary*0*=%%; report-type*=x'y'z\n\n--\n")
@example(b"Content-Type: multipart/mixed; boundary=\xff\n\n--\xff\n\n")
def test_arbitrary_bytes_are_only_ever_refused(raw):
    with suppress(WebhookRefused):
        assert isinstance(read(raw), tuple)


PIECES = st.sampled_from(
    [
        ABOUT.encode(),
        FAILED.encode(),
        b"--b1\n",
        b"--b1--\n",
        b"\n",
        b"\r\n",
        b"Content-Type: message/delivery-status\n",
    ]
    + [b"Content-Type: multipart/report; report-type=delivery-status; boundary=b1\n", b"Content-Type: message/rfc822\n"]
    + [
        b"Content-Transfer-Encoding: base64\n",
        f"To: {SENT.envelope_from}\n".encode(),
        b"Date: x\n",
        b"=3D=\n",
        b"\0\xff",
    ]
    + [b"Feedback-Type: abuse\n", b"Content-Type: message/feedback-report\n", b"Action: failed\n", b"Status: 5.1.1\n"]
)


@given(st.lists(PIECES | st.binary(max_size=20), max_size=30))
def test_shuffled_reports_are_read_or_refused(pieces):
    with suppress(WebhookRefused):
        for evidence in read(b"".join(pieces)):
            assert evidence.delivery_id == DELIVERY
            assert evidence.occurred_at <= RECEIVED
            assert (evidence.suppress_reason == "hard_bounce") == (evidence.bounce_class is HARD)
