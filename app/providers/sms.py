"""What the SMS adapters share: the last checks before a text leaves, its fate in our words, and signed webhooks."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from app.domain.models import BounceClass, EvidenceKind, OutcomeKind
from app.domain.sms import without_numbers
from app.errors import FieldError, InvalidFields, WebhookRefused
from app.providers import reading
from app.providers.base import SmsMessage, WebhookRequest, parse_reference

ATTEMPTS_MAX: Final = 32767  # a smallint

FORM: Final = "application/x-www-form-urlencoded"
SENDER: Final = re.compile(r"\+?[0-9]{3,15}|[A-Za-z0-9][A-Za-z0-9 &_.-]{0,10}")
SENDER_RULE: Final = "sender must be a number such as +14155550100, a short code, or a name of up to 11 characters"

_BASE_URL: Final = re.compile(r"https?://[^/?#@\s]+")
_E164: Final = re.compile(r"\+[1-9][0-9]{4,14}")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


# -- what becomes of a message -----------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What a provider's word for a message's fate is in ours."""

    kind: EvidenceKind
    bounce_class: BounceClass | None = None
    suppress_reason: str | None = None


ACCEPTED: Final = Verdict(EvidenceKind.ACCEPTED)
DELIVERED: Final = Verdict(EvidenceKind.DELIVERED)
OTHER: Final = Verdict(EvidenceKind.OTHER)
HARD: Final = Verdict(EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce")
SOFT: Final = Verdict(EvidenceKind.BOUNCED, BounceClass.SOFT)
REPUTATION: Final = Verdict(EvidenceKind.BOUNCED, BounceClass.REPUTATION)
CONTENT: Final = Verdict(EvidenceKind.FAILED, BounceClass.CONTENT)
GAVE_UP: Final = Verdict(EvidenceKind.FAILED)  # through no fault of the address
#: The provider blocks it because its owner said STOP: an opt-out like any other, whoever heard it.
OPTED_OUT: Final = Verdict(EvidenceKind.FAILED, BounceClass.PROVIDER_SUPPRESSED, "opted_out")


# -- sending -----------------------------------------------------------------------------------------------------------


def check_base_url(base_url: str | None, name: str = "base_url") -> None:
    if base_url is not None and not _BASE_URL.fullmatch(base_url):
        raise ValueError(f"{name} must be http(s)://host[:port], without a path")


def check_account(*, base_url: str | None, lookup_settle_seconds: float | None = None) -> None:
    """Raises ValueError for settings that no account can work with."""
    check_base_url(base_url)
    if lookup_settle_seconds is not None and lookup_settle_seconds < 0:
        raise ValueError("lookup_settle_seconds must not be negative")


def refuse_unsendable(message: SmsMessage, *, chars_max: int | None = None) -> None:
    """Raises InvalidFields for what must never leave."""
    errors = []
    if not _E164.fullmatch(message.to):
        errors.append(FieldError("to", "must be one phone number in E.164 form"))
    if not message.text:
        errors.append(FieldError("text", "must not be empty"))
    if chars_max is not None and len(message.text) > chars_max:
        errors.append(FieldError("text", f"at the most {chars_max} characters"))
    if _SURROGATE.search(message.text):
        errors.append(FieldError("text", "must not contain half of a surrogate pair"))
    if errors:
        raise InvalidFields(*errors)


def kind_of_status(status: int) -> OutcomeKind:
    """What an answer without a message id means by its HTTP status alone."""
    if status in (401, 402, 403, 404) or 300 <= status < 400:  # a redirect is the wrong base URL: nothing was taken
        return OutcomeKind.UNAUTHORIZED
    if status == 429:
        return OutcomeKind.RATE_LIMITED
    if 400 <= status < 500 and status != 408:  # a proxy's 408 need not know what was passed on
        return OutcomeKind.REJECTED
    return OutcomeKind.UNKNOWN


# -- webhooks ----------------------------------------------------------------------------------------------------------


def malformed(detail: str) -> WebhookRefused:
    return WebhookRefused(detail, reason="malformed", status=400)


def forged(detail: str) -> WebhookRefused:
    return WebhookRefused(detail, reason="forged", status=401)


def is_one_of(given: str, expected: Iterable[str]) -> bool:
    """Compares in constant time, and with every candidate."""
    raw, found = given.encode("utf-8", "replace"), False
    for candidate in expected:
        found |= hmac.compare_digest(candidate.encode(), raw)
    return found


def refuse_stale(
    signed_at: datetime | None, now: datetime, *, age_max_seconds: float, ahead_max_seconds: float
) -> None:
    """Raises WebhookRefused for a signature from another time; one that names none is judged by its event alone."""
    if signed_at is None:
        return
    age = (now - signed_at).total_seconds()
    if not -ahead_max_seconds <= age <= age_max_seconds:
        raise WebhookRefused(f"signed {age:.0f} s ago", reason="stale", status=400)


def media_type(request: WebhookRequest) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def form_pairs(body: bytes) -> list[tuple[str, str]]:
    return parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)


def query_pairs(url: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:
        return []


def correlation(given: Any) -> tuple[UUID | None, int | None]:
    """Our delivery and attempt from a reference that went out and came back; both None for anything else."""
    found = parse_reference(reading.text(given, 60))
    return found if found is not None and 0 < found[1] <= ATTEMPTS_MAX else (None, None)


# -- reading -----------------------------------------------------------------------------------------------------------


def json_object(body: bytes) -> Mapping[str, Any]:
    value = reading.document(body)
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects of what should be a list of them."""
    return [item for item in reading.items(value) if isinstance(item, dict)]


def code(value: Any) -> int | None:
    """An error code, as a number or in digits."""
    text = reading.text(value, 10)
    return int(text) if text.isascii() and text.isdigit() else None


def words(value: Any) -> str:
    """For operators and logs: one line, bounded, without anybody's number."""
    line = without_numbers(" ".join(reading.text(value, 2000).split()))
    return line[: reading.DETAIL_CHARS_MAX]


def mail_date(value: Any) -> datetime | None:
    """A date of RFC 2822 in UTC, None outside 2000 to 2099 as for any other."""
    try:
        date = parsedate_to_datetime(value.strip()) if isinstance(value, str) else None
        return date and reading.moment((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None


def told(**data: Any) -> dict[str, Any]:
    """What the timeline shows of a fact: whatever there is of it."""
    return {name: value for name, value in data.items() if value not in (None, "")}
