"""Every command as a process of its own, against a real database and a real API."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from click.testing import CliRunner

from app.cli import COMMANDS, main
from app.errors import ConfigurationError
from app.settings import Settings
from jobs.worker import lanes_of, matching
from tests.factories import (
    OPEN,
    make_delivery,
    make_lane,
    make_notification,
    make_provider_state,
    make_tenant,
    make_worker,
)
from tests.landed_process import Landed
from tests.sandbox_process import free_port, wait_until
from tests.shop import MAIL

EXAMPLES = Path(__file__).parents[2] / "examples" / "templates"
RESET = ("--var", "product=Northwind", "--var", "reset_url=https://x.example/r", "--var", "valid_minutes=30")

REFUSED, USAGE, UNREACHABLE = 1, 2, 3


@pytest.fixture
def landed(dsn: str, tmp_path: Path) -> Landed:
    return Landed(tmp_path, {"LANDED_DATABASE_URL": dsn})


@pytest.fixture
def api(landed: Landed, tmp_path: Path) -> Iterator[Landed]:
    """The same with an API, a tenant ``shop`` and its key, all of them made by commands."""
    port = free_port()
    landed.settings["LANDED_API__PORT"] = str(port)
    landed.settings["LANDED_PROVIDERS"] = json.dumps({"mail": MAIL})
    landed.settings["LANDED_ROUTES"] = json.dumps({"email": ["mail"]})
    landed.ok("tenant", "create", "shop", "--sender", "Shop <shop@example.com>")
    landed.settings["LANDED_API_KEY"] = landed.json("key", "create", "shop")["key"]
    process = landed.start("api", output=tmp_path / "api.log")
    try:
        wait_until(lambda: process.poll() is not None or is_up(port), what="the API's start")
        assert process.poll() is None, (tmp_path / "api.log").read_text()
        yield landed
    finally:
        process.terminate()
        process.wait(30)


def is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def refusal(done: subprocess.CompletedProcess[str], code: int) -> str:
    """What an expected error says: in words, on standard error."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    return done.stderr


def make(dsn: str, factory, *names: str, **overrides):
    """One row, committed."""

    async def commit():
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            return await factory(conn, *names, **overrides)

    return asyncio.run(commit())


# -- the whole -----------------------------------------------------------------------------------------------


def test_help_names_every_command_and_says_what_it_does(landed: Landed):
    listed = landed.ok("--help")
    for name in COMMANDS:
        assert f"  {name} " in listed, f"`landed {name}` is not in the help"
    assert landed.ok("--version").startswith("landed, version")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "bench"])
def test_every_command_explains_itself(command: str):
    explained = CliRunner().invoke(main, [command, "--help"])
    assert explained.exit_code == 0
    assert "Usage:" in explained.output


def test_a_database_that_is_away_is_told_by_the_exit_code(landed: Landed):
    away = {"LANDED_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/none"}
    for command in (["status"], ["trace", str(uuid4())], ["replay"], ["tenant", "list"], ["migrate"]):
        assert "cannot be reached" in refusal(landed.run(*command, **away), UNREACHABLE)


def test_without_any_database_it_says_how_to_get_one(tmp_path: Path):
    assert "landed up" in refusal(Landed(tmp_path).run("status"), UNREACHABLE)
    assert not (tmp_path / "var").exists(), "looking made a data directory"


def test_a_database_without_the_schema_is_told_to_migrate(empty_dsn: str, tmp_path: Path):
    landed = Landed(tmp_path, {"LANDED_DATABASE_URL": empty_dsn})
    assert "landed migrate" in refusal(landed.run("status"), REFUSED)
    assert landed.run("migrate", "--check").returncode == REFUSED
    assert landed.json("migrate")["applied"]
    assert landed.json("migrate")["applied"] == []
    assert landed.run("migrate", "--check").returncode == 0
    assert landed.json("status")["stuck"] == []


def test_a_configuration_out_of_order_is_told_with_both_numbers(landed: Landed):
    told = refusal(landed.run("status", LANDED_TIMES__LEASE_SECONDS="3"), REFUSED)
    assert "lease = 3 s" in told
    assert "20.15 s" in told


