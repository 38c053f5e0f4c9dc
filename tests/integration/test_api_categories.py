"""Categories over HTTP."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.rest import running_api, wrong_fields

URL = "/api/v1/categories"


@pytest.fixture
async def rest(dsn, tmp_path):
    async with running_api(dsn, tmp_path) as rest:
        yield rest


async def test_a_category_put_is_the_category_got(rest):
    _, client = await rest.tenant()
    body = {
        "class": "promotional",
        "channels": ["email", "push"],
        "sender": "Größe & Co <news@mail.example.com>",
        "reply_to": "help@example.com",
        "ambiguity_policy": "park",
        "validity_seconds": 3600,
        "recipient_per_hour": 5,
        "track_opens": True,
        "description": "What is new",
    }
    put = await client.put(f"{URL}/news", json=body)
    assert put.status_code == 200, put.text
    assert put.json().items() >= {**body, "name": "news", "track_clicks": False, "test_mode": False}.items()
    assert (await client.get(f"{URL}/news")).json() == put.json()


async def test_a_put_replaces_the_whole_category(rest):
    _, client = await rest.tenant()
    await client.put(f"{URL}/news", json={"class": "alert", "validity_seconds": 60, "test_mode": True})
    replaced = (await client.put(f"{URL}/news", json={"class": "transactional"})).json()
    assert (replaced["class"], replaced["validity_seconds"], replaced["test_mode"]) == (
        "transactional",
        None,
        False,
    )
    assert replaced["updated_at"] > replaced["created_at"]


async def test_pages_cover_every_category_once(rest):
    _, client = await rest.tenant()
    names = [f"kind-{number}" for number in range(5)]
    for name in reversed(names):
        await client.put(f"{URL}/{name}", json={"class": "transactional"})
    seen, after = [], {}
    while True:
        page = (await client.get(URL, params={"limit": 2, **after})).json()
        seen += [category["name"] for category in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert seen == names


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "class"),
        ({"class": "urgent"}, "class"),
        ({"class": "alert", "channels": []}, "channels"),
        ({"class": "alert", "channels": ["fax"]}, "channels[0]"),
        ({"class": "alert", "channels": ["email", "email"]}, "channels"),
        ({"class": "alert", "sender": "nobody"}, "sender"),
        ({"class": "alert", "sender": "Shop <shop@example.com>\r\nBcc: all@example.com"}, "sender"),
        ({"class": "alert", "reply_to": "a@example.com\nX-Evil: 1"}, "reply_to"),
        ({"class": "alert", "ambiguity_policy": "hope"}, "ambiguity_policy"),
        ({"class": "alert", "validity_seconds": 0}, "validity_seconds"),
        ({"class": "alert", "validity_seconds": "60"}, "validity_seconds"),
        ({"class": "alert", "validity_seconds": 10**9}, "validity_seconds"),
        ({"class": "alert", "recipient_per_hour": -1}, "recipient_per_hour"),
        ({"class": "alert", "recipient_per_hour": 1001}, "recipient_per_hour"),
        ({"class": "alert", "recipient_per_hour": "3"}, "recipient_per_hour"),
        ({"class": "alert", "track_opens": "yes"}, "track_opens"),
        ({"class": "alert", "description": "\x00"}, "description"),
        ({"class": "alert", "colour": "red"}, "colour"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_written(rest, body, field):
    _, client = await rest.tenant()
    assert field in wrong_fields(await client.put(f"{URL}/news", json=body))
    assert (await client.get(f"{URL}/news")).status_code == 404


@pytest.mark.parametrize("name", ["News", "a b", "-news", "x" * 101, "n\x00", "a\n"])
async def test_a_name_that_cannot_be_one_is_refused(rest, name):
    _, client = await rest.tenant()
    url = f"{URL}/{quote(name)}"
    assert "name" in wrong_fields(await client.put(url, json={"class": "alert"}))
    assert (await client.get(url)).status_code == 404


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("after=?", "after"),
        ("after=W10", "after"),
        ("after=WyJcdTAwMDAiXQ", "after"),
        ("sort=1", "sort"),
    ],
)
async def test_a_wrong_query_is_named(rest, query, field):
    _, client = await rest.tenant()
    assert field in wrong_fields(await client.get(f"{URL}?{query}"))


async def test_another_tenant_sees_and_changes_nothing(rest):
    _, client = await rest.tenant()
    _, stranger = await rest.tenant()
    mine = (await client.put(f"{URL}/news", json={"class": "promotional"})).json()
    assert (await stranger.get(f"{URL}/news")).status_code == 404
    assert (await stranger.get(URL)).json() == {"items": [], "next": None}
    await stranger.put(f"{URL}/news", json={"class": "alert"})
    assert (await client.get(f"{URL}/news")).json() == mine


async def test_each_act_needs_its_scope(rest):
    tenant, client = await rest.tenant()
    await client.put(f"{URL}/news", json={"class": "promotional"})
    reader = await rest.client(tenant.id, "read")
    sender = await rest.client(tenant.id, "send")
    assert (await reader.put(f"{URL}/news", json={"class": "alert"})).status_code == 403
    assert (await sender.get(f"{URL}/news")).status_code == 403
    assert (await sender.get(URL)).status_code == 403
    assert (await (await rest.anyone()).get(URL)).status_code == 401
    assert (await reader.get(f"{URL}/news")).json()["class"] == "promotional"
