"""Web Push in a real browser: the worker shows a push once, and the delivery is delivered because it says so.

The browsers' push services cannot be reached from a test, so the push comes in through the DevTools protocol, as the
browser's own developers do it. Nor can a test click on a notification, dismiss it, or have a subscription exchanged:
those events are made in the worker, with the notification that is really on the screen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from aiohttp import web
from psycopg import AsyncConnection

from app.api.auth import mint_api_key
from app.api.server import server
from app.db import Database
from app.domain.tokens import receipt_token
from app.flows.apply import apply
from app.settings import Settings
from app.store import api_keys
from tests.browser.chromium import Browser, Page, running_chromium
from tests.factories import make_delivery, make_recipient, make_tenant
from tests.sandbox_process import free_port

SECRET = b"a secret of the test"
WORKER = "/push/landed-sw.js"
SHOWN = """navigator.serviceWorker.getRegistration("/").then((r) => r.getNotifications()).then((all) =>
    all.map(({ title, body, tag, data }) => ({ title, body, tag, url: data.landed_url, data })))"""
POINT = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"


@dataclass
class Site:
    """A page with a registered worker. origin: the page's."""

    browser: Browser
    page: Page
    origin: str
    registration: str

    async def push(self, payload: Any) -> None:
        data = payload if isinstance(payload, str) else json.dumps(payload)
        await self.page.call(
            "ServiceWorker.deliverPushMessage", origin=self.origin, registrationId=self.registration, data=data
        )

    async def shown(self) -> list[dict[str, Any]]:
        """What is on the screen. Not to be asked while a push is under way: Chromium then forgets what it is just about
        to show. The worker acknowledges when it has shown it."""
        found: list[dict[str, Any]] = await self.page.run(SHOWN)
        return found


@pytest.fixture
async def conn(dsn):
    async with await AsyncConnection.connect(dsn, autocommit=True, application_name="landed tests") as connection:
        yield connection


@pytest.fixture
async def shop_port():
    return free_port()


@pytest.fixture
async def api(dsn, tmp_path, shop_port) -> AsyncIterator[str]:
    """The API on a port of this machine; its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    settings = Settings(
        database_url=dsn,
        data_dir=tmp_path,
        secret=SECRET.decode(),
        api={"port": port, "public_url": address},
        inbox={"allow_origins": (f"http://127.0.0.1:{shop_port}",)},
    )
    running = server(settings)
    serving = asyncio.create_task(running.serve())
    async with asyncio.timeout(30):
        while not running.started:  # noqa: ASYNC110 - uvicorn has no event for it
            assert not serving.done(), serving
            await asyncio.sleep(0.01)
    yield address
    running.should_exit = True
    await serving


@pytest.fixture
async def browser(tmp_path):
    async with running_chromium(tmp_path) as browser:
        yield browser


async def register(browser: Browser, origin: str, path: str, worker: str = WORKER) -> Site:
    """A page whose person has allowed notifications, and its worker at work."""
    await browser.call("Browser.grantPermissions", origin=origin, permissions=["notifications"])
    page = await browser.open(f"{origin}{path}")
    await page.call("ServiceWorker.enable")
    await page.run(
        f"navigator.serviceWorker.register({worker!r}, {{ scope: '/' }}).then(() => navigator.serviceWorker.ready)"
    )
    registration = await browser.heard(
        "ServiceWorker.workerRegistrationUpdated",
        lambda event: next(
            (r["registrationId"] for r in event["registrations"] if r["scopeURL"] == f"{origin}/"), None
        ),
    )
    return Site(browser, page, origin, registration)


@pytest.fixture
async def site(browser, api):
    """A page of the API's own origin: any of its pages will do."""
    return await register(browser, api, "/problems")


async def sent_push(conn, **overrides):
    tenant = await make_tenant(conn)
    return await make_delivery(
        conn, **{"state": "sent", "tenant_id": tenant.id, "channel": "push", "address": "device"} | overrides
    )


def payload(api, delivery, **changes):
    """As app.providers.web_push makes it."""
    return {
        "title": "Order A-1",
        "body": "It is on its way.",
        "tag": str(delivery.notification_id),
        "url": "/orders/1",
        "data": {"order": "A-1"},
        "landed_notification_id": str(delivery.notification_id),
        "landed_delivery_id": str(delivery.id),
        "landed_receipt_token": receipt_token(SECRET, delivery.id, 1),
        "landed_receipt_url": f"{api}/api/v1/receipts",
    } | changes


