"""How alembic runs our migrations: one migrator at a time, one transaction, then the interfaces are rebuilt.

A revision marked ``transactional = False`` commits on its own (CREATE INDEX CONCURRENTLY, enum values). An
upgrade that contains one cannot be a single transaction, so the interfaces stand untouched while it runs,
and are swapped in the last transaction: dashboards and producers never see a moment without them.
"""

from __future__ import annotations

import os
from typing import Any

import psycopg
from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from app import migrate

# A migration that cannot get its lock must give up before the requests that queue behind it time out.
LOCK_TIMEOUT = "5s"


def database() -> str:
    dsn = context.config.attributes.get("dsn") or context.get_x_argument(as_dictionary=True).get("dsn")
    if not dsn and not (dsn := os.environ.get("LANDED_DATABASE_URL")):
        raise SystemExit("which database? set LANDED_DATABASE_URL, or pass -x dsn=...")
    return str(dsn)


def connect() -> psycopg.Connection:
    connection = psycopg.connect(database(), autocommit=True, application_name="landed migrate")
    migrate.become_only_migrator(connection)
    connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
    connection.execute("SET statement_timeout = 0")
    connection.execute("CREATE SCHEMA IF NOT EXISTS store")
    connection.autocommit = False
    return connection


def run() -> None:
    if context.is_offline_mode():
        raise SystemExit("migrations run against a database; there is no --sql mode")
    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, version_table_schema="store")
        with context.begin_transaction():
            if context.get_context().opts.get("destination_rev") == "head":
                upgrade(connection.connection.driver_connection)
            else:  # a look at the state, or a step part of the way: the interfaces fit the head only
                context.run_migrations()


def upgrade(driver: Any) -> None:
    pending = migrate.pending_revisions(driver)
    if pending and all(revision.module.transactional for revision in pending):
        migrate.drop_interfaces(driver)
    context.run_migrations()
    migrate.build_interfaces(driver, rebuild=bool(pending))


run()
