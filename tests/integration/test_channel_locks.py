"""Everything that locks more than one row, at once and on the same few rows: whoever took them in another order than
the others would be a deadlock here.

The order for everybody: status events and inbound events that nobody else is at; deliveries by id; their attempts;
inboxes; soft bounces; addresses (advisory locks, ascending, in one go); devices and endpoints by id; new inbound events
by key; the provider's state.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from psycopg.rows import class_row

from app.db import HOT_PATH_OPTIONS, Database
from app.domain.models import BounceClass, Evidence, EvidenceKind, NotificationClass, Outcome, OutcomeKind, Platform
from app.errors import Unavailable
from app.flows import inbox as inbox_flow
from app.flows import reconcile as reconciling
from app.flows.apply import apply
from app.flows.compose import InboxContent, Target
from app.flows.control import Control
from app.flows.dispatch import Lane
from app.flows.fan_out import fan_out
from app.flows.line import Finished
from app.providers.accounts import ProviderSet
from app.providers.base import Device, Lookup, LookupVerdict
from app.providers.transport import Transport
from app.rendering.pool import RenderPool
from app.settings import Choice, Settings
from app.store import control, devices, dispatch, endpoints, inbound, suppressions
from app.store import reconcile as unproven
from app.store.inbox import Action, Inbox
from app.store.reconcile import Unproven
from tests.factories import make_attempt, make_delivery, make_recipient, make_tenant
from tests.lanes import make_dispatcher

K = EvidenceKind
ROUNDS = 5
EACH = 6  # deliveries of each channel in a round
TURNS = 4  # of each worker in a round
PEOPLE = ("ada", "bo", "cy")
ACCOUNTS = {"email": "mail", "sms": "twilio", "push": "fcm", "webhook": "hooks", "in_app": "inbox"}
FOUND_QUICKLY = "-c deadlock_timeout=50ms"
RSA = (
    rsa.generate_private_key(65537, 2048)
    .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    .decode()
)
SETTINGS = Settings(
    providers={
        "mail": {"adapter": "postmark", "server_token": "t", "webhook_token": "w"},
        "twilio": {"adapter": "twilio", "account_sid": "AC" + "0" * 32, "auth_token": "s", "sender": "+14155550100"},
        "fcm": {
            "adapter": "fcm",
            "project_id": "demo",
            "client_email": "landed@demo.iam.gserviceaccount.com",
            "private_key": RSA,
            "private_key_id": "1",
        },
        "hooks": {"adapter": "standard-webhooks"},
        "inbox": {"adapter": "inbox"},
        "spare": {"adapter": "postmark", "server_token": "t", "webhook_token": "w"},
    },
    routes={
        "email": ("mail",),
        "sms": ("twilio",),
        "push.android": ("fcm",),
        "webhook": ("hooks",),
        "in_app": ("inbox",),
    },
    bounces={"soft_bounces_max": 3, "soft_bounce_days_min": 0},
)

SPARE = "spare"  # a second provider of every lane
PROVIDERS = ProviderSet(SETTINGS.providers)
WORKER = uuid4()

Turn = Callable[[random.Random], Awaitable[object]]


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    async with Database(
        dsn, name="landed tests", size_max=40, options=f"{HOT_PATH_OPTIONS} {FOUND_QUICKLY}"
    ) as database:
        yield database


CLAIMED = """
SELECT d.shard, d.id, d.notification_id, d.tenant_id, d.recipient_id, d.category, d.class AS klass, d.channel,
       d.address, '' AS sender, NULL AS reply_to, d.template_id, d.template_version, d.attempt_no, d.failures,
       d.expires_at, d.id AS event_id, 'shop' AS tenant, '{}'::jsonb AS variables, d.created_at AS accepted_at,
       false AS test_mode, false AS track_opens, false AS track_clicks, d.provider, d.tried
FROM store.deliveries d WHERE d.id = ANY(%s)
"""
ASKED = """
SELECT d.shard, d.id, d.notification_id, d.tenant_id, d.category, d.class AS klass, d.channel, d.address, d.state,
       d.attempt_no, d.lookups, d.failures, d.expires_at, d.provider, d.created_at AS opened_at,
       NULL AS provider_message_id, NULL::bytea AS content_hash, now() AS claimed_at,
       'resend_if_absent' AS ambiguity_policy
