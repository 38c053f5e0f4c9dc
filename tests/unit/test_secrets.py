"""The secret that signs unsubscribe links."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from app.errors import ConfigurationError
from app.secrets import load_or_create, signing_secret
from app.settings import Settings


def test_the_configured_secret_is_the_secret(tmp_path):
    assert signing_secret(Settings(secret="given", data_dir=tmp_path)) == b"given"
    assert list(tmp_path.iterdir()) == []


def test_a_secret_is_made_once_and_readable_by_its_owner_alone(tmp_path):
    made = load_or_create(tmp_path / "new" / "place")
    assert len(made) == 32
    assert load_or_create(tmp_path / "new" / "place") == made
    (file,) = (tmp_path / "new" / "place").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_processes_that_start_together_agree_on_one(tmp_path):
    together = Barrier(8)

    def start(_):
        together.wait()
        return load_or_create(tmp_path)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(start, range(8)))) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("content", [b"", b"half of it", b"x" * 33])
def test_a_damaged_secret_stops_the_start_instead_of_breaking_every_link(tmp_path, content):
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigurationError, match="LANDED_SECRET"):
        load_or_create(tmp_path)
    assert (tmp_path / "secret").read_bytes() == content
