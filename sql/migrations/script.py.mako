"""${message}."""

from app.migrate import run_sql_beside

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
transactional = True


def upgrade() -> None:
    run_sql_beside(__file__, transactional=transactional)
