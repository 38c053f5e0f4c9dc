-- Takes a provider account out: it gets no new calls, and what is under way ends. Shows which lanes then have no other.
--
--     psql -v provider=NAME -v reason=TEXT [-v commit=yes] -f sql/ops/drain_provider.sql
\set ON_ERROR_STOP on
\if :{?commit} \else \set commit no \endif

BEGIN;
SELECT landed.drain_provider(:'provider', :'reason') AS drained;

\echo 'Lanes that wait for a provider then:'
SELECT lane, oldest_due_at, late_by, detail
FROM reporting.lanes
WHERE waiting_for = 'no_provider'
ORDER BY lane;

\if :commit
    COMMIT;
    \echo 'Done.'
\else
    ROLLBACK;
    \echo 'Dry run: nothing was changed. Add -v commit=yes to do it.'
\endif
