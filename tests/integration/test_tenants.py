"""Tenants and their keys in the store."""

from __future__ import annotations

import pytest
from psycopg import errors

from app.api.auth import mint_api_key
from app.store import api_keys, tenants


async def test_a_created_tenant_is_found_by_its_name(conn):
    shop = await tenants.create_tenant(conn, "shop", "Shop <shop@example.com>", "help@example.com")
    assert await tenants.get_tenant(conn, "shop") == shop
    assert (shop.sender, shop.reply_to) == ("Shop <shop@example.com>", "help@example.com")
    assert await tenants.get_tenant(conn, "other") is None
    assert await tenants.list_tenants(conn) == [shop]


async def test_a_name_is_taken_once(conn):
    await tenants.create_tenant(conn, "shop", "shop@example.com")
    with pytest.raises(errors.UniqueViolation):
        await tenants.create_tenant(conn, "shop", "shop@example.com")


@pytest.mark.parametrize(
    ("name", "sender"),
    [("Shop", "shop@example.com"), ("", "shop@example.com"), ("shop", "shop@example.com\r\nBcc: all@x.test")],
)
async def test_the_database_refuses_a_bad_name_or_a_broken_header(conn, name, sender):
    with pytest.raises(errors.CheckViolation):
        await tenants.create_tenant(conn, name, sender)


async def test_keys_are_listed_without_what_they_open(conn):
    shop = await tenants.create_tenant(conn, "shop", "shop@example.com")
    other = await tenants.create_tenant(conn, "other", "other@example.com")
    _, prefix, digest = mint_api_key()
    key_id = await api_keys.insert(conn, tenant_id=shop.id, name="till", prefix=prefix, digest=digest, scopes=["send"])
    (listed,) = await tenants.list_api_keys(conn, shop.id)
    assert (listed.id, listed.prefix, listed.scopes, listed.revoked_at) == (key_id, prefix, ["send"], None)
    assert await tenants.list_api_keys(conn, other.id) == []
    assert not await api_keys.revoke(conn, tenant_id=other.id, key_id=key_id)
    assert await api_keys.revoke(conn, tenant_id=shop.id, key_id=key_id)
    (revoked,) = await tenants.list_api_keys(conn, shop.id)
    assert revoked.revoked_at is not None
