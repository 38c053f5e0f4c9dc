"""What an SMTP reply says: one table for the answers to a send and for the reports that come later.

The enhanced code (RFC 3463: class.subject.detail) is preferred where one is given, since basic codes are shared by
unlike things; words decide only where the codes leave it open. An address is blamed on plain signs alone: a bare 550
may as well be a block list (PROVIDERS, section 5; R-112, R-113).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

TEXT_CHARS_MAX: Final = 500


class Refusal(StrEnum):
    """Why a message was not taken. The first four are temporary by their nature, MAILBOX_FULL may be either."""

    TEMPORARY = "temporary"
    GREYLISTED = "greylisted"  # come again, but not before five minutes have passed
    TOO_FAST = "too_fast"  # slow down
    TOO_MANY_CONNECTIONS = "too_many_connections"
    CREDENTIALS = "credentials"
    SENDER = "sender"  # the address it is sent from
    RELAY = "relay"  # we may not send through this server at all
    RECIPIENT = "recipient"  # the address is bad
    MAILBOX_FULL = "mailbox_full"
    CONTENT = "content"
    POLICY = "policy"  # a block list, DKIM, SPF, DMARC: we were refused, not the address
    PROTOCOL = "protocol"
    OTHER = "other"


def classify(code: int, enhanced: str, words: str) -> Refusal:
    """Why, from a basic code (0 for none), an enhanced one ("" for none), and the server's words."""
    detail = enhanced.partition(".")[2]
    if _NO_RELAY_WORDS.search(words) or _ACCOUNT_WORDS.search(words):
        return Refusal.RELAY  # 454 in Postfix's cautious default, 550 or 554 elsewhere
    temporary = code // 100 == 4 if code else enhanced.startswith("4")
    return _temporary(code, detail, words) if temporary else _permanent(code, detail, words)


def enhanced_code(text: str) -> str:
    """RFC 3463's code at the beginning of a reply's text, or of a diagnostic that repeats the basic code first.

    Nowhere else: further on, numbers with two dots are versions and addresses.
    """
    found = _ENHANCED.match(text)
    return found[1] if found else ""


