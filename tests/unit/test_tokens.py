"""Tokens in unsubscribe links."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import tokens
from app.domain.tokens import BadToken, Subscription, sign, unsubscribe_headers, verify

SECRET = b"a secret of the test"
ANA = Subscription(tenant_id=7, channel="email", address="ana@example.com", category="news")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
SUBSCRIPTIONS = st.builds(Subscription, tenant_id=st.integers(1, 2**31 - 1), channel=TEXT, address=TEXT, category=TEXT)


@given(SUBSCRIPTIONS)
def test_what_is_signed_is_what_is_verified(subscription):
    assert verify(SECRET, sign(SECRET, subscription)) == subscription


@given(SUBSCRIPTIONS)
def test_a_token_needs_no_quoting_in_a_url(subscription):
    token = sign(SECRET, subscription)
    assert token.isascii()
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


def test_links_in_old_mail_keep_working():
    """The format is in inboxes: a release that changes it must still read this."""
    token = "1.WzcsImVtYWlsIiwiYW5hQGV4YW1wbGUuY29tIiwibmV3cyJd.ACB9Wwg0awMLPTNpg2bzFZks20OHOSj7RHOrYfNlpRU"
    assert sign(SECRET, ANA) == token
    assert verify(SECRET, token) == ANA


@given(st.data())
def test_one_changed_character_is_noticed(data):
    token = sign(SECRET, ANA)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABab01-_.é").filter(lambda char: char != token[place]))
    with pytest.raises(BadToken):
        verify(SECRET, token[:place] + other + token[place + 1 :])


@given(st.text(max_size=200))
def test_any_other_text_is_a_bad_token_and_nothing_worse(text):
    with pytest.raises(BadToken):
        verify(SECRET, text)


def test_another_secret_is_noticed():
    with pytest.raises(BadToken, match="signature"):
        verify(b"another", sign(SECRET, ANA))


def test_each_part_of_the_subscription_is_signed():
    _, _, signature = sign(SECRET, ANA).split(".")
    changes = [{"tenant_id": 8}, {"channel": "sms"}, {"address": "bo@example.com"}, {"category": "offers"}]
    for change in changes:
        head = sign(b"guess", replace(ANA, **change)).rpartition(".")[0]
        with pytest.raises(BadToken, match="signature"):
            verify(SECRET, f"{head}.{signature}")


@pytest.mark.parametrize("payload", [b"not json", b"[1, 2]", b"{}", b"7", b"\xff"])
def test_a_signature_over_something_else_of_ours_is_no_subscription(payload):
    signed = f"1.{base64.urlsafe_b64encode(payload).rstrip(b'=').decode()}"
    with pytest.raises(BadToken, match="not a subscription"):
        verify(SECRET, f"{signed}.{tokens._signature(SECRET, signed)}")


def test_the_headers_are_those_of_rfc_8058():
    assert unsubscribe_headers("https://notify.example.com/", "1.a.b") == {
        "List-Unsubscribe": "<https://notify.example.com/u/1.a.b>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }
