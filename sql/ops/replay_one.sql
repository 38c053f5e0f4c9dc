-- Gives one delivery that ended without arriving another chance. force=yes also sends what may have arrived already, as a
-- second message.
--
--     psql -v delivery=UUID [-v force=yes] [-v reason=TEXT] [-v commit=yes] -f sql/ops/replay_one.sql
\set ON_ERROR_STOP on
\if :{?commit} \else \set commit no \endif
\if :{?force} \else \set force no \endif
\if :{?reason} \else \set reason '' \endif

SELECT *
FROM landed.replay(
    delivery_id => :'delivery', force => :'force', commit => :'commit', reason => :'reason');

\if :commit
    \echo 'Done.'
\else
    \echo 'Dry run: nothing was changed. Add -v reason=TEXT -v commit=yes to do it.'
\endif