def redacted(words: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """For operators and timelines: one line any store takes, bounded, without addresses."""
    line = " ".join(words[: chars_max * 4].replace("\0", "").split())
    return _ADDRESS.sub("<address>", line.encode("utf-8", "replace").decode())[:chars_max]


_ENHANCED: Final = re.compile(r"\s*(?:[245]\d\d[ -])?\s*#?([245]\.\d{1,3}\.\d{1,3})(?![\w.])")
# A local part is bounded, and begins where no other could: this must stay fast on whatever a stranger writes.
_ADDRESS: Final = re.compile(r"(?<![^\s<>\"'(),;:=])[^\s<>\"'(),;:=@]{1,128}@[^\s<>\"'(),;:@]+")

_NO_RELAY_WORDS: Final = re.compile(
    r"\brelay(ing)? (access )?(is )?(denied|not (allowed|permitted)|prohibited)|unable to relay", re.I
)
# SES gives no enhanced code. Its "Access denied: User ... is not authorized to perform ses:SendRawEmail" is told by the
# action: Exchange says "Access denied" of a recipient.
_ACCOUNT_WORDS: Final = re.compile(
    r"not authorized to perform\W{1,5}ses:|\bsending (suspended|paused) for this account", re.I
)
_UNVERIFIED_WORDS: Final = re.compile(r"\bemail address is not verified", re.I)
# Postfix and Exchange, both under 5.7.1, which is also what a block list says.
_SENDER_WORDS: Final = re.compile(
    r"sender address rejected: not (owned by user|logged in)\b|not have permissions? to send as this sender", re.I
)
_GREYLIST_WORDS: Final = re.compile(r"gr[ae]y-?list", re.I)
_CONNECTION_WORDS: Final = re.compile(r"too many (concurrent |simultaneous )?(smtp )?(connections|sessions)", re.I)
_RATE_WORDS: Final = re.compile(r"\brate\b|\brate-?limit|throttl|(sending|hourly|daily) (limit|quota)", re.I)
_BLOCK_WORDS: Final = re.compile(r"spam|\bblock|blacklist|reputation|dnsbl|\brbl\b|policy|dmarc|\bspf\b|dkim", re.I)
_FULL_WORDS: Final = re.compile(r"(mailbox|inbox|account) (is )?full|quota|exceeded storage|insufficient storage", re.I)
_SIZE_WORDS: Final = re.compile(r"too (large|big|long)|message size|size (limit|exceed)|maximum.{0,20}size", re.I)
_NO_MAILBOX_WORDS: Final = re.compile(
    r"(unknown|no such|invalid|non-?existent|bad) (user|recipient|mailbox|account|address)\b|"
    r"(user|recipient|mailbox|account|address)( name)? (is |was )?(unknown|invalid|not (found|known))|"
    r"(user|recipient|mailbox|account|address) (is |was |has been )?(disabled|inactive|deactivated)|"
    r"(does not|doesn't|do not) exist|no mailbox",
    re.I,
)

_GREYLIST_DETAILS: Final = frozenset({"2.0", "7.0", "7.1"})
_CREDENTIAL_CODES: Final = frozenset({530, 534, 535, 538})
_NO_MAILBOX_CODES: Final = frozenset({0, 550, 551, 553})
_UNDEFINED: Final = frozenset({"", "0.0", "1.0", "2.0"})  # "other or undefined": the words may tell more
_PERMANENT: Final[Mapping[str, Refusal]] = {
    "1.1": Refusal.RECIPIENT,
    "1.2": Refusal.RECIPIENT,
    "1.3": Refusal.RECIPIENT,
    "1.6": Refusal.RECIPIENT,
    "1.7": Refusal.SENDER,
    "1.8": Refusal.SENDER,
    "1.10": Refusal.RECIPIENT,  # null MX (RFC 7505)
    "2.1": Refusal.RECIPIENT,
    "2.2": Refusal.MAILBOX_FULL,
    "2.3": Refusal.CONTENT,
    "3.4": Refusal.CONTENT,
    "7.8": Refusal.CREDENTIALS,
    "7.9": Refusal.CREDENTIALS,
    "7.11": Refusal.CREDENTIALS,
    "7.60": Refusal.SENDER,
}
_PERMANENT_SUBJECTS: Final[Mapping[str, Refusal]] = {
    "5": Refusal.PROTOCOL,
    "6": Refusal.CONTENT,
    "7": Refusal.POLICY,
}


def _temporary(code: int, detail: str, words: str) -> Refusal:
    if _GREYLIST_WORDS.search(words):
        return Refusal.GREYLISTED
    if detail == "2.2":
        return Refusal.MAILBOX_FULL
    if _CONNECTION_WORDS.search(words):
        return Refusal.TOO_MANY_CONNECTIONS
    if code == 454 or detail == "7.28" or _too_fast(detail, words):
        return Refusal.TOO_FAST
    if code in (450, 451) and detail in _GREYLIST_DETAILS:
        return Refusal.GREYLISTED
    return Refusal.TEMPORARY


def _permanent(code: int, detail: str, words: str) -> Refusal:
    if code in _CREDENTIAL_CODES:
        return Refusal.CREDENTIALS
    if _SENDER_WORDS.search(words):
        return Refusal.SENDER
    known = _PERMANENT.get(detail) or _PERMANENT_SUBJECTS.get(detail.partition(".")[0])
    if known is not None:
        return known
    if _too_fast(detail, words):
        return Refusal.TOO_FAST
    if detail in _UNDEFINED:
        return _by_words(code, words)
    return Refusal.OTHER


def _too_fast(detail: str, words: str) -> bool:
    """ "Receiving mail at a rate" is said of one mailbox (x.2.1): no reason to slow down for all others."""
    return not detail.startswith("2.") and _RATE_WORDS.search(words) is not None


def _by_words(code: int, words: str) -> Refusal:
    """Where no enhanced code says more than "undefined"."""
    if code == 552:  # R-113, unless it speaks of the message
        return Refusal.CONTENT if _SIZE_WORDS.search(words) else Refusal.MAILBOX_FULL
    if code == 556:  # RFC 7504: the domain takes no mail
        return Refusal.RECIPIENT
    if 500 <= code <= 504:
        return Refusal.PROTOCOL
    if _UNVERIFIED_WORDS.search(words):
        return Refusal.SENDER
    if _BLOCK_WORDS.search(words):
        return Refusal.POLICY
    if _FULL_WORDS.search(words):
        return Refusal.MAILBOX_FULL
    if code in _NO_MAILBOX_CODES and _NO_MAILBOX_WORDS.search(words):
        return Refusal.RECIPIENT
    return Refusal.OTHER
