"""The whole service as real processes around one database: API, worker and provider sandbox, with compressed times.

What takes minutes in production takes seconds here; the inequalities between the times still hold, because the
processes check them at their start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import httpx
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from app.api.auth import mint_api_key
from app.settings import RecipientLimits
from tests import vendors
from tests.sandbox_process import SandboxProcess, free_port, wait_until

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 60.0
STOP_SECONDS = 60.0

TIMES = {
    "LANDED_TIMES__GATE_SECONDS": "3",
    "LANDED_TIMES__SEND_SECONDS": "1.5",
    "LANDED_TIMES__COMMIT_MAX_SECONDS": "1",
    "LANDED_TIMES__LEASE_SECONDS": "6",
    "LANDED_TIMES__SHUTDOWN_GRACE_SECONDS": "25",  # nothing waits for it to pass: it bounds a stop on a slow machine
    "LANDED_RETRY__LADDERS": json.dumps(
        {klass: [0.3, 0.5, 1, 2] for klass in ("transactional", "promotional", "alert")}
    ),
    "LANDED_RETRY__RETRY_AFTER_MAX_SECONDS": "2",
    "LANDED_RETRY__UNAUTHORIZED_PAUSE_SECONDS": "0.5",
    "LANDED_FOLLOW__CONFIRM_AFTER_SECONDS": "1",
    "LANDED_FOLLOW__AMBIGUOUS_FIRST_LOOKUP_SECONDS": "0.3",
    "LANDED_FOLLOW__LOOKUP_BACKOFF": "1",
    "LANDED_FOLLOW__PARK_RETRY_SECONDS": "1",
    "LANDED_FOLLOW__RECONCILE_EVERY_SECONDS": "1",
    "LANDED_WORKER__POLL_SECONDS": "0.5",
    "LANDED_WORKER__HEARTBEAT_SECONDS": "1",
}
SETTLE_SECONDS = 1.0  # the sandbox knows at once what it took; a call that is over was taken or it was not

TEMPLATES = {
    "order": "Order {{ order_id }} is on its way.",
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{{ order_id }}{% endfor %}{% endfor %}",
}


class Program:
    """One process of the service, which can be stopped, killed and started again."""

    def __init__(self, module: str, environment: dict[str, str], output_path: Path) -> None:
        self._arguments = [sys.executable, "-m", module]
        self._environment = environment
        self.output_path = output_path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        """environment: variables for this start only, such as LANDED_CRASH_AT."""
        with self.output_path.open("ab") as output:
            self._process = subprocess.Popen(
                self._arguments,
                cwd=ROOT,
                env=self._environment | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def crashed(self) -> bool:
        """Whether it has ended by itself; raises if it did so for another reason than the one it was told."""
        assert self._process is not None
        status = self._process.poll()
        if status not in (None, 137):
            raise RuntimeError(f"ended with {status}: {self.output_path.read_text()[-4000:]}")
        return status == 137

    def kill(self) -> None:
        """As a crash or a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """The polite way: what is under way is finished."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_SECONDS)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None


class System:
    """Everything, used as ``with``: started, ready to send for one tenant, and stopped at the end."""

    def __init__(
        self,
        dsn: str,
        directory: Path,
        *,
        speed: float = 60,
        environment: dict[str, str] | None = None,
        worker_module: str = "jobs.worker",
        vendor: str | None = None,
        routes: Mapping[str, Any] | None = None,
        apart: Sequence[str] = (),
        **sandbox: Any,
    ) -> None:
        """speed and further options are the sandbox's; environment overrides settings. vendor: who carries email or
        text messages in place of Mailgun or Twilio. routes: whose providers are others, as landed.toml has them; each
        account is named for its vendor. apart: vendors that are processes of their own, to be killed alone. The second
        worker is not started by itself."""
        port = free_port()
        smtp_port, apns_port = free_port() if vendor == "smtp" else 0, free_port()
        self.vendor = vendor
        self.url = f"http://127.0.0.1:{port}"
        self.dsn = dsn
        self._routes = dict(routes or {})
        options = {"webhook_base_url": f"{self.url}/api/v1/webhooks", "speed": speed, "hold_seconds": 5, **sandbox}
        self.sandbox = SandboxProcess(
            directory / "ledger.jsonl", **{"smtp_port": smtp_port, "apns_port": apns_port, **options}
        )
        self._apart = {name: SandboxProcess(directory / f"{name}.jsonl", **options) for name in apart}
        settings = self._settings(directory, port, smtp_port, apns_port) | (environment or {})
        self.api = Program("app.api.server", settings, directory / "api.out")
        self.worker = Program(worker_module, settings, directory / "worker.out")
        self.second_worker = Program(worker_module, settings, directory / "worker-2.out")
        self._session = self._connect()
        self.tenant_id = 0
        self.client = httpx.Client(base_url=f"{self.url}/api/v1", timeout=30)

    def _settings(self, directory: Path, port: int, smtp_port: int, apns_port: int) -> dict[str, str]:
        keys = self.sandbox.ledger_path.with_suffix(".keys")
        pushes = {
            "apns": {
                "adapter": "apns",
                "key_id": "SANDBOXKEY",
                "team_id": "SANDBOXTEM",
                "topic": "test.landed.app",
                "key_file": str(keys / "apns.p8"),
                "base_url": f"https://127.0.0.1:{apns_port}",
                "trust": str(self.sandbox.ca_path),
            },
            "fcm": {
                "adapter": "fcm",
                "service_account_file": str(keys / "fcm-service-account.json"),
                "base_url": self.sandbox.url,
            },
            "browsers": {
                "adapter": "web-push",
                "private_key_file": str(keys / "vapid.pem"),
                "subject": "mailto:ops@example.com",
                "allow_loopback": True,
            },
        }
        routes: dict[str, Any] = {"email": ["mailgun"], "sms": ["twilio"]}
        routes |= {"push.ios": ["apns"], "push.android": ["fcm"], "push.web": ["browsers"]}
        if self.vendor is not None:
            routes["sms" if self.vendor in vendors.SMS else "email"] = [self.vendor]
        routes |= self._routes
        named = {
            choice if isinstance(choice, str) else choice["provider"] for route in routes.values() for choice in route
        }
        providers: dict[str, Any] = {
            name: vendors.account(name, self.sandbox_of(name), smtp_port=smtp_port, settle_seconds=SETTLE_SECONDS)
            for name in {"mailgun", "twilio", *named} - pushes.keys()
        }
        providers |= pushes
        foreign = {name: value for name, value in os.environ.items() if not name.startswith("LANDED_")}
        return (
            foreign
            | TIMES
            | {
                "LANDED_CONFIG": str(directory / "none.toml"),
                "LANDED_DATABASE_URL": self.dsn,
                "LANDED_DATA_DIR": str(directory),
                "LANDED_API__PORT": str(port),
                "LANDED_API__PUBLIC_URL": f"http://127.0.0.1:{port}",
                "LANDED_PROVIDERS": json.dumps(providers),
                "LANDED_ROUTES": json.dumps(routes),
                "LANDED_ENDPOINTS__ALLOW_LOOPBACK": "true",
                "LANDED_ENDPOINTS__LADDER": "[0.3, 0.5, 1, 2]",
                "LANDED_LIMITS": json.dumps({"recipient_per_hour": dict.fromkeys(RecipientLimits.model_fields, 0)}),
            }
        )

    # -- life ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._seed()
            for sandbox in self.sandboxes:  # the first makes the keys and the certificate that the others read
                sandbox.start()
            self.worker.start()
            self.api.start()
            self.wait_for_api()
            self.wait_for_worker()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        try:
            self.second_worker.stop()
            self.worker.stop()
            self.api.stop()
        finally:
            for sandbox in self.sandboxes:
                sandbox.__exit__(None, None, None)
            self.client.close()
            self._session.close()

    def wait_for_api(self) -> None:
        def answers() -> bool:
            assert self.api.running, self.api.output_path.read_text()[-4000:]
            try:
                return httpx.get(f"{self.url}/health/ready").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, seconds=PATIENCE_SECONDS, what="the API's start")

    def wait_for_worker(self) -> None:
        def registered() -> Any:
            assert self.worker.running, self.worker.output_path.read_text()[-4000:]
            return self.rows("SELECT FROM store.workers WHERE pid = %s", self.worker.pid)

        wait_until(registered, seconds=PATIENCE_SECONDS, what="the worker's start")

    def _seed(self) -> None:
        self.tenant_id, key = self.add_tenant("shop")
        self.client.headers["Authorization"] = f"Bearer {key}"

    def add_tenant(self, name: str) -> tuple[int, str]:
        """A tenant with the templates and the category that the tests send with; its id and its API key."""
        [tenant] = self.rows(
            "INSERT INTO store.tenants (name, sender) VALUES (%s, 'Shop <shop@sandbox.landed.test>') RETURNING id", name
        )
        plain, prefix, digest = mint_api_key()
        self.rows(
            "INSERT INTO store.api_keys (tenant_id, name, prefix, hash, scopes, rate_per_second, burst) "
            "VALUES (%s, 'tests', %s, %s, '{send,read,admin}', 100000, 100000) RETURNING id",
            tenant["id"],
            prefix,
            digest,
        )
        for template, text in TEMPLATES.items():
            self.rows(
                "INSERT INTO store.templates "
                "(tenant_id, template_id, version, subject, text, variables, status, published_at) "
                "VALUES (%s, %s, 1, 'Your order', %s, %s, 'published', now()) RETURNING version",
                tenant["id"],
                template,
                text,
                Jsonb({"order_id": {"required": True}}),
            )
        for channel, title in (("sms", ""), ("push", "Your order"), ("in_app", "Your order"), ("chat", "Your order")):
            self.rows(
                "INSERT INTO store.templates "
                "(tenant_id, template_id, version, channel, subject, text, variables, status, published_at) "
                "VALUES (%s, 'order', 1, %s, %s, %s, %s, 'published', now()) RETURNING version",
                tenant["id"],
                channel,
                title,
                TEMPLATES["order"],
                Jsonb({"order_id": {"required": True}}),
            )
        self.category("orders", tenant_id=tenant["id"])
        return tenant["id"], plain

    # -- the outside world -----------------------------------------------------------------------------------

    @property
    def sandboxes(self) -> Sequence[SandboxProcess]:
        return [self.sandbox, *self._apart.values()]

    def sandbox_of(self, vendor: str) -> SandboxProcess:
        return self._apart.get(vendor, self.sandbox)

    def set_fault(self, vendor: str, mode: str, **order: object) -> None:
        """Puts a fault of one vendor in force."""
        self.sandbox_of(vendor).set_fault(mode, provider=vendor, **order)

    def summary(self) -> dict[str, Any]:
        """How often each delivery was accepted, by whichever vendor, and what is under way."""
        each = [sandbox.summary() for sandbox in self.sandboxes]
        accepted: Counter[str] = Counter()
        for summary in each:
            accepted.update(summary["deliveries"])
        return {
            "deliveries": dict(accepted),
            "messages_under_way": sum(summary["messages_under_way"] for summary in each),
            "webhooks_owed": sum(summary["webhooks_owed"] for summary in each),
        }

    # -- what a producer does --------------------------------------------------------------------------------

    def category(self, name: str, **columns: Any) -> str:
        values = {
            "tenant_id": self.tenant_id,
            "class": "transactional",
            "ambiguity_policy": "resend_if_absent",
            "validity_seconds": 3600,
        } | columns
        self.rows(
            "INSERT INTO store.categories"
            " (tenant_id, name, class, ambiguity_policy, validity_seconds, recipient_per_hour)"
            " VALUES (%s, %s, %s, %s, %s, %s) RETURNING name",
            values["tenant_id"],
            name,
            values["class"],
            values["ambiguity_policy"],
            values["validity_seconds"],
            values.get("recipient_per_hour"),
        )
        return name

    def recipient(self, address: str) -> str:
        self.rows(
            "INSERT INTO store.recipients (tenant_id, id, email) VALUES (%s, %s, %s) "
            "ON CONFLICT DO NOTHING RETURNING id",
            self.tenant_id,
            address,
            address,
        )
        return address

    def reachable(self, **fields: Any) -> str:
        """A recipient of a test's own, by REST; ``fields`` as PUT /recipients takes them."""
        name = f"r-{uuid4().hex[:12]}"
        self.client.put(f"/recipients/{name}", json=fields).raise_for_status()
        return name

    def notify(self, recipient: str, channel: str, **changes: Any) -> UUID:
        """Sends one message on one channel; answers its notification's id."""
        body = {
            "recipient_id": recipient,
            "category": "orders",
            "template_id": "order",
            "channels": [channel],
            "variables": {"order_id": "A-1"},
        }
        response = self.client.post(
            "/notifications/send", json=body | changes, headers={"Idempotency-Key": str(uuid4())}
        )
        assert response.status_code == 202, response.text
        return UUID(response.json()["id"])

    def post(self, address: str, *, key: str | None = None, **changes: Any) -> httpx.Response:
        body = {
            "recipient_id": self.recipient(address),
            "category": "orders",
            "template_id": "order",
            "variables": {"order_id": "A-1"},
        }
        headers = {"Idempotency-Key": key or str(uuid4())}
        return self.client.post("/notifications/send", json=body | changes, headers=headers)

    def send(self, address: str, **changes: Any) -> UUID:
        """Sends one message; answers its notification's id."""
        response = self.post(address, **changes)
        assert response.status_code == 202, response.text
        return UUID(response.json()["id"])

    # -- what can be seen of it ------------------------------------------------------------------------------

    def _connect(self) -> psycopg.Connection[dict[str, Any]]:
        return psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row, application_name="landed tests")

    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        try:
            return self._session.execute(statement, parameters).fetchall()  # type: ignore[arg-type]
        except psycopg.OperationalError:  # the server was restarted
            self._session = self._connect()
            return self._session.execute(statement, parameters).fetchall()  # type: ignore[arg-type]

    def delivery(self, notification: UUID) -> dict[str, Any] | None:
        """Its row in reporting.deliveries; None before intake."""
        found = self.rows("SELECT * FROM reporting.deliveries WHERE notification_id = %s", notification)
        return found[0] if found else None

    def delivered_as(self, notification: UUID, *states: str) -> dict[str, Any]:
        """Waits until the delivery is in one of these states."""

        def there() -> dict[str, Any] | None:
            delivery = self.delivery(notification)
            return delivery if delivery and delivery["state"] in states else None

        try:
            found: dict[str, Any] = wait_until(there, seconds=PATIENCE_SECONDS)
        except TimeoutError:
            story = [(entry["kind"], entry["data"]) for entry in self.timeline(notification)]
            raise AssertionError(f"wanted {states}, have {self.delivery(notification)}, after {story}") from None
        return found

    def timeline(self, notification: UUID) -> list[dict[str, Any]]:
        return self.rows(
            "SELECT * FROM reporting.timeline WHERE notification_id = %s ORDER BY recorded_at, event_id NULLS FIRST",
            notification,
        )

    def kinds(self, notification: UUID) -> list[str]:
        return [entry["kind"] for entry in self.timeline(notification)]

    def wait_for_kind(self, notification: UUID, kind: str, times: int = 1) -> None:
        wait_until(
            lambda: self.kinds(notification).count(kind) >= times,
            seconds=PATIENCE_SECONDS,
            what=f"{times} times {kind}",
        )

    def suppressions(self, address: str) -> list[tuple[str, str]]:
        """(reason, scope) of each that is in force."""
        found = self.rows(
            "SELECT reason, scope FROM store.suppressions WHERE address = %s AND lifted_at IS NULL", address.lower()
        )
        return [(row["reason"], row["scope"]) for row in found]

    def times_sent(self, notification: UUID) -> int:
        """How often the outside world was given this message."""
        delivery = self.delivery(notification)
        return 0 if delivery is None else self.times_accepted(delivery["delivery_id"])

    def times_accepted(self, delivery_id: UUID) -> int:
        return len(self.accepted_by(delivery_id))

    def accepted_by(self, delivery_id: UUID) -> list[str]:
        """Which vendors took it on, once for each time."""
        found = [s.ledger(kind="accepted", landed_delivery=str(delivery_id)) for s in self.sandboxes]
        return [entry["provider"] for entries in found for entry in entries]

    def stuck(self) -> Sequence[dict[str, Any]]:
        """Must always be empty."""
        return self.rows("SELECT * FROM reporting.stuck")
