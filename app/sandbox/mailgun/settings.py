"""What Mailgun's account is set up with."""

from __future__ import annotations

from dataclasses import dataclass

from app.sandbox.config import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class MailgunSettings:
    domain: str = setting("sandbox.landed.test", "The one sending domain Mailgun's account has.")
    api_key: str = setting("sandbox-api-key", "Key that callers of Mailgun must present.", secret=True)
    signing_key: str = setting("sandbox-signing-key", "Key that Mailgun's webhooks are signed with.", secret=True)
