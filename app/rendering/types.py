"""What goes into rendering and what comes out. Plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import FieldError


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """One immutable template version (R-146).

    key: names the version for good: ``<tenant_id>/<template_id>/<version>``.
    text: None means derived from ``html``, so that a message is always multipart (R-122).
    extras: further parts by name, each one line: the url of a push, its image, its data (R-126).
    """

    key: str
    subject: str
    html: str | None
    text: str | None
    extras: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RenderJob:
    """One template with the context that feeds all its parts (R-139). Variables are plain JSON data."""

    template: TemplateSource
    variables: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """Exactly what is handed to the provider; ``content_hash`` proves it later (R-138)."""

    subject: str
    html: str | None
    text: str
    content_hash: bytes
    extras: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TemplateCheck:
    """What compiling a template showed.

    variables: the names it reads from its context.
    errors: why it cannot be used, by part; empty when it can.
    text: the text part as it would be sent: the given one, or the one derived from the HTML.
    """

    variables: frozenset[str]
    errors: tuple[FieldError, ...]
    text: str | None = None


@dataclass(frozen=True, slots=True)
class RenderLimits:
    """How much a template may use. An honest one needs about 0.1 ms and 10 kB.

    job_seconds: CPU time of one job, give or take a quarter. CPU and not the clock, so that a busy machine
        never turns an honest delivery into a dead letter; a template has no way to wait without computing.
    batch_seconds: after this long the child answers what it has and the rest is asked again, so one answer is
        never late by more than a job.
    hang_seconds: by the clock, for one exchange with the child. Past it the kernel ends the child, whatever
        C code it is stuck in and whether or not its parent lives. Longer than batch and job together.
    memory_bytes: address space on top of what the child has when it starts.
    output_chars: of each rendered part. Gmail clips an email at 102 kB.
    source_chars: of the html and of the text source.
    subject_chars: of the subject, source and result: one header line (RFC 5322, 2.1.1).
    extra_chars: of each further part, source and result; a URL of 2,000 characters is about what browsers take.
    variables_bytes: of one job's variables as JSON.
    cache_chars: of all template sources a child keeps compiled. Compiled they take about 15 times as much.
    answer_bytes: about when a child stops collecting and answers, so a batch of huge results stays in memory.
    strikes, probation_seconds: a template that overran this often within this time is refused without a try
        until the time has passed: a template bomb costs its victims seconds once, not on every batch.
    """

    job_seconds: float = 1.0
    batch_seconds: float = 1.0
    hang_seconds: float = 4.0
    memory_bytes: int = 384 * 1024 * 1024
    output_chars: int = 512 * 1024
    source_chars: int = 256 * 1024
    subject_chars: int = 998
    extra_chars: int = 2000
    variables_bytes: int = 256 * 1024
    cache_chars: int = 4 * 1024 * 1024
    answer_bytes: int = 8 * 1024 * 1024
    strikes: int = 3
    probation_seconds: float = 60.0


def content_hash(subject: str, html: str | None, text: str, extras: Mapping[str, str] | None = None) -> bytes:
    """SHA-256 of the parts, each after its length in bytes, so that no two messages share an encoding.

    An absent part has the length 2**64-1. Raises UnicodeEncodeError on a lone surrogate.
    """
    digest = hashlib.sha256()
    further = [part for name in sorted(extras or ()) for part in (name, (extras or {})[name])]
    for part in (subject, html, text, *further):
        if part is None:
            digest.update(b"\xff" * 8)
        else:
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(8, "big"))
            digest.update(encoded)
    return digest.digest()
