-- Keeps what waits of one notification waiting until a time (default: midnight). It still expires when it would have.
--
--     psql -v notification=UUID -v reason=TEXT [-v until='2026-01-31 08:00+00'] [-v commit=yes] -f sql/ops/hold.sql
\set ON_ERROR_STOP on
\if :{?commit} \else \set commit no \endif
\if :{?until} \else \set until tomorrow \endif

BEGIN;
SELECT * FROM landed.hold(:'notification', :'reason', :'until');

\if :commit
    COMMIT;
    \echo 'Done.'
\else
    ROLLBACK;
    \echo 'Dry run: nothing was changed. Add -v commit=yes to do it.'
\endif
