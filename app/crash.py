"""Crash points: where the chaos tests end a process, as a power cut would, between two steps of the send path.

``LANDED_CRASH_AT=after_claim_commit:3`` ends the process the third time it reaches that step. Unset, this is one
comparison. The steps are enumerated so that a test can visit every one (RELIABILITY, G).
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Final


class Step(StrEnum):
    BEFORE_CLAIM_COMMIT = "before_claim_commit"
    AFTER_CLAIM_COMMIT = "after_claim_commit"
    BEFORE_RECORD = "before_record"
    AFTER_RECORD = "after_record"
    BEFORE_ACCEPT_COMMIT = "before_accept_commit"
    AFTER_ACCEPT_COMMIT = "after_accept_commit"
    AFTER_WEBHOOK_STORED = "after_webhook_stored"


_step, _, _count = os.environ.get("LANDED_CRASH_AT", "").partition(":")
CRASH_AT: Final = Step(_step) if _step else None
_visits_left = int(_count or 1)


def crash_point(step: Step) -> None:
    """Ends the process here if the environment asked for it: no clean-up, no goodbye."""
    global _visits_left
    if CRASH_AT is not step:
        return
    _visits_left -= 1
    if _visits_left <= 0:
        os._exit(137)
