"""Every vendor that may take Mailgun's or Twilio's place, end to end: what arrives arrives once, the rest ends by name.

What a vendor cannot tell is part of the promise: SMTP, Vonage and Amazon's texts cannot be asked about, so there an
unknown outcome waits for evidence, and without any it ends as unconfirmed instead of being sent again.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from tests import vendors
from tests.conftest import TEMPLATE, Cluster
from tests.sandbox_process import wait_until
from tests.system import System

pytestmark = pytest.mark.slow

# These vendors are given failures enough, one test after another, to open their breaker: it is tried again soon.
BREAKERS = {"LANDED_BREAKERS__COOL_OFF_SECONDS": "1", "LANDED_BREAKERS__COOL_OFF_MAX_SECONDS": "2"}
_areas = itertools.count(random.randrange(601, 900))


@pytest.fixture(scope="module", params=[*vendors.EMAIL, *vendors.SMS])
def system(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    vendor = request.param
    name = f"vendor_{vendor}_{uuid4().hex[:8]}"
    directory = tmp_path_factory.mktemp("system")
    with System(cluster.create(name, template=TEMPLATE), directory, vendor=vendor, environment=BREAKERS) as system:
        yield system
        assert system.stuck() == []
    cluster.drop(name)


def send(system: System, script: str, number: int) -> UUID:
    """To whom the script belongs: an address, or a number that ends in these four digits."""
    if system.vendor in vendors.SMS:
        return system.notify(system.reachable(phone=f"+1{next(_areas)}5550{number}"), "sms")
    return system.send(f"{script}+{uuid4().hex[:12]}@example.com")


def test_what_arrives_is_proven_by_whoever_took_it(system: System) -> None:
    notification = send(system, "ada", 101)
    delivery = system.delivered_as(notification, "delivered")
    assert (delivery["provider"], delivery["attempts"]) == (system.vendor, 1)
    assert system.times_sent(notification) == 1


def test_what_nobody_can_take_is_bounced_and_its_address_suppressed(system: System) -> None:
    notification = send(system, "bounce", 130)
    delivery = system.delivered_as(notification, "bounced", "failed")
    found = system.rows(
        "SELECT reason FROM store.suppressions WHERE delivery_id = %s AND lifted_at IS NULL", delivery["delivery_id"]
    )
    if system.vendor == "sinch":  # its code says "no route", which may be the network's fault as well as the number's
        assert (delivery["reason"], found) == ("soft_bounce", [])
    else:
        assert delivery["reason"] in ("hard_bounce", "recipient_invalid")
        assert [row["reason"] for row in found] == ["hard_bounce"]


@pytest.mark.parametrize(
    ("script", "number"),
    [("timeout-after-accept", 141), ("reset-after-accept", 142), ("error-after-accept", 143)],
)
def test_what_was_taken_and_not_answered_is_never_sent_again(system: System, script: str, number: int) -> None:
    notification = send(system, script, number)
    delivery = system.delivered_as(notification, "delivered")
    assert delivery["attempts"] == 1
    assert system.times_sent(notification) == 1


@pytest.mark.parametrize(("script", "number"), [("rate-limited", 160), ("outage", 161), ("unauthorized", 162)])
def test_what_was_refused_for_a_while_goes_out_once_and_late(system: System, script: str, number: int) -> None:
    if script == "outage" and system.vendor in ("ses", "vonage", "aws_sms"):
        pytest.skip("a 5xx of unknown outcome, and nobody to ask: it ends as unconfirmed, as the next test says")
    notification = send(system, script, number)
    assert system.delivered_as(notification, "delivered")["attempts"] >= 2
    assert system.times_sent(notification) == 1


def test_what_nobody_can_tell_ends_as_unconfirmed_and_is_not_sent_again(system: System) -> None:
    if system.vendor not in ("ses", "smtp", "vonage", "aws_sms"):
        pytest.skip("this vendor can be asked")
    notification = send(system, "hang", 144)
    delivery = system.delivered_as(notification, "unconfirmed")
    assert (delivery["reason"], delivery["attempts"]) == ("ambiguous_unresolved", 1)
    assert system.times_sent(notification) == 0


@pytest.mark.parametrize(("script", "number"), [("duplicate-webhook", 151), ("out-of-order-webhook", 152)])
def test_however_its_webhooks_come_the_end_is_the_same(system: System, script: str, number: int) -> None:
    notification = send(system, script, number)
    assert system.delivered_as(notification, "delivered")["attempts"] == 1


def test_what_only_the_carrier_took_is_no_delivery(system: System) -> None:
    if system.vendor != "aws_sms":
        pytest.skip("of Amazon alone: it calls such a text successful")
    proven, unproven = send(system, "ada", 101), send(system, "never-confirmed", 137)

    def said(notification: UUID) -> set[str]:
        return {entry["data"].get("status") for entry in system.timeline(notification) if entry["source"] == "provider"}

    system.delivered_as(proven, "delivered")
    assert "TEXT_DELIVERED" in said(proven)
    wait_until(lambda: "TEXT_SUCCESSFUL" in said(unproven), what="the carrier's word")
    assert system.delivered_as(unproven, "sent")["delivered_at"] is None


def test_a_complaint_suppresses_the_address(system: System) -> None:
    if system.vendor not in vendors.EMAIL:
        pytest.skip("people do not complain about text messages; they answer STOP")
    notification = send(system, "complaint", 0)
    system.wait_for_kind(notification, "provider_complained")
    delivery = system.delivered_as(notification, "delivered", "sent")
    reasons = "SELECT reason FROM store.suppressions WHERE delivery_id = %s AND lifted_at IS NULL"
    assert [row["reason"] for row in system.rows(reasons, delivery["delivery_id"])] == ["complaint"]
