"""accept: a request is checked against what its tenant set up, and committed together with its neighbours.

A 2xx is given only for what a durable commit returned; whatever else happens, the caller is told that
nothing was accepted, or that it cannot be known yet (and then the same idempotency key finds out). I13,
I15.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from app.cache import Cache
from app.crash import Step, crash_point
from app.db import Database
from app.domain.differences import differing_paths
from app.domain.models import Channel
from app.domain.variables import check_variables
from app.errors import FieldError, InvalidFields, KeyReused, LandedError
from app.flows.group_commit import Acceptor
from app.flows.wake import Waker
from app.settings import Settings
from app.store import config
from app.store import notifications as store
from app.store.config import CategoryTerms, ContentTerms, Terms

TERMS_TTL_SECONDS = 30.0  # a lost invalidation delays a publish or an archive no longer than this
TERMS_CACHED_MAX = 10_000  # pairs of category and template, a few KB each
DIFFERENCES_SHOWN_MAX = 20

TermsCache = Cache[tuple[int, str, str], Terms]

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class NotificationRequest:
    """What a producer asks for, well-formed but not yet compared with what its tenant set up."""

    recipient_id: str
    category: str
    template_id: str
    variables: Mapping[str, Any]
    template_version: int | None = None
    channels: Sequence[Channel] | None = None
    send_at: datetime | None = None
    expires_at: datetime | None = None

    def stored(self) -> dict[str, Any]:
        """The request as it is kept and compared; ``landed.send`` builds the same from its arguments."""
        optional = {
            "template_version": self.template_version,
            "channels": None if self.channels is None else list(self.channels),
            "send_at": self.send_at and iso_utc(self.send_at),
            "expires_at": self.expires_at and iso_utc(self.expires_at),
        }
        return {
            "recipient_id": self.recipient_id,
            "category": self.category,
            "template_id": self.template_id,
            "variables": self.variables,
            **{name: value for name, value in optional.items() if value is not None},
        }


@dataclass(frozen=True, slots=True)
class AcceptItem:
    """One validated request. ``document`` is what ``landed.accept`` reads, less the ordinal: a JSON
    object.
    """

    tenant_id: int
    idempotency_key: str | None
    recipient_id: str
    request: dict[str, Any]
    document: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that breaks a rule today. Its key may have been used when it did not."""

    request: dict[str, Any]
    key: str | None
    error: InvalidFields


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the caller is answered, byte for byte. replayed: it is the stored answer to an earlier use of
    the key.
    """

    notification_id: str
    status: int
    response: bytes
    replayed: bool


Answer = Accepted | LandedError


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration has to say about a request."""

    channels: frozenset[str]
    validity_max: timedelta
    send_ahead_max: timedelta

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        # What is due later must still find the memory of what was sent: inequality (3) says how much of it
        # is to spare.
        memory = next(rule for rule in settings.time_chain() if rule.rule == "3")
        return cls(
            channels=frozenset(channel for channel in Channel if settings.accounts(channel)),
            validity_max=timedelta(seconds=settings.times.validity_seconds),
            send_ahead_max=timedelta(seconds=memory.right_seconds - memory.left_seconds),
        )


@dataclass(frozen=True, slots=True)
class Desk:
    """What accepting needs: made once for a process."""

    db: Database
    rules: Rules
    terms: TermsCache
    acceptor: Acceptor[AcceptItem, Answer]
    waker: Waker

    async def close(self) -> None:
        await self.acceptor.close()
        await self.waker.close()


def desk(db: Database, settings: Settings) -> Desk:
    key_ttl = timedelta(seconds=settings.times.key_ttl_seconds)
    waker = Waker(db, "intake")

    async def write(items: Sequence[AcceptItem]) -> list[Answer]:
        return await write_group(db, items, key_ttl=key_ttl)

    return Desk(
        db=db,
        rules=Rules.of(settings),
        waker=waker,
        terms=terms_in(db),
        acceptor=Acceptor(
            write,
            identity=lambda item: item.idempotency_key and (item.tenant_id, item.idempotency_key),
            committed=waker.soon,
            group_max=settings.api.accept_group_max,
            queue_max=settings.api.accept_queue_max,
            budget_seconds=settings.times.request_budget_seconds,
        ),
    )


def terms_in(db: Database) -> TermsCache:
    """Categories and templates, cached; clear it on the ``landed_config`` channel."""

    async def load(key: tuple[int, str, str]) -> Terms:
        async with db.transaction() as conn:
            return await config.terms(conn, *key)

    return Cache(load, ttl_seconds=TERMS_TTL_SECONDS, size_max=TERMS_CACHED_MAX)


