"""An attempt that got no answer and may be repeated is called unanswered, not not_sent."""

from pathlib import Path

from app.migrate import run_committed

revision = "0008"
down_revision = "0007"
transactional = False  # the rows are checked while others read and write them, which needs a transaction of its own


def upgrade() -> None:
    widened = Path(__file__).with_suffix(".sql").read_text()
    run_committed([widened, "ALTER TABLE store.attempts VALIDATE CONSTRAINT attempts_state_check"])
