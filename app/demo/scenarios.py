"""What the demo sends, and what each must come to. The ends are looked up in the database, never assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from app.sandbox.scripts import SCRIPTS

DOMAIN = "example.com"
APNS_CODES = {"": "a1b2", "silent": "5a00", "unregistered": "5a25"}  # the sandbox reads them off a token's beginning
AREA_CODES = [code for code in range(201, 990) if code % 100 != 11 and str(code)[1] != "9"]  # North America's


@dataclass(frozen=True, slots=True)
class End:
    """What must be true in the end.

    attempts: provider calls begun. arrivals: how often the outside world accepted it, by its own ledger; None where
    nothing of ours can be told apart there, as in a chat room.
    events: kinds the timeline must have. proof: who told of the end: ``provider`` (a webhook, or the receiver's own
    answer), ``lookup``, or ``device``.
    posts: webhooks posted about it. suppresses: why its address is now suppressed. refused: lies turned away.
    """

    state: str
    reason: str
    attempts: int = 1
    arrivals: int | None = 1
    events: frozenset[str] = frozenset()
    proof: str | None = None
    posts: int = 0
    suppresses: str | None = None
    refused: frozenset[str] = frozenset()
    failures: int | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One notification of the demo.

    name: what the table calls it. script: what picks the sandbox's part: the local part of an email address, the last
    four digits of a number, a device's or an endpoint's script. platform: of a push. country: of a number. after: the
    scenario whose end it waits for; it goes to the same address. way: rest, sql or rollback.
    """

    name: str
    meets: str
    script: str
    end: End | None
    template: str = "order-confirmation"
    category: str = "orders"
    way: str = "rest"
    after: str | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    channel: str = "email"
    platform: str = ""
    country: str = "US"

    @property
    def recipient(self) -> str:
        return f"demo-{self.after or self.name}"


DELIVERED = End("delivered", "confirmed", proof="provider")
ACKNOWLEDGED = End("delivered", "confirmed", proof="device")
HARD_BOUNCE = End("bounced", "hard_bounce", events=frozenset({"provider_bounced"}), suppresses="hard_bounce")


def _delivered(**more: Any) -> End:
    events = frozenset(more.pop("events", ()))
    return End("delivered", "confirmed", events=events, **more)


SCENARIOS = (
    Scenario("success", "nothing unusual", "ada", DELIVERED),
    Scenario("alert", "nothing unusual, in the alert lane", "grace", DELIVERED, "password-reset", "security"),
    Scenario("bounce", "the mailbox does not exist", "bounce", HARD_BOUNCE),
    Scenario(
        "bounce-again",
        "a second send to the same address",
        "bounce",
        End("suppressed", "suppressed:hard_bounce", attempts=0, arrivals=0),
        after="bounce",
    ),
    Scenario(
        "soft-bounce",
        "the mailbox stays full",
        "soft-bounce",
        End("bounced", "soft_bounce", events=frozenset({"provider_deferred", "provider_bounced"})),
    ),
    Scenario(
        "complaint",
        "delivered, then marked as spam",
        "complaint",
        _delivered(proof="provider", events={"provider_complained"}, suppresses="complaint"),
        "shipping-update",
        "news",
    ),
    Scenario("slow", "the provider is slow to answer", "slow", DELIVERED),
    Scenario(
        "timeout",
        "accepted, and never answered",
        "timeout-after-accept",
        _delivered(proof="provider", events={"attempt_unknown"}),
    ),
    Scenario(
        "timeout-silence",
        "the same, and every webhook is lost",
        "timeout-and-webhooks-lost",
        _delivered(proof="lookup", events={"attempt_unknown", "resolved_found"}),
    ),
    Scenario("webhook-lost", "no webhook ever comes", "webhook-lost", _delivered(proof="lookup")),
    Scenario(
        "webhooks-thrice",
        "every webhook comes three times",
        "duplicate-webhook",
        _delivered(proof="provider", posts=6),
    ),
    Scenario(
        "webhooks-backwards",
        "webhooks come in the wrong order",
        "out-of-order-webhook",
        _delivered(proof="provider", events={"provider_opened"}),
    ),
    Scenario(
        "webhooks-forged",
        "it bounces; forged webhooks deny it",
        "forged-webhook",
        End(
            "bounced",
            "hard_bounce",
            events=frozenset({"provider_bounced"}),
            refused=frozenset({"forged", "stale", "replayed"}),
        ),
    ),
    Scenario(
        "rate-limited",
        "429 twice",
        "rate-limited",
        _delivered(proof="provider", attempts=3, failures=0, events={"attempt_rate_limited"}),
    ),
    Scenario(
        "outage",
        "503 twice: sent or not?",
        "outage",
        _delivered(proof="provider", attempts=3, events={"attempt_unknown", "resolved_not_sent"}),
    ),
    Scenario(
        "render-bomb",
        "a template that never ends",
        "ada",
        End("dead", "render_failed", arrivals=0),
        "render-bomb",
        "news",
        variables={"first_name": "Ada"},
    ),
    Scenario("text", "a phone", "0101", DELIVERED, "driver-arriving", channel="sms"),
    Scenario(
        "text-timeout",
        "accepted, and never answered",
        "0141",
        _delivered(proof="provider", events={"attempt_unknown"}),
        "login-code",
        "security",
        channel="sms",
    ),
    Scenario(
        "text-elsewhere",
        "the first provider is down",
        "0101",
        _delivered(proof="provider", attempts=2, failures=0, events={"attempt_transient"}),
        "login-code",
        "security",
        channel="sms",
        country="GB",
    ),
    Scenario("text-nobody", "a number nobody has", "0130", HARD_BOUNCE, "driver-arriving", channel="sms"),
    Scenario(
        "text-stop",
        "a phone that answers STOP",
        "0170",
        _delivered(proof="provider", suppresses="opted_out"),
        "driver-arriving",
        channel="sms",
    ),
    Scenario(
        "text-after-stop",
        "a second text to that phone",
        "0170",
        End("suppressed", "suppressed:opted_out", attempts=0, arrivals=0),
        "driver-arriving",
        after="text-stop",
        channel="sms",
    ),
    Scenario("push-ios", "an iPhone", "", ACKNOWLEDGED, "fraud-flag", "security", channel="push", platform="ios"),
    Scenario(
        "push-android",
        "a phone whose owner taps it",
        "opens",
        _delivered(proof="device", events={"provider_opened"}),
        "shipping-update",
        channel="push",
        platform="android",
    ),
    Scenario("push-browser", "a browser", "", ACKNOWLEDGED, "flash-sale", "news", channel="push", platform="web"),
    Scenario(
        "push-silent",
        "a phone that never says a word",
        "silent",
        End("unconfirmed", "not_acknowledged"),
        "login-code",
        "security",
        channel="push",
        platform="ios",
    ),
    Scenario(
        "push-gone",
        "an app that was removed",
        "unregistered",
        End("failed", "recipient_invalid", arrivals=0),
        "login-code",
        "security",
        channel="push",
        platform="ios",
    ),
    Scenario(
        "push-nowhere",
        "a person without a device",
        "",
        End("failed", "no_device", attempts=0, arrivals=0),
        "fraud-flag",
        "security",
        channel="push",
    ),
    Scenario("in-app", "an app that shows its inbox", "", ACKNOWLEDGED, "shipping-update", channel="in_app"),
    Scenario("webhook", "a merchant's server", "ok", DELIVERED, "threshold-breach", channel="webhook"),
    Scenario(
        "webhook-down",
        "a server that fails twice",
        "outage",
        _delivered(proof="provider", attempts=3, failures=2),
        "threshold-breach",
        channel="webhook",
    ),
    Scenario(
        "chat",
        "a Slack room",
        "ok",
        _delivered(proof="provider", arrivals=None),
        "outage-warning",
        "security",
        channel="chat",
    ),
    Scenario("sql-committed", "landed.send, then COMMIT", "ada", DELIVERED, way="sql"),
    Scenario("sql-rolled-back", "landed.send, then ROLLBACK", "ada", None, way="rollback"),
)

