"""Headers as the server hands them over: a few of a dozen are wanted, so no mapping of all of them is made."""

from __future__ import annotations

from litestar.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of this name, given in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


def headers(scope: Scope, name: bytes) -> list[str]:
    """Every header of this name, given in lower case."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]
