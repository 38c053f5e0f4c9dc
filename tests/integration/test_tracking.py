"""Opens and clicks of our own counting; and a link that leads on, come what may."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest
from structlog.testing import capture_logs

from app.domain import tokens
from app.domain.tokens import click_url, open_url, receipt_token
from app.flows.apply import apply
from app.settings import Settings
from tests.factories import make_delivery
from tests.rest import running_api

SECRET = b"a secret of the test"
BASE = "http://landed.test"
TARGET = "https://shop.example/p?a=1&b=%2F#top"
PERSON = {"User-Agent": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"}


@pytest.fixture
async def rest(dsn, tmp_path):
    async with running_api(dsn, tmp_path, secret=SECRET.decode()) as rest:
        yield rest


@pytest.fixture
async def mail(rest):
    return await make_delivery(rest.conn, state="sent")


@pytest.fixture
async def reader(rest):
    return await rest.anyone(PERSON)


def pixel(mail):
    return open_url(SECRET, BASE, mail.id, 1)


def link(mail, target=TARGET):
    return click_url(SECRET, BASE, mail.id, 1, target)


async def told(rest):
    return await rest.rows("SELECT kind, evidence -> 'data' FROM store.inbound_events ORDER BY received_at, event_key")


async def apply_all(db):
    while await apply(db, Settings(), limit=100):
        pass


# -- opens ---------------------------------------------------------------------------------------------------


async def test_the_pixel_is_seen_and_tells_of_the_open(rest, db, mail, reader):
    answer = await reader.get(pixel(mail))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/gif"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.content.startswith(b"GIF89a")
    assert await told(rest) == [("opened", {"user_agent": PERSON["User-Agent"], "machine": False})]
    await apply_all(db)
    [(state, opened)] = await rest.rows(
        "SELECT state, opened_at IS NOT NULL FROM store.deliveries WHERE id = %s", mail.id
    )
    assert (state, opened) == ("sent", True)  # who opens it may be a scanner on the way
    assert await rest.rows("SELECT kind, source FROM store.events") == [("provider_opened", "device")]


async def test_a_day_of_opens_is_one_for_people_and_one_for_machines(rest, mail, reader):
    for _ in range(3):
        await reader.get(pixel(mail))
        await reader.get(pixel(mail), headers={"User-Agent": "SomeBot/1.0"})
    assert [data["machine"] for _, data in await told(rest)] == [False, True]


@pytest.mark.parametrize(
    ("headers", "machine"),
    [
        ({"User-Agent": "Mozilla/5.0"}, True),
        ({"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}, True),
        ({"User-Agent": "python-requests/2.32"}, True),
        ({"User-Agent": "Slackbot-LinkExpanding 1.0"}, True),
        ({**PERSON, "Sec-Purpose": "prefetch;prerender"}, True),
        ({**PERSON, "Purpose": "prefetch"}, True),
        (PERSON, False),
        (
            {"User-Agent": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"},
            False,
        ),
        ({"User-Agent": "Mozilla/5.0 (Linux; Android 13; CUBOT P80) AppleWebKit/537.36"}, False),
        ({"User-Agent": ""}, False),
    ],
)
async def test_what_calls_itself_a_machine_is_counted_as_one(rest, mail, headers, machine):
    anyone = await rest.anyone(headers)
    assert (await anyone.get(pixel(mail))).status_code == 200
    assert [data["machine"] for _, data in await told(rest)] == [machine]


async def test_a_look_without_the_picture_is_a_machines(rest, mail, reader):
    answer = await reader.head(pixel(mail))
    assert (answer.status_code, answer.content) == (200, b"")
    assert [data["machine"] for _, data in await told(rest)] == [True]


async def test_a_user_agent_is_kept_within_bounds(rest, mail):
    anyone = await rest.anyone({"User-Agent": b"x\t\xfc" + b"y" * 5000})
    await anyone.get(pixel(mail))
    [(_, data)] = await told(rest)
    assert len(data["user_agent"]) == 300
    assert data["user_agent"].startswith("x ü")


# -- clicks --------------------------------------------------------------------------------------------------


async def test_a_link_leads_to_just_where_it_led_and_tells_of_the_click(rest, db, mail, reader):
    answer = await reader.get(link(mail))
    assert answer.status_code == 302
    assert answer.headers["location"] == TARGET
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    [(kind, data)] = await told(rest)
    assert (kind, data) == ("clicked", {"host": "shop.example", "user_agent": PERSON["User-Agent"], "machine": False})
    await apply_all(db)
    assert await rest.rows("SELECT clicked_at IS NOT NULL FROM store.deliveries WHERE id = %s", mail.id) == [(True,)]


async def test_each_link_of_a_message_is_counted_once_a_day(rest, mail, reader):
    for _ in range(2):
        for target in ("https://shop.example/1", "https://shop.example/2"):
            assert (await reader.get(link(mail, target))).headers["location"] == target
    assert [kind for kind, _ in await told(rest)] == ["clicked", "clicked"]


async def test_what_we_did_not_sign_leads_nowhere(rest, mail, reader):
    good = link(mail)
    forged = click_url(b"another", BASE, mail.id, 1, "https://evil.example/")
    receipt = f"{BASE}/c/{receipt_token(SECRET, mail.id, 1)}"
    for url in (
        forged,
        good[:-1],
        good + "A",
        receipt,
        pixel(mail).replace("/o/", "/c/"),
        f"{BASE}/c/https://evil.example",
    ):
        answer = await reader.get(url)
        assert answer.status_code == 404, url
        assert "location" not in answer.headers
    for url in (pixel(mail) + "x", f"{BASE}/o/x.gif", good.replace("/c/", "/o/"), f"{BASE}/o/%00.gif"):
        assert (await reader.get(url)).status_code == 404, url
    page = await reader.get(forged)
    assert page.headers["content-type"].startswith("text/html")
    assert "evil" not in page.text
    assert await told(rest) == []


async def test_even_a_signed_target_that_is_no_web_address_leads_nowhere(rest, mail, reader):
    attempt = tokens._ATTEMPT.pack(mail.id.bytes, 1)
    for target in (b"javascript:alert(1)", b"https://a.example/\r\nSet-Cookie: a=b", b"//evil.example"):
        token = tokens._seal(SECRET, tokens.CLICK, attempt + target)
        assert (await reader.get(f"{BASE}/c/{token}")).status_code == 404


# -- when nothing can be stored ------------------------------------------------------------------------------


async def test_a_click_leads_on_while_the_database_is_slow_and_is_stored_when_it_is_not(rest, dsn, mail, reader):
    async with await psycopg.AsyncConnection.connect(dsn) as blocker:
        await blocker.execute("LOCK TABLE store.inbound_events IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        with capture_logs() as logs:
            answer, picture = await asyncio.gather(reader.get(link(mail)), reader.get(pixel(mail)))
        assert time.monotonic() - began < 4
        assert (answer.status_code, answer.headers["location"]) == (302, TARGET)
        assert picture.status_code == 200
        late = [entry for entry in logs if entry["event"] == "engagement_not_stored_yet"]
        assert {(entry["kind"], entry["delivery_id"]) for entry in late} == {
            ("clicked", str(mail.id)),
            ("opened", str(mail.id)),
        }
        assert TARGET not in str(logs)
        await blocker.rollback()
    async with asyncio.timeout(10):
        while len(await told(rest)) < 2:  # noqa: ASYNC110 - it lies in the database
            await asyncio.sleep(0.01)


async def test_a_click_leads_on_while_the_database_refuses(rest, mail, reader):
    await rest.conn.execute("ALTER TABLE store.inbound_events RENAME TO elsewhere")
    with capture_logs() as logs:
        answer = await reader.get(link(mail))
    assert (answer.status_code, answer.headers["location"]) == (302, TARGET)
    assert "engagement_not_stored_yet" in [entry["event"] for entry in logs]
    await rest.conn.execute("ALTER TABLE store.elsewhere RENAME TO inbound_events")
