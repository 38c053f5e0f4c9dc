-- A provider without a state is ready.
CREATE VIEW reporting.providers AS
SELECT a.provider,
       s.status,
       p.reason,
       CASE WHEN s.status IN ('ok', 'recovering') THEN '' ELSE coalesce(p.detail, '') END AS detail,
       s.status IN ('ok', 'recovering') AS ready,
       CASE WHEN s.status IN ('open', 'half_open', 'rate_limited')
            THEN greatest(p.retry_at, p.probe_until, p.paused_until) END AS ready_at,
       CASE s.status WHEN 'drained' THEN p.drained_at WHEN 'rate_limited' THEN coalesce(p.limited_at, p.since) ELSE p.since END
           AS since,
       coalesce(p.share, 1) AS share,
       r.per_second,
       r.factor,
       coalesce(p.hits, 0) AS hits,
       p.limited_at,
       p.drained_by,
       p.drain_reason,
       coalesce(o.calls, 0) AS calls,
       round(o.failures / nullif(o.calls, 0)::numeric, 4) AS error_rate
FROM (
    SELECT l.account ->> 'provider' AS provider
    FROM (SELECT jsonb_array_elements(q.providers) AS account FROM store.lanes q) AS l
    UNION
    SELECT q.provider FROM store.provider_states q
) AS a
LEFT JOIN store.provider_states p ON p.provider = a.provider
LEFT JOIN store.provider_rates r ON r.provider = a.provider
LEFT JOIN LATERAL (
    SELECT sum(q.calls) AS calls, sum(q.failures) AS failures
    FROM store.provider_outcomes q
    WHERE q.provider = a.provider AND q.at > now() - interval '1 minute'
) AS o ON true
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN p.drained_at IS NOT NULL THEN 'drained'
        WHEN p.breaker = 'open' AND p.probe_until > now() THEN 'half_open'
        WHEN p.breaker = 'open' THEN 'open'
        WHEN p.paused_until > now() THEN 'rate_limited'
        WHEN p.recovering THEN 'recovering'
        ELSE 'ok'
    END AS status
) AS s;

COMMENT ON VIEW reporting.providers IS
    'How each provider account fares: whether it is called just now, and if not, why and until when. All that are in a lane, '
    'and all that ever had something to be known';
COMMENT ON COLUMN reporting.providers.provider IS 'The provider account, that is one credential';
COMMENT ON COLUMN reporting.providers.status IS
    'ok. recovering: back, and given no more than its share. rate_limited: it said to slow down. open: its breaker is, nothing is '
    'sent to it. half_open: one delivery tries whether it is back. drained: people took it out';
COMMENT ON COLUMN reporting.providers.reason IS
    'Why its breaker is open: failing, or unauthorized (it refuses our credentials or sender domain)';
COMMENT ON COLUMN reporting.providers.detail IS 'What it last said, or how it failed; empty while it is well';
COMMENT ON COLUMN reporting.providers.ready IS 'Whether deliveries go to it: one of these in a lane is enough';
COMMENT ON COLUMN reporting.providers.ready_at IS
    'When it may be tried again; past while nothing is due that could try. NULL when it is ready, or drained';
COMMENT ON COLUMN reporting.providers.since IS 'Since when it has this status; NULL for one that no worker has read yet';
COMMENT ON COLUMN reporting.providers.share IS
    'Of its weight, 0 to 1: lowered while it is slow or fails, raised again in steps';
COMMENT ON COLUMN reporting.providers.per_second IS 'The rate it is configured for; NULL when it has none';
COMMENT ON COLUMN reporting.providers.factor IS 'Of that rate, 0 to 1: lowered by each limit it reports, raised again in steps';
COMMENT ON COLUMN reporting.providers.hits IS 'How many calls it ever answered with a limit';
COMMENT ON COLUMN reporting.providers.limited_at IS 'When it last did';
COMMENT ON COLUMN reporting.providers.drained_by IS 'Who took it out; NULL when it is not drained';
COMMENT ON COLUMN reporting.providers.drain_reason IS 'Why they did';
COMMENT ON COLUMN reporting.providers.calls IS 'Calls that ended in the last minute';
COMMENT ON COLUMN reporting.providers.error_rate IS
    'Of these, the part that speaks against the provider, 0 to 1: transient errors, no answer, an unknown outcome';
