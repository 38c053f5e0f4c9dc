"""Mailgun's suppression lists: bounces, complaints and unsubscribes."""

from __future__ import annotations

from email.utils import format_datetime
from typing import Any, Final

from litestar import delete, get
from litestar.types import ASGIApp

from app.sandbox.httpapi import AnyRequest, answer, as_json, sandbox_of
from app.sandbox.world import Suppression

LISTS: Final = ("bounces", "complaints", "unsubscribes")
#: Mailgun's largest page of a suppression list.
MAX_PAGE: Final = 1000

_REMOVED: Final = {
    "bounces": "Bounced address has been removed",
    "complaints": "Spam complaint has been removed",
    "unsubscribes": "Unsubscribe event has been removed",
}
_LIST_PATHS: Final = [f"/v3/{{domain:str}}/{name}" for name in LISTS]
_ONE_PATHS: Final = [f"{path}/{{address:str}}" for path in _LIST_PATHS]


@get(_LIST_PATHS)
async def list_suppressions(request: AnyRequest, domain: str) -> ASGIApp:
    """The whole list in alphabetical order, up to one page."""
    name = _list_name(request)
    addresses = sorted(sandbox_of(request).world.account("mailgun").suppressions[name].items())[:MAX_PAGE]
    items = [_item(name, suppression) for _, suppression in addresses]
    here = str(request.url.with_replacements(query=""))
    return answer(request, as_json({"items": items, "paging": dict.fromkeys(("next", "previous"), here)}))


@get(_ONE_PATHS)
async def get_suppression(request: AnyRequest, domain: str, address: str) -> ASGIApp:
    """One address, or 404."""
    name = _list_name(request)
    suppression = sandbox_of(request).world.account("mailgun").suppressions[name].get(address.lower())
    if suppression is None:
        return answer(request, as_json({"message": f"Address not found in {name} table"}, 404))
    return answer(request, as_json(_item(name, suppression)))


@delete(_ONE_PATHS, status_code=200)
async def delete_suppression(request: AnyRequest, domain: str, address: str) -> ASGIApp:
    """Take one address off the list, so that sends to it are tried again."""
    sandbox, name = sandbox_of(request), _list_name(request)
    if address.lower() not in sandbox.world.account("mailgun").suppressions[name]:
        return answer(request, as_json({"message": f"Address not found in {name} table"}, 404))
    sandbox.unsuppress("mailgun", name, address)
    return answer(request, as_json({"message": _REMOVED[name], "address": address}))


def _list_name(request: AnyRequest) -> str:
    return request.url.path.split("/")[3]


def _item(name: str, suppression: Suppression) -> dict[str, Any]:
    item: dict[str, Any] = {
        "address": suppression.address,
        "created_at": format_datetime(suppression.created_at, usegmt=True).replace("GMT", "UTC"),
    }
    match name:
        case "bounces":
            item |= {"code": suppression.code or "550", "error": suppression.error or ""}
        case "unsubscribes":
            item["tags"] = ["*"]
    return item
