"""The provider sandbox, as a process, against plain HTTP and Mailgun's own client."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from mailgun.client import Client
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from app.sandbox.__main__ import main
from app.sandbox.faults import Mode
from app.sandbox.scripts import SCRIPTS
from tests.sandbox_process import SandboxProcess, wait_until


class Receiver:
    """A webhook endpoint that keeps what it gets; ``statuses`` are given first, in turn, then 200."""

    def __init__(self, port: int = 0) -> None:
        self.server = HTTPServer(host="127.0.0.1", port=port)
        self.server.expect_request("/webhooks").respond_with_handler(self._take)
        self.posts: list[dict] = []
        self.statuses: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.server.url_for("/webhooks")

    def about(self, recipient: str) -> list[dict]:
        with self._lock:
            return [post for post in self.posts if post["event-data"].get("recipient") == recipient]

    def _take(self, request: Request) -> Response:
        post = json.loads(request.data)
        with self._lock:
            self.posts.append(post)
            waiting = self.statuses.get(post["event-data"]["event"], [])
            return Response(status=waiting.pop(0) if waiting else 200)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with receiver.server:
        yield receiver


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory, receiver) -> Iterator[SandboxProcess]:
    ledger = tmp_path_factory.mktemp("sandbox") / "ledger.jsonl"
    with SandboxProcess(ledger, webhook_url=receiver.url) as process:
        yield process


def address(script: str) -> str:
    return f"{script}+{uuid4().hex[:12]}@example.com"


def form(to: str | list[str], **fields: object) -> dict:
    return {
        "from": "Shop <shop@sandbox.landed.test>",
        "to": to,
        "subject": "Hello",
        "text": "Hello",
        **fields,
    }


def send(sandbox: SandboxProcess, to: str | list[str], timeout: float = 30, **fields: object) -> httpx.Response:
    return sandbox.api.post("/messages", data=form(to, **fields))


def events(sandbox: SandboxProcess, **params: object) -> list[dict]:
    answer = sandbox.api.get("/events", params={"ascending": "yes", "limit": 300, **params})
    answer.raise_for_status()
    return answer.json()["items"]


def story(events: list[dict]) -> list[str]:
    """Events as words, failures with their severity: what happened to one message."""
    return [f"{event['event']} {event['severity']}" if "severity" in event else event["event"] for event in events]


def accepted_count(sandbox: SandboxProcess, recipient: str) -> int:
    return len(sandbox.ledger(kind="accepted", recipient=recipient))


def raw_send(sandbox: SandboxProcess, to: str, cut_bytes: int = 0) -> socket.socket:
    """The request on a bare socket, so that a test sees exactly what comes back."""
    request = httpx.Request(
        "POST", f"{sandbox.url}/v3/{sandbox.domain}/messages", data=form(to), headers={"Host": "sandbox"}
    )
    signed = next(httpx.BasicAuth("api", sandbox.api_key).auth_flow(request))
    head = "".join(f"{name}: {value}\r\n" for name, value in signed.headers.items())
    connection = socket.create_connection(("127.0.0.1", sandbox.port), timeout=30)
    message = f"POST {signed.url.path} HTTP/1.1\r\n{head}\r\n".encode() + signed.read()
    connection.sendall(message[: len(message) - cut_bytes])
    return connection


def send_unanswered(sandbox: SandboxProcess, to: str) -> None:
    """Send, wait until the sandbox has decided to say nothing, and see that nothing was said."""
    before = sandbox.summary()["entries"]
    with raw_send(sandbox, to) as connection:
        [response] = wait_until(lambda: sandbox.ledger(kind="response", since=before))
        assert response["status"] is None
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)


def is_signed(sandbox: SandboxProcess, post: dict) -> bool:
    """Mailgun's documented check, written here on its own."""
    given = post["signature"]
    message = (given["timestamp"] + given["token"]).encode()
    return hmac.compare_digest(
        hmac.new(sandbox.signing_key.encode(), message, hashlib.sha256).hexdigest(), given["signature"]
    )


# --- what becomes of a message ------------------------------------------------------------------------------

STORIES = {
    "ann": ["accepted", "delivered"],
    "bounce": ["accepted", "failed permanent"],
    "soft-bounce": ["accepted", "failed temporary", "failed permanent"],
    "deferred": ["accepted", "failed temporary", "failed temporary", "delivered"],
    "blocked": ["accepted", "failed permanent"],
    "async-bounce": ["accepted", "delivered", "failed permanent"],
    "complaint": ["accepted", "delivered", "complained"],
    "unsubscribe": ["accepted", "delivered", "unsubscribed"],
    "open": ["accepted", "delivered", "opened"],
    "click": ["accepted", "delivered", "opened", "clicked"],
    "suppressed": ["accepted", "failed permanent"],
    "slow": ["accepted", "delivered"],
}


@pytest.mark.parametrize(("script", "expected"), STORIES.items())
def test_a_scripted_address_lives_its_story_in_events_and_signed_webhooks(sandbox, receiver, script, expected):
    to = address(script)

    answer = send(sandbox, to)
    sandbox.wait_until_settled()

    assert answer.status_code == 200
    assert answer.json()["message"] == "Queued. Thank you."
    assert story(events(sandbox, recipient=to)) == expected
    posts = receiver.about(to)
    assert sorted(story([post["event-data"] for post in posts])) == sorted(expected)
    assert all(is_signed(sandbox, post) for post in posts)
    assert len({post["signature"]["token"] for post in posts}) == len(posts)
    assert accepted_count(sandbox, to) == 1


