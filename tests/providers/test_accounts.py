"""Secrets that change while accounts are in use: a good file is taken up, a bad one costs nobody anything."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from app.providers.accounts import LOOK_AGAIN_SECONDS, ProviderSet
from app.providers.base import AnyProvider
from app.providers.registry import ADAPTERS
from app.providers.sendgrid import SendGrid
from app.providers.smtp import Smtp

SMTP = {"adapter": "smtp", "host": "127.0.0.1", "security": "none", "bounce_domain": "bounces.example.com"}
P_256, NO_CURVE = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f")


def public_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class Mount:
    """A directory of secrets, as an orchestrator mounts it. Every write is told by its file's time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writes = 0

    def write(self, name: str, held: bytes) -> str:
        path = self._path / name
        path.write_bytes(held)
        self._writes += 1
        os.utime(path, ns=(self._writes, self._writes))  # a clock may be too coarse to tell
        return str(path)


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path)


@pytest.fixture
def providers(mount: Mount) -> ProviderSet:
    return ProviderSet(
        {
            "relay": SMTP | {"webhook_token_file": mount.write("relay", b"t" * 32)},
            "grid": {
                "adapter": "sendgrid",
                "api_key": "SG.key",
                "webhook_public_key_file": mount.write("grid", b64encode(public_key())),
            },
        }
    )


def look_again(providers: ProviderSet) -> list[Any]:
    """Some seconds later. Answers what was logged."""
    providers._looked_at -= 2 * LOOK_AGAIN_SECONDS
    with capture_logs() as logs:
        list(map(providers.get, providers))
    return logs


def token(providers: ProviderSet) -> str:
    relay = providers.get("relay")
    assert isinstance(relay, Smtp)
    return relay.account.webhook_token


def test_a_rotated_secret_is_taken_up(mount: Mount, providers: ProviderSet):
    grid = providers.get("grid")
    mount.write("relay", b"u" * 32 + b"\n")
    assert [entry["event"] for entry in look_again(providers)] == ["provider_reloaded"]
    assert token(providers) == "u" * 32
    assert providers.get("grid") is grid
    assert (providers.changed(), providers.changed()) == ({"relay"}, set())


BAD: Mapping[str, tuple[str, bytes]] = {
    "binary": ("relay", b"secret\xff\xfe" * 4),
    "cut in a character": ("relay", "secret-secret-€".encode()[:-1]),
    "empty": ("relay", b""),
    "no base64": ("grid", b"secret"),
    "a curve nobody knows": ("grid", b64encode(public_key().replace(P_256, NO_CURVE))),
}


@pytest.mark.parametrize(("account", "held"), BAD.values(), ids=BAD)
def test_a_bad_file_leaves_its_account_as_it_is_and_the_others_alone(
    mount: Mount, providers: ProviderSet, account: str, held: bytes
):
    before = {name: providers.get(name) for name in providers}
    mount.write(account, held)
    [entry] = look_again(providers)
    assert (entry["event"], entry["log_level"], entry["provider"]) == ("provider_not_reloaded", "error", account)
    assert f"providers.{account}" in entry["error"], "an operator has to know which file it is"
    assert "secret" not in str(entry)
    assert {name: providers.get(name) for name in providers} == before
    assert providers.changed() == set()


def test_a_bad_file_is_read_again_until_it_is_good(mount: Mount, providers: ProviderSet):
    mount.write("relay", b"\xff")
    assert look_again(providers)[0]["event"] == "provider_not_reloaded"
    assert look_again(providers)[0]["event"] == "provider_not_reloaded"
    mount.write("relay", b"v" * 32)
    assert look_again(providers)[0]["event"] == "provider_reloaded"
    assert token(providers) == "v" * 32
    assert look_again(providers) == []


def test_a_file_that_is_bad_for_one_account_does_not_keep_another_from_its_new_one(
    mount: Mount, providers: ProviderSet
):
    grid, after = providers.get("grid"), public_key()
    mount.write("relay", b"\xff")
    mount.write("grid", b64encode(after))
    assert {entry["event"] for entry in look_again(providers)} == {"provider_not_reloaded", "provider_reloaded"}
    now = providers.get("grid")
    assert isinstance(now, SendGrid)
    assert now is not grid
    assert now.account.webhook_public_key == b64encode(after).decode()


def test_whatever_an_adapter_makes_of_its_secret_stops_nobody(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A library's own exception is of no class that we know beforehand, and its words may quote what it was given."""

    def picky(settings: Mapping[str, Any]) -> AnyProvider:
        if settings["key"] != "good":
            raise ArithmeticError(f"cannot count with {settings['key']}")
        return ADAPTERS["inbox"]({})

    monkeypatch.setitem(ADAPTERS, "picky", picky)
    relay = SMTP | {"webhook_token_file": mount.write("relay", b"t" * 32)}
    providers = ProviderSet({"picky": {"adapter": "picky", "key_file": mount.write("picky", b"good")}, "relay": relay})
    before = providers.get("picky")
    mount.write("picky", b"secret")
    mount.write("relay", b"u" * 32)
    failed, reloaded = look_again(providers)
    assert (failed["event"], failed["provider"], failed["error"]) == (
        "provider_not_reloaded",
        "picky",
        "ArithmeticError",
    )
    assert "secret" not in str(failed)
    assert (reloaded["event"], reloaded["provider"]) == ("provider_reloaded", "relay")
    assert providers.get("picky") is before


def test_a_mount_that_was_only_synced_again_makes_no_new_provider(mount: Mount, providers: ProviderSet):
    """A provider holds what was made with its key, as APNs' token: Apple refuses those that come too often."""
    relay = providers.get("relay")
    mount.write("relay", b"t" * 32 + b"\n")
    assert look_again(providers) == []
    assert providers.get("relay") is relay
    assert providers.changed() == set()
    mount.write("relay", b"w" * 32)
    look_again(providers)
    assert token(providers) == "w" * 32
