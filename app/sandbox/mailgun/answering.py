"""Letting a call in, and answering it; both go through the ledger first."""

from __future__ import annotations

import base64
import binascii
import secrets
import time

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, Receive, Scope, Send

from app.sandbox.answers import Hold, Reset
from app.sandbox.faults import Mode
from app.sandbox.ledger import NOTHING, About, Kind
from app.sandbox.mailgun.submission import AnyRequest
from app.sandbox.runtime import Sandbox
from app.sandbox.scripts import MAGNIFICENT, RATE_LIMIT_SECONDS, RATE_LIMITED

_encode = msgspec.json.Encoder().encode


def sandbox_of(request: AnyRequest) -> Sandbox:
    sandbox: Sandbox = request.app.state.sandbox
    return sandbox


def call_of(request: AnyRequest) -> int:
    """The ledger's number of this call."""
    call: int = request.scope["state"]["call"]
    return call


def as_json(payload: object, status: int = 200) -> ASGIResponse:
    return ASGIResponse(body=_encode(payload), status_code=status, media_type="application/json")


def as_text(text: str, status: int = 200) -> ASGIResponse:
    return ASGIResponse(body=text.encode(), status_code=status, media_type="text/plain")


def record_call(request: AnyRequest) -> None:
    """Every call to the provider is written down before anything else happens."""
    entry = sandbox_of(request).ledger.append(Kind.CALL, method=request.method, path=request.url.path)
    request.scope["state"]["call"] = entry.seq


def record_response(
    request: AnyRequest, status: int | None, *, about: About = NOTHING, note: str | None = None
) -> None:
    """What the caller is told is written down before it is told; None when it is told nothing."""
    sandbox_of(request).ledger.append(Kind.RESPONSE, call=call_of(request), status=status, about=about, note=note)


def answer(request: AnyRequest, response: ASGIResponse, *, about: About = NOTHING, note: str | None = None) -> ASGIApp:
    """Write the answer down, and give it."""
    record_response(request, response.status_code, about=about, note=note)
    return response


def silence(request: AnyRequest, end: ASGIApp, *, about: About = NOTHING, note: str) -> ASGIApp:
    """Write down that the caller is told nothing, and tell it nothing."""
    record_response(request, None, about=about, note=note)
    return end


class Late:
    """An answer that is written down when it is given, not when it is thought of."""

    def __init__(self, request: AnyRequest, response: ASGIResponse, *, about: About, note: str) -> None:
        self._request = request
        self._response = response
        self._about = about
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        end = answer(self._request, self._response, about=self._about, note=self._note)
        await end(scope, receive, send)


def hold(request: AnyRequest, *, about: About = NOTHING, note: str, released: ASGIApp | None = None) -> ASGIApp:
    """Keep the caller waiting until it gives up; a release gives it ``released``, or cuts it off."""
    sandbox = sandbox_of(request)
    end = Hold(sandbox.faults, seconds=sandbox.config.hold_seconds, released=released or Reset(), expired=Reset())
    return silence(request, end, about=about, note=note)


async def admit(request: AnyRequest) -> ASGIApp | None:
    """Runs before every endpoint: the fault in force, then credentials, then the domain.

    None lets the call in.
    """
    sandbox = sandbox_of(request)
    record_call(request)
    mode = sandbox.faults.draw(is_send=request.method == "POST")
    request.scope["state"]["fault"] = mode
    match mode:
        case Mode.REFUSE:
            return silence(request, Reset(), note="fault: reset without reading")
        case Mode.HANG:
            return hold(request, note="fault: held without accepting")
        case Mode.ERROR:
            return answer(request, as_json({"message": "Service Unavailable"}, 503), note="fault: error")
        case Mode.RATE_LIMIT:
            return answer(request, rate_limited(sandbox), note="fault: rate limited")
    if not _is_authorised(request):
        return answer(request, as_text("Forbidden", 401))
    if request.path_params.get("domain", sandbox.config.domain) != sandbox.config.domain:
        return answer(request, as_json({"message": "Domain not found"}, 404))
    return None


def _is_authorised(request: AnyRequest) -> bool:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    try:
        given = base64.b64decode(credentials, validate=True)
    except (binascii.Error, ValueError):
        return False
    expected = f"api:{sandbox_of(request).config.api_key}".encode()
    return scheme.lower() == "basic" and secrets.compare_digest(given, expected)


def rate_limited(sandbox: Sandbox) -> ASGIResponse:
    wait = max(1, round(sandbox.config.scaled(RATE_LIMIT_SECONDS)))
    text = RATE_LIMITED.format(domain=sandbox.config.domain, wait=wait)
    headers = {"X-RateLimit-Reset": str(int(time.time()) + wait)}
    return ASGIResponse(
        body=_encode({"message": text}), status_code=429, media_type="application/json", headers=headers
    )


def not_found(request: AnyRequest) -> Response[str]:
    """What Mailgun says to a path it does not know, such as a domain with a slash in it: a cheerful 200."""
    record_call(request)
    record_response(request, 200, note="unknown path")
    return Response(MAGNIFICENT, status_code=200, media_type="text/plain")


def failed(request: AnyRequest, exc: HTTPException) -> Response[dict[str, str]]:
    """A request the framework itself turned down, in Mailgun's shape."""
    if "call" not in request.scope["state"]:
        record_call(request)
    record_response(request, exc.status_code, note=exc.detail)
    return Response({"message": exc.detail}, status_code=exc.status_code, media_type="application/json")
