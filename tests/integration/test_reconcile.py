"""reconcile: what is past its time is asked about, and ends by evidence, by policy or by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import psycopg
import pytest

from app.db import Database
from app.flows.apply import apply
from app.flows.reconcile import Reconciled, _decide_all, reconcile
from app.providers.accounts import ProviderSet
from app.providers.base import Lookup, LookupVerdict
from app.rendering.pool import RenderPool
from app.settings import Settings
from app.store import reconcile as store
from tests.factories import (
    make_attempt,
    make_category,
    make_delivery,
    make_notification,
    make_template,
    make_tenant,
)
from tests.looking import rows
from tests.messages import CONTEXT, email_message
from tests.sandbox_process import SandboxProcess, wait_until

LONG_AGO = timedelta(hours=1)  # beyond the settle time of the account under test


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("sandbox") / "ledger.jsonl") as process:
        yield process


@pytest.fixture(autouse=True)
def healthy(sandbox: SandboxProcess) -> Iterator[None]:
    yield
    sandbox.set_fault("ok")


class Provider:
    """The sandbox's account, as a worker has it configured."""

    def __init__(self, db: Database, sandbox: SandboxProcess) -> None:
        self._db = db
        self._account: dict[str, Any] = {
            "adapter": "mailgun",
            "domain": sandbox.domain,
            "api_key": sandbox.api_key,
            "webhook_signing_key": sandbox.signing_key,
            "base_url": sandbox.url,
        }

    def settings(self, **changes: Any) -> Settings:
        return Settings(providers={"mailgun": self._account}, routes={"email": ("mailgun",)}, **changes)

    async def asked(self, *, account: dict[str, Any] | None = None, **changes: Any) -> Reconciled:
        """One round, and what it found out applied."""
        settings = self.settings(**changes)
        providers = ProviderSet({"mailgun": self._account | (account or {})})
        round_ = await reconcile(self._db, providers, settings, limit=100)
        while await apply(self._db, settings, limit=100):
            pass
        return round_

    def take(self, delivery: Any, address: str = "ann@example.com") -> None:
        """The provider takes the first attempt, as a worker that then vanished would have sent it."""
        message = email_message(
            delivery_id=delivery.id,
            attempt_no=1,
            tenant="shop",
            category="orders",
            to=address,
            sender="Shop <shop@example.com>",
            subject="Your order",
            html=None,
            text="It is on its way.",
        )
        request = ProviderSet({"mailgun": self._account}).get("mailgun").build(message, CONTEXT)
        httpx.post(request.url, content=request.body, headers=dict(request.headers)).raise_for_status()


@pytest.fixture
def provider(db: Database, sandbox: SandboxProcess) -> Provider:
    return Provider(db, sandbox)


async def delivery_row(conn: psycopg.AsyncConnection, delivery: Any) -> dict[str, Any]:
    [row] = await rows(conn, "SELECT * FROM store.deliveries WHERE id = %s", delivery.id)
    return row


async def told(conn: psycopg.AsyncConnection, delivery: Any) -> list[tuple[str, str]]:
    found = await rows(conn, "SELECT kind, source FROM store.events WHERE delivery_id = %s ORDER BY id", delivery.id)
    return [(event["kind"], event["source"]) for event in found]


async def overdue(
    seed: psycopg.AsyncConnection,
    state: str,
    *,
    age: timedelta = LONG_AGO,
    policy: str | None = None,
    **overrides: Any,
) -> Any:
    """A delivery whose one attempt was opened so long ago, due to be asked about."""
    if policy is not None:
        tenant = await make_tenant(seed)
        category = await make_category(seed, tenant_id=tenant.id, ambiguity_policy=policy)
        overrides |= {"tenant_id": tenant.id, "category": category.name}
    delivery = await make_delivery(seed, state=state, attempt=False, attempt_no=1, provider="mailgun", **overrides)
    attempt = {"sent": ("accepted", "accepted"), "sending": ("open", None)}.get(state, ("ambiguous", "unknown"))
    opened_at = datetime.now(UTC) - age
    await make_attempt(seed, delivery, state=attempt[0], outcome=attempt[1], opened_at=opened_at)
    return delivery


# -- leases --------------------------------------------------------------------------------------------------


async def test_a_lease_that_ran_out_makes_the_outcome_unknown_and_nothing_else(db, seed, provider):
    delivery = await overdue(seed, "sending")
    assert (await provider.asked()).leases_expired == 1
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"], after["failures"]) == ("ambiguous", "lease_expired", 0)
    assert after["due_at"] > datetime.now(UTC)
    assert await told(seed, delivery) == [("lease_expired", "landed")]