FAILURES = {
    "bounce": ("bounce", 550, "5.1.1"),
    "soft-bounce": ("generic", 552, "5.2.2"),
    "blocked": ("espblock", 550, "5.7.1"),
    "suppressed": ("suppress-bounce", 605, ""),
}


@pytest.mark.parametrize(("script", "expected"), FAILURES.items())
def test_a_failure_says_why(sandbox, script, expected):
    to = address(script)
    send(sandbox, to)
    sandbox.wait_until_settled()

    failure = events(sandbox, recipient=to)[-1]

    status = failure["delivery-status"]
    assert (failure["reason"], status["code"], status["enhanced-code"]) == expected


def test_a_late_bounce_is_marked_as_delayed(sandbox):
    to = address("async-bounce")
    send(sandbox, to)
    sandbox.wait_until_settled()

    flags = [event["flags"]["is-delayed-bounce"] for event in events(sandbox, recipient=to)]

    assert flags == [False, False, True]


def test_events_carry_what_the_sender_attached(sandbox):
    to = address("ann")
    own_id = f"{uuid4()}.1@landed.test"
    options = {
        "h:Message-Id": f"<{own_id}>",
        "v:landed_delivery": "d-1",
        "o:tag": ["a", "b"],
        "o:testmode": "yes",
    }

    answer = send(sandbox, to, **options)
    accepted = events(sandbox, **{"message-id": own_id})[0]

    assert answer.json()["id"] == f"<{own_id}>"
    assert accepted["user-variables"] == {"landed_delivery": "d-1"}
    assert accepted["tags"] == ["a", "b"]
    assert accepted["flags"]["is-test-mode"] is True
    assert accepted["message"]["headers"] == {
        "to": to,
        "from": "Shop <shop@sandbox.landed.test>",
        "subject": "Hello",
        "message-id": own_id,
    }
    stored = httpx.get(accepted["storage"]["url"], auth=("api", sandbox.api_key)).json()
    assert stored["body-plain"] == "Hello"


@pytest.mark.parametrize("given", ["no-brackets@landed.test", "<no-at-sign>", ["<a@b.c>", "<d@e.f>"]])
def test_a_message_id_of_the_wrong_shape_is_replaced(sandbox, given):
    answer = send(sandbox, address("ann"), **{"h:Message-Id": given})

    assert answer.json()["id"].endswith("@sandbox.landed.test>")


# --- suppression lists --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "name", "reason"),
    [
        ("bounce", "bounces", "suppress-bounce"),
        ("async-bounce", "bounces", "suppress-bounce"),
        ("complaint", "complaints", "suppress-complaint"),
        ("unsubscribe", "unsubscribes", "suppress-unsubscribe"),
    ],
)
def test_a_listed_address_gets_200_and_is_dropped_until_it_is_taken_off(sandbox, script, name, reason):
    to = address(script)
    send(sandbox, to)
    sandbox.wait_until_settled()
    second = send(sandbox, to)
    sandbox.wait_until_settled()

    assert second.status_code == 200
    dropped = events(sandbox, recipient=to)[-1]
    assert (dropped["event"], dropped["reason"]) == ("failed", reason)
    assert sandbox.api.get(f"/{name}/{to}").json()["address"] == to
    assert to in [item["address"] for item in sandbox.api.get(f"/{name}").json()["items"]]

    assert sandbox.api.delete(f"/{name}/{to}").json()["address"] == to
    assert sandbox.api.get(f"/{name}/{to}").status_code == 404
    assert sandbox.api.delete(f"/{name}/{to}").status_code == 404
    send(sandbox, to)
    sandbox.wait_until_settled()
    assert events(sandbox, recipient=to)[-1].get("reason") != reason


def test_the_controls_take_a_recipient_off_every_list(sandbox):
    to = address("bounce")
    send(sandbox, to)
    sandbox.wait_until_settled()
    control = f"{sandbox.url}/sandbox/suppressions"
    assert to in httpx.get(control, params={"provider": "mailgun"}).json()["bounces"]

    httpx.delete(control, params={"provider": "mailgun", "recipient": to}).raise_for_status()

    assert to not in httpx.get(control, params={"provider": "mailgun"}).json().get("bounces", [])
    assert sandbox.api.get(f"/bounces/{to}").status_code == 404


@pytest.mark.parametrize("script", ["soft-bounce", "blocked", "suppressed"])
def test_failures_that_are_not_the_address_join_no_list(sandbox, script):
    to = address(script)
    send(sandbox, to)
    sandbox.wait_until_settled()

    assert sandbox.api.get(f"/bounces/{to}").status_code == 404


# --- what the caller is told --------------------------------------------------------------------------------


def test_a_call_may_never_be_answered_although_the_message_goes_out(sandbox, receiver):
    to = address("timeout-after-accept")

    send_unanswered(sandbox, to)
    sandbox.wait_until_settled()

    assert story(events(sandbox, recipient=to)) == ["accepted", "delivered"]
    assert len(receiver.about(to)) == 2
    assert [entry["status"] for entry in sandbox.ledger(kind="response", recipient=to)] == [None]