# -- setting up and sending ----------------------------------------------------------------------------------


def test_from_a_new_tenant_to_a_notification_and_its_story(api: Landed):
    pushed = api.json("templates", "push", str(EXAMPLES), "--publish")
    assert {(t["version"], t["status"], t["unchanged"]) for t in pushed} == {(1, "published", False)}
    assert all(t["unchanged"] for t in api.json("templates", "push", str(EXAMPLES)))
    assert len(api.json("templates", "list", "--status", "published")) == len(pushed)

    put(api, "categories/security", {"class": "alert"})
    put(api, "recipients/ada", {"email": "ada@example.com"})
    sent = api.json("send", "ada", "password-reset", "--category", "security", *RESET)
    again = api.json(
        *("send", "ada", "password-reset", "--category", "security", *RESET),
        *("--idempotency-key", sent["idempotency_key"]),
    )
    assert again == sent

    by_sql = api.json("send", "ada", "password-reset", "--category", "security", "--sql", "--tenant", "shop", *RESET)
    for sent_by, id in (("api", sent["id"]), ("sql", by_sql["id"])):
        story = api.json("trace", id)
        assert story["notification_id"] == id
        assert story["timeline"][0]["kind"] == "accepted"
        assert story["timeline"][0]["data"]["by"] == sent_by
        assert story["explain"][0]["verdict"] == "accepted"
    assert api.json("status")["waiting"][0]["rows"] == 2


def put(landed: Landed, path: str, body: dict[str, str]) -> None:
    url = f"http://127.0.0.1:{landed.settings['LANDED_API__PORT']}/api/v1/{path}"
    key = landed.settings["LANDED_API_KEY"]
    httpx.put(url, json=body, headers={"Authorization": f"Bearer {key}"}).raise_for_status()


def test_what_the_api_refuses_is_told_field_by_field(api: Landed, tmp_path: Path):
    told = refusal(api.run("send", "nobody", "nothing", "--category", "none"), REFUSED)
    assert "422" in told
    assert "category" in told

    broken = tmp_path / "templates" / "broken"
    broken.mkdir(parents=True)
    (broken / "template.toml").write_text('subject = "Hi {{ name }}"\nsubjekt = "Hi"\n')
    told = refusal(api.run("templates", "push", str(tmp_path / "templates")), REFUSED)
    assert "template.toml: subjekt: unknown" in told
    assert "template.toml: body: missing" in told


def test_sending_needs_a_key_and_an_api(landed: Landed):
    command = ("send", "ada", "password-reset", "--category", "security")
    assert "landed key create" in refusal(landed.run(*command), USAGE)
    nowhere = {"LANDED_API_KEY": "lk_x", "LANDED_API_URL": f"http://127.0.0.1:{free_port()}"}
    assert "no answer from" in refusal(landed.run(*command, **nowhere), UNREACHABLE)
    assert "go together" in refusal(landed.run(*command, "--sql"), USAGE)
    assert "NAME=VALUE" in refusal(landed.run(*command, "--var", "nonsense"), USAGE)
    assert "not JSON" in refusal(landed.run(*command, "--vars", "{"), USAGE)


def test_what_sql_refuses_is_told_with_its_hint(landed: Landed):
    landed.ok("tenant", "create", "shop", "--sender", "shop@example.com")
    command = ("send", "ada", "password-reset", "--category", "security", "--sql", "--tenant")
    assert "there is no such tenant" in refusal(landed.run(*command, "none"), REFUSED)
    assert "Create it first" in refusal(landed.run(*command, "shop"), REFUSED)


