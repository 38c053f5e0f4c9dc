-- Stops everything to an address on a channel, or what one category (the scope) sends there.
--
--     psql -v tenant=NAME -v address=ADDRESS -v reason=TEXT [-v channel=email] [-v scope=all] [-v commit=yes]
--          -f sql/ops/suppress.sql
\set ON_ERROR_STOP on
\if :{?commit} \else \set commit no \endif
\if :{?channel} \else \set channel email \endif
\if :{?scope} \else \set scope all \endif

BEGIN;
SELECT landed.suppress(:'tenant', :'channel', :'address', :'reason', :'scope') AS suppression_id;

\if :commit
    COMMIT;
    \echo 'Done.'
\else
    ROLLBACK;
    \echo 'Dry run: nothing was changed. Add -v commit=yes to do it.'
\endif
