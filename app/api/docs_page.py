"""The API's documentation as one page, written from the OpenAPI document: no script, and nothing from
elsewhere.
"""

from __future__ import annotations

from html import escape
from typing import Any

from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

METHODS = ("get", "post", "put", "patch", "delete")

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title} {version}</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
code {{ font-family: ui-monospace, monospace }}
summary {{ cursor: pointer; padding: .3rem 0 }}
summary code {{ font-weight: 600 }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid
#8884 }} .method {{ display: inline-block; width: 4.5rem; text-transform: uppercase }} </style></head><body>
<h1>{title} {version}</h1> <p>{description}</p> <p>Send an API key with each request: <code>Authorization:
Bearer lk_...</code>. Errors are <a href="/problems">problem+json</a>. This page as a document for programs:
<a href="{json}">{json}</a>.</p> {sections}
</body></html>"""


class DocsPage(OpenAPIRenderPlugin):
    """Litestar's own pages load their scripts from a CDN; this one has none."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        page = PAGE.format(
            title=escape(openapi_schema["info"]["title"]),
            version=escape(openapi_schema["info"]["version"]),
            description=escape(openapi_schema["info"].get("description", "")),
            json=escape(self.get_openapi_json_route(request)),
            sections="\n".join(_sections(openapi_schema)),
        )
        return page.encode()


def _sections(document: dict[str, Any]) -> list[str]:
    """One heading a tag, one folded entry an operation."""
    by_tag: dict[str, list[str]] = {}
    for path, item in sorted(document["paths"].items()):
        for method in METHODS:
            if operation := item.get(method):
                tag = (operation.get("tags") or ["other"])[0]
                by_tag.setdefault(tag, []).append(_operation(document, path, method, operation))
    return [f"<h2>{escape(tag)}</h2>{''.join(entries)}" for tag, entries in by_tag.items()]


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    summary = escape(operation.get("summary", ""))
    title = f'<code><span class="method">{method}</span> {escape(path)}</code> {summary}'
    return (
        f"<details><summary>{title}</summary>"
        f"<p>{escape(operation.get('description', ''))}</p>"
        f"{_parameters(document, operation)}{_body(document, operation)}{_responses(document, operation)}"
        "</details>"
    )


def _parameters(document: dict[str, Any], operation: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        (parameter["name"], parameter["in"], _type(document, parameter.get("schema", {})), _needed(parameter))
        for parameter in operation.get("parameters", ())
    ]
    return _table("Parameters", rows)


def _body(document: dict[str, Any], operation: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    return "".join(_table(f"Body, {kind}", _fields(document, media["schema"])) for kind, media in content.items())


def _responses(document: dict[str, Any], operation: dict[str, Any]) -> str:
    parts = []
    for status, response in sorted(operation.get("responses", {}).items()):
        title = f"{status}: {response.get('description', '')}"
        fields = [
            field
            for media in response.get("content", {}).values()
            for field in _fields(document, media.get("schema", {}))
        ]
        parts.append(_table(title, fields) or f"<h4>{escape(title)}</h4>")
    return "".join(parts)


def _fields(document: dict[str, Any], schema: dict[str, Any]) -> list[tuple[str, ...]]:
    schema = _resolve(document, schema)
    required = schema.get("required", ())
    return [
        (name, _type(document, field), "required" if name in required else "", field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]


def _type(document: dict[str, Any], schema: dict[str, Any]) -> str:
    schema = _resolve(document, schema)
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(document, choice) for choice in choices))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(document, schema.get('items', {}))}"
    return f"{kind} ({schema['format']})" if "format" in schema else str(kind)


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What a reference within the document points at."""
    while reference := schema.get("$ref"):
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
        schema = found
    return schema


def _needed(parameter: dict[str, Any]) -> str:
    return "required" if parameter.get("required") else ""


def _table(title: str, rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    cells = "".join(
        f"<tr><th><code>{escape(name)}</code></th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for name, *rest in rows
    )
    return f"<h4>{escape(title)}</h4><table>{cells}</table>"