def test_a_key_is_shown_once_and_dies_when_revoked(landed: Landed, dsn: str):
    landed.ok("tenant", "create", "shop", "--sender", "shop@example.com")
    assert "already" in refusal(landed.run("tenant", "create", "shop", "--sender", "x@example.com"), REFUSED)
    assert "a name is of" in refusal(landed.run("tenant", "create", "Shop!", "--sender", "x@example.com"), REFUSED)
    assert [t["name"] for t in landed.json("tenant", "list")] == ["shop"]

    made = landed.json("key", "create", "shop", "--scope", "read", "--name", "dashboards")
    (listed,) = landed.json("key", "list", "shop")
    assert listed["scopes"] == ["read"]
    assert listed["name"] == "dashboards"
    with psycopg.connect(dsn) as conn:
        dumped = conn.execute("SELECT k::text FROM store.api_keys k").fetchall()
    assert made["key"] not in json.dumps([listed, dumped]), "the key itself is kept somewhere"

    landed.ok("key", "revoke", "shop", str(made["id"]))
    assert landed.json("key", "list", "shop")[0]["revoked_at"]
    assert "no key" in refusal(landed.run("key", "revoke", "shop", str(made["id"])), REFUSED)
    assert "no tenant" in refusal(landed.run("key", "create", "none"), REFUSED)


# -- looking and acting --------------------------------------------------------------------------------------


def test_trace_takes_a_notification_or_one_of_its_deliveries(landed: Landed, dsn: str):
    delivery = make(dsn, make_delivery, state="delivered")
    by_delivery = landed.json("trace", str(delivery.id))
    assert by_delivery == landed.json("trace", str(delivery.notification_id))
    assert [a["attempt_no"] for a in by_delivery["attempts"]] == [1]
    assert "delivered" in landed.ok("trace", str(delivery.id))
    assert "no notification or delivery" in refusal(landed.run("trace", str(uuid4())), REFUSED)
    refusal(landed.run("trace", "not-an-id"), USAGE)


def test_status_shows_what_waits_and_what_needs_people(landed: Landed, dsn: str):
    tenant = make(dsn, make_tenant)
    for state in ("queued", "ambiguous", "delivered", "dead", "unconfirmed"):
        make(dsn, make_delivery, state=state, tenant_id=tenant.id)
    told = landed.json("status")
    assert {row["state"] for row in told["waiting"]} == {"queued", "ambiguous"}
    assert {row["state"] for row in told["ended"]} >= {"delivered", "dead", "unconfirmed"}
    assert told["dead_letters"][0]["rows"] == 1
    assert told["unconfirmed"][0]["reason"] == "no_evidence"
    assert "none: nothing is being sent" in landed.ok("status")


LANE = "email.transactional.default"


def test_status_shows_what_waits_for_a_provider_or_makes_way(landed: Landed, dsn: str):
    quiet = landed.ok("status")
    assert "everything waits" not in quiet
    assert "Load shedding" not in quiet
    make(dsn, make_lane, LANE, "mail-a", "mail-b")
    make(dsn, make_worker, LANE)
    make(dsn, make_delivery, due_at=datetime.now(UTC) - timedelta(minutes=1))
    for provider in ("mail-a", "mail-b"):
        make(dsn, make_provider_state, provider, **OPEN)
    with psycopg.connect(dsn) as conn:
        conn.execute("UPDATE store.load_shedding SET active = true, lane = %s, oldest_seconds = 61", (LANE,))
    told = landed.json("status")
    (lane,) = told["lanes"]
    assert (lane["lane"], lane["waiting_for"]) == (LANE, "no_provider")
    assert told["waiting"][0]["waits_for"] == "no_provider"
    assert [(row["provider"], row["status"]) for row in told["providers"]] == [("mail-a", "open"), ("mail-b", "open")]
    assert (told["load_shedding"][0]["class"], told["load_shedding"][0]["late_by"]) == ("promotional", 61)
    assert "Load shedding: these claims pause" in landed.ok("status")