async def told(conn, *kinds):
    """Waits until devices have told these things."""
    wanted = sorted(kinds)
    async with asyncio.timeout(20):
        while True:
            rows = await conn.execute("SELECT kind FROM store.inbound_events ORDER BY kind")
            if [kind for (kind,) in await rows.fetchall()] == wanted:
                return
            await asyncio.sleep(0.02)


async def applied(conn, dsn, delivery):
    """State of the delivery, and whether it was opened, when all that was told is applied."""
    async with Database(dsn, name="landed tests") as db:
        while await apply(db, Settings(), limit=100):
            pass
    cursor = await conn.execute(
        "SELECT state, opened_at IS NOT NULL FROM store.deliveries WHERE id = %s", [delivery.id]
    )
    return await cursor.fetchone()


@pytest.mark.parametrize("path", [WORKER, "/push/landed-push.js"])
async def test_the_scripts_are_asked_for_anew_and_sent_only_when_they_changed(api, path):
    async with httpx.AsyncClient(base_url=api) as client:
        answer = await client.get(path)
        again = await client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["service-worker-allowed"] == "/"
    assert answer.headers["content-security-policy"] == "default-src 'none'; connect-src *; img-src *"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (again.status_code, again.content) == (304, b"")


async def test_a_push_is_shown_and_delivered_because_the_worker_says_so(conn, dsn, api, site):
    delivery = await sent_push(conn)
    await site.push(payload(api, delivery, subtitle="Shop", image=f"{api}/none.png"))
    await told(conn, "delivered")
    [notification] = await site.shown()
    assert notification["title"] == "Order A-1"
    assert notification["body"] == "Shop\nIt is on its way."
    assert notification["tag"] == str(delivery.notification_id)
    assert notification["data"]["order"] == "A-1"
    assert await applied(conn, dsn, delivery) == ("delivered", False)
    cursor = await conn.execute("SELECT kind, source FROM store.events WHERE delivery_id = %s", [delivery.id])
    assert await cursor.fetchall() == [("provider_delivered", "device")]


async def test_a_second_copy_takes_the_place_of_the_first(conn, api, site):
    delivery = await sent_push(conn)
    await site.push(payload(api, delivery))
    await told(conn, "delivered")
    again = receipt_token(SECRET, delivery.id, 2)
    await site.push(payload(api, delivery, body="It is on its way, again.", landed_receipt_token=again))
    await told(conn, "delivered", "delivered")
    assert [notification["body"] for notification in await site.shown()] == ["It is on its way, again."]
    await site.push(payload(api, await sent_push(conn)))
    await told(conn, "delivered", "delivered", "delivered")
    assert len(await site.shown()) == 2


async def test_what_is_not_ours_is_left_to_others(conn, api, site):
    delivery = await sent_push(conn)
    for foreign in ("", "no json", "null", "[]", {"title": "somebody else's"}):
        await site.push(foreign)
    await site.push(payload(api, delivery))
    await told(conn, "delivered")
    titles = [notification["title"] for notification in await site.shown()]
    assert "Order A-1" in titles
    assert "somebody else's" not in titles


async def event_in(worker: Page, name: str) -> Any:
    """Lets the worker handle an event about the notification on the screen; answers where it went."""
    return await worker.run(
        f"""(async () => {{
            const went = [];
            Clients.prototype.openWindow = async (url) => void went.push(url);
            const [notification] = await registration.getNotifications();
            const event = new NotificationEvent({name!r}, {{ notification }});
            const waited = [];
            event.waitUntil = (promise) => waited.push(promise);
            self.dispatchEvent(event);
            await Promise.all(waited);
            return went;
        }})()"""
    )


@pytest.mark.parametrize(
    ("url", "leads_to"),
    [
        ("/orders/1", "{api}/orders/1"),
        ("https://elsewhere.example/x", "https://elsewhere.example/x"),
        ("javascript:alert(1)", "{api}/"),
        ("http://elsewhere.example/x", "{api}/"),
    ],
)
async def test_a_click_says_opened_and_leads_only_where_it_may(conn, dsn, api, site, url, leads_to):
    delivery = await sent_push(conn)
    await site.push(payload(api, delivery, url=url))
    await told(conn, "delivered")
    worker = await site.browser.worker(f"{api}{WORKER}")
    assert await event_in(worker, "notificationclick") == [leads_to.format(api=api)]
    await told(conn, "delivered", "opened")
    assert await site.shown() == []
    assert await applied(conn, dsn, delivery) == ("delivered", True)


async def test_a_dismissal_says_so(conn, dsn, api, site):
    delivery = await sent_push(conn)
    await site.push(payload(api, delivery))
    await told(conn, "delivered")
    worker = await site.browser.worker(f"{api}{WORKER}")
    assert await event_in(worker, "notificationclose") == []
    await told(conn, "delivered", "dismissed")
    assert await applied(conn, dsn, delivery) == ("delivered", False)