def test_only_the_events_api_can_tell_when_answer_and_webhooks_are_lost(sandbox, receiver):
    to = address("timeout-and-webhooks-lost")

    send_unanswered(sandbox, to)
    sandbox.wait_until_settled()

    assert story(events(sandbox, recipient=to)) == ["accepted", "delivered"]
    assert receiver.about(to) == []


def test_a_connection_may_be_reset_without_a_byte_although_the_message_goes_out(sandbox):
    to = address("reset-after-accept")

    with raw_send(sandbox, to) as connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    sandbox.wait_until_settled()

    assert story(events(sandbox, recipient=to)) == ["accepted", "delivered"]


def test_an_error_may_be_answered_although_the_message_goes_out(sandbox):
    to = address("error-after-accept")

    answer = send(sandbox, to)
    sandbox.wait_until_settled()

    assert answer.status_code == 500
    assert story(events(sandbox, recipient=to)) == ["accepted", "delivered"]


def test_a_hanging_call_is_on_the_ledger_and_accepts_nothing(sandbox):
    to = address("hang")
    before = sandbox.summary()["entries"]

    send_unanswered(sandbox, to)

    assert len(sandbox.ledger(since=before, kind="call")) == 1
    assert accepted_count(sandbox, to) == 0
    assert events(sandbox, recipient=to) == []


def test_slow_takes_its_time_and_then_answers(sandbox):
    started = time.monotonic()

    answer = send(sandbox, address("slow"))

    assert answer.status_code == 200
    assert time.monotonic() - started >= 3 / 200


def test_a_release_answers_accepted_calls_and_cuts_the_others_off(sandbox):
    accepted, hung = address("timeout-after-accept"), address("hang")
    with raw_send(sandbox, accepted) as first, raw_send(sandbox, hung) as second:
        for to in (accepted, hung):
            wait_until(lambda to=to: sandbox.ledger(kind="response", recipient=to))
        sandbox.release()
        assert first.recv(15).startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionResetError):
            second.recv(1)

    statuses = [entry["status"] for entry in sandbox.ledger(kind="response", recipient=accepted)]
    assert statuses == [None, 200]


def test_a_held_call_is_cut_off_in_the_end(tmp_path):
    with (
        SandboxProcess(tmp_path / "ledger.jsonl", hold_seconds=0.1) as sandbox,
        raw_send(sandbox, address("hang")) as connection,
        pytest.raises(ConnectionResetError),
    ):
        connection.recv(1)