def test_providers_and_lanes_are_shown_whether_well_or_not(landed: Landed, dsn: str):
    assert landed.json("providers") == {"providers": [], "waiting": []}
    assert "no worker has published" in landed.ok("providers")
    assert landed.json("lanes") == []
    make(dsn, make_lane, LANE, "mail-a", "mail-b")
    make(dsn, make_provider_state, "mail-b", **OPEN)
    make(dsn, make_delivery, due_at=datetime.now(UTC) - timedelta(minutes=1))
    told = landed.json("providers")
    assert {row["provider"]: row["status"] for row in told["providers"]} == {"mail-a": "ok", "mail-b": "open"}
    assert [(row["lane"], row["waiting_for"]) for row in told["waiting"]] == [(LANE, "no_worker")]
    assert "9 of 9 calls failed" in landed.ok("providers")
    (lane,) = landed.json("lanes")
    assert [account["status"] for account in lane["providers"]] == ["ok", "open"]
    assert "mail-a (ok), mail-b (open)" in landed.ok("lanes")


def test_a_provider_is_drained_and_restored_with_a_reason(landed: Landed, dsn: str):
    make(dsn, make_lane, LANE, "mail-a", "mail-b")
    make(dsn, make_provider_state, "mail-b", **OPEN)
    assert "--reason" in refusal(landed.run("drain", "mail-a"), USAGE)
    assert "There are mail-a, mail-b." in refusal(landed.run("drain", "mail-x", "--reason", "typo"), REFUSED)
    drained = landed.json("drain", "mail-a", "--reason", "maintenance")
    assert drained["drained"]
    assert [row["lane"] for row in drained["lanes_without_provider"]] == [LANE]
    again = landed.ok("drain", "mail-a", "--reason", "maintenance")
    assert "mail-a was drained before" in again
    assert LANE in again
    restored = landed.json("restore", "mail-a", "--reason", "it is over")
    assert (restored["restored"], restored["status"], restored["share"]) == (True, "recovering", 0.1)
    assert "was neither drained nor open" in landed.ok("restore", "mail-a", "--reason", "it is over")
    assert "mail-b is restored: open" in landed.ok("restore", "mail-b", "--reason", "they say it is up")
    with psycopg.connect(dsn) as conn:
        audited = conn.execute("SELECT action, target, reason FROM store.audit_log ORDER BY id").fetchall()
    assert audited == [
        ("drain_provider", "provider mail-a", "maintenance"),
        ("restore_provider", "provider mail-a", "it is over"),
        ("restore_provider", "provider mail-b", "they say it is up"),
    ]


def test_a_replay_is_a_dry_run_until_it_is_committed_with_a_reason(landed: Landed, dsn: str):
    dead = make(dsn, make_delivery, state="dead", category="receipts")
    delivered = make(dsn, make_delivery, state="delivered")
    assert landed.json("replay", str(dead.id))["items"][0]["verdict"] == "would_requeue"
    assert "--reason" in refusal(landed.run("replay", str(dead.id), "--commit"), USAGE)
    assert landed.json("trace", str(dead.id))["explain"][-1]["verdict"].startswith("dead"), "the dry run acted"

    assert "nothing would be" in refusal(landed.run("replay", str(delivered.id)), REFUSED)
    forced = landed.json("replay", str(delivered.id), "--force")["items"][0]
    assert forced["verdict"] == "would_send_again"

    assert "nothing says which" in refusal(landed.run("replay", "--commit", "--reason", "all"), REFUSED)
    (done,) = landed.json("replay", "--category", "receipts", "--commit", "--reason", "the outage is over")["items"]
    assert (done["delivery_id"], done["verdict"]) == (str(dead.id), "requeued")
    with psycopg.connect(dsn) as conn:
        audited = conn.execute("SELECT reason FROM store.audit_log WHERE action = 'replay'").fetchall()
    assert audited == [("the outage is over",)]
    assert "nothing was replayed" in refusal(
        landed.run("replay", str(dead.id), "--commit", "--reason", "again"), REFUSED
    )


