"""Templates: versions that are written once, tried out, published, archived (R-146 to R-149)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Self

from litestar import Controller, Litestar, Request, Response, get, post
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from app.api.auth import CalledBy, Caller, requires
from app.api.fields import SLUG, Slug, known_id
from app.api.paging import Page, Query, behind, lists, page, read_query
from app.api.schemas import (
    ERRORS_SHOWN_MAX,
    Body,
    Document,
    Line,
    Text,
    parse,
    read_json,
    read_model,
    takes,
    unstorable,
)
from app.api.state import Api, ApiState
from app.db import Connection
from app.domain import sms
from app.domain.models import Channel
from app.domain.variables import check_declaration, check_variables, parse_declared, sample
from app.errors import Conflict, FieldError, InvalidFields, NotFound, TemplateRenderError
from app.rendering.pool import RenderPool
from app.rendering.types import Rendered, RenderJob, TemplateSource
from app.store import templates
from app.store.templates import Content, Template, TemplateSummary, Wording

TEMPLATE_BYTES_MAX = 2 * 1024 * 1024  # two bodies of 256 Ki characters, most of them escaped or not ASCII
EXTRAS_MAX = 30  # a push carries 4 KB in all
# The app's own keys, less those that Google keeps for itself and those that we send (PROVIDERS, 9a).
EXTRA = re.compile(
    r"(url|image|sound|badge|subtitle|data\.(?!from$|message_type$|google\.|gcm\.|landed_)[A-Za-z0-9_.]{1,64})"
)
PREVIEW_KEY = "preview"  # one for all: a template that overruns in a preview is never refused when it is sent

Status = Literal["draft", "published", "archived"]
Version = Annotated[int, Field(le=2**31 - 1)]


def _declaration(value: Any) -> dict[str, dict[str, Any]]:
    """Raises InvalidFields naming each part that is wrong."""
    if errors := list(unstorable("variables", value)):
        raise InvalidFields(*errors[:ERRORS_SHOWN_MAX])
    return parse_declared(value)


Declaration = Annotated[
    dict[str, dict[str, Any]],
    BeforeValidator(_declaration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string"}},
                {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "properties": {
                            "required": {"type": "boolean", "default": True},
                            "description": {"type": "string"},
                            "example": {},
                        },
                    },
                },
            ]
        }
    ),
]
"""Names, or each name with whether it is required, what it means, and what a preview shows."""


def _extra(name: str) -> str:
    if not EXTRA.fullmatch(name):
        raise PydanticCustomError(
            "extra",
            "is not an extra; extras are url, image, sound, badge, subtitle and data.<key> of the app's own",
        )
    return name


Extras = Annotated[
    dict[Annotated[str, AfterValidator(_extra)], Annotated[Line, Field(min_length=1)]], Field(max_length=EXTRAS_MAX)
]


class EmailContent(Body):
    """An email: a subject, and html, text or both."""

    subject: Annotated[Line, Field(min_length=1)]
    html: Annotated[Text, Field(min_length=1)] | None = None
    text: Annotated[Text, Field(min_length=1)] | None = Field(
        default=None, description="default: derived from the html"
    )


class TextContent(Body):
    """A text message, or what an endpoint is told in words."""

    text: Annotated[Text, Field(min_length=1)]


class TitledContent(TextContent):
    """What is shown on a screen: a title, a text, and what a tap does (R-126)."""

    subject: Line = Field(default="", description="the title")
    extras: Extras = Field(
        default_factory=dict,
        description="url, image, sound, badge, subtitle, and data.<key>; each a template of its own",
    )


class ChannelContents(Body):
    """The contents of a version, by channel."""

    email: EmailContent | None = None
    sms: TextContent | None = None
    push: TitledContent | None = None
    in_app: TitledContent | None = None
    chat: TitledContent | None = None
    webhook: TextContent | None = None


class CreateTemplate(Body):
    """A new version: what it says on each channel. subject, html and text at the top are the email's."""

    template_id: Slug
    channel: Literal["email"] = "email"
    locale: Literal[""] = ""
    subject: Annotated[Line, Field(min_length=1)] | None = None
    html: Annotated[Text, Field(min_length=1)] | None = None
    text: Annotated[Text, Field(min_length=1)] | None = Field(
        default=None, description="default: derived from the html"
    )
    channels: ChannelContents = ChannelContents()
    variables: Declaration = Field(default_factory=dict, description="all that the template reads")
    description: Annotated[Text, Field(max_length=500)] = ""

    @model_validator(mode="after")
    def _says_something_once(self) -> Self:
        email_at_top = (self.subject, self.html, self.text) != (None, None, None)
        if email_at_top and self.channels.email is not None:
            raise InvalidFields(FieldError("channels.email", "is at the top of the request already: give one of them"))
        if self.subject is None and (email_at_top or not self.channels.model_fields_set):
            raise InvalidFields(FieldError("subject", "is required"))
        return self

    def contents(self) -> Iterator[tuple[str, TemplateSource]]:
        """Each channel's content, email first."""
        if self.subject is not None:
            yield "email", TemplateSource(PREVIEW_KEY, self.subject, self.html, self.text)
        for channel in ChannelContents.model_fields:
            content = getattr(self.channels, channel)
            if content is not None:
                yield (
                    channel,
                    TemplateSource(
                        PREVIEW_KEY,
                        getattr(content, "subject", ""),
                        getattr(content, "html", None),
                        content.text,
                        tuple(sorted(getattr(content, "extras", {}).items())),
                    ),
                )


