"""Every protocol the sandbox speaks: one line each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.sandbox.mailgun.protocol import Mailgun
from app.sandbox.protocol import Protocol

PROTOCOLS: Final[Mapping[str, type[Protocol]]] = MappingProxyType({kind.name: kind for kind in (Mailgun,)})
