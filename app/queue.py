"""procrastinate: for what is periodic, occasional or long. The delivery hot path does not go through it.

A job may run twice or never: every task is idempotent, and every row it should have handled has a due time that a
later run finds.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import procrastinate


class Job(NamedTuple):
    name: str
    queue: str
    priority: int


class JobName(Enum):
    """Every job: its name, its queue, its priority. A test compares this with the registered tasks."""

    RECONCILE = Job("reconcile", "follow", 10)
    UPKEEP = Job("upkeep", "upkeep", 0)


QUEUES = sorted({job.value.queue for job in JobName})


def make_queue(dsn: str) -> procrastinate.App:
    """An App on its own small pool; its tables live in schema procrastinate.

    Maintenance need not wait for a standby, so its commits are local; a reconnect is waited for longer than a
    restart of the server takes.
    """
    connector = procrastinate.PsycopgConnector(
        conninfo=dsn,
        kwargs={
            "options": "-c search_path=procrastinate -c synchronous_commit=local -c timezone=UTC",
            "application_name": "landed jobs",
        },
        min_size=1,
        max_size=4,
        timeout=60.0,
    )
    return procrastinate.App(connector=connector)
