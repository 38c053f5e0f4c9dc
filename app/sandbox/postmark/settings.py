"""What the Postmark server is set up with."""

from __future__ import annotations

from dataclasses import dataclass

from app.sandbox.config import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class PostmarkSettings:
    server_token: str = setting(
        "sandbox-server-token", "Server token that callers of Postmark must present.", secret=True
    )
    webhook_username: str = setting("landed", "Basic auth user of Postmark's webhooks.")
    webhook_password: str = setting("sandbox-webhook-password", "Basic auth password of them.", secret=True)
    webhook_header: str | None = setting(
        None, "A header of one's own on Postmark's webhooks, as NAME:VALUE.", secret=True
    )
