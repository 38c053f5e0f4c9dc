"""fan_out: what happened to deliveries is told to the endpoints that listen; a disabled endpoint, to its owner.

One batch, one transaction, like intake: a status event is gone exactly when the deliveries it leads to are there. What
is told to an endpoint is not told of itself (``store.tell_status``): that would never end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import structlog

from app.db import Connection, Database
from app.domain.models import Channel, DeliveryState
from app.settings import Settings
from app.store import endpoints as store

log = structlog.get_logger()

TEST: Final = "landed.test"
DISABLED: Final = "endpoint.disabled"
# What there is to listen to. On the way to its end a delivery passes states that may be worth knowing; queued and
# sending are none of them.
STATUS_EVENTS: Final = (
    *(f"delivery.{state}" for state in DeliveryState if state not in (DeliveryState.QUEUED, DeliveryState.SENDING)),
    *(f"delivery.{what}" for what in ("opened", "clicked", "complained", "unsubscribed")),
    DISABLED,
)
FILTERS: Final = ("*", *dict.fromkeys(f"{event.partition('.')[0]}.*" for event in STATUS_EVENTS), *STATUS_EVENTS)

# Mail of Landed's own to the owners of endpoints. A changed text is a new version.
OWNER_MAIL: Final = store.OwnerMail(
    category="landed-operations",
    template_id="landed-endpoint-disabled",
    template_version=1,
    subject="Webhook endpoint {{ name }} was disabled",
    text="""\
Landed no longer sends events to your endpoint {{ name }} at {{ host }}.

Why: {{ why }}
Last failure: {{ last_failure }}
Disabled at: {{ disabled_at }}

Events of before then are kept for some days, those of after it are not. Once the endpoint works again, enable it and
have what it missed sent again:

  POST /api/v1/endpoints/{{ endpoint_id }}/enable
  POST /api/v1/endpoints/{{ endpoint_id }}/replay   {"since": "<when it began to fail>"}
""",
    variables={
        name: {"required": True} for name in ("name", "host", "why", "last_failure", "disabled_at", "endpoint_id")
    },
)
WHY: Final = {
    "gone": "it answered 410 Gone, which asks us to stop.",
    "failing": "every call has failed for days.",
}


async def fan_out(db: Database, settings: Settings, *, limit: int) -> tuple[int, frozenset[str]]:
    """Takes up to ``limit`` status events. Answers how many there were and the lanes that got work."""
    async with db.transaction() as conn:
        fanned = await store.fan_out(conn, limit=limit, span_seconds=settings.endpoints.span_seconds)
        if fanned.owners:
            await _write_to_owners(conn, settings, fanned.owners)
    return fanned.events, frozenset(fanned.lanes)


async def _write_to_owners(conn: Connection, settings: Settings, owners: Sequence[Mapping[str, Any]]) -> None:
    """Through Landed itself, in the tenant's own name, if this configuration has a provider for email."""
    if not settings.accounts(Channel.EMAIL):
        log.warning("endpoint_owners_not_told", reason="no route for email", owners=len(owners))
        return
    recipients = {
        owner["endpoint_id"]: {
            "tenant_id": owner["tenant_id"],
            "recipient_id": _recipient_id(owner),
            "email": owner["email"],
        }
        for owner in owners
    }
    await store.prepare_owner_mail(conn, OWNER_MAIL, list(recipients.values()))
    expires_at = datetime.now(UTC) + timedelta(seconds=settings.times.validity_seconds)
    verdicts = await store.accept(conn, [_item(i, owner, expires_at) for i, owner in enumerate(owners)])
    log.info("endpoint_owners_told", verdicts=verdicts)


def _item(ordinal: int, owner: Mapping[str, Any], expires_at: datetime) -> dict[str, Any]:
    """As ``landed.accept`` reads it. The event's id is the key: told once."""
    request = {
        "recipient_id": _recipient_id(owner),
        "category": OWNER_MAIL.category,
        "template_id": OWNER_MAIL.template_id,
        "variables": {
            "name": owner["name"],
            "host": urlsplit(owner["url"]).netloc,
            "why": WHY.get(owner["reason"], owner["reason"]),
            "last_failure": owner["last_failure"] or "none",
            "disabled_at": owner["disabled_at"],
            "endpoint_id": owner["endpoint_id"],
        },
    }
    return {
        "ordinal": ordinal,
        "tenant_id": owner["tenant_id"],
        "idempotency_key": f"{DISABLED}:{owner['event_id']}",
        "recipient_id": request["recipient_id"],
        "category": OWNER_MAIL.category,
        "class": "transactional",
        "channels": ["email"],
        "template_id": OWNER_MAIL.template_id,
        "template_version": OWNER_MAIL.template_version,
        "request": request,
        "source": "api",
        "expires_at": expires_at.isoformat(),
    }


def _recipient_id(owner: Mapping[str, Any]) -> str:
    return f"endpoint-owner:{owner['endpoint_id']}"
