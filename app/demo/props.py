"""What the scenarios need before they can be sent: people, their devices, and the endpoints of merchants and rooms."""

from __future__ import annotations

from typing import Any

import httpx

from app.commands.client import Client
from app.demo.scenarios import SCENARIOS, Scenario, cast, token

ENDPOINT_PREFIX = "demo "


def set_out(client: Client, sandbox_url: str, run: str) -> None:
    """Makes all of it for one run; the endpoints of the runs before are taken away."""
    for endpoint in client.pages("/api/v1/endpoints"):
        if endpoint["name"].startswith(ENDPOINT_PREFIX):
            client.delete(f"/api/v1/endpoints/{endpoint['id']}")
    with httpx.Client(base_url=sandbox_url, trust_env=False, timeout=10) as sandbox:
        endpoints = {
            scenario.name: _endpoint(client, sandbox, scenario, run)
            for scenario in SCENARIOS
            if scenario.channel in ("webhook", "chat")
        }
        client.post("/api/v1/recipients", {"items": cast(run, endpoints)})
        for scenario in SCENARIOS:
            if scenario.platform:
                client.post("/api/v1/devices/register", _device(sandbox, scenario, run))


def _endpoint(client: Client, sandbox: httpx.Client, scenario: Scenario, run: str) -> str:
    """Registered with us by its URL, and at the merchant's with the secret that we answer."""
    body: dict[str, Any] = {"name": f"{ENDPOINT_PREFIX}{scenario.name}"}
    if scenario.channel == "chat":
        url = f"{_base(sandbox)}/slack/services/T1/B1/{scenario.script}-{run}"
        made = client.post("/api/v1/endpoints", {**body, "url": url, "format": "slack"})
    else:
        name = f"{run}-{scenario.name}"
        made = client.post("/api/v1/endpoints", {**body, "url": f"{_base(sandbox)}/merchant/{scenario.script}/{name}"})
        sandbox.put(f"/sandbox/merchant/{name}", json={"secret": made["secret"]}).raise_for_status()
    return str(made["id"])


def _base(sandbox: httpx.Client) -> str:
    return str(sandbox.base_url).rstrip("/")


def _device(sandbox: httpx.Client, scenario: Scenario, run: str) -> dict[str, Any]:
    device: dict[str, Any] = {"user_id": scenario.recipient, "platform": scenario.platform, "device_key": "demo"}
    if scenario.platform != "web":
        return {**device, "device_token": token(scenario, run)}
    asked = sandbox.get("/sandbox/push/subscription", params={"script": scenario.script or "ok"})
    return {**device, "subscription": asked.raise_for_status().json()}
