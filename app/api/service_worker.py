"""The service worker and the script beside it, for Web Push in browsers (R-109)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from litestar import MediaType, Request, Response, get
from litestar.status_codes import HTTP_200_OK, HTTP_304_NOT_MODIFIED
from pydantic import BaseModel, ConfigDict, Field

from app.api.headers import header
from app.api.paging import lists, read_query
from app.api.state import Api
from app.domain.models import Channel, Platform
from app.errors import NotFound
from app.providers.web_push import WebPush

HERE = Path(__file__).parent / "static"

# The policy of a worker is that of its script: it acknowledges wherever a push says, and shows pictures from anywhere.
POLICY = "default-src 'none'; connect-src *; img-src *"
HEADERS = {
    "content-type": "text/javascript; charset=utf-8",
    # Asked for anew each time, and not sent anew: a corrected worker must not wait for caches.
    "cache-control": "no-cache",
    # Both are there for pages of other origins; one that isolates itself (COEP) must be told so.
    "cross-origin-resource-policy": "cross-origin",
    "content-security-policy": POLICY,
    # From /push/, it may look after the whole site (Service Workers, 7.1).
    "service-worker-allowed": "/",
}


@get("/push/landed-sw.js", include_in_schema=False, sync_to_thread=False)
def worker(request: Request[Any, Any, Any]) -> Response[bytes]:
    return _answer(request, WORKER)


@get("/push/landed-push.js", include_in_schema=False, sync_to_thread=False)
def helper(request: Request[Any, Any, Any]) -> Response[bytes]:
    return _answer(request, HELPER)


class Whose(BaseModel):
    """Closed: a misspelt tenant would subscribe browsers with a key that never sends to them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: str | None = Field(default=None, max_length=63, description="its own key, where it has a route of its own")


@get(
    "/push/vapid-public-key",
    media_type=MediaType.TEXT,
    operation_class=lists(Whose),
    tags=["devices"],
    security=[{}],
    sync_to_thread=False,
)
def vapid_public_key(request: Request[Any, Any, Any], api: Api) -> Response[str]:
    """What a page subscribes with (``applicationServerKey``), base64url. 404 where no push goes to browsers."""
    tenant = read_query(request, Whose).tenant
    found = api.settings.routing().find(Channel.PUSH, Platform.WEB, tenant or "")  # as the pushes will be sent
    route = "push.web" if found is None else f"{found.channel}.{found.name}"
    for choice in api.settings.routes.get(route, ()):
        provider = api.providers.get(choice.provider)
        if isinstance(provider, WebPush):
            return Response(provider.public_key, headers={"access-control-allow-origin": "*"})
    raise NotFound(f"routes.{route} names no web-push account")


def _script(name: str) -> tuple[bytes, str]:
    """A file and its tag."""
    content = (HERE / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


WORKER = _script("landed-sw.js")
HELPER = _script("landed-push.js")


def _answer(request: Request[Any, Any, Any], script: tuple[bytes, str]) -> Response[bytes]:
    content, tag = script
    headers = HEADERS | {"etag": tag}
    if tag in (header(request.scope, b"if-none-match") or ""):
        return Response(b"", status_code=HTTP_304_NOT_MODIFIED, headers=headers)
    return Response(content, status_code=HTTP_200_OK, headers=headers)


routes = [worker, helper, vapid_public_key]
