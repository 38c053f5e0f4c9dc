"""SMTP against Postfix: what it takes, what it refuses, and the reports it writes by itself, come home by a pipe.

Two servers. The *relay* takes our mail with STARTTLS and a login, and pipes what comes back to ``landed bounce``, as
docs/how-to/use-smtp.md says. The *destination* has the mailboxes.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import smtplib
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import trustme

from app.domain.models import BounceClass, Evidence, EvidenceKind, Outcome, OutcomeKind
from app.errors import WebhookRefused
from app.providers.base import SendContext, WebhookRequest
from app.providers.smtp import Smtp, SmtpAccount
from app.providers.smtp_transport import SmtpTransport
from tests.conftest import TEMPLATE, Cluster
from tests.messages import email_message
from tests.postfix_process import Listener, Postfix, need_postfix
from tests.sandbox_process import wait_until
from tests.system import System

pytestmark = pytest.mark.slow

TOKEN = "the-token-of-the-bounce-pipe"
ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 90  # only bounds a run that is broken

# What a pipe starts runs as nobody, who may not see the interpreter of this checkout. So it leaves the message in a
# box, and ends with the code that `landed bounce`, run on this side with that very input, ended with.
HAND_OVER = """\
#!/bin/sh
mail=$(mktemp "$1/XXXXXXXX") && cat > "$mail" && mv "$mail" "$mail.mail" || exit 75
until [ -e "$mail.code" ]; do sleep 0.05; done
exit "$(cat "$mail.code")"
"""

REFUSALS = {
    "full": "552 5.2.2 Mailbox full",
    "listed": "554 5.7.1 Service unavailable; client host is on a block list",
    "big": "552 5.3.4 Message too big for this mailbox",
    "later": "450 4.3.2 Not now",
}


# -- the bounce endpoint: the adapter behind a bare HTTP server ----------------------------------------------


@dataclass
class Endpoint:
    """What the API does with a webhook, as far as the adapter is concerned. ``statuses``: to answer first.

    url: where the pipe takes what comes back; here, unless a test has it go elsewhere.
    """

    smtp: Smtp
    url: str = ""
    statuses: list[int] = field(default_factory=list)
    raw: list[tuple[UUID | None, bytes]] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    piping: threading.Lock = field(default_factory=threading.Lock)

    def take(self, headers: dict[str, str], body: bytes) -> int:
        if self.statuses:
            return self.statuses.pop(0)
        request = as_posted(body, headers)
        try:
            self.smtp.verify(request, request.received_at)
            facts = self.smtp.parse(request)
        except WebhookRefused as refused:
            return refused.http_status
        self.raw += [(fact.delivery_id, body) for fact in facts]
        self.evidence += facts
        return 200

    def raw_about(self, delivery_id: UUID) -> bytes:
        return next(body for about, body in self.raw if about == delivery_id)

    def about(self, delivery_id: UUID, kind: EvidenceKind) -> Evidence:
        def found() -> Evidence | None:
            return next((e for e in self.evidence if e.delivery_id == delivery_id and e.kind is kind), None)

        evidence: Evidence = wait_until(found, seconds=WAIT_SECONDS, what=f"{kind} of {delivery_id}")
        with self.piping:  # who brought it has ended, too
            return evidence


def as_posted(body: bytes, headers: Mapping[str, str] | None = None) -> WebhookRequest:
    return WebhookRequest("POST", "https://notify.test/", headers or {}, body, datetime.now(UTC))


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = endpoint.take({name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        endpoint.url = f"http://127.0.0.1:{server.server_port}/api/v1/webhooks/smtp"
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# -- the two servers -----------------------------------------------------------------------------------------


@dataclass
class World:
    """smtp: an account at the relay. incoming, mx: where the relay, and the destination, take mail from servers."""

    smtp: Smtp
    endpoint: Endpoint
    incoming: Listener
    mx: Listener
    mail: Path

    def mailbox(self, user: str) -> list[Path]:
        return list((self.mail / user / "new").iterdir())


@contextmanager
def piped(box: Path, token_file: Path, endpoint: Endpoint) -> Iterator[None]:
    """Runs ``landed bounce`` on each message that the pipe left in the box."""
    over = threading.Event()

    def run() -> None:
        program = [sys.executable, "-m", "app.cli", "bounce", "--token-file", str(token_file)]
        while not over.wait(0.02):
            for mail in box.glob("*.mail"):
                command = [*program, "--url", endpoint.url]
                with endpoint.piping, mail.open("rb") as message:
                    done = subprocess.run(command, cwd=ROOT, stdin=message, check=False)
                    endpoint.exit_codes.append(done.returncode)
                mail.unlink()
                draft = mail.with_suffix(".draft")
                draft.write_text(str(done.returncode))
                draft.replace(mail.with_suffix(".code"))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def a_relay(ca: trustme.CA, submission: Listener, incoming: Listener, mx: Listener, plain_mx: Listener) -> Postfix:
    """Takes mail from who logs in; hands ours to the pipe, and the destination's to the destination."""
    relay = Postfix(
        "relay.test",
        listeners=[submission, incoming],
        settings={
            "transport_maps": "texthash:{home}/transport",
            "relay_domains": "mail.test",
            "smtpd_tls_chain_files": "{home}/tls.pem",
            "landed_destination_recipient_limit": "1",
            "delay_warning_time": "1s",
        },
        master="landed unix - n n - 4 pipe\n  flags=DRO user=nobody argv={home}/hand-over {home}/box\n",
    )
    relay.put(
        "transport",
        f"mail.test landed:\ndest.test smtp:[127.0.0.1]:{mx.port}\nplain.test smtp:[127.0.0.1]:{plain_mx.port}\n",
    )
    relay.put("tls.pem", ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes(), mode=0o600)
    relay.put("hand-over", HAND_OVER, mode=0o755)
    box = relay.home / "box"
    box.mkdir()
    box.chmod(0o777)
    return relay