def test_a_caller_that_leaves_halfway_sends_nothing(sandbox):
    to, before = address("ann"), sandbox.summary()["entries"]
    with raw_send(sandbox, to, cut_bytes=5):
        wait_until(lambda: sandbox.ledger(kind="call", since=before))
    send(sandbox, address("ann"))

    assert accepted_count(sandbox, to) == 0
    assert "Traceback" not in sandbox.output_path.read_text()


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        ("rate-limited", 429, "request limit exceeded, try again after"),
        ("outage", 503, "Service Unavailable"),
        ("unauthorized", 401, "Forbidden"),
        ("domain-disabled", 400, "Domain sandbox.landed.test is not allowed to send:"),
    ],
)
def test_a_passing_refusal_refuses_twice_and_then_delivers_once(sandbox, script, status, text):
    to = address(script)

    answers = [send(sandbox, to) for _ in range(3)]
    sandbox.wait_until_settled()

    assert [answer.status_code for answer in answers] == [status, status, 200]
    assert text in answers[0].text
    assert accepted_count(sandbox, to) == 1
    assert story(events(sandbox, recipient=to)) == ["accepted", "delivered"]


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        ("invalid-address", 400, "to parameter is not a valid address"),
        ("permanent-4xx", 400, "Need at least one of"),
        ("wrong-response", 200, "Mailgun Magnificent API"),
    ],
)
def test_a_lasting_refusal_never_accepts(sandbox, script, status, text):
    to = address(script)

    answers = [send(sandbox, to) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [status] * 3
    assert text in answers[0].text
    assert accepted_count(sandbox, to) == 0


def test_rejected_is_told_by_the_events_api_alone(sandbox, receiver):
    own_id = f"{uuid4()}@landed.test"

    assert send(sandbox, address("rejected"), **{"h:Message-Id": f"<{own_id}>"}).status_code == 200
    sandbox.wait_until_settled()

    [rejected] = events(sandbox, **{"message-id": own_id})
    assert rejected["event"] == "rejected"
    assert rejected["reject"]["reason"]
    assert "recipient" not in rejected
    posted = [post["event-data"]["message"]["headers"]["message-id"] for post in receiver.posts]
    assert own_id not in posted


# --- how webhooks travel ------------------------------------------------------------------------------------


def test_lost_webhooks_are_never_posted(sandbox, receiver):
    to = address("webhook-lost")
    send(sandbox, to)
    sandbox.wait_until_settled()

    assert story(events(sandbox, recipient=to)) == ["accepted", "delivered"]
    assert receiver.about(to) == []


def test_duplicates_are_the_same_event_under_new_signatures(sandbox, receiver):
    to = address("duplicate-webhook")
    send(sandbox, to)
    sandbox.wait_until_settled()

    posts = receiver.about(to)
    times = Counter((post["event-data"]["event"], post["event-data"]["id"]) for post in posts)
    assert sorted((event, n) for (event, _), n in times.items()) == [("accepted", 3), ("delivered", 3)]
    assert len({post["signature"]["token"] for post in posts}) == 6
    assert all(is_signed(sandbox, post) for post in posts)


def test_out_of_order_webhooks_arrive_backwards(sandbox, receiver):
    to = address("out-of-order-webhook")
    send(sandbox, to)
    sandbox.wait_until_settled()

    assert story([post["event-data"] for post in receiver.about(to)]) == ["opened", "delivered", "accepted"]
    assert story(events(sandbox, recipient=to)) == ["accepted", "delivered", "opened"]


def test_forged_webhooks_lie_about_a_bounce_each_in_its_own_way(sandbox, receiver):
    to = address("forged-webhook")
    send(sandbox, to)
    sandbox.wait_until_settled()
    wait_until(lambda: len(receiver.about(to)) == 5)

    posts = receiver.about(to)
    genuine = {event["id"] for event in events(sandbox, recipient=to)}
    lies = [post for post in posts if post["event-data"]["id"] not in genuine]
    [accepted] = [post for post in posts if post["event-data"]["event"] == "accepted"]
    replayed, badly_signed, stale = lies
    assert story(events(sandbox, recipient=to)) == ["accepted", "failed permanent"]
    assert {lie["event-data"]["event"] for lie in lies} == {"delivered"}
    assert replayed["signature"] == accepted["signature"]
    assert not is_signed(sandbox, badly_signed)
    assert is_signed(sandbox, stale)
    assert int(stale["signature"]["timestamp"]) < time.time() - 86_400


def test_a_refused_webhook_is_tried_again_under_a_new_signature_but_delivered_is_not(tmp_path):
    receiver = Receiver()
    receiver.statuses = {"accepted": [500, 302, 404], "delivered": [500], "opened": [406]}
    with (
        receiver.server,
        SandboxProcess(tmp_path / "ledger.jsonl", webhook_url=receiver.url, speed=10_000) as sandbox,
    ):
        to = address("open")
        send(sandbox, to)
        sandbox.wait_until_settled()

        posts = receiver.about(to)
        times = Counter(post["event-data"]["event"] for post in posts)
        assert times == {"accepted": 4, "delivered": 1, "opened": 1}
        assert len({post["event-data"]["id"] for post in posts}) == 3
        assert len({post["signature"]["token"] for post in posts}) == 6
        assert all(is_signed(sandbox, post) for post in posts)


def test_a_webhook_is_given_up_after_mailguns_last_retry(tmp_path):
    receiver = Receiver()
    receiver.statuses = {"accepted": [500] * 100}
    with (
        receiver.server,
        SandboxProcess(tmp_path / "ledger.jsonl", webhook_url=receiver.url, speed=1_000_000) as sandbox,
    ):
        to = address("ann")
        send(sandbox, to)
        sandbox.wait_until_settled()

        tries = [entry for entry in sandbox.ledger(kind="webhook") if entry["data"]["event"] == "accepted"]
        assert [entry["data"]["attempt"] for entry in tries] == [1, 2, 3, 4, 5, 6, 7]
        assert tries[-1]["data"]["settled"]


def test_webhooks_can_be_switched_off(tmp_path, receiver):
    ledger = tmp_path / "ledger.jsonl"
    with SandboxProcess(ledger, webhook_url=receiver.url, no_webhooks=True) as sandbox:
        to = address("ann")
        send(sandbox, to)
        sandbox.wait_until_settled()

        assert story(events(sandbox, recipient=to)) == ["accepted", "delivered"]
        assert sandbox.summary()["counts"]["webhook"] == 0
        assert receiver.about(to) == []


def test_every_provider_posts_under_its_own_name(tmp_path):
    with HTTPServer(host="127.0.0.1") as server:
        server.expect_request("/api/v1/webhooks/mailgun").respond_with_data("")
        base = server.url_for("/api/v1/webhooks/")
        with SandboxProcess(tmp_path / "ledger.jsonl", webhook_base_url=base) as sandbox:
            send(sandbox, address("ann"))
            sandbox.wait_until_settled()

            posts = sandbox.ledger(kind="webhook")
            assert [(post["provider"], post["status"]) for post in posts] == [("mailgun", 200)] * 2


# --- the ledger ---------------------------------------------------------------------------------------------


def test_a_killed_sandbox_has_forgotten_nothing_it_told_anyone(tmp_path):
    with SandboxProcess(tmp_path / "ledger.jsonl") as sandbox:
        bounced, delivered = address("bounce"), address("ann")
        for to in (bounced, delivered):
            send(sandbox, to, **{"v:landed_delivery": to})
        sandbox.wait_until_settled()
        ledger, happened, summary = sandbox.ledger(), events(sandbox), sandbox.summary()

        sandbox.kill()
        sandbox.start()

        assert sandbox.ledger()[: len(ledger)] == ledger
        assert events(sandbox) == happened
        assert sandbox.summary()["deliveries"] == summary["deliveries"] == {bounced: 1, delivered: 1}
        send(sandbox, bounced)
        assert sandbox.api.get(f"/bounces/{bounced}").status_code == 200


def test_webhooks_and_scripts_survive_a_kill_while_the_receiver_is_down(tmp_path):
    receiver = Receiver()
    receiver.server.start()
    url, port = receiver.url, receiver.server.port
    receiver.server.stop()
    with SandboxProcess(tmp_path / "ledger.jsonl", webhook_url=url, speed=3000) as sandbox:
        to = address("bounce")
        send(sandbox, to)
        wait_until(lambda: sandbox.ledger(kind="webhook", recipient=to))
        assert sandbox.summary()["webhooks_owed"] >= 1
        sandbox.kill()

        back = Receiver(port)
        with back.server:
            sandbox.start()
            sandbox.wait_until_settled()
            assert sorted(story([post["event-data"] for post in back.about(to)])) == [
                "accepted",
                "failed permanent",
            ]
        assert story(events(sandbox, recipient=to)) == ["accepted", "failed permanent"]


def test_a_torn_last_line_is_dropped_at_the_next_start(tmp_path):
    with SandboxProcess(tmp_path / "ledger.jsonl") as sandbox:
        send(sandbox, address("ann"))
        sandbox.wait_until_settled()
        before = sandbox.ledger()
        sandbox.stop()
        with sandbox.ledger_path.open("ab") as file:
            file.write(b'{"seq":99,"at":"20')

        sandbox.start()

        assert sandbox.ledger() == before
        send(sandbox, address("ann"))
        seqs = [entry["seq"] for entry in sandbox.ledger()]
        assert len(seqs) > len(before)
        assert seqs == list(range(1, len(seqs) + 1))


def test_a_ledger_from_when_there_was_one_provider_is_still_read(tmp_path):
    newer = ("provider", "channel", "landed_delivery", "landed_attempt", "callback", "details")
    with SandboxProcess(tmp_path / "ledger.jsonl") as sandbox:
        to = address("bounce")
        send(sandbox, to, **{"v:landed_delivery": "d-old"})
        sandbox.wait_until_settled()
        happened = events(sandbox)
        sandbox.stop()
        entries = [json.loads(line) for line in sandbox.ledger_path.read_text().splitlines()]
        for entry in entries:
            del entry["provider"]
            if entry["data"] is not None:
                entry["data"] = {name: value for name, value in entry["data"].items() if name not in newer}
        sandbox.ledger_path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))

        sandbox.start()

        assert events(sandbox) == happened
        assert sandbox.summary()["deliveries"] == {"d-old": 1}
        assert sandbox.api.get(f"/bounces/{to}").status_code == 200
        assert to in httpx.get(f"{sandbox.url}/").text


