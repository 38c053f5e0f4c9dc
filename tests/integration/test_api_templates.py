"""Templates over HTTP: written once, tried out, published, archived."""

from __future__ import annotations

import asyncio

import pytest

from app.rendering.types import content_hash
from tests.rest import running_api, wrong_fields

URL = "/api/v1/notifications/templates"
WELCOME = {
    "template_id": "welcome",
    "subject": "Hello {{ name }}",
    "html": "<h1>Hello {{ name }}</h1><p>Read <a href='{{ url }}'>this</a>.</p>",
    "variables": {
        "name": {"description": "as they wrote it", "example": "Ana & Bo"},
        "url": {"example": "https://example.com/start"},
    },
}


@pytest.fixture
async def rest(dsn, tmp_path):
    async with running_api(dsn, tmp_path) as rest:
        yield rest


async def test_a_created_version_is_a_draft_with_a_text_part_made_from_the_html(rest):
    _, client = await rest.tenant()
    created = await client.post(URL, json=WELCOME)
    assert created.status_code == 201, created.text
    template = created.json()
    assert (
        template.items()
        >= {
            "template_id": "welcome",
            "version": 1,
            "channel": "email",
            "locale": "",
            "status": "draft",
            "subject": WELCOME["subject"],
            "html": WELCOME["html"],
            "text_derived": True,
            "unchanged": False,
            "published_at": None,
        }.items()
    )
    assert "Hello {{ name }}" in template["text"]
    assert "this ({{ url }})" in template["text"]
    assert template["variables"]["url"] == {
        "required": True,
        "description": "",
        "example": "https://example.com/start",
    }
    shown = (await client.get(f"{URL}/welcome/versions/1")).json()
    assert {**shown, "unchanged": False} == template


async def test_versions_are_numbered_per_template_whoever_writes_at_the_same_time(rest):
    _, client = await rest.tenant()
    bodies = [{**WELCOME, "description": f"try {number}"} for number in range(6)]
    answers = await asyncio.gather(*(client.post(URL, json=body) for body in bodies))
    assert sorted(answer.json()["version"] for answer in answers) == [1, 2, 3, 4, 5, 6]
    other = await client.post(URL, json={**WELCOME, "template_id": "other"})
    assert other.json()["version"] == 1


async def test_pushing_the_same_content_again_writes_nothing(rest):
    _, client = await rest.tenant()
    first = (await client.post(URL, json=WELCOME)).json()
    again = await client.post(URL, json=WELCOME)
    assert again.status_code == 200
    assert again.json() == {**first, "unchanged": True}
    changed = await client.post(URL, json={**WELCOME, "subject": "Hi {{ name }}"})
    assert (changed.status_code, changed.json()["version"]) == (201, 2)
    back = await client.post(URL, json=WELCOME)
    assert (back.status_code, back.json()["version"]) == (201, 3)


async def test_the_content_of_an_archived_version_becomes_a_new_one(rest):
    _, client = await rest.tenant()
    await client.post(URL, json=WELCOME)
    await client.post(f"{URL}/welcome/versions/1/archive")
    assert (await client.post(URL, json=WELCOME)).json()["version"] == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"subject": "{{ name"}, "subject"),
        ({"html": "{% if name %}"}, "html"),
        ({"text": "{% for x in %}"}, "text"),
        ({"html": "{{ surname }}"}, "variables.surname"),
        ({"subject": "{{ surname }}"}, "variables.surname"),
        ({"text": "{{ surname }}"}, "variables.surname"),
        ({"html": None}, "text"),
        ({"subject": ""}, "subject"),
        ({"subject": "Hello\r\nBcc: all@example.com"}, "subject"),
        ({"subject": "x" * 999}, "subject"),
        ({"template_id": "Wel come"}, "template_id"),
        ({"template_id": "wel\ncome"}, "template_id"),
        ({"template_id": None}, "template_id"),
        ({"channel": "sms"}, "channel"),
        ({"locale": "de"}, "locale"),
        ({"html": "a\x00b"}, "html"),
        ({"variables": {"name": {"example": "\x00"}, "url": {}}}, "variables.name.example"),
        ({"variables": {"name": {"needed": True}, "url": {}}}, "variables.name.needed"),
        ({"variables": ["name", "url", "not a name"]}, "variables.not a name"),
        ({"variables": "name"}, "variables"),
        ({"published": True}, "published"),
    ],
)
async def test_what_cannot_work_is_named_and_nothing_is_written(rest, change, field):
    _, client = await rest.tenant()
    body = {key: value for key, value in {**WELCOME, **change}.items() if value is not None}
    errors = wrong_fields(await client.post(URL, json=body))
    assert field in errors
    assert (await client.get(URL)).json()["items"] == []


async def test_a_name_that_is_declared_and_not_used_is_fine(rest):
    _, client = await rest.tenant()
    body = {**WELCOME, "variables": ["name", "url", "later"]}
    assert (await client.post(URL, json=body)).status_code == 201


