"""Tokens: what is signed for one purpose is good for that alone."""

from __future__ import annotations

import base64
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import tokens
from app.domain.tokens import (
    BadToken,
    SentAttempt,
    Subscription,
    TrackedLink,
    click_url,
    open_url,
    read_click,
    read_open,
    read_receipt,
    receipt_token,
    sign,
    unsubscribe_headers,
    verify,
)

SECRET = b"a secret of the test"
ANA = Subscription(tenant_id=7, channel="email", address="ana@example.com", category="news")

DELIVERY = UUID("01987a6e-5c1f-7cde-8a3b-2f1e0d9c8b25")
BASE = "https://notify.example.com/"

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
        verify(SECRET, f"{signed}.{tokens._signature(SECRET, tokens.UNSUBSCRIBE, signed)}")


def test_the_headers_are_those_of_rfc_8058():
    assert unsubscribe_headers("https://notify.example.com/", "1.a.b") == {
        "List-Unsubscribe": "<https://notify.example.com/u/1.a.b>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }


# -- receipts, opens, clicks ---------------------------------------------------------------------------------

ATTEMPTS = st.builds(SentAttempt, st.uuids(), st.integers(1, 2**15 - 1))
TARGETS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=1300).map(
    "https://s.example/{}".format
)


def of_open(url):
    return url.removeprefix("https://notify.example.com/o/").removesuffix(".gif")


def of_click(url):
    return url.removeprefix("https://notify.example.com/c/")


@given(ATTEMPTS, TARGETS)
def test_what_a_message_carries_names_its_attempt(attempt, target):
    delivery, no = attempt.delivery_id, attempt.attempt_no
    assert read_receipt(SECRET, receipt_token(SECRET, delivery, no)) == attempt
    assert read_open(SECRET, of_open(open_url(SECRET, BASE, delivery, no))) == attempt
    assert read_click(SECRET, of_click(click_url(SECRET, BASE, delivery, no, target))) == TrackedLink(attempt, target)


def test_what_is_out_there_keeps_working():
    """Pushes wait on devices and mail lies in inboxes: a release that changes the format must still read these."""
    receipt = "1.AZh6blwffN6KOy8eDZyLJQAB.DpnT7W17CuliHjBdqLqD3yOeYQs7RRXdneTI-7xQC6o"
    assert receipt_token(SECRET, DELIVERY, 1) == receipt
    assert open_url(SECRET, BASE, DELIVERY, 1) == (
        "https://notify.example.com/o/1.AZh6blwffN6KOy8eDZyLJQAB.yKnyh6M-s98EpTTSpT5p_hRiF0_wmbcGfqdSYqXY-hk.gif"
    )
    assert click_url(SECRET, BASE, DELIVERY, 1, "https://s.example/") == (
        "https://notify.example.com/c/1.AZh6blwffN6KOy8eDZyLJQABaHR0cHM6Ly9zLmV4YW1wbGUv.rZreYKCc82PoJXkpNg_sUrCrawJU_LM5CPaCQKdnYMk"
    )


def test_a_push_has_room_for_its_token():
    assert len(receipt_token(SECRET, DELIVERY, 2**15 - 1)) == 70


def test_the_longest_link_fits_what_old_clients_take():
    target = "https://s.example/".ljust(tokens.TARGET_CHARS_MAX, "x")
    url = click_url(SECRET, "https://notifications.of.a.rather.long.name.example.com", DELIVERY, 1, target)
    assert len(url) <= 2083
    assert read_click(SECRET, url.rpartition("/")[2]).url == target


def test_no_token_is_good_for_another_purpose():
    made = {
        "unsubscribe": sign(SECRET, ANA),
        "receipt": receipt_token(SECRET, DELIVERY, 1),
        "open": of_open(open_url(SECRET, BASE, DELIVERY, 1)),
        "click": of_click(click_url(SECRET, BASE, DELIVERY, 1, "https://s.example/")),
    }
    readers = {"unsubscribe": verify, "receipt": read_receipt, "open": read_open, "click": read_click}
    for purpose, token in made.items():
        for other, read in readers.items():
            if other == purpose:
                read(SECRET, token)
            else:
                with pytest.raises(BadToken, match="signature"):
                    read(SECRET, token)


@given(st.data())
def test_one_changed_character_of_a_link_is_noticed(data):
    token = of_click(click_url(SECRET, BASE, DELIVERY, 1, "https://s.example/"))
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABab01-_.é").filter(lambda char: char != token[place]))
    with pytest.raises(BadToken):
        read_click(SECRET, token[:place] + other + token[place + 1 :])


@pytest.mark.parametrize(
    "target",
    [
        "",
        "javascript:alert(1)",
        "//s.example/",
        "ftp://s.example/",
        "https://s.example/\r\nSet-Cookie: a=b",
        "https://s.example/ x",
        "https://s.example/\x00",
        "https://s.example/é",
        "https://s.example/".ljust(tokens.TARGET_CHARS_MAX + 1, "x"),
    ],
)
def test_no_link_leads_where_a_header_cannot(target):
    with pytest.raises(ValueError, match="absolute"):
        click_url(SECRET, BASE, DELIVERY, 1, target)
    payload = tokens._ATTEMPT.pack(DELIVERY.bytes, 1) + target.encode()
    with pytest.raises(BadToken):
        read_click(SECRET, tokens._seal(SECRET, tokens.CLICK, payload))


@pytest.mark.parametrize("payload", [b"", b"short", b"x" * 19])
def test_a_signature_over_something_else_of_ours_is_no_attempt(payload):
    with pytest.raises(BadToken, match="not an attempt"):
        read_receipt(SECRET, tokens._seal(SECRET, tokens.RECEIPT, payload))


def test_a_signed_payload_that_is_no_base64_is_a_bad_token():
    signed = "1.A"
    with pytest.raises(BadToken, match="base64"):
        read_receipt(SECRET, f"{signed}.{tokens._signature(SECRET, tokens.RECEIPT, signed)}")
