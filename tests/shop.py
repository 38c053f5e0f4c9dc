"""A tenant that is ready to send: a category, a published template, a recipient, a provider for email."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.factories import make_category, make_recipient, make_template
from tests.rest import Rest, running_api

SEND = "/api/v1/notifications/send"
BATCH = "/api/v1/notifications/send-batch"
MAIL = {
    "adapter": "mailgun",
    "domain": "mail.example.com",
    "api_key": "key-of-the-tests",
    "webhook_signing_key": "signing-key-of-the-tests",
}
MAIL_SETTINGS: dict[str, Any] = {"providers": {"mail": MAIL}, "routes": {"email": ("mail",)}}


@dataclass
class Shop:
    rest: Rest
    tenant: Any
    client: httpx.AsyncClient

    def request(self, **changes: Any) -> dict[str, Any]:
        """A request that is accepted; None takes a field away."""
        body = {
            "recipient_id": "ada",
            "category": "orders",
            "template_id": "order_confirmation",
            "variables": {"order_id": "A-1"},
        } | changes
        return {name: value for name, value in body.items() if value is not None}

    async def send(self, key: str | None = "order_confirmation:A-1", **changes: Any) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.client.post(SEND, json=self.request(**changes), headers=headers)

    async def counted(self, table: str) -> int:
        [(count,)] = await self.rest.rows(f"SELECT count(*) FROM store.{table} WHERE tenant_id = %s", self.tenant.id)
        return count


async def open_shop(rest: Rest) -> Shop:
    """A new tenant with all it takes to send to ``ada``."""
    tenant, client = await rest.tenant()
    await make_category(rest.conn, tenant_id=tenant.id, name="orders")
    await make_template(rest.conn, tenant_id=tenant.id, template_id="order_confirmation")
    await make_recipient(rest.conn, tenant_id=tenant.id, id="ada", email="ada@example.com")
    return Shop(rest, tenant, client)


@contextlib.asynccontextmanager
async def running_shop(dsn: str, data_dir: Path, **settings: Any) -> AsyncIterator[Shop]:
    async with running_api(dsn, data_dir, **{**MAIL_SETTINGS, **settings}) as rest:
        yield await open_shop(rest)
