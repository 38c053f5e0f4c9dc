"""reproduce: the content of a delivery made again, and held against the hash of what was sent (R-138).

Templates are immutable and variables are stored, so the same words come out; if ever they do not, the hash
says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from app.db import Connection
from app.errors import NotFound, TemplateRenderError
from app.flows.compose import data_only
from app.rendering.pool import RenderPool
from app.rendering.types import Rendered, RenderJob, TemplateSource
from app.store import operate, templates, tenants


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What was sent, as it can be shown now. matches: None when nothing was ever sent."""

    made_from: operate.Rendered
    content: Rendered

    @property
    def matches(self) -> bool | None:
        recorded = self.made_from.content_hash
        return None if recorded is None else recorded == self.content.content_hash


async def reproduce(conn: Connection, renderer: RenderPool, delivery_id: UUID) -> Reproduction:
    """Raises TemplateRenderError when it cannot be rendered, as it could not be then."""
    made_from = await operate.rendered(conn, delivery_id)
    content = await _content(conn, made_from)
    if content is None:
        return Reproduction(made_from, data_only(made_from.variables))
    extras = tuple(content.extras.items())
    source = TemplateSource(f"reproduce/{delivery_id}", content.subject or "", content.html, content.text, extras)
    (result,) = await renderer.render([RenderJob(source, made_from.variables)])
    if isinstance(result, TemplateRenderError):
        raise result
    return Reproduction(made_from, result)


async def _content(conn: Connection, made_from: operate.Rendered) -> templates.Content | None:
    """What its template says on its channel; None for what goes to an endpoint as data."""
    if made_from.template_version == 0:
        return None
    tenant = await tenants.get_tenant(conn, made_from.tenant)
    template = tenant and await templates.get(conn, tenant.id, made_from.template_id, made_from.template_version)
    if not template:
        raise NotFound(f"template {made_from.template_id} version {made_from.template_version} is gone")
    return next((c for c in template.wording.contents if c.channel == made_from.channel), None)
