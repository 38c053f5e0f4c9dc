"""Mail that came back, handed on by the mail server it came to.

A mail server decides by the exit code what becomes of the message (sysexits.h): 0 it is ours now, 65 (EX_DATAERR) it
can never be read and goes the way of undeliverable mail, 75 (EX_TEMPFAIL) it stays in the queue and is tried again.
Whatever else goes wrong, even wrong usage, is 75: a report must not be lost to a mistake that somebody will put right.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click
import httpx

TIMEOUT_SECONDS = 30.0
#: The machine's part of a report comes first; what follows is our own message, and need not travel again.
MESSAGE_BYTES_MAX = 512 * 1024
EX_DATAERR, EX_TEMPFAIL = 65, 75
UNREADABLE = frozenset({400, 406, 422})  # the API has understood whose it is, and would never take this message


class Unreadable(click.ClickException):
    """The API has the message and cannot make anything of it."""

    exit_code = EX_DATAERR


class NotHandedOver(click.ClickException):
    """The message could not be handed over; whoever has it, keeps it."""

    exit_code = EX_TEMPFAIL


class _Kept(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise NotHandedOver(error.format_message()) from error


@click.command(cls=_Kept)
@click.option("--url", required=True, help="Of the account's webhooks: https://.../api/v1/webhooks/ACCOUNT")
@click.option("--token-file", required=True, type=Path, help="Holds the account's webhook_token.")
def bounce(*, url: str, token_file: Path) -> None:
    """Hand a bounce or a complaint, as a raw message on standard input, to the API. For a mail server's pipe."""
    message = _read(sys.stdin.buffer)
    headers = {"Authorization": f"Bearer {_token(token_file)}", "Content-Type": "message/rfc822"}
    try:
        response = httpx.post(url, content=message, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotHandedOver(f"no answer from the API: {type(error).__name__}") from error
    if response.is_success:
        return
    kind = Unreadable if response.status_code in UNREADABLE else NotHandedOver
    raise kind(f"the API answered {response.status_code}")


def _read(stream: BinaryIO) -> bytes:
    """The message as far as it matters; and the rest, for a mail server takes it ill when nobody reads it."""
    message = stream.read(MESSAGE_BYTES_MAX)
    while stream.read(64 * 1024):
        pass
    return message


def _token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise NotHandedOver(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise NotHandedOver(f"{path} holds no token") from error
    if not (token.isascii() and token.isprintable() and token):
        raise NotHandedOver(f"{path} holds no token")
    return token
