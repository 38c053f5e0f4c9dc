"""A worker with the mistake that failover invites: one vendor gave no answer, so another is asked at once.

The chaos tests must be able to fail: this is what they have to catch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from app.domain.models import Outcome, OutcomeKind
from app.flows.line import Line
from app.settings import load_settings
from jobs.worker import serve


def _surely_not_sent(line: Line, outcome: Outcome, provider: Any) -> Outcome:
    return replace(outcome, kind=OutcomeKind.TRANSIENT) if outcome.kind == OutcomeKind.UNKNOWN else outcome


if __name__ == "__main__":
    Line._safe_to_repeat = _surely_not_sent  # type: ignore[method-assign]
    configured = load_settings()
    assert configured.database_url is not None
    serve(configured, configured.database_url.get_secret_value())
