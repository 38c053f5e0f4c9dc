"""Good clients: each sends at a steady pace, and repeats a request with its key until it has an answer."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import httpx

from tests.sandbox_process import wait_until
from tests.system import PATIENCE_SECONDS, System

CLIENTS = 8
PACE_SECONDS = 0.05
AGAIN_SECONDS = 0.1
RECIPIENTS = 40
PHONES = 20


class Load:
    """Used as ``with``; at its end every request that was begun has been answered.

    accepted: what each key was answered with 202, every time it was. wrong: answers that no client should get.
    """

    def __init__(
        self, system: System, *, seed: int, addresses: Sequence[str] = (), categories: Sequence[str] = ("orders",)
    ) -> None:
        self._system = system
        self._seed = seed
        self._people = [(system.recipient(f"person-{n}@example.com"), "email") for n in range(RECIPIENTS)]
        self._people += [(system.reachable(phone=f"+1{n}5550101"), "sms") for n in range(201, 201 + PHONES)]
        self._people += [(system.recipient(address), "email") for address in addresses]
        self._categories = categories
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client, args=(n,)) for n in range(CLIENTS)]
        self.accepted: dict[str, set[UUID]] = defaultdict(set)
        self.answers: Counter[int | str] = Counter()
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)

    def more(self, count: int) -> None:
        """Waits until so many more have been accepted: the service lives, and there is something to break."""
        before = len(self.accepted)
        wait_until(lambda: len(self.accepted) >= before + count, seconds=PATIENCE_SECONDS, what=f"{count} more 202s")

    # -- one client ------------------------------------------------------------------------------------------

    def _client(self, number: int) -> None:
        chance = random.Random(self._seed * 100 + number)
        with httpx.Client(headers=self._system.client.headers, timeout=15) as http:
            while not self._over.is_set():
                key, person, category = str(uuid4()), chance.choice(self._people), chance.choice(self._categories)
                self._until_accepted(http, key, *person, category)
                if chance.random() < 0.1:  # its answer was lost on the way: the same once more
                    self._until_accepted(http, key, *person, category)
                self._over.wait(PACE_SECONDS)

    def _until_accepted(self, http: httpx.Client, key: str, recipient: str, channel: str, category: str) -> None:
        for _ in range(int(PATIENCE_SECONDS / AGAIN_SECONDS)):
            if self._once(http, key, recipient, channel, category):
                return
            threading.Event().wait(AGAIN_SECONDS)
        self._note(wrong=f"{key} was never accepted")

    def _once(self, http: httpx.Client, key: str, recipient: str, channel: str, category: str) -> bool:
        """Whether it was answered for good."""
        body = {
            "recipient_id": recipient,
            "channels": [channel],
            "category": category,
            "template_id": "order",
            "variables": {"order_id": key},
        }
        try:
            url = f"{self._system.url}/api/v1/notifications/send"
            answer = http.post(url, json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            self._note("no answer")
            return False
        self._note(answer.status_code)
        match answer.status_code:
            case 202:
                with self._lock:
                    self.accepted[key].add(UUID(answer.json()["id"]))
                return True
            case 409 | 503 if answer.headers.get("retry-after"):
                return False
            case status:
                self._note(wrong=f"{status} {answer.text}")
                return True

    def _note(self, answer: int | str | None = None, *, wrong: str | None = None) -> None:
        with self._lock:
            if answer is not None:
                self.answers[answer] += 1
            if wrong is not None:
                self.wrong.append(wrong)

    def also(self, notification: UUID) -> None:
        """Counts a message sent beside the load."""
        with self._lock:
            self.accepted[str(notification)].add(notification)

    @property
    def ids(self) -> set[UUID]:
        return {id_ for ids in self.accepted.values() for id_ in ids}

    def __str__(self) -> str:
        answers: dict[Any, int] = dict(self.answers)
        return f"seed {self._seed}: {len(self.accepted)} accepted, answers {answers}"
