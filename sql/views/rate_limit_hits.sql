CREATE VIEW reporting.rate_limit_hits AS
SELECT 'provider' AS level,
       c.name,
       NULL AS tenant,
       date_trunc('hour', c.at) AS hour,
       sum(coalesce((c.data ->> 'hits')::bigint, 1))::bigint AS hits,
       max(c.at) AS last_at
FROM store.control_events c
WHERE c.subject = 'provider'
  AND c.event = 'limited'
GROUP BY c.name, date_trunc('hour', c.at)
UNION ALL
SELECT 'api_key', k.prefix, t.name, l.hour, l.hits, l.last_at
FROM store.api_key_limits l
JOIN store.api_keys k ON k.id = l.key_id
JOIN store.tenants t ON t.id = k.tenant_id
UNION ALL
SELECT l.level, l.name, t.name, l.hour, l.hits, l.last_at
FROM store.limit_hits l
JOIN store.tenants t ON t.id = l.tenant_id;

COMMENT ON VIEW reporting.rate_limit_hits IS
    'Limits that were reached, by hour: those that provider accounts reported, those of our own on API keys, answered 429, and those '
    'on recipients and templates, whose messages wait. The last second or so of an API key that went silent may be missing';
COMMENT ON COLUMN reporting.rate_limit_hits.level IS 'provider, api_key, recipient or template: whose limit it is';
COMMENT ON COLUMN reporting.rate_limit_hits.name IS
    'The provider account that said to slow down, the prefix of the key that was told to, the channel of the recipients, or the template';
COMMENT ON COLUMN reporting.rate_limit_hits.tenant IS 'Whose key, recipients or template it is; NULL for a provider';
COMMENT ON COLUMN reporting.rate_limit_hits.hour IS 'The beginning of the hour';
COMMENT ON COLUMN reporting.rate_limit_hits.hits IS 'Calls or requests that were refused, or messages that were put off';
COMMENT ON COLUMN reporting.rate_limit_hits.last_at IS 'When that last happened in that hour';