# -- a shop of another origin --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(port: int, files: dict[str, tuple[str, str]]) -> AsyncIterator[str]:
    """A site of its own: path -> (content type, text)."""

    async def answer(request: web.Request) -> web.Response:
        kind, text = files.get(request.path, ("text/plain", ""))
        return web.Response(text=text, content_type=kind, status=200 if request.path in files else 404)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


@pytest.fixture
async def shop(api, shop_port):
    """As the how-to says it: one line of a worker, and one script on the page."""
    files = {
        "/": ("text/html", f'<!doctype html><title>Shop</title><script src="{api}/push/landed-push.js"></script>'),
        "/landed-sw.js": ("text/javascript", f'importScripts("{api}/push/landed-sw.js");'),
    }
    async with serving(shop_port, files) as origin:
        yield origin


async def test_a_site_of_another_origin_needs_one_line_of_a_worker(conn, dsn, api, browser, shop):
    site = await register(browser, shop, "/", "/landed-sw.js")
    delivery = await sent_push(conn)
    await site.push(payload(api, delivery))
    await told(conn, "delivered")
    assert [notification["title"] for notification in await site.shown()] == ["Order A-1"]
    assert await applied(conn, dsn, delivery) == ("delivered", False)


PUSH_SERVICE = f"""
    // In place of the push service that only this machine's test cannot reach.
    let endpoint = "https://fcm.googleapis.com/fcm/send/first", there = null;
    const subscription = (options) => ({{
        options: {{ applicationServerKey: Uint8Array.from([4, 5, 6]).buffer, ...options }},
        unsubscribe: async () => {{ there = null; return true; }},
        toJSON: () => ({{ endpoint, expirationTime: null,
                         keys: {{ p256dh: {POINT!r}, auth: "BTBZMqHH6r4Tts7J_aSIgg" }} }}),
    }});
    PushManager.prototype.getSubscription = async () => there;
    PushManager.prototype.subscribe = async () => (there = subscription());
"""


async def test_a_page_registers_its_browser_and_takes_it_back(conn, api, browser, shop):
    tenant = await make_tenant(conn)
    await make_recipient(conn, tenant_id=tenant.id, id="ada")
    plain, prefix, digest = mint_api_key()
    await api_keys.insert(
        conn, tenant_id=tenant.id, name="test", prefix=prefix, digest=digest, scopes=("send", "read", "admin")
    )
    token = await minted(api, plain)
    await browser.call("Browser.grantPermissions", origin=shop, permissions=["notifications"])
    page = await browser.open(f"{shop}/")
    await page.run(f"(() => {{ {PUSH_SERVICE}; globalThis.renewed = () => (endpoint = endpoint + '2'); }})()")
    subscribe = f"LandedPush.subscribe({{ publicKey: 'BAUG', token: {token!r}, worker: '/landed-sw.js' }})"

    device = await page.run(subscribe)
    assert (device["user_id"], device["platform"], device["token_end"]) == ("ada", "web", "/first")
    await page.run("renewed()")
    again = await page.run(subscribe)
    assert (again["id"], again["token_end"]) == (device["id"], "first2")
    await exchange(await browser.worker(f"{shop}/landed-sw.js"))
    cursor = await conn.execute("SELECT id::text, right(token, 9) FROM store.devices")
    assert await cursor.fetchall() == [(device["id"], "exchanged")]
    await page.run(f"LandedPush.unsubscribe({{ token: {token!r} }})")
    cursor = await conn.execute("SELECT retired_reason FROM store.devices")
    assert await cursor.fetchall() == [("removed",)]


async def exchange(worker: Page) -> None:
    """The browser exchanges the subscription, and no page is there to see it."""
    await worker.run(
        f"""(async () => {{
            const event = new Event("pushsubscriptionchange");
            const keys = {{ p256dh: {POINT!r}, auth: "BTBZMqHH6r4Tts7J_aSIgg" }};
            event.newSubscription = {{ endpoint: "https://fcm.googleapis.com/fcm/send/exchanged", keys }};
            const waited = [];
            event.waitUntil = (promise) => waited.push(promise);
            self.dispatchEvent(event);
            await Promise.all(waited);
        }})()"""
    )


async def minted(api: str, key: str) -> str:
    async with httpx.AsyncClient(base_url=api, headers={"Authorization": f"Bearer {key}"}) as client:
        answer = await client.post("/api/v1/recipients/ada/tokens", json={"ttl_seconds": 600})
    return str(answer.json()["token"])
