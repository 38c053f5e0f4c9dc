"""Days come and go without a lock that stops anybody."""

from app.migrate import run_sql_beside

revision = "0005"
down_revision = "0004"
transactional = True


def upgrade() -> None:
    run_sql_beside(__file__, transactional=transactional)
