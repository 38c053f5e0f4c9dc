CREATE VIEW reporting.rate_limit_hits AS
SELECT c.name AS provider,
       date_trunc('hour', c.at) AS hour,
       sum(coalesce((c.data ->> 'hits')::bigint, 1))::bigint AS hits,
       max(c.at) AS last_at
FROM store.control_events c
WHERE c.subject = 'provider'
  AND c.event = 'limited'
GROUP BY 1, 2;

COMMENT ON VIEW reporting.rate_limit_hits IS
    'Limits that provider accounts reported, by hour. What API keys asked beyond their own rate is answered 429 and counted nowhere';
COMMENT ON COLUMN reporting.rate_limit_hits.provider IS 'The provider account that said to slow down';
COMMENT ON COLUMN reporting.rate_limit_hits.hour IS 'The beginning of the hour';
COMMENT ON COLUMN reporting.rate_limit_hits.hits IS 'Calls it answered with a limit';
COMMENT ON COLUMN reporting.rate_limit_hits.last_at IS 'When it last did so in that hour';
