-- What waits, counted by lane and reason, and which providers keep it waiting.
--
--     psql [-v tenant=NAME] -f sql/ops/why_waiting.sql
\set ON_ERROR_STOP on
\if :{?tenant} \else \set tenant '' \endif

SELECT tenant, lane, state, coalesce(reason, 'its turn') AS waits_for, rows, overdue, first_due_at, last_due_at
FROM reporting.waiting
WHERE :'tenant' IN ('', tenant)
ORDER BY overdue DESC, rows DESC;

\echo 'Providers that are paused:'
SELECT provider, status, detail, paused_until
FROM reporting.providers
WHERE paused
ORDER BY provider;
