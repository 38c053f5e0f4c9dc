"""Every channel, API to worker to provider to webhook to view: lost nothing, twice nothing, and a named end for each.

The outside world is the sandbox, whose ledger says what really arrived; tests/scenario/test_failure_modes.py asks the
same of email.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.conftest import TEMPLATE, Cluster
from tests.sandbox_process import wait_until
from tests.system import System

_areas = itertools.count(random.randrange(200, 600))


@pytest.fixture(scope="module")
def shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    name = f"channels_{uuid4().hex[:8]}"
    with System(cluster.create(name, template=TEMPLATE), tmp_path_factory.mktemp("system")) as system:
        yield system
    cluster.drop(name)


@pytest.fixture
def system(shared: System) -> Iterator[System]:
    yield shared
    assert shared.stuck() == []


# -- text messages -------------------------------------------------------------------------------------------


def phone(script: int) -> str:
    """A number of this test's own that plays the script of its last four digits."""
    return f"+1{next(_areas)}5550{script}"


def test_a_text_is_delivered_when_the_phones_receipt_says_so(system: System) -> None:
    notification = system.notify(system.reachable(phone=phone(101)), "sms")
    delivery = system.delivered_as(notification, "delivered")
    assert (delivery["channel"], delivery["attempts"]) == ("sms", 1)
    assert system.times_sent(notification) == 1
    [attempt] = system.rows("SELECT facts FROM reporting.attempts WHERE delivery_id = %s", delivery["delivery_id"])
    assert attempt["facts"] == {"encoding": "gsm7", "units": 24, "segments": 1}


@pytest.mark.parametrize(
    ("script", "state", "reason"),
    [(130, "bounced", "hard_bounce"), (131, "bounced", "hard_bounce"), (132, "bounced", "reputation")],
    ids=["unknown number", "landline", "filtered by the carrier"],
)
def test_a_text_that_cannot_be_delivered_ends_by_name(system: System, script: int, state: str, reason: str) -> None:
    number = phone(script)
    notification = system.notify(system.reachable(phone=number), "sms")
    delivery = system.delivered_as(notification, "bounced", "failed")
    assert (delivery["state"], delivery["reason"]) == (state, reason)
    assert system.suppressions(number) == ([("hard_bounce", "all")] if reason == "hard_bounce" else [])


@pytest.mark.parametrize("script", [141, 142, 143, 145], ids=["timeout", "reset", "500", "timeout, no callback"])
def test_a_text_of_unknown_outcome_is_found_and_not_sent_again(system: System, script: int) -> None:
    notification = system.notify(system.reachable(phone=phone(script)), "sms")
    delivery = system.delivered_as(notification, "delivered")
    assert delivery["attempts"] == 1
    assert system.times_sent(notification) == 1
    system.wait_for_kind(notification, "attempt_unknown")


@pytest.mark.parametrize("script", [150, 151, 152], ids=["lost", "thrice", "backwards"])
def test_whatever_befalls_its_callbacks_a_text_is_proven(system: System, script: int) -> None:
    notification = system.notify(system.reachable(phone=phone(script)), "sms")
    assert system.delivered_as(notification, "delivered")["attempts"] == 1
    assert system.times_sent(notification) == 1


def test_no_forged_callback_makes_a_text_delivered(system: System) -> None:
    number = phone(153)
    notification = system.notify(system.reachable(phone=number), "sms")
    assert system.delivered_as(notification, "bounced", "delivered")["state"] == "bounced"

    def refused() -> bool:
        rows = system.rows("SELECT reason FROM reporting.webhook_refusals WHERE provider = 'twilio'")
        return "forged" in {row["reason"] for row in rows}

    wait_until(refused, what="the lie among the refusals")


@pytest.mark.parametrize("script", [160, 161, 162], ids=["429", "503", "401"])
def test_a_text_that_was_refused_for_a_while_goes_out_once_and_late(system: System, script: int) -> None:
    notification = system.notify(system.reachable(phone=phone(script)), "sms")
    assert system.delivered_as(notification, "delivered")["attempts"] >= 3
    assert system.times_sent(notification) == 1


def test_stop_is_binding_at_once_and_start_lifts_it(system: System) -> None:
    number = phone(171)  # answers STOP, and half a minute of the sandbox's time later START
    recipient = system.reachable(phone=number)
    first = system.notify(recipient, "sms")
    system.delivered_as(first, "delivered")
    said = "SELECT action FROM store.consents WHERE address = %s ORDER BY occurred_at"
    wait_until(lambda: system.rows(said, number), what="STOP")
    assert system.rows(said, number)[0]["action"] == "opt_out"
    wait_until(lambda: len(system.rows(said, number)) == 2, what="START")
    assert system.suppressions(number) == []