def a_destination(mx: Listener, plain_mx: Listener, relay: Listener) -> Postfix:
    """Has the mailboxes, refuses some, and returns its own reports to the relay."""
    destination = Postfix(
        "mx.dest.test",
        listeners=[mx, plain_mx],
        settings={
            "virtual_mailbox_domains": "dest.test, plain.test",
            "virtual_mailbox_maps": "texthash:{home}/mailboxes",
            "virtual_mailbox_base": "{home}/mail",
            "virtual_uid_maps": "static:65534",
            "virtual_gid_maps": "static:65534",
            "transport_maps": "texthash:{home}/transport",
            "smtpd_recipient_restrictions": "check_recipient_access texthash:{home}/access",
        },
    )
    destination.put("transport", f"mail.test smtp:[127.0.0.1]:{relay.port}\n")
    destination.put("mailboxes", "ada@dest.test ada/\nada@plain.test ada/\n")
    destination.put("access", "".join(f"{user}@dest.test {reply}\n" for user, reply in REFUSALS.items()))
    mail = destination.home / "mail"
    mail.mkdir()
    shutil.chown(mail, "nobody")
    return destination


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    need_postfix()
    ca = trustme.CA()
    trust = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(trust))
    token_file = tmp_path_factory.mktemp("secrets") / "token"
    token_file.write_text(f"{TOKEN}\n")
    submission = Listener(
        {
            "smtpd_tls_security_level": "encrypt",
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject_unauth_destination",
        }
    )
    incoming, mx, plain_mx = Listener(), Listener(), Listener({"smtpd_discard_ehlo_keywords": "dsn, silent-discard"})
    account = SmtpAccount(
        host="127.0.0.1",
        port=submission.port,
        bounce_domain="mail.test",
        webhook_token=TOKEN,
        username="ada@relay.test",
        password="secret",
        trust=str(trust),
    )
    endpoint = Endpoint(Smtp(account))
    destination = a_destination(mx, plain_mx, incoming)
    relay = a_relay(ca, submission, incoming, mx, plain_mx)
    with serving(endpoint), piped(relay.home / "box", token_file, endpoint), destination, relay:
        relay.add_login("ada", "secret")
        yield World(endpoint.smtp, endpoint, incoming, mx, destination.home / "mail")


