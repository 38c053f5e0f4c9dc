"""The inbox of one recipient: listed, acted upon, and watched live (R-022).

For browsers and apps with a recipient's token; for the tenant's backend with an API key and ``?recipient_id=``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from litestar import Controller, Request, get, post
from litestar.di import Provide
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK
from pydantic import BaseModel, ConfigDict, Field

from app.api.headers import header
from app.api.inbox_stream import EventStream
from app.api.paging import lists, read_query
from app.api.recipient_auth import OfRecipient, RecipientCaller, guarded, requires_recipient
from app.api.schemas import Body, RecipientId, read_model, takes
from app.api.state import Api, ApiState
from app.errors import FieldError, InvalidFields, NotFound
from app.flows.inbox import Done, act, act_on_all
from app.store import inbox as store
from app.store.inbox import Action, Counts, Inbox, Item

PAGE_DEFAULT, PAGE_MAX = 50, 200
IDS_MAX = 200  # a screenful of a very large screen
VERSION_MAX = 2**63 - 1
VERSION_DIGITS_MAX = len(str(VERSION_MAX))
WAIT_MAX_SECONDS = 25.0  # proxies commonly give up after 30

FOR_READING = requires_recipient(or_key="read")
FOR_ACTING = requires_recipient(or_key="send")
FOR_STREAMING = requires_recipient(or_key="read", in_query=True)

Version = Annotated[int, Field(ge=0, le=VERSION_MAX)]


class InboxQuery(BaseModel):
    """The base of every query here. recipient_id: only beside an API key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipient_id: RecipientId | None = Field(default=None, description="with an API key: whose inbox")


Q = TypeVar("Q", bound=InboxQuery)


class ListQuery(InboxQuery):
    limit: int = Field(default=PAGE_DEFAULT, ge=1, le=PAGE_MAX, description="how many items")
    before: Version = Field(default=VERSION_MAX, description="`next` of the page before")
    status: Literal["unread", "all", "archived"] = Field(default="all", description="all: whatever is not archived")


class ChangesQuery(InboxQuery):
    after: Version = Field(description="the version of what you have")
    wait: float = Field(default=0, ge=0, le=WAIT_MAX_SECONDS, description="seconds to wait for the first change")


class StreamQuery(InboxQuery):
    after: Version | None = Field(default=None, description="the version of what you have; default: only what comes")
    access_token: str | None = Field(default=None, description="the recipient's token, where no header can be set")


class Some(Body):
    """Which items."""

    ids: list[Annotated[UUID, Field(strict=False)]] = Field(min_length=1, max_length=IDS_MAX)


class All(Body):
    """Everything that had arrived by a version: that of the list, or of the last event, that the person looks at."""

    version: Version


@dataclass(frozen=True, slots=True)
class InboxPage:
    """next: give it as ``before`` to go on; null on the last page. version: give it as ``after`` to hear of changes."""

    items: list[Item]
    next: int | None
    unread: int
    unseen: int
    version: int


@dataclass(frozen=True, slots=True)
class InboxChanges:
    """items: new or changed, oldest change first. version: give it as ``after``. more: ask again at once.

    reset: your version is not one of this inbox (it was restored from a backup): load the list again.
    """

    items: list[Item]
    version: int
    more: bool
    reset: bool
    unread: int
    unseen: int


@dataclass(frozen=True, slots=True)
class ActedOn:
    """items: those of yours that are in the inbox, as they are now. changed: how many were another before."""

    items: list[Item]
    changed: int
    unread: int
    unseen: int
    version: int


