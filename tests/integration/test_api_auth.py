"""Who may do what: keys, their scopes, and how fast a revoked one dies."""

from __future__ import annotations

import asyncio

import pytest

from app.api.auth import KEY, digest_of, mint_api_key
from app.store import api_keys
from tests.shop import SEND, running_shop

NOTIFICATION = "/api/v1/notifications/018f0000-0000-7000-8000-000000000000"
CATEGORY = "/api/v1/categories/news"


@pytest.fixture
async def shop(dsn, tmp_path):
    async with running_shop(dsn, tmp_path) as shop:
        yield shop


def test_a_minted_key_is_random_and_its_digest_is_all_that_is_stored():
    plain, prefix, digest = mint_api_key()
    assert KEY.fullmatch(plain)
    assert plain.startswith(f"lk_{prefix}_")
    assert digest == digest_of(plain)
    assert plain.encode() not in digest
    assert mint_api_key()[0] != plain


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic bGs6"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer lk_abcdefgh_" + "a" * 43},
        {"X-API-Key": "lk_abcdefgh_" + "a" * 43},
        {"X-API-Key": "lk_abcdefgh_" + "a" * 42},
        {"X-API-Key": "lk_abcdefgh_" + "ä" * 43},
    ],
)
async def test_without_a_known_key_nothing_is_told(shop, headers):
    stranger = await shop.rest.anyone()
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    response = await stranger.post(SEND, json={}, headers=encoded)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.json()["type"] == "/problems/unauthenticated"
    assert (await stranger.get(NOTIFICATION, headers=encoded)).status_code == 401


async def test_either_header_carries_the_key_but_not_two_keys(shop):
    plain = shop.client.headers["Authorization"].removeprefix("Bearer ")
    stranger = await shop.rest.anyone()
    assert (await stranger.get(NOTIFICATION, headers={"X-API-Key": plain})).status_code == 404
    assert (await stranger.get(NOTIFICATION, headers={"Authorization": f"bearer {plain}"})).status_code == 404
    both = {"Authorization": f"Bearer {plain}", "X-API-Key": mint_api_key()[0]}
    assert (await stranger.get(NOTIFICATION, headers=both)).status_code == 401


@pytest.mark.parametrize("scope", ["send", "read", "admin"])
async def test_a_scope_allows_its_own_and_implies_no_other(shop, scope):
    client = await shop.rest.client(shop.tenant.id, scope)
    statuses = {
        "send": (await client.post(SEND, json=shop.request(idempotency_key="k"))).status_code,
        "read": (await client.get(NOTIFICATION)).status_code,
        "admin": (await client.put(CATEGORY, json={"class": "transactional"})).status_code,
    }
    allowed = {"send": 202, "read": 404, "admin": 200}
    assert statuses == {name: allowed[name] if name == scope else 403 for name in statuses}


async def test_a_revoked_key_dies_by_the_hint_and_not_by_its_time(shop):
    client = await shop.rest.client(shop.tenant.id, "read")
    assert (await client.get(NOTIFICATION)).status_code == 404
    [(key_id,)] = await shop.rest.rows("SELECT max(id) FROM store.api_keys")
    assert await api_keys.revoke(shop.rest.conn, tenant_id=shop.tenant.id, key_id=key_id)
    assert not await api_keys.revoke(shop.rest.conn, tenant_id=shop.tenant.id, key_id=key_id)
    async with asyncio.timeout(20):  # far below the cache's own time
        while True:
            response = await client.get(NOTIFICATION)
            if response.status_code == 401:
                return
            await asyncio.sleep(0.01)


async def test_another_tenant_cannot_revoke_it(shop):
    other, _ = await shop.rest.tenant()
    [(key_id,)] = await shop.rest.rows("SELECT min(id) FROM store.api_keys")
    assert not await api_keys.revoke(shop.rest.conn, tenant_id=other.id, key_id=key_id)


async def test_the_key_is_nowhere_in_the_database(shop):
    plain = shop.client.headers["Authorization"].removeprefix("Bearer ")
    [(text,)] = await shop.rest.rows("SELECT string_agg(k::text, '') FROM store.api_keys k")
    assert plain not in text
    assert plain.split("_", 2)[1] in text