async def test_a_body_that_is_too_large_is_refused(rest):
    _, client = await rest.tenant()
    body = {**WELCOME, "description": "x" * (2 * 1024 * 1024)}
    assert (await client.post(URL, json=body)).status_code == 413
    assert "html" in wrong_fields(await client.post(URL, json={**WELCOME, "html": "x" * (256 * 1024 + 1)}))


async def test_a_draft_can_be_previewed_with_its_examples(rest):
    _, client = await rest.tenant()
    await client.post(URL, json=WELCOME)
    preview = await client.post(f"{URL}/welcome/versions/1/preview")
    assert preview.status_code == 200, preview.text
    shown = preview.json()
    assert shown["subject"] == "Hello Ana & Bo"
    assert "<h1>Hello Ana &amp; Bo</h1>" in shown["html"]
    assert "this (https://example.com/start)" in shown["text"]
    assert shown["content_hash"] == content_hash(shown["subject"], shown["html"], shown["text"]).hex()


async def test_a_preview_with_variables_checks_them_as_a_send_does(rest):
    _, client = await rest.tenant()
    await client.post(URL, json=WELCOME)
    url = f"{URL}/welcome/versions/1/preview"
    given = {"name": "<b>", "url": "https://example.com/"}
    shown = (await client.post(url, json={"variables": given})).json()
    assert (shown["subject"], "<h1>Hello &lt;b&gt;</h1>" in shown["html"]) == ("Hello <b>", True)
    errors = wrong_fields(await client.post(url, json={"variables": {"name": "Ana", "ulr": "x"}}))
    assert errors.keys() == {"variables.url", "variables.ulr"}
    assert "subject" in wrong_fields(
        await client.post(url, json={"variables": {**given, "name": "Ana\r\nBcc: all@example.com"}})
    )
    assert "variabels" in wrong_fields(await client.post(url, json={"variabels": {}}))
    nul = {**given, "name": "\x00"}
    assert "variables.name" in wrong_fields(await client.post(url, json={"variables": nul}))


async def test_a_template_that_never_ends_fails_its_own_preview_only(rest):
    _, client = await rest.tenant()
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    await client.post(URL, json={"template_id": "bomb", "subject": "Boom", "text": loop})
    await client.post(URL, json=WELCOME)
    bomb, fine = await asyncio.gather(
        client.post(f"{URL}/bomb/versions/1/preview"), client.post(f"{URL}/welcome/versions/1/preview")
    )
    assert (bomb.status_code, fine.status_code) == (422, 200)
    assert bomb.json()["type"] == "/problems/template-render"


async def test_publishing_twice_is_the_same_as_once(rest):
    _, client = await rest.tenant()
    await client.post(URL, json=WELCOME)
    once = await client.post(f"{URL}/welcome/versions/1/publish")
    assert (once.status_code, once.json()["status"]) == (200, "published")
    assert (await client.post(f"{URL}/welcome/versions/1/publish")).json() == once.json()


async def test_archived_is_the_end_of_a_version(rest):
    _, client = await rest.tenant()
    await client.post(URL, json=WELCOME)
    await client.post(f"{URL}/welcome/versions/1/publish")
    archived = await client.post(f"{URL}/welcome/versions/1/archive")
    assert (archived.status_code, archived.json()["status"]) == (200, "archived")
    assert (await client.post(f"{URL}/welcome/versions/1/archive")).json() == archived.json()
    refused = await client.post(f"{URL}/welcome/versions/1/publish")
    assert refused.status_code == 409
    assert "archived" in refused.json()["detail"]


async def test_lists_filter_and_page_without_bodies(rest):
    _, client = await rest.tenant()
    for template_id in ("b", "a"):
        for number in range(2):
            await client.post(URL, json={**WELCOME, "template_id": template_id, "description": str(number)})
    await client.post(f"{URL}/b/versions/2/publish")

    first = (await client.get(URL, params={"limit": 3})).json()
    rest_of_it = (await client.get(URL, params={"limit": 3, "after": first["next"]})).json()
    seen = [(item["template_id"], item["version"]) for item in first["items"] + rest_of_it["items"]]
    assert seen == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert rest_of_it["next"] is None
    assert not {"html", "text"} & first["items"][0].keys()

    published = (await client.get(URL, params={"status": "published"})).json()["items"]
    assert [(item["template_id"], item["version"]) for item in published] == [("b", 2)]
    of_a = (await client.get(URL, params={"template_id": "a"})).json()
    assert of_a == (await client.get(f"{URL}/a")).json()
    assert [item["version"] for item in of_a["items"]] == [1, 2]
    assert "status" in wrong_fields(await client.get(URL, params={"status": "new"}))


@pytest.mark.parametrize(
    "path", ["/none", "/none/versions/1", "/%00", "/a%00/versions/1", "/a/versions/99999999999999999999"]
)
async def test_what_does_not_exist_is_404(rest, path):
    _, client = await rest.tenant()
    assert (await client.get(URL + path)).status_code == 404


