"""How a command ends when it cannot do what it was asked: an exit code, and words that say what to do."""

from __future__ import annotations

import click
import httpx
import psycopg
from psycopg import errors

from app.errors import LandedError, Unavailable


class Refused(click.ClickException):
    """A check failed, or what was asked for is refused."""

    exit_code = 1


class Unreachable(click.ClickException):
    """The database or the API cannot be reached."""

    exit_code = 3


def ending_of(error: Exception) -> click.ClickException | None:
    """The ending of an expected error; None for one that is a defect and deserves its traceback."""
    match error:
        case Unavailable():
            return Unreachable(error.detail)
        case LandedError():
            return Refused(error.detail)
        case httpx.TransportError():
            return Unreachable(f"the API cannot be reached: {error}")
        case errors.UndefinedTable() | errors.UndefinedFunction() | errors.InvalidSchemaName():
            return Refused(f"{_words(error)}: is the database migrated? `landed migrate` does it")
        case psycopg.OperationalError() if error.sqlstate is None or error.sqlstate.startswith(("08", "28", "57P")):
            return Unreachable(f"the database cannot be reached: {str(error).strip()}")
        case psycopg.DatabaseError() if error.sqlstate is not None:
            return Refused(_words(error))
    return None


def _words(error: psycopg.Error) -> str:
    """What the database said; and on lines of their own, the details and what it suggests."""
    parts = (error.diag.message_primary, error.diag.message_detail, error.diag.message_hint)
    return "\n  ".join(part for part in parts if part) or str(error)
