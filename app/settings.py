"""The configuration: one frozen model, from ``landed.toml`` and ``LANDED_*`` environment variables.

Times are tied to each other by inequalities; a configuration that breaks one refuses to start and prints both numbers
(I12; RELIABILITY, A.6). Nested names are joined by two underscores: ``LANDED_TIMES__SEND_SECONDS=15``.
Secrets come from the environment or from files (``api_key_file``), never from ``landed.toml`` in a repository.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from app.domain.models import Channel, NotificationClass
from app.domain.routing import RouteKey, Routes
from app.errors import ConfigurationError

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ApiSettings(Section):
    host: str = "127.0.0.1"
    port: int = 8025
    public_url: str | None = None  # how providers and recipients reach us: webhooks, unsubscribe links
    body_bytes_max: int = 256 * 1024  # one notification is about 2 KB; this leaves room for long variables
    batch_bytes_max: int = 8 * 1024 * 1024
    webhook_bytes_max: int = 1024 * 1024  # Mailgun events are under 100 KB
    accept_group_max: int = 500  # requests in one commit; more only lengthens the wait of the first
    accept_queue_max: int = 4000  # about a second of work; beyond it a 503 is kinder than a timeout


class Times(Section):
    """Every duration whose order matters, in seconds. The names in brackets are those of RELIABILITY, A.6."""

    client_retry_horizon_seconds: Seconds = 1 * DAY  # R_c, published to clients
    client_timeout_seconds: Seconds = 30.0
    request_budget_seconds: Seconds = 10.0
    lock_timeout_seconds: Seconds = 2.0
    key_ttl_seconds: Seconds = 7 * DAY  # T_api
    validity_seconds: Seconds = 1 * DAY  # V: default and longest life of a notification once due; bounds R_m
    dead_letter_retention_seconds: Seconds = 5 * DAY  # D
    ambiguous_max_seconds: Seconds = 2 * DAY  # A: an unknown outcome is then for people to decide
    webhook_window_seconds: Seconds = 9 * HOUR  # how long a provider redelivers (Mailgun: 8 h)
    evidence_window_seconds: Seconds = 7 * DAY  # W: the oldest event still taken in
    retention_seconds: Seconds = 35 * DAY  # S_d: days of notifications, attempts and events kept
    gate_seconds: Seconds = 5.0  # G: from the intent's commit to the start of the call
    send_seconds: Seconds = 10.0  # T_send
    commit_max_seconds: Seconds = 5.0
    lease_seconds: Seconds = 60.0  # C
    settle_seconds: Seconds = 30.0  # after which an old epoch's call cannot still be under way at the provider
    quarantine_seconds: Seconds = 120.0  # T_q
    shutdown_grace_seconds: Seconds = 20.0


class Follow(Section):
    """When a delivery that is not yet proven is looked at again (R-106, R-107)."""

    confirm_after_seconds: Seconds = 15 * MINUTE  # no webhook by then: ask
    confirm_give_up_seconds: Seconds = 12 * HOUR  # Mailgun itself gives up after about 8 h
    ambiguous_first_lookup_seconds: Seconds = 30.0
    lookup_backoff: float = Field(default=2.0, ge=1)
    lookup_interval_max_seconds: Seconds = 1 * HOUR
    park_retry_seconds: Seconds = 5 * MINUTE
    reconcile_every_seconds: int = Field(default=5, ge=1, le=30)


class Retry(Section):
    """The ladder of delays after a definite failure (R-089); an alert's promise of a second needs its own (R-039)."""

    ladders: dict[NotificationClass, tuple[Seconds, ...]] = {
        NotificationClass.TRANSACTIONAL: (60.0, 300.0, 900.0, 3600.0),
        NotificationClass.PROMOTIONAL: (60.0, 300.0, 900.0, 3600.0),
        NotificationClass.ALERT: (2.0, 10.0, 60.0, 300.0),
    }
    jitter: float = Field(default=0.10, ge=0, le=1)  # only ever added
    retry_after_max_seconds: Seconds = 1 * HOUR  # a provider's Retry-After is clamped to [1 s, this]
    unauthorized_pause_seconds: Seconds = 60.0

    @model_validator(mode="after")
    def every_class_has_a_ladder(self) -> Self:
        missing = [c for c in NotificationClass if not self.ladders.get(c)]
        if missing:
            raise ValueError(f"retry.ladders needs at least one delay for {', '.join(missing)}")
        return self


class Bounces(Section):
    """R-114: so many consecutive soft bounces over so many days count as a hard one."""

    soft_bounces_max: int = Field(default=4, ge=3, le=5)
    soft_bounce_days_min: float = Field(default=2.0, ge=0)


