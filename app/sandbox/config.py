"""How one sandbox is set up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def setting(default: Any, help: str, *, secret: bool = False) -> Any:  # noqa: A002 - click's word
    """A field of a protocol's settings: it becomes an option of the command line, and a variable."""
    return field(default=default, repr=not secret, metadata={"help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """Everything a sandbox needs to know.

    public_url: where callers and receivers reach it; from host and port when absent.
    webhook_url: where Mailgun's events are posted. webhook_base_url: where every provider's are, under its own name.
    Without either an event is posted nowhere, unless its message said where.
    webhooks: False posts nothing at all.
    speed: every scripted delay and webhook retry is divided by this; 1 is a realistic pace.
    hold_seconds: how long a call that is never answered is kept open; real seconds, because the caller's
        timeout is real too.
    mailbox_limit: messages whose body and timeline are kept for the page; the ledger keeps all.
    seed: makes the ``random`` fault mode repeatable.
    tls_dir: where the sandbox's own certificate authority is kept; beside the ledger when absent.
    protocols: the settings of each protocol by its name; a protocol that is not here has its defaults.
    """

    ledger_path: Path
    host: str = "127.0.0.1"
    port: int = 8026
    public_url: str | None = None
    webhook_url: str | None = None
    webhook_base_url: str | None = None
    webhooks: bool = True
    speed: float = 1.0
    hold_seconds: float = 60.0
    webhooks_in_flight: int = 20
    mailbox_limit: int = 1000
    seed: int = 0
    tls_dir: Path | None = None
    protocols: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.speed <= 0:
            raise ValueError(f"speed must be above 0, not {self.speed}")

    def scaled(self, seconds: float) -> float:
        """A scripted delay in real seconds."""
        return seconds / self.speed

    @property
    def base_url(self) -> str:
        """Where this sandbox is reached, without a slash at the end."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def tls_directory(self) -> Path:
        return self.tls_dir or self.ledger_path.with_suffix(".tls")

    def webhook_url_of(self, provider: str) -> str | None:
        """Where a provider's events are posted unless their message says otherwise."""
        if not self.webhooks:
            return None
        if provider == "mailgun" and self.webhook_url:
            return self.webhook_url
        return f"{self.webhook_base_url.rstrip('/')}/{provider}" if self.webhook_base_url else None
