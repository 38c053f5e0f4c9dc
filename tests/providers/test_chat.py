"""Chat rooms: what each format takes, and what is made of an answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import Channel, OutcomeKind
from app.errors import ConfigurationError, InvalidFields
from app.providers import chat
from app.providers.base import ProviderRequest, ProviderResponse
from app.providers.chat import BODIES, Chat, ChatAccount
from app.providers.registry import make_provider
from tests.messages import CONTEXT, NOW, endpoint_message

CHAT = Chat(ChatAccount())
GUIDE = Path(__file__).parents[2] / "docs" / "adding-a-provider.md"
URLS = {
    "slack": "https://hooks.slack.com/services/T000/B000/XXXX",
    "discord": "https://discord.com/api/v10/webhooks/1/token",
    "teams": "https://prod-1.westeurope.logic.azure.com:443/workflows/1/triggers/manual/paths/invoke?sig=x%2Fy",
}
EVERY_FORMAT = pytest.mark.parametrize("format", BODIES)


def built(format: str, **changes: Any) -> ProviderRequest:
    fields = {"format": format, "url": URLS[format], "secrets": (), "title": "Shipped", "text": "Order A-1"}
    return CHAT.build(endpoint_message(**fields | changes), CONTEXT)


def body(format: str, **changes: Any) -> dict[str, Any]:
    request = built(format, **changes)
    assert request.headers["Content-Type"] == "application/json"
    return json.loads(request.body)


def words(format: str, **changes: Any) -> str:
    """All that a reader would see."""
    document = body(format, **changes)
    match format:
        case "slack":
            return document["text"]
        case "discord":
            return document["content"]
        case _:
            return "\n".join(block["text"] for block in document["attachments"][0]["content"]["body"])


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def answer(status: int, text: str | bytes = "", **headers: str) -> ProviderResponse:
    raw = text if isinstance(text, bytes) else text.encode()
    return ProviderResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


# -- requests ------------------------------------------------------------------------------------------------


def test_each_room_gets_its_own_format():
    assert body("slack") == {"text": "*Shipped*\nOrder A-1"}
    assert body("discord") == {"content": "**Shipped**\nOrder A-1", "allowed_mentions": {"parse": []}}
    assert body("teams") == {
        "type": "message",
        "attachments": [
            {
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": None,
                "content": {
                    "type": "AdaptiveCard",
                    "version": "1.4",
                    "body": [
                        {"type": "TextBlock", "text": "Shipped", "wrap": True, "weight": "Bolder"},
                        {"type": "TextBlock", "text": "Order A-1", "wrap": True},
                    ],
                },
            }
        ],
    }


@pytest.mark.parametrize("format", ["slack", "teams"])
def test_the_url_is_used_as_it_was_given(format):
    assert (built(format).method, built(format).url) == ("POST", URLS[format])


def test_discord_is_asked_to_answer_when_the_message_is_there():
    assert built("discord").url == f"{URLS['discord']}?wait=true"
    threaded = built("discord", url=f"{URLS['discord']}?thread_id=7&wait=false")
    assert threaded.url == f"{URLS['discord']}?thread_id=7&wait=true"


def test_nothing_in_a_text_calls_a_whole_channel():
    shouting = "<!channel> @everyone <https://evil.example|here> & more"
    assert words("slack", title="", text=shouting) == (
        "&lt;!channel&gt; @everyone &lt;https://evil.example|here&gt; &amp; more"
    )
    assert "<" not in words("slack", title=shouting)
    assert body("discord", text=shouting)["allowed_mentions"] == {"parse": []}


@EVERY_FORMAT
def test_a_message_without_words_is_refused(format):
    with pytest.raises(InvalidFields, match="^text: must not be empty$"):
        built(format, title="\n", text=" \x1f")


@EVERY_FORMAT
def test_a_title_may_do_without_a_text_and_a_text_without_a_title(format):
    assert words(format, text="").strip("*") == "Shipped"
    assert words(format, title="") == "Order A-1"


@pytest.mark.parametrize(("format", "most"), [("slack", 4000), ("discord", 2000), ("teams", 5000)])
@pytest.mark.parametrize("char", ["x", "ü", "🚚", "\n'"])
def test_a_long_text_is_cut_and_says_so(format, most, char):
    shown = words(format, title="", text="." + char * 20_000)
    assert most - 1 <= units(shown) <= most
    assert shown.endswith("…")
    assert len(built(format, text=char * 20_000).body) < 28_000


@EVERY_FORMAT
@given(title=st.text(), text=st.text())
def test_any_words_make_a_body(format, title, text):
    try:
        assert words(format, title=title, text=text)
    except InvalidFields:
        assert not re.sub(r"[\x00-\x1f\x7f]", "", title + text).strip()


@EVERY_FORMAT
@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/services/T/B/X",
        "https://evil-hooks.slack.com.example/services",
        "https://notdiscord.com/api/webhooks/1/x",
        "https://logic.azure.com.evil.example/",
        "https://evillogic.azure.com/",
        "https://discord.com@evil.example/",
        "https://10.0.0.1/",
        "https://[::1/",
        "not a url",
    ],
)
def test_only_the_vendors_own_hosts_are_chat_rooms(format, url):
    with pytest.raises(InvalidFields) as wrong:
        built(format, url=url)
    assert [error.field for error in wrong.value.errors] == ["url"]
    assert url not in str(wrong.value)


@EVERY_FORMAT
def test_the_vendors_hosts_are_not_each_others(format):
    for other, url in URLS.items():
        if other != format:
            with pytest.raises(ValueError, match="^must be at "):
                CHAT.check_url(url, format)


@EVERY_FORMAT
@pytest.mark.parametrize("url", ["http://127.0.0.1:8025/x", "http://localhost:1/x", "http://[::1]/x"])
def test_loopback_is_left_to_the_transport(format, url):
    assert built(format, url=url).url.startswith(url)


def test_hosts_are_the_accounts_to_say():
    provider = make_provider("chat", {"adapter": "chat", "slack_hosts": ["hooks.slack-gov.com"]})
    assert isinstance(provider, Chat)
    provider.check_url("https://hooks.slack-gov.com/services/T/B/X", "slack")
    with pytest.raises(ValueError, match="must be at hooks.slack-gov.com"):
        provider.check_url(URLS["slack"], "slack")
    with pytest.raises(ConfigurationError, match=r"providers\.chat\.slack_host"):
        make_provider("chat", {"adapter": "chat", "slack_host": "hooks.slack.com"})


def test_another_format_is_refused_by_name():
    with pytest.raises(InvalidFields, match="^format: must be one of slack, discord, teams$"):
        CHAT.build(endpoint_message(format="standard"), CONTEXT)


def test_a_copy_would_be_seen_so_none_is_risked():
    assert CHAT.capabilities.channel is Channel.CHAT
    assert CHAT.capabilities.transport == "guarded"
    assert not CHAT.capabilities.resend_is_safe
    assert not CHAT.capabilities.accepts_client_id


# -- answers -------------------------------------------------------------------------------------------------

SNOWFLAKE = '{"id": "1429000000000000429", "channel_id": "2"}'


@pytest.mark.parametrize(
    ("status", "text", "message_id"),
    [
        (200, "ok", None),
        (200, SNOWFLAKE, "1429000000000000429"),
        (200, "1", None),
        (202, "", None),
        (204, "", None),
        (200, "[429]", None),
    ],
)
def test_what_was_taken(status, text, message_id):
    outcome = CHAT.interpret(answer(status, text), NOW)
    assert (outcome.kind, outcome.provider_message_id) == (OutcomeKind.ACCEPTED, message_id)


def test_a_teams_connector_throttles_in_the_text_of_a_success():
    text = "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429 with ..."
    assert CHAT.interpret(answer(200, text), NOW).kind is OutcomeKind.RATE_LIMITED


@pytest.mark.parametrize(
    ("status", "text", "kind", "reason", "doubtful"),
    [
        (404, "no_service", OutcomeKind.RECIPIENT_INVALID, "gone", False),
        (404, '{"code": 10015}', OutcomeKind.RECIPIENT_INVALID, "gone", False),
        (410, "channel_is_archived", OutcomeKind.RECIPIENT_INVALID, "gone", False),
        (401, '{"code": 50027}', OutcomeKind.RECIPIENT_INVALID, "refused", True),
        (403, "invalid_token", OutcomeKind.RECIPIENT_INVALID, "refused", True),
        (400, "invalid_payload", OutcomeKind.REJECTED, None, False),
        (400, '{"code": 50035}', OutcomeKind.REJECTED, None, False),
        (413, "", OutcomeKind.REJECTED, None, False),
        (302, "", OutcomeKind.REJECTED, None, False),
        (500, "rollup_error", OutcomeKind.UNKNOWN, None, False),
        (503, "", OutcomeKind.UNKNOWN, None, False),
    ],
)
def test_what_was_not(status, text, kind, reason, doubtful):
    outcome = CHAT.interpret(answer(status, text), NOW)
    assert (outcome.kind, outcome.reason, outcome.doubtful) == (kind, reason, doubtful)
    assert outcome.detail == f"HTTP {status}"


@pytest.mark.parametrize(
    ("response", "seconds"),
    [
        (answer(429, retry_after="30"), 30.0),
        (answer(429, '{"retry_after": 1.5, "global": false}', retry_after="2"), 1.5),
        (answer(429, '{"retry_after": -1}'), 0.0),
        (answer(429, "slow down"), None),
    ],
)
def test_a_room_says_when_to_come_back_and_pauses_no_other(response, seconds):
    outcome = CHAT.interpret(response, NOW)
    assert (outcome.kind, outcome.retry_after_seconds) == (OutcomeKind.RATE_LIMITED, seconds)
    assert not CHAT.capabilities.breaks


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "retry_after", "x"]), inner),
    max_leaves=8,
)


@given(
    st.integers(100, 599),
    st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode),
    st.dictionaries(st.sampled_from(["retry-after", "content-type"]), st.text(max_size=40)),
)
def test_any_answer_is_understood(status, raw, headers):
    outcome = CHAT.interpret(ProviderResponse(status, headers, raw), NOW)
    assert outcome.kind is not OutcomeKind.ACCEPTED or 200 <= status < 300
    assert outcome.kind is not OutcomeKind.TRANSIENT, "a room has no id of ours to know a copy by"
    assert outcome.kind is not OutcomeKind.RATE_LIMITED or status == 429 or 200 <= status < 300
    assert outcome.retry_after_seconds is None or outcome.retry_after_seconds >= 0


def test_the_guide_to_adapters_shows_this_one_as_it_is():
    code = Path(chat.__file__).read_text()
    shown = re.findall(r"^```python\n(.*?)```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(shown) > 3
    assert [block for block in shown if block not in code] == []
