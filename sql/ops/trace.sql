-- The whole story of one notification: why it is where it is, and everything that happened to it.
--
--     psql -v notification=UUID -f sql/ops/trace.sql
\set ON_ERROR_STOP on

\echo 'Why:'
SELECT step, rule, input, verdict, explanation
FROM landed.explain(:'notification')
ORDER BY step;

\echo 'What happened:'
SELECT occurred_at, channel, attempt_no, kind, source, data
FROM landed.timeline(:'notification');
