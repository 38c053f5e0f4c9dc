"""The unsubscribe links of RFC 8058."""

from __future__ import annotations

import asyncio
import stat

import pytest

from app.domain.tokens import Subscription, sign, unsubscribe_headers
from tests.rest import running_api

SECRET = "a secret of the test"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}


@pytest.fixture
async def rest(dsn, tmp_path):
    async with running_api(dsn, tmp_path, secret=SECRET) as rest:
        yield rest


@pytest.fixture
async def tenant(rest):
    tenant, _ = await rest.tenant()
    return tenant


def link(tenant, *, secret=SECRET, **overrides):
    values = {"tenant_id": tenant.id, "channel": "email", "address": "Ana@example.com", "category": "news"}
    return "/u/" + sign(secret.encode(), Subscription(**(values | overrides)))


async def opt_outs(rest):
    return await rest.rows(
        "SELECT tenant_id, channel, address, scope, reason, source FROM store.suppressions ORDER BY id"
    )


async def test_looking_at_the_page_changes_nothing(rest, tenant):
    anyone = await rest.anyone()
    page = await anyone.get(link(tenant))
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert '<form method="post">' in page.text
    assert "Ana@example.com" in page.text
    assert (await anyone.head(link(tenant))).status_code in (200, 405)
    assert await opt_outs(rest) == []


@pytest.mark.parametrize(
    "body",
    [
        {"data": ONE_CLICK},
        {"files": {"List-Unsubscribe": (None, "One-Click")}},
        {"data": {}},
        {"content": b""},
    ],
    ids=["one click, form", "one click, multipart", "the page's button", "no body"],
)
async def test_a_post_opts_out_of_the_category_at_once(rest, tenant, body):
    done = await (await rest.anyone()).post(link(tenant), **body)
    assert done.status_code == 200
    assert "Unsubscribed" in done.text
    assert await opt_outs(rest) == [(tenant.id, "email", "ana@example.com", "news", "unsubscribe", "recipient")]


async def test_opting_out_again_changes_nothing(rest, tenant):
    anyone = await rest.anyone()
    answers = await asyncio.gather(*(anyone.post(link(tenant), data=ONE_CLICK) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(await opt_outs(rest)) == 1


async def test_a_link_ends_one_category_of_one_tenant(rest, tenant):
    other, _ = await rest.tenant()
    anyone = await rest.anyone()
    await anyone.post(link(tenant), data=ONE_CLICK)
    await anyone.post(link(tenant, category="offers"), data=ONE_CLICK)
    await anyone.post(link(other), data=ONE_CLICK)
    assert [(row[0], row[3]) for row in await opt_outs(rest)] == [
        (tenant.id, "news"),
        (tenant.id, "offers"),
        (other.id, "news"),
    ]


async def test_a_link_that_is_not_ours_does_nothing(rest, tenant):
    anyone = await rest.anyone()
    good = link(tenant)
    forged = link(tenant, secret="another secret")
    for url in (forged, good[:-1], good + "A", good.replace("/u/1.", "/u/2."), "/u/x", "/u/%00", "/u/a.b.ü"):
        assert (await anyone.get(url)).status_code == 404, url
        assert (await anyone.post(url, data=ONE_CLICK)).status_code == 404, url
    assert await opt_outs(rest) == []


async def test_the_page_cannot_be_made_to_run_anything(rest, tenant):
    hostile = link(tenant, category="<script>alert(1)</script>", address="'\"<b>")
    page = await (await rest.anyone()).get(hostile)
    assert "<script>" not in page.text
    assert "<b>'" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "form-action 'self'" in policy
    assert page.headers["referrer-policy"] == "no-referrer"


async def test_the_header_names_a_link_that_works(rest, tenant):
    token = link(tenant).removeprefix("/u/")
    headers = unsubscribe_headers("http://landed.test/", token)
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    url = headers["List-Unsubscribe"].strip("<>")
    assert (await (await rest.anyone()).post(url, data=ONE_CLICK)).status_code == 200
    assert len(await opt_outs(rest)) == 1


async def test_without_a_configured_secret_one_is_kept_beside_the_data(dsn, tmp_path):
    async with running_api(dsn, tmp_path) as rest:
        tenant, _ = await rest.tenant()
    secret = (tmp_path / "secret").read_bytes()
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    token = sign(secret, Subscription(tenant.id, "email", "ana@example.com", "news"))
    async with running_api(dsn, tmp_path) as rest:
        assert (await (await rest.anyone()).post(f"/u/{token}")).status_code == 200
        assert len(await opt_outs(rest)) == 1