async def accept(desk: Desk, request: NotificationRequest, *, tenant_id: int, key: str | None) -> Accepted:
    """Accepts one notification, or answers what its idempotency key answered before.

    Raises InvalidFields (KeyReused among them), KeyInUse, Unavailable.
    """
    checked = await _check(desk, request, tenant_id, key, datetime.now(UTC))
    if isinstance(checked, AcceptItem):
        answer = await desk.acceptor.accept(checked)
    else:
        [answer] = await _earlier_answers(desk, tenant_id, [checked])
    if isinstance(answer, LandedError):
        raise answer
    return answer


async def accept_many(
    desk: Desk, requests: Sequence[tuple[NotificationRequest, str]], *, tenant_id: int
) -> list[Answer]:
    """Accepts each request with its key and answers each, in order; none fails another."""
    now = datetime.now(UTC)
    checked = [await _check(desk, request, tenant_id, key, now) for request, key in requests]
    accepted = iter(await desk.acceptor.accept_many([one for one in checked if isinstance(one, AcceptItem)]))
    earlier = iter(await _earlier_answers(desk, tenant_id, [one for one in checked if isinstance(one, Refused)]))
    return [next(accepted) if isinstance(one, AcceptItem) else next(earlier) for one in checked]


async def _check(
    desk: Desk, request: NotificationRequest, tenant_id: int, key: str | None, now: datetime
) -> AcceptItem | Refused:
    terms = await desk.terms.get((tenant_id, request.category, request.template_id))
    try:
        return validate(request, tenant_id, key, terms, desk.rules, now)
    except InvalidFields as error:
        return Refused(request.stored(), key, error)


async def _earlier_answers(desk: Desk, tenant_id: int, refused: Sequence[Refused]) -> list[Answer]:
    """For each refusal what its key answered when the rules were still kept, if it did; said as durably
    as then (I13).
    """
    if not any(one.key for one in refused):
        return [one.error for one in refused]
    async with desk.db.transaction(durable=True) as conn:
        verdicts = [
            one.key and await store.stored_answer(conn, tenant_id=tenant_id, key=one.key, request=one.request)
            for one in refused
        ]
        await store.barrier(conn)
    return [
        _answer(one.request, verdict) if verdict else one.error for one, verdict in zip(refused, verdicts, strict=True)
    ]


async def write_group(db: Database, items: Sequence[AcceptItem], *, key_ttl: timedelta) -> list[Answer]:
    """Accepts a group in one durable transaction and answers each item, in order."""
    documents = b",".join(b'{"ordinal":%d,%b' % (n, item.document[1:]) for n, item in enumerate(items))
    crash_point(Step.BEFORE_ACCEPT_COMMIT)
    verdicts = await store.accept(db, f"[{documents.decode()}]", key_ttl)
    crash_point(Step.AFTER_ACCEPT_COMMIT)
    if any(verdict.verdict == "replayed" for verdict in verdicts):
        async with db.transaction(durable=True) as conn:
            await store.barrier(conn)
    return [_answer(items[verdict.ordinal].request, verdict) for verdict in verdicts]


def _answer(request: dict[str, Any], verdict: store.Verdict) -> Answer:
    match verdict.verdict:
        case "accepted" | "replayed":
            assert verdict.response is not None
            assert verdict.notification_id is not None
            return Accepted(
                notification_id=verdict.notification_id,
                status=verdict.response_status,
                response=verdict.response.encode(),
                replayed=verdict.verdict == "replayed",
            )
        case "key_reused":
            return _key_reused(request, verdict)
        case "recipient_inactive":
            return _wrong("recipient_id", f"recipient {request['recipient_id']!r} is not active")
        case _:
            return _wrong("recipient_id", f"there is no recipient {request['recipient_id']!r}")


def _key_reused(request: dict[str, Any], verdict: store.Verdict) -> KeyReused:
    paths = [] if verdict.original_request is None else differing_paths(verdict.original_request, request)
    return KeyReused(
        *(FieldError(path, "differs from the first request") for path in paths[:DIFFERENCES_SHOWN_MAX]),
        detail=f"this key was first used for notification {verdict.notification_id}, with another body",
        first_notification_id=verdict.notification_id,
    )


# -- checking a request ------------------------------------------------------------------------------------