async def test_a_lease_that_runs_is_left_alone(db, seed, provider):
    delivery = await overdue(seed, "sending", due_at=datetime.now(UTC) + timedelta(seconds=30))
    assert (await provider.asked()).leases_expired == 0
    assert (await delivery_row(seed, delivery))["state"] == "sending"


# -- ambiguous: what the provider knows ----------------------------------------------------------------------


async def test_what_the_provider_has_is_sent_and_followed_and_never_sent_again(db, seed, provider, sandbox):
    delivery = await overdue(seed, "ambiguous")
    provider.take(delivery)
    assert (await provider.asked()).evidence >= 1
    wait_until(lambda: sandbox.ledger(kind="event", landed_delivery=str(delivery.id))[1:])
    await seed.execute("UPDATE store.deliveries SET due_at = now() WHERE due_at IS NOT NULL")
    await provider.asked()
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["attempt_no"]) == ("delivered", 1)
    kinds = await told(seed, delivery)
    assert ("resolved_found", "lookup") in kinds
    assert ("provider_delivered", "lookup") in kinds
    [attempt] = await rows(seed, "SELECT state FROM store.attempts")
    assert attempt["state"] == "accepted"


@pytest.mark.parametrize("policy", ["resend_if_absent", "at_least_once"])
async def test_what_is_proven_absent_goes_out_again_at_the_cost_of_budget(db, seed, provider, policy):
    delivery = await overdue(seed, "ambiguous", policy=policy)
    await provider.asked()
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"], after["failures"]) == ("queued", "retry", 1)
    assert await told(seed, delivery) == [("resolved_not_sent", "lookup")]
    [attempt] = await rows(seed, "SELECT state, closed_at IS NOT NULL AS closed FROM store.attempts")
    assert attempt == {"state": "not_sent", "closed": True}


async def test_a_category_that_parks_is_never_sent_again_on_absence(db, seed, provider):
    delivery = await overdue(seed, "ambiguous", policy="park")
    await provider.asked()
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["lookups"], after["attempt_no"]) == ("ambiguous", 1, 1)
    assert after["due_at"] > datetime.now(UTC)


@pytest.mark.parametrize("policy", ["park", "resend_if_absent", "at_least_once"])
async def test_absence_that_is_too_young_proves_nothing(db, seed, provider, policy):
    delivery = await overdue(seed, "ambiguous", age=timedelta(seconds=60), policy=policy)
    await provider.asked()
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["lookups"]) == ("ambiguous", 1)


