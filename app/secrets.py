"""The secret that signs unsubscribe links: the configured one, or one made once and kept in ``data_dir``."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from app.errors import ConfigurationError
from app.settings import Settings

FILE_NAME = "secret"
SECRET_BYTES = 32


def signing_secret(settings: Settings) -> bytes:
    """The configured secret, else the one in ``data_dir``. Several machines must be given the same one."""
    if settings.secret is not None:
        return settings.secret.get_secret_value().encode()
    return load_or_create(settings.data_dir)


def load_or_create(data_dir: Path) -> bytes:
    """The secret of this data directory. Whichever process comes first makes it; all get the same one.

    Raises ConfigurationError when the file is there and cannot be one we wrote.
    """
    path = data_dir / FILE_NAME
    if not path.exists():
        _create(path)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise ConfigurationError(
            f"{path} must hold {SECRET_BYTES} bytes, not {len(secret)}: restore it, or set LANDED_SECRET; "
            "with another secret, the unsubscribe links in mail already sent stop working"
        )
    return secret


def _create(path: Path) -> None:
    """Written whole under another name, then linked: nobody reads half of it, and the first link wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{FILE_NAME}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
