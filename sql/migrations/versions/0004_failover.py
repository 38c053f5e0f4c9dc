"""Failover between vendors: breakers, shares, rates, load shedding, and what each provider can prove."""

from app.migrate import run_sql_beside

revision = "0004"
down_revision = "0003"
transactional = True


def upgrade() -> None:
    run_sql_beside(__file__, transactional=transactional)
