"""Errors in Postmark's shape."""

from __future__ import annotations

from litestar.response.base import ASGIResponse

from app.sandbox.httpapi import as_json
from app.sandbox.postmark.submission import Refused


def refusal(exc: Refused, status: int = 422) -> ASGIResponse:
    return as_json({"ErrorCode": exc.code, "Message": str(exc)}, status)
