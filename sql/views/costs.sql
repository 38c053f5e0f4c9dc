-- The bound on the id leaves all partitions alone but those of the last week.
CREATE VIEW reporting.costs AS
SELECT t.name AS tenant,
       c.day,
       c.channel,
       c.messages,
       c.units,
       p.usd_per_message AS usd_per_unit,
       c.units * p.usd_per_message AS usd
FROM (
    SELECT d.tenant_id,
           (d.sent_at AT TIME ZONE 'UTC')::date AS day,
           d.channel,
           count(*) AS messages,
           sum(coalesce((a.facts ->> 'segments')::int, 1)) AS units
    FROM store.deliveries d
    JOIN store.attempts a ON a.shard = d.shard AND a.delivery_id = d.id AND a.state IN ('accepted', 'duplicate')
    WHERE d.id >= store.id_floor(now() - interval '7 days')
      AND a.delivery_id >= store.id_floor(now() - interval '7 days')
      AND d.sent_at IS NOT NULL
    GROUP BY 1, 2, 3
) AS c
LEFT JOIN store.channel_costs p ON p.channel = c.channel
LEFT JOIN store.tenants t ON t.id = c.tenant_id;

COMMENT ON VIEW reporting.costs IS
    'What the messages of the last 7 days cost, by tenant, day and channel, at the prices in store.channel_costs';
COMMENT ON COLUMN reporting.costs.tenant IS 'Whose messages they are';
COMMENT ON COLUMN reporting.costs.day IS 'The day (UTC) on which the provider took them';
COMMENT ON COLUMN reporting.costs.channel IS 'email, push, sms, in_app, webhook or chat';
COMMENT ON COLUMN reporting.costs.messages IS 'Messages that a provider took';
COMMENT ON COLUMN reporting.costs.units IS 'What is paid for: segments of a text message, else messages';
COMMENT ON COLUMN reporting.costs.usd_per_unit IS 'The price of one unit in US dollars; landed.price sets it';
COMMENT ON COLUMN reporting.costs.usd IS 'units * usd_per_unit';
