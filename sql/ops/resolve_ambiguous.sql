-- Settles a delivery whose outcome nothing could tell, after a look at the provider. Without a delivery, lists them.
--
--     psql -f sql/ops/resolve_ambiguous.sql
--     psql -v delivery=UUID -v verdict=sent|not_sent -v reason=TEXT [-v commit=yes] -f sql/ops/resolve_ambiguous.sql
\set ON_ERROR_STOP on
\if :{?commit} \else \set commit no \endif

\if :{?delivery}
    BEGIN;
    SELECT landed.resolve(:'delivery', :'verdict', :'reason') AS new_state;
    \if :commit
        COMMIT;
        \echo 'Done.'
    \else
        ROLLBACK;
        \echo 'Dry run: nothing was changed. Add -v commit=yes to do it.'
    \endif
\else
    SELECT d.delivery_id, d.tenant, d.provider, d.provider_message_id, d.reason, a.opened_at, d.due_at AS asked_again_at
    FROM reporting.deliveries d
    LEFT JOIN reporting.attempts a ON a.delivery_id = d.delivery_id AND a.attempt_no = d.attempts
    WHERE d.state = 'ambiguous'
    ORDER BY a.opened_at;
\endif
