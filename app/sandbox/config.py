"""How one sandbox is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """Everything a sandbox needs to know.

    webhook_url: where events are posted; None posts nothing (the Events API still has them).
    speed: every scripted delay and webhook retry is divided by this; 1 is a realistic pace.
    hold_seconds: how long a call that is never answered is kept open; real seconds, because the caller's
        timeout is real too.
    mailbox_limit: messages whose body and timeline are kept for the page; the ledger keeps all.
    seed: makes the ``random`` fault mode repeatable.
    """

    ledger_path: Path
    host: str = "127.0.0.1"
    port: int = 8026
    domain: str = "sandbox.landed.test"
    api_key: str = field(default="sandbox-api-key", repr=False)
    signing_key: str = field(default="sandbox-signing-key", repr=False)
    webhook_url: str | None = None
    speed: float = 1.0
    hold_seconds: float = 60.0
    webhooks_in_flight: int = 20
    mailbox_limit: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.speed <= 0:
            raise ValueError(f"speed must be above 0, not {self.speed}")

    def scaled(self, seconds: float) -> float:
        """A scripted delay in real seconds."""
        return seconds / self.speed