class PreviewTemplate(Body):
    """What to render with."""

    variables: Document | None = Field(default=None, description="default: the examples in the declaration")


class TemplateQuery(Query):
    template_id: Annotated[str, Field(pattern=SLUG)] | None = None
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class CreatedTemplate(Template):
    """unchanged: the latest version said the same, and is the answer; nothing was written."""

    unchanged: bool


@dataclass(frozen=True, slots=True)
class PreviewedContent:
    """Exactly what would be sent on one channel.

    content_hash: SHA-256, as the attempt that sends it records it. encoding, segments: of a text message.
    """

    channel: str
    subject: str
    html: str | None
    text: str
    extras: dict[str, str]
    content_hash: str
    encoding: str | None = None
    segments: int | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """Exactly what would be sent: of the first content, and in contents of all."""

    subject: str
    html: str | None
    text: str
    content_hash: str
    contents: list[PreviewedContent]


AFTER: TypeAdapter[tuple[Line, Version]] = TypeAdapter(tuple[Line, Version])


@contextlib.asynccontextmanager
async def rendering(app: Litestar) -> AsyncIterator[None]:
    """Lifespan: the child that checks and previews templates. It starts when it is first asked."""
    app.state.rendering = RenderPool()
    try:
        yield
    finally:
        await app.state.rendering.stop()


class TemplatesController(Controller):
    path = "/api/v1/notifications/templates"
    tags = ("templates",)

    @post(
        summary="Create a version of a template",
        guards=[requires("admin")],
        operation_class=takes(CreateTemplate),
        request_max_body_size=None,
    )
    async def create(self, request: Request[Any, Any, Any], api: Api, caller: CalledBy) -> Response[CreatedTemplate]:
        """The version gets the next number and is a draft. Nothing can change it afterwards.

        Content that says the same as the latest version, unless that is archived, answers 200 with that
        version and `unchanged: true`, so that templates can be pushed again and again.
        """
        body = await read_model(request, CreateTemplate, bytes_max=TEMPLATE_BYTES_MAX)
        wording = await _checked_wording(body, request.app.state.rendering)
        async with api.db.transaction(durable=True) as conn:
            template, created = await templates.create(conn, caller.tenant_id, body.template_id, wording)
        return Response(
            CreatedTemplate(**asdict(template), unchanged=not created),
            status_code=HTTP_201_CREATED if created else HTTP_200_OK,
        )

    @get(summary="List versions", guards=[requires("read")], operation_class=lists(TemplateQuery))
    async def list_all(self, request: Request[Any, Any, Any], api: Api, caller: CalledBy) -> Page[TemplateSummary]:
        """Versions of all templates, without their bodies, by id and number."""
        return await _list(api, caller, read_query(request, TemplateQuery))

    @get(
        "/{template_id:str}",
        summary="List the versions of one template",
        guards=[requires("read")],
        operation_class=lists(Query),
    )
    async def list_one(
        self, request: Request[Any, Any, Any], template_id: FromPath[str], api: Api, caller: CalledBy
    ) -> Page[TemplateSummary]:
        """Its versions, without their bodies, by number. 404 when there are none."""
        query = read_query(request, Query)
        wanted = TemplateQuery.model_construct(**query.model_dump(), template_id=known_id(template_id))
        found = await _list(api, caller, wanted)
        if not found.items and query.after is None:
            raise NotFound(f"there is no template {template_id!r}")
        return found

    @get("/{template_id:str}/versions/{version:int}", summary="Get a version", guards=[requires("read")])
    async def show(self, template_id: FromPath[str], version: FromPath[int], api: Api, caller: CalledBy) -> Template:
        """One version with its bodies."""
        async with api.db.transaction() as conn:
            return await _existing(conn, caller, template_id, version)

    @post(
        "/{template_id:str}/versions/{version:int}/preview",
        summary="Render a version without sending it",
        guards=[requires("read")],
        operation_class=takes(PreviewTemplate),
        status_code=HTTP_200_OK,
    )
    async def preview(
        self,
        request: Request[Any, Any, Any],
        template_id: FromPath[str],
        version: FromPath[int],
        api: Api,
        caller: CalledBy,
    ) -> Preview:
        """Drafts too. Variables are checked as for a send; without any, the declared examples are used."""
        body = parse(PreviewTemplate, await _body_or_nothing(request, api))
        async with api.db.transaction() as conn:
            template = await _existing(conn, caller, template_id, version)
        return await _render(template, body.variables, request.app.state.rendering)

    @post(
        "/{template_id:str}/versions/{version:int}/publish",
        summary="Publish a version",
        guards=[requires("admin")],
        status_code=HTTP_200_OK,
    )
    async def publish(self, template_id: FromPath[str], version: FromPath[int], api: Api, caller: CalledBy) -> Template:
        """From now on it can be sent. Publishing again changes nothing; an archived version answers 409."""
        async with api.db.transaction(durable=True) as conn:
            await templates.publish(conn, caller.tenant_id, known_id(template_id), version)
            template = await _existing(conn, caller, template_id, version)
            if template.status == "archived":
                raise Conflict(f"version {version} of {template_id!r} is archived: create a new version")
        return template

    @post(
        "/{template_id:str}/versions/{version:int}/archive",
        summary="Archive a version",
        guards=[requires("admin")],
        status_code=HTTP_200_OK,
    )
    async def archive(self, template_id: FromPath[str], version: FromPath[int], api: Api, caller: CalledBy) -> Template:
        """From now on no send is accepted with it; what was accepted before still goes out."""
        async with api.db.transaction(durable=True) as conn:
            await templates.archive(conn, caller.tenant_id, known_id(template_id), version)
            return await _existing(conn, caller, template_id, version)