class Worker(Section):
    """How much at once. ``share(klass)`` gives the part of it that a class may take."""

    claim_max: int = 800  # rows in one claim; G must cover handing them to the network
    concurrency: int = 200  # provider calls under way at once, per lane
    in_hand_max: int = 2000  # deliveries claimed and not yet recorded, per lane: enough that no step waits for another
    retry_share: float = Field(default=0.25, gt=0, lt=1)  # of a claim, so that retries never starve first attempts
    # What a campaign gets of all of the above: it shares the worker's event loop with password resets, and what it does
    # in one turn of that loop, they wait for.
    promotional_share: float = Field(default=0.125, gt=0, le=1)
    poll_seconds: Seconds = 1.0  # wake-ups are hints; this is what correctness rests on
    heartbeat_seconds: Seconds = 5.0
    render_processes: int = Field(default=1, ge=1)
    intake_batch: int = 500
    apply_batch: int = 500

    def share(self, klass: NotificationClass) -> Worker:
        if klass != NotificationClass.PROMOTIONAL:
            return self
        sizes = ("claim_max", "concurrency", "in_hand_max", "intake_batch")
        return self.model_copy(
            update={name: max(1, int(getattr(self, name) * self.promotional_share)) for name in sizes}
        )


class Endpoints(Section):
    """Outbound webhooks, and every other address that users give us (R-023, R-024)."""

    # Between tries of one event, over three days (Standard Webhooks): merchants deploy fixes.
    ladder: tuple[Seconds, ...] = (
        5.0,
        5 * MINUTE,
        30 * MINUTE,
        2 * HOUR,
        5 * HOUR,
        10 * HOUR,
        14 * HOUR,
        20 * HOUR,
        24 * HOUR,
    )
    disable_after_seconds: Seconds = 5 * DAY  # nothing but failures for so long: disabled, and its owner told
    secret_overlap_seconds: Seconds = 1 * DAY  # how long a rotated secret still signs
    allow_loopback: bool = False  # a development machine's own services; never private networks
    ports: tuple[int, ...] = (443, 8443)  # the only ports an address may name, unless it is loopback and allowed
    timeout_seconds: Seconds = 10.0

    @property
    def span_seconds(self) -> float:
        """How long an event is worth delivering: the whole ladder, and a day for outages of our own."""
        return sum(self.ladder) + DAY


class Inbox(Section):
    """The in-app inbox that browsers and apps read by themselves (R-022)."""

    allow_origins: tuple[str, ...] = ()  # CORS: the origins whose pages may read it; "*" for any
    token_ttl_max_seconds: Seconds = 1 * DAY  # the longest life of a recipient's token
    heartbeat_seconds: Seconds = 15.0  # a comment on an idle stream, so that proxies keep it open
    streams_max: int = 10_000  # open streams in one process
    archived_retention_seconds: Seconds = 90 * DAY  # how long what its owner archived is kept


class Breakers(Section):
    """When a provider is left alone, and how it comes back (RELIABILITY, E)."""

    window_seconds: float = Field(default=10.0, ge=5)  # of calls that are looked at; they are counted in fives
    failures_min: int = Field(default=5, ge=1)  # fewer say nothing
    failure_rate: float = Field(default=0.5, gt=0, le=1)  # of the calls in the window: opens the breaker
    cool_off_seconds: Seconds = 15.0  # then one delivery tries; twice as long after each that fails
    cool_off_max_seconds: Seconds = 5 * MINUTE
    degraded_rate: float = Field(default=0.2, gt=0, le=1)  # of failures: halves a share; a quarter of it doubles it
    slow_seconds: Seconds = 3.0  # a call that takes longer is slow
    slow_rate: float = Field(default=0.5, gt=0, le=1)  # of slow calls: halves a provider's share
    calls_min: int = Field(default=20, ge=1)  # fewer lower no share
    share_min: float = Field(
        default=0.1, gt=0, le=1
    )  # what is left of its weight at least, and what it comes back with
    shift_seconds: Seconds = 15.0  # between two changes of a share


class Shedding(Section):
    """How late the oldest urgent work may be before promotional claims pause (R-168); half of it lets them go on."""

    transactional_seconds: Seconds = 30.0
    alert_seconds: Seconds = 10.0


class RecipientLimits(Section):
    """What one recipient gets on a channel in an hour, to catch runaway loops (R-153, R-157, R-159); 0 for any number.

    A merchant's endpoint is no person, and gets all that happens.
    """

    push: int = Field(default=60, ge=0, le=1000)
    email: int = Field(default=20, ge=0, le=1000)
    sms: int = Field(default=3, ge=0, le=1000)
    in_app: int = Field(default=100, ge=0, le=1000)
    webhook: int = Field(default=0, ge=0, le=1000)
    chat: int = Field(default=10, ge=0, le=1000)

    def of(self, channel: str) -> int:
        return int(getattr(self, channel))


