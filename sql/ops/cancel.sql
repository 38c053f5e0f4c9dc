-- Cancels what has not been sent of one notification, and says what cannot be called back.
--
--     psql -v notification=UUID -v reason=TEXT [-v commit=yes] -f sql/ops/cancel.sql
\set ON_ERROR_STOP on
\if :{?commit} \else \set commit no \endif

BEGIN;
SELECT * FROM landed.cancel(:'notification', :'reason');

\if :commit
    COMMIT;
    \echo 'Done.'
\else
    ROLLBACK;
    \echo 'Dry run: nothing was changed. Add -v commit=yes to do it.'
\endif