class InboxController(Controller):
    path = "/api/v1/inbox"
    tags = ("inbox",)
    dependencies = {"recipient": Provide(guarded, sync_to_thread=False)}

    @get(summary="List the inbox", guards=[FOR_READING], operation_class=lists(ListQuery))
    async def list_newest(self, request: Request[Any, Any, Any], api: Api, recipient: OfRecipient) -> InboxPage:
        """Newest first, with the counts of the same moment."""
        query = _query(request, ListQuery, recipient)
        inbox = _inbox(recipient)
        async with api.db.transaction() as conn:
            await store.one_snapshot(conn)
            items = await store.list_items(conn, inbox, status=query.status, before=query.before, limit=query.limit + 1)
            counts = await store.get_counts(conn, inbox)
        shown = items[: query.limit]
        next = shown[-1].arrival if len(items) > query.limit else None
        return InboxPage(shown, next, counts.unread, counts.unseen, counts.version)

    @get("/counts", summary="Count the unread", guards=[FOR_READING], operation_class=lists(InboxQuery))
    async def count(self, request: Request[Any, Any, Any], api: Api, recipient: OfRecipient) -> Counts:
        """unread: neither read nor archived; unseen: neither seen nor archived."""
        _query(request, InboxQuery, recipient)
        async with api.db.transaction() as conn:
            return await store.get_counts(conn, _inbox(recipient))

    @get("/changes", summary="What changed since", guards=[FOR_READING], operation_class=lists(ChangesQuery))
    async def changes(self, request: Request[Any, Any, Any], api: Api, recipient: OfRecipient) -> InboxChanges:
        """For clients that cannot hold a stream. With `wait`, answers at the first change or when the time is over."""
        query = _query(request, ChangesQuery, recipient)
        with api.inbox.following(_inbox(recipient), query.after) as follower:
            news = await follower.news()
            if query.wait and not news.items and not news.reset:
                await follower.stirring(query.wait)
                news = await follower.news()
        return InboxChanges(news.items, news.version, news.more, news.reset, news.counts.unread, news.counts.unseen)

    @get(
        "/stream",
        summary="Follow the inbox live",
        guards=[FOR_STREAMING],
        operation_class=lists(StreamQuery),
        media_type="text/event-stream",
    )
    async def stream(self, request: Request[Any, Any, Any], api: Api, recipient: OfRecipient) -> EventStream:
        """Server-sent events: `item` for each new or changed item, `counts`, `reset` when the list is to be loaded
        again, `end` with its reason. The id of an event is the version it brings you to; a client that comes back with
        it as Last-Event-ID misses nothing."""
        query = _query(request, StreamQuery, recipient)
        return EventStream(api, request, _last_event_id(request, query.after))

    @post(
        "/{item_id:uuid}/{action:str}",
        summary="Acknowledge, see, read, archive an item",
        guards=[FOR_ACTING],
        operation_class=lists(InboxQuery),
        status_code=HTTP_200_OK,
    )
    async def act_on_one(
        self,
        request: Request[Any, Any, Any],
        item_id: FromPath[UUID],
        action: FromPath[str],
        api: Api,
        recipient: OfRecipient,
    ) -> ActedOn:
        """`ack`, `seen`, `read`, `unread`, `archive` or `unarchive`. Acknowledging proves that it was delivered,
        reading that it was opened. Doing it again changes nothing."""
        _query(request, InboxQuery, recipient)
        done = await act(api.db, api.settings, _inbox(recipient), _action(action), [item_id])
        if not done.items:
            raise NotFound(f"there is no item {item_id} in this inbox")
        return _told(api, recipient, done)

    @post(
        "/{action:str}",
        summary="Act on several items",
        guards=[FOR_ACTING],
        operation_class=takes(Some),
        status_code=HTTP_200_OK,
    )
    async def act_on_several(
        self, request: Request[Any, Any, Any], action: FromPath[str], api: Api, recipient: OfRecipient
    ) -> ActedOn:
        """The same, for up to 200 at once. Ids that are not in this inbox are left out of the answer."""
        _query(request, InboxQuery, recipient)
        chosen = _action(action)
        body = await read_model(request, Some)
        return _told(api, recipient, await act(api.db, api.settings, _inbox(recipient), chosen, body.ids))

    @post(
        "/read-all",
        summary="Mark all as read up to a version",
        guards=[FOR_ACTING],
        operation_class=takes(All),
        status_code=HTTP_200_OK,
    )
    async def read_all(self, request: Request[Any, Any, Any], api: Api, recipient: OfRecipient) -> ActedOn:
        """Everything that had arrived by `version` and is not archived; what came later is left as it is."""
        return await _to_all(request, api, recipient, Action.READ)

    @post(
        "/seen-all",
        summary="Mark all as seen up to a version",
        guards=[FOR_ACTING],
        operation_class=takes(All),
        status_code=HTTP_200_OK,
    )
    async def seen_all(self, request: Request[Any, Any, Any], api: Api, recipient: OfRecipient) -> ActedOn:
        """Everything that had arrived by `version` and is not archived; what came later is left as it is."""
        return await _to_all(request, api, recipient, Action.SEEN)

    @post(
        "/archive-all",
        summary="Archive all up to a version",
        guards=[FOR_ACTING],
        operation_class=takes(All),
        status_code=HTTP_200_OK,
    )
    async def archive_all(self, request: Request[Any, Any, Any], api: Api, recipient: OfRecipient) -> ActedOn:
        """Everything that had arrived by `version`; what came later is left as it is."""
        return await _to_all(request, api, recipient, Action.ARCHIVE)


async def _to_all(
    request: Request[Any, Any, Any], api: ApiState, recipient: RecipientCaller, action: Action
) -> ActedOn:
    _query(request, InboxQuery, recipient)
    body = await read_model(request, All)
    done = await act_on_all(api.db, api.settings, _inbox(recipient), action, version=body.version)
    return _told(api, recipient, done)


def _told(api: ApiState, recipient: RecipientCaller, done: Done) -> ActedOn:
    """After the commit: the recipient's other tabs hear of it, and what it proves is applied."""
    if done.changed:
        api.inbox.changed(_inbox(recipient))
        api.apply_waker.soon()
    return ActedOn(done.items, done.changed, done.counts.unread, done.counts.unseen, done.counts.version)


def _inbox(recipient: RecipientCaller) -> Inbox:
    return Inbox(recipient.tenant_id, recipient.recipient_id)


def _query(request: Request[Any, Any, Any], model: type[Q], recipient: RecipientCaller) -> Q:
    query = read_query(request, model)
    if query.recipient_id is not None and recipient.expires_at is not None:
        raise InvalidFields(FieldError("recipient_id", "goes with an API key; a recipient token says whose it is"))
    return query


def _action(name: str) -> Action:
    try:
        return Action(name)
    except ValueError:
        raise NotFound(f"{name!r} is not an action; actions are {', '.join(Action)}") from None


def _last_event_id(request: Request[Any, Any, Any], after: int | None) -> int | None:
    """Where the client is: by the header, which a browser sets when it comes back, else by the query it first came
    with. Raises InvalidFields."""
    given = header(request.scope, b"last-event-id")
    if not given:
        return after
    digits = given.lstrip("0") or "0"
    if not given.isascii() or not given.isdecimal() or len(digits) > VERSION_DIGITS_MAX or int(digits) > VERSION_MAX:
        raise InvalidFields(FieldError("Last-Event-ID", "is not the id of an event of this stream"))
    return int(digits)


routes = [InboxController]
