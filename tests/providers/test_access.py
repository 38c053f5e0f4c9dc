"""Access tokens: one fetch for all who wait, early refresh, and one second chance for a token that was refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.domain.models import Channel, Outcome, OutcomeKind
from app.providers.access import TOKEN_REFUSED, AccessTokens
from app.providers.base import AccessToken, Capabilities, Provider, ProviderRequest, ProviderResponse, SendContext
from app.providers.transport import TransportError
from tests.messages import NOW

ACCOUNT = "fcm"
REFUSED = Outcome(OutcomeKind.UNAUTHORIZED, "UNAUTHENTICATED", 401, reason=TOKEN_REFUSED)


class OAuth(Provider[Any]):
    """A provider whose token endpoint answers as the test says."""

    name = "oauth"
    capabilities = Capabilities(Channel.PUSH, confirms_delivery=False, can_look_up=False, accepts_client_id=False)

    def build(self, message: Any, context: SendContext) -> ProviderRequest:
        return ProviderRequest("POST", "https://api.example.com/send", {})

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        return Outcome(OutcomeKind.ACCEPTED, "")

    def build_access(self, now: datetime) -> ProviderRequest | None:
        return ProviderRequest("POST", "https://oauth.example.com/token", {}, timeout_seconds=5.0)

    def interpret_access(self, response: ProviderResponse, now: datetime) -> AccessToken | Outcome:
        if response.status != 200:
            return Outcome(OutcomeKind(response.body.decode()), "refused", response.status)
        given = json.loads(response.body)
        return AccessToken(given["token"], now + timedelta(seconds=given["seconds"]))


class Plain(OAuth):
    def build_access(self, now: datetime) -> ProviderRequest | None:
        return None


class Endpoint:
    """A token endpoint without a network: counts the requests, and answers when ``open`` is set."""

    def __init__(self, answer: Callable[[int], ProviderResponse] | None = None) -> None:
        self.answer = answer or (lambda count: granted(f"token-{count}"))
        self.open = asyncio.Event()
        self.open.set()
        self.requests = 0
        self.deadlines: list[float] = []

    async def send(self, request: ProviderRequest, deadline: float) -> ProviderResponse:
        self.requests += 1
        number = self.requests
        self.deadlines.append(deadline)
        try:
            async with asyncio.timeout_at(deadline):
                await self.open.wait()
        except TimeoutError:
            raise TransportError(written=True, detail="no answer before the deadline") from None
        return self.answer(number)


def granted(token: str, seconds: float = 3600) -> ProviderResponse:
    return ProviderResponse(200, {}, json.dumps({"token": token, "seconds": seconds}).encode())


def denied(kind: str, status: int = 400) -> ProviderResponse:
    return ProviderResponse(status, {}, kind.encode())


def soon(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def after(**passed: float) -> datetime:
    return NOW + timedelta(**passed)


async def test_a_provider_without_tokens_needs_none():
    assert await AccessTokens(Endpoint()).get(ACCOUNT, Plain(), NOW, soon()) is None


async def test_a_token_is_fetched_once_and_kept():
    endpoint, provider = Endpoint(), OAuth()
    access = AccessTokens(endpoint)
    tokens = [await access.get(ACCOUNT, provider, after(minutes=minutes), soon()) for minutes in (0, 1, 54)]
    assert tokens == ["token-1"] * 3
    assert endpoint.requests == 1


async def test_accounts_do_not_share_tokens():
    access = AccessTokens(Endpoint())
    assert await access.get("one", OAuth(), NOW, soon()) != await access.get("two", OAuth(), NOW, soon())


async def test_all_who_come_meanwhile_wait_for_one_fetch():
    endpoint, provider = Endpoint(), OAuth()
    endpoint.open.clear()
    access = AccessTokens(endpoint)
    waiting = [asyncio.create_task(access.get(ACCOUNT, provider, NOW, soon())) for _ in range(50)]
    await asyncio.sleep(0)
    endpoint.open.set()
    assert set(await asyncio.gather(*waiting)) == {"token-1"}
    assert endpoint.requests == 1


async def test_all_who_wait_share_a_refusal():
    endpoint, provider = Endpoint(lambda _: denied("unauthorized")), OAuth()
    endpoint.open.clear()
    access = AccessTokens(endpoint)
    waiting = [asyncio.create_task(access.get(ACCOUNT, provider, NOW, soon())) for _ in range(50)]
    await asyncio.sleep(0)
    endpoint.open.set()
    assert {outcome.kind for outcome in await asyncio.gather(*waiting)} == {OutcomeKind.UNAUTHORIZED}
    assert endpoint.requests == 1


async def test_a_cancelled_fetch_is_taken_over():
    endpoint, provider = Endpoint(), OAuth()
    endpoint.open.clear()
    access = AccessTokens(endpoint)
    first, second = (asyncio.create_task(access.get(ACCOUNT, provider, NOW, soon())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    endpoint.open.set()
    assert await second == "token-2"


async def test_who_waits_for_another_fetch_still_keeps_its_own_deadline():
    endpoint, provider = Endpoint(), OAuth()
    endpoint.open.clear()
    access = AccessTokens(endpoint)
    first = asyncio.create_task(access.get(ACCOUNT, provider, NOW, soon()))
    await asyncio.sleep(0)
    outcome = await access.get(ACCOUNT, provider, NOW, soon(0.05))
    assert isinstance(outcome, Outcome)
    assert (outcome.kind, outcome.detail) == (OutcomeKind.TRANSIENT, "no access token before the deadline")
    endpoint.open.set()
    assert await first == "token-1"


async def test_a_token_is_refreshed_minutes_before_it_runs_out():
    provider, access = OAuth(), AccessTokens(Endpoint())
    await access.get(ACCOUNT, provider, NOW, soon())
    assert await access.get(ACCOUNT, provider, after(minutes=56), soon()) == "token-2"


async def test_a_short_lived_token_is_still_used_for_most_of_its_life():
    endpoint, provider = Endpoint(lambda count: granted(f"token-{count}", seconds=60)), OAuth()
    access = AccessTokens(endpoint)
    tokens = [await access.get(ACCOUNT, provider, after(seconds=seconds), soon()) for seconds in (0, 40, 50)]
    assert tokens == ["token-1", "token-1", "token-2"]


async def test_a_refresh_holds_up_no_one_else():
    endpoint, provider = Endpoint(), OAuth()
    access = AccessTokens(endpoint)
    await access.get(ACCOUNT, provider, NOW, soon())
    endpoint.open.clear()
    refreshing = asyncio.create_task(access.get(ACCOUNT, provider, after(minutes=56), soon()))
    await asyncio.sleep(0)
    assert await access.get(ACCOUNT, provider, after(minutes=56), soon()) == "token-1"
    assert endpoint.deadlines[-1] < soon(1.5), "a refresh takes its call a second at the most"
    endpoint.open.set()
    assert await refreshing == "token-2"


async def test_a_refresh_that_fails_leaves_the_token_that_still_serves():
    endpoint, provider = Endpoint(lambda count: granted("token-1") if count == 1 else denied("transient", 503)), OAuth()
    access = AccessTokens(endpoint)
    await access.get(ACCOUNT, provider, NOW, soon())
    assert await access.get(ACCOUNT, provider, after(minutes=56), soon()) == "token-1"
    assert await access.get(ACCOUNT, provider, after(minutes=56, seconds=29), soon()) == "token-1"
    assert endpoint.requests == 2, "a failing endpoint is not asked for every message"
    expired = await access.get(ACCOUNT, provider, after(minutes=60), soon())
    assert isinstance(expired, Outcome)
    assert expired.kind is OutcomeKind.TRANSIENT


@pytest.mark.parametrize("kind", ["unauthorized", "transient", "rate_limited", "rejected"])
async def test_why_there_is_no_token_is_the_outcome(kind):
    outcome = await AccessTokens(Endpoint(lambda _: denied(kind))).get(ACCOUNT, OAuth(), NOW, soon())
    assert isinstance(outcome, Outcome)
    assert outcome.kind == kind


async def test_no_trouble_with_a_token_leaves_a_send_in_doubt():
    endpoint = Endpoint(lambda _: denied("unknown", 500))
    outcome = await AccessTokens(endpoint).get(ACCOUNT, OAuth(), NOW, soon())
    assert isinstance(outcome, Outcome)
    assert outcome.kind is OutcomeKind.TRANSIENT
    endpoint.open.clear()
    silent = await AccessTokens(endpoint).get(ACCOUNT, OAuth(), NOW, soon(0.05))
    assert isinstance(silent, Outcome)
    assert silent.kind is OutcomeKind.TRANSIENT


async def test_a_failure_is_not_remembered():
    endpoint = Endpoint(lambda count: denied("transient", 503) if count == 1 else granted("token-2"))
    access, provider = AccessTokens(endpoint), OAuth()
    assert isinstance(await access.get(ACCOUNT, provider, NOW, soon()), Outcome)
    assert await access.get(ACCOUNT, provider, NOW, soon()) == "token-2"


async def test_a_provider_made_anew_gets_a_new_token():
    access = AccessTokens(Endpoint())
    assert await access.get(ACCOUNT, OAuth(), NOW, soon()) == "token-1"
    assert await access.get(ACCOUNT, OAuth(), NOW, soon()) == "token-2"


async def test_a_refused_token_is_replaced_and_its_call_tried_again():
    access, provider = AccessTokens(Endpoint()), OAuth()
    token = await access.get(ACCOUNT, provider, NOW, soon())
    outcome = access.refused(ACCOUNT, token, REFUSED)
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.TRANSIENT, 401)
    assert await access.get(ACCOUNT, provider, NOW, soon()) == "token-2"


async def test_a_new_token_refused_as_well_is_not_the_tokens_fault():
    access, provider = AccessTokens(Endpoint()), OAuth()
    kinds = []
    for _ in range(3):
        token = await access.get(ACCOUNT, provider, NOW, soon())
        kinds.append(access.refused(ACCOUNT, token, REFUSED).kind)
    assert kinds == [OutcomeKind.TRANSIENT, OutcomeKind.UNAUTHORIZED, OutcomeKind.UNAUTHORIZED]


async def test_calls_that_were_under_way_with_the_old_token_do_not_condemn_the_new_one():
    access, provider = AccessTokens(Endpoint()), OAuth()
    old = await access.get(ACCOUNT, provider, NOW, soon())
    assert [access.refused(ACCOUNT, old, REFUSED).kind for _ in range(100)] == [OutcomeKind.TRANSIENT] * 100
    new = await access.get(ACCOUNT, provider, NOW, soon())
    assert access.refused(ACCOUNT, old, REFUSED).kind is OutcomeKind.TRANSIENT
    assert await access.get(ACCOUNT, provider, NOW, soon()) == new


async def test_a_token_that_ran_out_in_its_time_clears_the_suspicion():
    access, provider = AccessTokens(Endpoint()), OAuth()
    access.refused(ACCOUNT, await access.get(ACCOUNT, provider, NOW, soon()), REFUSED)
    await access.get(ACCOUNT, provider, NOW, soon())
    third = await access.get(ACCOUNT, provider, after(hours=1), soon())
    assert access.refused(ACCOUNT, third, REFUSED).kind is OutcomeKind.TRANSIENT


async def test_a_token_that_served_for_minutes_may_be_revoked_like_any_other():
    access, provider = AccessTokens(Endpoint()), OAuth()
    access.refused(ACCOUNT, await access.get(ACCOUNT, provider, NOW, soon()), REFUSED)
    for minutes in range(50):
        second = await access.get(ACCOUNT, provider, after(minutes=minutes), soon())
    assert access.refused(ACCOUNT, second, REFUSED).kind is OutcomeKind.TRANSIENT
    third = await access.get(ACCOUNT, provider, after(minutes=50), soon())
    assert third == "token-3"
    assert access.refused(ACCOUNT, third, REFUSED).kind is OutcomeKind.UNAUTHORIZED


async def test_a_token_that_is_seconds_old_has_proven_nothing():
    access, provider = AccessTokens(Endpoint()), OAuth()
    access.refused(ACCOUNT, await access.get(ACCOUNT, provider, NOW, soon()), REFUSED)
    for seconds in (0, 30, 60):
        second = await access.get(ACCOUNT, provider, after(seconds=seconds), soon())
    assert access.refused(ACCOUNT, second, REFUSED).kind is OutcomeKind.UNAUTHORIZED


async def test_what_is_not_about_the_token_stays_as_it_is():
    access, provider = AccessTokens(Endpoint()), OAuth()
    token = await access.get(ACCOUNT, provider, NOW, soon())
    denial = Outcome(OutcomeKind.UNAUTHORIZED, "PERMISSION_DENIED", 403)
    assert access.refused(ACCOUNT, token, denial) is denial
    assert await access.get(ACCOUNT, provider, NOW, soon()) == token
