"""An account at each vendor the sandbox plays, with the sandbox's own defaults for its keys."""

from __future__ import annotations

from typing import Any

from app.sandbox.sendgrid.settings import public_key
from tests.sandbox_process import SandboxProcess

# Who may take Mailgun's place, and Twilio's.
EMAIL = ("ses", "sendgrid", "postmark", "smtp")
SMS = ("sinch", "vonage", "aws_sms")

TWILIO_ACCOUNT, TWILIO_TOKEN = "AC" + "5a" * 16, "sandbox-auth-token"


def account(vendor: str, sandbox: SandboxProcess, *, smtp_port: int = 0, settle_seconds: float = 1.0) -> dict[str, Any]:
    """The account's fields as the configuration has them."""
    at = {"adapter": vendor, "base_url": sandbox.url}
    match vendor:
        case "mailgun":
            return at | {
                "domain": sandbox.domain,
                "api_key": sandbox.api_key,
                "webhook_signing_key": sandbox.signing_key,
                "lookup_settle_seconds": settle_seconds,
            }
        case "twilio":
            return at | {
                "account_sid": TWILIO_ACCOUNT,
                "auth_token": TWILIO_TOKEN,
                "sender": "+14155550100",
                "lookup_settle_seconds": settle_seconds,
            }
        case "ses":
            return at | {
                "region": "eu-west-1",
                "access_key_id": "AKIASANDBOXLANDED000",
                "secret_access_key": "sandbox-secret-access-key",
                "topic_arns": ["arn:aws:sns:eu-west-1:123456789012:landed-events"],
                "configuration_set": "landed",
                "insights": True,
                "sns_base_url": sandbox.url,
                "trust_any_certificate": True,
                "send_event_seconds": settle_seconds,
            }
        case "sendgrid":
            return at | {
                "api_key": "SG.sandbox-api-key",
                "webhook_public_key": public_key("sandbox-webhook-secret"),
                "lookup_settle_seconds": settle_seconds,
            }
        case "postmark":
            return at | {
                "server_token": "sandbox-server-token",
                "webhook_user": "landed",
                "webhook_password": "sandbox-webhook-password",
                "lookup_settle_seconds": settle_seconds,
            }
        case "smtp":
            return {
                "adapter": "smtp",
                "host": "127.0.0.1",
                "port": smtp_port,
                "bounce_domain": "bounces.landed.test",
                "webhook_token": "sandbox-smtp-webhook-token",
                "username": "landed",
                "password": "sandbox-smtp-password",
                "trust": str(sandbox.ca_path),
            }
        case "sinch":
            return at | {
                "service_plan_id": "sandbox-service-plan",
                "api_token": "sandbox-api-token",
                "sender": "+14155550100",
                "webhook_secret": "sandbox-webhook-secret",
                "lookup_settle_seconds": settle_seconds,
            }
        case "vonage":
            return at | {
                "api_key": "5adb0x01",
                "api_secret": "sandbox-api-secret",
                "sender": "+14155550100",
                "signature_secret": "sandbox-signature-secret",
            }
        case "aws_sms":
            return at | {
                "region": "eu-west-1",
                "access_key_id": "AKIASANDBOXLANDED000",
                "secret_access_key": "sandbox-secret-access-key",
                "sender": "+14155550100",
                "configuration_set": "landed",
                "topic_arns": ["arn:aws:sns:eu-west-1:123456789012:landed-texts"],
                "sns_base_url": sandbox.url,
                "trust_any_certificate": True,
            }
    raise ValueError(vendor)