FROM store.deliveries d WHERE d.id = ANY(%s) AND d.state IN ('sent', 'ambiguous')
"""


class World:
    """Two tenants who share a phone number, a few people with devices and inboxes, a few endpoints: all of it busy."""

    def __init__(self, db: Database, seed: psycopg.AsyncConnection) -> None:
        self.db, self.seed = db, seed
        self.tenants: list[Any] = []
        self.endpoints: list[UUID] = []
        self.devices: list[devices.Target] = []
        self.deliveries: dict[str, list[Any]] = {}
        self.deadlocks: list[str] = []

    async def build(self) -> None:
        await Control(self.db, PROVIDERS, SETTINGS, WORKER).publish([])
        for _ in range(2):
            tenant = await make_tenant(self.seed)
            self.tenants.append(tenant)
            for person in PEOPLE:
                await make_recipient(self.seed, tenant_id=tenant.id, id=person)
        tenant = self.tenants[0]
        for n in range(3):
            new = endpoints.NewEndpoint(f"e{n}", "https://e.example.com/", "standard", ["*"], "whsec_" + "A" * 32, None)
            self.endpoints.append((await endpoints.insert(self.seed, tenant.id, new)).id)
        for person in PEOPLE:
            for n in range(2):
                async with self.db.transaction() as conn:
                    await devices.register(conn, registration(tenant.id, person, f"key-{n}", f"token-{person}-{n}"))
        self.devices = list((await devices.targets(self.seed, *await self._live())).values())

    async def _live(self) -> tuple[list[int], list[UUID]]:
        cursor = await self.seed.execute("SELECT tenant_id, id FROM store.devices WHERE retired_at IS NULL")
        found = await cursor.fetchall()
        return [tenant_id for tenant_id, _ in found], [id_ for _, id_ in found]

    async def round(self, chance: random.Random) -> None:
        """Deliveries under way, some of them thought to be lost, all due for whoever looks for what is due."""
        where: dict[str, Callable[[], str]] = {
            "email": lambda: f"{chance.choice(PEOPLE)}@example.com",
            "sms": lambda: f"+491511234567{chance.randrange(4)}",
            "push": lambda: str(chance.choice(self.devices).id),
            "webhook": lambda: str(chance.choice(self.endpoints)),
            "in_app": lambda: chance.choice(PEOPLE),
        }
        self.deliveries = {channel: [] for channel in ACCOUNTS}
        for channel, account in ACCOUNTS.items():
            for _ in range(EACH):
                state = chance.choice(["sending", "sending", "ambiguous", "queued"])
                delivery = await make_delivery(
                    self.seed,
                    tenant_id=self.tenants[0].id,
                    recipient_id=chance.choice(PEOPLE),
                    state=state,
                    attempt=False,
                    channel=channel,
                    lane=f"{channel}.transactional.default",
                    address=where[channel](),
                    attempt_no=0 if state == "queued" else 1,
                    provider=account,
                    due_at=datetime.now(UTC) - timedelta(seconds=1),
                )
                if state != "queued":
                    settled = ("open", None) if state == "sending" else ("ambiguous", "unknown")
                    await make_attempt(self.seed, delivery, provider=account, state=settled[0], outcome=settled[1])
                self.deliveries[channel].append(delivery)

    def some(self, chance: random.Random, channel: str | None = None) -> list[Any]:
        found = self.deliveries[channel] if channel else [d for each in self.deliveries.values() for d in each]
        return chance.sample(found, len(found) * 2 // 3)

    async def at_work(self, worker: Turn, number: int) -> None:
        chance = random.Random(number)
        for _ in range(TURNS):
            try:
                await worker(chance)
            except psycopg.errors.DeadlockDetected as error:
                self.deadlocks.append(f"{getattr(worker, '__name__', worker)}: {error.diag.context or error}")
            except Unavailable as error:  # refused by what is true at this moment: an endpoint is disabled, say
                if not isinstance(error.__cause__, psycopg.errors.ObjectNotInPrerequisiteState):
                    raise

    # -- who is at work ------------------------------------------------------------------------------------------

    def recorder(self, channel: str) -> Turn:
        account = ACCOUNTS[channel]
        choices = (Choice(provider=account, order=1), Choice(provider=SPARE, order=2))
        dispatcher = make_dispatcher(
            Lane(f"{channel}.transactional.default", channel, NotificationClass.TRANSACTIONAL, choices),
            db=self.db,
            settings=SETTINGS,
            transport=Transport(),
            renderer=RenderPool(),
            worker_id=WORKER,
        )

        async def record(chance: random.Random) -> None:
            claimed = await self._rows(CLAIMED, dispatch.Claimed, self.some(chance, channel))
            finished = [self._finished(chance, c) for c in claimed if c.attempt_no]
            chance.shuffle(finished)
            if finished:
                now = datetime.now(UTC)
                await dispatcher._record_once([(f, dispatcher._decide(f, now)) for f in finished], now)

        return record

    def _finished(self, chance: random.Random, claimed: dispatch.Claimed) -> Finished:
        outcome = chance.choice(
            [
                Outcome(OutcomeKind.ACCEPTED, "ok", 200, provider_message_id=f"M{claimed.id}"),
                Outcome(OutcomeKind.RECIPIENT_INVALID, "no such", 404),
                Outcome(OutcomeKind.RECIPIENT_INVALID, "said STOP", 400, reason="opted_out"),
                Outcome(OutcomeKind.TRANSIENT, "full", 450, evidence=(soft_bounce(claimed.id),)),
                Outcome(OutcomeKind.RATE_LIMITED, "slow down", 429),
                Outcome(OutcomeKind.UNAUTHORIZED, "bad key", 401),
                Outcome(OutcomeKind.UNKNOWN, "lost"),
            ]
        )
        item = InboxContent("t", "b", {}) if claimed.channel == "in_app" and outcome.provider_message_id else None
        target = Target(url="https://e.example.com/")
        if claimed.channel == "push":
            [one] = [d for d in self.devices if str(d.id) == claimed.address]
            target = Target(device=Device(one.id, Platform.ANDROID, one.token, "production", None, None))
        probe = chance.random() < 0.2
        return Finished(claimed, outcome, b"h" * 32, target, item=item, seconds=0.1, probe=probe)

    async def tell(self, chance: random.Random) -> None:
        for channel, account in ACCOUNTS.items():
            facts = [fact for d in self.some(chance, channel) for fact in self._facts(chance, d)]
            if channel == "sms":
                facts += [
                    Evidence(
                        chance.choice([K.OPTED_OUT, K.OPTED_IN]),
                        f"inbound:{chance.randrange(10**6)}",
                        datetime.now(UTC),
                        address=f"+491511234567{chance.randrange(4)}",
                    )
                    for _ in range(3)
                ]
            chance.shuffle(facts)
            async with self.db.transaction() as conn:
                await inbound.store_events(conn, provider=account, source="provider", evidence=facts, raw=b"")

    def _facts(self, chance: random.Random, delivery: Any) -> list[Evidence]:
        kind, bounce, suppress = chance.choice(
            [
                (K.DELIVERED, None, None),
                (K.BOUNCED, BounceClass.HARD, "hard_bounce"),
                (K.BOUNCED, BounceClass.SOFT, None),
                (K.COMPLAINED, None, "complaint"),
                (K.OPENED, None, None),
            ]
        )
        by_our_id = chance.random() < 0.6
        return [
            Evidence(
                kind,
                f"{delivery.id}:{kind}",
                datetime.now(UTC),
                delivery_id=delivery.id if by_our_id else None,
                attempt_no=1 if by_our_id else None,
                provider_message_id=f"M{delivery.id}",
                bounce_class=bounce,
                suppress_reason=suppress,
            )
        ]

    async def apply(self, chance: random.Random) -> None:
        await apply(self.db, SETTINGS, limit=chance.randint(5, 60))

    async def reconcile(self, chance: random.Random) -> None:
        async with self.db.transaction() as conn:
            await unproven.expire_leases(conn, limit=10, first_lookup_seconds=0)
        async with self.db.transaction() as conn:
            await unproven.claim_unproven(conn, limit=10, lease_seconds=0)
        asked = await self._rows(ASKED, Unproven, self.some(chance))
        chance.shuffle(asked)
        verdicts = [LookupVerdict.NOT_SENT, LookupVerdict.TOO_EARLY, LookupVerdict.UNANSWERABLE]
        answers = [(item, Lookup(chance.choice(verdicts))) for item in asked]
        await reconciling._decide_all(self.db, SETTINGS, answers, datetime.now(UTC))

    async def fan_out(self, chance: random.Random) -> None:
        await fan_out(self.db, SETTINGS, limit=chance.randint(1, 40))

    async def replay(self, chance: random.Random) -> None:
        async with self.db.transaction() as conn:
            await conn.execute(
                "SELECT landed.replay_endpoint(%s, since => now() - interval '1 hour', arrived => true, commit => true,"
                " reason => 'again')",
                (chance.choice(self.endpoints),),
            )
        async with self.db.transaction() as conn:
            await conn.execute("SELECT landed.replay(tenant => %s, commit => true, reason => 'again')", (self._name(),))

    async def act(self, chance: random.Random) -> None:
        whose = Inbox(self.tenants[0].id, chance.choice(PEOPLE))
        await inbox_flow.act_on_all(self.db, SETTINGS, whose, chance.choice([Action.READ, Action.SEEN]), version=10**6)
        ids = [d.id for d in self.some(chance, "in_app")]
        await inbox_flow.act(self.db, SETTINGS, whose, chance.choice(list(Action)), ids)

    async def register(self, chance: random.Random) -> None:
        """People who take each other's devices, at the same moment."""
        person, other = chance.choice(PEOPLE), chance.choice(PEOPLE)
        token = f"token-{other}-{chance.randrange(2)}"
        async with self.db.transaction() as conn:
            await devices.register(conn, registration(self.tenants[0].id, person, f"key-{chance.randrange(2)}", token))

    async def refuse(self, chance: random.Random) -> None:
        refusals = [
            devices.Refusal("fcm", one.tenant_id, one.id, f"token-{chance.choice(PEOPLE)}-0", "UNREGISTERED")
            for one in chance.sample(self.devices, len(self.devices))
        ]
        async with self.db.transaction() as conn:
            await devices.retire(conn, refusals)

    async def suppress(self, chance: random.Random) -> None:
        async with self.db.transaction() as conn:
            one, _ = await suppressions.add(
                conn,
                self.tenants[0].id,
                channel="sms",
                address=f"+491511234567{chance.randrange(4)}",
                reason="manual",
                source="api",
                actor="test",
            )
        async with self.db.transaction() as conn:
            await suppressions.lift(conn, self.tenants[0].id, one, reason="test", actor="test")

    async def operate(self, chance: random.Random) -> None:
        for delivery in self.some(chance)[:3]:
            what = chance.choice(["cancel(%s, 'test')", "hold(%s, 'test')", "release(%s, 'test')"])
            async with self.db.transaction() as conn:
                await conn.execute(f"SELECT landed.{what}", (delivery.notification_id,))

    async def claim(self, chance: random.Random) -> None:
        channel = chance.choice(list(ACCOUNTS))
        async with self.db.transaction() as conn:
            providers = [ACCOUNTS[channel], SPARE]
            due, _ = await dispatch.lock_due(
                conn,
                lane=f"{channel}.transactional.default",
                klass="transactional",
                providers=providers,
                region="local",
                limit=10,
                retry_share=0.3,
            )
            if due and channel == "webhook":
                put_off = await dispatch.put_off_failing(conn, due)
                due = [d for d in due if d.id not in put_off]
            if not due:
                return
            await dispatch.share_addresses(conn, due)
            await control.take_probe(conn, providers, worker_id=WORKER, probe_seconds=0.01)
            chosen = [(d, chance.choice(providers)) for d in due]
            await dispatch.open_attempts(conn, chosen, region="local", worker_id=WORKER, lease_seconds=0)

    async def judge(self, chance: random.Random) -> None:
        mine = Control(self.db, PROVIDERS, SETTINGS, WORKER)
        for account in [*ACCOUNTS.values(), SPARE]:
            for _ in range(chance.randrange(8)):
                mine.count(account, Outcome(OutcomeKind.TRANSIENT, "down", 503), 1.0)
        await mine.report()
        await mine.publish([])

    async def steer(self, chance: random.Random) -> None:
        for account in chance.sample([*ACCOUNTS.values(), SPARE], 2):
            what = chance.choice(["drain_provider", "restore_provider", "restore_provider"])
            async with self.db.transaction() as conn:
                await conn.execute(f"SELECT landed.{what}(%s, 'test')", (account,))  # type: ignore[arg-type]

    async def found_a_tenant(self, chance: random.Random) -> None:
        async with self.db.transaction() as conn:
            await make_tenant(conn)

    def _name(self) -> str:
        name: str = self.tenants[0].name
        return name

    async def _rows(self, statement: str, row: type[Any], wanted: Sequence[Any]) -> list[Any]:
        async with self.db.transaction() as conn, conn.cursor(row_factory=class_row(row)) as cursor:
            await cursor.execute(statement, ([one.id for one in wanted],))  # type: ignore[arg-type]
            return await cursor.fetchall()


