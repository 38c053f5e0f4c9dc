"""Group commit: neighbours share a transaction and not a fate, and nobody is told 202 for what is not
durable.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from app.embedded import scratch_postgres
from app.errors import InvalidFields, Unavailable
from app.flows.accept import Accepted, NotificationRequest, validate
from app.flows.group_commit import Acceptor
from app.migrate import migrate
from tests.rest import running_api
from tests.shop import MAIL_SETTINGS, open_shop, running_shop
from tests.standby import set_standby


@pytest.fixture
async def shop(dsn, tmp_path):
    async with running_shop(dsn, tmp_path) as shop:
        yield shop


async def item(shop, number, **changes):
    """A request that passed validation."""
    desk = shop.rest.app.state.api.desk
    terms = await desk.terms.get((shop.tenant.id, "orders", "order_confirmation"))
    request = NotificationRequest(
        recipient_id=changes.pop("recipient_id", "ada"),
        category="orders",
        template_id="order_confirmation",
        variables={"order_id": str(number)},
    )
    valid = validate(request, shop.tenant.id, f"key:{number}", terms, desk.rules, datetime.now(UTC))
    return dataclasses.replace(valid, **changes)


async def test_one_item_that_cannot_be_stored_fails_alone(shop):
    items = [await item(shop, number) for number in range(50)]
    broken = items[20].document.replace(b'"expires_at":"20', b'"expires_at":"nonsense')
    assert broken != items[20].document
    items[20] = dataclasses.replace(items[20], document=broken)
    items[30] = await item(shop, 30, recipient_id="nobody")
    answers = await shop.rest.app.state.api.desk.acceptor.accept_many(items)
    assert isinstance(answers[20], InvalidFields)
    assert isinstance(answers[30], InvalidFields)
    assert all(isinstance(answer, Accepted) for n, answer in enumerate(answers) if n not in (20, 30))
    assert await shop.counted("notifications") == 48


async def test_requests_that_come_together_share_commits(shop):
    responses = await asyncio.gather(*(shop.send(f"k:{number}") for number in range(200)))
    assert {response.status_code for response in responses} == {202}
    assert len({response.json()["id"] for response in responses}) == 200
    [(commits,)] = await shop.rest.rows("SELECT count(DISTINCT xmin::text) FROM store.notifications")
    assert commits < 150  # one each would be 200


async def test_a_full_queue_says_503_and_keeps_what_it_took(dsn, tmp_path):
    api = {"accept_queue_max": 5, "accept_group_max": 2}
    times = {"lock_timeout_seconds": 9.0}
    async with running_shop(dsn, tmp_path, api=api, times=times) as shop:
        async with await psycopg.AsyncConnection.connect(dsn) as other:
            await other.execute("LOCK TABLE store.idempotency_keys IN EXCLUSIVE MODE")
            sending, ready = [], None
            # Each committer takes a group and waits; once all do, what comes next stays in the queue.
            async with asyncio.timeout(60):
                while ready is None or ready.status_code == 200:
                    numbers = range(len(sending), len(sending) + 10)
                    sending += [asyncio.create_task(shop.send(f"k:{number}")) for number in numbers]
                    ready = await shop.client.get("/health/ready")
            await other.rollback()
        responses = await asyncio.gather(*sending)
    refused = [response for response in responses if response.status_code == 503]
    accepted = [response for response in responses if response.status_code == 202]
    assert refused
    assert accepted
    assert len(refused) + len(accepted) == len(sending)
    assert all(response.headers["Retry-After"] == "1" for response in refused)
    assert (ready.status_code, ready.json()["checks"]["accept_queue"]) == (503, "full")


async def test_an_acceptor_that_is_never_answered_lets_its_callers_go():
    """The budget bounds the wait; the write goes on, and what it comes to is not lost on its own account."""
    let_go, finished = asyncio.Event(), []

    async def write(items):
        await let_go.wait()
        finished.extend(items)
        return items

    acceptor = Acceptor(
        write,
        identity=lambda item: item,
        committed=lambda: None,
        group_max=10,
        queue_max=10,
        budget_seconds=0.05,
    )
    with pytest.raises(Unavailable, match="not known yet"):
        await acceptor.accept("first")
    assert [type(answer) for answer in await acceptor.accept_many(["second"])] == [Unavailable]
    let_go.set()
    await acceptor.close()
    assert sorted(finished) == ["first", "second"]


# -- with a server of its own, whose life the test rules ---------------------------------------------------


async def test_a_restart_of_the_database_never_yields_a_false_202(tmp_path):
    """Every id that was answered is a row afterwards, whatever died in between; and the service carries
    on.
    """
    with scratch_postgres({"fsync": "off"}) as server:
        migrate(server.dsn())
        async with running_api(server.dsn(), tmp_path, **MAIL_SETTINGS) as rest:
            shop = await open_shop(rest)
            statuses, ids = [], []
            numbers = itertools.count()
            over = asyncio.Event()

            async def keep_sending():
                while not over.is_set():
                    response = await shop.send(f"k:{next(numbers)}")
                    statuses.append(response.status_code)
                    if response.status_code == 202:
                        ids.append(UUID(response.json()["id"]))
                    else:
                        assert response.headers["Retry-After"]

            senders = [asyncio.create_task(keep_sending()) for _ in range(20)]
            for _ in range(3):
                answered = len(ids)
                await _until(lambda: len(ids) > answered + 100)  # noqa: B023  awaited within the turn
                await asyncio.to_thread(server.restart, "immediate")
            answered = len(ids)
            await _until(lambda: len(ids) > answered + 100)
            over.set()
            await asyncio.gather(*senders)
        assert set(statuses) <= {202, 503}
        async with await psycopg.AsyncConnection.connect(server.dsn()) as conn:
            cursor = await conn.execute("SELECT id FROM store.notifications")
            stored = {id for (id,) in await cursor.fetchall()}
    assert len(ids) == len(set(ids))
    assert set(ids) <= stored


async def test_neither_a_new_answer_nor_a_replay_comes_before_it_is_durable_elsewhere(tmp_path):
    """With a standby that does not confirm, 202 is a lie: for a replay no less than for the first time
    (I13).
    """
    times = {"request_budget_seconds": 1.0, "lock_timeout_seconds": 0.2}
    with scratch_postgres({"fsync": "off"}) as server:
        migrate(server.dsn())
        async with running_api(server.dsn(), tmp_path, times=times, **MAIL_SETTINGS) as rest:
            shop = await open_shop(rest)
            first = await shop.send("old")
            await set_standby(server.dsn(), "nobody")
            replay, new = await shop.send("old"), await shop.send("new")
            again = await shop.send("new")
            await set_standby(server.dsn(), "")
            later_replay = await _until_answered(lambda: shop.send("old"))
            later_new = await _until_answered(lambda: shop.send("new"))
            assert await shop.counted("notifications") == 2
    assert first.status_code == 202
    assert (replay.status_code, new.status_code) == (503, 503)
    assert again.status_code in (409, 503)
    assert later_replay.content == first.content
    # The commit that nobody waited for went through, so its key answers now.
    assert later_new.headers["Idempotent-Replayed"] == "true"


async def _until_answered(send):
    async with asyncio.timeout(30):
        while True:
            response = await send()
            if response.status_code == 202:
                return response
            assert response.status_code in (409, 503)
            await asyncio.sleep(0.05)


async def _until(true):
    limit = datetime.now(UTC) + timedelta(seconds=60)
    while not true():
        assert datetime.now(UTC) < limit
        await asyncio.sleep(0.01)