def send(smtp: Smtp, recipient: str, *, attempt_no: int = 1) -> tuple[UUID, Outcome]:
    """One message; its delivery and what the server said."""
    message = email_message(delivery_id=uuid4(), attempt_no=attempt_no, to=recipient)
    request = smtp.build(message, SendContext(datetime.now(UTC), "smtp"))

    async def call() -> Outcome:
        async with SmtpTransport() as transport:
            response = await transport.send(request, asyncio.get_running_loop().time() + WAIT_SECONDS)
        return smtp.interpret(response, datetime.now(UTC))

    return message.delivery_id, asyncio.run(call())


def accepted(smtp: Smtp, recipient: str, *, attempt_no: int = 1) -> tuple[UUID, str | None]:
    delivery_id, outcome = send(smtp, recipient, attempt_no=attempt_no)
    assert outcome.kind is OutcomeKind.ACCEPTED, outcome
    assert outcome.detail.startswith("queued as ")
    return delivery_id, outcome.provider_message_id


# -- what comes back -----------------------------------------------------------------------------------------


def test_an_unknown_user_comes_back_as_a_hard_bounce_of_the_attempt(world):
    delivery_id, message_id = accepted(world.smtp, "nobody@dest.test", attempt_no=3)
    bounce = world.endpoint.about(delivery_id, EvidenceKind.BOUNCED)
    assert (bounce.attempt_no, bounce.provider_message_id) == (3, message_id)
    assert (bounce.bounce_class, bounce.suppress_reason) == (BounceClass.HARD, "hard_bounce")
    assert bounce.address == "nobody@dest.test"
    assert bounce.data["status"] == "5.1.1"
    assert "User unknown in virtual mailbox table" in bounce.data["diagnostic"]
    assert (datetime.now(UTC) - bounce.occurred_at).total_seconds() < WAIT_SECONDS


def test_a_delivery_is_proven_by_the_server_that_has_the_mailbox(world):
    delivery_id, message_id = accepted(world.smtp, "ada@dest.test", attempt_no=2)
    delivered = world.endpoint.about(delivery_id, EvidenceKind.DELIVERED)
    assert (delivered.attempt_no, delivered.provider_message_id) == (2, message_id)
    assert delivered.data["reporting_mta"] == "mx.dest.test"
    received = [message_from_bytes(path.read_bytes(), policy=policy.default) for path in world.mailbox("ada")]
    (message,) = [message for message in received if message["Message-ID"] == f"<{message_id}>"]
    assert message["Subject"] == email_message().subject
    assert message.get_body(("plain",)).get_content().rstrip() == email_message().text.rstrip()


@pytest.mark.parametrize(
    ("user", "bounce_class"),
    [("full", BounceClass.SOFT), ("listed", BounceClass.REPUTATION), ("big", BounceClass.CONTENT)],
)
def test_another_refusal_comes_back_as_what_it_is(world, user, bounce_class):
    delivery_id, _ = accepted(world.smtp, f"{user}@dest.test")
    bounce = world.endpoint.about(delivery_id, EvidenceKind.BOUNCED)
    assert (bounce.attempt_no, bounce.bounce_class, bounce.suppress_reason) == (1, bounce_class, None)


def test_a_delay_is_no_bounce(world):
    delivery_id, _ = accepted(world.smtp, "later@dest.test")
    deferred = world.endpoint.about(delivery_id, EvidenceKind.DEFERRED)
    assert (deferred.attempt_no, deferred.bounce_class, deferred.suppress_reason) == (1, None, None)
    assert deferred.data["action"] == "delayed"
    assert deferred.data["will_retry_until"]


