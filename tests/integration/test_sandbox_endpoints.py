"""The sandbox's merchants and chat rooms, as a process, against foreign signers and plain HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook

from app.sandbox.endpoints.scripts import ENDPOINTS
from app.sandbox.endpoints.signatures import Unverified, verify
from tests.sandbox_process import SandboxProcess

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVENT = {"type": "order.paid", "timestamp": "2026-03-01T12:00:00Z", "data": {"order_id": "secret words"}}
CARD = {
    "type": "message",
    "attachments": [
        {
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlock", "text": "Hello"}]},
        }
    ],
}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("sandbox") / "ledger.jsonl", hold_seconds=1) as process:
        yield process


def merchant(sandbox: SandboxProcess, secret: str | None = SECRET) -> str:
    """The name of a new merchant, who knows this secret."""
    name = f"shop-{uuid4().hex[:12]}"
    if secret is not None:
        told = httpx.put(f"{sandbox.url}/sandbox/merchant/{name}", json={"secret": secret})
        assert told.status_code == 204
    return name


def signed(webhook_id: str, body: bytes, secret: str = SECRET, at: datetime | None = None) -> dict[str, str]:
    """Headers by the standardwebhooks library."""
    moment = at or datetime.now(UTC)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, moment, body.decode()),
    }


def post(
    sandbox: SandboxProcess, name: str, script: str = "ok", webhook_id: str = "", **headers: str
) -> httpx.Response:
    body = json.dumps(EVENT).encode()
    given = signed(webhook_id or f"msg_{uuid4()}", body) | headers
    return httpx.post(f"{sandbox.url}/merchant/{script}/{name}", content=body, headers=given, timeout=30)


def accepted(sandbox: SandboxProcess, webhook_id: str) -> list[dict[str, Any]]:
    return sandbox.ledger(kind="accepted", message_id=webhook_id)


# --- merchants ------------------------------------------------------------------------------------------------------


def test_a_merchant_believes_what_a_foreign_library_signed(sandbox):
    name, delivery = merchant(sandbox), str(uuid4())
    assert post(sandbox, name, webhook_id=f"evt_{delivery}").json() == {"received": True}
    [entry] = accepted(sandbox, f"evt_{delivery}")
    assert (entry["landed_delivery"], entry["recipient"]) == (delivery, f"ok/{name}")
    assert entry["data"]["tags"] == ["verified"]
    assert "secret words" not in sandbox.ledger_path.read_text()
    page = httpx.get(sandbox.url, params={"provider": "merchant", "to": name}).text
    assert "order.paid" in page


def test_a_merchant_processes_each_id_once_and_records_copies_as_copies(sandbox):
    name, webhook_id = merchant(sandbox), f"evt_{uuid4()}"
    answers = [post(sandbox, name, webhook_id=webhook_id).json() for _ in range(3)]
    assert answers == [{"received": True}, *[{"received": True, "copy": True}] * 2]
    assert len(accepted(sandbox, webhook_id)) == 1
    copies = [e for e in sandbox.ledger(kind="event", message_id=webhook_id) if e["data"]["event"] == "copied"]
    assert len(copies) == 2
    assert sandbox.summary()["duplicates"] == {}


def test_two_merchants_process_the_same_id_apart(sandbox):
    webhook_id = f"evt_{uuid4()}"
    for name in (merchant(sandbox), merchant(sandbox)):
        assert post(sandbox, name, webhook_id=webhook_id).json() == {"received": True}
    assert len(accepted(sandbox, webhook_id)) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "v2,AAAA"},
        {"webhook-signature": "nonsense"},
        {"webhook-signature": ""},
        {"webhook-id": "another"},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": "1"},
    ],
)
def test_a_merchant_refuses_what_is_not_signed_right(sandbox, changes):
    name, webhook_id = merchant(sandbox), f"evt_{uuid4()}"
    answer = post(sandbox, name, webhook_id=webhook_id, **changes)
    assert answer.status_code == 401
    assert not accepted(sandbox, webhook_id)


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_merchant_refuses_what_was_signed_at_another_time(sandbox, minutes):
    name, body = merchant(sandbox), b"{}"
    headers = signed("evt_old", body, at=datetime.now(UTC) + timedelta(minutes=minutes))
    assert httpx.post(f"{sandbox.url}/merchant/ok/{name}", content=body, headers=headers).status_code == 401


def test_a_merchant_believes_either_secret_while_one_is_rotated_out(sandbox):
    name, other = merchant(sandbox), "whsec_" + base64.b64encode(b"k" * 32).decode()
    body = json.dumps(EVENT).encode()
    both = signed("evt_1", body)
    both["webhook-signature"] += " " + signed("evt_1", body, other)["webhook-signature"]
    url = f"{sandbox.url}/merchant/ok/{name}"
    assert httpx.post(url, content=body, headers=both).status_code == 200
    httpx.put(f"{sandbox.url}/sandbox/merchant/{name}", json={"secret": other}).raise_for_status()
    assert httpx.post(url, content=body, headers=signed("evt_2", body)).status_code == 401
    assert httpx.post(url, content=body, headers=signed("evt_3", body, other)).status_code == 200


def test_a_merchant_believes_a_public_key(sandbox):
    key = Ed25519PrivateKey.generate()
    public = "whpk_" + base64.b64encode(key.public_key().public_bytes_raw()).decode()
    name, body = merchant(sandbox, public), json.dumps(EVENT).encode()
    stamp = str(int(datetime.now(UTC).timestamp()))
    signature = base64.b64encode(key.sign(f"evt_1.{stamp}.".encode() + body)).decode()
    headers = {"webhook-id": "evt_1", "webhook-timestamp": stamp, "webhook-signature": f"v1a,{signature}"}
    url = f"{sandbox.url}/merchant/ok/{name}"
    assert httpx.post(url, content=body, headers=headers).status_code == 200
    assert httpx.post(url, content=body + b" ", headers=headers).status_code == 401


def test_a_merchant_without_a_secret_takes_everything_as_unverified(sandbox):
    name, webhook_id = merchant(sandbox, None), f"evt_{uuid4()}"
    answer = post(sandbox, name, webhook_id=webhook_id, **{"webhook-signature": "v1,AAAA"})
    assert answer.status_code == 200
    [entry] = accepted(sandbox, webhook_id)
    assert entry["data"]["tags"] == ["unverified"]


def test_a_merchants_secret_outlives_a_restart_and_stays_off_the_ledger(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    with SandboxProcess(ledger) as sandbox:
        name = merchant(sandbox)
        sandbox.kill()
    with SandboxProcess(ledger) as sandbox:
        assert post(sandbox, name, **{"webhook-signature": "v1,AAAA"}).status_code == 401
        assert post(sandbox, name).status_code == 200
    assert SECRET not in ledger.read_text()


@pytest.mark.parametrize("body", [{"secret": "whsec_"}, {"secret": "whsec_AAAA"}, {"secret": "x"}, {"key": "x"}, []])
def test_a_secret_that_verifies_nothing_is_refused(sandbox, body):
    assert httpx.put(f"{sandbox.url}/sandbox/merchant/any", json=body).status_code == 400


def test_the_vector_of_the_specification_comes_out():
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    verify(headers, b'{"test": 2432232314}', [SECRET], 1614265330)
    with pytest.raises(Unverified):
        verify(headers, b'{"test": 2432232315}', [SECRET], 1614265330)


@pytest.mark.parametrize(
    ("script", "statuses"),
    [
        ("ok", [200, 200]),
        ("slow", [200, 200]),
        ("huge-answer", [200, 200]),
        ("failing", [500, 500, 200]),
        ("outage", [503, 503, 200]),
        ("rate-limited", [429, 429, 200]),
        ("error-after-accept", [500, 200]),
        ("gone", [410] * 3),
        ("not-found", [404] * 3),
        ("forbidden", [403] * 3),
        ("content-refused", [400] * 3),
        ("redirect", [302] * 3),
    ],
)
def test_a_merchant_answers_as_its_path_says(sandbox, script, statuses):
    name, webhook_id = merchant(sandbox), f"evt_{uuid4()}"
    answers = [post(sandbox, name, script, webhook_id) for _ in statuses]
    assert [answer.status_code for answer in answers] == statuses
    assert len(accepted(sandbox, webhook_id)) == (200 in statuses)
    assert ("retry-after" in answers[0].headers) is (script == "rate-limited")
    assert ("location" in answers[0].headers) is (script == "redirect")
    assert (len(answers[0].content) > 10_000_000) is (script == "huge-answer")


@pytest.mark.parametrize(("script", "count"), [("timeout-after-accept", 1), ("reset-after-accept", 1), ("hang", 0)])
def test_a_merchant_may_say_nothing_and_knows_the_copy_that_follows(sandbox, script, count):
    name, webhook_id = merchant(sandbox), f"evt_{uuid4()}"
    with pytest.raises(httpx.TransportError):
        post(sandbox, name, script, webhook_id)
    assert len(accepted(sandbox, webhook_id)) == count
    if count:
        assert post(sandbox, name, script, webhook_id).json() == {"received": True, "copy": True}


# --- rooms ----------------------------------------------------------------------------------------------------------


def slack(sandbox: SandboxProcess, script: str, body: Any = None) -> httpx.Response:
    url = f"{sandbox.url}/slack/services/T1/{uuid4().hex}/{script}"
    return httpx.post(url, json=body or {"text": "*Shipped*\nsecret words"}, timeout=30)


def discord(sandbox: SandboxProcess, script: str, body: Any = None, version: str = "") -> httpx.Response:
    url = f"{sandbox.url}/discord/api/{version}webhooks/{uuid4().int % 10**18}/{script}"
    content = body or {"content": "**Shipped**\nsecret words"}
    return httpx.post(url, params={"wait": "true"}, json=content, timeout=30)


def teams(sandbox: SandboxProcess, script: str, body: Any = None) -> httpx.Response:
    return httpx.post(f"{sandbox.url}/teams/workflows/{script}/{uuid4().hex}", json=body or CARD, timeout=30)


ROOMS = {"slack": slack, "discord": discord, "teams": teams}


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("ok", {"slack": 200, "discord": 200, "teams": 202}),
        ("failing", {"slack": 500, "discord": 500, "teams": 500}),
        ("outage", {"slack": 503, "discord": 503, "teams": 503}),
        ("rate-limited", {"slack": 429, "discord": 429, "teams": 429}),
        ("gone", {"slack": 410, "discord": 404, "teams": 410}),
        ("not-found", {"slack": 404, "discord": 404, "teams": 404}),
        ("forbidden", {"slack": 403, "discord": 401, "teams": 403}),
        ("content-refused", {"slack": 400, "discord": 400, "teams": 400}),
        ("redirect", {"slack": 302, "discord": 302, "teams": 302}),
        ("error-after-accept", {"slack": 500, "discord": 500, "teams": 500}),
    ],
)
def test_rooms_answer_as_their_path_says(sandbox, script, expected):
    answers = {name: send(sandbox, script) for name, send in ROOMS.items()}
    assert {name: answer.status_code for name, answer in answers.items()} == expected
    waits = {answer.headers.get("retry-after") for answer in answers.values()}
    assert (None not in waits) is (script == "rate-limited")
    if script == "rate-limited":
        assert answers["discord"].json()["retry_after"] >= 1
        assert answers["discord"].headers["x-ratelimit-remaining"] == "0"


@pytest.mark.parametrize("name", ROOMS)
def test_the_page_shows_what_is_said_in_a_room(sandbox, name):
    before = len(sandbox.ledger(kind="accepted", provider=name))
    ROOMS[name](sandbox, "ok")
    page = httpx.get(sandbox.url, params={"provider": name}).text
    assert len(sandbox.ledger(kind="accepted", provider=name)) == before + 1
    assert ("Shipped" if name != "teams" else "Hello") in page
    assert "secret words" not in sandbox.ledger_path.read_text()


def test_discord_shows_a_message_by_the_id_it_answered(sandbox):
    url = f"{sandbox.url}/discord/api/v10/webhooks/42/anything"
    posted = httpx.post(url, params={"wait": "true"}, json={"content": "Hello"}).json()
    assert httpx.get(f"{url}/messages/{posted['id']}").json()["id"] == posted["id"]
    assert httpx.get(f"{url}/messages/1").json()["code"] == 10008
    assert httpx.post(url, json={"content": "Hello"}).status_code == 204


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("slack", {"blocks": []}, "no_text"),
        ("slack", ["x"], "invalid_payload"),
        ("discord", {"content": "a" * 2001}, "content"),
        ("discord", {"content": ""}, "empty"),
        ("discord", {"embeds": [{}] * 11}, "embeds"),
        ("teams", {"text": "Hello"}, "adaptive card"),
        ("teams", ["x"], "invalid_payload"),
    ],
)
def test_rooms_refuse_what_is_wrong_with_a_post(sandbox, name, body, words):
    answer = ROOMS[name](sandbox, "ok", body)
    assert answer.status_code == 400
    assert words in answer.text


def test_a_card_too_large_for_teams_is_refused(sandbox):
    assert teams(sandbox, "ok", CARD | {"padding": "a" * 30_000}).status_code == 413


@pytest.mark.parametrize("name", ["merchant", *ROOMS])
@pytest.mark.parametrize("mode", ["error", "unauthorized"])
def test_a_fault_of_one_kind_of_endpoint_leaves_the_others_alone(sandbox, name, mode):
    sends = {"merchant": lambda sandbox, script: post(sandbox, merchant(sandbox), script), **ROOMS}
    sandbox.set_fault(mode, provider=name)
    try:
        told = {kind: send(sandbox, "ok").status_code for kind, send in sends.items()}
    finally:
        sandbox.set_fault("ok")
    assert told.pop(name) == (503 if mode == "error" else 403 if name == "slack" else 401)
    assert max(told.values()) < 300


def test_every_script_of_an_endpoint_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
    for group in ENDPOINTS.groups.values():
        for script in group:
            assert f"| `{script.name}` | {script.does} |" in text