def validate(
    request: NotificationRequest,
    tenant_id: int,
    key: str | None,
    terms: Terms,
    rules: Rules,
    now: datetime,
) -> AcceptItem:
    """The request as ``landed.accept`` takes it. Raises InvalidFields; what would be right stands in
    each message.
    """
    category = terms.category
    if category is None:
        raise _wrong("category", f"there is no category {request.category!r}")
    channels = _channels(request, category, rules)
    version, contents = _contents(request, channels, terms)
    if errors := check_variables(_declared(contents), request.variables):
        raise InvalidFields(*errors)
    expires_at = _expiry(request, category, rules, now)
    stored = request.stored()
    document = {
        "tenant_id": tenant_id,
        "idempotency_key": key,
        "recipient_id": request.recipient_id,
        "category": request.category,
        "class": category.class_,
        "channels": channels,
        "template_id": request.template_id,
        "template_version": version,
        "request": stored,
        "source": "api",
        "due_at": request.send_at,
        "expires_at": expires_at,
    }
    return AcceptItem(tenant_id, key, request.recipient_id, stored, _json.encode(document))


def _channels(request: NotificationRequest, category: CategoryTerms, rules: Rules) -> Sequence[str]:
    channels = category.channels if request.channels is None else request.channels
    for channel in channels:
        if channel not in rules.channels:
            route = "push.ios, push.android or push.web" if channel == Channel.PUSH else channel
            raise _wrong("channels", f"nothing is configured to send {channel}: routes.{route} names no provider")
    if len(set(channels)) < len(channels):
        raise _wrong("channels", "names a channel twice")
    return channels


def _contents(request: NotificationRequest, channels: Sequence[str], terms: Terms) -> tuple[int, list[ContentTerms]]:
    """The version to send and its published content for these channels (R-064, R-147, R-148)."""
    template = f"template {request.template_id!r}"
    if not terms.contents:
        raise _wrong("template_id", f"there is no {template}")
    version = request.template_version or _newest_published(template, terms)
    ours = [content for content in terms.contents if content.version == version]
    if not ours:
        raise _wrong(
            "template_version",
            f"{template} has no version {version}; the newest is {terms.contents[0].version}",
        )
    published = [content for content in ours if content.status == "published"]
    for channel in channels:
        # What goes to an endpoint is the variables themselves, whatever channel's content declares them.
        if channel != Channel.WEBHOOK and not any(content.channel == channel for content in published):
            raise _unpublished(f"{template} version {version}", channel, ours)
    if Channel.WEBHOOK not in channels:
        published = [content for content in published if content.channel in channels]
    return version, published


def _newest_published(template: str, terms: Terms) -> int:
    for content in terms.contents:
        if content.status == "published":
            return content.version
    if any(content.status == "draft" for content in terms.contents):
        raise _wrong("template_id", f"{template} has only drafts: publish one before sending")
    raise _wrong("template_id", f"{template} is archived: every version of it was withdrawn")


def _unpublished(version: str, channel: str, contents: Sequence[ContentTerms]) -> InvalidFields:
    statuses = {content.status for content in contents if content.channel == channel}
    if not statuses:
        return _wrong("channels", f"{version} has no content for {channel}")
    if "draft" in statuses:
        return _wrong("template_version", f"{version} is a draft: it can be previewed, and sent once it is published")
    return _wrong("template_version", f"{version} is archived")


def _declared(contents: Sequence[ContentTerms]) -> dict[str, dict[str, Any]]:
    declared: dict[str, dict[str, Any]] = {}
    for content in contents:
        for name, spec in content.variables.items():
            known = declared.get(name)
            if known is None or spec.get("required", True):
                declared[name] = spec
    return declared


def _expiry(request: NotificationRequest, category: CategoryTerms, rules: Rules, now: datetime) -> datetime:
    """When the notification is worthless: bounded, because the memory of what was sent is (I12;
    RELIABILITY, A.6).
    """
    due_at = max(request.send_at or now, now)
    if due_at > now + rules.send_ahead_max:
        raise _wrong("send_at", f"may be at most {rules.send_ahead_max.days} days ahead")
    if request.expires_at is None:
        validity = rules.validity_max
        if category.validity_seconds is not None:
            validity = min(validity, timedelta(seconds=category.validity_seconds))
        return due_at + validity
    if request.expires_at <= due_at:
        raise _wrong("expires_at", "must be later than send_at, and than now")
    if request.expires_at > due_at + rules.validity_max:
        seconds = rules.validity_max.total_seconds()
        raise _wrong("expires_at", f"may be at most {seconds:g} s after the notification is due")
    return request.expires_at


def iso_utc(moment: datetime) -> str:
    """``2026-01-31T08:00:00.000000Z``: one instant, one text, whatever offset it was written with."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _wrong(field: str, message: str) -> InvalidFields:
    return InvalidFields(FieldError(field, message))
