"""Providers that are called over HTTP: their calls come through here, and are answered from here."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import msgspec
from litestar import Request, Response, Router
from litestar.exceptions import HTTPException
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, ControllerRouterHandler, Receive, Scope, Send

from app.sandbox.answers import Hold, Reset
from app.sandbox.calls import Call, Do, Draft, Verdict
from app.sandbox.ledger import NOTHING, About
from app.sandbox.protocol import Protocol
from app.sandbox.runtime import Sandbox
from app.sandbox.scripting import SLOW_ANSWER_SECONDS, Reason
from app.sandbox.world import Message

AnyRequest = Request[Any, Any, Any]
P = TypeVar("P", bound="HttpProtocol")
S = TypeVar("S")

_encode = msgspec.json.Encoder().encode


class HttpProtocol(Protocol):
    """A provider behind HTTP paths.

    paths: what its paths begin with, so that an unknown one is answered in its own shape.
    routes: its handlers; each call to them has passed ``admit`` and is on the ledger.
    """

    paths: ClassVar[Sequence[str]]
    routes: ClassVar[Sequence[ControllerRouterHandler]]

    def handlers(self) -> Sequence[ControllerRouterHandler]:
        async def admit(request: AnyRequest) -> ASGIApp | None:  # not self._admit: a router copies what it is given
            return await self._admit(request)

        router = Router(
            path="/", before_request=admit, exception_handlers={HTTPException: failed}, route_handlers=self.routes
        )
        return [router]

    def authorise(self, request: AnyRequest) -> ASGIResponse | None:
        """The answer to a call without the right credentials; None when they are right."""
        raise NotImplementedError

    async def check(self, request: AnyRequest) -> ASGIResponse | None:
        """``authorise`` for vendors whose credentials cover the body of the request."""
        return self.authorise(request)

    def refused(self, reason: str, message: Message | None = None) -> ASGIResponse:
        """The vendor's answer to a refusal or a fault; ``message`` is absent for a fault of the whole provider."""
        raise NotImplementedError

    def is_send(self, request: AnyRequest) -> bool:
        """Whether a call is a send, for faults that spare everything else."""
        return request.method == "POST"

    def problem(self, status: int, detail: str) -> ASGIResponse:
        """A request the framework turned down (wrong method, unknown path), in the vendor's shape."""
        return as_json({"message": detail}, status)

    async def _admit(self, request: AnyRequest) -> ASGIApp | None:
        """Runs before every handler: the ledger, the fault in force, then credentials. None lets the call in."""
        door = self.sandbox.door
        call = door.admit(self.name, request.method, request.url.path, is_send=self.is_send(request))
        request.scope["state"].update(call=call, protocol=self)
        if verdict := door.turned_away(call):
            return tell(request, verdict)
        refusal = await self.check(request)
        return answer(request, refusal) if refusal else None


# Answers ----------------------------------------------------------------------------------------------------------


def as_json(payload: object, status: int = 200, headers: Mapping[str, str] | None = None) -> ASGIResponse:
    return ASGIResponse(
        body=_encode(payload), status_code=status, media_type="application/json", headers=dict(headers or {})
    )


def as_text(text: str, status: int = 200, media_type: str = "text/plain") -> ASGIResponse:
    return ASGIResponse(body=text.encode(), status_code=status, media_type=media_type)


def captive_page() -> ASGIResponse:
    """What a hotel's network answers in a provider's place: success, of nothing that was asked for."""
    return as_text("<!doctype html><title>Welcome</title><h1>Sign in to the network</h1>", media_type="text/html")


def answer(request: AnyRequest, response: ASGIResponse, *, about: About = NOTHING, note: str | None = None) -> ASGIApp:
    """Write the answer down, and give it."""
    sandbox_of(request).door.respond(call_of(request), response.status_code, about=about, note=note)
    return response


def take(request: AnyRequest, drafts: Sequence[Draft], accepted: ASGIResponse) -> ASGIApp:
    """Take the messages on and answer ``accepted``, or do to the caller what their recipients' scripts ask for."""
    protocol = protocol_of(request, HttpProtocol)
    verdict = sandbox_of(request).door.decide(protocol, call_of(request), drafts)
    message = next((draft.message for draft in drafts if draft.message.about == verdict.about), None)
    return tell(request, verdict, accepted, message)