class TemplateLimits(Section):
    """What one template sends in a minute, evenly, apart for each class (R-154); 0 for any number."""

    transactional: int = Field(default=0, ge=0)
    promotional: int = Field(default=0, ge=0)
    alert: int = Field(default=0, ge=0)

    def of(self, klass: str) -> int:
        return int(getattr(self, klass))


class Limits(Section):
    """Our own limits: what is over one waits, and nothing is dropped (R-152, R-158)."""

    recipient_per_hour: RecipientLimits = RecipientLimits()
    template_per_minute: TemplateLimits = TemplateLimits()


class Choice(Section):
    """One provider of a route. order: who is asked first; those of the same order share by weight."""

    provider: str
    order: int = Field(ge=1)
    weight: float = Field(default=1.0, gt=0)


def _in_order(given: Any) -> Any:
    """A name alone is a choice, and comes after the one before it unless it says otherwise."""
    if not isinstance(given, list | tuple):
        return given
    entries = [{"provider": entry} if isinstance(entry, str) else entry for entry in given]
    return [
        {"order": place, **entry} if isinstance(entry, dict) else entry for place, entry in enumerate(entries, start=1)
    ]


Route = Annotated[tuple[Choice, ...], BeforeValidator(_in_order)]

OWN_CHANNELS = {
    "in_app": ("inbox", "inbox"),
    "webhook": ("webhooks", "standard-webhooks"),
    "chat": ("chat", "chat"),
}