def registration(tenant_id: int, person: str, key: str, token: str) -> devices.Registration:
    return devices.Registration(
        tenant_id=tenant_id,
        recipient_id=person,
        platform="android",
        token=token,
        environment="production",
        p256dh=None,
        auth=None,
        device_key=key,
        app_version=None,
    )


def soft_bounce(delivery_id: UUID) -> Evidence:
    return Evidence(K.BOUNCED, f"{delivery_id}:soft", datetime.now(UTC), bounce_class=BounceClass.SOFT)


async def test_nobody_waits_in_a_circle_whoever_is_at_work_on_the_same_rows(db, seed):
    world = World(db, seed)
    await world.build()
    for number in range(ROUNDS):
        await world.round(random.Random(number))
        workers: list[Turn] = [
            *(world.recorder(channel) for channel in ACCOUNTS),
            *(world.recorder(channel) for channel in ACCOUNTS),
            world.tell,
            world.tell,
            world.judge,
            world.judge,
            world.steer,
            *[world.apply] * 4,
            *[world.reconcile] * 2,
            *[world.fan_out] * 2,
            *[world.replay] * 2,
            *[world.act] * 2,
            *[world.register] * 2,
            *[world.refuse] * 2,
            world.suppress,
            world.operate,
            *[world.claim] * 2,
            world.found_a_tenant,
        ]
        await asyncio.gather(*(world.at_work(worker, number * 100 + n) for n, worker in enumerate(workers)))
    assert world.deadlocks == []
