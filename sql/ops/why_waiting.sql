-- What waits, counted by lane and reason; what the lanes lack that it waits for, and which providers are not well.
--
--     psql [-v tenant=NAME] -f sql/ops/why_waiting.sql
\set ON_ERROR_STOP on
\if :{?tenant} \else \set tenant '' \endif

SELECT tenant, lane, state, coalesce(reason, 'its turn') AS reason, waits_for, rows, overdue, first_due_at, last_due_at
FROM reporting.waiting
WHERE :'tenant' IN ('', tenant)
ORDER BY overdue DESC, rows DESC;

\echo 'Lanes in which everything waits:'
SELECT lane, waiting_for, late_by, detail
FROM reporting.lanes
WHERE waiting_for IS NOT NULL AND late_by IS NOT NULL
ORDER BY late_by DESC;

\echo 'Providers that are not well:'
SELECT provider, status, reason, detail, ready_at, share, drained_by, drain_reason
FROM reporting.providers
WHERE status <> 'ok' OR share < 1
ORDER BY provider;
