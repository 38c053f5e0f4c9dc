"""The variables a template declares: what a caller must give, and what a preview shows (R-065, R-149).

The declaration travels and is stored as plain JSON: ``{"order_id": {"required": true, "description": "",
"example": "A-1001"}}``. ``parse_declared`` makes this normal form; the other functions take it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.errors import FieldError, InvalidFields

DECLARED_MAX = 100  # a template that needs more is a program, and branching belongs in the service
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
DESCRIPTION_CHARS_MAX = 500
ERRORS_MAX = 20  # of unknown names: enough to see the mistake, and no echo of a megabyte of keys
SHOWN_CHARS_MAX = 64

# Words of the template language: a variable of this name could be passed and never be read.
RESERVED = frozenset(
    {"and", "or", "not", "if", "else", "in", "is", "true", "false", "none", "True", "False", "None"}
    | {"loop", "self", "super", "caller", "varargs", "kwargs", "range"}
)
KEYS = frozenset({"required", "description", "example"})

Declared = Mapping[str, Mapping[str, Any]]


def parse_declared(raw: Any) -> dict[str, dict[str, Any]]:
    """The normal form of a declaration given as a list of names or as a mapping.

    ``example`` is there only when one was given. Raises InvalidFields naming each key that is wrong.
    """
    if isinstance(raw, list | tuple):
        raw = {name: {} for name in raw} if all(isinstance(name, str) for name in raw) else None
    if not isinstance(raw, Mapping):
        raise InvalidFields(FieldError("variables", "must be a list of names or a mapping of names"))
    if len(raw) > DECLARED_MAX:
        raise InvalidFields(FieldError("variables", f"declares more than {DECLARED_MAX} names"))
    errors = [error for name, spec in raw.items() for error in _spec_errors(name, spec)]
    if errors:
        raise InvalidFields(*errors)
    return {name: {"required": True, "description": "", **(spec or {})} for name, spec in raw.items()}


def _spec_errors(name: Any, spec: Any) -> list[FieldError]:
    field = f"variables.{str(name)[:SHOWN_CHARS_MAX]}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return [FieldError(field, "a name is a letter, then up to 63 letters, digits and underscores")]
    if name in RESERVED:
        return [FieldError(field, "is a word of the template language; choose another name")]
    if spec is None:
        return []
    if not isinstance(spec, Mapping):
        return [FieldError(field, "must be a mapping with required, description and example")]
    return _key_errors(field, spec)


def _key_errors(field: str, spec: Mapping[Any, Any]) -> list[FieldError]:
    errors = [
        FieldError(f"{field}.{str(key)[:SHOWN_CHARS_MAX]}", "unknown; the keys are description, example, required")
        for key in spec
        if key not in KEYS
    ]
    if not isinstance(spec.get("required", True), bool):
        errors.append(FieldError(f"{field}.required", "must be true or false"))
    description = spec.get("description", "")
    if not isinstance(description, str) or len(description) > DESCRIPTION_CHARS_MAX:
        errors.append(
            FieldError(f"{field}.description", f"must be a text of at most {DESCRIPTION_CHARS_MAX} characters")
        )
    return errors


def check_variables(declared: Declared, given: Mapping[str, Any]) -> list[FieldError]:
    """What is missing, and what nobody declared: a misspelt optional name would else be lost in silence."""
    missing = [
        FieldError(f"variables.{name}", "missing; the template needs it")
        for name, spec in declared.items()
        if name not in given and spec.get("required", True)
    ]
    names = ", ".join(sorted(declared)) or "none"
    unknown = [
        FieldError(f"variables.{str(name)[:SHOWN_CHARS_MAX]}", f"unknown; declared are {names}")
        for name in given
        if name not in declared
    ]
    return missing + unknown[:ERRORS_MAX]


def check_declaration(declared: Declared, used: frozenset[str]) -> list[FieldError]:
    """The names a template reads but does not declare: nobody could ever pass them."""
    return [
        FieldError(f"variables.{name}", "not declared, but the template reads it")
        for name in sorted(used - declared.keys())[:ERRORS_MAX]
    ]


def sample(declared: Declared) -> dict[str, Any]:
    """Variables for a preview: the examples, and ``[name]`` for a required one that has none."""
    return {
        name: spec.get("example", f"[{name}]")
        for name, spec in declared.items()
        if "example" in spec or spec.get("required", True)
    }
