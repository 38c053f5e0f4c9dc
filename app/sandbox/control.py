"""What tests and people steer the sandbox with, under ``/sandbox``: not a part of any provider's API."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, Router, delete, get, post
from litestar.exceptions import ValidationException
from litestar.params import Parameter

from app.sandbox.faults import FaultOrder, Faults
from app.sandbox.ledger import Entry, Kind
from app.sandbox.runtime import Sandbox

#: Most ledger entries in one answer; ``next_since`` leads to the rest.
MAX_ENTRIES: Final = 10_000

AnyRequest = Request[Any, Any, Any]


# In a thread, because a long ledger takes a while to read and calls must not wait for it.
@get("/ledger", sync_to_thread=True)
def ledger(
    request: AnyRequest,
    kind: Kind | None = None,
    provider: str | None = None,
    recipient: str | None = None,
    message_id: str | None = None,
    landed_delivery: str | None = None,
    since: Annotated[int, Parameter(ge=0)] = 0,
    limit: Annotated[int, Parameter(ge=1, le=MAX_ENTRIES)] = 1000,
) -> Response[bytes]:
    """Entries after ``since`` that fit every filter given; ``next_since`` is null when there are no more."""
    wanted = {
        "kind": kind,
        "provider": provider,
        "recipient": recipient,
        "message_id": message_id,
        "landed_delivery": landed_delivery,
    }
    filters = {name: value for name, value in wanted.items() if value is not None}
    found: list[msgspec.Raw] = []
    next_since = None
    for entry, line in _sandbox(request).ledger.entries(since):
        if not _fits(entry, filters):
            continue
        if len(found) == limit:
            next_since = entry.seq - 1
            break
        found.append(msgspec.Raw(line))
    body = msgspec.json.encode({"entries": found, "next_since": next_since})
    return Response(body, media_type="application/json")


def _fits(entry: Entry, filters: dict[str, str]) -> bool:
    return all(getattr(entry, name) == value for name, value in filters.items())


@get("/ledger/summary")
async def summary(request: AnyRequest) -> dict[str, Any]:
    """How often each delivery was accepted, and whether anything is still under way."""
    world = _sandbox(request).world
    return {
        "entries": len(_sandbox(request).ledger),
        "counts": {kind.value: world.counts[kind] for kind in Kind},
        "accepted": world.counts[Kind.ACCEPTED],
        "accepted_by_provider": world.accepted_by_provider,
        "accepted_without_reference": world.accepted_without_reference,
        "deliveries": world.accepted_by_delivery,
        "duplicates": {name: times for name, times in world.accepted_by_delivery.items() if times > 1},
        "messages_under_way": len(world.unfinished),
        "webhooks_owed": sum(posts for _, posts in world.owed.values()),
    }


@get("/faults")
async def get_faults(request: AnyRequest) -> dict[str, Any]:
    """The faults in force: that of every provider, and those of single ones."""
    return _described(_sandbox(request).faults)


@post("/faults", status_code=200)
async def set_faults(request: AnyRequest) -> dict[str, Any]:
    """Put a fault in force, in place of the one before: of one provider, or of all and every single one."""
    try:
        order = msgspec.json.decode(await request.body(), type=FaultOrder)
    except msgspec.DecodeError as exc:
        raise ValidationException(str(exc)) from exc
    sandbox = _sandbox(request)
    if order.provider is not None and order.provider not in sandbox.protocols:
        raise ValidationException(f"provider must be one of {', '.join(sorted(sandbox.protocols))}")
    sandbox.faults.set(order)
    return _described(sandbox.faults)


@post("/release", status_code=204)
async def release(request: AnyRequest) -> None:
    """Let the calls go that are kept waiting: an accepted one is answered 200, any other is cut off."""
    _sandbox(request).faults.release()


@delete("/mailbox")
async def clear_mailbox(request: AnyRequest) -> None:
    """Empty the mailbox page. The ledger, the Events API and the suppression lists keep what they know."""
    _sandbox(request).ledger.append(Kind.CLEARED)


@get("/suppressions")
async def suppressions(request: AnyRequest, provider: str) -> dict[str, Any]:
    """A provider's suppression lists by name."""
    lists = _sandbox(request).world.account(provider).suppressions
    return {name: sorted(recipients) for name, recipients in lists.items() if recipients}


@delete("/suppressions")
async def unsuppress(request: AnyRequest, provider: str, recipient: str) -> None:
    """Take a recipient off every list of a provider, whatever API the vendor has for that."""
    sandbox = _sandbox(request)
    for name, recipients in sandbox.world.account(provider).suppressions.items():
        if recipient.lower() in recipients:
            sandbox.unsuppress(provider, name, recipient)


def _sandbox(request: AnyRequest) -> Sandbox:
    sandbox: Sandbox = request.app.state.sandbox
    return sandbox


def _described(faults: Faults) -> dict[str, Any]:
    def described(order: FaultOrder) -> dict[str, Any]:
        return {**msgspec.to_builtins(order), "seconds_left": faults.seconds_left(order.provider)}

    return {
        **described(faults.current()),
        "providers": {name: described(order) for name, order in faults.of_one_provider().items()},
    }


def control_router() -> Router:
    return Router(
        path="/sandbox",
        route_handlers=[ledger, summary, get_faults, set_faults, release, clear_mailbox, suppressions, unsuppress],
    )
