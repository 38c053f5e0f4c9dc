"""Tenants and their API keys: what must be there before anybody can call the API."""

from __future__ import annotations

from email.utils import parseaddr
from typing import Any

import click
from psycopg import errors

from app.commands.database import connected, dsn_of, run
from app.commands.endings import Refused
from app.commands.output import console, json_option, notes, print_json, print_table
from app.db import Connection
from app.settings import load_settings
from app.store import api_keys, tenants

SCOPES = ("send", "read", "admin")


@click.group()
def tenant() -> None:
    """Create and list tenants."""


@tenant.command()
@click.argument("name")
@click.option("--sender", required=True, help="Default From of its email: 'Shop <shop@example.com>'.")
@click.option("--reply-to", help="Default Reply-To.")
@click.option("--promotional-sender", help="From of promotional email, on a domain of its own.")
@json_option
def create(name: str, sender: str, reply_to: str | None, promotional_sender: str | None, as_json: bool) -> None:
    """Create a tenant: a producer's isolated space."""
    if promotional_sender is not None and _domain(promotional_sender) == _domain(sender):
        raise Refused(
            "promotional-sender is on the domain of sender: what campaigns do to its reputation would touch receipts"
        )
    created = run(_create(dsn_of(load_settings()), name, sender, reply_to, promotional_sender))
    if as_json:
        print_json(created)
    else:
        console().print(f"{created.name} created; `landed key create {created.name}` makes its first API key")


def _domain(sender: str) -> str:
    return parseaddr(sender)[1].rpartition("@")[2].lower()


async def _create(
    dsn: str, name: str, sender: str, reply_to: str | None, promotional_sender: str | None
) -> tenants.Tenant:
    async with connected(dsn) as conn:
        try:
            return await tenants.create_tenant(conn, name, sender, reply_to, promotional_sender)
        except errors.UniqueViolation:
            raise Refused(f"there is a tenant {name!r} already") from None
        except errors.CheckViolation:
            raise Refused("a name is of a-z, 0-9, - and _, up to 63 characters; a sender is one line") from None


@tenant.command("list")
@json_option
def list_tenants(as_json: bool) -> None:
    """List all tenants."""
    found = run(_tenants(dsn_of(load_settings())))
    if as_json:
        print_json(found)
    else:
        print_table("Tenants", [_row(one) for one in found], "name", "sender", "reply_to", "created_at")


async def _tenants(dsn: str) -> list[tenants.Tenant]:
    async with connected(dsn) as conn:
        return await tenants.list_tenants(conn)


@click.group()
def key() -> None:
    """Create, list and revoke API keys."""


@key.command("create")
@click.argument("tenant")
@click.option("--name", default="cli", show_default=True, help="What it is for.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="May be repeated; else all three.")
@click.option(
    "--rate",
    "rate_per_second",
    default=1000,
    show_default=True,
    type=click.IntRange(1),
    help="Items a second.",
)
@json_option
def create_key(tenant: str, name: str, scopes: tuple[str, ...], rate_per_second: int, as_json: bool) -> None:
    """Create an API key for TENANT and print it: it is shown once and never again."""
    plain, id = run(_create_key(dsn_of(load_settings()), tenant, name, scopes or SCOPES, rate_per_second))
    if as_json:
        print_json({"id": id, "key": plain})
    else:
        console().print(plain)
        notes().print(f"key {id} of {tenant}; keep it now, it cannot be shown again", style="dim")


async def _create_key(dsn: str, tenant: str, name: str, scopes: tuple[str, ...], rate: int) -> tuple[str, int]:
    from app.api.auth import mint_api_key  # with it comes all of the API, which no other command here needs

    plain, prefix, digest = mint_api_key()
    async with connected(dsn) as conn:
        owner = await _existing(conn, tenant)
        id = await api_keys.insert(
            conn,
            tenant_id=owner.id,
            name=name,
            prefix=prefix,
            digest=digest,
            scopes=scopes,
            rate_per_second=rate,
            burst=2 * rate,
        )
    return plain, id


@key.command("revoke")
@click.argument("tenant")
@click.argument("id", type=int)
def revoke(tenant: str, id: int) -> None:
    """Revoke API key ID of TENANT, at once."""
    if not run(_revoke(dsn_of(load_settings()), tenant, id)):
        raise Refused(f"{tenant} has no key {id} in force")
    console().print(f"key {id} of {tenant} revoked")


async def _revoke(dsn: str, tenant: str, id: int) -> bool:
    async with connected(dsn) as conn:
        owner = await _existing(conn, tenant)
        return await api_keys.revoke(conn, tenant_id=owner.id, key_id=id)


@key.command("list")
@click.argument("tenant")
@json_option
def list_keys(tenant: str, as_json: bool) -> None:
    """List the API keys of TENANT; of each, only what may be shown."""
    found = run(_keys(dsn_of(load_settings()), tenant))
    if as_json:
        print_json(found)
    else:
        columns = ("id", "name", "prefix", "scopes", "rate_per_second", "created_at", "revoked_at")
        print_table(f"Keys of {tenant}", [_row(one) for one in found], *columns)


async def _keys(dsn: str, tenant: str) -> list[tenants.ApiKey]:
    async with connected(dsn) as conn:
        owner = await _existing(conn, tenant)
        return await tenants.list_api_keys(conn, owner.id)


async def _existing(conn: Connection, name: str) -> tenants.Tenant:
    found = await tenants.get_tenant(conn, name)
    if found is None:
        raise Refused(f"there is no tenant {name!r}; `landed tenant list` shows them")
    return found


def _row(thing: Any) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in thing.__slots__}
