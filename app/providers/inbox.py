"""The in-app inbox as a provider: the one that never leaves the database.

A delivery is in the inbox in the very transaction that records it, so its outcome is never unknown: an attempt that was
not recorded was not made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from app.domain.models import Channel, Outcome, OutcomeKind
from app.providers.base import (
    Capabilities,
    Message,
    Provider,
    ProviderRequest,
    ProviderResponse,
    SendContext,
    SmtpRequest,
)


@dataclass(frozen=True, slots=True)
class InboxAccount:
    """Nothing to configure."""


class Inbox(Provider[Message]):
    """A `local` provider: the dispatcher keeps what it is given instead of sending it."""

    name: ClassVar[str] = "inbox"

    def __init__(self, account: InboxAccount) -> None:
        self.capabilities = Capabilities(
            channel=Channel.IN_APP,
            confirms_delivery=True,
            can_look_up=False,
            accepts_client_id=True,
            transport="local",
            breaks=False,
        )

    def build(self, message: Message, context: SendContext) -> ProviderRequest | SmtpRequest:
        raise NotImplementedError("a local provider is never called")

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        return Outcome(OutcomeKind.REJECTED, "a local provider answers nothing", response.status)
