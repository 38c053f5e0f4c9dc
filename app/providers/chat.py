"""Chat rooms: Slack, Discord and Teams incoming webhooks (R-025).

A room is an endpoint whose URL is the secret. The three differ in the body they take and in how long it may be; what
they answer is read by status, because their error texts are nobody's contract. None takes an id of ours, so a second
copy would be seen: an answer that leaves it open (5xx, silence) is not simply tried again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final

from yarl import URL

from app.domain.models import Channel, Outcome, OutcomeKind
from app.errors import FieldError, InvalidFields
from app.providers.base import Capabilities, EndpointMessage, Provider, ProviderRequest, ProviderResponse, SendContext
from app.providers.guarded import is_loopback_host
from app.providers.reading import document, number, retry_after, text

# In UTF-16 units, the narrowest way to count. Discord refuses more, Slack cuts, Teams has some 28 KB for a whole card.
SLACK_TEXT_MAX: Final = 4000
DISCORD_TEXT_MAX: Final = 2000
TEAMS_TEXT_MAX: Final = 5000
TITLE_MAX: Final = 200

_UNSHOWN: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class ChatAccount:
    """Which hosts are a vendor's own; ``*.`` stands for any subdomain. Whatever else a user gives is no chat room."""

    slack_hosts: tuple[str, ...] = ("hooks.slack.com",)
    discord_hosts: tuple[str, ...] = ("discord.com", "discordapp.com")
    teams_hosts: tuple[str, ...] = ("*.webhook.office.com", "*.logic.azure.com", "*.powerplatform.com")


class Chat(Provider[EndpointMessage]):
    """Messages to chat rooms, behind the Provider protocol."""

    name: ClassVar[str] = "chat"
    capabilities = Capabilities(
        channel=Channel.CHAT,
        confirms_delivery=True,
        can_look_up=False,
        accepts_client_id=False,
        transport="guarded",
        breaks=False,
        acceptance_is_delivery=True,
    )

    def __init__(self, account: ChatAccount) -> None:
        self._hosts = {"slack": account.slack_hosts, "discord": account.discord_hosts, "teams": account.teams_hosts}

    def check_url(self, url: str, format: str) -> None:
        """Raises ValueError unless the URL is at the vendor. Loopback passes: it is for the transport to refuse."""
        try:
            host = (URL(url, encoded=True).raw_host or "").lower()
        except ValueError:
            raise ValueError("must be a URL") from None
        if not is_loopback_host(host) and not any(_matches(host, pattern) for pattern in self._hosts[format]):
            raise ValueError(f"must be at {' or '.join(self._hosts[format])}")

    def build(self, message: EndpointMessage, context: SendContext) -> ProviderRequest:
        """The message in the room's own format. Raises InvalidFields for what no room takes."""
        if message.format not in BODIES:
            raise InvalidFields(FieldError("format", f"must be one of {', '.join(BODIES)}"))
        try:
            self.check_url(message.url, message.format)
        except ValueError as error:
            raise InvalidFields(FieldError("url", str(error))) from None
        url = message.url
        if message.format == "discord":  # answers once the message is there, and with its id
            url = str(URL(url, encoded=True).update_query(wait="true"))
        title, words = _cut(_shown(message.title), TITLE_MAX), _shown(message.text)
        if not (title or words):
            raise InvalidFields(FieldError("text", "must not be empty"))
        body = BODIES[message.format](title, words)
        encoded = json.dumps(body, ensure_ascii=False).encode()
        return ProviderRequest("POST", url, {"Content-Type": "application/json"}, encoded)

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer means, by its status; unsure means not sent again."""
        status, payload = response.status, document(response.body)
        detail = f"HTTP {status}"
        match status:
            case 429:
                wait = _wait(response, payload, now)
                return Outcome(OutcomeKind.RATE_LIMITED, detail, status, retry_after_seconds=wait)
            case _ if 200 <= status < 300 and payload is None and b"429" in response.body:
                # A Teams connector says so in the text of a 200.
                return Outcome(OutcomeKind.RATE_LIMITED, "throttled, said in a success", status)
            case _ if 200 <= status < 300:
                id = text(payload.get("id")) if isinstance(payload, dict) else ""
                return Outcome(OutcomeKind.ACCEPTED, detail, status, provider_message_id=id or None)
            case 404 | 410:
                return Outcome(OutcomeKind.RECIPIENT_INVALID, detail, status, reason="gone")
            case 401 | 403:  # the room's own token, or what an administrator of the room allows: either may be mended
                return Outcome(OutcomeKind.RECIPIENT_INVALID, detail, status, reason="refused", doubtful=True)
            case _ if status >= 500:
                return Outcome(OutcomeKind.UNKNOWN, detail, status)
        return Outcome(OutcomeKind.REJECTED, detail, status)


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _wait(response: ProviderResponse, payload: Any, now: datetime) -> float | None:
    """Seconds, from the header or, in Discord's way, from the body."""
    said = number(payload.get("retry_after")) if isinstance(payload, dict) else None
    return retry_after(response.headers, now) if said is None else max(0.0, said)


# -- bodies --------------------------------------------------------------------------------------------------


def _slack(title: str, words: str) -> dict[str, Any]:
    """Escaped as Slack asks, so that nothing in the text is a link of ours or calls a whole channel."""
    shown = _cut(words, SLACK_TEXT_MAX)
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        title, shown = title.replace(char, entity), shown.replace(char, entity)
    return {"text": "\n".join(filter(None, (title and f"*{title}*", shown)))}


def _discord(title: str, words: str) -> dict[str, Any]:
    content = "\n".join(filter(None, (title and f"**{title}**", words)))
    return {"content": _cut(content, DISCORD_TEXT_MAX), "allowed_mentions": {"parse": []}}


def _teams(title: str, words: str) -> dict[str, Any]:
    blocks = [
        {"type": "TextBlock", "text": title, "wrap": True, "weight": "Bolder"},
        {"type": "TextBlock", "text": _cut(words, TEAMS_TEXT_MAX), "wrap": True},
    ]
    card = {"type": "AdaptiveCard", "version": "1.4", "body": [block for block in blocks if block["text"]]}
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


BODIES: Final[Mapping[str, Callable[[str, str], dict[str, Any]]]] = {
    "slack": _slack,
    "discord": _discord,
    "teams": _teams,
}


def _shown(words: str) -> str:
    """Without what no room shows."""
    return _UNSHOWN.sub("", words).strip()


def _cut(words: str, units_max: int) -> str:
    """At most so many UTF-16 units, the last an ellipsis when there were more."""
    units = words.encode("utf-16-le", "replace")
    if len(units) <= 2 * units_max:
        return units.decode("utf-16-le")
    return units[: 2 * (units_max - 1)].decode("utf-16-le", "ignore") + "…"
