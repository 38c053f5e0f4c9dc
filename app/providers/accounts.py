"""The configured provider accounts, with their secrets read again when a secret file changes (R-193)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from app.errors import ConfigurationError
from app.providers.base import AnyProvider
from app.providers.registry import RATE, make_provider, with_files_read

log = structlog.get_logger()

LOOK_AGAIN_SECONDS = 5.0  # a rotated key is in use within this; a stat a send would cost more than it gives


class ProviderSet:
    """Provider accounts by name. Raises ConfigurationError, at the start, if one cannot be made."""

    def __init__(self, accounts: Mapping[str, Mapping[str, Any]]) -> None:
        self._accounts = accounts
        # Looked at before they are read: what is written in between is seen the next time.
        self._files = {name: _modified(account) for name, account in accounts.items()}
        self._read = {name: with_files_read(name, account) for name, account in accounts.items()}
        self._providers: dict[str, AnyProvider] = {name: make_provider(name, read) for name, read in self._read.items()}
        self._looked_at = time.monotonic()
        self._changed: set[str] = set()

    def get(self, name: str) -> AnyProvider:
        """Raises KeyError for an account that is not configured."""
        if time.monotonic() - self._looked_at > LOOK_AGAIN_SECONDS:
            self._look_again()
        return self._providers[name]

    def changed(self) -> set[str]:
        """The accounts whose credentials were replaced since this was last asked."""
        if time.monotonic() - self._looked_at > LOOK_AGAIN_SECONDS:
            self._look_again()
        changed, self._changed = self._changed, set()
        return changed

    def rate(self, name: str) -> float | None:
        """Calls a second: what the account says, else what its provider documents; None for any."""
        own = self._accounts[name].get(RATE)
        return float(own) if own is not None else self.get(name).capabilities.rate_per_second

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def _look_again(self) -> None:
        self._looked_at = time.monotonic()
        for name, account in self._accounts.items():
            modified = _modified(account)
            if modified == self._files[name]:
                continue
            try:
                self._reload(name)
            except ConfigurationError as error:
                # Half-written or gone: the account goes on with the secret it has, and an operator is told.
                log.error("provider_not_reloaded", provider=name, error=error.detail)
            except Exception as error:
                # Whatever a library makes of a broken key: one account's file must not stop all others. Its words may
                # hold the secret.
                log.error("provider_not_reloaded", provider=name, error=type(error).__name__)
            else:
                self._files[name] = modified

    def _reload(self, name: str) -> None:
        """With what its files hold now. A mount that was only synced again changes no credential: the provider stays,
        with the tokens it has made.
        """
        read = with_files_read(name, self._accounts[name])
        if read == self._read[name]:
            return
        self._providers[name] = make_provider(name, read)
        self._read[name] = read
        self._changed.add(name)
        log.info("provider_reloaded", provider=name)


def _modified(account: Mapping[str, Any]) -> dict[str, int]:
    def mtime(path: str) -> int:
        try:
            return Path(path).stat().st_mtime_ns
        except OSError:
            return 0

    return {key: mtime(str(value)) for key, value in account.items() if key.endswith("_file")}
