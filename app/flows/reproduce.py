"""reproduce: the content of a delivery made again, and held against the hash of what was sent (R-138).

Templates are immutable and variables are stored, so the same words come out; if ever they do not, the hash
says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from app.db import Connection
from app.errors import NotFound, TemplateRenderError
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
    template = await _template(conn, made_from)
    source = TemplateSource(f"reproduce/{delivery_id}", template.subject, template.html, template.text)
    (result,) = await renderer.render([RenderJob(source, made_from.variables)])
    if isinstance(result, TemplateRenderError):
        raise result
    return Reproduction(made_from, result)


async def _template(conn: Connection, made_from: operate.Rendered) -> templates.Template:
    tenant = await tenants.get_tenant(conn, made_from.tenant)
    template = tenant and await templates.get(conn, tenant.id, made_from.template_id, made_from.template_version)
    if not template:
        raise NotFound(f"template {made_from.template_id} version {made_from.template_version} is gone")
    return template
