"""Addresses, senders, locales, time zones: the normal form of each, or ValueError saying what is wrong.

No look-ups: whether a mailbox exists is for the receiving server to say.
"""

from __future__ import annotations

import re
import zoneinfo
from email.headerregistry import Address
from functools import cache, lru_cache
from uuid import UUID

import phonenumbers
from email_validator import EmailNotValidError, validate_email

PHONE = re.compile(r"\+[0-9 ()./\u00a0\u2010-\u2015-]{1,40}")  # longer is no number in any notation
# BCP 47 without its rare extensions: language, script, region, variants.
LOCALE = re.compile(
    r"[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|[0-9]{3}))?(-([A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3})){0,4}"
)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
NAMED = re.compile(r'(?:"(?P<quoted>[^"\\]*)"|(?P<plain>[^"<>\\]*?))\s*<(?P<address>[^<>]*)>')
E164_CHARS_MAX = 16  # ITU-T E.164, 6.1: fifteen digits, which a few countries' own plans overrun
SENDER_CHARS_MAX = 400  # an address has 254 at most (RFC 5321); the rest is for its name


def one_line(value: str) -> str:
    """Anything that ends up in a header or an address: a line break in it would begin a header of its own."""
    if CONTROL.search(value):
        raise ValueError("must not contain line breaks or other control characters")
    return value


def email(value: str) -> str:
    """The address, its domain in lower case and ASCII, so that providers' reports about it can be matched.

    ``.test`` domains pass: they are reserved for trying things out. Local parts beyond ASCII do not: mail to
    them needs SMTPUTF8 on the whole way (RFC 6531).
    """
    try:
        found = validate_email(one_line(value), check_deliverability=False, allow_smtputf8=False, test_environment=True)
    except EmailNotValidError as exc:
        raise ValueError(f"is not an email address: {exc}") from exc
    assert found.ascii_email is not None
    return found.ascii_email


def sender(value: str) -> str:
    """``Name <address>`` or an address alone, as one header value."""
    if len(one_line(value)) > SENDER_CHARS_MAX:
        raise ValueError(f"must not be longer than {SENDER_CHARS_MAX} characters")
    named = NAMED.fullmatch(value.strip())
    if named is None:
        return email(value.strip())
    return str(Address(named["quoted"] or named["plain"] or "", addr_spec=email(named["address"])))


def phone(value: str) -> str:
    """E.164: a plus, the country code, the number. Blanks, brackets, dots, slashes and hyphens may stand between.

    A number of a country without its code is refused: nothing tells us which country. So is one that nobody can have:
    it is neither known to the numbering plans nor as long as a mobile's number there is, as when digits are missing.
    Not every number that the plans do not know is: ranges are opened faster than releases of this are installed, and a
    number kept for fiction or for trying things out (+1 555 123 4567, +44 7700 900123) is to be taken. Whether it
    reaches anybody is for the provider to say.
    """
    given = value.strip(" ")
    if not PHONE.fullmatch(given):
        raise ValueError("must be a phone number with its country code, such as +49 1511 2345678")
    try:
        number = phonenumbers.parse(given)
    except phonenumbers.NumberParseException:
        raise ValueError("must begin with a country code that exists, such as +49") from None
    normal = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    if len(normal) > E164_CHARS_MAX:
        raise ValueError(f"has too many digits for a phone number of country code +{number.country_code}")
    if phonenumbers.is_valid_number(number):
        return normal
    match phonenumbers.is_possible_number_for_type_with_reason(number, phonenumbers.PhoneNumberType.MOBILE):
        case phonenumbers.ValidationResult.IS_POSSIBLE:
            return normal
        case phonenumbers.ValidationResult.TOO_LONG:
            raise ValueError(f"has too many digits for a phone number of country code +{number.country_code}")
        case phonenumbers.ValidationResult.TOO_SHORT | phonenumbers.ValidationResult.IS_POSSIBLE_LOCAL_ONLY:
            raise ValueError(f"has too few digits for a phone number of country code +{number.country_code}")
        case _:
            raise ValueError(f"is no phone number that country code +{number.country_code} has")


def country(phone: str) -> str | None:
    """ISO 3166-1 of an E.164 number, as far as its numbering plan tells; None for what belongs to no country."""
    for digits in (1, 2, 3):
        regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(_number(phone[1 : digits + 1]))
        if regions is not None:
            return _region(phone) if len(regions) > 1 else _known(regions[0])
    return None


def _number(digits: str) -> int:
    return int(digits) if digits.isdecimal() else 0


@lru_cache(maxsize=50_000)  # forty microseconds each, and the same people get texts again
def _region(phone: str) -> str | None:
    """One of several countries that share a code, as +1 is shared."""
    try:
        number = phonenumbers.parse(phone)
    except phonenumbers.NumberParseException:
        return None
    return _known(phonenumbers.region_code_for_number(number))


def _known(region: str | None) -> str | None:
    return None if region is None or region == phonenumbers.REGION_CODE_FOR_NON_GEO_ENTITY else region


def endpoint_id(value: str) -> str:
    """The id of a registered endpoint, in its one spelling."""
    return _id(value, "must be the id of an endpoint, as POST /api/v1/endpoints answers it")


def device_id(value: str) -> str:
    """The id of a registered device, in its one spelling: not its token, which changes while the device stays."""
    return _id(value, "must be the id of a device, as POST /api/v1/devices/register answers it")


def _id(value: str, rule: str) -> str:
    try:
        return str(UUID(value))
    except ValueError:
        raise ValueError(rule) from None


def time_zone(value: str) -> str:
    """A name of the IANA time zone database."""
    if value not in _time_zones():
        raise ValueError("must be an IANA time zone, such as Europe/Berlin")
    return value


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def locale(value: str) -> str:
    """A BCP 47 language tag: de, pt-BR, zh-Hant-TW."""
    if not LOCALE.fullmatch(value):
        raise ValueError("must be a language tag, such as de or pt-BR")
    return value


def normalise(channel: str, address: str) -> str:
    """An address of any channel as deliveries have it, checked as far as the channel allows."""
    match channel:
        case "email":
            return email(address)
        case "sms":
            return phone(address)
        case "push":
            return device_id(address)
        case "webhook" | "chat":
            return endpoint_id(address)
        case _:
            return one_line(address).strip()
