"""Routes and accounts as they are configured: what is understood, and what is refused in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from app.errors import ConfigurationError
from app.providers.accounts import ProviderSet
from app.settings import Choice, Settings
from jobs.worker import Worker, lanes_of

SMTP = {"adapter": "smtp", "host": "127.0.0.1", "bounce_domain": "b.example.com", "webhook_token": "t" * 32}
TWILIO = {"adapter": "twilio", "account_sid": "AC" + "0" * 32, "auth_token": "s", "sender": "+14155550100"}
PROVIDERS: dict[str, dict[str, Any]] = {"a": SMTP, "b": SMTP, "c": SMTP, "texts": TWILIO}


def settings(**routes: Any) -> Settings:
    return Settings(providers=PROVIDERS, routes=routes)


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        (["a", "b"], [("a", 1, 1), ("b", 2, 1)]),
        ([{"provider": "a", "order": 1, "weight": 70}, {"provider": "b", "order": 1}], [("a", 1, 70), ("b", 1, 1)]),
        (["a", {"provider": "b", "weight": 2}, {"provider": "c", "order": 1}], [("a", 1, 1), ("b", 2, 2), ("c", 1, 1)]),
        ([], []),
    ],
)
def test_a_name_comes_after_the_one_before_it_and_a_choice_says_what_else(given, understood):
    route = settings(email=given).routes["email"]
    assert route == tuple(Choice(provider=name, order=order, weight=weight) for name, order, weight in understood)


def test_routes_come_from_the_environment_as_well(monkeypatch):
    monkeypatch.setenv("LANDED_PROVIDERS", json.dumps(PROVIDERS))
    monkeypatch.setenv("LANDED_ROUTES", json.dumps({"email@acme": ["b", "a"], "sms.GB": ["texts"]}))
    found = Settings()
    assert [choice.provider for choice in found.routes["email@acme"]] == ["b", "a"]
    assert {lane.name for lane in lanes_of(found)} >= {"email.alert.default@acme", "sms.transactional.gb"}


@pytest.mark.parametrize(
    ("routes", "problem"),
    [
        ({"email": ["x"]}, "routes.email names provider 'x', which providers does not define"),
        ({"email": ["a", "b", "a"]}, "routes.email names provider 'a' twice"),
        ({"fax": ["a"]}, "routes.fax is not a route; a route begins with a channel: email, push"),
        ({"push": ["a"]}, "a push route names its platform: push.ios"),
        ({"sms.gb": ["texts"]}, "a country is two capitals"),
        ({"email.GB": ["a"]}, "only push and sms have parts"),
        ({"email": [{"provider": "a", "weight": 0}]}, "greater than 0"),
        ({"email": [{"provider": "a", "order": 0}]}, "greater than or equal to 1"),
        ({"email": [{"provider": "a", "prio": 1}]}, "Extra inputs are not permitted"),
        ({"email": "a"}, "valid tuple"),
    ],
)
def test_a_route_that_cannot_be_is_refused_in_words(routes, problem):
    with pytest.raises(ValidationError) as refused:
        settings(**routes)
    assert problem in str(refused.value)


def test_the_accounts_of_a_channel_are_those_of_all_its_routes_each_once():
    found = settings(**{"email": ["a", "b"], "email@acme": ["c", "a"], "sms": ["texts"], "sms.GB": []})
    assert found.accounts("email") == ("a", "b", "c")
    assert found.accounts("sms", "gb") == ()
    assert found.accounts("push") == ()
    routing = found.routing()
    assert routing.find("sms", "gb", "shop") == routing.find("sms", None, "shop"), "an empty route is none"


def test_a_provider_serves_its_own_channel_alone():
    with pytest.raises(ConfigurationError, match="texts delivers sms, so it cannot serve lane email"):
        Worker(settings(email=["a", "texts"]), "postgresql://nowhere")


@pytest.mark.parametrize("rate", [0, -1, "many", float("inf"), float("nan"), [20]])
def test_a_rate_that_is_none_is_refused_by_name(rate):
    with pytest.raises(ConfigurationError, match=r"providers.a.rate_per_second must be a number of calls above 0"):
        ProviderSet({"a": SMTP | {"rate_per_second": rate}})


def test_an_account_says_its_rate_or_its_provider_does():
    accounts = ProviderSet({"a": SMTP | {"rate_per_second": 20}, "b": SMTP})
    assert (accounts.rate("a"), accounts.rate("b")) == (20, None)