def test_a_server_without_reports_leaves_it_at_relayed(world):
    delivery_id, _ = accepted(world.smtp, "ada@plain.test")
    relayed = world.endpoint.about(delivery_id, EvidenceKind.ACCEPTED)
    assert (relayed.attempt_no, relayed.data["action"]) == (1, "relayed")
    direct = Smtp(replace(world.smtp.account, relayed_is_delivered=True))
    (delivered,) = direct.parse(as_posted(world.endpoint.raw_about(delivery_id)))
    assert (delivered.kind, delivered.attempt_no) == (EvidenceKind.DELIVERED, 1)


def test_a_report_is_known_by_each_of_its_three_marks(world):
    """Servers drop the envelope id, aliases the address, and some return no headers: one of them is enough."""
    delivery_id, message_id = accepted(world.smtp, "gone@dest.test", attempt_no=4)
    expected = world.endpoint.about(delivery_id, EvidenceKind.BOUNCED)
    raw = world.endpoint.raw_about(delivery_id)
    marks = {
        "envelope id": re.compile(rb"^Original-Envelope-Id: .*\n", re.M),
        "address": re.compile(rb"^(Delivered-To|X-Original-To|To): bounces.*\n", re.M),
        "headers": re.compile(rb"^(X-Landed-Reference|Return-Path): .*\n", re.M),
    }
    assert all(mark.search(raw) for mark in marks.values())
    for left in marks:
        stripped = raw
        for name, mark in marks.items():
            stripped = stripped if name == left else mark.sub(b"", stripped)
        (evidence,) = world.smtp.parse(as_posted(stripped))
        assert (evidence.delivery_id, evidence.attempt_no, evidence.event_key) == (delivery_id, 4, expected.event_key)
    for mark in marks.values():
        raw = mark.sub(b"", raw)
    (evidence,) = world.smtp.parse(as_posted(raw))
    assert (evidence.delivery_id, evidence.attempt_no) == (delivery_id, None)
    assert evidence.provider_message_id == message_id


def test_a_report_that_cannot_be_handed_over_is_kept_and_tried_again(world):
    world.endpoint.statuses += [503, 401]
    codes = len(world.endpoint.exit_codes)
    delivery_id, _ = accepted(world.smtp, "unknown@dest.test")
    assert world.endpoint.about(delivery_id, EvidenceKind.BOUNCED).bounce_class is BounceClass.HARD
    assert world.endpoint.exit_codes[codes:].count(75) == 2


def test_mail_that_is_no_report_is_taken_off_the_servers_hands(world):
    codes = len(world.endpoint.exit_codes)
    with smtplib.SMTP("127.0.0.1", world.incoming.port) as client:
        client.sendmail("spammer@example.test", "bounces@mail.test", "Subject: buy this\n\nNow.\n")
    assert wait_until(lambda: world.endpoint.exit_codes[codes:], seconds=WAIT_SECONDS) == [0]


# -- what is refused at once ---------------------------------------------------------------------------------


def test_a_wrong_password_is_for_an_operator(world):
    _, outcome = send(Smtp(replace(world.smtp.account, password="wrong")), "ada@dest.test")
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.UNAUTHORIZED, 535)


def test_without_a_login_there_is_no_relay_and_that_is_for_an_operator_too(world):
    _, outcome = send(Smtp(replace(world.smtp.account, username=None, password=None)), "ada@dest.test")
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.UNAUTHORIZED, 554)


def test_a_server_that_demands_tls_gets_its_way(world):
    account = replace(world.smtp.account, username=None, password=None, security="none")
    _, outcome = send(Smtp(account), "ada@dest.test")
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.UNAUTHORIZED, 530)


