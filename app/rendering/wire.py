"""What parent and child say to each other: msgpack frames, each after its length in four bytes.

The parent asks one thing at a time and the child answers it. First frame: the limits, answered by ``READY``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from app.errors import FieldError, TemplateRenderError
from app.rendering.types import Rendered, RenderLimits, TemplateCheck, TemplateSource

LENGTH_BYTES = 4
READY = b"ready"


class Job(msgspec.Struct, array_like=True, frozen=True):
    """template: the number the child knows it by. variables: JSON, so that the child sees plain data only."""

    template: int
    variables: bytes


class Batch(msgspec.Struct, array_like=True, frozen=True, tag="batch"):
    """Render these. The parent alone decides what the child keeps, so the two never disagree."""

    forget: list[int]
    learn: dict[int, TemplateSource]
    jobs: list[Job]


class Check(msgspec.Struct, array_like=True, frozen=True, tag="check"):
    template: TemplateSource


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """One job's result. A batch is answered from its start up to a limit or the first job that overran."""

    rendered: Rendered | None
    errors: tuple[FieldError, ...] = ()
    overran: bool = False


_json = msgspec.json.Encoder()
encode = msgspec.msgpack.Encoder().encode
decode_limits = msgspec.msgpack.Decoder(RenderLimits).decode
decode_request = msgspec.msgpack.Decoder(Batch | Check).decode
decode_answers = msgspec.msgpack.Decoder(list[Answer]).decode
decode_check = msgspec.msgpack.Decoder(TemplateCheck).decode
decode_variables = msgspec.json.Decoder(dict[str, Any]).decode


def encode_variables(variables: Mapping[str, Any], bytes_max: int) -> bytes:
    """Raises TemplateRenderError for what is not plain data, or too much of it."""
    try:
        encoded = _json.encode(variables)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as exc:
        raise TemplateRenderError(FieldError("variables", "not plain JSON data")) from exc
    if len(encoded) > bytes_max:
        raise TemplateRenderError(FieldError("variables", f"larger than {bytes_max} bytes"))
    return encoded


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload
