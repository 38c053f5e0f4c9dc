"""Addresses, senders, locales, time zones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import addresses

LINE_BREAKS = ["\n", "\r", "\r\n", "\x00", "\x0b", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("shop@example.com", "shop@example.com"),
        ("Shop <shop@example.com>", "Shop <shop@example.com>"),
        ("<shop@example.com>", "shop@example.com"),
        ('"Shop, Inc." <shop@example.com>', '"Shop, Inc." <shop@example.com>'),
        ("Shop, Inc. <shop@example.com>", '"Shop, Inc." <shop@example.com>'),
        ("Größe & Co <shop@example.com>", "Größe & Co <shop@example.com>"),
        ("Shop <shop@MÜNCHEN.example>", "Shop <shop@xn--mnchen-3ya.example>"),
    ],
)
def test_a_sender_is_a_name_and_an_address(given, normal):
    assert addresses.sender(given) == normal
    assert addresses.sender(normal) == normal


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Shop",
        "Shop <shop@example.com> and more",
        "shop@example.com, all@example.com",
        "A <a@example.com>, B <b@example.com>",
        "A <a@example.com> <b@example.com>",
        'Shop" <shop@example.com>',
        "Shop <>",
        "x" * 400 + " <shop@example.com>",
    ],
)
def test_what_is_not_one_sender_is_refused(given):
    with pytest.raises(ValueError, match="must|is not"):
        addresses.sender(given)


@pytest.mark.parametrize("breaking", LINE_BREAKS)
@pytest.mark.parametrize("check", [addresses.email, addresses.sender, addresses.one_line])
def test_nothing_that_breaks_a_line_gets_into_a_header(check, breaking):
    for text in (f"shop@example.com{breaking}Bcc: all@example.com", f"Shop{breaking} <shop@example.com>"):
        with pytest.raises(ValueError, match="line breaks"):
            check(text)


@given(st.text(max_size=60))
def test_a_sender_that_passes_is_one_line_and_stays_as_it_is(text):
    try:
        normal = addresses.sender(f"{text} <shop@example.com>")
    except ValueError:
        return
    assert len(normal.splitlines()) == 1
    assert addresses.sender(normal) == normal


@pytest.mark.parametrize("good", ["de", "pt-BR", "zh-Hant-TW", "es-419", "sl-rozaj", "de-CH-1996"])
def test_language_tags_pass(good):
    assert addresses.locale(good) == good


@pytest.mark.parametrize("bad", ["", "d", "german", "de_DE", "de-", "de-DE\n", "-DE"])
def test_other_locales_do_not(bad):
    with pytest.raises(ValueError, match="language tag"):
        addresses.locale(bad)


@pytest.mark.parametrize("bad", ["", "CET+1", "/etc/localtime", "../Berlin", "europe/berlin"])
def test_only_names_of_the_time_zone_database_pass(bad):
    assert addresses.time_zone("Europe/Berlin") == "Europe/Berlin"
    with pytest.raises(ValueError, match="IANA"):
        addresses.time_zone(bad)
