"""Every protocol the sandbox speaks: one line each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.sandbox.endpoints.merchant import Merchant
from app.sandbox.endpoints.rooms import Discord, Slack, Teams
from app.sandbox.mailgun.protocol import Mailgun
from app.sandbox.postmark.protocol import Postmark
from app.sandbox.protocol import Protocol
from app.sandbox.push.apns import Apns
from app.sandbox.push.fcm import Fcm
from app.sandbox.push.web_push import WebPush
from app.sandbox.sendgrid.protocol import SendGrid
from app.sandbox.ses.protocol import Ses
from app.sandbox.sms.aws import AwsSms
from app.sandbox.sms.sinch import Sinch
from app.sandbox.sms.twilio import Twilio
from app.sandbox.sms.vonage import Vonage
from app.sandbox.smtp.protocol import Smtp

PROTOCOLS: Final[Mapping[str, type[Protocol]]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            *(Mailgun, Ses, SendGrid, Postmark, Smtp),
            *(Twilio, Sinch, Vonage, AwsSms),
            *(Apns, Fcm, WebPush),
            *(Merchant, Slack, Discord, Teams),
        )
    }
)
