-- Lets an address be sent to again. A provider keeps a list of its own: take the address off that one as well.
--
--     psql -v tenant=NAME -v address=ADDRESS -v reason=TEXT [-v channel=email] [-v scope=all] [-v commit=yes]
--          -f sql/ops/unsuppress.sql
\set ON_ERROR_STOP on
\if :{?commit} \else \set commit no \endif
\if :{?channel} \else \set channel email \endif
\if :{?scope} \else \set scope all \endif

BEGIN;
SELECT landed.unsuppress(:'tenant', :'channel', :'address', :'reason', :'scope') AS lifted;

\if :commit
    COMMIT;
    \echo 'Done.'
\else
    ROLLBACK;
    \echo 'Dry run: nothing was changed. Add -v commit=yes to do it.'
\endif