async def test_how_old_absence_is_does_not_depend_on_the_workers_clock(db, seed, provider, monkeypatch):
    """Or a worker whose clock is ahead would send again what the provider is about to list (I5)."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr("app.flows.reconcile.datetime", Ahead)
    delivery = await overdue(seed, "ambiguous", age=timedelta(seconds=60), policy="at_least_once")
    await provider.asked()
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["lookups"]) == ("ambiguous", 1)
    assert after["due_at"] - after["updated_at"] < timedelta(minutes=30)


@pytest.mark.parametrize(
    ("policy", "state", "reason"),
    [
        ("park", "unconfirmed", "ambiguous_unresolved"),
        ("resend_if_absent", "unconfirmed", "ambiguous_unresolved"),
        ("at_least_once", "queued", "retry"),
    ],
)
async def test_what_the_provider_no_longer_knows_is_decided_by_the_categorys_policy(
    db, seed, provider, policy, state, reason
):
    delivery = await overdue(seed, "ambiguous", age=timedelta(days=1), policy=policy)
    await provider.asked(account={"lookup_retention_seconds": 3600})
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"]) == (state, reason)
    if state == "unconfirmed":
        [shown] = await rows(seed, "SELECT delivery_id, reason FROM reporting.unconfirmed")
        assert shown == {"delivery_id": delivery.id, "reason": reason}
        assert await told(seed, delivery) == [("unconfirmed", "landed")]
    else:  # nothing shows that it was not sent, and nothing says so
        [attempt] = await rows(seed, "SELECT state, closed_at IS NOT NULL AS closed FROM store.attempts")
        assert attempt == {"state": "unanswered", "closed": True}
        assert await told(seed, delivery) == [("resolved_repeatable", "lookup")]


async def test_absence_at_the_end_of_the_budget_is_a_dead_letter(db, seed, provider):
    delivery = await overdue(seed, "ambiguous", policy="resend_if_absent", failures=4)
    await provider.asked()
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"]) == ("dead", "retries_exhausted")
    assert [kind for kind, _ in await told(seed, delivery)] == ["resolved_not_sent", "dead"]


async def test_absence_after_the_expiry_is_an_expiry(db, seed, provider):
    past = datetime.now(UTC) - timedelta(seconds=1)
    delivery = await overdue(seed, "ambiguous", policy="resend_if_absent", expires_at=past)
    await provider.asked()
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"]) == ("expired", "expired")
    assert [kind for kind, _ in await told(seed, delivery)] == ["resolved_not_sent", "expired"]


@pytest.mark.parametrize("fault", ["error", "refuse", "rate_limit"])
async def test_a_question_that_failed_is_no_answer(db, seed, provider, sandbox, fault):
    delivery = await overdue(seed, "ambiguous", policy="at_least_once")
    sandbox.set_fault(fault)
    await provider.asked()
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["lookups"]) == ("ambiguous", 0)
    assert after["due_at"] > datetime.now(UTC)


async def test_what_cannot_be_asked_about_keeps_nobody_else_waiting(db, seed, provider):
    orphan = await overdue(seed, "ambiguous", policy="resend_if_absent")
    await seed.execute("UPDATE store.attempts SET provider = 'an account that was removed'")
    other = await overdue(seed, "ambiguous", policy="resend_if_absent")
    await provider.asked()
    assert (await delivery_row(seed, other))["state"] == "queued"
    assert (await delivery_row(seed, orphan))["state"] == "ambiguous"


async def test_evidence_that_came_while_we_asked_is_not_undone(db, seed, provider):
    """Named steps: the row is taken, evidence settles it, the answer to our question comes after."""

    await overdue(seed, "ambiguous", policy="resend_if_absent")
    async with db.transaction() as conn:
        [item] = await store.claim_unproven(conn, limit=1, lease_seconds=60)
    await seed.execute("UPDATE store.attempts SET state = 'accepted', closed_at = now()")
    await seed.execute("UPDATE store.deliveries SET state = 'sent', reason = NULL, sent_at = now()")
    await _decide_all(db, provider.settings(), [(item, Lookup(LookupVerdict.NOT_SENT))], item.claimed_at)
    [after] = await rows(seed, "SELECT state, failures FROM store.deliveries")
    assert after == {"state": "sent", "failures": 0}


# -- sent: the webhook that never came -----------------------------------------------------------------------


async def test_a_lost_webhook_is_made_up_for_by_asking(db, seed, provider, sandbox):
    delivery = await overdue(seed, "sent")
    provider.take(delivery, "webhook-lost@example.com")
    wait_until(lambda: sandbox.ledger(kind="event", landed_delivery=str(delivery.id))[1:])
    await provider.asked()
    assert (await delivery_row(seed, delivery))["state"] == "delivered"
    kinds = await told(seed, delivery)
    assert kinds[0] == ("confirmation_overdue", "landed")
    assert ("provider_delivered", "lookup") in kinds


async def test_being_overdue_is_told_once(db, seed, provider):
    delivery = await overdue(seed, "sent")
    for _ in range(2):
        await provider.asked()
        await seed.execute("UPDATE store.deliveries SET due_at = now()")
    assert await told(seed, delivery) == [("confirmation_overdue", "landed")]


async def test_silence_for_too_long_ends_as_unconfirmed(db, seed, provider):
    delivery = await overdue(seed, "sent", age=timedelta(hours=13))
    await provider.asked()
    after = await delivery_row(seed, delivery)
    assert (after["state"], after["reason"]) == ("unconfirmed", "no_evidence")
    [shown] = await rows(seed, "SELECT delivery_id, reason FROM reporting.unconfirmed")
    assert shown == {"delivery_id": delivery.id, "reason": "no_evidence"}


async def test_evidence_found_at_the_last_moment_is_not_called_silence(db, seed, provider, sandbox):
    delivery = await overdue(seed, "sent", age=timedelta(hours=13))
    provider.take(delivery)
    wait_until(lambda: sandbox.ledger(kind="event", landed_delivery=str(delivery.id))[1:])
    await provider.asked()
    assert (await delivery_row(seed, delivery))["state"] == "delivered"
    assert "unconfirmed" not in [kind for kind, _ in await told(seed, delivery)]


async def test_a_provider_that_cannot_be_asked_just_now_is_asked_again_before_giving_up(db, seed, provider, sandbox):
    delivery = await overdue(seed, "sent", age=timedelta(hours=13))
    sandbox.set_fault("error")
    await provider.asked()
    assert (await delivery_row(seed, delivery))["state"] == "sent"
    await seed.execute("UPDATE store.attempts SET opened_at = now() - interval '3 days'")
    await seed.execute("UPDATE store.deliveries SET due_at = now()")
    await provider.asked()
    assert (await delivery_row(seed, delivery))["state"] == "unconfirmed"


async def test_the_attempt_that_was_accepted_is_the_one_asked_about(db, seed, provider, sandbox):
    delivery = await overdue(seed, "sent")
    await seed.execute("UPDATE store.deliveries SET attempt_no = 2")
    await make_attempt(seed, delivery, no=2, state="refused", outcome="transient")
    provider.take(delivery)
    wait_until(lambda: sandbox.ledger(kind="event", landed_delivery=str(delivery.id))[1:])
    await provider.asked()
    assert (await delivery_row(seed, delivery))["state"] == "delivered"


# -- routes that cannot be asked -----------------------------------------------------------------------------

UNASKED = {
    "vonage": {"adapter": "vonage", "api_key": "abcd1234", "api_secret": "x", "sender": "a", "signature_secret": "x"}
}


def unasked(**changes: Any) -> Settings:
    return Settings(providers=UNASKED, routes={"sms": ("vonage",)}, **changes)


async def made_through(seed: psycopg.AsyncConnection, account: str, *, state: str, channel: str, age: timedelta) -> Any:
    """A delivery whose attempt went through this account so long ago."""
    tenant = await make_tenant(seed)
    plain = {"subject": "", "html": None} if channel in ("sms", "webhook") else {}
    template = await make_template(seed, tenant_id=tenant.id, channel=channel, **plain)
    notification = await make_notification(
        seed, tenant_id=tenant.id, state="planned", template_id=template.template_id, channels=[channel]
    )
    delivery = await make_delivery(
        seed, state=state, notification=notification, attempt=False, channel=channel, provider=account
    )
    settled = (
        {"state": "accepted", "outcome": "accepted"} if state == "sent" else {"state": state, "outcome": "unknown"}
    )
    await make_attempt(seed, delivery, provider=account, opened_at=datetime.now(UTC) - age, **settled)
    return delivery


async def test_a_route_that_cannot_be_asked_is_looked_at_once_more_and_ends_by_its_own_name(db, seed):
    settings = unasked()
    providers = ProviderSet(settings.providers)
    fresh = await made_through(seed, "vonage", state="sent", channel="sms", age=timedelta(minutes=20))
    old = await made_through(seed, "vonage", state="sent", channel="sms", age=timedelta(hours=13))
    await reconcile(db, providers, settings, limit=10)
    [row] = await rows(seed, "SELECT state, due_at - now() AS wait FROM store.deliveries WHERE id = %s", fresh.id)
    assert row["state"] == "sent"
    assert timedelta(hours=11) < row["wait"] < timedelta(hours=12)
    [row] = await rows(seed, "SELECT state, reason FROM store.deliveries WHERE id = %s", old.id)
    assert (row["state"], row["reason"]) == ("unconfirmed", "not_acknowledged")


async def test_where_the_receiver_drops_copies_an_unknown_outcome_goes_out_again_whatever_the_policy(db, seed):
    settings = unasked()
    delivery = await made_through(seed, "webhooks", state="ambiguous", channel="webhook", age=timedelta(minutes=1))
    await seed.execute("UPDATE store.categories SET ambiguity_policy = 'park'")
    await reconcile(db, ProviderSet(settings.providers), settings, limit=10)
    [row] = await rows(seed, "SELECT state, reason, failures FROM store.deliveries WHERE id = %s", delivery.id)
    assert (row["state"], row["reason"], row["failures"]) == ("queued", "retry", 1)
    assert await rows(seed, "SELECT state FROM store.attempts") == [{"state": "unanswered"}]


async def test_what_was_not_recorded_in_the_inbox_is_put_there_again(db, seed):
    settings = unasked()
    delivery = await made_through(seed, "inbox", state="ambiguous", channel="in_app", age=timedelta(minutes=1))
    await reconcile(db, ProviderSet(settings.providers), settings, limit=10)
    [row] = await rows(seed, "SELECT state FROM store.deliveries WHERE id = %s", delivery.id)
    assert row["state"] == "queued"
    assert await rows(seed, "SELECT state FROM store.attempts") == [{"state": "not_sent"}]


async def test_what_was_never_recorded_is_looked_for_by_the_words_it_would_have_had(db, seed, httpserver):
    """A worker that died between intent and record left no hash; the template and the variables are still there."""
    account = "AC" + "0" * 32
    twilio = {
        "adapter": "twilio",
        "account_sid": account,
        "auth_token": "secret",
        "sender": "+14155550100",
        "base_url": httpserver.url_for("").rstrip("/"),
        "lookup_settle_seconds": 1,
    }
    settings = Settings(providers={"twilio": twilio}, routes={"sms": ("twilio",)})
    lost = await made_through(seed, "twilio", state="ambiguous", channel="sms", age=timedelta(minutes=1))
    found = await made_through(seed, "twilio", state="ambiguous", channel="sms", age=timedelta(minutes=1))
    listed = {
        "sid": "SM" + "1" * 32,
        "body": f"Order {lost.id} is on its way.",
        "to": "+14155550101",
        "direction": "outbound-api",
        "status": "delivered",
        "error_code": None,
        "date_created": format_datetime(datetime.now(UTC) - timedelta(minutes=1)),
        "messaging_service_sid": None,
        "from": "+14155550100",
    }
    for delivery, order in ((lost, "elsewhere"), (found, lost.id)):
        await seed.execute("UPDATE store.deliveries SET address = '+14155550101' WHERE id = %s", (delivery.id,))
        await seed.execute(
            "UPDATE store.notifications SET request = jsonb_build_object('variables', jsonb_build_object('order_id', "
            "%s::text)) WHERE id = %s",
            (str(order), delivery.notification_id),
        )
    httpserver.expect_request(f"/2010-04-01/Accounts/{account}/Messages.json", method="GET").respond_with_json(
        {"messages": [listed], "next_page_uri": None}
    )
    renderer = RenderPool()
    try:
        await reconcile(db, ProviderSet(settings.providers), settings, limit=10, renderer=renderer)
    finally:
        await renderer.stop()
    while await apply(db, settings, limit=10):
        pass
    states = {row["id"]: row["state"] for row in await rows(seed, "SELECT id, state FROM store.deliveries")}
    assert states == {lost.id: "queued", found.id: "delivered"}


@asynccontextmanager
async def query_api(answer: Callable[[str], Awaitable[str | None]]) -> AsyncIterator[str]:
    """A provider's own. answer: the JSON for a request's path; None hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                said = await answer(head.split(b" ")[1].decode())
                if said is None:
                    break
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(said)}\r\n\r\n{said}".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_a_provider_that_hangs_keeps_no_other_from_being_asked(db, seed):
    asked: list[str] = []
    all_asked = asyncio.Event()

    async def well(path: str) -> str:
        asked.append(path)
        if len(asked) == 15:
            all_asked.set()
        return '{"items": []}'

    async def sick(_: str) -> str:
        await all_asked.wait()
        return "not now"

    async with query_api(well) as well_url, query_api(sick) as sick_url:
        account = {"adapter": "mailgun", "domain": "mail.test", "api_key": "k", "webhook_signing_key": "s"}
        accounts = {"sick": account | {"base_url": sick_url}, "well": account | {"base_url": well_url}}
        settings = Settings(providers=accounts, routes={"email": ("sick", "well")})
        for name, count in (("sick", 30), ("well", 15)):
            for _ in range(count):
                await made_through(seed, name, state="ambiguous", channel="email", age=LONG_AGO)
        await reconcile(db, ProviderSet(settings.providers), settings, limit=500)

    assert len(asked) == 15
    resolved = await rows(
        seed, "SELECT provider, count(*) AS n FROM store.attempts WHERE state = 'not_sent' GROUP BY 1"
    )
    assert resolved == [{"provider": "well", "n": 15}]


@pytest.mark.parametrize("year", [2000, 2026, 2099])  # a vendor whose clock is wrong must not stop a whole round
async def test_what_the_first_page_showed_stands_though_the_second_is_cut_off(db, seed, year):
    sinch = {
        "adapter": "sinch",
        "service_plan_id": "plan",
        "api_token": "token",
        "webhook_secret": "secret",
        "sender": "+447700900100",
    }
    delivery = await made_through(seed, "sinch", state="ambiguous", channel="sms", age=timedelta(minutes=1))

    async def answer(path: str) -> str | None:
        if "/delivery_reports" in path:
            return None
        return (
            '{"count": 1, "batches": [{"id": "01HQ", "to": ["14155550101"],'
            f' "created_at": "{year}-03-01T11:45:01Z", "client_reference": "{delivery.id}.1"}}]}}'
        )

    async with query_api(answer) as url:
        settings = Settings(providers={"sinch": sinch | {"base_url": url}}, routes={"sms": ("sinch",)})
        await reconcile(db, ProviderSet(settings.providers), settings, limit=10)
    while await apply(db, settings, limit=10):
        pass

    [row] = await rows(seed, "SELECT state FROM store.attempts")
    assert row["state"] == "accepted"
