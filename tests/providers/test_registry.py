"""Provider accounts from their settings, with secrets in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.providers.registry import make_provider

SMTP = {"adapter": "smtp", "host": "127.0.0.1", "security": "none", "bounce_domain": "bounces.example.com"}


def refusal(token_file: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        make_provider("relay", {**SMTP, "webhook_token_file": token_file})
    assert refused.value.__suppress_context__, "a traceback would show the bytes of the secret"
    return refused.value.detail


def test_a_secret_file_that_is_not_there_is_named(tmp_path: Path):
    detail = refusal(str(tmp_path / "token"))
    assert detail == "providers.relay.webhook_token_file cannot be read: No such file or directory"


@pytest.mark.parametrize("held", [b"secret-\xff\xfe", b"secret-\xe2\x82", b"\x80secret-"])
def test_a_secret_file_that_is_half_written_or_binary_is_named_and_not_shown(tmp_path: Path, held: bytes):
    (tmp_path / "token").write_bytes(held)
    detail = refusal(str(tmp_path / "token"))
    assert detail == "providers.relay.webhook_token_file cannot be read: it holds no text"


def test_a_path_that_can_be_none_is_refused():
    assert refusal("tok\0en") == "providers.relay.webhook_token_file cannot be read: it holds no text"
