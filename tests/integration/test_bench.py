"""`landed bench` on the channels: what stands in for the providers is taken for them, and every figure comes out."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from datetime import UTC, datetime

import httpx
import pytest

from app.bench import lines, stage
from app.domain.models import Channel, OutcomeKind
from app.providers.registry import make_provider
from app.providers.transports import open_transport
from app.settings import Endpoints
from tests.messages import CONTEXT, email_message, push_message, sms_message

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


@pytest.mark.slow
@pytest.mark.parametrize("part", ["sms", "push", "in_app"])
def test_every_figure_comes_out(part: str, empty_dsn: str):
    few = ["--rounds=1", "--messages=300", "--streams=5", "--sends=10", "--campaign=300"]
    command = [sys.executable, "-m", "app.cli", "bench", "--json", f"--server={empty_dsn}", f"--only={part}", *few]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)[part]
    assert figures["per_second"] > 0
    assert figures["ratio"] == pytest.approx(
        figures["per_second"] / figures["naive_per_second" if part == "in_app" else "obvious_per_second"]
    )
    if part == "push":
        assert figures["transport_ratio"] > 0
    if part == "in_app":
        assert figures["live_messages"] == figures["polled_messages"] == figures["campaign_messages"] == 30
        assert 0 < figures["live_stored_p50_ms"] <= figures["live_accepted_p50_ms"]
