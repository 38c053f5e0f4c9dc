"""A certificate authority of the sandbox's own, for protocols that are only spoken over TLS.

It is made once and kept, so that callers which trust ``ca.pem`` still do after a restart.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

import trustme

_CERTIFICATE: Final = "ca.pem"
_KEY: Final = "ca.key"


class Authority:
    """Issues the certificates of this sandbox's listeners. ``ca_path`` is the bundle that callers must trust."""

    def __init__(self, directory: Path, host: str) -> None:
        self._directory = directory
        self._host = host
        self.ca_path = directory / _CERTIFICATE

    def server_context(self) -> ssl.SSLContext:
        """For a listener: a fresh certificate for the sandbox's host, localhost and loopback addresses."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = dict.fromkeys((self._host, "localhost", "127.0.0.1", "::1"))
        self._authority().issue_cert(*(name for name in names if name not in ("0.0.0.0", "::"))).configure_cert(context)  # noqa: S104
        return context

    def _authority(self) -> trustme.CA:
        key_path = self._directory / _KEY
        if self.ca_path.exists() and key_path.exists():
            return trustme.CA.from_pem(self.ca_path.read_bytes(), key_path.read_bytes())
        authority = trustme.CA(organization_name="Landed sandbox")
        self._directory.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(authority.private_key_pem.bytes())
        self.ca_path.write_bytes(authority.cert_pem.bytes())
        return authority
