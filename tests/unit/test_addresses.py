"""Addresses, senders, locales, time zones."""

from __future__ import annotations

import re

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


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("+4915112345678", "+4915112345678"),
        ("+49 151 123-45678", "+4915112345678"),
        (" +49 (0)151/123 456 78 ", "+4915112345678"),
        ("+49\u00a0151\u2013123\u201145678", "+4915112345678"),
        ("+1 (415) 555-0101", "+14155550101"),
        ("+1.415.555.0101", "+14155550101"),
        ("+49 30 1234567", "+49301234567"),
        ("+39 06 1234 5678", "+390612345678"),  # in Italy the zero is part of the number
        ("+14155550101", "+14155550101"),  # kept for fiction, as the next three
        ("+15551234567", "+15551234567"),
        ("+15005550006", "+15005550006"),
        ("+447700900123", "+447700900123"),
        ("+883510001234567", "+883510001234567"),
    ],
)
def test_a_phone_number_is_brought_to_one_form(given, normal):
    assert addresses.phone(given) == normal
    assert addresses.phone(normal) == normal
    assert addresses.normalise("sms", given) == normal


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "with its country code"),
        ("+", "country code"),
        ("0151 12345678", "with its country code"),
        ("0049 151 12345678", "with its country code"),
        ("4915112345678", "with its country code"),
        ("+999 123 456 789", "country code that exists"),
        ("+0151 12345678", "country code that exists"),
        ("+1 415 555 010", r"too few digits .* \+1"),
        ("+1 415 555 01011", r"too many digits .* \+1"),
        ("+46 70 174 0605 00000", r"too many digits .* \+46"),
        ("+49 " + "1" * 15, r"too many digits .* \+49"),  # its own plan would allow that
        ("+49 151 1234", r"too few digits .* \+49"),  # a landline's number could be that short, a mobile's cannot
        ("+1 555 0101", r"too few digits .* \+1"),
        ("+1 800 FLOWERS", "with its country code"),
        ("+1 415 555 0101 ext. 5", "with its country code"),
        ("+14155550101;ext=5", "with its country code"),
        ("tel:+14155550101", "with its country code"),
        ("+٤٩١٥١١٢٣٤٥٦٧٨", "with its country code"),
        ("+4915112345678\n", "with its country code"),
        ("+" + "1" * 300, "with its country code"),
    ],
)
def test_what_is_no_international_phone_number_is_refused_with_a_reason(given, told):
    with pytest.raises(ValueError, match=told):
        addresses.phone(given)


@given(st.text(st.sampled_from("+0123456789 -()"), max_size=24).map(lambda text: f"+{text}"))
def test_a_phone_number_that_passes_is_e164_and_stays_as_it_is(text):
    try:
        normal = addresses.phone(text)
    except ValueError:
        return
    assert re.fullmatch(r"\+[1-9][0-9]{4,14}", normal)
    assert addresses.phone(normal) == normal


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


@pytest.mark.parametrize(
    ("phone", "country"),
    [
        ("+4915112345678", "DE"),
        ("+447400123456", "GB"),
        ("+447781123456", "GG"),
        ("+12125550101", "US"),
        ("+14165550101", "CA"),
        ("+77011234567", "KZ"),
        ("+80012345678", None),
        ("+881612345678", None),
        ("+0", None),
        ("+", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_a_number_tells_its_country_where_its_plan_does(phone, country):
    assert addresses.country(phone) == country
