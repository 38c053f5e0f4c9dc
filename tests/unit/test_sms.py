"""What a text message costs to carry."""

from __future__ import annotations

import pytest
from gsm0338 import Codec
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain import sms
from app.rendering.types import content_hash

GSM = "".join(sorted(sms._SEPTETS))
ANY_TEXT = st.text(max_size=400) | st.text(st.sampled_from("aé€[]^😀ñ好\n"), max_size=800)


@pytest.mark.parametrize(
    ("text", "encoding", "units", "segments"),
    [
        ("", "gsm7", 0, 1),
        ("Your code is 123456", "gsm7", 19, 1),
        ("a" * 160, "gsm7", 160, 1),
        ("a" * 161, "gsm7", 161, 2),
        ("a" * 306, "gsm7", 306, 2),
        ("a" * 307, "gsm7", 307, 3),
        ("€", "gsm7", 2, 1),
        ("€" * 80, "gsm7", 160, 1),
        ("€" * 81, "gsm7", 162, 2),
        ("{}[]~\\|^€\f", "gsm7", 20, 1),
        ("Grüße, Ñandú à Ω", "ucs2", 16, 1),  # ú is not in the alphabet, ù is
        ("Grüße, Ñandù à Ω", "gsm7", 16, 1),
        ("ç", "ucs2", 1, 1),  # only its capital is in the alphabet
        ("好" * 70, "ucs2", 70, 1),
        ("好" * 71, "ucs2", 71, 2),
        ("好" * 135, "ucs2", 135, 3),
        ("😀" * 35, "ucs2", 70, 1),
        ("😀" * 36, "ucs2", 72, 2),
        ("a" * 69 + "😀", "ucs2", 71, 2),
        ("\x1b", "ucs2", 1, 1),  # the escape itself is no character
    ],
)
def test_a_text_takes_the_units_and_segments_of_its_alphabet(text, encoding, units, segments):
    assert sms.size(text) == sms.Size(encoding, units, segments)


def test_an_escape_sequence_is_not_split_over_two_segments():
    assert sms.split("a" * 152 + "€" + "a" * 10) == ("a" * 152, "€" + "a" * 10)


def test_a_surrogate_pair_is_not_split_over_two_segments():
    assert sms.split("好" * 66 + "😀" + "好" * 10) == ("好" * 66, "😀" + "好" * 10)


def test_room_left_before_a_pair_can_cost_a_segment():
    assert sms.size("€" * 153).segments == 3  # 306 septets, but 76 pairs fill 152 of 153


@given(ANY_TEXT)
@example("a" * 152 + "€")
@example("\ud800" * 80)
def test_the_segments_together_are_the_text_and_each_fits(text):
    parts, size = sms.split(text), sms.size(text)
    alone, each = sms.LIMITS[size.encoding]
    assert "".join(parts) == text
    assert size.segments == len(parts)
    assert all(sms._units(part, size.encoding) <= (alone if len(parts) == 1 else each) for part in parts)
    assert len(parts) == 1 or all(parts)
    assert sum(sms._units(part, size.encoding) for part in parts) == size.units


@given(ANY_TEXT)
def test_segments_are_packed_as_full_as_they_can_be(text):
    parts, encoding = sms.split(text), sms.encoding_of(text)
    each = sms.LIMITS[encoding][1]
    for part, following in zip(parts, parts[1:], strict=False):
        assert sms._units(part + following[0], encoding) > each


@given(st.text(st.sampled_from(GSM), max_size=300))
def test_septets_are_those_of_an_independent_codec(text):
    assert sms.size(text).encoding == "gsm7"
    assert sms.size(text).units == len(Codec().encode(text)[0])


def test_the_alphabet_has_137_characters():
    assert len(GSM) == 127 + 10


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_hash_of_a_text_is_the_one_rendering_makes(text):
    assert sms.content_hash(text) == content_hash("", None, text)


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("+14155550101", "+14155550101"),
        ("14155550101", "+14155550101"),
        (" 447700900123 ", "+447700900123"),
        ("4901511234567", "+491511234567"),
        ("+12345678", "+12345678"),  # too short for its country, and yet somebody texted from it
        ("12345", None),
        ("Acme", None),
        ("whatsapp:+14155550101", None),
        ("", None),
        ("+", None),
        ("٤٩١٥١١٢٣٤٥٦٧٨", None),
    ],
)
def test_a_providers_number_becomes_an_address(given, known):
    assert sms.e164(given) == known


def test_numbers_are_masked_and_names_are_not():
    assert sms.masked("+14155550101") == "…0101"
    assert sms.masked("Acme") == "Acme"


@pytest.mark.parametrize(
    "number",
    ["+14155550101", "14155550101", "+1 (415) 555-0101", "+49 151/123-45678", "+1\u00a0415\u2011555\u20110123"],
)
def test_words_for_operators_name_no_number(number):
    assert sms.without_numbers(f"The 'To' number {number} is not valid.") == "The 'To' number <number> is not valid."


def test_codes_stay_readable():
    assert sms.without_numbers("error 21211 of 2026") == "error 21211 of 2026"
