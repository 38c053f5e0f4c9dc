"""STOP, START, HELP: what people answer, and what follows from it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.keywords import Keyword, inbound_evidence, keyword_of
from app.domain.models import EvidenceKind

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
STOPS = ["STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT"]
STARTS = ["START", "YES", "UNSTOP"]
HELPS = ["HELP", "INFO"]


@pytest.mark.parametrize("dress", [str, str.lower, str.title, lambda word: f" {word}\r\n", lambda word: f"\t{word} "])
@pytest.mark.parametrize(
    ("words", "keyword"), [(STOPS, Keyword.STOP), (STARTS, Keyword.START), (HELPS, Keyword.HELP)], ids=str
)
def test_a_keyword_counts_in_any_case_and_with_blanks_around(words, keyword, dress):
    assert {keyword_of(dress(word)) for word in words} == {keyword}


@pytest.mark.parametrize(
    "body",
    [
        "Stop!",
        "STOP.",
        "stop 🛑",
        "Opt out",
        "opt-out",
        "Stop all",
        "\u201cstop\u201d",
        "ＳＴＯＰ",
        "s t o p",
        "'Quit'",
        "*END*",
    ],
)
def test_a_wish_to_be_left_alone_counts_however_it_is_typed(body):
    assert keyword_of(body) is Keyword.STOP


@pytest.mark.parametrize("body", ["Yes!", "start.", "ＹＥＳ", "y e s", "un stop", "help!", "yes please"])
def test_consent_comes_back_only_by_the_very_word(body):
    assert keyword_of(body) is None


@pytest.mark.parametrize("body", ["", "  ", "...", "Where is my order?", "stopped", "cancel my order", "the end", "1"])
def test_other_messages_are_just_messages(body):
    assert keyword_of(body) is None


@given(st.text())
def test_any_body_can_be_read(body):
    assert keyword_of(body) in (None, *Keyword)


@pytest.mark.parametrize(
    ("keyword", "kind"),
    [
        (Keyword.STOP, EvidenceKind.OPTED_OUT),
        (Keyword.START, EvidenceKind.OPTED_IN),
        (Keyword.HELP, EvidenceKind.OTHER),
        (None, EvidenceKind.OTHER),
    ],
)
def test_an_inbound_message_speaks_of_an_address_and_of_no_delivery(keyword, kind):
    evidence = inbound_evidence(
        message_id="SM1", sender="4915112345678", receiver="+14155550100", keyword=keyword, occurred_at=NOW
    )
    assert (evidence.kind, evidence.address, evidence.event_key) == (kind, "+4915112345678", "inbound:SM1")
    assert (evidence.delivery_id, evidence.provider_message_id) == (None, None)
    assert evidence.data == {"inbound": True, "keyword": keyword, "to": "…0100"}


def test_a_keyword_from_what_is_no_number_opts_nobody_out():
    evidence = inbound_evidence(
        message_id="SM1", sender="12345", receiver="+14155550100", keyword=Keyword.STOP, occurred_at=NOW
    )
    assert (evidence.kind, evidence.address) == (EvidenceKind.OTHER, None)
