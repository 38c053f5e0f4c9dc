-- Each branch reads one partial index.
CREATE VIEW reporting.dead_letter_depth AS
SELECT t.name AS tenant,
       depth.channel,
       depth.lane,
       sum(depth.in_retry)::bigint AS in_retry,
       sum(depth.dead)::bigint AS dead,
       min(depth.oldest_retry_at) AS oldest_retry_at,
       min(depth.oldest_dead_at) AS oldest_dead_at
FROM (
    SELECT d.tenant_id, d.channel, d.lane, count(*) AS in_retry, 0 AS dead, min(d.created_at) AS oldest_retry_at,
           NULL::timestamptz AS oldest_dead_at
    FROM store.deliveries d
    WHERE d.state = 'queued' AND d.failures > 0
    GROUP BY 1, 2, 3
    UNION ALL
    SELECT d.tenant_id, d.channel, d.lane, 0, count(*), NULL, min(d.ended_at)
    FROM store.deliveries d
    WHERE d.state = 'dead'
    GROUP BY 1, 2, 3
) AS depth
LEFT JOIN store.tenants t ON t.id = depth.tenant_id
GROUP BY 1, 2, 3;

COMMENT ON VIEW reporting.dead_letter_depth IS
    'How many deliveries are on their second try or a later one, and how many were given up, by tenant and lane';
COMMENT ON COLUMN reporting.dead_letter_depth.tenant IS 'Whose deliveries they are';
COMMENT ON COLUMN reporting.dead_letter_depth.channel IS 'email, push, sms, in_app, webhook or chat';
COMMENT ON COLUMN reporting.dead_letter_depth.lane IS 'What they queue or queued with';
COMMENT ON COLUMN reporting.dead_letter_depth.in_retry IS 'Queued, and failed at least once';
COMMENT ON COLUMN reporting.dead_letter_depth.dead IS 'Given up: what reporting.dead_letters lists';
COMMENT ON COLUMN reporting.dead_letter_depth.oldest_retry_at IS 'When the oldest of those in retry was planned';
COMMENT ON COLUMN reporting.dead_letter_depth.oldest_dead_at IS 'When the first of the dead was given up';
