"""Adapters by name. A new one is one entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from app.errors import ConfigurationError
from app.providers.apns import Apns, ApnsAccount
from app.providers.aws_sms import AwsSms, AwsSmsAccount
from app.providers.base import AnyProvider
from app.providers.chat import Chat, ChatAccount
from app.providers.fcm import Fcm, FcmAccount
from app.providers.inbox import Inbox, InboxAccount
from app.providers.mailgun import Mailgun, MailgunAccount
from app.providers.postmark import Postmark, PostmarkAccount
from app.providers.sendgrid import SendGrid, SendGridAccount
from app.providers.ses import Ses, SesAccount
from app.providers.sinch import Sinch, SinchAccount
from app.providers.smtp import Smtp, SmtpAccount
from app.providers.standard_webhooks import StandardWebhooks, StandardWebhooksAccount
from app.providers.twilio import Twilio, TwilioAccount
from app.providers.vonage import Vonage, VonageAccount
from app.providers.web_push import WebPush, WebPushAccount

Account = TypeVar("Account")
Factory = Callable[[Mapping[str, Any]], AnyProvider]


RATE: Final = "rate_per_second"  # of any account: the calls a second that its plan allows


def _factory(account: type[Account], provider: Callable[[Account], AnyProvider]) -> Factory:
    strict = with_config(ConfigDict(extra="forbid", hide_input_in_errors=True))(account)
    adapter: TypeAdapter[Account] = TypeAdapter(strict)
    return lambda settings: provider(adapter.validate_python(dict(settings)))


ADAPTERS: Final[Mapping[str, Factory]] = {
    Inbox.name: _factory(InboxAccount, Inbox),
    Mailgun.name: _factory(MailgunAccount, Mailgun),
    Twilio.name: _factory(TwilioAccount, Twilio),
    Sinch.name: _factory(SinchAccount, Sinch),
    Vonage.name: _factory(VonageAccount, Vonage),
    AwsSms.name: _factory(AwsSmsAccount, AwsSms),
    StandardWebhooks.name: _factory(StandardWebhooksAccount, StandardWebhooks),
    Chat.name: _factory(ChatAccount, Chat),
    Postmark.name: _factory(PostmarkAccount, Postmark),
    SendGrid.name: _factory(SendGridAccount, SendGrid),
    Ses.name: _factory(SesAccount, Ses),
    Smtp.name: _factory(SmtpAccount, Smtp),
    Apns.name: _factory(ApnsAccount, Apns),
    Fcm.name: _factory(FcmAccount, Fcm),
    WebPush.name: _factory(WebPushAccount, WebPush),
}


def make_provider(name: str, settings: Mapping[str, Any]) -> AnyProvider:
    """The provider account ``name`` from its settings, whose ``adapter`` says which kind it is.

    A setting ``<field>_file`` names a file that holds the field. Raises ConfigurationError naming the account
    and what is wrong with it, never the value.
    """
    fields = with_files_read(name, settings)
    adapter = str(fields.pop("adapter", ""))
    _check_rate(name, fields.pop(RATE, None))
    if adapter not in ADAPTERS:
        raise ConfigurationError(f"providers.{name}.adapter must be one of {', '.join(ADAPTERS)}")
    try:
        return ADAPTERS[adapter](fields)
    except ValidationError as error:
        problems = (".".join(("providers", name, *map(str, e["loc"]))) + f": {e['msg']}" for e in error.errors())
        raise ConfigurationError("; ".join(problems)) from None


def _check_rate(name: str, given: Any) -> None:
    try:
        if given is None or 0 < float(given) < float("inf"):
            return
    except (TypeError, ValueError):
        pass
    raise ConfigurationError(f"providers.{name}.{RATE} must be a number of calls above 0, such as 20")


def with_files_read(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of account ``name``, each ``<field>_file`` become its field. Raises ConfigurationError."""
    fields = {key: value for key, value in settings.items() if not key.endswith("_file")}
    for key in settings.keys() - fields.keys():
        try:
            fields[key.removesuffix("_file")] = Path(settings[key]).read_text().strip()
        except OSError as error:
            raise ConfigurationError(f"providers.{name}.{key} cannot be read: {error.strerror}") from None
        except ValueError:  # half-written or binary: its own message would quote the secret's bytes
            raise ConfigurationError(f"providers.{name}.{key} cannot be read: it holds no text") from None
    return fields
