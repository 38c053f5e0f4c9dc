"""The cast of the demo."""

from __future__ import annotations

from app.demo.scenarios import SCENARIOS, cast
from app.domain import addresses

ENDPOINTS = {scenario.name: "an-endpoint" for scenario in SCENARIOS}
RUNS = [f"{number:06x}" for number in range(0, 16**6, 16_661)]  # as they are named at random


def test_whoever_needs_a_british_number_has_one_in_every_run():
    british = [scenario.recipient for scenario in SCENARIOS if scenario.country == "GB"]
    numbers = {person["phone"] for run in RUNS for person in cast(run, ENDPOINTS) if person["id"] in british}

    assert len(numbers) == 1000
    assert {addresses.country(number) for number in numbers} == {"GB"}
