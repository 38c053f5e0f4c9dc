"""Errors in SendGrid's shape."""

from __future__ import annotations

from collections.abc import Mapping

from litestar.response.base import ASGIResponse

from app.sandbox.httpapi import as_json


def errors(
    status: int, message: str, field: str | None = None, headers: Mapping[str, str] | None = None
) -> ASGIResponse:
    return as_json({"errors": [{"message": message, "field": field, "help": None}]}, status, headers)
