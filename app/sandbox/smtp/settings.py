"""What the mail server is set up with."""

from __future__ import annotations

from dataclasses import dataclass

from app.sandbox.config import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpSettings:
    port: int = setting(0, "Port of the mail server, with STARTTLS; 0 has none.")
    tls_port: int = setting(0, "Port of the mail server with TLS from the first byte; 0 has none.")
    username: str = setting("landed", "User that may submit mail; empty lets anybody.")
    password: str = setting("sandbox-smtp-password", "That user's password.", secret=True)
    webhook_token: str = setting(
        "sandbox-smtp-webhook-token", "Bearer token that reports are posted with.", secret=True
    )