def test_a_ledger_has_one_writer(sandbox):
    second = subprocess.run(
        [sys.executable, "-m", "app.sandbox", "--port=0", f"--ledger={sandbox.ledger_path}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert second.returncode == 1
    assert "another sandbox is writing" in second.stderr


def test_the_summary_counts_what_each_delivery_was_sent(sandbox):
    once, twice = f"once-{uuid4()}", f"twice-{uuid4()}"
    for delivery in (once, twice, twice):
        send(sandbox, address("ann"), **{"v:landed_delivery": delivery, "v:landed_attempt": "1"})

    summary = sandbox.summary()

    assert summary["deliveries"][once] == 1
    assert summary["duplicates"][twice] == 2
    assert once not in summary["duplicates"]
    [accepted] = [entry for entry in sandbox.ledger(landed_delivery=once) if entry["accepted"]]
    assert (accepted["kind"], accepted["landed_attempt"]) == ("accepted", "1")


def test_every_call_is_on_the_ledger_before_its_answer(sandbox):
    before = sandbox.summary()["entries"]
    httpx.post(f"{sandbox.url}/v3/{sandbox.domain}/messages", data=form(address("ann")))
    sandbox.api.get("/events")
    sandbox.api.get("/no/such/path")
    sandbox.api.put("/messages")

    entries = sandbox.ledger(since=before)
    calls = [entry for entry in entries if entry["kind"] == "call"]
    answers = {entry["call"]: entry["status"] for entry in entries if entry["kind"] == "response"}

    assert [call["method"] for call in calls] == ["POST", "GET", "GET", "PUT"]
    assert [answers[call["seq"]] for call in calls] == [401, 200, 200, 405]


def test_every_entry_names_its_provider(sandbox):
    send(sandbox, address("bounce"))
    sandbox.wait_until_settled()

    assert {entry["provider"] for entry in sandbox.ledger()} == {"mailgun"}
    assert sandbox.ledger(provider="twilio") == []
    assert sandbox.summary()["accepted_by_provider"].keys() == {"mailgun"}


def test_the_ledger_holds_no_secret_and_no_body(sandbox):
    send(sandbox, address("ann"), text="one-time code swordfish", html="<p>one-time code swordfish</p>")
    httpx.get(f"{sandbox.url}/v5/accounts/http_signing_key", auth=("api", sandbox.api_key)).raise_for_status()
    sandbox.wait_until_settled()

    written = sandbox.ledger_path.read_text() + sandbox.output_path.read_text()

    for secret in (sandbox.api_key, sandbox.signing_key, "swordfish"):
        assert secret not in written


def test_ledger_pages_lead_to_each_other(sandbox):
    for _ in range(3):
        send(sandbox, address("ann"))
    sandbox.wait_until_settled()
    control = f"{sandbox.url}/sandbox/ledger"

    seqs, since = [], 0
    while since is not None:
        page = httpx.get(control, params={"kind": "accepted", "since": since, "limit": 2}).json()
        seqs += [entry["seq"] for entry in page["entries"]]
        since = page["next_since"]

    assert seqs == [entry["seq"] for entry in sandbox.ledger() if entry["kind"] == "accepted"]
    assert httpx.get(control, params={"limit": 0}).status_code == 400


# --- the Events API -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ascending", ["yes", "no"])
def test_following_next_visits_every_event_once_and_in_order(sandbox, ascending):
    tag = f"tag-{uuid4().hex}"
    for _ in range(4):
        send(sandbox, address("ann"), **{"o:tag": tag})
    sandbox.wait_until_settled()

    pages = []
    page = sandbox.api.get("/events", params={"tags": tag, "limit": 3, "ascending": ascending}).json()
    while page["items"]:
        pages.append(page["items"])
        page = sandbox.api.get(page["paging"]["next"]).json()

    times = [event["timestamp"] for items in pages for event in items]
    assert [len(items) for items in pages] == [3, 3, 2]
    assert len({event["id"] for items in pages for event in items}) == 8
    assert times == sorted(times, reverse=ascending == "no")


def test_an_empty_page_points_at_what_comes_next(sandbox):
    tag = f"tag-{uuid4().hex}"
    send(sandbox, address("ann"), **{"o:tag": tag})
    sandbox.wait_until_settled()
    page = sandbox.api.get("/events", params={"tags": tag, "ascending": "yes"}).json()
    end = sandbox.api.get(page["paging"]["next"]).json()

    send(sandbox, address("ann"), **{"o:tag": tag})
    later = sandbox.api.get(end["paging"]["next"]).json()

    assert end["items"] == []
    assert later["items"][0]["event"] == "accepted"
    previous = sandbox.api.get(later["paging"]["previous"]).json()
    assert {event["id"] for event in previous["items"]} == {event["id"] for event in page["items"]}


def test_filters_take_mailguns_expressions(sandbox):
    tag = f"tag-{uuid4().hex}"
    for script in ("bounce", "soft-bounce", "open"):
        send(sandbox, address(script), **{"o:tag": tag})
    sandbox.wait_until_settled()

    def found(**params: object) -> Counter:
        return Counter(event["event"] for event in events(sandbox, tags=tag, **params))

    assert found(event="failed OR opened") == {"failed": 3, "opened": 1}
    assert found(event="failed", severity="temporary") == {"failed": 1}
    assert found(event="NOT accepted") == {"failed": 3, "delivered": 1, "opened": 1}
    assert found(subject='"hello"', event="delivered") == {"delivered": 1}
    assert found(begin=time.time() + 60) == {}
    assert found(begin="Mon, 01 Jan 2024 00:00:00 GMT", end=time.time() + 60, event="opened") == {"opened": 1}


@pytest.mark.parametrize(
    "params", [{"limit": 301}, {"limit": 0}, {"limit": "x"}, {"begin": "noon"}, {"ascending": "maybe"}]
)
def test_a_malformed_query_is_refused(sandbox, params):
    assert sandbox.api.get("/events", params=params).status_code == 400


def test_a_made_up_page_is_not_found(sandbox):
    assert sandbox.api.get("/events/bm9uc2Vuc2U=").status_code == 404


# --- the wire -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"from": None}, "from parameter is missing"),
        ({"from": "nobody"}, "from parameter is not a valid address"),
        ({"to": None}, "to parameter is missing"),
        ({"to": "nobody"}, "to parameter is not a valid address"),
        ({"to": "ann@example.com, nobody"}, "to parameter is not a valid address"),
        ({"text": None}, "Need at least one of 'text', 'html', 'amp-html' or 'template'"),
        ({"to": [f"u{n}@example.com" for n in range(1001)]}, "Too many recipients"),
        ({"v:big": "x" * 17_000}, "Send options"),
        ({"o:tag": "grüße"}, "pure ASCII"),
        ({"o:deliverytime": "tomorrow"}, "RFC-2822 compliant date"),
        ({"recipient-variables": "{"}, "not a valid JSON"),
    ],
)
def test_a_wrong_send_is_refused_in_mailguns_words(sandbox, change, message):
    fields = {name: value for name, value in {**form(address("ann")), **change}.items() if value is not None}
    before = sandbox.summary()["accepted"]

    answer = sandbox.api.post("/messages", data=fields)

    assert answer.status_code == 400
    assert message in answer.json()["message"]
    assert sandbox.summary()["accepted"] == before


