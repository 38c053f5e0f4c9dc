-- Gives all dead letters that match another chance, and counts what becomes of them, and why. The times bound when they
-- died; state may name another end, such as expired.
--
--     psql [-v tenant=NAME] [-v template=ID] [-v category=NAME] [-v provider=NAME] [-v state=dead] [-v max_rows=1000]
--          [-v since='2026-01-31 08:00+00'] [-v until=...] [-v reason=TEXT] [-v commit=yes] -f sql/ops/replay_dead_letters.sql
\set ON_ERROR_STOP on
\if :{?commit} \else \set commit no \endif
\if :{?tenant} \else \set tenant '' \endif
\if :{?template} \else \set template '' \endif
\if :{?category} \else \set category '' \endif
\if :{?provider} \else \set provider '' \endif
\if :{?state} \else \set state dead \endif
\if :{?max_rows} \else \set max_rows 1000 \endif
\if :{?since} \else \set since '' \endif
\if :{?until} \else \set until '' \endif
\if :{?reason} \else \set reason '' \endif

SELECT verdict, explanation, count(*) AS deliveries, min(delivery::text) AS for_example
FROM landed.replay(
    tenant => nullif(:'tenant', ''),
    state => :'state',
    template_id => nullif(:'template', ''),
    category => nullif(:'category', ''),
    provider => nullif(:'provider', ''),
    since => nullif(:'since', '')::timestamptz,
    until => nullif(:'until', '')::timestamptz,
    max_rows => :'max_rows',
    commit => :'commit',
    reason => :'reason')
GROUP BY verdict, explanation
ORDER BY deliveries DESC;

\if :commit
    \echo 'Done.'
\else
    \echo 'Dry run: nothing was changed. Add -v reason=TEXT -v commit=yes to do it.'
\endif
