"""The demo: sends every scenario, and watches each come to its proven end."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

import httpx
import psycopg

from app.commands.client import Client
from app.commands.database import connected
from app.db import Connection
from app.demo.props import set_out
from app.demo.scenarios import AREA_CODES, SCENARIOS, Scenario, phones
from app.demo.seed import EXAMPLES, TENANT
from app.demo.verdict import Outside, Standing
from app.domain.variables import sample
from app.rendering.files import load_templates
from app.store import demo as store
from app.store import operate

SECONDS_MAX = 90.0
LOOK_SECONDS = 0.25
LEDGER_PAGE = 10_000


class Play:
    """One run of the demo. ``standings`` is what is known of each scenario, in order."""

    def __init__(self, dsn: str, client: Client, sandbox_url: str) -> None:
        self._dsn = dsn
        self._client = client
        self._sandbox_url = sandbox_url
        self._http = httpx.AsyncClient(base_url=f"{sandbox_url}/sandbox", trust_env=False, timeout=10)
        self._run = ""
        self._ids: dict[str, UUID] = {}
        self._ledger_at = 0
        self._posts: Counter[str] = Counter()
        self._shown: Counter[str] = Counter()  # items in inboxes, which are their outside world
        self._arrivals: Counter[str] = Counter()
        self._refused_before: Counter[str] = Counter()
        self._samples = {t.template_id: sample(t.variables) for t in load_templates(EXAMPLES)}
        self.standings: list[Standing] = [Standing(scenario) for scenario in SCENARIOS]

    async def perform(self, show: Callable[[Sequence[Standing]], None]) -> bool:
        """Sends all and waits until all is proven; False when that takes too long."""
        async with self._http:
            await self._note_what_was_before()
            async with connected(self._dsn) as conn:
                self._run = await new_run(conn)
            await self._send(s for s in SCENARIOS if s.after is None)
            give_up_at = time.monotonic() + SECONDS_MAX
            while time.monotonic() < give_up_at:
                await asyncio.to_thread(self._read_inboxes)
                await self._look()
                show(self.standings)
                if all(standing.is_proven for standing in self.standings):
                    return True
                await self._send(s for s in SCENARIOS if s.name not in self._ids and self._may_follow(s))
                await asyncio.sleep(LOOK_SECONDS)
        return False

    # Sending ----------------------------------------------------------------------------------------------

    async def _send(self, scenarios: Iterable[Scenario]) -> None:
        ways: dict[str, list[Scenario]] = {"rest": [], "sql": [], "rollback": []}
        for scenario in scenarios:
            ways[scenario.way].append(scenario)
        if ways["rest"]:
            await asyncio.to_thread(self._send_by_rest, ways["rest"])
        for scenario in ways["sql"] + ways["rollback"]:
            await self._send_by_sql(scenario, commit=scenario.way == "sql")

    def _send_by_rest(self, scenarios: Sequence[Scenario]) -> None:
        """All in one request; one that is refused would not stop the others."""
        if not self._ids:
            set_out(self._client, self._sandbox_url, self._run)
        answer = self._client.post(
            "/api/v1/notifications/send-batch", {"items": [self._request(scenario) for scenario in scenarios]}
        )
        for scenario, item in zip(scenarios, answer["items"], strict=True):
            self._ids[scenario.name] = UUID(item["id"])

    async def _send_by_sql(self, scenario: Scenario, *, commit: bool) -> None:
        """In a transaction of ours: what a producer does beside its own inserts and updates."""
        request = {"template_version": None, "send_at": None, "expires_at": None, **self._request(scenario)}
        async with connected(self._dsn) as conn, conn.transaction():
            self._ids[scenario.name] = await operate.send(conn, tenant=TENANT, **request)
            if not commit:
                raise psycopg.Rollback

    def _request(self, scenario: Scenario) -> dict[str, Any]:
        return {
            "recipient_id": scenario.recipient,
            "category": scenario.category,
            "channels": [scenario.channel],
            "template_id": scenario.template,
            "variables": scenario.variables or self._samples[scenario.template],
            "idempotency_key": f"demo-{self._run}-{scenario.name}",
        }

    def _may_follow(self, scenario: Scenario) -> bool:
        return any(s.is_proven for s in self.standings if s.scenario.name == scenario.after)

    # Looking ----------------------------------------------------------------------------------------------

    async def _note_what_was_before(self) -> None:
        """The ledger and the counters go on from the runs before."""
        self._ledger_at = (await self._ask("/ledger/summary"))["entries"]
        async with connected(self._dsn) as conn:
            self._refused_before = Counter(await store.refusals(conn))

    def _read_inboxes(self) -> None:
        """What an app does that shows its inbox: it asks for what is new, shows it, and acknowledges."""
        for scenario in SCENARIOS:
            if scenario.channel != "in_app" or scenario.name not in self._ids:
                continue
            inbox = self._client.get("/api/v1/inbox", recipient_id=scenario.recipient)
            self._shown |= Counter({item["id"]: 1 for item in inbox["items"]})
            unseen = [item["id"] for item in inbox["items"] if item["acknowledged_at"] is None]
            if unseen:
                self._client.post("/api/v1/inbox/ack", {"ids": unseen}, recipient_id=scenario.recipient)

    async def _look(self) -> None:
        await self._read_ledger()
        async with connected(self._dsn) as conn:
            stories = await store.stories(conn, self._ids.values())
            refused = Counter(await store.refusals(conn)) - self._refused_before
        self.standings = [
            Standing(
                scenario,
                sent=scenario.name in self._ids,
                story=(story := stories.get(self._ids[scenario.name]) if scenario.name in self._ids else None),
                outside=self._outside(story),
                refused=refused,
            )
            for scenario in SCENARIOS
        ]

    def _outside(self, story: store.Story | None) -> Outside:
        delivery = str(story.delivery_id) if story else ""
        return Outside(self._arrivals[delivery] + self._shown[delivery], self._posts[delivery])

    async def _read_ledger(self) -> None:
        """What the outside world saw of this run: messages it accepted, webhooks it posted."""
        for kind, counts in (("accepted", self._arrivals), ("webhook", self._posts)):
            page = await self._ask("/ledger", kind=kind, since=self._ledger_at, limit=LEDGER_PAGE)
            counts.clear()
            counts.update(entry["landed_delivery"] for entry in page["entries"])

    async def _ask(self, path: str, **parameters: Any) -> Any:
        response = await self._http.get(path, params=parameters)
        return response.raise_for_status().json()


async def new_run(conn: Connection) -> str:
    """A name whose phone numbers take texts: numbers for films are few, and what said STOP before keeps to it."""
    for _ in AREA_CODES:
        run = secrets.token_hex(3)
        if not await store.any_suppressed(conn, phones(run)):
            break
    return run