@pytest.mark.parametrize("auth", [None, ("api", "wrong"), ("user", SandboxProcess.api_key)])
def test_credentials_are_checked(sandbox, auth):
    url = f"{sandbox.url}/v3/{sandbox.domain}/messages"

    answer = httpx.post(url, data=form(address("ann")), auth=auth)

    assert (answer.status_code, answer.text) == (401, "Forbidden")


def test_an_unknown_domain_is_not_found_and_a_slash_in_it_is_magnificent(sandbox):
    auth = ("api", sandbox.api_key)
    elsewhere = httpx.post(f"{sandbox.url}/v3/elsewhere.test/messages", data=form(address("ann")), auth=auth)
    slashed = httpx.post(f"{sandbox.url}/v3/a/b/messages", data=form(address("ann")), auth=auth)

    assert (elsewhere.status_code, elsewhere.json()["message"]) == (404, "Domain not found")
    assert (slashed.status_code, slashed.text) == (200, "Mailgun Magnificent API")


def test_one_call_may_have_many_recipients_each_with_its_own_variables(sandbox):
    ann, bob = address("ann"), address("bob")
    variables = {ann: {"delivery": "d-ann"}, bob: {"delivery": "d-bob"}}

    answer = send(
        sandbox,
        [f"Ann <{ann}>, {bob}", f'"Bob, again" <{bob}>'],
        **{"recipient-variables": json.dumps(variables), "v:landed_delivery": "%recipient.delivery%"},
    )

    sent = sandbox.ledger(kind="accepted", message_id=answer.json()["id"].strip("<>"))
    assert {entry["recipient"]: entry["landed_delivery"] for entry in sent} == {ann: "d-ann", bob: "d-bob"}


