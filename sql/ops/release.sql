-- Lets go what a hold keeps of one notification.
--
--     psql -v notification=UUID -v reason=TEXT [-v commit=yes] -f sql/ops/release.sql
\set ON_ERROR_STOP on
\if :{?commit} \else \set commit no \endif

BEGIN;
SELECT * FROM landed.release(:'notification', :'reason');

\if :commit
    COMMIT;
    \echo 'Done.'
\else
    ROLLBACK;
    \echo 'Dry run: nothing was changed. Add -v commit=yes to do it.'
\endif
