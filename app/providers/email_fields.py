"""What the adapters of email vendors have in common: what they check before a message may leave, and the words for
what becomes of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import parseaddr
from typing import Final, NamedTuple
from uuid import UUID

from app.domain.models import BounceClass, EvidenceKind, OutcomeKind
from app.errors import FieldError, InvalidFields
from app.providers.base import EmailMessage, parse_reference

BASE_URL: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-fA-F:]+\](:[0-9]{1,5})?")
#: Headers the adapters write themselves, or that would redirect or rename a message.
OWN_HEADERS: Final = frozenset(
    {"message-id", "from", "sender", "to", "cc", "bcc", "subject", "reply-to", "date", "return-path"}
    | {"content-type", "content-transfer-encoding", "mime-version", "received", "dkim-signature"}
)

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # CR and LF above all; a tab may fold a header
_HEADER_NAME: Final = re.compile(r"[!-9;-~]+")  # RFC 5322, 3.6.8: printable ASCII except the colon


def refuse_injection(message: EmailMessage) -> None:
    """The last line of defence: no value becomes a second header, a second recipient, another message id.

    Raises InvalidFields naming every field that is wrong.
    """
    for name in message.headers:
        if not _HEADER_NAME.fullmatch(name) or name.lower() in OWN_HEADERS:
            raise InvalidFields(FieldError(f"headers.{name!r}", "not a header that may be set"))
    if "," in message.to or ";" in message.to:
        raise InvalidFields(FieldError("to", "exactly one address"))
    fields = (message.to, message.sender, message.subject, message.reply_to or "", message.category)
    if _CONTROL.search("".join((*fields, *message.headers.values(), *message.tags))):
        raise InvalidFields(*_with_control_characters(message))


def named_address(value: str, field: str) -> tuple[str, str]:
    """The name and the address of ``Name <address>``. Raises InvalidFields when there is no address in it."""
    name, address = parseaddr(value)
    if "@" not in address:
        raise InvalidFields(FieldError(field, "an address, or a name and an address in angle brackets"))
    return name, address


def labels(message: EmailMessage, *, count_max: int, chars_max: int) -> list[str]:
    """The category first, then the message's own tags. Only labels: an odd one must not cost the message."""
    given = (message.category, *message.tags)
    cut = (label.encode("ascii", "replace").decode()[:chars_max].strip() for label in given)
    return list(dict.fromkeys(label for label in cut if label))[:count_max]


def check_base_url(value: str | None, field: str = "base_url") -> None:
    """Raises ValueError for what is not an origin."""
    if value is not None and not BASE_URL.fullmatch(value):
        raise ValueError(f"{field} must be http(s)://host[:port], without a path")


def check_durations(**seconds: float | None) -> None:
    """Raises ValueError naming a duration that is negative."""
    for name, value in seconds.items():
        if value is not None and value < 0:
            raise ValueError(f"{name} must not be negative")


def _with_control_characters(message: EmailMessage) -> Iterator[FieldError]:
    fields = {
        "to": message.to,
        "sender": message.sender,
        "subject": message.subject,
        "reply_to": message.reply_to or "",
        "category": message.category,
        "tags": "".join(message.tags),
        **{f"headers.{name}": value for name, value in message.headers.items()},
    }
    for name, value in fields.items():
        if _CONTROL.search(value):
            yield FieldError(name, "no line breaks or other control characters")


# -- answers to a send ---------------------------------------------------------------------------------------


def kind_of_status(status: int) -> OutcomeKind:
    """What an answer that accepts nothing means by its HTTP status alone."""
    if status in (301, 302, 307, 308, 401, 403, 404):  # a redirect is the wrong base URL: nothing was taken
        return OutcomeKind.UNAUTHORIZED
    if status == 429:
        return OutcomeKind.RATE_LIMITED
    if 400 <= status < 500 and status != 408:  # a proxy's 408 need not know what was passed on
        return OutcomeKind.REJECTED
    return OutcomeKind.UNKNOWN


# -- what becomes of a message -------------------------------------------------------------------------------

#: Enhanced status codes (RFC 3463) that refuse the sender, not the recipient: policy; the sender's address is bad.
SENDER_CODES: Final = ("5.7.", "5.1.7", "5.1.8")

_ATTEMPT_NO_MAX: Final = 32767  # a smallint in the store


class Verdict(NamedTuple):
    """What an event means for the delivery, and for the address."""

    kind: EvidenceKind
    bounce_class: BounceClass | None = None
    suppress_reason: str | None = None


NOTED: Final = Verdict(EvidenceKind.OTHER)
DELAYED: Final = Verdict(EvidenceKind.DEFERRED)
HARD: Final = Verdict(EvidenceKind.BOUNCED, BounceClass.HARD, "hard_bounce")
SOFT: Final = Verdict(EvidenceKind.BOUNCED, BounceClass.SOFT)
REPUTATION: Final = Verdict(EvidenceKind.BOUNCED, BounceClass.REPUTATION)
CONTENT: Final = Verdict(EvidenceKind.BOUNCED, BounceClass.CONTENT)
REJECTED: Final = Verdict(EvidenceKind.FAILED, BounceClass.CONTENT)
ON_ITS_LIST: Final = Verdict(EvidenceKind.FAILED, BounceClass.PROVIDER_SUPPRESSED, "provider_suppressed")
COMPLAINED: Final = Verdict(EvidenceKind.COMPLAINED, None, "complaint")
UNSUBSCRIBED: Final = Verdict(EvidenceKind.UNSUBSCRIBED, None, "unsubscribe")


def our_ids(reference: str) -> tuple[UUID | None, int | None]:
    """The delivery and the attempt of a reference that came back; (None, None) for anything else."""
    attempt = reference.rpartition(".")[2]
    found = parse_reference(reference) if attempt.isascii() and attempt.isdigit() else None
    return found if found is not None and 0 < found[1] <= _ATTEMPT_NO_MAX else (None, None)