def test_what_is_sent_after_stop_is_recorded_and_never_leaves(system: System) -> None:
    number = phone(170)
    recipient = system.reachable(phone=number)
    system.delivered_as(system.notify(recipient, "sms"), "delivered")
    wait_until(lambda: system.suppressions(number), what="STOP")
    assert system.suppressions(number) == [("opted_out", "all")]
    second = system.notify(recipient, "sms")
    delivery = system.delivered_as(second, "suppressed")
    assert (delivery["reason"], delivery["attempts"]) == ("suppressed:opted_out", 0)


# -- push ----------------------------------------------------------------------------------------------------

# What the sandbox plays, by the beginning of an APNs token.
APNS = {"": "a1b2", "silent": "5a00", "opens": "5a01", "timeout-after-accept": "5a11", "unregistered": "5a25"}


def with_device(system: System, platform: str, script: str) -> str:
    """A recipient with one device that plays the script."""
    recipient = system.reachable()
    device: dict[str, Any] = {"user_id": recipient, "platform": platform}
    if platform == "web":
        answer = httpx.get(f"{system.sandbox.url}/sandbox/push/subscription", params={"script": script or "ok"})
        device["subscription"] = answer.raise_for_status().json()
    elif platform == "ios":
        device["device_token"] = APNS[script] + uuid4().hex * 2
    else:
        device["device_token"] = f"{script or 'phone'}:{uuid4().hex}"
    system.client.post("/devices/register", json=device).raise_for_status()
    return recipient


def live_devices(system: System, recipient: str) -> int:
    return len(system.rows("SELECT FROM store.devices WHERE recipient_id = %s AND retired_at IS NULL", recipient))


PLATFORMS = ("ios", "android", "web")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_push_is_delivered_when_the_device_says_so(system: System, platform: str) -> None:
    notification = system.notify(with_device(system, platform, "opens"), "push")
    delivery = system.delivered_as(notification, "delivered")
    system.wait_for_kind(notification, "provider_opened")
    assert (delivery["attempts"], system.times_sent(notification)) == (1, 1)
    proof = [entry for entry in system.timeline(notification) if entry["kind"] == "provider_delivered"]
    assert {entry["source"] for entry in proof} == {"device"}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_push_that_was_taken_and_not_answered_is_proven_by_the_device_and_not_sent_again(
    system: System, platform: str
) -> None:
    notification = system.notify(with_device(system, platform, "timeout-after-accept"), "push")
    delivery = system.delivered_as(notification, "delivered")
    assert (delivery["attempts"], system.times_sent(notification)) == (1, 1)
    system.wait_for_kind(notification, "attempt_unknown")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_dead_token_is_removed_at_once_and_a_person_without_a_device_is_a_recorded_end(
    system: System, platform: str
) -> None:
    recipient = with_device(system, platform, "unregistered")
    delivery = system.delivered_as(system.notify(recipient, "push"), "failed")
    assert (delivery["reason"], delivery["attempts"]) == ("recipient_invalid", 1)
    wait_until(lambda: live_devices(system, recipient) == 0, what="the token's removal")
    again = system.delivered_as(system.notify(recipient, "push"), "failed")
    assert (again["reason"], again["attempts"]) == ("no_device", 0)


def test_a_device_that_never_says_a_word_leaves_the_push_at_sent(system: System) -> None:
    notification = system.notify(with_device(system, "ios", "silent"), "push")
    assert system.delivered_as(notification, "sent", "delivered")["state"] == "sent"
    assert system.times_sent(notification) == 1


# -- the inbox -----------------------------------------------------------------------------------------------


def token_of(system: System, recipient: str) -> dict[str, str]:
    answer = system.client.post(f"/recipients/{recipient}/tokens", json={}).raise_for_status().json()
    return {"Authorization": f"Bearer {answer['token']}"}


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """(event, data) of a stream of server-sent events."""
    name = ""
    for line in lines:
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            yield name, json.loads(line.removeprefix("data:"))


def test_an_item_appears_live_and_is_delivered_when_the_client_says_so(system: System) -> None:
    recipient = system.reachable()
    headers = token_of(system, recipient)
    inbox = f"{system.url}/api/v1/inbox"
    with httpx.stream("GET", f"{inbox}/stream", headers=headers, timeout=30) as stream:
        told = events(stream.iter_lines())
        notification = system.notify(recipient, "in_app")
        item = next(data for name, data in told if name == "item")
    assert item["title"] == "Your order"
    assert system.delivered_as(notification, "sent")["reason"] is None
    httpx.post(f"{inbox}/{item['id']}/ack", headers=headers).raise_for_status()
    system.delivered_as(notification, "delivered")
    proof = [entry for entry in system.timeline(notification) if entry["kind"] == "provider_delivered"]
    assert [entry["source"] for entry in proof] == ["device"]
    counts = httpx.get(f"{inbox}/counts", headers=headers).json()
    assert counts["unread"] == 1


