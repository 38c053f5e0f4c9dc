"""A tenant to begin with: its key, categories, templates and recipients. Done again, it changes nothing."""

from __future__ import annotations

from pathlib import Path

from app.api.auth import digest_of, mint_api_key
from app.commands.client import Access, Client
from app.commands.database import connected
from app.commands.templates import push_one
from app.db import Connection
from app.demo.scenarios import CATEGORIES, playground
from app.rendering.files import load_templates
from app.store import api_keys, tenants

TENANT = "demo"
SENDER = "Northwind <hello@sandbox.landed.test>"
SCOPES = ("send", "read", "admin")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "templates"
BOMBS = Path(__file__).resolve().parent / "templates"


async def tenant_and_key(dsn: str, data_dir: Path, url: str) -> Access:
    """The demo tenant's key: the one kept in ``data_dir`` while this database knows it, else a new one."""
    kept = Access.load(data_dir)
    async with connected(dsn) as conn:
        tenant = await tenants.get_tenant(conn, TENANT) or await tenants.create_tenant(conn, TENANT, SENDER)
        known = kept and await api_keys.find(conn, digest_of(kept.key))
        key = kept.key if kept and known else await _new_key(conn, tenant.id)
    access = Access(url, key)
    access.save(data_dir)
    return access


async def _new_key(conn: Connection, tenant_id: int) -> str:
    plain, prefix, digest = mint_api_key()
    await api_keys.insert(conn, tenant_id=tenant_id, name="demo", prefix=prefix, digest=digest, scopes=SCOPES)
    return plain


def set_up(client: Client) -> None:
    """What the tenant sends, by REST as anybody would."""
    for name, rules in CATEGORIES.items():
        client.put(f"/api/v1/categories/{name}", rules)
    for template in (*load_templates(EXAMPLES), *load_templates(BOMBS)):
        push_one(client, template, publish=True)
    client.post("/api/v1/recipients", {"items": playground()})