def test_multipart_sends_may_have_attachments(sandbox):
    to = address("ann")

    answer = sandbox.api.post(
        "/messages", data=form(to), files={"attachment": ("invoice.pdf", b"%PDF", "application/pdf")}
    )

    assert answer.status_code == 200
    [accepted, *_] = events(sandbox, recipient=to)
    attachments = accepted["message"]["attachments"]
    assert attachments == [{"filename": "invoice.pdf", "content-type": "application/pdf", "size": 4}]


def test_a_mime_message_is_taken_apart(sandbox):
    to = address("ann")
    mime = b"From: shop@sandbox.landed.test\r\nSubject: In MIME\r\nMessage-Id: <m@landed.test>\r\n\r\nHello"

    answer = sandbox.api.post("/messages.mime", data={"to": to}, files={"message": ("m.eml", mime)})

    assert answer.json()["id"] == "<m@landed.test>"
    assert events(sandbox, recipient=to)[0]["message"]["headers"]["subject"] == "In MIME"


def test_mailguns_own_client_can_send_look_up_and_unlist(sandbox):
    to = address("bounce")
    with Client(auth=("api", sandbox.api_key), api_url=sandbox.url) as client:
        sent = client.messages.create(data=form(to), domain=sandbox.domain)
        sandbox.wait_until_settled()
        message_id = sent.json()["id"].strip("<>")
        looked_up = client.events.get(domain=sandbox.domain, filters={"message-id": message_id, "ascending": "yes"})
        listed = client.bounces.get(domain=sandbox.domain, bounce_address=to)
        client.bounces.delete(domain=sandbox.domain, bounce_address=to)

    assert sent.status_code == 200
    assert story(looked_up.json()["items"]) == ["accepted", "failed permanent"]
    assert (listed.json()["address"], listed.json()["code"]) == (to, "550")
    assert sandbox.api.get(f"/bounces/{to}").status_code == 404


def test_the_signing_key_can_be_fetched(sandbox):
    answer = httpx.get(f"{sandbox.url}/v5/accounts/http_signing_key", auth=("api", sandbox.api_key))

    assert answer.json()["http_signing_key"] == sandbox.signing_key


# --- faults of the whole provider ---------------------------------------------------------------------------


@pytest.fixture
def faulty(sandbox) -> Iterator[SandboxProcess]:
    yield sandbox
    sandbox.set_fault("ok")


@pytest.mark.parametrize(("mode", "status"), [("error", 503), ("rate_limit", 429), ("unauthorized", 401)])
def test_a_refusing_fault_answers_and_accepts_nothing(faulty, mode, status):
    faulty.set_fault(mode)
    to = address("ann")

    assert send(faulty, to).status_code == status
    assert faulty.api.get("/events").status_code == status
    assert accepted_count(faulty, to) == 0


def test_a_fault_may_spare_everything_but_sends(faulty):
    faulty.set_fault("error", sends_only=True)

    assert send(faulty, address("ann")).status_code == 503
    assert faulty.api.get("/events").status_code == 200


def test_a_refused_connection_is_reset_and_accepts_nothing(faulty):
    faulty.set_fault("refuse")
    to = address("ann")

    with raw_send(faulty, to) as connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    assert accepted_count(faulty, to) == 0


def test_a_hanging_provider_accepts_nothing(faulty):
    faulty.set_fault("hang")
    to = address("ann")

    send_unanswered(faulty, to)
    assert accepted_count(faulty, to) == 0


def test_a_provider_may_accept_and_never_answer(faulty):
    faulty.set_fault("accept_then_hang")
    to = address("ann")

    send_unanswered(faulty, to)

    assert accepted_count(faulty, to) == 1


