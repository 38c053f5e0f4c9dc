"""A story in a few words: what happened on its way, and what ended it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from app.store.demo import Story

ENDINGS = ("provider_bounced", "provider_failed")
TELLERS = {"provider": "webhook", "lookup": "asked the provider", "device": "acknowledged"}


def way(story: Story) -> Iterator[str]:
    """What was out of the ordinary."""
    kinds = Counter(event["kind"] for event in story.events)
    posted = [event for event in story.told if event["source"] == "provider"]
    if posted != sorted(posted, key=lambda event: str(event["occurred_at"])):
        yield "came as " + ", ".join(event["kind"].removeprefix("provider_") for event in posted)
    if limited := kinds["attempt_rate_limited"]:
        yield f"429 × {limited}, budget spent {story.failures}"
    if not_sent := kinds["resolved_not_sent"]:
        yield f"{not_sent} × asked: not sent"
    elif kinds["attempt_unknown"]:
        yield "outcome unknown, not resent"
    if kinds["provider_complained"]:
        yield "marked as spam"


def end(story: Story) -> Iterator[str]:
    """The fact that ended it."""
    if story.state == "suppressed" or story.attempts == 0:
        yield "no call was made"
    elif story.state == "unconfirmed":
        yield "accepted; the device never said a word"
    elif story.state == "failed":
        yield f"refused: {story.detail}"
    elif story.state == "dead":
        yield story.detail or "given up"
    elif fact := story.proof or next((e for e in reversed(story.told) if e["kind"] in ENDINGS), None):
        if status := fact["data"].get("answered"):
            yield f"the receiver answered {status}"
        else:
            yield f"{TELLERS[fact['source']]}: {_said(fact['data']) or fact['kind'].removeprefix('provider_')}"


def _said(data: dict[str, Any]) -> str:
    """In the words of the receiving server, which often repeats its code in them."""
    code, message = str(data.get("code") or ""), str(data.get("message") or "")
    return f"{code} {message}".strip()
