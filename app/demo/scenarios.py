"""What the demo sends, and what each must come to. The ends are looked up in the database, never assumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from app.sandbox.scripts import SCRIPTS

DOMAIN = "example.com"


@dataclass(frozen=True, slots=True)
class End:
    """What must be true in the end.

    attempts: provider calls begun. arrivals: how often the outside world accepted it, by its own ledger.
    events: kinds the timeline must have. proof: who told of the end, ``provider`` (a webhook) or ``lookup``.
    posts: webhooks posted about it. suppresses: why its address is now suppressed. refused: lies turned away.
    """

    state: str
    reason: str
    attempts: int = 1
    arrivals: int = 1
    events: frozenset[str] = frozenset()
    proof: str | None = None
    posts: int = 0
    suppresses: str | None = None
    refused: frozenset[str] = frozenset()
    failures: int | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One notification of the demo.

    name: what the table calls it. script: the local part of the address, which picks what the sandbox does.
    after: the scenario whose end it waits for; it goes to the same address. way: rest, sql or rollback.
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

    @property
    def recipient(self) -> str:
        return f"demo-{self.after or self.name}"


DELIVERED = End("delivered", "confirmed", proof="provider")
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
    Scenario("sql-committed", "landed.send, then COMMIT", "ada", DELIVERED, way="sql"),
    Scenario("sql-rolled-back", "landed.send, then ROLLBACK", "ada", None, way="rollback"),
)

CATEGORIES = {
    "orders": {"class": "transactional", "description": "What a customer waits for"},
    "news": {"class": "promotional", "description": "What a customer may do without"},
    "security": {"class": "alert", "description": "What a customer must know at once"},
}


def playground() -> list[dict[str, str]]:
    """A recipient for each scripted address of the sandbox, to try things with."""
    return [{"id": name, "email": f"{name}@{DOMAIN}"} for name in ("ada", *SCRIPTS)]


def cast(run: str) -> list[dict[str, str]]:
    """The recipients of this run. A suffix makes their addresses new: what bounced before is suppressed."""
    return [
        {"id": scenario.recipient, "email": f"{scenario.script}+{run}-{scenario.name}@{DOMAIN}"}
        for scenario in SCENARIOS
        if scenario.after is None
    ]