@pytest.mark.parametrize(
    ("user", "kind", "reason"),
    [
        ("nobody", OutcomeKind.RECIPIENT_INVALID, None),
        ("full", OutcomeKind.REJECTED, "mailbox_full"),
        ("listed", OutcomeKind.REJECTED, "reputation"),
        ("big", OutcomeKind.REJECTED, "content"),
        ("later", OutcomeKind.TRANSIENT, None),
        ("ada", OutcomeKind.ACCEPTED, None),
    ],
)
def test_the_mailboxes_own_server_says_it_at_once(world, user, kind, reason):
    direct = Smtp(SmtpAccount("127.0.0.1", "mail.test", TOKEN, world.mx.port, "none"))
    delivery_id, outcome = send(direct, f"{user}@dest.test", attempt_no=5)
    assert (outcome.kind, outcome.reason) == (kind, reason)
    assert [(e.delivery_id, e.attempt_no, e.bounce_class) for e in outcome.evidence] == (
        [(delivery_id, 5, BounceClass.SOFT)] if user == "full" else []
    )
    if kind is OutcomeKind.ACCEPTED:
        assert world.endpoint.about(delivery_id, EvidenceKind.DELIVERED).attempt_no == 5


# -- the whole way: API, worker, relay, destination, report, pipe, API, worker -------------------------------


@pytest.fixture(scope="module")
def system(world: World, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Landed itself with the relay as its only way to send mail; what comes back goes to its API."""
    account = {name: value for name, value in asdict(world.smtp.account).items() if value is not None}
    environment = {
        "LANDED_PROVIDERS": json.dumps({"relay": {"adapter": "smtp", **account}}),
        "LANDED_ROUTES": json.dumps({"email": ["relay"]}),
    }
    name = f"postfix_{uuid4().hex[:8]}"
    here = world.endpoint.url
    directory = tmp_path_factory.mktemp("system")
    with System(cluster.create(name, template=TEMPLATE), directory, environment=environment) as running:
        world.endpoint.url = f"{running.url}/api/v1/webhooks/relay"
        yield running
        world.endpoint.url = here
    cluster.drop(name)


def settled(world: World) -> None:
    """Returns when what brought the last report has ended."""
    with world.endpoint.piping:
        return


def test_a_notification_is_delivered_when_the_mailboxes_server_says_so(world, system):
    notification = system.send("ada@dest.test")
    delivery = system.delivered_as(notification, "delivered")
    settled(world)
    assert (delivery["reason"], delivery["attempts"]) == ("confirmed", 1)
    subjects = [message_from_bytes(path.read_bytes())["Message-ID"] for path in world.mailbox("ada")]
    assert sum(str(delivery["delivery_id"]) in subject for subject in subjects) == 1


def test_a_notification_to_an_unknown_user_ends_bounced_and_the_next_is_not_sent(world, system):
    delivery = system.delivered_as(system.send("stranger@dest.test"), "bounced")
    settled(world)
    assert (delivery["reason"], delivery["attempts"]) == ("hard_bounce", 1)
    assert system.suppressions("stranger@dest.test") == [("hard_bounce", "all")]
    again = system.delivered_as(system.send("stranger@dest.test"), "suppressed")
    assert again["attempts"] == 0


def test_a_full_mailbox_ends_as_a_soft_bounce_that_suppresses_nobody_yet(world, system):
    delivery = system.delivered_as(system.send("full@dest.test"), "bounced")
    settled(world)
    assert delivery["reason"] == "soft_bounce"
    assert system.suppressions("full@dest.test") == []


def test_what_is_no_report_shows_as_refused(world, system):
    codes = len(world.endpoint.exit_codes)
    with smtplib.SMTP("127.0.0.1", world.incoming.port) as client:
        client.sendmail("spammer@example.test", "bounces@mail.test", "Subject: buy this\n\nNow.\n")
    assert wait_until(lambda: world.endpoint.exit_codes[codes:], seconds=WAIT_SECONDS) == [0]
    refused = system.rows("SELECT reason, refusals FROM reporting.webhook_refusals WHERE provider = 'relay'")
    assert refused == [{"reason": "not_a_report", "refusals": 1}]
    assert system.stuck() == []
