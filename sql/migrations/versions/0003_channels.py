"""Every channel: devices, the inbox, endpoints, consents, and what the tables of 0002 need for them."""

from app.migrate import run_sql_beside

revision = "0003"
down_revision = "0002"
transactional = True


def upgrade() -> None:
    run_sql_beside(__file__, transactional=transactional)