def tell(
    request: AnyRequest, verdict: Verdict, accepted: ASGIResponse | None = None, message: Message | None = None
) -> ASGIApp:
    """The answer a verdict comes to; ``accepted`` is what success looks like."""
    about, note, protocol = verdict.about, verdict.note, protocol_of(request, HttpProtocol)
    match verdict.do:
        case Do.ANSWER if accepted:
            return answer(request, accepted, about=about, note=note)
        case Do.ANSWER_SLOWLY if accepted:
            return _slowly(request, Late(request, accepted, about=about, note=note))
        case Do.HOLD:
            released = Late(request, accepted, about=about, note="released") if verdict.accepted and accepted else None
            return _hold(request, released, about=about, note=note)
        case Do.ERROR:
            return answer(request, protocol.refused(Reason.BROKEN, message), about=about, note=note)
        case Do.REFUSE:
            return answer(request, protocol.refused(verdict.reason, message), about=about, note=note)
        case _:
            return _silence(request, Reset(), about=about, note=note)


class Late:
    """An answer that is written down when it is given, not when it is thought of."""

    def __init__(self, request: AnyRequest, response: ASGIResponse, *, about: About, note: str | None) -> None:
        self._request = request
        self._response = response
        self._about = about
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        end = answer(self._request, self._response, about=self._about, note=self._note)
        await end(scope, receive, send)


def _slowly(request: AnyRequest, late: Late) -> ASGIApp:
    sandbox = sandbox_of(request)
    return Hold(sandbox.faults, seconds=sandbox.config.scaled(SLOW_ANSWER_SECONDS), released=late, expired=late)


def _hold(request: AnyRequest, released: ASGIApp | None, *, about: About, note: str | None) -> ASGIApp:
    """Keep the caller waiting until it gives up; a release gives it ``released``, or cuts it off."""
    sandbox = sandbox_of(request)
    end = Hold(sandbox.faults, seconds=sandbox.config.hold_seconds, released=released or Reset(), expired=Reset())
    return _silence(request, end, about=about, note=note)


def _silence(request: AnyRequest, end: ASGIApp, *, about: About, note: str | None) -> ASGIApp:
    """Write down that the caller is told nothing, and tell it nothing."""
    sandbox_of(request).door.respond(call_of(request), None, about=about, note=note)
    return end


# What the framework itself turns down -------------------------------------------------------------------------------


def failed(request: AnyRequest, exc: HTTPException) -> Response[bytes]:
    """A request to a known path that the framework turned down, as its provider would put it."""
    protocol = protocol_of(request, HttpProtocol)
    return turned_down(request, protocol, protocol.problem(exc.status_code, exc.detail), note=exc.detail)


def turned_down(request: AnyRequest, protocol: HttpProtocol, problem: ASGIResponse, *, note: str) -> Response[bytes]:
    """Write such an answer down, and the call with it if it never came past ``admit``."""
    door, state = protocol.sandbox.door, request.scope["state"]
    call = state.get("call") or door.admit(protocol.name, request.method, request.url.path, is_send=False)
    door.respond(call, problem.status_code, note=note)
    return _Ready(problem)


class _Ready(Response[bytes]):
    """An answer that is complete already, where the framework wants to make one."""

    def __init__(self, response: ASGIResponse) -> None:
        super().__init__(response.body, status_code=response.status_code)
        self._response = response

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        return self._response


# What a request belongs to ------------------------------------------------------------------------------------------


def sandbox_of(request: AnyRequest) -> Sandbox:
    sandbox: Sandbox = request.app.state.sandbox
    return sandbox


def call_of(request: AnyRequest) -> Call:
    call: Call = request.scope["state"]["call"]
    return call


def protocol_of(request: AnyRequest, kind: type[P]) -> P:
    """The protocol whose handler this is."""
    protocol = request.scope["state"]["protocol"]
    assert isinstance(protocol, kind)
    return protocol


def settings_of(request: AnyRequest, kind: type[S]) -> S:
    """The settings of the protocol whose handler this is."""
    settings = protocol_of(request, HttpProtocol).settings
    assert isinstance(settings, kind)
    return settings


def basic_credentials(request: AnyRequest) -> bytes | None:
    """``user:password`` of an Authorization header; None when there is no well-formed one."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    try:
        return base64.b64decode(credentials, validate=True) if scheme.lower() == "basic" else None
    except (binascii.Error, ValueError):
        return None


def is_same(given: str | bytes | None, expected: str) -> bool:
    """Compare a secret in constant time."""
    raw = given.encode() if isinstance(given, str) else given
    return raw is not None and secrets.compare_digest(raw, expected.encode())