# No limit on what one recipient gets in an hour: the same people see the demo again and again.
CATEGORIES = {
    "orders": {"class": "transactional", "recipient_per_hour": 0, "description": "What a customer waits for"},
    "news": {"class": "promotional", "recipient_per_hour": 0, "description": "What a customer may do without"},
    "security": {"class": "alert", "recipient_per_hour": 0, "description": "What a customer must know at once"},
}


def playground() -> list[dict[str, str]]:
    """A recipient for each scripted address of the sandbox, to try things with."""
    return [{"id": name, "email": f"{name}@{DOMAIN}"} for name in ("ada", *SCRIPTS)]


def cast(run: str, endpoints: Mapping[str, str]) -> list[dict[str, Any]]:
    """The recipients of this run. Their addresses are new each time: what bounced or said STOP before is suppressed.

    endpoints: the id of each endpoint, by the name of its scenario.
    """
    return [
        {"id": scenario.recipient, **_addresses(scenario, run, endpoints)}
        for scenario in SCENARIOS
        if scenario.after is None
    ]


def phones(run: str) -> set[str]:
    """The numbers of its cast."""
    return {_addresses(scenario, run, {})["phone"] for scenario in SCENARIOS if scenario.channel == "sms"}


def _addresses(scenario: Scenario, run: str, endpoints: Mapping[str, str]) -> dict[str, Any]:
    match scenario.channel:
        case "email":
            return {"email": f"{scenario.script}+{run}-{scenario.name}@{DOMAIN}"}
        case "sms":
            # The run's own digits before those of the script.
            if scenario.country == "GB":
                # All of +44 741 is Great Britain's; other mobile numbers of +44 are Jersey's, or nobody's.
                return {"phone": f"+44741{int(run, 16) % 1000:03}{scenario.script}"}
            area = AREA_CODES[int(run, 16) % len(AREA_CODES)]
            return {"phone": f"+1{area}555{scenario.script}"}
        case "webhook" | "chat":
            return {"addresses": {scenario.channel: endpoints[scenario.name]}}
        case _:
            return {}


def token(scenario: Scenario, run: str) -> str:
    """A device token that plays the scenario's script at APNs (hexadecimal) or FCM."""
    if scenario.platform == "ios":
        own = sha256(f"{run}{scenario.name}".encode()).hexdigest()
        return APNS_CODES[scenario.script] + own[4:]
    return f"{scenario.script or 'phone'}:{run}-{scenario.name}"
