"""Rooms of Slack, Discord and Teams, behind the incoming webhooks that each of them offers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import msgspec
from litestar import get, post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from app.sandbox.calls import Draft
from app.sandbox.emails import iso_time, landed_ids, message_at
from app.sandbox.endpoints.scripts import ENDPOINTS, FAILING, FORBIDDEN, GONE, NOT_FOUND, REDIRECT
from app.sandbox.httpapi import AnyRequest, HttpProtocol, answer, as_json, as_text, protocol_of, sandbox_of, take
from app.sandbox.scripting import RATE_LIMIT_SECONDS, Reason
from app.sandbox.world import Body, Message

MAX_TEAMS_BYTES: Final = 28 * 1024
MAX_DISCORD_TEXT: Final = 2000
MAX_EMBEDS: Final = 10
MAX_BLOCKS: Final = 50
MAX_TITLE: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSettings:
    """A room knows no secret but its own address."""


class Room(HttpProtocol):
    """One chat vendor's rooms. ``home``: a room there that takes everything, where a redirect leads."""

    channel = "endpoint"
    scripts = ENDPOINTS
    settings_type = RoomSettings
    home: ClassVar[str]

    def authorise(self, request: AnyRequest) -> ASGIResponse | None:
        return None  # whoever knows the address may post

    @property
    def wait_seconds(self) -> int:
        return max(1, round(self.sandbox.config.scaled(RATE_LIMIT_SECONDS)))

    def redirected(self) -> ASGIResponse:
        return ASGIResponse(status_code=302, headers={"Location": f"{self.sandbox.config.base_url}{self.home}"})

    def draft(self, recipient: str, message_id: str, title: str, text: str, payload: Mapping[str, Any]) -> Draft:
        """What is shown of a post; ``payload`` is looked through for a reference of the sender's."""
        delivery, attempt = landed_ids(*_texts(payload))
        message = Message(
            id=secrets.token_hex(8),
            provider=self.name,
            channel=self.channel,
            message_id=message_id,
            recipient=recipient,
            title=title[:MAX_TITLE],
            accepted_at=time.time(),
            size=len(text),
            landed_delivery=delivery,
            landed_attempt=attempt,
        )
        return Draft(message, Body(text=text))


class Refused(Exception):
    """A post that a vendor refuses with 400"""


def _object(body: bytes) -> dict[str, Any]:
    """Raises ``Refused``."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise Refused("invalid_payload") from exc


def _texts(value: Any) -> Iterator[str]:
    """Every text in a document, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for member in value.values():
            yield from _texts(member)
    elif isinstance(value, list):
        for member in value:
            yield from _texts(member)


def _words(value: Any) -> str:
    """The texts that people read: those named ``text``, ``title``, ``content``, ``description`` or ``value``."""
    if isinstance(value, dict):
        own = [text for name, text in value.items() if name in _READ and isinstance(text, str)]
        return "\n".join([*own, *filter(None, (_words(member) for member in value.values()))])
    if isinstance(value, list):
        return "\n".join(filter(None, (_words(member) for member in value)))
    return ""


_READ: Final = frozenset({"text", "title", "content", "description", "value"})


# Slack --------------------------------------------------------------------------------------------------------------


@post("/slack/services/{team:str}/{hook:str}/{script:str}", status_code=200)
async def slack_post(request: AnyRequest, team: str, hook: str, script: str) -> ASGIApp:
    protocol = protocol_of(request, Slack)
    try:
        payload = _object(await request.body())
        if not payload.get("text") and not payload.get("blocks") and not payload.get("attachments"):
            raise Refused("no_text")
        if len(payload.get("blocks") or ()) > MAX_BLOCKS:
            raise Refused("invalid_blocks")
    except Refused as exc:
        return answer(request, as_text(str(exc), 400))
    text = _words(payload)
    draft = protocol.draft(f"{team}/{hook}/{script}", secrets.token_hex(8), text.partition("\n")[0], text, payload)
    return take(request, [draft], as_text("ok"))


