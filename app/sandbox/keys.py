"""The keys of push and of merchants, as files beside the ledger: kept, so that who was given them can go on using them.

Landed and other callers are pointed at ``apns.p8``, ``fcm-service-account.json`` and ``vapid.pem``. ``seed`` stays
here: the keys of the subscriptions and the bearer tokens of FCM come from it. So does ``merchants.json``, the secrets
that merchants were told.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

APNS_KEY: Final = "apns.p8"
FCM_ACCOUNT: Final = "fcm-service-account.json"
VAPID_KEY: Final = "vapid.pem"
SEED: Final = "seed"
MERCHANTS: Final = "merchants.json"

SEED_BYTES: Final = 32
RSA_BITS: Final = 2048
#: Order of P-256 (FIPS 186-4, D.1.2.3).
P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class KeyFiles:
    """The files in one directory, each made when it is first asked for, readable by their owner alone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, bytes] = {}

    def path(self, name: str) -> Path:
        return self._directory / name

    def apns_key(self) -> ec.EllipticCurvePrivateKey:
        """The PKCS#8 key that provider tokens are signed with."""
        return read_ec_key(self._file(APNS_KEY, new_ec_key))

    def vapid_key(self) -> ec.EllipticCurvePrivateKey:
        """The PKCS#8 key of the application server."""
        return read_ec_key(self._file(VAPID_KEY, new_ec_key))

    def service_account(self, project: str, token_url: str) -> dict[str, Any]:
        """Google's service account file. Its ``token_uri`` follows this sandbox wherever it listens."""
        found = msgspec.json.decode(self._file(FCM_ACCOUNT, lambda: new_account(project)), type=dict[str, Any])
        account = found | {"project_id": project, "token_uri": token_url}
        if account != found:
            self._write(FCM_ACCOUNT, _indented(account))
        return account

    def merchants(self) -> dict[str, list[str]]:
        """The secrets that each merchant knows, by its name."""
        return msgspec.json.decode(self._file(MERCHANTS, lambda: b"{}"), type=dict[str, list[str]])

    def keep_merchant(self, name: str, known: list[str]) -> None:
        """Let a merchant know these secrets, in place of those before."""
        self._write(MERCHANTS, msgspec.json.encode(self.merchants() | {name: known}))

    def secret(self, purpose: str, length: int = 32) -> bytes:
        """Bytes for one purpose, the same after a restart (RFC 5869)."""
        seed = self._file(SEED, lambda: os.urandom(SEED_BYTES))
        return HKDF(hashes.SHA256(), length, salt=None, info=purpose.encode()).derive(seed)

    def seal(self, text: str) -> str:
        """A text as the ledger may hold it: of use to this sandbox alone."""
        return self._box().encrypt(text.encode()).decode()

    def unseal(self, sealed: str) -> str | None:
        """The text again; None when it was sealed under another seed."""
        try:
            return self._box().decrypt(sealed).decode()
        except InvalidToken:
            return None

    def _box(self) -> Fernet:
        return Fernet(base64.urlsafe_b64encode(self.secret("seal")))

    def _file(self, name: str, make: Callable[[], bytes]) -> bytes:
        if name not in self._read:
            path = self.path(name)
            if path.exists():
                self._read[name] = path.read_bytes()
            else:
                self._write(name, make())
        return self._read[name]

    def _write(self, name: str, content: bytes) -> None:
        """Whole or not at all: nobody ever reads half a key."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.path(name)
        draft = path.with_suffix(".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        draft.replace(path)
        self._read[name] = content


def read_ec_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A P-256 key. Raises ValueError for any other."""
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not a P-256 private key")
    return key


def new_ec_key() -> bytes:
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def new_account(project: str) -> bytes:
    key = rsa.generate_private_key(65_537, RSA_BITS)
    account = {
        "type": "service_account",
        "project_id": project,
        "private_key_id": os.urandom(20).hex(),
        "private_key": _pem(key).decode(),
        "client_email": f"firebase-adminsdk-sandbox@{project}.iam.gserviceaccount.com",
        "client_id": "100000000000000000001",
        "token_uri": "",
    }
    return _indented(account)


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _indented(account: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(account), indent=2)


def derived_ec_key(secret: bytes) -> ec.EllipticCurvePrivateKey:
    """The key that a secret of at least 40 bytes makes: long enough for every scalar to be as likely."""
    return ec.derive_private_key(int.from_bytes(secret) % (P256_ORDER - 1) + 1, ec.SECP256R1())


def raw_public_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The 65 bytes of the uncompressed point."""
    encoding, form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    return key.public_key().public_bytes(encoding, form)


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """Raises ValueError."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