async def _checked_wording(body: CreateTemplate, renderer: RenderPool) -> Wording:
    """What is to be stored. Raises InvalidFields for a template that cannot work, naming channel and part."""
    errors: list[FieldError] = []
    used: frozenset[str] = frozenset()
    contents = []
    for channel, source in body.contents():
        check = await renderer.check(source)
        at = "" if channel == "email" and body.subject is not None else f"channels.{channel}."
        errors += [FieldError(f"{at}{error.field}", error.message) for error in check.errors]
        used |= check.variables
        contents.append(
            Content(
                channel=channel,
                locale=body.locale,
                subject=source.subject,
                html=source.html,
                text=check.text or "",
                text_derived=source.text is None,
                extras=dict(source.extras),
            )
        )
    errors = errors or check_declaration(body.variables, used)
    if errors:
        raise InvalidFields(*errors)
    ordered = sorted(contents, key=lambda content: (content.channel != "email", content.channel))
    return Wording(tuple(ordered), body.variables, body.description)


async def _list(api: ApiState, caller: Caller, query: TemplateQuery) -> Page[TemplateSummary]:
    async with api.db.transaction() as conn:
        found = await templates.list_versions(
            conn,
            caller.tenant_id,
            template_id=query.template_id,
            status=query.status,
            after=behind(query.after, AFTER),
            limit=query.limit + 1,
        )
    return page(found, query.limit, lambda template: (template.template_id, template.version))


async def _existing(conn: Connection, caller: Caller, template_id: str, version: int) -> Template:
    template = await templates.get(conn, caller.tenant_id, known_id(template_id), version)
    if template is None:
        raise NotFound(f"there is no version {version} of a template {template_id!r}")
    return template


async def _body_or_nothing(request: Request[Any, Any, Any], api: ApiState) -> bytes:
    """The JSON body; a request without one means the same as an empty object."""
    if "content-type" not in request.headers and not request.content_length:
        return b"{}"
    return await read_json(request, bytes_max=api.settings.api.body_bytes_max)


async def _render(template: Template, variables: dict[str, Any] | None, renderer: RenderPool) -> Preview:
    if variables is None:
        variables = sample(template.variables)
    elif errors := check_variables(template.variables, variables):
        raise InvalidFields(*errors)
    contents = template.wording.contents
    results = await renderer.render(
        [
            RenderJob(
                TemplateSource(PREVIEW_KEY, c.subject, c.html, c.text, tuple(sorted(c.extras.items()))), variables
            )
            for c in contents
        ]
    )
    shown = [_previewed(content.channel, result) for content, result in zip(contents, results, strict=True)]
    first = shown[0]
    return Preview(first.subject, first.html, first.text, first.content_hash, shown)


def _previewed(channel: str, result: Rendered | TemplateRenderError) -> PreviewedContent:
    if isinstance(result, TemplateRenderError):
        raise result
    size = sms.size(result.text) if channel == Channel.SMS else None
    return PreviewedContent(
        channel,
        result.subject,
        result.html,
        result.text,
        dict(result.extras),
        result.content_hash.hex(),
        None if size is None else size.encoding,
        None if size is None else size.segments,
    )


routes = [TemplatesController]