class Slack(Room):
    """Slack's incoming webhooks: plain words, and no id for what was posted."""

    name = "slack"
    home = "/slack/services/T0/B0/ok"
    paths = ("/slack/",)
    routes = (slack_post,)

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        if reason == REDIRECT:
            return self.redirected()
        status, text = _SLACK[reason]
        response = as_text(text, status)
        if status == 429:
            response.headers.add("Retry-After", str(self.wait_seconds))
        return response

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return as_text("no_service" if status == 404 else detail, status)


_SLACK: Final[Mapping[str, tuple[int, str]]] = {
    Reason.RATE_LIMITED: (429, "rate_limited"),
    Reason.UNAVAILABLE: (503, "service_unavailable"),
    Reason.BROKEN: (500, "rollup_error"),
    Reason.UNAUTHORIZED: (403, "invalid_token"),
    FAILING: (500, "rollup_error"),
    GONE: (410, "channel_is_archived"),
    NOT_FOUND: (404, "no_service"),
    FORBIDDEN: (403, "action_prohibited"),
    Reason.CONTENT_REFUSED: (400, "invalid_payload"),
}


# Discord ------------------------------------------------------------------------------------------------------------

_EPOCH_MILLISECONDS: Final = 1_420_070_400_000  # of Discord's ids ("Snowflakes")


def _snowflake() -> str:
    return str(((int(time.time() * 1000) - _EPOCH_MILLISECONDS) << 22) | secrets.randbits(22))


def discord_problem(status: int, code: int, text: str) -> ASGIResponse:
    return as_json({"message": text, "code": code}, status)


@post(
    ["/discord/api/webhooks/{hook:str}/{script:str}", "/discord/api/{version:str}/webhooks/{hook:str}/{script:str}"],
    status_code=200,
)
async def discord_post(request: AnyRequest, hook: str, script: str, version: str = "v10") -> ASGIApp:
    protocol = protocol_of(request, Discord)
    try:
        payload = _object(await request.body())
        _check_discord(payload)
    except Refused as exc:
        return answer(request, discord_problem(400, 50035, f"Invalid Form Body: {exc}"))
    text, message_id, recipient = _words(payload), _snowflake(), f"{hook}/{script}"
    draft = protocol.draft(recipient, message_id, text.partition("\n")[0], text, payload)
    if request.query_params.get("wait", "").lower() in ("true", "1"):
        return take(request, [draft], as_json(_discord_told(draft.message)))
    return take(request, [draft], ASGIResponse(status_code=204))


@get(
    [
        "/discord/api/webhooks/{hook:str}/{script:str}/messages/{message_id:str}",
        "/discord/api/{version:str}/webhooks/{hook:str}/{script:str}/messages/{message_id:str}",
    ]
)
async def discord_message(
    request: AnyRequest, hook: str, script: str, message_id: str, version: str = "v10"
) -> ASGIApp:
    """A message that this webhook has posted."""
    sandbox = sandbox_of(request)
    refs = sandbox.world.account(Discord.name).messages_by_message_id.get(message_id, [])
    mine = next((ref for ref in refs if ref.recipient == f"{hook}/{script}"), None)
    if mine is None:
        return answer(request, discord_problem(404, 10008, "Unknown Message"))
    return answer(request, as_json(_discord_told(message_at(sandbox, mine))))


def _check_discord(payload: Mapping[str, Any]) -> None:
    content, embeds = payload.get("content") or "", payload.get("embeds") or []
    if not content and not embeds:
        raise Refused("Cannot send an empty message")
    if not isinstance(content, str) or len(content) > MAX_DISCORD_TEXT:
        raise Refused(f"content: Must be {MAX_DISCORD_TEXT} or fewer in length.")
    if not isinstance(embeds, list) or len(embeds) > MAX_EMBEDS:
        raise Refused(f"embeds: Must be {MAX_EMBEDS} or fewer in length.")


def _discord_told(message: Message) -> dict[str, Any]:
    hook = message.recipient.partition("/")[0]
    return {"id": message.message_id, "type": 0, "webhook_id": hook, "timestamp": iso_time(message.accepted_at)}


