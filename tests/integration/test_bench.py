"""`landed bench` on the channels: what stands in for the providers is taken for them, and every figure comes out."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.bench import backlog, lines, rates, stage
from app.domain.models import Channel, OutcomeKind
from app.providers.registry import make_provider
from app.providers.transports import open_transport
from app.settings import Endpoints
from tests.messages import CONTEXT, email_message, push_message, sms_message

PATIENCE_SECONDS = 240

MESSAGES = {
    Channel.EMAIL: email_message,
    Channel.SMS: lambda: sms_message(to="+4915112345678"),
    Channel.PUSH: lambda: push_message(),
}


@pytest.mark.parametrize("line", lines.LINES.values(), ids=lambda line: line.channel)
async def test_an_adapter_takes_the_sink_for_its_provider(line: type[lines.Line]):
    async with line.far_side() as far:
        provider = make_provider(line.channel, line(far).account())
        kind = provider.capabilities.transport
        async with open_transport(kind, connections_max=2, endpoints=Endpoints()) as transport:
            request = provider.build(MESSAGES[provider.capabilities.channel](), CONTEXT)
            deadline = asyncio.get_running_loop().time() + 30
            answers = await asyncio.gather(*(transport.send(request, deadline) for _ in range(5)))
        outcomes = [provider.interpret(answer, datetime.now(UTC)) for answer in answers]
        assert {outcome.kind for outcome in outcomes} == {OutcomeKind.ACCEPTED}
        assert all(outcome.provider_message_id for outcome in outcomes)
        assert await counted(far) == 5


@pytest.mark.parametrize("line", lines.LINES.values(), ids=lambda line: line.channel)
async def test_the_obvious_design_sends_to_the_same_sink(line: type[lines.Line]):
    async with line.far_side() as far:
        sends = line(far)
        async with sends.client() as client:
            answers = await asyncio.gather(*(sends.send(client, n) for n in range(5)))
        assert all(answer.is_success for answer in answers)
        assert await counted(far) == 5


async def test_the_push_gateway_speaks_http2_to_another_client_and_lets_it_send_megabytes():
    async with stage.http2() as far:
        trust = ssl.create_default_context(cafile=far.trust)
        async with httpx.AsyncClient(http2=True, verify=trust, base_url=far.origin) as client:
            answers = [await client.post("/3/device/ab", content=bytes(60_000)) for _ in range(40)]
        assert {answer.http_version for answer in answers} == {"HTTP/2"}
        assert len({answer.headers["apns-id"] for answer in answers}) == 40


async def counted(far: stage.FarSide) -> int:
    async with httpx.AsyncClient() as client:
        return int((await client.get(far.count_url)).json()["accepted"])


async def test_a_vendor_has_moods():
    async with stage.vendor() as vendor, httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:

        async def call(**patience: float) -> int:
            url = f"http://{stage.HOST}:{vendor.port}/v3/sandbox.landed.test/messages"
            return (await client.post(url, data={"v:landed_delivery": str(UUID(int=7))}, **patience)).status_code

        assert await call() == 200
        await vendor.becomes("failing")
        assert await call() == 503
        await vendor.becomes("hanging")
        with pytest.raises(httpx.ReadTimeout):
            await call(timeout=0.5)
        await vendor.becomes("dead")
        with pytest.raises(httpx.TransportError):
            await call()
        await vendor.becomes("well")
        assert await call() == 200
        calls = await vendor.calls()
    assert [c.accepted for c in calls] == [True, False, False, True]
    assert {c.delivery for c in calls} == {str(UUID(int=7))}
    assert [c.at for c in calls] == sorted(c.at for c in calls)


def measured(part: str, server_dsn: str) -> dict[str, Any]:
    few = ["--rounds=1", "--messages=300", "--streams=5", "--sends=10", "--campaign=300"]
    few += ["--backlog=2000", "--seconds=4", "--cool-offs=2", "--down=3"]
    command = [sys.executable, "-m", "app.cli", "bench", "--json", f"--server={server_dsn}", f"--only={part}", *few]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)[part]
    return figures


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_SECONDS + 10)
@pytest.mark.parametrize("part", ["sms", "push", "in_app"])
def test_every_figure_comes_out(part: str, empty_dsn: str):
    figures = measured(part, empty_dsn)
    assert figures["per_second"] > 0
    assert figures["ratio"] == pytest.approx(
        figures["per_second"] / figures["naive_per_second" if part == "in_app" else "obvious_per_second"]
    )
    if part == "push":
        assert figures["transport_ratio"] > 0
    if part == "in_app":
        assert figures["live_messages"] == figures["polled_messages"] == figures["campaign_messages"] == 30
        assert 0 < figures["live_stored_p50_ms"] <= figures["live_accepted_p50_ms"]


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_SECONDS + 10)
def test_lanes_are_measured_beside_vendors_that_are_ill_indeed(empty_dsn: str):
    figures = measured("bulkhead", empty_dsn)
    assert figures["sends"] == 20
    assert figures["hung_calls"] > 0
    assert figures["failed_calls"] > 0
    for phase in ("quiet", "busy", "ill", "unbroken"):
        assert 0 < figures[f"{phase}_p50_ms"] <= figures[f"{phase}_p99_ms"]
    assert figures["ill_p99_of_quiet"] == pytest.approx(figures["ill_p99_ms"] / figures["quiet_p99_ms"])


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_SECONDS + 10)
def test_a_claim_beside_a_backlog_goes_by_index_and_reads_little(empty_dsn: str):
    figures = measured("backlog", empty_dsn)
    assert (figures["due_beside"], figures["scheduled"], figures["claims"]) == (2000, 2000, 30)
    assert figures["by_index"]
    assert 0 < figures["lock_due_buffers"] <= backlog.BUFFERS_MAX
    assert 0 < figures["alone_p50_ms"] <= figures["alone_p99_ms"]
    assert figures["p50_ratio"] == pytest.approx(figures["beside_p50_ms"] / figures["alone_p50_ms"])


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_SECONDS + 10)
def test_no_stretch_of_time_sees_more_calls_than_a_rate_allows_all_workers_together(empty_dsn: str):
    figures = measured("rates", empty_dsn)
    assert 0 < figures["most_in_1_s"] <= figures["allowed_in_1_s"] == 2 * figures["rate_per_second"]
    assert figures["worst_of_allowance"] <= 1
    assert figures["unshared_of_rate"] > 0


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_SECONDS + 10)
def test_a_provider_that_is_down_bears_one_call_a_cool_off_of_all_workers_together(empty_dsn: str):
    figures = measured("prober", empty_dsn)
    assert (figures["workers"], figures["cool_offs"], figures["calls_before"]) == (8, 2, 0)
    assert figures["calls_least"] == figures["calls_most"] == 1
    assert figures["unshared_calls"] > 1
    assert figures["met"]


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_SECONDS + 10)
def test_nothing_is_lost_or_sent_twice_while_a_vendor_is_down(empty_dsn: str):
    figures = measured("failover", empty_dsn)
    for mood in ("dead", "failing"):
        assert figures[f"{mood}_messages"] > 0
        assert figures[f"{mood}_lost"] == figures[f"{mood}_sent_twice"] == 0
        assert figures[f"{mood}_opened_after_seconds"] > 0
        assert figures[f"{mood}_full_share_after_seconds"] > 0
        assert 0 < figures[f"{mood}_down_p50_ms"] <= figures[f"{mood}_down_p99_ms"]
    assert figures["dead_failed_over"] > 0
    assert figures["failing_in_doubt"] > 0


def test_the_fullest_stretch_is_found_wherever_it_begins():
    times = [0.0, 0.9, 1.0, 1.1, 1.2, 3.0]
    assert rates.fullest(times, 1.0, rate=2) == rates.Window(1.0, 4, 4.0)