class Inequality(NamedTuple):
    """One inequality of the chain: its number in A.6, both sides in words and in seconds."""

    rule: str
    left: str
    left_seconds: float
    right: str
    right_seconds: float
    strict: bool

    @property
    def holds(self) -> bool:
        return self.left_seconds < self.right_seconds if self.strict else self.left_seconds <= self.right_seconds

    def __str__(self) -> str:
        sign = "<" if self.strict else "<="
        return (
            f"({self.rule}) {self.left} = {self.left_seconds:g} s must be {sign} "
            f"{self.right} = {self.right_seconds:g} s"
        )


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="LANDED_",
        env_nested_delimiter="__",
        frozen=True,
        extra="ignore",
    )

    database_url: SecretStr | None = None  # none: the embedded server in data_dir
    data_dir: Path = Path("var")
    region: str = "local"
    secret: SecretStr | None = None  # signs unsubscribe links; made and kept in data_dir when absent
    log_level: str = "INFO"
    api: ApiSettings = ApiSettings()
    times: Times = Times()
    follow: Follow = Follow()
    retry: Retry = Retry()
    bounces: Bounces = Bounces()
    worker: Worker = Worker()
    endpoints: Endpoints = Endpoints()
    inbox: Inbox = Inbox()
    providers: dict[str, dict[str, Any]] = {}  # account name -> {"adapter": "mailgun", ...}
    breakers: Breakers = Breakers()
    shedding: Shedding = Shedding()
    limits: Limits = Limits()
    routes: dict[str, Route] = {}  # "email", "push.ios", "sms.GB", "sms@acme" -> its providers

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, Path(os.environ.get("LANDED_CONFIG", "landed.toml")))
        return init_settings, env_settings, toml

    @model_validator(mode="before")
    @classmethod
    def own_channels_need_no_provider(cls, given: Any) -> Any:
        """The inbox and registered endpoints are ours: they work without a word of configuration."""
        if isinstance(given, dict):
            providers, routes = dict(given.get("providers") or {}), dict(given.get("routes") or {})
            for channel, (account, adapter) in OWN_CHANNELS.items():
                if channel not in routes:
                    providers.setdefault(account, {"adapter": adapter})
                    routes[channel] = (account,)
            return {**given, "providers": providers, "routes": routes}
        return given

    @model_validator(mode="after")
    def routes_lead_somewhere(self) -> Self:
        for route, choices in self.routes.items():
            try:
                RouteKey.parse(route)
            except ValueError as error:
                raise ValueError(f"routes.{error}") from None
            names = [choice.provider for choice in choices]
            for name in names:
                if name not in self.providers:
                    raise ValueError(f"routes.{route} names provider {name!r}, which providers does not define")
                if names.count(name) > 1:
                    raise ValueError(f"routes.{route} names provider {name!r} twice")
        return self

    def routing(self) -> Routes:
        """The routes that lead somewhere."""
        return Routes(RouteKey.parse(route) for route, choices in self.routes.items() if choices)

    def accounts(self, channel: str, part: str | None = None) -> tuple[str, ...]:
        """The provider accounts that any route of a channel names, each once. part: of one platform alone."""
        keys = ((RouteKey.parse(route), choices) for route, choices in self.routes.items())
        return tuple(
            dict.fromkeys(
                choice.provider
                for key, choices in keys
                if key.channel == channel and part in (None, key.part)
                for choice in choices
            )
        )

    @property
    def vendors(self) -> dict[str, dict[str, Any]]:
        """The accounts that somebody else runs: all but our own inbox and endpoints."""
        own = {adapter for _, adapter in OWN_CHANNELS.values()}
        return {name: account for name, account in self.providers.items() if account.get("adapter") not in own}

    def webhook_url(self, account: str) -> str | None:
        """Where the webhooks of a provider account reach us; None without ``api.public_url``."""
        base = self.api.public_url
        return None if base is None else f"{base.rstrip('/')}/api/v1/webhooks/{account}"

    def ladder(self, channel: str, klass: str) -> tuple[float, ...]:
        """The delays after the first, second, ... failure: an endpoint's are its own, whatever the class."""
        if channel == Channel.WEBHOOK:
            return self.endpoints.ladder
        return self.retry.ladders[NotificationClass(klass)]

    def retry_after_max_seconds(self, channel: str) -> float:
        """The longest pause that is granted; to a merchant, one as long as their ladder has."""
        if channel == Channel.WEBHOOK:
            return max(self.retry.retry_after_max_seconds, *self.endpoints.ladder)
        return self.retry.retry_after_max_seconds

    @property
    def retry_span_seconds(self) -> float:
        """The longest ladder with all its jitter: how long one life of a delivery may spend retrying."""
        return max(sum(ladder) for ladder in self.retry.ladders.values()) * (1 + self.retry.jitter)

    def time_chain(self) -> list[Inequality]:
        """The inequalities of RELIABILITY, A.6, with this configuration's numbers."""
        t = self.times
        call = (t.gate_seconds + t.send_seconds) * 1.01  # clocks may drift by a percent
        return [
            Inequality(
                "1",
                "client_retry_horizon",
                t.client_retry_horizon_seconds,
                "key_ttl",
                t.key_ttl_seconds,
                True,
            ),
            Inequality("2", "key_ttl", t.key_ttl_seconds, "retention", t.retention_seconds, False),
            Inequality(
                "3",
                "validity + ambiguous_max + dead_letter_retention + validity of a replay + quarantine",
                2 * t.validity_seconds
                + t.ambiguous_max_seconds
                + t.dead_letter_retention_seconds
                + t.quarantine_seconds,
                "retention",
                t.retention_seconds,
                True,
            ),
            Inequality(
                "3a",
                "validity + dead_letter_retention + webhook_window",
                t.validity_seconds + t.dead_letter_retention_seconds + t.webhook_window_seconds,
                "key_ttl",
                t.key_ttl_seconds,
                True,
            ),
            Inequality(
                "3w",
                "span of an endpoint's event + ambiguous_max + dead_letter_retention + that span again + quarantine",
                2 * self.endpoints.span_seconds
                + t.ambiguous_max_seconds
                + t.dead_letter_retention_seconds
                + t.quarantine_seconds,
                "retention",
                t.retention_seconds,
                True,
            ),
            Inequality("3b", "retry span", self.retry_span_seconds, "validity", t.validity_seconds, False),
            Inequality(
                "4",
                "validity + evidence_window",
                t.validity_seconds + t.evidence_window_seconds,
                "retention",
                t.retention_seconds,
                False,
            ),
            Inequality(
                "5",
                "(gate + send) * 1.01 + commit_max",
                call + t.commit_max_seconds,
                "lease",
                t.lease_seconds,
                True,
            ),
            Inequality(
                "6",
                "(gate + send) * 1.01 + settle",
                call + t.settle_seconds,
                "quarantine",
                t.quarantine_seconds,
                False,
            ),
            Inequality("9a", "lock_timeout", t.lock_timeout_seconds, "request_budget", t.request_budget_seconds, True),
            Inequality(
                "9b",
                "request_budget",
                t.request_budget_seconds,
                "client_timeout",
                t.client_timeout_seconds,
                True,
            ),
            Inequality(
                "9c",
                "client_timeout",
                t.client_timeout_seconds,
                "client_retry_horizon",
                t.client_retry_horizon_seconds,
                True,
            ),
            Inequality(
                "10",
                "send + commit_max",
                t.send_seconds + t.commit_max_seconds,
                "shutdown_grace",
                t.shutdown_grace_seconds,
                False,
            ),
        ]

    def check_times(self) -> None:
        """Raises ConfigurationError naming every broken inequality with both its numbers."""
        broken = [str(rule) for rule in self.time_chain() if not rule.holds]
        if broken:
            raise ConfigurationError("times are out of order: " + "; ".join(broken))


def load_settings(**overrides: Any) -> Settings:
    """Reads, validates and checks the configuration. Raises ConfigurationError in words an operator can act on."""
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(problems) from None
    settings.check_times()
    return settings