def test_render_reproduces_what_was_sent_and_notices_what_was_not(landed: Landed, dsn: str):
    notification = make(dsn, make_notification, state="planned", variables={"order_id": "Ä-1"})
    delivery = make(dsn, make_delivery, state="sent", notification=notification)
    never_hashed = landed.json("render", str(delivery.id))
    assert never_hashed["subject"] == "Order Ä-1"
    assert never_hashed["matches"] is None
    keep_hash(dsn, delivery.id, never_hashed["content_hash"])
    assert landed.json("render", str(delivery.id))["matches"] is True
    assert landed.ok("render", str(delivery.id), "--part", "text") == "Order Ä-1 is on its way."
    assert "to the byte" in landed.ok("render", str(delivery.id))

    keep_hash(dsn, delivery.id, "00" * 32)
    assert "not what was sent" in refusal(landed.run("render", str(delivery.id)), REFUSED)
    assert "no such delivery" in refusal(landed.run("render", str(uuid4())), REFUSED)


def keep_hash(dsn: str, delivery_id: object, content_hash: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "UPDATE store.attempts SET content_hash = %s WHERE delivery_id = %s",
            (bytes.fromhex(content_hash), delivery_id),
        )


# -- doctor --------------------------------------------------------------------------------------------------


def checks(landed: Landed, **settings: str) -> dict[str, dict[str, str]]:
    done = landed.run("doctor", "--json", **settings)
    found = {check["name"]: check for check in json.loads(done.stdout)}
    failed = any(check["status"] == "fail" for check in found.values())
    assert done.returncode == (REFUSED if failed else 0)
    assert all(check["hint"] for check in found.values() if check["status"] != "ok"), "a finding without a hint"
    return found


def test_doctor_is_content_with_a_fresh_database(landed: Landed):
    found = checks(landed)
    for name in ("configuration", "database", "clock", "migrations", "partitions", "renderer", "stuck"):
        assert found[name]["status"] == "ok", found[name]
    assert found["workers"]["status"] == "warn"
    assert "20.15 s < lease = 60 s" in found["times (5)"]["detail"]


def test_doctor_names_what_is_wrong(landed: Landed, empty_dsn: str):
    assert checks(landed, LANDED_TIMES__LEASE_SECONDS="3")["configuration"]["status"] == "fail"
    assert checks(landed, LANDED_DATABASE_URL="postgresql://127.0.0.1:1/x")["database"]["status"] == "fail"
    assert checks(landed, LANDED_DATABASE_URL=empty_dsn)["migrations"]["status"] == "fail"


def test_doctor_looks_at_the_shape_of_credentials_and_never_shows_them(landed: Landed):
    account = {"adapter": "mailgun", "domain": "mg.example.com", "api_key": "hunter2", "webhook_signing_key": "0" * 32}
    real = {"LANDED_ROUTES": '{"email": ["mail"]}', "LANDED_API__PUBLIC_URL": "http://localhost:8025"}
    found = checks(landed, LANDED_PROVIDERS=json.dumps({"mail": account}), **real)
    assert found["provider mail"]["status"] == "warn"
    assert "api_key" in found["provider mail"]["detail"]
    assert "hunter2" not in json.dumps(found)
    assert found["public_url"]["status"] == "fail", "Mailgun cannot post to localhost"

    account |= {"api_key": "0123456789abcdef0123456789abcdef-01234567-89abcdef"}
    real["LANDED_API__PUBLIC_URL"] = "https://notify.example.com"
    found = checks(landed, LANDED_PROVIDERS=json.dumps({"mail": account}), **real)
    assert found["provider mail"]["status"] == found["public_url"]["status"] == "ok"
    assert "https://notify.example.com/api/v1/webhooks/mail" in found["public_url"]["detail"]

    del account["domain"]
    found = checks(landed, LANDED_PROVIDERS=json.dumps({"mail": account}), **real)
    assert found["provider mail"]["status"] == "fail"


def test_a_worker_may_serve_some_lanes_and_says_which_there_are():
    settings = Settings(routes={}, providers={})
    served = matching(lanes_of(settings), ["webhook.*", "*.alert.*"])
    assert {lane.name for lane in served} >= {"webhook.promotional.default", "in_app.alert.default"}
    assert "in_app.promotional.default" not in {lane.name for lane in served}
    with pytest.raises(ConfigurationError, match=r"--lanes smoke\.\* matches no lane; lanes are chat\.alert\.default"):
        matching(lanes_of(settings), ["webhook.*", "smoke.*"])