def test_a_provider_may_accept_and_cut_the_connection(faulty):
    faulty.set_fault("accept_then_reset")
    to = address("ann")

    with raw_send(faulty, to) as connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    assert accepted_count(faulty, to) == 1


def test_a_provider_may_accept_and_answer_an_error(faulty):
    faulty.set_fault("accept_then_error")
    to = address("ann")

    assert send(faulty, to).status_code == 500
    assert accepted_count(faulty, to) == 1


def test_a_fault_ends_by_itself(faulty):
    faulty.set_fault("error", seconds=0.2)

    assert send(faulty, address("ann")).status_code == 503
    wait_until(lambda: send(faulty, address("ann")).status_code == 200)


def test_random_faults_are_the_same_for_the_same_seed(tmp_path):
    def outcomes(name: str) -> list[tuple]:
        with SandboxProcess(tmp_path / name / "ledger.jsonl", hold_seconds=0.1, seed=7) as sandbox:
            sandbox.set_fault("random", rate=0.5)
            for _ in range(30):
                with suppress(httpx.TransportError):
                    send(sandbox, address("ann"))
            return [(entry["status"], entry["note"]) for entry in sandbox.ledger(kind="response")]

    first = outcomes("first")

    assert first == outcomes("second")
    assert len(first) == 30
    assert {(200, None), (503, "fault: error"), (None, "accepted, then held")} < set(first)


def test_a_fault_may_befall_one_provider_alone(faulty):
    faulty.set_fault("error", provider="mailgun")
    assert send(faulty, address("ann")).status_code == 503

    faulty.set_fault("ok", provider="mailgun")
    assert send(faulty, address("ann")).status_code == 200


def test_the_newest_fault_counts_and_one_for_all_replaces_the_single_ones(faulty):
    faulty.set_fault("error", provider="mailgun")
    faulty.set_fault("rate_limit")
    assert send(faulty, address("ann")).status_code == 429
    faulty.set_fault("ok", provider="mailgun")
    assert send(faulty, address("ann")).status_code == 200

    in_force = httpx.get(f"{faulty.url}/sandbox/faults").json()

    assert in_force["mode"] == "rate_limit"
    assert in_force["providers"]["mailgun"]["mode"] == "ok"


def test_a_fault_of_nobody_is_refused(sandbox):
    assert httpx.post(f"{sandbox.url}/sandbox/faults", json={"mode": "ok", "provider": "x"}).status_code == 400


@pytest.mark.parametrize("order", [{"mode": "chaos"}, {"mode": "ok", "rate": 2}, {"mode": "ok", "extra": 1}, {}])
def test_a_wrong_fault_order_is_refused(sandbox, order):
    assert httpx.post(f"{sandbox.url}/sandbox/faults", json=order).status_code == 400


# --- the mailbox page ---------------------------------------------------------------------------------------


def test_the_mailbox_lists_messages_and_every_scripted_address(sandbox):
    to = address("ann")
    send(sandbox, to, subject="<script>alert(1)</script>")

    page = httpx.get(f"{sandbox.url}/")

    assert to in page.text
    assert "&lt;script&gt;alert(1)" in page.text
    assert "<script" not in page.text
    assert all(f"<code>{name}</code>" in page.text for name in SCRIPTS)
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_message_page_shows_its_timeline_and_frames_its_html(sandbox):
    to = address("bounce")
    send(sandbox, to, html="<h1>Hi</h1><script>alert(1)</script>", **{"v:landed_delivery": "d-page"})
    sandbox.wait_until_settled()
    [accepted] = sandbox.ledger(kind="accepted", recipient=to)
    path = f"{sandbox.url}/messages/{accepted['data']['id']}"

    page, html = httpx.get(path), httpx.get(f"{path}/html")

    assert "alert(1)" not in page.text
    assert "permanent, bounce 550" in page.text
    assert page.text.count("webhook <em>") == 2
    assert "d-page" in page.text
    assert html.text == "<h1>Hi</h1><script>alert(1)</script>"
    assert html.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_clearing_the_mailbox_leaves_the_outside_world_as_it_was(tmp_path):
    with SandboxProcess(tmp_path / "ledger.jsonl") as sandbox:
        to = address("bounce")
        send(sandbox, to)
        sandbox.wait_until_settled()
        [accepted] = sandbox.ledger(kind="accepted")

        sandbox.clear_mailbox()

        assert to not in httpx.get(f"{sandbox.url}/").text
        assert httpx.get(f"{sandbox.url}/messages/{accepted['data']['id']}").status_code == 404
        assert story(events(sandbox, recipient=to)) == ["accepted", "failed permanent"]
        assert sandbox.api.get(f"/bounces/{to}").status_code == 200


def test_unknown_pages_are_not_found(sandbox):
    assert httpx.get(f"{sandbox.url}/nothing").status_code == 404
    assert httpx.get(f"{sandbox.url}/messages/nothing").status_code == 404


# --- the documentation --------------------------------------------------------------------------------------


def test_every_script_mode_and_option_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()

    for script in SCRIPTS.values():
        assert f"| `{script.name}@…` | {script.does} |" in text
    for mode in Mode:
        assert f"| `{mode.value}` |" in text
    for option in (option for parameter in main.params for option in parameter.opts):
        assert f"`{option}`" in text