# -- endpoints -----------------------------------------------------------------------------------------------


def at_merchant(system: System, script: str, **fields: Any) -> tuple[str, str]:
    """A recipient whose events go to a merchant that plays the script, and the endpoint's id."""
    name = uuid4().hex[:12]
    body = {"name": name, "url": f"{system.sandbox.url}/merchant/{script}/{name}", **fields}
    endpoint = system.client.post("/endpoints", json=body).raise_for_status().json()
    secret = {"secret": endpoint["secret"]}
    httpx.put(f"{system.sandbox.url}/sandbox/merchant/{name}", json=secret).raise_for_status()
    return system.reachable(addresses={"webhook": endpoint["id"]}), endpoint["id"]


@pytest.mark.parametrize(("script", "attempts"), [("ok", 1), ("failing", 3), ("rate-limited", 3), ("outage", 3)])
def test_an_event_reaches_its_merchant_once_whatever_it_takes(system: System, script: str, attempts: int) -> None:
    recipient, _ = at_merchant(system, script)
    notification = system.notify(recipient, "webhook")
    delivery = system.delivered_as(notification, "delivered")
    assert (delivery["attempts"], system.times_sent(notification)) == (attempts, 1)


@pytest.mark.parametrize("script", ["timeout-after-accept", "reset-after-accept", "error-after-accept"])
def test_an_event_that_was_processed_and_not_answered_is_processed_once(system: System, script: str) -> None:
    """Asked for again under the same id, which is how the standard settles it: the merchant knows a copy by it."""
    recipient, _ = at_merchant(system, script)
    notification = system.notify(recipient, "webhook")
    system.wait_for_kind(notification, "attempt_opened", times=2)
    assert system.times_sent(notification) == 1


def test_an_endpoint_that_is_gone_is_disabled_and_the_tenants_others_are_told(system: System) -> None:
    _, listener = at_merchant(system, "ok", events=["endpoint.disabled"])
    recipient, gone = at_merchant(system, "gone")
    assert system.delivered_as(system.notify(recipient, "webhook"), "failed")["reason"] == "gone"
    again = system.delivered_as(system.notify(recipient, "webhook"), "dead")
    assert (again["reason"], again["attempts"]) == ("endpoint_disabled", 1)
    told = "SELECT state FROM reporting.deliveries WHERE category = 'endpoint.disabled' AND recipient_id = %s"
    wait_until(
        lambda: [row["state"] for row in system.rows(told, f"endpoint:{listener}")] == ["delivered"], what="the news"
    )
    assert system.client.get(f"/endpoints/{gone}").json()["status"] == "disabled"


def test_a_merchant_hears_how_its_messages_end(system: System) -> None:
    _, listener = at_merchant(system, "ok", events=["delivery.bounced"])
    bounced = system.send(f"bounce+{uuid4().hex[:12]}@example.com")
    system.delivered_as(bounced, "bounced")
    told = "SELECT state FROM reporting.deliveries WHERE category = 'delivery.bounced' AND recipient_id = %s"
    wait_until(
        lambda: [row["state"] for row in system.rows(told, f"endpoint:{listener}")] == ["delivered"], what="the news"
    )
    system.client.delete(f"/endpoints/{listener}").raise_for_status()


def test_a_room_is_told_in_words(system: System) -> None:
    url = f"{system.sandbox.url}/slack/services/T1/B1/{uuid4().hex[:8]}"
    body = {"name": uuid4().hex[:12], "url": url, "format": "slack"}
    endpoint = system.client.post("/endpoints", json=body).raise_for_status().json()
    recipient = system.reachable(addresses={"chat": endpoint["id"]})
    assert system.delivered_as(system.notify(recipient, "chat"), "delivered")["attempts"] == 1


# -- together ------------------------------------------------------------------------------------------------


def test_a_password_reset_by_every_way_a_person_has(system: System) -> None:
    """One request, several channels: each delivery is its own, and each comes to its own end."""
    recipient = system.reachable(email=f"ada+{uuid4().hex[:8]}@example.com", phone=phone(102))
    notification = system.notify(recipient, "email", channels=["email", "sms", "in_app", "push"])

    def ends() -> dict[str, tuple[str, str | None]]:
        found = system.rows(
            "SELECT channel, state, reason FROM reporting.deliveries WHERE notification_id = %s", notification
        )
        return {row["channel"]: (row["state"], row["reason"]) for row in found}

    wanted = {
        "email": ("delivered", "confirmed"),
        "sms": ("delivered", "confirmed"),
        "in_app": ("sent", None),
        "push": ("failed", "no_device"),
    }
    wait_until(lambda: ends() == wanted, what=f"{wanted}, still {ends()}", seconds=60)