async def test_another_tenant_sees_and_changes_nothing(rest):
    _, client = await rest.tenant()
    _, stranger = await rest.tenant()
    await client.post(URL, json=WELCOME)
    assert (await stranger.get(URL)).json()["items"] == []
    assert (await stranger.get(f"{URL}/welcome")).status_code == 404
    for act in ("", "/preview", "/publish", "/archive"):
        url = f"{URL}/welcome/versions/1{act}"
        answer = await (stranger.post(url) if act else stranger.get(url))
        assert answer.status_code == 404, act
    assert (await stranger.post(URL, json=WELCOME)).json()["version"] == 1
    assert (await client.get(f"{URL}/welcome/versions/1")).json()["status"] == "draft"


async def test_each_act_needs_its_scope(rest):
    tenant, client = await rest.tenant()
    await client.post(URL, json=WELCOME)
    reader, sender = await rest.client(tenant.id, "read"), await rest.client(tenant.id, "send")
    assert (await reader.post(URL, json={**WELCOME, "subject": "No"})).status_code == 403
    assert (await reader.post(f"{URL}/welcome/versions/1/publish")).status_code == 403
    assert (await reader.post(f"{URL}/welcome/versions/1/archive")).status_code == 403
    assert (await reader.post(f"{URL}/welcome/versions/1/preview")).status_code == 200
    for path in ("", "/welcome", "/welcome/versions/1"):
        assert (await sender.get(URL + path)).status_code == 403
    assert (await sender.post(f"{URL}/welcome/versions/1/preview")).status_code == 403
    items = (await reader.get(URL)).json()["items"]
    assert [(item["version"], item["status"]) for item in items] == [(1, "draft")]


EVERYWHERE = {
    "template_id": "shipped",
    "subject": "Order {{ order_id }} is on its way",
    "text": "Track it: {{ url }}",
    "channels": {
        "sms": {"text": "Order {{ order_id }} is on its way"},
        "push": {
            "subject": "On its way",
            "text": "Order {{ order_id }}",
            "extras": {"url": "{{ url }}", "badge": "1", "data.order": "{{ order_id }}"},
        },
        "in_app": {"subject": "On its way", "text": "Order {{ order_id }}"},
    },
    "variables": {"order_id": {"example": "A-1"}, "url": {"example": "https://example.com/t/1"}},
}


async def test_one_version_has_words_for_every_channel(rest):
    _, client = await rest.tenant()
    created = (await client.post(URL, json=EVERYWHERE)).json()
    assert (created["version"], created["channel"], created["channels"]) == (
        1,
        "email",
        ["email", "in_app", "push", "sms"],
    )
    assert [content["channel"] for content in created["contents"]] == created["channels"]
    assert created["contents"][2]["extras"] == EVERYWHERE["channels"]["push"]["extras"]
    again = (await client.post(URL, json=EVERYWHERE)).json()
    assert (again["version"], again["unchanged"]) == (1, True)
    await client.post(f"{URL}/shipped/versions/1/publish")
    statuses = await rest.rows("SELECT channel, status FROM store.templates ORDER BY 1")
    assert statuses == [(channel, "published") for channel in created["channels"]]
    [listed] = (await client.get(URL)).json()["items"]
    assert listed["channels"] == created["channels"]


async def test_a_preview_shows_each_channel_as_it_would_be_sent(rest):
    _, client = await rest.tenant()
    await client.post(URL, json=EVERYWHERE)
    shown = (await client.post(f"{URL}/shipped/versions/1/preview")).json()
    by_channel = {content["channel"]: content for content in shown["contents"]}
    assert by_channel["sms"]["text"] == "Order A-1 is on its way"
    assert (by_channel["sms"]["encoding"], by_channel["sms"]["segments"]) == ("gsm7", 1)
    assert by_channel["push"]["extras"] == {"url": "https://example.com/t/1", "badge": "1", "data.order": "A-1"}
    assert by_channel["push"]["content_hash"] != by_channel["in_app"]["content_hash"]
    assert shown["subject"] == "Order A-1 is on its way"


async def test_a_version_needs_no_email(rest):
    _, client = await rest.tenant()
    body = {"template_id": "code", "channels": {"sms": {"text": "Your code: {{ code }}"}}, "variables": ["code"]}
    created = (await client.post(URL, json=body)).json()
    assert (created["channel"], created["channels"], created["text"]) == ("sms", ["sms"], "Your code: {{ code }}")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"channels": {"email": {"subject": "x", "text": "y"}}}, "channels.email"),
        ({"channels": {"sms": {"text": "{{ undeclared }}"}}}, "variables.undeclared"),
        ({"channels": {"sms": {"text": "{% broken"}}}, "channels.sms.text"),
        ({"channels": {"sms": {"text": "x", "subject": "y"}}}, "channels.sms.subject"),
        ({"channels": {"push": {"text": "x", "extras": {"data.from": "y"}}}}, "channels.push.extras.data.from.[key]"),
        ({"channels": {"push": {"text": "x", "extras": {"url": "{{ 1/"}}}}, "channels.push.extras.url"),
        ({"channels": {"fax": {"text": "x"}}}, "channels.fax"),
    ],
)
async def test_what_is_wrong_on_one_channel_is_named_with_it(rest, change, field):
    _, client = await rest.tenant()
    assert list(wrong_fields(await client.post(URL, json={**EVERYWHERE, **change}))) == [field]
