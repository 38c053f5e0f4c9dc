"""A worker with the mistake that everybody makes once: what timed out is sent again, unasked.

The chaos tests must be able to fail: this is what they have to catch.
"""

from __future__ import annotations

from typing import Any

from app.flows import reconcile
from app.settings import load_settings
from jobs.worker import serve


def _send_again(item: Any, lookup: Any, settings: Any, now: Any, age: Any) -> Any:
    return reconcile._retry(item, settings, now, "surely it was not sent")


async def _believe_nobody(db: Any, item: Any, lookup: Any, settings: Any, now: Any) -> int:
    return 0


if __name__ == "__main__":
    reconcile._decide_ambiguous = _send_again
    reconcile._store_evidence = _believe_nobody
    configured = load_settings()
    assert configured.database_url is not None
    serve(configured, configured.database_url.get_secret_value())
