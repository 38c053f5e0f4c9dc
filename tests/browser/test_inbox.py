"""The example page in a real browser: its EventSource, its CORS, its words, none of them ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.browser.chromium import Browser, Page, running_chromium
from tests.factories import make_tenant
from tests.inboxes import Served, deliver, hint, serving, sign_for, until
from tests.sandbox_process import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "inbox"
TITLES = "[...document.querySelectorAll('#items li')].map((li) => li.querySelector('.title').textContent)"
UNREAD = "document.getElementById('unread').textContent"
STATE = "document.getElementById('state').textContent"


@pytest.fixture
async def shop() -> AsyncIterator[str]:
    """Where the page comes from: another origin than the API."""
    application, port = web.Application(), free_port()
    application.router.add_static("/", EXAMPLE)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


@pytest.fixture
async def browser(tmp_path) -> AsyncIterator[Browser]:
    async with running_chromium(tmp_path) as browser:
        yield browser


async def shows(page: Page, expression: str, expected: Any) -> bool:
    async def is_so() -> bool:
        return await page.run(expression) == expected

    return await until(is_so)


async def page_of(browser: Browser, shop: str, served: Served, token: str) -> Page:
    return await browser.open(f"{shop}/index.html#api={served.url}&token={token}")


async def test_a_page_shows_what_there_is_and_what_comes_and_acts_on_it(dsn, tmp_path, browser, shop):
    async with serving(dsn, tmp_path, allow_origins=(shop,)) as served:
        conn = served.rest.conn
        tenant = await make_tenant(conn)
        token = await sign_for(conn, tenant, "ada")
        first = await deliver(conn, tenant, "ada", "first")
        page, other = [await page_of(browser, shop, served, token) for _ in range(2)]
        for tab in (page, other):
            assert await shows(tab, TITLES, ["first"])
            assert await shows(tab, STATE, "live")
        markup = "<b>bold</b><img src=x onerror=document.title='caught'>"
        await hint(conn, await deliver(conn, tenant, "ada", markup, data={"url": "javascript:alert(1)"}))
        for tab in (page, other):
            assert await shows(tab, TITLES, [markup, "first"])
            assert await shows(tab, UNREAD, "2")
        assert await page.run("document.querySelectorAll('#items b, #items img').length") == 0
        links = "[...document.querySelectorAll('#items a[href]')].map((link) => link.getAttribute('href'))"
        assert await page.run(links) == ["/orders/1"]

        async def acknowledged() -> bool:
            rows = await served.rest.rows("SELECT acknowledged_at IS NOT NULL FROM store.inbox_items")
            return rows == [(True,), (True,)]

        assert await until(acknowledged)
        await page.run(f"document.querySelector('[data-id=\"{first.id}\"] [data-action=read]').click()")
        assert await shows(other, UNREAD, "1")
        await other.run("document.getElementById('read-all').click()")
        assert await shows(page, UNREAD, "")
        await page.run(f"document.querySelector('[data-id=\"{first.id}\"] [data-action=archive]').click()")
        assert await shows(other, TITLES, [markup])


async def test_a_browser_comes_back_to_a_server_that_was_away_and_misses_nothing(dsn, tmp_path, browser, shop):
    port = free_port()
    async with serving(dsn, tmp_path, port=port, allow_origins=(shop,)) as served:
        tenant = await make_tenant(served.rest.conn)
        token = await sign_for(served.rest.conn, tenant, "ada")
        page = await page_of(browser, shop, served, token)
        await hint(served.rest.conn, await deliver(served.rest.conn, tenant, "ada", "before"))
        assert await shows(page, TITLES, ["before"])
        await deliver(served.rest.conn, tenant, "ada", "while it was away")
    async with serving(dsn, tmp_path, port=port, allow_origins=(shop,)) as served:
        assert await shows(page, TITLES, ["while it was away", "before"])
        await hint(served.rest.conn, await deliver(served.rest.conn, tenant, "ada", "after"))
        assert await shows(page, TITLES, ["after", "while it was away", "before"])


async def test_a_page_that_finds_no_place_to_listen_asks_instead(dsn, tmp_path, browser, shop):
    async with serving(dsn, tmp_path, allow_origins=(shop,), streams_max=1) as served:
        conn = served.rest.conn
        tenant = await make_tenant(conn)
        page = await page_of(browser, shop, served, await sign_for(conn, tenant, "ada"))
        assert await shows(page, STATE, "live")
        other = await page_of(browser, shop, served, await sign_for(conn, tenant, "bo"))

        async def polls() -> bool:
            return await other.run(STATE) in ("polling", "offline")

        assert await until(polls)
        await page.call("Page.close")
        await deliver(conn, tenant, "bo", "hello")
        assert await shows(other, TITLES, ["hello"])


async def test_a_page_of_an_origin_that_is_not_named_gets_nothing(dsn, tmp_path, browser, shop):
    async with serving(dsn, tmp_path, allow_origins=("https://shop.example.com",)) as served:
        conn = served.rest.conn
        tenant = await make_tenant(conn)
        await deliver(conn, tenant, "ada", "not for this page")
        token = await sign_for(conn, tenant, "ada")
        page = await page_of(browser, shop, served, token)
        assert await shows(page, STATE, "Failed to fetch")
        stream = f"{served.url}/api/v1/inbox/stream?after=0&access_token={token}"
        told = await page.run(
            f"new Promise((done) => {{ const s = new EventSource('{stream}');"
            " s.onerror = () => done('refused'); s.addEventListener('item', () => done('told')) })"
        )
        assert told == "refused"
        assert await page.run(TITLES) == []
