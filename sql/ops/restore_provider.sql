-- Gives a drained provider account back, a tenth of its weight first; one whose breaker is open is tried at once.
--
--     psql -v provider=NAME -v reason=TEXT [-v commit=yes] -f sql/ops/restore_provider.sql
\set ON_ERROR_STOP on
\if :{?commit} \else \set commit no \endif

BEGIN;
SELECT landed.restore_provider(:'provider', :'reason') AS restored;

SELECT provider, status, reason, detail, ready_at, share
FROM reporting.providers
WHERE provider = :'provider';

\if :commit
    COMMIT;
    \echo 'Done.'
\else
    ROLLBACK;
    \echo 'Dry run: nothing was changed. Add -v commit=yes to do it.'
\endif
