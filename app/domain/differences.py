"""Where two JSON documents differ, for telling a caller why an idempotency key was refused (R-074)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def differing_paths(a: Any, b: Any) -> list[str]:
    """The JSON paths (``variables.items[2].price``) whose values differ, each as deep as it goes; "" is the
    whole.

    ``1``, ``1.0`` and ``true`` are three values, as they are to the fingerprint of a request.
    """
    return list(_differences("", a, b))


def _differences(path: str, a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            deeper = f"{path}.{key}" if path else key
            if key in a and key in b:
                yield from _differences(deeper, a[key], b[key])
            else:
                yield deeper
    elif isinstance(a, list) and isinstance(b, list):
        for index in range(max(len(a), len(b))):
            deeper = f"{path}[{index}]"
            if index < len(a) and index < len(b):
                yield from _differences(deeper, a[index], b[index])
            else:
                yield deeper
    elif type(a) is not type(b) or a != b:
        yield path
