from __future__ import annotations

import psycopg

from app.embedded import scratch_postgres
from app.schema_dump import _dump, _partitions, _stable


def test_the_dump_does_not_depend_on_the_day_or_the_run():
    with scratch_postgres({"fsync": "off", "shared_buffers": "16MB"}) as server:
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("CREATE TABLE events (id int PRIMARY KEY, at int) PARTITION BY RANGE (id)")
            connection.execute("CREATE INDEX events_at ON events (at)")
        before = _stable(_dump(server, without=_partitions(server.dsn())))
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("CREATE TABLE events_today PARTITION OF events FOR VALUES FROM (0) TO (9)")
        after = _stable(_dump(server, without=_partitions(server.dsn())))
    assert "CREATE INDEX events_at" in before
    assert after == before
