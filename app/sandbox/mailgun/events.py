"""The Events API: what happened to messages, filtered and in pages.

A page's address holds its whole query, so following ``paging.next`` needs no state here. An empty page points
at itself: asking again later shows what has happened since.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec
from litestar import get
from litestar.types import ASGIApp

from app.sandbox.httpapi import AnyRequest, answer, as_json, sandbox_of
from app.sandbox.ledger import Ledger
from app.sandbox.mailgun.submission import Invalid
from app.sandbox.world import Account, EventData, EventRef

MAX_PAGE: Final = 300
DEFAULT_PAGE: Final = 100

_decode_event = msgspec.json.Decoder(EventData).decode
_FILTERS: Final = ("event", "recipient", "message-id", "to", "from", "subject", "tags", "severity")
#: Filters that the index answers by itself; the others need the payload.
_INDEXED: Final = frozenset({"event", "recipient", "message-id"})


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One page's question. ``after`` and ``before`` are ledger numbers that bound it, both exclusive."""

    filters: dict[str, str]
    earliest: float | None = None
    latest: float | None = None
    ascending: bool = False
    limit: int = DEFAULT_PAGE
    after: int | None = None
    before: int | None = None


@get("/v3/{domain:str}/events")
async def events(request: AnyRequest, domain: str) -> ASGIApp:
    """The first page of the events a query asks for."""
    try:
        query = parse_query(request.query_params)
    except Invalid as exc:
        return answer(request, as_json({"message": str(exc)}, 400))
    return _page(request, domain, query)


@get("/v3/{domain:str}/events/{token:str}")
async def events_page(request: AnyRequest, domain: str, token: str) -> ASGIApp:
    """Another page, by the address that ``paging`` gave."""
    try:
        query = msgspec.json.decode(base64.urlsafe_b64decode(token), type=Query)
    except (binascii.Error, msgspec.DecodeError, ValueError):
        return answer(request, as_json({"message": "page not found"}, 404))
    return _page(request, domain, query)


def parse_query(params: Mapping[str, str]) -> Query:
    """A query from its URL parameters. Raises ``Invalid`` with what is wrong."""
    begin, end = _time(params, "begin"), _time(params, "end")
    given = params.get("ascending", "").lower()
    if given not in ("", "yes", "no", "true", "false"):
        raise Invalid("ascending must be 'yes' or 'no'")
    in_order = begin is not None and end is not None and begin <= end
    ascending = given in ("yes", "true") if given else in_order
    # Mailgun reads from begin towards end, so a descending search begins at the later of the two.
    earliest, latest = (begin, end) if ascending else (end, begin)
    return Query(
        filters={name: params[name] for name in _FILTERS if params.get(name)},
        earliest=earliest,
        latest=latest,
        ascending=ascending,
        limit=_limit(params),
    )


def search(account: Account, ledger: Ledger, query: Query) -> list[tuple[EventRef, EventData]]:
    """The events on this page, with their payloads, in the order the query asks for."""
    found = []
    for ref in _candidates(account, query):
        if not _within(query, ref) or not _index_matches(query, ref):
            continue
        data = _decode_event(ledger.read(ref.seq).data)
        if _payload_matches(query, data):
            found.append((ref, data))
        if len(found) == query.limit:
            break
    return found


def _page(request: AnyRequest, domain: str, query: Query) -> ASGIApp:
    sandbox = sandbox_of(request)
    found = search(sandbox.world.account("mailgun"), sandbox.ledger, query)
    base = f"{request.base_url}v3/{domain}/events"
    pages = _neighbours(query, [ref for ref, _ in found])
    paging = {name: f"{base}/{_token(page)}" for name, page in pages.items()}
    return answer(request, as_json({"items": [data.payload for _, data in found], "paging": paging}))


def _neighbours(query: Query, page: Sequence[EventRef]) -> dict[str, Query]:
    first = msgspec.structs.replace(query, after=None, before=None)
    if not page:
        return {"previous": query, "first": first, "next": query, "last": query}
    if query.ascending:
        following = msgspec.structs.replace(query, after=page[-1].seq, before=None)
        preceding = msgspec.structs.replace(query, after=None, before=page[0].seq, ascending=False)
    else:
        following = msgspec.structs.replace(query, before=page[-1].seq, after=None)
        preceding = msgspec.structs.replace(query, before=None, after=page[0].seq, ascending=True)
    last = msgspec.structs.replace(first, ascending=not query.ascending)
    return {"previous": preceding, "first": first, "next": following, "last": last}


def _token(query: Query) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(query)).decode()


def _candidates(account: Account, query: Query) -> Iterator[EventRef]:
    """Every event that may match, in order; a message id narrows it down to that message's few."""
    message_id = query.filters.get("message-id", "").strip("<>")
    refs = account.events_by_message_id.get(message_id, []) if _is_plain(message_id) else account.events
    return iter(refs) if query.ascending else reversed(refs)


def _is_plain(expression: str) -> bool:
    return bool(expression) and not any(sign in expression for sign in (" ", '"'))


def _within(query: Query, ref: EventRef) -> bool:
    return (
        (query.after is None or ref.seq > query.after)
        and (query.before is None or ref.seq < query.before)
        and (query.earliest is None or ref.timestamp >= query.earliest)
        and (query.latest is None or ref.timestamp <= query.latest)
    )


def _index_matches(query: Query, ref: EventRef) -> bool:
    values = {"event": ref.event, "recipient": ref.recipient, "message-id": ref.message_id}
    return all(_matches(query.filters[name], [values[name]]) for name in _INDEXED & query.filters.keys())


def _payload_matches(query: Query, data: EventData) -> bool:
    wanted = query.filters.keys() - _INDEXED
    if not wanted:
        return True
    payload = msgspec.json.decode(data.payload)
    headers = payload["message"]["headers"]
    values: dict[str, list[str]] = {
        "to": [headers["to"]],
        "from": [headers["from"]],
        "subject": [headers["subject"]],
        "tags": payload["tags"],
        "severity": [payload.get("severity", "")],
    }
    return all(_matches(query.filters[name], values[name]) for name in wanted)


def _matches(expression: str, values: Sequence[str]) -> bool:
    """Whether any value fits a filter expression: ``a OR b``, ``NOT a``, quotes; case does not matter."""
    have = {value.lower() for value in values}
    for term in expression.split(" OR "):
        negated = term.strip().startswith("NOT ")
        wanted = term.strip().removeprefix("NOT ").strip().strip('"').strip("<>").lower()
        if (wanted in have) is not negated:
            return True
    return False


def _time(params: Mapping[str, str], name: str) -> float | None:
    """Unix seconds from either form Mailgun takes: a number, or an RFC 2822 date."""
    if not (value := params.get(name)):
        return None
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(value).timestamp()
    except ValueError as exc:
        raise Invalid(f"{name} is not a valid date") from exc


def _limit(params: Mapping[str, str]) -> int:
    value: Any = params.get("limit", DEFAULT_PAGE)
    try:
        limit = int(value)
    except ValueError as exc:
        raise Invalid("limit must be a number") from exc
    if not 1 <= limit <= MAX_PAGE:
        raise Invalid(f"limit must be between 1 and {MAX_PAGE}")
    return limit
