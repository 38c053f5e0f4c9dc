-- What is overdue by more than its grace, and what should have happened to it. Must print no rows.
--
--     psql -f sql/ops/stuck.sql
\set ON_ERROR_STOP on

SELECT what, state, count(*) AS rows, min(due_at) AS since, max(overdue_for) AS longest, missing
FROM reporting.stuck
GROUP BY what, state, missing
ORDER BY longest DESC;

SELECT what, state, tenant, notification_id, delivery_id, lane, reason, overdue_for
FROM reporting.stuck
ORDER BY due_at
LIMIT 20;

\echo 'Who is there to do it:'
SELECT host, pid, alive, silent_for, lanes
FROM reporting.workers
WHERE stopped_at IS NULL
ORDER BY host, pid;