class Discord(Room):
    """Discord's webhooks: 204, or with ``wait`` the message that was posted."""

    name = "discord"
    home = "/discord/api/webhooks/0/ok"
    paths = ("/discord/",)
    routes = (discord_post, discord_message)

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        match reason:
            case Reason.RATE_LIMITED:
                return self._rate_limited()
            case _ if reason == REDIRECT:
                return self.redirected()
            case _:
                return discord_problem(*_DISCORD[reason])

    def _rate_limited(self) -> ASGIResponse:
        wait = self.wait_seconds
        headers = {
            "Retry-After": str(wait),
            "X-RateLimit-Limit": "5",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset-After": f"{wait}.000",
            "X-RateLimit-Scope": "shared",
        }
        told = {"message": "You are being rate limited.", "retry_after": float(wait), "global": False}
        return as_json(told, 429, headers)

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return discord_problem(status, 0, f"{status}: {detail}")


_DISCORD: Final[Mapping[str, tuple[int, int, str]]] = {
    Reason.UNAVAILABLE: (503, 0, "503: Service Unavailable"),
    Reason.BROKEN: (500, 0, "500: Internal Server Error"),
    Reason.UNAUTHORIZED: (401, 0, "401: Unauthorized"),
    FAILING: (500, 0, "500: Internal Server Error"),
    GONE: (404, 10015, "Unknown Webhook"),
    NOT_FOUND: (404, 10015, "Unknown Webhook"),
    FORBIDDEN: (401, 50027, "Invalid Webhook Token"),
    Reason.CONTENT_REFUSED: (400, 50035, "Invalid Form Body"),
}


# Teams --------------------------------------------------------------------------------------------------------------


@post(["/teams/workflows/{script:str}", "/teams/workflows/{script:str}/{name:str}"], status_code=202)
async def teams_post(request: AnyRequest, script: str, name: str = "") -> ASGIApp:
    protocol, body = protocol_of(request, Teams), await request.body()
    if len(body) > MAX_TEAMS_BYTES:
        return answer(request, _teams_problem(413, "RequestEntityTooLarge", "The request content is too large."))
    try:
        payload = _object(body)
        _check_card(payload)
    except Refused as exc:
        return answer(request, _teams_problem(400, "TriggerInputSchemaMismatch", str(exc)))
    text, recipient = _words(payload), f"{script}/{name}" if name else script
    draft = protocol.draft(recipient, secrets.token_hex(8), text.partition("\n")[0], text, payload)
    return take(request, [draft], ASGIResponse(status_code=202))


def _check_card(payload: Mapping[str, Any]) -> None:
    attachments = payload.get("attachments")
    cards = attachments if isinstance(attachments, list) else []
    kinds = [card.get("contentType") for card in cards if isinstance(card, dict)]
    if payload.get("type") != "message" or "application/vnd.microsoft.card.adaptive" not in kinds:
        raise Refused("The body must be a message with an adaptive card.")


def _teams_problem(status: int, code: str, text: str) -> ASGIResponse:
    return as_json({"error": {"code": code, "message": text}}, status)


class Teams(Room):
    """A workflow that posts to a Teams channel: 202, and what comes of it nobody is told."""

    name = "teams"
    home = "/teams/workflows/ok"
    paths = ("/teams/",)
    routes = (teams_post,)

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        if reason == REDIRECT:
            return self.redirected()
        status, code = _TEAMS[reason]
        response = _teams_problem(status, code, code)
        if status == 429:
            response.headers.add("Retry-After", str(self.wait_seconds))
        return response

    def problem(self, status: int, detail: str) -> ASGIResponse:
        return _teams_problem(status, "WorkflowNotFound" if status == 404 else "BadRequest", detail)


_TEAMS: Final[Mapping[str, tuple[int, str]]] = {
    Reason.RATE_LIMITED: (429, "TooManyRequests"),
    Reason.UNAVAILABLE: (503, "ServiceUnavailable"),
    Reason.BROKEN: (500, "InternalServerError"),
    Reason.UNAUTHORIZED: (401, "AuthorizationFailed"),
    FAILING: (500, "InternalServerError"),
    GONE: (410, "WorkflowDeleted"),
    NOT_FOUND: (404, "WorkflowNotFound"),
    FORBIDDEN: (403, "DirectApiAuthorizationRequired"),
    Reason.CONTENT_REFUSED: (400, "TriggerInputSchemaMismatch"),
}
