"""The inbox live: real servers, real sockets, several tabs, and everything that comes between them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import pytest
from psycopg import AsyncConnection

from app.db import Database
from app.flows.inbox import Hub
from app.store import inbox as store
from app.store.inbox import Inbox
from tests.factories import make_category, make_recipient, make_template, make_tenant
from tests.inboxes import INBOX, Served, deliver, hint, serving, sign_for, until
from tests.shop import SEND
from tests.system import Program

STREAM = f"{INBOX}/stream"


@dataclass
class Event:
    name: str
    id: str | None
    data: Any


class Tab:
    """One EventSource, in the words of its specification (WHATWG HTML, 9.2.6), that does not come back by itself."""

    def __init__(self, served: Served, token: str, *, last_event_id: str | None = None, **query: Any) -> None:
        self.last_event_id = last_event_id
        self.comments = 0
        self.retry_ms: int | None = None
        self._url = served.url
        self._query = {"access_token": token, **query}
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._stack = contextlib.AsyncExitStack()
        client = await self._stack.enter_async_context(httpx.AsyncClient(base_url=self._url, timeout=30))
        headers = {} if self.last_event_id is None else {"Last-Event-ID": self.last_event_id}
        self.response = await self._stack.enter_async_context(
            client.stream("GET", STREAM, params=self._query, headers=headers)
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._stack.aclose()

    async def _read(self) -> None:
        fields: dict[str, list[str]] = {}
        async for line in self.response.aiter_lines():
            if line == "":
                self._dispatch(fields)
                fields = {}
            elif line.startswith(":"):
                self.comments += 1
            else:
                name, _, value = line.partition(":")
                fields.setdefault(name, []).append(value.removeprefix(" "))
        self._events.put_nowait(None)

    def _dispatch(self, fields: dict[str, list[str]]) -> None:
        if "retry" in fields:
            self.retry_ms = int(fields["retry"][-1])
        if "id" in fields:
            self.last_event_id = fields["id"][-1]
        if "data" in fields:
            data = json.loads("\n".join(fields["data"]))
            name = fields.get("event", ["message"])[-1]
            self._events.put_nowait(Event(name, fields.get("id", [None])[-1], data))

    async def next(self) -> Event | None:
        """The next event; None when the stream is over."""
        async with asyncio.timeout(20):
            return await self._events.get()

    async def until(self, name: str) -> list[Event]:
        """The events up to the first of that name, and it."""
        events = [await self.next()]
        while events[-1] is not None and events[-1].name != name:
            events.append(await self.next())
        assert None not in events, f"the stream ended before {name}"
        return [event for event in events if event]

    @property
    def waiting(self) -> int:
        return self._events.qsize()


@pytest.fixture
async def served(dsn, tmp_path):
    async with serving(dsn, tmp_path, heartbeat_seconds=0.05) as served:
        yield served


@pytest.fixture
async def tenant(served):
    return await make_tenant(served.rest.conn)


@pytest.fixture
async def ada(served, tenant):
    return await sign_for(served.rest.conn, tenant, "ada")


async def send(served: Served, tenant: Any, recipient_id: str, title: str, **item: Any) -> None:
    """As the dispatcher does it: commit, then the hint."""
    await hint(served.rest.conn, await deliver(served.rest.conn, tenant, recipient_id, title, **item))


def titles(events: list[Event]) -> list[str]:
    return [event.data["title"] for event in events if event.name == "item"]


# -- live --------------------------------------------------------------------------------------------------------


async def test_a_stream_begins_with_the_counts_and_tells_each_item_as_it_comes(served, tenant, ada):
    await send(served, tenant, "ada", "before")
    async with Tab(served, ada) as tab:
        assert tab.response.status_code == 200
        assert tab.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert tab.response.headers["cache-control"] == "no-store"
        [first] = await tab.until("counts")
        assert (first.id, first.data) == ("1", {"version": 1, "unread": 1, "unseen": 1})
        assert tab.retry_ms >= 1000
        await send(served, tenant, "ada", "after")
        item, counts = await tab.until("counts")
        assert (item.name, item.id, item.data["title"], item.data["version"]) == ("item", "2", "after", 2)
        assert (counts.id, counts.data) == ("2", {"version": 2, "unread": 2, "unseen": 2})


async def test_every_tab_of_a_recipient_is_told_and_nobody_else(served, tenant, ada):
    other_tenant = await make_tenant(served.rest.conn)
    strangers = [
        await sign_for(served.rest.conn, tenant, "bo"),
        await sign_for(served.rest.conn, other_tenant, "ada"),
    ]
    async with contextlib.AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(Tab(served, ada)) for _ in range(3)]
        others = [await stack.enter_async_context(Tab(served, token)) for token in strangers]
        for tab in tabs + others:
            await tab.until("counts")
        await send(served, tenant, "ada", "for ada")
        await send(served, tenant, "bo", "for bo")
        await send(served, other_tenant, "ada", "for the other ada")
        for tab in tabs:
            assert titles(await tab.until("counts")) == ["for ada"]
        assert titles(await others[0].until("counts")) == ["for bo"]
        assert titles(await others[1].until("counts")) == ["for the other ada"]
        assert [tab.waiting for tab in tabs + others] == [0] * 5


async def test_what_one_tab_does_the_others_see(served, tenant, ada):
    await send(served, tenant, "ada", "hello")
    async with Tab(served, ada) as tab, httpx.AsyncClient(base_url=served.url) as client:
        await tab.until("counts")
        client.headers["Authorization"] = f"Bearer {ada}"
        [item] = (await client.get(INBOX)).json()["items"]
        await client.post(f"{INBOX}/{item['id']}/read")
        changed, counts = await tab.until("counts")
        assert changed.data["id"] == item["id"]
        assert changed.data["read_at"] is not None
        assert counts.data == {"version": 2, "unread": 0, "unseen": 0}


async def test_another_process_hears_of_it_too(served, tenant, ada, dsn, tmp_path):
    async with (
        serving(dsn, tmp_path) as other,
        Tab(other, ada) as tab,
        httpx.AsyncClient(base_url=served.url) as client,
    ):
        await tab.until("counts")
        await deliver(served.rest.conn, tenant, "ada")  # whose hint is lost; what is done to it is told
        client.headers["Authorization"] = f"Bearer {ada}"
        await client.post(f"{INBOX}/seen-all", json={"version": 1})
        assert (await tab.until("counts"))[-1].data == {"version": 2, "unread": 1, "unseen": 0}


async def test_an_idle_stream_is_kept_open_by_comments(served, ada):
    async with Tab(served, ada) as tab:
        await until(lambda: tab.comments >= 3)


# -- the whole way -----------------------------------------------------------------------------------------------


async def test_what_is_sent_shows_at_once_and_is_delivered_when_the_client_says_so(served, tenant, ada, dsn, tmp_path):
    conn, hello = served.rest.conn, {"subject": "Order {{ order_id }}", "html": None}
    await make_recipient(conn, tenant_id=tenant.id, id="ada")
    await make_category(conn, tenant_id=tenant.id, name="orders", channels=["in_app"])
    await make_template(conn, tenant_id=tenant.id, template_id="order", channel="in_app", **hello)
    producer = await served.rest.client(tenant.id)
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("LANDED_")}
    own = {"LANDED_CONFIG": str(tmp_path / "none.toml"), "LANDED_DATABASE_URL": dsn, "LANDED_DATA_DIR": str(tmp_path)}
    worker = Program("jobs.worker", foreign | own, tmp_path / "worker.out")
    worker.start()
    try:
        async with Tab(served, ada) as tab, httpx.AsyncClient(base_url=served.url) as client:
            await tab.until("counts")
            order = {"recipient_id": "ada", "category": "orders", "template_id": "order"}
            key = {"Idempotency-Key": "order:1"}
            sent = await producer.post(SEND, json=order | {"variables": {"order_id": "A-1"}}, headers=key)
            assert sent.status_code == 202, sent.text
            item = (await tab.until("item"))[-1].data
            assert (item["title"], item["body"]) == ("Order A-1", "Order A-1 is on its way.")
            assert item["notification_id"] == sent.json()["id"]

            async def state() -> str:
                shown = (await producer.get(f"/api/v1/notifications/{sent.json()['id']}")).json()
                return "".join(delivery["state"] for delivery in shown["deliveries"])

            assert await state() == "sent"
            client.headers["Authorization"] = f"Bearer {ada}"
            await client.post(f"{INBOX}/{item['id']}/ack")

            async def delivered() -> bool:
                return await state() == "delivered"

            await until(delivered)
    finally:
        await asyncio.to_thread(worker.stop)


# -- coming back -------------------------------------------------------------------------------------------------


async def test_who_comes_back_gets_what_was_missed_and_nothing_twice(served, tenant, ada):
    async with Tab(served, ada, after=0) as tab:
        await tab.until("counts")
        await send(served, tenant, "ada", "1")
        assert titles(await tab.until("counts")) == ["1"]
        last_event_id = tab.last_event_id
    await send(served, tenant, "ada", "2")
    await send(served, tenant, "ada", "3")
    # A browser comes back to the address it first went to: the header counts, not the query.
    async with Tab(served, ada, after=0, last_event_id=last_event_id) as tab:
        assert titles(await tab.until("counts")) == ["2", "3"]
        await send(served, tenant, "ada", "4")
        assert titles(await tab.until("counts")) == ["4"]


async def test_a_stream_cut_off_between_two_items_goes_on_after_the_first(served, tenant, ada):
    for n in range(3):
        await send(served, tenant, "ada", str(n))
    async with Tab(served, ada, after=0) as tab:
        first = await tab.next()
    async with Tab(served, ada, last_event_id=first.id) as tab:
        assert titles(await tab.until("counts")) == ["1", "2"]


async def test_a_long_absence_is_made_good_page_by_page(served, tenant, ada, monkeypatch):
    monkeypatch.setattr("app.flows.inbox.PAGE", 3)
    for n in range(10):
        await deliver(served.rest.conn, tenant, "ada", str(n))
    async with Tab(served, ada, after=0) as tab:
        events = await tab.until("counts")
        assert titles(events) == [str(n) for n in range(10)]
        assert [event.id for event in events] == [str(n) for n in range(1, 11)] + ["10"]


async def test_who_is_cut_off_again_and_again_gets_everything_once_and_in_order(served, tenant):
    names, sends = ["ada", "bo", "cy"], 15
    tokens = {name: await sign_for(served.rest.conn, tenant, name) for name in names}

    async def follow(name: str) -> list[str]:
        """Takes three events, is cut off, and comes back with the id of the last one it took."""
        seen: list[str] = []
        place: str | None = "0"
        while "last" not in seen:
            async with Tab(served, tokens[name], last_event_id=place) as tab:
                for _ in range(3):
                    event = await tab.next()
                    place = event.id
                    seen += titles([event])
                    if "last" in seen:
                        break
        return seen

    following = [asyncio.create_task(follow(name)) for name in names]
    for title in [*map(str, range(sends)), "last"]:
        for name in names:
            await send(served, tenant, name, title)
    for seen in await asyncio.gather(*following):
        assert seen == [*map(str, range(sends)), "last"]


async def test_an_id_this_inbox_never_had_makes_the_client_load_the_list_again(served, tenant, ada):
    await send(served, tenant, "ada", "1")
    async with Tab(served, ada, last_event_id="99") as tab:
        reset, counts = await tab.until("counts")
        assert (reset.name, reset.id, counts.id) == ("reset", "1", "1")
        await send(served, tenant, "ada", "2")
        assert titles(await tab.until("counts")) == ["2"]


@pytest.mark.parametrize(
    "id",
    ["x", "-1", "1.5", "9" * 23, "1 2", "٣", "0" * 20 + "9" * 25, "0" * 20 + "9223372036854775808", "9" * 5020],
    ids=lambda id: id[:30],
)
async def test_an_id_of_no_event_is_refused(served, ada, id):
    headers = {"Last-Event-ID": id.encode()}
    async with httpx.AsyncClient(base_url=served.url) as client:
        answer = await client.get(STREAM, params={"access_token": ada}, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Last-Event-ID"


async def test_zeros_before_an_id_change_nothing(served, tenant, ada):
    await send(served, tenant, "ada", "1")
    await send(served, tenant, "ada", "2")
    async with Tab(served, ada, last_event_id="0" * 25 + "1") as tab:
        assert titles(await tab.until("counts")) == ["2"]


# -- whose token is good -----------------------------------------------------------------------------------------


async def test_a_stream_ends_with_its_token(served, tenant):
    token = await sign_for(served.rest.conn, tenant, "ada", ttl_seconds=5)
    async with Tab(served, token) as tab:
        assert (await tab.until("end"))[-1].data == {"reason": "token_expired"}
        assert await tab.next() is None
    async with Tab(served, token) as tab:
        assert tab.response.status_code == 401


async def test_a_stream_ends_when_its_secret_is_taken_back(served, tenant, ada):
    admin_key = await served.rest.client(tenant.id, "admin")
    async with Tab(served, ada) as tab:
        await tab.until("counts")
        await admin_key.post("/api/v1/recipient-signing-secret/rotate", json={"overlap_seconds": 0})
        assert (await tab.until("end"))[-1].data == {"reason": "token_refused"}


async def test_a_stream_needs_a_token_in_one_place(served, tenant, ada):
    async with httpx.AsyncClient(base_url=served.url) as client:
        bearer = {"Authorization": f"Bearer {ada}"}
        assert (await client.get(STREAM)).status_code == 401
        assert (await client.get(STREAM, params={"access_token": "x.y.z"})).status_code == 401
        assert (await client.get(STREAM, params={"access_token": ada}, headers=bearer)).status_code == 401
        async with client.stream("GET", STREAM, headers=bearer) as response:
            assert response.status_code == 200


async def test_a_backend_may_follow_with_a_key_until_it_is_revoked(served, tenant):
    key = (await served.rest.client(tenant.id, "read")).headers["Authorization"]
    async with (
        httpx.AsyncClient(base_url=served.url, headers={"Authorization": key}) as client,
        client.stream("GET", STREAM, params={"recipient_id": "ada"}) as response,
    ):
        assert response.status_code == 200
        await served.rest.rows("UPDATE store.api_keys SET revoked_at = now() RETURNING id")
        async with asyncio.timeout(20):
            text = "".join([part async for part in response.aiter_text()])
        assert text.endswith('event: end\ndata: {"reason":"token_refused"}\n\n')


async def test_a_token_is_never_logged(served, ada, caplog, capfd):
    async with Tab(served, ada) as tab:
        await tab.until("counts")
    async with Tab(served, f"{ada}x") as tab:
        assert tab.response.status_code == 401
    await served.stop()
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert not [text for text in (*ours, *capfd.readouterr()) if ada.rpartition(".")[0] in text]


# -- bounds ------------------------------------------------------------------------------------------------------


async def test_beyond_the_places_there_are_a_client_is_asked_to_come_later(dsn, tmp_path):
    async with serving(dsn, tmp_path, streams_max=2) as served:
        tenant = await make_tenant(served.rest.conn)
        tokens = [await sign_for(served.rest.conn, tenant, name) for name in ("ada", "bo", "cy")]
        async with Tab(served, tokens[0]) as first:
            async with Tab(served, tokens[1]), Tab(served, tokens[2]) as third:
                assert third.response.status_code == 503
                assert int(third.response.headers["retry-after"]) >= 1
                assert third.response.headers["content-type"] == "application/problem+json"
            await until(lambda: served.hub.followers == 1)
            async with Tab(served, tokens[2]) as third:
                assert third.response.status_code == 200
            await first.until("counts")
        await until(lambda: served.hub.followers == 0)


async def test_one_recipient_cannot_take_the_places_of_all(served, tenant, ada, monkeypatch):
    monkeypatch.setattr("app.flows.inbox.FOLLOWERS_PER_INBOX_MAX", 2)
    bo = await sign_for(served.rest.conn, tenant, "bo")
    async with Tab(served, ada), Tab(served, ada), Tab(served, ada) as third, Tab(served, bo) as other:
        assert third.response.status_code == 429
        assert int(third.response.headers["retry-after"]) >= 1
        assert other.response.status_code == 200


async def test_streams_hold_no_connections(served, tenant):
    tokens = [await sign_for(served.rest.conn, tenant, f"user-{n}") for n in range(30)]
    async with contextlib.AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(Tab(served, token)) for token in tokens]
        for tab in tabs:
            await tab.until("counts")

        async def all_idle() -> bool:
            rows = await served.rest.rows(
                "SELECT state FROM pg_stat_activity"
                " WHERE application_name = 'landed api' AND datname = current_database()"
            )
            return len(rows) <= 10 and {state for (state,) in rows} == {"idle"}

        await until(all_idle)
        for n in range(30):
            await send(served, tenant, f"user-{n}", "hello")
        for tab in tabs:
            assert titles(await tab.until("counts")) == ["hello"]


async def test_who_takes_nothing_is_let_go_and_nothing_piles_up(served, tenant, ada, monkeypatch):
    monkeypatch.setattr("app.api.inbox_stream.STALLED_SECONDS", 2.0)
    for _ in range(300):  # more than the kernel takes in for a client
        await deliver(served.rest.conn, tenant, "ada", body="x" * 100_000)
    port = int(served.url.rpartition(":")[2])
    with socket.socket() as sleeper:
        sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sleeper.connect(("127.0.0.1", port))
        sleeper.sendall(f"GET {STREAM}?after=0&access_token={ada} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await until(lambda: served.hub.followers == 1)
        await until(lambda: served.hub.followers == 0)
    async with Tab(served, ada, after=299) as tab:
        assert len(titles(await tab.until("counts"))) == 1


async def test_a_client_that_goes_away_leaves_nothing_behind(served, ada):
    async with Tab(served, ada) as tab:
        await tab.until("counts")
        assert served.hub.followers == 1
    await until(lambda: served.hub.followers == 0)


# -- when things go wrong ----------------------------------------------------------------------------------------


async def test_a_server_told_to_stop_lets_its_streams_go_at_once(dsn, tmp_path):
    async with serving(dsn, tmp_path) as served:
        tenant = await make_tenant(served.rest.conn)
        async with Tab(served, await sign_for(served.rest.conn, tenant, "ada")) as tab:
            await tab.until("counts")
            stopping = asyncio.create_task(served.stop())
            assert (await tab.until("end"))[-1].data == {"reason": "closing"}
            assert await tab.next() is None
            async with asyncio.timeout(10):  # far less than the grace for requests
                await stopping


async def test_a_stream_outlives_the_connections_to_the_database(served, tenant, ada):
    async with Tab(served, ada) as tab:
        await tab.until("counts")
        await served.rest.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'landed api%%'"
            " AND datname = current_database()"
        )
        await deliver(served.rest.conn, tenant, "ada", "while nobody listened")
        assert titles(await tab.until("counts")) == ["while nobody listened"]
        await send(served, tenant, "ada", "after")
        assert titles(await tab.until("counts")) == ["after"]


async def test_a_lost_hint_is_made_good_by_a_look_for_all_at_once(dsn):
    async with Database(dsn, name="landed api") as db, await AsyncConnection.connect(dsn, autocommit=True) as conn:
        tenant = await make_tenant(conn)
        names = [f"user-{n}" for n in range(20)]
        hub = Hub(db, followers_max=100, poll_seconds=0.05)
        with contextlib.ExitStack() as stack:
            followers = [stack.enter_context(hub.following(Inbox(tenant.id, name), 0)) for name in names]
            for follower in followers:
                assert (await follower.news()).items == []
            await deliver(conn, tenant, "user-7")
            assert await followers[7].stirring(20)
            assert [item.title for item in (await followers[7].news()).items] == ["Hello"]
            assert not any([await follower.stirring(0) for follower in followers])
        await hub.close()


async def test_a_hint_at_anyone_makes_only_those_look_who_have_something_new(dsn):
    async with Database(dsn, name="landed api") as db, await AsyncConnection.connect(dsn, autocommit=True) as conn:
        tenant = await make_tenant(conn)
        hub = Hub(db, followers_max=100, poll_seconds=3600)
        with hub.following(Inbox(tenant.id, "ada"), 0) as ada, hub.following(Inbox(tenant.id, "bo"), 0) as bo:
            assert (await ada.news()).version == (await bo.news()).version == 0
            await deliver(conn, tenant, "ada")
            hub.heard(store.ANYONE)
            assert await ada.stirring(20)
            assert not await bo.stirring(0)
        await hub.close()


async def test_whoever_asks_while_the_readers_are_just_done_is_answered(dsn, monkeypatch):
    monkeypatch.setattr("app.flows.inbox.READERS_MAX", 1)
    async with Database(dsn, name="landed api") as db:
        hub = Hub(db, followers_max=100)
        whose = [Inbox(1, f"user-{n}") for n in range(8)]

        async def ask(inbox: Inbox) -> None:
            for _ in range(100):
                await hub.read(inbox, 0)

        async with asyncio.timeout(20):
            await asyncio.gather(*map(ask, whose))
        await hub.close()
