"""docker-compose.yml, as far as it can be checked without Docker: references, and what it tells Landed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from app.settings import Settings

TEXT = (Path(__file__).parents[2] / "docker-compose.yml").read_text()


@pytest.fixture(scope="module")
def services() -> dict[str, dict]:
    with_defaults = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", TEXT)
    assert "${" not in with_defaults, "every variable has a default, so that `docker compose up` needs no set-up"
    return yaml.safe_load(with_defaults)["services"]


def test_the_roles_are_all_there(services):
    assert set(services) == {"postgres", "migrate", "api", "worker", "sandbox"}


def test_each_dependency_exists_and_can_become_what_is_waited_for(services):
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            needs_check = wait["condition"] == "service_healthy"
            assert not needs_check or "healthcheck" in services[name]
            assert needs_check or services[name]["restart"] == "on-failure"


def test_nothing_is_published_beyond_this_machine(services):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("role", ["migrate", "api", "worker"])
def test_landed_understands_its_environment(services, role, monkeypatch):
    for name, value in services[role]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.accounts("email") == ("mailgun",)
    sandbox = services["sandbox"]["environment"]
    account = settings.providers["mailgun"]
    assert account["domain"] == sandbox["LANDED_SANDBOX_DOMAIN"]
    assert account["api_key"] == sandbox["LANDED_SANDBOX_API_KEY"]
    assert account["webhook_signing_key"] == sandbox["LANDED_SANDBOX_SIGNING_KEY"]


def test_a_worker_is_given_the_time_it_was_promised_to_shut_down(services):
    grace = services["worker"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > Settings().times.shutdown_grace_seconds
